"""Building the tables: anew, and onwards by one more run; and their digests with 1, 2 and 8 threads.

    python -m benchmarks.tables [--runs N]

A ledger of N runs (5 arms x 4 seeds an experiment, two events a run) is written in commits of 1,000
events, in memory where there is a tmpfs. CPU is that of this process, all threads.
"""

from __future__ import annotations

import argparse
import os
import random
import tempfile
import time
import types
import typing
from collections.abc import Callable
from typing import Any

import msgspec

from benchmarks import machine
from ledger import events
from ledger.chain import Log
from ledger.writer import Draft
from projections.engine import tables

ARMS, SEEDS = ("control", "a", "b", "c", "d"), (0, 1, 2, 3)


def blank(kind: Any, **given: Any) -> Any:
    """A struct of this kind with the emptiest value in every field that is not given."""
    hints = typing.get_type_hints(kind)
    return kind(**{name: given.get(name, _empty(hints[name])) for name in kind.__struct_fields__})


def _empty(hint: Any) -> Any:
    if isinstance(hint, type) and issubclass(hint, msgspec.Struct):
        return blank(hint)
    if typing.get_origin(hint) is typing.Literal:
        return typing.get_args(hint)[0]
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return None
    return () if typing.get_origin(hint) is tuple else hint()


def one_run(experiment: str, arm: str, seed: int, value: float) -> list[Draft]:
    run = f"{experiment}-{arm}-{seed}"
    start = blank(events.RunStarted, run=run, experiment=experiment, arm=arm, seed=seed, seed_role="confirm")
    end = blank(
        events.RunFinished, run=run, status="ok", metric="val_bpb", value=value, ended_at="2026-01-01T00:00:00Z"
    )
    return [Draft(f"run/{run}", start), Draft(f"run/{run}", end)]


def history(runs: int) -> list[Draft]:
    """Registrations and runs of as many experiments as it takes."""
    rng = random.Random(0)
    drafts: list[Draft] = []
    for number in range(max(1, runs // (len(ARMS) * len(SEEDS)))):
        name = f"e{number}"
        plan = blank(
            events.ExperimentRegistered,
            experiment=name,
            name=name,
            metric="val_bpb",
            delta=0.002,
            alpha=0.05,
            seeds=SEEDS,
            seed_role="confirm",
            control=ARMS[0],
            arms=tuple(blank(events.Arm, name=arm) for arm in ARMS),
            hypotheses=tuple(blank(events.Hypothesis, arm=arm) for arm in ARMS[1:]),
        )
        drafts.append(Draft(f"experiment/{name}", plan))
        for arm in ARMS:
            for seed in SEEDS:
                drafts += one_run(name, arm, seed, rng.gauss(1.2, 0.001))
    return drafts


def timed(action: Callable[[], object]) -> str:
    wall, cpu = time.perf_counter(), time.process_time()
    action()
    return f"{time.process_time() - cpu:6.2f} s CPU  {time.perf_counter() - wall:6.2f} s wall"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=10_000)
    runs = parser.parse_args().runs
    memory = "/dev/shm" if os.path.isdir("/dev/shm") else None
    with tempfile.TemporaryDirectory(dir=memory) as folder:
        log = Log.create(os.path.join(folder, "ledger"))
        drafts = history(runs)
        for start in range(0, len(drafts), 1000):
            log.writer.append(drafts[start : start + 1000])
        print(machine.line(machine.describe("experiment-ledger", "duckdb", "pyarrow")))
        print(f"{runs} runs, {len(drafts)} events")
        print(f"anew              {timed(lambda: tables(log, fresh=True))}")
        log.writer.append(one_run("e0", "control", 9, 1.2))
        print(f"one more run      {timed(lambda: tables(log))}")
        print(f"nothing new       {timed(lambda: tables(log))}")
        digests = [tables(log, fresh=True, threads=threads).digests() for threads in (1, 2, 8)]
        same = digests[0] == digests[1] == digests[2]
        print(f"digests with 1, 2 and 8 threads are {'equal' if same else 'NOT EQUAL'}")


if __name__ == "__main__":
    main()

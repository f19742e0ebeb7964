"""Every effect and every decision of a large ledger: all of them, and after one more run.

    python -m benchmarks.verdicts [--plans N]

Plans of 7 changes and a control with 8 seeds each, five on one base, so that each has the controls of four more;
one noise class for all, no change in two plans, and a training loss that every run tells beside its score. CPU is
that of this process, all threads; one DuckDB thread. The default of 1,250 plans is 10,000 arms of 8 seeds. Exit
code 1 when all take 5 s of CPU or more, or one more run .5 s or more.
"""

from __future__ import annotations

import argparse
import os
import random
import sys
import tempfile
import time
from collections.abc import Callable, Iterator

from benchmarks import machine
from benchmarks.tables import blank
from ledger import events
from ledger.chain import Log
from ledger.writer import Draft
from projections.decide import decide_all
from projections.engine import Tables, tables
from projections.evidence import gather
from projections.judged import judged

ARMS = ("control", *(f"change{number}" for number in range(7)))
SEEDS = tuple(range(8))
ON_ONE_BASE = 5
LATE = (("e00003", ARMS[1], 24), ("e00003", ARMS[2], 25), ("e00003", ARMS[0], 26))  # what comes after all else
NOISE = events.NoiseClass("8xH100", "gpt-124M", "val_bpb", "train")


def one_run(experiment: str, base: str, arm: str, seed: int, value: float) -> list[Draft]:
    """Start and outcome of one seed of one arm."""
    run = f"{experiment}-{arm}-{seed}"
    start = blank(
        events.RunStarted, run=run, experiment=experiment, arm=arm, seed=seed, seed_role="confirm", base=base,
        cell=f"{base}-{arm if arm == ARMS[0] else experiment + arm}-{seed}", noise_class=NOISE, pair_tier="seed",
        stage="train",
    )  # fmt: skip
    loss = 3.1 * value + random.Random(run).gauss(0, 0.002)
    end = blank(
        events.RunFinished, run=run, status="ok", metric="val_bpb", value=value, wall_s=600.0,
        finals=(events.FinalMetric("train_loss", loss, 1000),), ended_at="2026-01-01T00:00:00Z",
    )  # fmt: skip
    return [Draft(f"run/{run}", start), Draft(f"run/{run}", end)]


def arm(experiment: str, name: str) -> events.Arm:
    """An arm whose settings no other plan has; the control has none."""
    return blank(events.Arm, name=name, args=() if name == ARMS[0] else (f"--{experiment}={name}",))


def history(plans: int) -> Iterator[list[Draft]]:
    """Registration and runs of one plan after another."""
    rng = random.Random(0)
    for number in range(plans):
        name, base = f"e{number:05}", f"base{number // ON_ONE_BASE}"
        seeds = tuple(8 * (number % ON_ONE_BASE) + seed for seed in SEEDS)
        plan = blank(
            events.ExperimentRegistered, experiment=name, name=name, family=name, metric="val_bpb", delta=0.002,
            alpha=0.05, seeds=seeds, seed_role="confirm", control=ARMS[0], base=base, pair_tier="seed",
            noise_class=NOISE, stopping="fixed", policy="ledger/1",
            arms=tuple(arm(name, one) for one in ARMS),
            hypotheses=tuple(blank(events.Hypothesis, arm=one) for one in ARMS[1:]),
        )  # fmt: skip
        drafts = [Draft(f"experiment/{name}", plan)]
        for one in ARMS:
            shift = 0.0 if one == ARMS[0] else rng.choice([0.0, 0.0, 0.001, -0.002, -0.005])
            for seed in seeds:
                if (name, one, seed) in LATE:
                    continue
                drafts += one_run(name, base, one, seed, 1.08 + shift + rng.gauss(0, 0.0007))
        yield drafts


def cpu(action: Callable[[], object]) -> float:
    """Seconds of CPU."""
    before = time.process_time()
    action()
    return time.process_time() - before


def everything(built: Tables) -> tuple[float, float]:
    """CPU seconds of all effects, and of all decisions, from tables that are there."""
    names = [row["experiment"] for row in built.rows("SELECT experiment FROM experiments ORDER BY experiment")]
    return (
        cpu(lambda: judged(built.rows, gather(built.rows))),
        cpu(lambda: decide_all(built, names)),
    )


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--plans", type=int, default=1250)
    plans = parser.parse_args().plans
    memory = "/dev/shm" if os.path.isdir("/dev/shm") else None
    with tempfile.TemporaryDirectory(dir=memory) as folder:
        log = Log.create(os.path.join(folder, "ledger"))
        for drafts in history(plans):
            log.writer.append(drafts)
        print(machine.line(machine.describe("experiment-ledger", "duckdb", "scipy")))
        print(f"{plans} plans, {plans * len(ARMS)} arms of {len(SEEDS)} seeds, {log.head().position} events")
        anew = cpu(lambda: tables(log, fresh=True, threads=1))
        built = tables(log)
        effects, decisions = everything(built)
        print(f"all tables anew                  {anew:6.2f} s of CPU")
        print(f"  of it every effect             {effects:6.2f}")
        print(f"every decision                   {decisions:6.2f}")
        late = []
        for name, one, seed in LATE:
            log.writer.append(one_run(name, "base0", one, seed, 1.0801))
            late.append(cpu(lambda: tables(log, threads=1)))
        print(f"one more run                     {max(late):6.2f}   (largest of {len(late)}; the last is a control)")
        failed = effects + decisions >= 5 or max(late) >= 0.5
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())

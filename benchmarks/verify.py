"""How long it takes to verify a long log, beside the hashing that cannot be left out.

    python -m benchmarks.verify [--events N] [--commit N] [--rounds N] [--packs] [--json]

A ledger of N events (measured probes, outcomes, retractions; bodies of some 550 bytes)
is made in a temporary folder, in large commits or, with --packs, packed. `ledger verify` then does all
of its level `tree`: it reads every byte, checks each file's seal, decodes the Parquet, hashes the leaves
from the bodies, builds the tree, compares every column with its body, checks that the data of each event
is one JSON value, each writer's numbers, and the roots that commits name.

The bound is what any verifier in Python has to do: with the bodies in memory already, SHA-256 of each
leaf with hashlib, and of each node of the tree, level by level. It reads, decodes and compares nothing.
The two take turns, verify once in one process and once, as the command does, with a process for each
core. Given are the medians, and the median of each round's ratio of bound to verify, in wall time; for
one process that is CPU time too, for the bound is one thread.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import random
import statistics
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from hashlib import sha256
from itertools import islice
from typing import Any

import msgspec

from benchmarks import machine
from ledger import canonical, layout, segment
from ledger.chain import Log
from ledger.events import EventData, EventRetracted, FinalMetric, NameValue, Probed, ProbeMeasured, RunFinished
from ledger.verify import verify


def rows(count: int) -> Iterator[segment.Row]:
    """Rows of a log, in order, by one writer: of every eight events of a run six probes, an outcome, a retraction."""
    params = (NameValue("batch", "32"), NameValue("depth", "4"))
    values = (Probed("b_simple", 4012.25, "tokens"), Probed("trace", 0.25, ""))
    chance, writer = random.Random(0), bytes(16)
    for seq in range(count):
        run, at = f"{seq // 8:016x}", 1_767_225_600_000_000 + seq * 1000
        made = uuid.UUID(int=(at // 1000) << 80 | 7 << 76 | 0b10 << 62 | chance.getrandbits(62))
        data: EventData = ProbeMeasured(
            run=run, probe="noise", subject="checkpoint", method="gns/1", params=params, values=values, artifact=None
        )
        if seq % 8 == 6:
            data = RunFinished(**_OUTCOME, run=run, value=round(chance.gauss(1.2, 0.005), 6))
        elif seq % 8 == 7:
            data = EventRetracted(target=str(made), reason="the wrong data")
        body = {
            "actor": "researcher",
            "causation_id": None,
            "correlation_id": None,
            "data": msgspec.to_builtins(data),
            "event_id": str(made),
            "recorded_at": layout.time_text(at),
            "stream": f"run/{run}",
            "type": data.TYPE,
            "type_version": data.VERSION,
            "writer": writer.hex(),
            "writer_seq": seq,
        }
        envelope = (made.bytes, data.TYPE, data.VERSION, f"run/{run}", writer, seq, at, None, None, "researcher")
        yield segment.Row(*envelope, canonical.text(body))


_OUTCOME: dict[str, Any] = {
    "status": "ok",
    "reason": "",
    "exit_code": 0,
    "signal": None,
    "metric": "val_bpb",
    "pre_value": None,
    "finals": (FinalMetric("train_loss", 1.5, 110),),
    "steps": 110,
    "tokens": 450_560,
    "wall_s": 4.25,
    "cpu_s": 4.0,
    "peak_memory_bytes": 300_000_000,
    "artifact_bytes": None,
    "cost": None,
    "extractor": "lines/1",
    "started_at": "2026-01-01T00:00:00.000000Z",
    "ended_at": "2026-01-01T00:00:04.000000Z",
}


def make(folder: str, count: int, commit: int) -> Log:
    """A ledger of so many events."""
    log, told = Log.create(folder), rows(count)
    while batch := list(islice(told, commit)):
        seen = log.seen()
        data, leaves = segment.encode(batch, log.identity.id, seen.position, seen.root)
        os.makedirs(layout.shard_path(log.root, seen.position), exist_ok=True)
        with open(layout.segment_path(log.root, seen.position), "xb") as file:
            file.write(data)
        log.step(seen.position, segment.seal_of(data), leaves)
    log.note_head()
    return log


def bound(bodies: list[bytes]) -> str:
    """The root over the bodies: the hashing that no verifier can leave out, and nothing else."""
    nodes = [sha256(b"\x00" + body).digest() for body in bodies]
    while len(nodes) > 1:
        last = [nodes.pop()] if len(nodes) & 1 else []
        pairs = iter(nodes)
        nodes = [sha256(b"\x01" + left + right).digest() for left, right in zip(pairs, pairs, strict=True)] + last
    return nodes[0].hex()


def timed(function: Callable[[], Any]) -> tuple[float, float, Any]:
    """CPU seconds, wall seconds, what it gave."""
    gc.collect()
    before, wall = os.times(), time.perf_counter()
    given = function()
    after, wall = os.times(), time.perf_counter() - wall
    return sum(after[:4]) - sum(before[:4]), wall, given


def measure(log: Log, rounds: int) -> dict[str, Any]:
    """All of them in turns: seconds of CPU (of this process and its children) and wall."""
    bodies = [body for _, _, batch in log.batches() for body in batch.column("body").to_pylist()]
    cores = os.cpu_count() or 1
    ways: dict[str, Callable[[], Any]] = {
        "bound": lambda: bound(bodies),
        "one process": lambda: verify(log.root),
        f"{cores} processes": lambda: verify(log.root, processes=cores),
    }
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, way in ways.items():
            cpu, wall, given = timed(way)
            taken[name].append((cpu, wall))
            if name == "bound":
                root = given
            elif given.problems or (given.size, given.root) != (len(bodies), root):
                raise SystemExit(f"the log that was made does not verify: {given.problems[:3]}")
    found = {}
    for name, times in taken.items():
        pairs = list(zip(taken["bound"], times, strict=True))
        found[name] = {
            "cpu_s": statistics.median(one[0] for one in times),
            "wall_s": statistics.median(one[1] for one in times),
            "of_bound_cpu": statistics.median(b[0] / t[0] for b, t in pairs),
            "of_bound_wall": statistics.median(b[1] / t[1] for b, t in pairs),
        }
    size = sum(map(len, bodies))
    return {"events": len(bodies), "body_bytes": size / len(bodies), "rounds": rounds, "ways": found}


def main() -> None:
    """Run it and print it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--events", type=int, default=1_000_000)
    parser.add_argument("--commit", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--packs", action="store_true", help="compact the log first")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    said = machine.describe("experiment-ledger", "pyarrow")
    with tempfile.TemporaryDirectory(prefix="verify-") as folder:
        log = make(os.path.join(folder, "ledger"), given.events, given.commit)
        if given.packs:
            from ledger import compaction

            for _ in range(2):  # what was packed is removed the second time
                compaction.compact(log, grace=0)
        found = measure(log, given.rounds)
    if given.json:
        print(json.dumps({"machine": said, **found}))
        return
    print(machine.line(said))
    print(f"{found['events']:,} events of {found['body_bytes']:.0f} bytes, medians of {found['rounds']} rounds")
    for name, one in found["ways"].items():
        rate = found["events"] / one["wall_s"] / 1e6
        print(
            f"{name:12}  {one['wall_s']:6.2f} s, CPU {one['cpu_s']:6.2f} s, {rate:.2f} million events a second; "
            f"of the bound's speed: wall {one['of_bound_wall']:.2f}, CPU {one['of_bound_cpu']:.2f}"
        )


if __name__ == "__main__":
    main()

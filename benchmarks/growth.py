"""What grows with the log: the cost of an append, opening it cold, and packing it.

    python -m benchmarks.growth [--commits N] [--dir FOLDER] [--json]

One process makes N commits of one event each (default 20,000), and no compaction. At N/20, N/4, N/2 and
N commits, appends to that log and to a new one take turns, 50 at a time: the ratio of their costs is
what growth does, whatever else the machine does in that minute. CPU is user and system time of this
process. Cold opens are `Log(path).head()`: with the noted head, without it, and after compaction.

Compaction is that of the whole log (every event hashed and compared before the pack is published),
then that of as many events again, merged with the pack; signed, with a grace of 0.

The folder must not lie in memory: a tmpfs has no syncs to wait for. Nothing is removed before the
appends are measured, see benchmarks/append.py.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable

from benchmarks import machine
from ledger import compaction
from ledger.chain import Log
from ledger.events import EventRetracted
from ledger.writer import Draft

BLOCK, ROUNDS = 50, 8
DRAFT = Draft("event/growth", EventRetracted(target="0" * 36, reason="what an event of a hundred bytes may say"))

Cost = tuple[float, float]  # CPU and wall, in seconds


def timed(action: Callable[[], object]) -> Cost:
    cpu, wall = time.process_time(), time.perf_counter()
    action()
    return time.process_time() - cpu, time.perf_counter() - wall


def append(log: Log, count: int = BLOCK) -> None:
    for _ in range(count):
        log.writer.append([DRAFT])


def median(costs: list[Cost], per: int = BLOCK) -> Cost:
    """Of CPU and of wall, in milliseconds for one append."""
    cpu, wall = zip(*costs, strict=True)
    return statistics.median(cpu) / per * 1e3, statistics.median(wall) / per * 1e3


def against_a_new_one(log: Log, folder: str) -> tuple[Cost, Cost]:
    """An append to this log and to a new one, in turns."""
    new = Log.create(os.path.join(folder, f"new-{log.size}"))
    append(new, 10)
    here, there = [], []
    for _ in range(ROUNDS):
        there.append(timed(lambda: append(new)))
        here.append(timed(lambda: append(log)))
    return median(here), median(there)


def cold(root: str, turns: int = 5) -> Cost:
    """The median open, in milliseconds."""
    return median([timed(lambda: Log(root).head()) for _ in range(turns)], per=1)


def growth(folder: str, commits: int) -> list[dict[str, object]]:
    """A row for each size."""
    log = Log.create(os.path.join(folder, "ledger"))
    append(log, 10)
    rows: list[dict[str, object]] = []
    for size in sorted({max(1, commits // 20), commits // 4, commits // 2, commits}):
        append(log, max(0, size - log.size))
        here, new = against_a_new_one(log, folder)
        log.close()
        noted = cold(log.root)
        shutil.move(os.path.join(log.root, "state"), os.path.join(folder, f"state-{size}"))
        os.mkdir(os.path.join(log.root, "state"))
        rows.append(
            {
                "commits": size,
                "cpu_ms": here[0],
                "wall_ms": here[1],
                "new_cpu_ms": new[0],
                "new_wall_ms": new[1],
                "cpu_ratio": here[0] / new[0],
                "wall_ratio": here[1] / new[1],
                "open_noted_ms": noted[1],
                "open_walked_ms": cold(log.root)[1],
            }
        )
    return rows


def packing(folder: str) -> dict[str, object]:
    """Compacting the log that `growth` made."""
    log = Log(os.path.join(folder, "ledger"))
    events = log.head().position
    loose = timed(lambda: [None for _ in Log(log.root).batches()])
    compaction.compact(Log.create(os.path.join(folder, "warm")), 0)
    append(Log(os.path.join(folder, "warm")), 3)
    compaction.compact(Log(os.path.join(folder, "warm")), 0)  # Arrow and the signer are loaded now
    first = timed(lambda: compaction.compact(log, 0))
    for _ in range(0, events, 1000):
        log.writer.append([DRAFT] * 1000)
    merged = timed(lambda: compaction.compact(log, 0))
    read = timed(lambda: [None for _ in Log(log.root).batches()])
    return {
        "events": events,
        "packed_per_cpu_s": events / first[0],
        "merged_events": log.size,
        "merged_per_cpu_s": log.size / merged[0],
        "open_packed_ms": cold(log.root)[1],
        "read_loose_per_cpu_s": events / loose[0],
        "read_packed_per_cpu_s": log.size / read[0],
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--commits", type=int, default=20_000)
    parser.add_argument("--dir", default=".", help="a folder on the disk to measure")
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=asked.dir, prefix="growth-") as folder:
        os.environ["LEDGER_CONFIG"] = os.path.join(folder, "config")
        where = machine.describe("experiment-ledger", "pyarrow")
        disk = {"file system": machine.file_system(folder), "fsync": f"{machine.fsync_ms(folder):.2f} ms"}
        rows = growth(folder, asked.commits)
        packed = packing(folder)
    if asked.json:
        print(json.dumps({"machine": {**where, **disk}, "growth": rows, "packing": packed}))
        return
    print(machine.line({**where, **disk}))
    print("one event a commit, median ms of an append to this log and to a new one beside it; cold opens in ms")
    print(
        f"{'commits':>8}",
        *(f"{name:>7}" for name in ("CPU", "new", "ratio", "wall", "new", "ratio", "noted", "walked")),
    )
    names = ("cpu_ms", "new_cpu_ms", "cpu_ratio", "wall_ms", "new_wall_ms", "wall_ratio", "open_noted_ms")
    for row in rows:
        print(f"{row['commits']:>8}", *(f"{row[name]:7.3f}" for name in (*names, "open_walked_ms")))
    print(
        f"compaction of {packed['events']:,} commits of one event: {packed['packed_per_cpu_s']:,.0f} events a CPU "
        f"second; merged to {packed['merged_events']:,}: {packed['merged_per_cpu_s']:,.0f}"
    )
    print(
        f"read and checked: {packed['read_loose_per_cpu_s']:,.0f} events a CPU second from commits, "
        f"{packed['read_packed_per_cpu_s']:,.0f} from the pack; opened over it in {packed['open_packed_ms']:.2f} ms"
    )


if __name__ == "__main__":
    main()

"""Metrics: what a call of `run.log` costs, what a flush costs, and what a kill -9 leaves.

    python -m benchmarks.metrics [--dir D] [--points N] [--json]

`log` is timed call by call with 4 metrics, spool included, while the thread flushes beside it. A flush
takes the points of a full spool, makes the chunk with its digest, writes and syncs it, in the chunk's
own folder under --dir; CPU is that of this process. The series are 4 metrics: float32-like (a decay
with noise, rounded to 32 bits) and noise of 64 bits, which nothing can compress. The last trial kills
a program that logs N points at a random moment, opens the ledger, and counts.
"""

from __future__ import annotations

import argparse
import json
import mmap
import os
import random
import statistics
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from benchmarks import machine
from ledger import layout, points, spool, tracking
from ledger.chain import Log
from ledger.writer import uuid7

NAMES = ("train_loss", "accuracy", "learning_rate", "grad_norm")
FULL = tracking.FLUSH_POINTS

PROGRAM = """
import mmap, struct, sys, ledger
run = ledger.init(path=sys.argv[1], metric=None)
with open(sys.argv[2], "r+b") as file:
    done = mmap.mmap(file.fileno(), 8)
for step in range(int(sys.argv[3]) // 4):
    run.log({"train_loss": step, "accuracy": 0.5, "learning_rate": 0.001, "grad_norm": -step}, step=step)
    struct.pack_into("<q", done, 0, step + 1)
run.finish()
"""


def log_us(root: str, calls: int) -> list[float]:
    """Microseconds of each call, sorted."""
    run = tracking.init(path=root, metric=None)
    values = dict.fromkeys(NAMES, 0.5)
    taken = []
    for step in range(calls):
        begin = time.perf_counter_ns()
        run.log(values, step)
        taken.append((time.perf_counter_ns() - begin) / 1e3)
    run.finish()
    if run.dropped:
        raise SystemExit(f"{run.dropped} points were dropped")
    return sorted(taken)


def flushes(log: Log, values: Sequence[float], times: int) -> tuple[float, float, float]:
    """Points per CPU second and per second, and bytes per point, medians over full spools."""
    cpu, wall, size = [], [], 0
    writer = os.urandom(16).hex()
    for number in range(times):
        label = spool.Label(
            ledger=log.identity.id,
            run="r",
            source="api",
            chunk=f"chunk/{writer}/{number:08d}.parquet",
            event_id=str(uuid7(layout.now_us())),
            limit=FULL,
            boot=spool.boot(),
        )
        made = spool.create(log.root, label)
        made.define(NAMES)
        for at in range(0, FULL, 4):
            made.add(NAMES, at // 4, values[at : at + 4])
        cpu_before, wall_before = time.process_time(), time.perf_counter()
        columns = made.columns()
        assert columns is not None
        event = points.publish(log.root, label.chunk, label.run, label.source, columns)
        cpu.append(time.process_time() - cpu_before)
        wall.append(time.perf_counter() - wall_before)
        made.discard()
        size = os.path.getsize(os.path.join(log.root, event.chunk))
    return FULL / statistics.median(cpu), FULL / statistics.median(wall), size / FULL


def kill(root: str, folder: str, wanted: int, chance: random.Random) -> dict[str, Any]:
    """Kill a program that logs `wanted` points, open the ledger, count. Lost and doubled must be 0."""
    told = os.path.join(folder, "told")
    with open(told, "w+b") as file:
        file.write(bytes(8))
        file.flush()
        done = mmap.mmap(file.fileno(), 8)
    at = chance.uniform(0.05, 0.95) * wanted / 4
    with subprocess.Popen([sys.executable, "-c", PROGRAM, root, told, str(wanted)]) as process:
        while process.poll() is None and struct.unpack("<q", done[0:8])[0] < at:
            time.sleep(0.0005)
        process.kill()
    calls = struct.unpack("<q", done[0:8])[0]
    begin = time.perf_counter()
    log = Log(root)
    assert log.writer
    took = time.perf_counter() - begin
    steps, recovered = [], 0
    for event in log.events(types=("metrics.logged",)):
        steps.append(points.read_chunk(root, event.data)["step"].to_numpy())
        recovered += event.data.rows if event.data.recovered else 0
    found, counts = np.unique(np.concatenate([np.empty(0, np.int64), *steps]), return_counts=True)
    return {
        "logged": 4 * calls,
        "found": int(counts.sum()),
        "recovered": recovered,
        "lost": 4 * (calls - int(np.sum(found < calls))),
        "doubled": int(np.sum(counts > 4)),
        "opened_s": took,
    }


def measure(folder: str, wanted: int) -> dict[str, Any]:
    log = Log.create(os.path.join(folder, "ledger"))
    taken = log_us(log.root, wanted // 4)
    noise = np.random.default_rng(0)
    decay = 3 * np.exp(-np.arange(FULL) / 20_000) + noise.normal(0, 0.05, FULL)
    flushes(log, decay.tolist(), 2)  # the first ones load what the others use
    single = flushes(log, decay.astype(np.float32).astype(float).tolist(), 15)
    double = flushes(log, noise.normal(size=FULL).tolist(), 15)
    return {
        "calls": len(taken),
        "log_us_median": statistics.median(taken),
        "log_us_p99": taken[int(len(taken) * 0.99)],
        "log_us_max": taken[-1],
        "points_per_cpu_s": single[0],
        "points_per_s": single[1],
        "bytes_per_point_float32": single[2],
        "points_per_cpu_s_noise": double[0],
        "bytes_per_point_noise": double[2],
        "kill": kill(Log.create(os.path.join(folder, "killed")).root, folder, wanted, random.Random()),
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dir", help="where the ledgers lie while they are measured (a temporary folder)")
    parser.add_argument("--points", type=int, default=1_000_000)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    about = machine.describe("experiment-ledger", "pyarrow", "numpy")
    with tempfile.TemporaryDirectory(dir=arguments.dir) as folder:
        about["files"] = machine.file_system(folder)
        found = measure(folder, arguments.points)
    if arguments.json:
        print(json.dumps({"machine": about, **found}))
        return
    killed = found["kill"]
    print(machine.line(about))
    print(
        f"log, 4 metrics     {found['log_us_median']:6.2f} µs median  {found['log_us_p99']:6.2f} µs p99  "
        f"{found['log_us_max'] / 1e3:6.1f} ms at most, {found['calls']} calls"
    )
    print(
        f"flush of {FULL}    {found['points_per_cpu_s'] / 1e6:6.1f} million points a CPU second, "
        f"{found['points_per_s'] / 1e6:.1f} a second, durable"
    )
    print(
        f"bytes a point      {found['bytes_per_point_float32']:6.2f} float32-like, "
        f"{found['bytes_per_point_noise']:.2f} noise of 64 bits"
    )
    print(
        f"kill -9            {killed['logged']} points logged, {killed['found']} found "
        f"({killed['recovered']} of them recovered in {killed['opened_s']:.2f} s), "
        f"{killed['lost']} lost, {killed['doubled']} doubled"
    )


if __name__ == "__main__":
    main()

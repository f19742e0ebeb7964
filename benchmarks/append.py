"""Durable appends of one event a commit: this ledger, SQLite, and delta-rs, on the same disk in one run.

    python -m benchmarks.append [--dir FOLDER] [--rounds N] [--json]

One writer, then four writing processes. Every round takes each system in turn, so that a noisy
machine is noisy for all of them; a figure is the median over the rounds. CPU is user and system time
of the writing processes per commit. What each does for one commit:

    ledger     Log.writer.append of one event: file written and synced, linked, folder synced
    SQLite     one INSERT a transaction, journal_mode=WAL, synchronous=FULL: durable as well
    files      only the calls of the ledger's protocol, on files of the same size, without Parquet,
               hashes or JSON: what the file system alone costs, and so the bound for the ledger
    delta-rs   deltalake.write_deltalake(mode="append") of one row: it syncs nothing (fsync is never
               called), so it may lose what it acknowledged; it is here as the usual way to append to
               a table of Parquet files

The folder must not lie in memory: a tmpfs has no syncs to wait for.
"""

from __future__ import annotations

import argparse
import itertools
import json
import multiprocessing
import os
import resource
import shutil
import sqlite3
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator

from benchmarks import machine

BODY = '{"run":"r1","probe":"rank","subject":"layer.0","values":[{"name":"rank","value":3.0,"unit":""}]}'
SYSTEMS = ("ledger", "files", "SQLite", "delta-rs")

Append = Callable[[], None]


def ledger_writer(folder: str) -> Append:
    from ledger.chain import Log
    from ledger.events import Probed, ProbeMeasured
    from ledger.writer import Draft

    data = ProbeMeasured(
        run="r1",
        probe="rank",
        subject="layer.0",
        method="svd/1",
        params=(),
        values=(Probed("rank", 3.0, ""),),
        artifact=None,
    )
    writer = Log(folder).writer
    return lambda: writer.append([Draft("run/r1", data)]) and None


def files_writer(folder: str) -> Append:
    data, turn = b"x" * 1700, itertools.count()

    def append() -> None:
        temporary = f"{folder}/tmp/{os.getpid()}-{next(turn)}"
        file = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
        os.write(file, data)
        os.fsync(file)
        os.close(file)
        os.link(temporary, f"{folder}/log/{os.path.basename(temporary)}")
        file = os.open(f"{folder}/log", os.O_RDONLY)
        os.fsync(file)
        os.close(file)
        os.unlink(temporary)

    return append


def sqlite_writer(folder: str) -> Append:
    connection = sqlite3.connect(os.path.join(folder, "log.db"), timeout=120, isolation_level=None)
    connection.execute("PRAGMA synchronous=FULL")

    def append() -> None:
        connection.execute("INSERT INTO log (stream, body) VALUES (?, ?)", ("run/r1", BODY))

    return append


def delta_writer(folder: str) -> Append:
    import deltalake.exceptions
    import pyarrow as pa

    row = pa.table({"stream": ["run/r1"], "body": [BODY]})

    def append() -> None:
        while True:
            try:
                return deltalake.write_deltalake(folder, row, mode="append")
            except deltalake.exceptions.CommitFailedError:  # it gave up after 15 lost races; a user tries again
                pass

    return append


WRITERS = {"ledger": ledger_writer, "files": files_writer, "SQLite": sqlite_writer, "delta-rs": delta_writer}


def prepare(system: str, folder: str) -> None:
    """An empty store."""
    if system == "ledger":
        from ledger.chain import Log

        Log.create(folder)
    elif system == "files":
        for name in ("log", "tmp"):
            os.mkdir(os.path.join(folder, name))
    elif system == "SQLite":
        connection = sqlite3.connect(os.path.join(folder, "log.db"))
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("CREATE TABLE log (position INTEGER PRIMARY KEY AUTOINCREMENT, stream TEXT, body TEXT)")
        connection.commit()
        connection.close()
    else:
        delta_writer(folder)()


def count(system: str, folder: str) -> int:
    """How many appended rows the store holds now."""
    if system == "ledger":
        from ledger.chain import Log

        return Log(folder).head().position
    if system == "files":
        return len(os.listdir(os.path.join(folder, "log")))
    if system == "SQLite":
        return int(sqlite3.connect(os.path.join(folder, "log.db")).execute("SELECT count(*) FROM log").fetchone()[0])
    import deltalake

    return len(deltalake.DeltaTable(folder).to_pyarrow_table()) - 1


def worker(system: str, folder: str, seconds: float, ready: object, results: object) -> None:
    """Append for a while; report (commits, wall seconds, CPU seconds)."""
    append = WRITERS[system](folder)
    append()
    ready.wait()  # type: ignore[attr-defined]
    used = resource.getrusage(resource.RUSAGE_SELF)
    start, commits = time.perf_counter(), 0
    while time.perf_counter() - start < seconds:
        append()
        commits += 1
    wall = time.perf_counter() - start
    now = resource.getrusage(resource.RUSAGE_SELF)
    results.put((commits, wall, now.ru_utime + now.ru_stime - used.ru_utime - used.ru_stime))  # type: ignore[attr-defined]


def measure(system: str, base: str, processes: int, seconds: float) -> tuple[float, float]:
    """Commits a second of all processes together, and CPU milliseconds a commit. Checks that none was lost."""
    folder = tempfile.mkdtemp(dir=base)
    prepare(system, folder)
    context = multiprocessing.get_context("spawn")
    ready, results = context.Barrier(processes), context.Queue()
    working = [
        context.Process(target=worker, args=(system, folder, seconds, ready, results)) for _ in range(processes)
    ]
    # ext4 writes out what others left unsynced with the next sync of anybody: delta-rs must not be paid for by
    # whoever comes after it.
    os.sync()
    for process in working:
        process.start()
    done = [results.get(timeout=120) for _ in working]
    for process in working:
        process.join()
    commits = sum(one[0] for one in done)
    assert count(system, folder) == commits + processes, f"{system} holds other rows than it acknowledged"
    shutil.rmtree(folder)
    return commits / statistics.mean(one[1] for one in done), sum(one[2] for one in done) / commits * 1e3


def rounds(base: str, number: int, seconds: float, systems: list[str]) -> Iterator[dict[str, object]]:
    """One row for each number of processes and each system."""
    for processes in (1, 4):
        taken: dict[str, list[tuple[float, float]]] = {system: [] for system in systems}
        for turn in range(number):
            for system in systems[turn % len(systems) :] + systems[: turn % len(systems)]:
                taken[system].append(measure(system, base, processes, seconds))
        rates = {system: statistics.median(rate for rate, _ in all_) for system, all_ in taken.items()}
        for system in SYSTEMS:
            if system not in rates:
                yield {"processes": processes, "system": system, "missing": "pip install deltalake"}
                continue
            ratios = {
                other: statistics.median(
                    mine[0] / theirs[0] for mine, theirs in zip(taken[system], taken[other], strict=True)
                )
                for other in ("SQLite", "delta-rs")
                if other in rates
            }
            yield {
                "processes": processes,
                "system": system,
                "commits_per_s": round(rates[system], 1),
                "cpu_ms_per_commit": round(statistics.median(cpu for _, cpu in taken[system]), 3),
                "times_sqlite": round(ratios["SQLite"], 3),
                "times_delta_rs": round(ratios["delta-rs"], 2) if "delta-rs" in ratios else None,
            }


def main() -> None:
    """Measure, and print a table or one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dir", default=".", help="folder on the disk to measure")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=1.5, help="of each system in each round")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    kind = machine.file_system(given.dir)
    if kind in ("tmpfs", "ramfs"):
        sys.exit(f"{given.dir} lies in memory ({kind}): nothing there is durable; name a folder on a disk with --dir")
    said = machine.describe("experiment-ledger", "pyarrow", "deltalake")
    said["sqlite"] = sqlite3.sqlite_version
    systems = [system for system in SYSTEMS if system != "delta-rs" or said["deltalake"] != "missing"]
    with tempfile.TemporaryDirectory(dir=given.dir, prefix="append-", ignore_cleanup_errors=True) as base:
        before = machine.fsync_ms(base)
        rows = list(rounds(base, given.rounds, given.seconds, systems))
        fsync = statistics.median([before, machine.fsync_ms(base)])
    if given.json:
        print(json.dumps({"machine": said, "file_system": kind, "fsync_ms": round(fsync, 3), "rows": rows}))
        return
    print(machine.line(said))
    print(f"{kind}, one fsync {fsync:.2f} ms (median); {given.rounds} rounds of {given.seconds} s each\n")
    print(
        f"{'processes':>9}  {'system':<9} {'commits/s':>10} {'CPU ms/commit':>14} {'x SQLite':>9} {'x delta-rs':>11}"
    )
    for row in rows:
        if "missing" in row:
            print(f"{row['processes']:>9}  {row['system']:<9} not installed: {row['missing']}")
            continue
        delta = f"{row['times_delta_rs']:.1f}" if row["times_delta_rs"] is not None else "-"
        print(
            f"{row['processes']:>9}  {row['system']:<9} {row['commits_per_s']:>10,.0f} "
            f"{row['cpu_ms_per_commit']:>14.3f} {row['times_sqlite']:>9.2f} {delta:>11}"
        )


if __name__ == "__main__":
    main()

"""Durable appends: this ledger, SQLite, delta-rs and eventsourcing, on the same disk in one run.

    python -m benchmarks.append [PART …] [--dir FOLDER] [--rounds N] [--flush-ms MS] [--json]

Parts (all by default):

    one        one writer, one event a commit
    batch      one writer, 1,000 events a commit, from objects in memory to durable
    processes  four writing processes, one event a commit
    threads    64 threads of one process, one event a commit; SQLite's single transactions beside it

Every round takes each system in turn, so that a noisy machine is noisy for all of them; a figure is
the median over the rounds, a ratio the median of the rounds' ratios. CPU is user and system time of
the writing processes per commit. What each does for one commit:

    ledger         Log.writer.append: file written and synced, linked, folder synced
    SQLite         one transaction of INSERTs, journal_mode=WAL, synchronous=FULL: durable as well
    files          only the calls of the ledger's protocol, on files of the same size, without Parquet,
                   hashes or JSON: what the file system alone costs for a file a commit
    delta-rs       deltalake.write_deltalake(mode="append"): it syncs nothing (fsync is never called), so
                   it may lose what it acknowledged; it is here as the usual way to append to Parquet
    eventsourcing  EventStore.put of its SQLite infrastructure (batch only)

--flush-ms makes each sync of the disk take that much longer, for all systems alike (a small library
that is compiled with cc and preloaded): what a slower disk would show.

The folder must not lie in memory: a tmpfs has no syncs to wait for. ext4 passes over inodes that were
deleted in the last five minutes when it makes a file, one at a time: after thousands of files were
removed, each new one beside them costs up to a millisecond. So nothing is removed before the end, and
a folder where new files are slow is told.
"""

from __future__ import annotations

import argparse
import functools
import itertools
import json
import multiprocessing
import os
import resource
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

from benchmarks import machine

BODY = '{"run":"r1","probe":"rank","subject":"layer.0","values":[{"name":"rank","value":3.0,"unit":""}]}'
BATCH = 1000
THREADS = 64
PARTS = {
    "one": ("ledger", "files", "SQLite", "delta-rs"),
    "batch": ("ledger", "SQLite", "delta-rs", "eventsourcing"),
    "processes": ("ledger", "files", "SQLite", "delta-rs"),
    "threads": ("ledger", "SQLite"),
}
NEEDS = {"delta-rs": "deltalake", "eventsourcing": "eventsourcing"}

Append = Callable[[], None]

SLOW = """
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdlib.h>
#include <time.h>
static void more(void) {
    double ms = atof(getenv("SLOW_SYNC_MS"));
    struct timespec t = {(time_t)(ms / 1000), (long)(ms * 1e6) % 1000000000L};
    nanosleep(&t, 0);
}
int fsync(int f) { int r = ((int (*)(int))dlsym(RTLD_NEXT, "fsync"))(f); more(); return r; }
int fdatasync(int f) { int r = ((int (*)(int))dlsym(RTLD_NEXT, "fdatasync"))(f); more(); return r; }
"""


def ledger_writer(folder: str, size: int) -> Append:
    from ledger.chain import Log
    from ledger.events import Probed, ProbeMeasured
    from ledger.writer import Draft

    data = [
        ProbeMeasured(
            run="r1",
            probe="rank",
            subject=f"layer.{number}",
            method="svd/1",
            params=(),
            values=(Probed("rank", 3.0, ""),),
            artifact=None,
        )
        for number in range(size)
    ]
    writer = Log(folder).writer
    return lambda: writer.append([Draft("run/r1", one) for one in data]) and None


def files_writer(folder: str, size: int) -> Append:
    data, turn, log = b"x" * 1700, itertools.count(), f"{folder}/log"
    names = os.open(log, os.O_RDONLY)

    def append() -> None:
        file = os.open(f"{folder}/tmp", os.O_WRONLY | os.O_TMPFILE, 0o644)
        os.write(file, data)
        os.fsync(file)
        name = f"{log}/{os.getpid()}-{next(turn)}"
        os.link(f"/proc/self/fd/{file}", name, src_dir_fd=file, follow_symlinks=True)
        os.fsync(names)
        os.close(file)

    return append


def sqlite_writer(folder: str, size: int) -> Append:
    connection = sqlite3.connect(os.path.join(folder, "log.db"), timeout=120, isolation_level=None)
    connection.execute("PRAGMA synchronous=FULL")
    values = json.loads(BODY)

    def append() -> None:
        connection.execute("INSERT INTO log (stream, body) VALUES (?, ?)", ("run/r1", BODY))

    def batch() -> None:  # from objects, as the others
        connection.execute("BEGIN")
        rows = [("run/r1", json.dumps(values)) for _ in range(size)]
        connection.executemany("INSERT INTO log (stream, body) VALUES (?, ?)", rows)
        connection.execute("COMMIT")

    return append if size == 1 else batch


def delta_writer(folder: str, size: int) -> Append:
    import deltalake.exceptions
    import pyarrow as pa

    values = json.loads(BODY)

    def append() -> None:
        rows = pa.table({"stream": ["run/r1"] * size, "body": [json.dumps(values) for _ in range(size)]})
        while True:
            try:
                return deltalake.write_deltalake(folder, rows, mode="append")
            except deltalake.exceptions.CommitFailedError:  # it gave up after 15 lost races; a user tries again
                pass

    return append


@functools.cache
def _measured() -> Any:
    """The class of the event; it may be made once in a process."""
    from eventsourcing.domain import Aggregate

    class Measured(Aggregate.Event):  # type: ignore[misc]
        body: dict[str, object]

    return Measured


def eventsourcing_writer(folder: str, size: int) -> Append:
    import uuid

    from eventsourcing.application import Application

    application: Application = Application(
        env={
            "PERSISTENCE_MODULE": "eventsourcing.sqlite",
            "SQLITE_DBNAME": os.path.join(folder, "log.db"),
            "SQLITE_LOCK_TIMEOUT": "60",
        }
    )

    values, measured = json.loads(BODY), _measured()
    now = measured.create_timestamp()

    def append() -> None:
        stream = uuid.uuid4()
        application.events.put(
            [
                measured(originator_id=stream, originator_version=number, timestamp=now, body=values)
                for number in range(1, size + 1)
            ]
        )

    return append


WRITERS = {
    "ledger": ledger_writer,
    "files": files_writer,
    "SQLite": sqlite_writer,
    "delta-rs": delta_writer,
    "eventsourcing": eventsourcing_writer,
}


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
        WRITERS[system](folder, 1)()


def count(system: str, folder: str) -> int:
    """How many appended rows the store holds now."""
    if system == "ledger":
        from ledger.chain import Log

        return Log(folder).head().position
    if system == "files":
        return len(os.listdir(os.path.join(folder, "log")))
    if system in ("SQLite", "eventsourcing"):
        table, more = ("log", 0) if system == "SQLite" else ("stored_events", 1)
        connection = sqlite3.connect(os.path.join(folder, "log.db"))
        return int(connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0]) - more
    import deltalake

    return len(deltalake.DeltaTable(folder).to_pyarrow_table()) - 1


def worker(system: str, folder: str, size: int, threads: int, seconds: float, ready: object, results: object) -> None:
    """Append for a while; report (commits, wall seconds, CPU seconds)."""
    append = WRITERS[system](folder, size)
    append()
    ready.wait()  # type: ignore[attr-defined]
    used = resource.getrusage(resource.RUSAGE_SELF)
    start = time.perf_counter()
    done = [0] * threads

    def go(index: int) -> None:
        while time.perf_counter() - start < seconds:
            append()
            done[index] += 1

    if threads == 1:
        go(0)
    else:
        working = [threading.Thread(target=go, args=(index,)) for index in range(threads)]
        for thread in working:
            thread.start()
        for thread in working:
            thread.join()
    wall = time.perf_counter() - start
    now = resource.getrusage(resource.RUSAGE_SELF)
    cpu = now.ru_utime + now.ru_stime - used.ru_utime - used.ru_stime
    results.put((sum(done), wall, cpu))  # type: ignore[attr-defined]


def measure(part: str, system: str, base: str, seconds: float) -> tuple[float, float]:
    """Commits a second of all writers together, and CPU milliseconds a commit. Checks that none was lost."""
    processes = 4 if part == "processes" else 1
    size = BATCH if part == "batch" else 1
    # SQLite's single transactions are what 64 threads are compared with: its own threads would only wait.
    threads = THREADS if part == "threads" and system == "ledger" else 1
    folder = tempfile.mkdtemp(dir=base)
    prepare(system, folder)
    context = multiprocessing.get_context("spawn")
    ready, results = context.Barrier(processes), context.Queue()
    given = (system, folder, size, threads, seconds, ready, results)
    working = [context.Process(target=worker, args=given) for _ in range(processes)]
    # ext4 writes out what others left unsynced with the next sync of anybody: delta-rs must not be paid for by
    # whoever comes after it.
    os.sync()
    for process in working:
        process.start()
    done = [results.get(timeout=300) for _ in working]
    for process in working:
        process.join()
    commits = sum(one[0] for one in done)
    found, acknowledged = count(system, folder), (commits + processes) * size
    assert found == acknowledged, f"{system} holds {found} rows and acknowledged {acknowledged}"
    return commits / statistics.mean(one[1] for one in done), sum(one[2] for one in done) / commits * 1e3


def rounds(part: str, base: str, number: int, seconds: float, systems: list[str]) -> Iterator[dict[str, object]]:
    """One row for each system."""
    taken: dict[str, list[tuple[float, float]]] = {system: [] for system in systems}
    for turn in range(number):
        for system in systems[turn % len(systems) :] + systems[: turn % len(systems)]:
            taken[system].append(measure(part, system, base, seconds))
    for system in systems:
        yield {
            "part": part,
            "system": system,
            "commits_per_s": round(statistics.median(rate for rate, _ in taken[system]), 1),
            "cpu_ms_per_commit": round(statistics.median(cpu for _, cpu in taken[system]), 3),
            "times": {
                other: round(
                    statistics.median(
                        mine[0] / theirs[0] for mine, theirs in zip(taken[system], taken[other], strict=True)
                    ),
                    3,
                )
                for other in systems
                if other in ("SQLite", "delta-rs", "eventsourcing")
            },
        }


def slower(folder: str, ms: float) -> dict[str, str]:
    """The environment in which every sync takes `ms` longer."""
    source, library = os.path.join(folder, "slow.c"), os.path.join(folder, "slow.so")
    with open(source, "w") as file:
        file.write(SLOW)
    subprocess.run(["cc", "-shared", "-fPIC", "-O1", "-o", library, source, "-ldl"], check=True)
    return {"LD_PRELOAD": library, "SLOW_SYNC_MS": str(ms)}


def main() -> None:
    """Measure, and print a table or one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="PART", help=" ".join(PARTS))
    parser.add_argument("--dir", default=".", help="folder on the disk to measure")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=1.5, help="of each system in each round")
    parser.add_argument("--flush-ms", type=float, default=0.0, help="make each sync take this much longer")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    if unknown := set(given.parts) - set(PARTS):
        parser.error(f"no such part: {min(unknown)}; there are {', '.join(PARTS)}")
    kind = machine.file_system(given.dir)
    if kind in ("tmpfs", "ramfs"):
        sys.exit(f"{given.dir} lies in memory ({kind}): nothing there is durable; name a folder on a disk with --dir")
    said = machine.describe("experiment-ledger", "pyarrow", "deltalake", "eventsourcing")
    said["sqlite"] = sqlite3.sqlite_version
    rows = []
    with tempfile.TemporaryDirectory(dir=given.dir, prefix="append-", ignore_cleanup_errors=True) as base:
        before, making = machine.fsync_ms(base), machine.create_ms(base)
        if given.flush_ms:
            os.environ.update(slower(base, given.flush_ms))
        for part in given.parts or PARTS:
            there = [one for one in PARTS[part] if said.get(NEEDS.get(one, ""), "") != "missing"]
            rows += list(rounds(part, base, given.rounds, given.seconds, there))
        fsync = statistics.median([before, machine.fsync_ms(base)])
    if given.json:
        measured = {"fsync_ms": round(fsync, 3), "create_ms": round(making, 4), "flush_ms_more": given.flush_ms}
        print(json.dumps({"machine": said, "file_system": kind, **measured, "rows": rows}))
        return
    print(machine.line(said))
    more = f", {given.flush_ms:g} ms more for each sync" if given.flush_ms else ""
    print(f"{kind}, one fsync {fsync:.2f} ms (median){more}; {given.rounds} rounds of {given.seconds} s each")
    if making > 0.1:
        print(
            f"to make a file takes {making:.2f} ms here: many files were deleted beside it in the last minutes; "
            "wait, or name another folder"
        )
    print(f"\n{'part':<10} {'system':<14} {'commits/s':>10} {'CPU ms/commit':>14}  times")
    for row in rows:
        times = ", ".join(
            f"{ratio:.2f} {other}"
            for other, ratio in row["times"].items()  # type: ignore[attr-defined]
            if other != row["system"]
        )
        print(
            f"{row['part']:<10} {row['system']:<14} {row['commits_per_s']:>10,.0f} "
            f"{row['cpu_ms_per_commit']:>14.3f}  {times}"
        )


if __name__ == "__main__":
    main()

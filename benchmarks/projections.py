"""Rebuilding from many events: typed files against a raw scan, the last 1 % against all, views, and digests.

    python -m benchmarks.projections [--events N] [--dir D] [--json]

A log of N synthetic events (synthetic.py) is written and packed; its making is not measured. CPU is
that of this process, all threads; of queries the median of five. Aims: (a) group-by projections over
typed files at most 6 times the CPU of a scan of the same columns; (b) the last 1 % in at most 3 % of
a full rebuild; (c) the view over packs and 256 loose segments at most 5 times the packs alone; (d)
equal digests with 1, 2 and 8 threads, from packs or loose segments, built in steps cut anywhere, in
another time zone and locale. (d) is done on the first 50,000 of the events, three times over.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

import duckdb

from benchmarks import machine, synthetic
from ledger import checkpoints, compaction
from ledger.chain import Log
from projections import typed
from projections.engine import Tables, tables

LOOSE = 256
CHECKED = 50_000

# A projection over typed files, and the columns that it reads: the raw scan takes the largest of each.
GROUPED = {
    "arms": (
        "run.started",
        ("experiment", "arm", "seed", "position", "recorded_at", "pid", "hardware_class"),
        """SELECT experiment, arm, count(*), min(seed), max(seed), max(position), min(recorded_at), max(pid),
            max(hardware_class)
        FROM read_parquet({files}) GROUP BY experiment, arm ORDER BY experiment, arm""",
    ),
    "outcomes": (
        "run.finished",
        ("stream", "status", "value", "position", "recorded_at", "wall_s", "tokens"),
        """SELECT split_part(stream, '-', 2) AS arm, status, count(*), count(value), min(value), max(value),
            max(position), max(recorded_at), max(wall_s), sum(tokens)
        FROM read_parquet({files}) GROUP BY arm, status ORDER BY arm, status""",
    ),
    "artifacts": (
        "artifact.stored",
        ("run", "name", "kind", "bytes", "left_out", "position", "recorded_at"),
        """SELECT run, count(*), max(name), max(kind), sum(bytes), sum(left_out), arg_max(bytes, position),
            max(recorded_at)
        FROM read_parquet({files}) GROUP BY run ORDER BY run""",
    ),
}

# Over the packs' own columns, so that it can be asked of the view and of the packs alone.
VIEWED = "SELECT type, actor, count(*), max(writer_seq), max(position) FROM {source} GROUP BY ALL ORDER BY ALL"


def cpu(action: Callable[[], object]) -> float:
    """CPU seconds of an action, all threads of this process."""
    begun = time.process_time()
    action()
    return time.process_time() - begun


def median_cpu(action: Callable[[], object]) -> float:
    return statistics.median(cpu(action) for _ in range(5))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--events", type=int, default=1_000_000)
    parser.add_argument("--dir", help="Where to put the ledgers (default: a temporary folder).")
    parser.add_argument("--json", action="store_true", help="Print one object.")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=asked.dir) as folder:
        os.environ["LEDGER_CONFIG"] = os.path.join(folder, "config")  # the key that signs before segments go
        found = measure(folder, asked.events, (lambda text: None) if asked.json else print)
    if asked.json:
        print(json.dumps(found))


def measure(folder: str, count: int, say: Callable[[str], object]) -> dict[str, Any]:
    """Every figure, by name; `say` gets each as a line once it is there."""
    found: dict[str, Any] = {"machine": machine.describe("experiment-ledger", "duckdb", "pyarrow"), "events": count}
    say(machine.line(found["machine"]))
    begun = time.perf_counter()
    log = synthetic.write(os.path.join(folder, "many"), count)
    pack(log)
    say(f"{log.size} events written and packed in {time.perf_counter() - begun:.0f} s of wall time")
    found["rebuild"] = rebuild(log, count, say)
    found["typed"] = over_typed(log, say)
    found["view"] = over_view(log, say)
    shutil.rmtree(log.root)
    found["digests"] = digests(folder, min(count, CHECKED), say)
    return found


def pack(log: Log) -> None:
    """Pack all that is loose and remove what was packed."""
    checkpoints.sign(log)
    compaction.compact(log, grace=0)


def rebuild(log: Log, count: int, say: Callable[[str], object]) -> dict[str, Any]:
    """(b): tables and typed files, all anew and the last 1 %."""

    def both(fresh: bool) -> Tables:
        made["tables"] = cpu(lambda: made.update(built=tables(log, fresh=fresh)))
        made["typed"] = cpu(lambda: typed.refresh(made["built"], log.root, fresh=fresh))
        return made["built"]  # type: ignore[no-any-return]

    made: dict[str, Any] = {}
    cut = log.size - count // 100
    early = tables(log, cut, fresh=True)
    typed.refresh(early, log.root, fresh=True)
    early.close()
    onwards = both(False)
    last = {"tables": made["tables"], "typed": made["typed"]}
    held = os.path.getsize(onwards.path)
    stepwise = onwards.digests()
    onwards.close()
    anew = both(True)
    full = {"tables": made["tables"], "typed": made["typed"]}
    same = anew.digests() == stepwise
    anew.close()
    share = sum(last.values()) / sum(full.values())
    for name, what in (("tables", "nine tables"), ("typed", "typed files")):
        say(
            f"(b) {what}: {full[name]:8.2f} s CPU anew ({full[name] / log.size * 1e6:.1f} us an event), "
            f"{last[name]:6.2f} s the last 1 % = {last[name] / full[name]:.1%}"
        )
    verdict = "equal" if same else "DIFFERENT"
    say(f"(b) both: the last 1 % costs {share:.1%} of a full rebuild (aim 3 %); digests {verdict}")
    return {"full": full, "last": last, "share": share, "equal": same, "cache_bytes": held}


def over_typed(log: Log, say: Callable[[str], object]) -> dict[str, Any]:
    """(a): projections over typed files against a scan of the columns that they read."""
    made = typed.read(log.root)
    assert made is not None
    found: dict[str, Any] = {}
    with duckdb.connect() as connection:
        for name, (kind, columns, query) in GROUPED.items():
            files = [os.path.join(log.root, file.path) for file in made.files if file.type == kind]
            rows = sum(file.rows for file in made.files if file.type == kind)
            listed = "[" + ", ".join("'" + path.replace("'", "''") + "'" for path in files) + "]"
            scan = f"SELECT {', '.join(f'max({column})' for column in columns)} FROM read_parquet({listed})"
            project = f"CREATE OR REPLACE TABLE made AS {query.format(files=listed)}"
            raw = median_cpu(lambda scan=scan: connection.sql(scan).to_arrow_table())  # type: ignore[misc]
            grouped = median_cpu(lambda project=project: connection.execute(project))  # type: ignore[misc]
            found[name] = {"rows": rows, "files": len(files), "scan": raw, "projection": grouped, "x": grouped / raw}
            say(
                f"(a) {name}: {rows} rows in {len(files)} files, scan {raw * 1e3:.0f} ms, projection "
                f"{grouped * 1e3:.0f} ms CPU = {grouped / raw:.1f} x (aim 6)"
            )
    return found


def over_view(log: Log, say: Callable[[str], object]) -> dict[str, Any]:
    """(c): views.sql over the packs and 256 loose segments against the packs alone."""
    for row in synthetic.rows(LOOSE, writer=1):
        synthetic.add(log, [row])
    with duckdb.connect() as connection, _Inside(log.root):
        with open(typed.VIEWS, encoding="utf-8") as file:
            connection.execute(file.read())
        alone = VIEWED.format(source="read_parquet('pack/*.parquet')")
        view = VIEWED.format(source="events_raw")
        (size,) = connection.execute("SELECT count(DISTINCT position) FROM events_raw").fetchall()[0]
        assert size == log.size, f"the view shows {size} of {log.size} events"
        packs = median_cpu(lambda: connection.execute(alone).fetchall())
        both = median_cpu(lambda: connection.execute(view).fetchall())
    say(
        f"(c) group-by over packs {packs * 1e3:.0f} ms, over the view with {LOOSE} loose segments "
        f"{both * 1e3:.0f} ms CPU = {both / packs:.1f} x (aim 5)"
    )
    return {"packs": packs, "view": both, "x": both / packs}


class _Inside:
    """Be in a folder, because the paths in views.sql are relative."""

    def __init__(self, path: str) -> None:
        self.path, self.before = path, os.getcwd()

    def __enter__(self) -> None:
        os.chdir(self.path)

    def __exit__(self, *_: object) -> None:
        os.chdir(self.before)


def digests(folder: str, count: int, say: Callable[[str], object]) -> dict[str, Any]:
    """(d): the digests of all tables, and of all typed files, however they were built."""
    log = synthetic.write(os.path.join(folder, "some"), count, commit=500)
    found = {"loose, 2 threads": _digest(log, threads=2)}
    found["1 thread"] = _digest(log, threads=1)
    found["8 threads"] = _digest(log, threads=8)
    rng = random.Random(count)
    for _ in range(3):
        shutil.rmtree(os.path.join(log.root, "proj"))
        shutil.rmtree(os.path.join(log.root, "typed"))
        cuts = sorted(rng.sample(range(1, count), 3))
        for cut in cuts:
            typed.refresh(tables(log, cut), log.root)
        found[f"cut at {', '.join(map(str, cuts))}"] = _digest(log, fresh=False)
    zone = {"TZ": "Pacific/Chatham", "LC_ALL": "tr_TR.UTF-8", "LANG": "tr_TR.UTF-8", "PYTHONHASHSEED": "7"}
    command = [sys.executable, "-P", "-m", "commands", "--json", "--ledger", log.root, "rebuild"]
    here = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    done = subprocess.run(command, env={**os.environ, **zone}, capture_output=True, check=True, cwd=here)
    told = {row["table"]: (row["rows"], row["digest"]) for row in json.loads(done.stdout)["tables"]}
    found["Pacific/Chatham, Turkish"] = json.dumps([told, _typed(log.root)])
    # Signing adds the event of the key, so this is the log as it was before.
    pack(log)
    shutil.rmtree(os.path.join(log.root, "typed"))
    found["packs"] = _digest(log, as_of=count)
    different = [name for name, value in found.items() if value != found["loose, 2 threads"]]
    verdict = f"DIFFERENT: {different}" if different else "equal"
    say(f"(d) digests of {count} events built in {len(found)} ways ({'; '.join(found)}): {verdict}")
    return {"ways": list(found), "different": different}


def _digest(log: Log, *, threads: int | None = None, fresh: bool = True, as_of: int | None = None) -> str:
    built = tables(log, as_of, threads=threads, fresh=fresh)
    typed.refresh(built, log.root, fresh=fresh)
    return json.dumps([built.digests(), _typed(log.root)])


def _typed(root: str) -> list[tuple[str, str]]:
    made = typed.read(root)
    return [(file.path, file.sha256) for file in made.files] if made else []


if __name__ == "__main__":
    main()

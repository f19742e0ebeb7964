"""The results.tsv of an autoresearch loop: one line an attempt, kept, discarded or crashed.

Its columns are commit, val_bpb, memory_gb, status and description; files with other columns beside val_bpb are
read as well (memory_mb, artifact_bytes, notes). A crash writes 0.000000: that is no score.
"""

from __future__ import annotations

import re
from pathlib import Path

from ledger.errors import UsageError
from ledger.events import Status
from runners.importers.items import File, Found, Item, read_file, run

NAME = "import/autoresearch/1"
FILE = "results.tsv"


def read(path: Path) -> Found:
    """A results.tsv, or a folder with one. Raises UsageError when there is none or its head is another."""
    path = path / FILE if path.is_dir() else path
    if not path.is_file():
        raise UsageError(f"{path} is no file; name a {FILE} or the folder that holds it")
    try:
        file = read_file(path)
        lines = file.data.decode("utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise UsageError(f"{path} is not UTF-8: byte {error.start}") from None
    except UsageError as error:
        raise UsageError(f"{path} {error}") from None
    head = [name.strip().lower() for name in lines[0].split("\t")] if lines else []
    if "val_bpb" not in head:
        raise UsageError(f"{path} has no column val_bpb; its first line is {' | '.join(head)[:100] or 'empty'}")
    found = Found([], [], [(file.name, file.data)], [])
    times: dict[str, int] = {}
    for line_number, line in enumerate(lines[1:], 2):
        if not line.strip():
            continue
        cells = [cell.strip() for cell in line.split("\t", len(head) - 1)]
        times[line] = times.get(line, 0) + 1
        try:
            if len(cells) < len(head) and len(cells) <= head.index("val_bpb"):
                raise UsageError(f"has {len(cells)} cells, {len(head)} were expected")
            row = dict(zip(head, cells, strict=False))
            found.items.append(_run(file, line_number, row, (line.strip(), times[line])))
        except UsageError as error:
            found.failed.append((f"{file.name}:{line_number}", str(error)))
    return found


def _run(file: File, line: int, row: dict[str, str], identity: tuple[str, int]) -> Item:
    told = row.get("description") or row.get("notes") or row.get("status") or f"line {line}"
    outcome = row.get("status", "").lower()
    value = _number(row["val_bpb"], "val_bpb")
    status: Status = "ok"
    if outcome in ("crash", "crashed", "fail", "failed", "oom", "timeout") or value == 0:
        lower = f"{outcome} {told}".lower()
        status = "oom" if re.search(r"\boom\b|out of memory", lower) else "timeout" if "timeout" in lower else "crash"
        value = None
    memory = None
    for column, unit in (("memory_gb", 1 << 30), ("memory_mb", 1 << 20)):
        if row.get(column) and (size := _number(row[column], column)):
            memory = round(size * unit)
    size = _number(row["artifact_bytes"], "artifact_bytes") if row.get("artifact_bytes") else None
    return run(
        importer=NAME,
        file=file,
        where=f"line {line}",
        identity=identity,
        arm=told,
        role="single",
        seed=None,
        group=(),
        platform="unknown",
        metric="val_bpb",
        value=value,
        status=status,
        reason="" if status == "ok" else f"{outcome or 'a score of 0'}: {told}",
        config={name: cell for name, cell in row.items() if name != "val_bpb"},
        commit=row["commit"] if re.fullmatch(r"[0-9a-f]{7,40}", row.get("commit", "")) else None,
        peak_memory_bytes=memory,
        artifact_bytes=None if size is None else round(size),
    )


def _number(text: str, column: str) -> float | None:
    if text.lower() in ("", "-", "n/a", "na", "none", "null"):
        return None
    try:
        return float(text.replace(",", ""))
    except ValueError:
        raise UsageError(f"{column} is {text[:40]!r}, not a number") from None

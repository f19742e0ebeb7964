"""Typed Parquet files for any tool: of every event type one folder, of every event one row with its data in columns.

    typed/<type>/v<version>/<p0>-<p1>.parquet   events of one type among the positions [p0, p1), sorted by position
    typed/files.json                            which files there are, their digests, and the root they were made at
    views.sql                                   the same as views in SQL, see views.py

They are a copy of the staged tables, so the bodies are parsed once for both, older versions are
upcast, and an unknown type has stopped the staging before it came here. The ranges are a function
of the log's size alone and the bytes one of the events: whoever makes them, in however many steps,
makes the same files. Nothing here is truth: all of it may be deleted, `ledger rebuild` makes it again.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from hashlib import sha256

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq

from ledger import canonical, disk, events
from ledger.merkle import Frontier, leaf_hashes
from projections import catalog, views
from projections.engine import Tables
from projections.staging import table_name

FILES = "typed/files.json"
VIEWS = "views.sql"
_BLOCKS = (1 << 17, 1 << 13)  # positions: an event is written at most three times while the log grows
_GROUP = 1 << 16  # rows


class File(msgspec.Struct, frozen=True):
    """One typed file; `path` is below the ledger."""

    path: str
    type: str
    start: int
    stop: int
    rows: int
    bytes: int
    sha256: str


class Typed(msgspec.Struct, frozen=True):
    """What was made: from the first `size` events, whose Merkle peaks and root these are, by this code."""

    size: int
    root: str
    peaks: tuple[str, ...]
    code: str
    files: tuple[File, ...]


def blocks(size: int) -> list[tuple[int, int]]:
    """The ranges of positions that [0, size) is cut into: as many large ones as fit, small ones, the rest."""
    found, at = [], 0
    for width in _BLOCKS:
        while at + width <= size:
            found.append((at, at + width))
            at += width
    return [*found, (at, size)] if at < size else found


def read(root: str) -> Typed | None:
    """What files.json says; None when it is missing, damaged or made by other code."""
    try:
        with open(os.path.join(root, FILES), "rb") as file:
            found = msgspec.json.decode(file.read(), type=Typed)
    except (OSError, msgspec.MsgspecError):
        return None
    return found if found.code == catalog.code_digest() else None


def refresh(tables: Tables, root: str, *, fresh: bool = False) -> Typed:
    """Bring the typed files and views.sql of the ledger at `root` to the head of `tables`.

    `fresh` makes all of them anew. Raises OSError and NotAppended where they cannot be written.
    """
    os.makedirs(os.path.join(root, "typed"), exist_ok=True)
    with open(os.path.join(root, "typed", "lock"), "a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        earlier = None if fresh else read(root)
        if earlier is not None and not _continues(earlier, tables, root):
            earlier = None
        kept = set(blocks(earlier.size)) if earlier else set()
        files: list[File] = []
        for start, stop in blocks(tables.head.position):
            if earlier and (start, stop) in kept:
                files += [file for file in earlier.files if (file.start, file.stop) == (start, stop)]
            else:
                files += _make(tables, root, start, stop)
        files.sort(key=lambda file: (file.type, file.start))
        made = Typed(tables.head.position, tables.head.root, tables.peaks(), catalog.code_digest(), tuple(files))
        _write(root, FILES, canonical.encode(made) + b"\n")
        if made.size:
            _write(root, VIEWS, views.text(made.size, [(file.type, file.path) for file in files]).encode())
        _tidy(root, made)
    return made


def _continues(earlier: Typed, tables: Tables, root: str) -> bool:
    """Whether the events of `tables` begin with those that the files were made from, and the files are there."""
    if earlier.size > tables.head.position:
        return False
    if any(not _there(root, file) for file in earlier.files):
        return False
    rows = tables.query(f"SELECT body FROM staged.event WHERE position >= {earlier.size} ORDER BY position")
    tree = Frontier(earlier.size, (bytes.fromhex(peak) for peak in earlier.peaks))
    tree.extend(leaf_hashes(body.encode() for body in rows["body"].to_pylist()))
    return tree.root().hex() == tables.head.root


def _there(root: str, file: File) -> bool:
    with contextlib.suppress(OSError):
        return os.stat(os.path.join(root, file.path)).st_size == file.bytes
    return False


def _make(tables: Tables, root: str, start: int, stop: int) -> Iterator[File]:
    """Write the files of one range, one for every type that occurs in it."""
    inside = f"position >= {start} AND position < {stop}"
    there = {row["type"] for row in tables.rows(f"SELECT DISTINCT type FROM staged.event WHERE {inside}")}
    for kind, struct in events.TYPES.items():
        if kind not in there:
            continue
        # The names come from our own structs, never from input.
        rows = tables.query(
            f"""SELECT fact.position, fact.event_id, fact.recorded_at,
                event.stream, event.actor, event.correlation_id, event.causation_id,
                fact.* EXCLUDE (position, event_id, recorded_at)
            FROM (SELECT * FROM staged.{table_name(kind)} WHERE {inside}) AS fact
            INNER JOIN (SELECT * FROM staged.event WHERE {inside}) AS event ON event.position = fact.position
            ORDER BY fact.position"""
        )
        data = _parquet(rows)
        path = f"typed/{kind}/v{struct.VERSION}/{start:016d}-{stop:016d}.parquet"
        _write(root, path, data)
        yield File(path, kind, start, stop, rows.num_rows, len(data), sha256(data).hexdigest())


def _parquet(rows: pa.Table) -> bytes:
    out = pa.BufferOutputStream()
    with pq.ParquetWriter(
        out, rows.schema, compression="zstd", write_page_checksum=True, store_schema=False
    ) as writer:
        writer.write_table(rows.combine_chunks(), _GROUP)
    return bytes(out.getvalue())


def _write(root: str, path: str, data: bytes) -> None:
    os.makedirs(os.path.dirname(os.path.join(root, path)), exist_ok=True)
    disk.replace(os.path.join(root, "tmp"), os.path.join(root, path), data)


def _tidy(root: str, made: Typed) -> None:
    """Remove the Parquet files that are none of these: of ranges that have grown, of other versions."""
    wanted = {os.path.join(root, file.path) for file in made.files}
    for folder, _, names in os.walk(os.path.join(root, "typed")):
        for name in names:
            path = os.path.join(folder, name)
            if name.endswith(".parquet") and "_delta_log" not in folder and path not in wanted:
                disk.remove(path)

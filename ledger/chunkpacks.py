"""Chunk packs: many small chunks of points as one file, so that reading them costs one open.

chunkpack/<first>-<last>.parquet holds the chunks of events between these two positions, sorted by run,
metric and step, with `chunk` and `row` beside each point: so a chunk's columns can be put together
again as they were, and are held against the digest in its event at every read. The footer has
ledger.chunks (a JSON list of the chunks) and ledger.seal as in a chunk.

Nothing is taken away before its pack was synced, read again, compared with every event that it
serves, and is older than a grace. A chunk that still lies in chunk/ is read from there.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import os
import time
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from ledger import disk, points, segment
from ledger.errors import Corrupt, NotAppended
from ledger.events import MetricsLogged

if TYPE_CHECKING:
    import pyarrow as pa

    from ledger.chain import Log

SMALL = 16_384  # points: a larger chunk is well alone
FEW = 64  # chunks: fewer are not worth a pack
MOST = 1 << 20  # points in a pack


class Packed(NamedTuple):
    """What was done: packs made, chunks in them, chunks removed because an older pack has them, and their bytes."""

    packs: int
    chunks: int
    removed: int
    freed: int


def pack(log: Log, grace: float = 3600.0) -> Packed:
    """Pack the small chunks that no pack has yet, and remove those that a pack older than `grace` seconds has.

    Raises NotAppended and Unknown as disk.publish does; nothing is lost then.
    """
    removed, freed = _remove(log, grace)
    start = max((last + 1 for _, last in map(_range, _listed(log.root))), default=0)
    packs = chunks = rows = 0
    held: list[tuple[int, MetricsLogged]] = []
    for event in log.events(start=start, types=(MetricsLogged.TYPE,)):
        data = event.data
        assert isinstance(data, MetricsLogged)
        if data.rows > SMALL or not os.path.exists(points.path_of(log.root, data.chunk)):
            continue
        if rows + data.rows > MOST and len(held) >= FEW:
            packs, chunks = packs + 1, chunks + _publish(log, held)
            held, rows = [], 0
        held.append((event.position, data))
        rows += data.rows
    if len(held) >= FEW:
        packs, chunks = packs + 1, chunks + _publish(log, held)
    return Packed(packs, chunks, removed, freed)


def read(root: str, event: MetricsLogged) -> pa.RecordBatch | None:
    """The points of an event out of a pack, unchecked; None when no pack has them. Raises Corrupt."""
    path = _index(root, tuple(_listed(root))).get(event.chunk)
    if path is None:
        return None
    there = os.stat(path)
    return _unpacked(path, there.st_ino, there.st_mtime_ns).get(event.chunk)


def _listed(root: str) -> list[str]:
    try:
        names = os.listdir(os.path.join(root, "chunkpack"))
    except OSError:
        return []
    return sorted(name for name in names if len(name) == 41 and name.endswith(".parquet"))


def _range(name: str) -> tuple[int, int]:
    with contextlib.suppress(ValueError):
        return int(name[:16]), int(name[17:33])
    return -1, -1


@functools.lru_cache(8)
def _index(root: str, names: tuple[str, ...]) -> dict[str, str]:
    """The pack of every packed chunk."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    found = {}
    for name in names:
        path = os.path.join(root, "chunkpack", name)
        # A footer that cannot be read hides its chunks, and whoever wants one of them says that it is missing.
        with contextlib.suppress(pa.ArrowException, OSError, KeyError, TypeError, msgspec.DecodeError):
            keys = pq.read_metadata(path).metadata
            found.update(dict.fromkeys(msgspec.json.decode(keys[b"ledger.chunks"], type=list[str]), path))
    return found


@functools.lru_cache(2)
def _unpacked(path: str, inode: int, changed: int) -> dict[str, pa.RecordBatch]:
    """Every chunk of a pack, its rows in their order."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    with open(path, "rb") as file:
        data = file.read()
    segment.check_seal(data, path)
    table = pq.ParquetFile(pa.BufferReader(data)).read().sort_by([("chunk", "ascending"), ("row", "ascending")])
    parts = table.select([column.name for column in points.COLUMNS]).cast(points.schema()).combine_chunks()
    found, at = {}, 0
    for chunk, rows in itertools.groupby(table["chunk"].to_pylist()):
        length = sum(1 for _ in rows)
        found[chunk] = parts.slice(at, length).to_batches()[0]
        at += length
    return found


def _publish(log: Log, held: list[tuple[int, MetricsLogged]]) -> int:
    """Make one pack of these chunks; how many it has."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq

    parts: dict[str, pa.Table] = {}
    for _, event in held:
        with contextlib.suppress(Corrupt):  # a damaged chunk stays where it is
            batch = points.read_chunk(log.root, event)
            columns = {
                "run": pa.repeat(event.run, event.rows),
                **{column.name: batch[column.name] for column in points.COLUMNS},
                "chunk": pa.repeat(event.chunk, event.rows),
                "row": points.wrap(np.arange(event.rows, dtype=np.int32), pa.int32()),
            }
            parts[event.chunk] = pa.table(columns)
    if not parts:
        return 0
    order = [(name, "ascending") for name in ("run", "name", "step", "chunk", "row")]
    table = pa.concat_tables(parts.values()).sort_by(order)
    out = pa.BufferOutputStream()
    with pq.ParquetWriter(
        out,
        table.schema,
        compression="zstd",
        use_dictionary=["run", "name", "chunk"],
        column_encoding={"value": "BYTE_STREAM_SPLIT"}
        | dict.fromkeys(["step", "time", "row"], "DELTA_BINARY_PACKED"),
        write_page_checksum=True,
        store_schema=False,
    ) as sink:
        sink.write_table(table)
        sink.add_key_value_metadata(
            {
                "ledger.format": str(segment.FORMAT),
                "ledger.chunks": msgspec.json.encode(sorted(parts)).decode(),
                "ledger.seal": segment.BLANK.decode(),
            }
        )
    path = os.path.join(log.root, "chunkpack", f"{held[0][0]:016d}-{held[-1][0]:016d}.parquet")
    try:
        disk.make_folder(os.path.dirname(path))
    except OSError as error:
        raise NotAppended(f"nothing was packed: {path}: {disk.plain(error)}") from error
    disk.publish(os.path.join(log.root, "tmp"), path, segment.seal(bytearray(out.getvalue())))
    return len(parts)


def _remove(log: Log, grace: float) -> tuple[int, int]:
    """Remove chunks that an old enough pack holds as well: how many, and their bytes."""
    removed = freed = 0
    names = _listed(log.root)
    if names:
        disk.sync_folder(os.path.join(log.root, "chunkpack"))  # who linked them may have died before that
    for name in names:
        with contextlib.suppress(Corrupt, OSError):  # a pack that is damaged replaces nothing
            path = os.path.join(log.root, "chunkpack", name)
            if time.time() - os.stat(path).st_ctime < grace:
                continue
            index = _index(log.root, (name,))
            left = {chunk for chunk in index if os.path.exists(points.path_of(log.root, chunk))}
            first, last = _range(name)
            for event in log.events(start=first, as_of=last + 1, types=(MetricsLogged.TYPE,)) if left else ():
                data = event.data
                assert isinstance(data, MetricsLogged)
                if data.chunk in left:
                    there = os.stat(path)
                    batch = _unpacked(path, there.st_ino, there.st_mtime_ns)[data.chunk]
                    points.check(batch, data, path)
                    freed += os.path.getsize(points.path_of(log.root, data.chunk))
                    os.unlink(points.path_of(log.root, data.chunk))
                    removed += 1
    return removed, freed

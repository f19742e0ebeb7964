"""Metric points on disk: columnar chunks whose digest is in a `metrics.logged` event.

A chunk file without its event is litter that nobody reads; an event whose chunk is damaged is seen
by its digest. So the points share the log's guarantees without being in it. Many small chunks can
be packed into one file (chunkpacks.py); `read_chunk` finds a chunk's points wherever they lie.
"""

from __future__ import annotations

import functools
import os
import struct
from array import array
from collections.abc import Iterator, Sequence
from hashlib import sha256
from typing import TYPE_CHECKING, Any, NamedTuple

from ledger import disk, segment
from ledger.errors import Corrupt, NotAppended, UsageError
from ledger.events import Column, MetricsLogged

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

    from ledger.chain import Log
    from ledger.chunkpacks import Packed

Point = tuple[int, str, float, int]  # step, name, value, time in microseconds since 1970 UTC

COLUMNS = (
    Column("step", "int64"),
    Column("name", "string"),
    Column("value", "float64"),
    Column("time", "timestamp_us"),
)


class Columns(NamedTuple):
    """Points as numpy arrays: row i is values[i] of names[codes[i]] at steps[i], logged at times[i]."""

    steps: np.ndarray[Any, np.dtype[np.int64]]
    codes: np.ndarray[Any, np.dtype[np.int32]]
    values: np.ndarray[Any, np.dtype[np.float64]]
    times: np.ndarray[Any, np.dtype[np.int64]]
    names: list[str]


@functools.cache
def schema() -> pa.Schema:
    import pyarrow as pa

    kinds = {
        "int64": pa.int64(),
        "string": pa.string(),
        "float64": pa.float64(),
        "timestamp_us": pa.timestamp("us", "UTC"),
    }
    return pa.schema([pa.field(column.name, kinds[column.type], False) for column in COLUMNS])


def columns_of(points: Sequence[Point]) -> Columns:
    """Points as columns. Raises UsageError when there are none."""
    import numpy as np

    if not points:
        raise UsageError("a chunk needs at least one point")
    steps, names, values, times = zip(*points, strict=True)
    known = {name: code for code, name in enumerate(dict.fromkeys(names))}
    codes = np.fromiter(map(known.__getitem__, names), np.int32, len(names))
    return Columns(
        np.frombuffer(array("q", steps), np.int64),
        codes,
        np.frombuffer(array("d", values), np.float64),
        np.frombuffer(array("q", times), np.int64),
        list(known),
    )


def write_chunk(root: str, run: str, source: str, writer: str, number: int, points: Sequence[Point]) -> MetricsLogged:
    """Publish points as a chunk; the event that makes them count. Raises as `publish` does."""
    return publish(root, f"chunk/{writer}/{number:08d}.parquet", run, source, columns_of(points))


def publish(
    root: str, chunk: str, run: str, source: str, columns: Columns, *, recovered: bool = False
) -> MetricsLogged:
    """Publish points as the file `chunk` (chunk/<writer>/<n>.parquet); the event that makes them count.

    A chunk of the same points may be there already: whoever wrote it did not come to its event.
    Raises Corrupt when it holds other points, NotAppended and Unknown as disk.publish does.
    """
    target = path_of(root, chunk)
    data, said = encode(columns)
    event = MetricsLogged(
        run=run,
        chunk=chunk,
        rows=len(columns.steps),
        columns=COLUMNS,
        sha256=said,
        source=source,
        names=tuple(sorted(columns.names)),
        first_step=int(columns.steps.min()),
        last_step=int(columns.steps.max()),
        recovered=recovered,
    )
    try:
        disk.make_folder(os.path.dirname(target))
    except OSError as error:
        raise NotAppended(f"nothing was appended: {target}: {disk.plain(error)}") from error
    if not disk.publish(os.path.join(root, "tmp"), target, data):
        try:
            _read_loose(root, event)
        except (Corrupt, FileNotFoundError) as error:
            raise Corrupt(f"{target} exists already with other points: two writers share one id") from error
    return event


def encode(columns: Columns) -> tuple[bytes, str]:
    """The bytes of a chunk, and the digest of its columns as MetricsLogged describes it."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    texts = segment.column(columns.names, pa.string())
    codes = wrap(columns.codes, pa.int32())
    step, _, value, time = schema()
    # A dictionary spares Parquet the hashing of one text a point; what is read is the same.
    fields = pa.schema([step, pa.field("name", pa.dictionary(pa.int32(), pa.string()), False), value, time])
    batch = pa.RecordBatch.from_arrays(
        [
            wrap(columns.steps, step.type),
            pa.DictionaryArray.from_arrays(codes, texts),
            wrap(columns.values, value.type),
            wrap(columns.times, time.type),
        ],
        schema=fields,
    )
    out = pa.BufferOutputStream()
    with pq.ParquetWriter(
        out,
        fields,
        compression="zstd",
        use_dictionary=["name"],
        write_statistics=False,
        column_encoding={"step": "DELTA_BINARY_PACKED", "value": "BYTE_STREAM_SPLIT", "time": "DELTA_BINARY_PACKED"},
        write_page_checksum=True,
        store_schema=False,
    ) as sink:
        sink.write_batch(batch)
        sink.add_key_value_metadata({"ledger.format": str(segment.FORMAT), "ledger.seal": segment.BLANK.decode()})
    return segment.seal(bytearray(out.getvalue())), digest(batch)


def wrap(values: np.ndarray[Any, Any], kind: pa.DataType) -> pa.Array:
    """A numpy array as an Arrow array, without a copy (and without pandas, see segment.column)."""
    import pyarrow as pa

    return pa.Array.from_buffers(kind, len(values), [None, pa.py_buffer(values)])


def read_chunk(root: str, event: MetricsLogged) -> pa.RecordBatch:
    """The points of an event: columns step, name, value, time. Raises Corrupt unless the digest holds.

    From the chunk itself where it still lies there, else from the pack that has it: a chunk is removed
    only when its pack can be seen, so this order misses neither.
    """
    try:
        return _read_loose(root, event)
    except FileNotFoundError:
        from ledger import chunkpacks

        batch = chunkpacks.read(root, event)
    path = path_of(root, event.chunk)
    if batch is None:
        raise Corrupt(f"the metrics chunk {path} is missing")
    return check(batch, event, path)


def check(batch: pa.RecordBatch, event: MetricsLogged, path: str) -> pa.RecordBatch:
    """The batch, if it holds what the event says. Raises Corrupt."""
    if batch.num_rows != event.rows or digest(batch) != event.sha256:
        raise Corrupt(f"the metrics chunk {path} is not what its event says: the digest differs")
    return batch


def pack_chunks(log: Log, grace: float = 3600.0) -> Packed:
    """Pack small chunks, and remove those that a pack older than `grace` seconds holds (chunkpacks.py)."""
    from ledger import chunkpacks

    return chunkpacks.pack(log, grace)


def path_of(root: str, chunk: str) -> str:
    """Where a chunk lies. Raises Corrupt for a path that leaves its folder."""
    if os.path.dirname(os.path.dirname(os.path.normpath(chunk))) != "chunk":
        raise Corrupt(f"{chunk} is not a chunk's path")
    return os.path.join(root, chunk)


def _read_loose(root: str, event: MetricsLogged) -> pa.RecordBatch:
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = path_of(root, event.chunk)
    try:
        with open(path, "rb") as file:
            data = file.read()
        segment.check_seal(data, path)
        batch = pq.ParquetFile(pa.BufferReader(data)).read().cast(schema()).combine_chunks().to_batches()[0]
    except FileNotFoundError:
        raise
    except (pa.ArrowException, OSError, IndexError, ValueError) as error:
        raise Corrupt(f"the metrics chunk {path} cannot be read: {error}") from None
    return check(batch, event, path)


def digest(batch: pa.RecordBatch) -> str:
    """SHA-256 over the columns as MetricsLogged describes it."""
    import pyarrow as pa

    total = sha256()
    for column in batch.columns:
        if pa.types.is_string(column.type):
            column = column.dictionary_encode()
        if pa.types.is_dictionary(column.type):
            texts = [text.encode() for text in column.dictionary.to_pylist()]
            records = segment.column([struct.pack("<I", len(text)) + text for text in texts], pa.binary())
            period = _period(column.indices.to_numpy())
            total.update(bytes(_bytes(records.take(column.indices[:period]), 2)) * (len(column) // period))
        else:
            total.update(_bytes(column, 1))  # Arrow's own layout is little-endian on every machine that it runs on
    return total.hexdigest()


def _period(codes: np.ndarray[Any, np.dtype[np.int32]]) -> int:
    """After how many points the names come again, for ever; else all of them. A run that logs the same
    metrics at every step is the common case, and this spares it a fifth of the digest."""
    again = int((codes[1:] == codes[:1]).argmax()) + 1 if len(codes) > 1 else 1
    if len(codes) % again == 0 and (codes[again:] == codes[:-again]).all():
        return again
    return max(1, len(codes))


def _bytes(column: pa.Array, buffer: int) -> memoryview:
    """The bytes of a column's values without nulls: fixed width (buffer 1), or binary (buffer 2)."""
    raw = memoryview(column.buffers()[buffer] or b"")
    if buffer == 2:
        ends = memoryview(column.buffers()[1]).cast("i")
        return raw[ends[column.offset] : ends[column.offset + len(column)]]
    width = column.type.bit_width // 8
    return raw[column.offset * width : (column.offset + len(column)) * width]


def orphans(log: Log) -> Iterator[str]:
    """Chunk files that no event names, as paths below the ledger: their writer was cut off before it.

    One that is younger than its writer's next append may still get its event.
    """
    named = {event.data.chunk for event in log.events(types=(MetricsLogged.TYPE,))}  # type: ignore[union-attr]
    for folder, _, names in sorted(os.walk(os.path.join(log.root, "chunk"))):
        for path in sorted(os.path.relpath(os.path.join(folder, name), log.root) for name in names):
            if path not in named:
                yield path

"""Metric points on disk: columnar chunks whose digest is in a `metrics.logged` event.

A chunk file without its event is litter that nobody reads; an event whose chunk is damaged is seen
by its digest. So the points share the log's guarantees without being in it.
"""

from __future__ import annotations

import functools
import os
import struct
from collections.abc import Sequence
from hashlib import sha256
from typing import TYPE_CHECKING

from ledger import disk, segment
from ledger.errors import Corrupt, NotAppended, UsageError
from ledger.events import Column, MetricsLogged

if TYPE_CHECKING:
    import pyarrow as pa

Point = tuple[int, str, float, int]  # step, name, value, time in microseconds since 1970 UTC

COLUMNS = (
    Column("step", "int64"),
    Column("name", "string"),
    Column("value", "float64"),
    Column("time", "timestamp_us"),
)


@functools.cache
def _schema() -> pa.Schema:
    import pyarrow as pa

    kinds = {
        "int64": pa.int64(),
        "string": pa.string(),
        "float64": pa.float64(),
        "timestamp_us": pa.timestamp("us", "UTC"),
    }
    return pa.schema([pa.field(column.name, kinds[column.type], False) for column in COLUMNS])


def write_chunk(root: str, run: str, source: str, writer: str, number: int, points: Sequence[Point]) -> MetricsLogged:
    """Publish points as a chunk; the event that makes them count.

    Raises NotAppended, Unknown as disk.publish does.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    if not points:
        raise UsageError("a chunk needs at least one point")
    steps, names, values, times = zip(*points, strict=True)
    arrays = [
        segment.column(taken, field.type)
        for taken, field in zip((steps, names, values, times), _schema(), strict=True)
    ]
    batch = pa.RecordBatch.from_arrays(arrays, schema=_schema())
    out = pa.BufferOutputStream()
    with pq.ParquetWriter(
        out,
        _schema(),
        compression="zstd",
        use_dictionary=["name"],
        column_encoding={"step": "DELTA_BINARY_PACKED", "value": "BYTE_STREAM_SPLIT", "time": "DELTA_BINARY_PACKED"},
        write_page_checksum=True,
        store_schema=False,
    ) as sink:
        sink.write_batch(batch)
        sink.add_key_value_metadata({"ledger.format": str(segment.FORMAT), "ledger.seal": segment.BLANK.decode()})
    name = f"chunk/{writer}/{number:08d}.parquet"
    target = os.path.join(root, name)
    try:
        disk.make_folder(os.path.dirname(target))
    except OSError as error:
        raise NotAppended(f"nothing was appended: {target}: {disk.plain(error)}") from error
    if not disk.publish(os.path.join(root, "tmp"), target, segment.seal(bytearray(out.getvalue()))):
        raise Corrupt(f"{target} exists already: two writers share one id")
    return MetricsLogged(
        run=run,
        chunk=name,
        rows=len(points),
        columns=COLUMNS,
        sha256=digest(batch),
        source=source,
        names=tuple(sorted(set(names))),
        first_step=min(steps),
        last_step=max(steps),
    )


def read_chunk(root: str, event: MetricsLogged) -> pa.RecordBatch:
    """The points of an event: columns step, name, value, time. Raises Corrupt unless the digest holds."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = os.path.join(root, event.chunk)
    if os.path.dirname(os.path.dirname(os.path.normpath(event.chunk))) != "chunk":
        raise Corrupt(f"{event.chunk} is not a chunk's path")
    try:
        with open(path, "rb") as file:
            data = file.read()
        if not segment.seal_holds(data):
            raise Corrupt(f"{path} is not what was written: its seal does not hold")
        batch = pq.ParquetFile(pa.BufferReader(data)).read().cast(_schema()).combine_chunks().to_batches()[0]
    except FileNotFoundError:
        raise Corrupt(f"the metrics chunk {path} is missing") from None
    except (pa.ArrowException, OSError, IndexError, ValueError) as error:
        raise Corrupt(f"the metrics chunk {path} cannot be read: {error}") from None
    if batch.num_rows != event.rows or digest(batch) != event.sha256:
        raise Corrupt(f"the metrics chunk {path} is not what its event says: the digest differs")
    return batch


def digest(batch: pa.RecordBatch) -> str:
    """SHA-256 over the columns as MetricsLogged describes it."""
    import pyarrow as pa

    total = sha256()
    for column in batch.columns:
        if pa.types.is_string(column.type):
            texts = {text: struct.pack("<I", len(raw := text.encode())) + raw for text in column.unique().to_pylist()}
            total.update(b"".join(map(texts.__getitem__, column.to_pylist())))
        else:
            plain = column.cast(pa.int64()) if pa.types.is_timestamp(column.type) else column
            values = plain.to_numpy(zero_copy_only=False)
            total.update(values.astype(values.dtype.newbyteorder("<")).tobytes())
    return total.hexdigest()

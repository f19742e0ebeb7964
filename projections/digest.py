"""The digest of a table: the same for the same rows, whatever built them.

SHA-256 over the rows in order of the table's key, column by column in chunks of 65,536 rows: a null
mask, then fixed-width values little-endian and texts as a uint32 length and UTF-8. It never touches
a file's bytes, which differ between library versions, and every NaN counts as the same NaN.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from hashlib import sha256
from typing import Any

import numpy as np
import pyarrow as pa

_ROWS = 65_536


def table_digest(table: pa.Table) -> str:
    """64 hex digits for an Arrow table whose rows stand in their total order.

    Columns may be text, integers, floats, booleans and timestamps; others raise TypeError.
    """
    return parts_digest(table.num_rows, [table])


def parts_digest(rows: int, parts: Iterable[pa.Table]) -> str:
    """The digest of the one table, of `rows` rows, that these parts are when laid one after another.

    There must be one part at least, for the columns' names; memory is needed for a part, not for the table.
    """
    total = sha256()
    for index, table in enumerate(_chunks(parts)):
        if index == 0:
            for name, column in zip(table.column_names, table.columns, strict=True):
                total.update(f"{name}:{_kind(column.type)};".encode())
            total.update(rows.to_bytes(8, "little"))
        for column in table.columns if table.num_rows else ():
            for part in _bytes(column.combine_chunks()):
                total.update(part)
    return total.hexdigest()


def _chunks(parts: Iterable[pa.Table]) -> Iterator[pa.Table]:
    """The same rows in tables of 65,536, the last of them shorter; one empty table where there is no row."""
    left: pa.Table | None = None
    cut = False
    for part in parts:
        left = part if left is None else pa.concat_tables([left, part])
        while left.num_rows >= _ROWS:
            yield left.slice(0, _ROWS)
            left, cut = left.slice(_ROWS), True
    if left is not None and (left.num_rows or not cut):
        yield left


def _kind(kind: pa.DataType) -> str:
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return "text"
    if pa.types.is_boolean(kind):
        return "bool"
    if pa.types.is_integer(kind):
        return "int"
    if pa.types.is_floating(kind):
        return "float"
    if pa.types.is_timestamp(kind):
        return "time"
    raise TypeError(f"a table may not have a column of type {kind}: its order of bytes is not defined")


def _bytes(column: Any) -> list[bytes]:
    if isinstance(column, pa.ChunkedArray):
        column = pa.concat_arrays(column.chunks) if column.num_chunks else pa.array([], column.type)
    nulls = np.packbits(np.asarray(column.is_null().to_numpy(zero_copy_only=False), dtype=np.bool_)).tobytes()
    kind = _kind(column.type)
    if kind == "text":
        texts = [b"" if text is None else text.encode() for text in column.to_pylist()]
        lengths = np.array([len(text) for text in texts], dtype="<u4").tobytes()
        return [nulls, lengths, b"".join(texts)]
    if kind == "float":
        values = column.cast(pa.float64()).fill_null(0.0).to_numpy(zero_copy_only=False).astype("<f8")
        values = np.where(np.isnan(values), np.nan, values)  # one bit pattern for every NaN
        return [nulls, values.tobytes()]
    if kind == "time":
        column = column.cast(pa.timestamp("us", column.type.tz))
    values = column.cast(pa.int64()).fill_null(0).to_numpy(zero_copy_only=False).astype("<i8")
    return [nulls, values.tobytes()]

"""The Parquet file of one small commit, written by hand: the log's hot path is a commit of few events.

pyarrow's writer takes a quarter of a millisecond for one row, nearly all of it set-up for eleven
columns of one value, and 0.2 s more for its import at the first append; this takes some 30 µs. The
format is not our own. pyarrow is its definition: for the columns of `segment.schema()` and up
to 64 rows these are the bytes that pyarrow 26 writes without compression, dictionaries and
statistics (data page v1, PLAIN, one page a column with a CRC-32, one row group), but for
`created_by`, which names who really wrote them. tests/ledger/test_plain_parquet.py compares.

The footer is Thrift's compact protocol. A field begins with one byte, the step from the number of
the field before and the type (1 true, 3 byte, 5 i32, 6 i64, 8 binary, 9 list, 12 struct); a struct
ends with 0. A list begins with its length and the type of its items, in one byte if below 15.
Integers are zigzag varints: 2n for n >= 0. The names in the comments are those of parquet.thrift.
"""

from __future__ import annotations

import functools
from array import array
from collections.abc import Mapping, Sequence
from struct import pack
from typing import Any
from zlib import crc32

CREATED_BY = b"experiment-ledger version 1 (build plain)"  # the form that parquet.thrift asks for
_ID = 16  # bytes


def _varint(n: int) -> bytes:
    if n < 0x80:
        return bytes((n,))
    if n < 0x4000:
        return bytes((n & 0x7F | 0x80, n >> 7))
    if 1 << 28 <= n < 1 << 35:  # most CRCs
        return bytes((n & 0x7F | 0x80, n >> 7 & 0x7F | 0x80, n >> 14 & 0x7F | 0x80, n >> 21 & 0x7F | 0x80, n >> 28))
    return bytes((n & 0x7F | 0x80,)) + _varint(n >> 7)


@functools.lru_cache(4096)  # lengths and offsets recur from commit to commit
def _int(n: int) -> bytes:
    """An i32 or i64 that is not negative."""
    return _varint(2 * n)


def _binary(value: bytes) -> bytes:
    return _varint(len(value)) + value


# kind: type, type_length, and converted_type with logicalType
_KINDS = {
    "id": (b"\x0e", b"\x15\x20", b""),  # FIXED_LEN_BYTE_ARRAY(16)
    "text": (b"\x0c", b"", b"\x25\x00\x4c\x1c\x00\x00"),  # BYTE_ARRAY, UTF8, STRING
    "bytes": (b"\x0c", b"", b""),  # BYTE_ARRAY
    "int16": (b"\x02", b"", b"\x25\x20\x4c\xac\x13\x10\x11\x00\x00"),  # INT32, INT_16, INTEGER(16, signed)
    "int64": (b"\x04", b"", b""),  # INT64
    "time": (b"\x04", b"", b"\x25\x14\x4c\x8c\x11\x1c\x2c\x00\x00\x00\x00"),  # INT64, TIMESTAMP(UTC, MICROS)
}


def _column(name: bytes, kind: str, optional: bool = False) -> tuple[str, bool, bytes, bytes]:
    """Kind, optional or not, the SchemaElement, and the ColumnChunk as far as `codec` in its meta_data."""
    code, length, meaning = _KINDS[kind]
    repetition = (b"\x15" if length else b"\x25") + (b"\x02" if optional else b"\x00")
    element = b"\x15" + code + length + repetition + b"\x18" + _binary(name) + meaning + b"\x00"
    # file_offset 0; type, encodings [RLE, PLAIN], path_in_schema, codec UNCOMPRESSED
    chunk = b"\x26\x00\x1c\x15" + code + b"\x19\x25\x06\x00\x19\x18" + _binary(name) + b"\x15\x00"
    return kind, optional, element, chunk


_COLUMNS = (
    _column(b"event_id", "id"),
    _column(b"type", "text"),
    _column(b"type_version", "int16"),
    _column(b"stream", "text"),
    _column(b"writer", "id"),
    _column(b"writer_seq", "int64"),
    _column(b"recorded_at", "time"),
    _column(b"correlation_id", "id", True),
    _column(b"causation_id", "id", True),
    _column(b"actor", "text", True),
    _column(b"body", "bytes"),
)
# type DATA_PAGE, both sizes, crc; num_values, encoding PLAIN, levels RLE, no statistics
_PAGE = b"\x15\x00\x15%b\x15%b\x15%b\x1c\x15%b\x15\x00\x15\x06\x15\x06\x1c\x00\x00\x00"
# num_values, both sizes, data_page_offset, encoding_stats: one PLAIN data page
_CHUNK = b"%b\x16%b\x16%b\x16%b\x26%b\x49\x1c\x15\x00\x15\x00\x15\x02\x00"
# version 2, the schema with its root; then num_rows and row_groups, one, with its columns
_SCHEMA = b"\x15\x04\x19\xcc\x35\x00\x18\x06schema\x15\x16\x00" + b"".join(column[2] for column in _COLUMNS)
_GROUP = b"\x16%b\x19\x1c\x19\xbc"
# total_byte_size, num_rows, file_offset 4, total_compressed_size; then key_value_metadata
_GROUP_END = b"\x16%b\x16%b\x26\x08\x16%b\x00\x19%b"
_ORDERS = b"\x19\xbc" + b"\x1c\x00\x00" * len(_COLUMNS)  # column_orders, all TYPE_ORDER


def encode(rows: Sequence[tuple[Any, ...]], keys: Mapping[str, str]) -> bytes:
    """A Parquet file of 1 to 64 rows (as `segment.Row`) with up to 14 key-values, in their order.

    What no segment may hold raises as it does in `segment.column`: ids of another length
    (ValueError), numbers out of range, None where a column is not optional.
    """
    count, at = _int(len(rows)), 4
    pages: list[bytes] = [b"PAR1"]
    chunks: list[bytes] = []
    values: Sequence[Any]
    for (kind, optional, _, chunk), values in zip(_COLUMNS, zip(*rows, strict=True), strict=True):
        levels = histogram = b""
        if optional:
            levels, histogram = _levels("".join(["0" if value is None else "1" for value in values]))
            values = [value for value in values if value is not None]
        data, sizes = _plain(kind, values, histogram)
        page = levels + data
        size, crc = _int(len(page)), crc32(page)
        signed = _varint(2 * crc if crc < 1 << 31 else 2 * ((1 << 32) - crc) - 1)
        head = _PAGE % (size, size, signed, count)
        whole = _int(len(head) + len(page))
        pages += head, page
        chunks += _CHUNK % (chunk, count, whole, whole, _int(at)), sizes, b"\x00\x00"
        at += len(head) + len(page)
    total = _int(at - 4)
    meta = [_SCHEMA, _GROUP % count, *chunks, _GROUP_END % (total, count, total, bytes([len(keys) << 4 | 12]))]
    for key, value in keys.items():
        meta += b"\x18", _binary(key.encode()), b"\x18", _binary(value.encode()), b"\x00"
    meta += b"\x18", _binary(CREATED_BY), _ORDERS, b"\x00"
    footer = b"".join(meta)
    return b"".join([*pages, footer, pack("<I", len(footer)), b"PAR1"])


def _plain(kind: str, values: Sequence[Any], histogram: bytes) -> tuple[bytes, bytes]:
    """The values in PLAIN encoding, and the column's SizeStatistics where it has any."""
    if kind == "id":
        data = b"".join(values)
        if len(data) != _ID * len(values):
            raise ValueError(f"a value is not of {_ID} bytes")
        return data, b"\x3c\x29\x06" + histogram + b"\x00" if histogram else b""
    if kind in ("text", "bytes"):
        given = [value.encode() for value in values] if kind == "text" else values
        data = b"".join([part for value in given for part in (pack("<I", len(value)), value)])
        sizes = b"\x3c\x16" + _int(len(data) - 4 * len(values)) + b"\x19\x06" + (histogram or b"\x19\x06")
        return data, sizes + b"\x00"
    if kind == "int16":
        return pack(f"<{len(values)}i", *array("h", values)), b""  # the array checks the range
    return pack(f"<{len(values)}q", *values), b""


@functools.lru_cache(256)
def _levels(rest: str) -> tuple[bytes, bytes]:
    """The definition levels (0 null, 1 there) as a page holds them, and their histogram.

    As parquet-cpp cuts them: equal levels from 8 on are a run, and so is the rest of the page when
    all of it is equal and no eights of single bits lie open before it; all else are eights of bits.
    """
    histogram = b"\x19\x26" + _int(rest.count("0")) + _int(rest.count("1"))
    made = bits = b""
    while rest:
        run = len(rest) - len(rest.lstrip(rest[0]))
        if run >= 8 or (run == len(rest) and not bits):
            made += bits and bytes([len(bits) << 1 | 1]) + bits
            made += _varint(run << 1) + bytes([int(rest[0])])
            bits, rest = b"", rest[run:]
        else:
            bits += bytes([int(rest[7::-1], 2)])
            rest = rest[8:]
    made += bits and bytes([len(bits) << 1 | 1]) + bits
    return pack("<I", len(made)) + made, histogram

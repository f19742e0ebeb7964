"""A segment: one commit of one or more events as an immutable Parquet file.

The columns are the envelope and `body`, the event's canonical JSON. A segment does not know its
position: that is its file name's affair, so a writer that lost a race publishes the same bytes one
place later. The footer's key-values are

    ledger.format  1
    ledger.id      the ledger that it belongs to
    ledger.n       rows
    ledger.base_hint, ledger.root_hint
                   a size of the log that the writer had verified, and the Merkle root there: each
                   commit so vouches for all that came before it
    ledger.leaves  base64 of the leaf hashes, where n <= 64 (else they are hashed from the bodies)
    ledger.body_sha  SHA-256 of the concatenated leaf hashes
    ledger.seal    SHA-256 of the whole file with these 64 digits as zeros: Parquet readers return
                   wrong values for most single-bit flips, so the file must vouch for itself

`decode` returns nothing from a file whose seal does not hold.
"""

from __future__ import annotations

import base64
import functools
import itertools
import os
from array import array
from collections.abc import Sequence
from hashlib import sha256
from typing import TYPE_CHECKING, Any, NamedTuple

from ledger import plain_parquet
from ledger.errors import Corrupt, Unsupported
from ledger.merkle import HASH_BYTES, leaf_hashes

if TYPE_CHECKING:
    import pyarrow as pa

FORMAT = 1
MAX_BODY = 48 * 1024
_PEEK = 8192
LEAVES_MAX = 64  # rows: up to these it lists its leaves, and plain_parquet writes it
MANY = LEAVES_MAX + 1  # rows: from here on dictionaries and compression save more than they cost
_SEAL = b"ledger.seal\x18\x40"  # Thrift compact: key, then a string of 64 bytes
BLANK = b"0" * 64


class Row(NamedTuple):
    """One row of a segment. Ids are 16 bytes, `recorded_at` microseconds since 1970 UTC."""

    event_id: bytes
    type: str
    type_version: int
    stream: str
    writer: bytes
    writer_seq: int
    recorded_at: int
    correlation_id: bytes | None
    causation_id: bytes | None
    actor: str | None
    body: bytes


class Footer(NamedTuple):
    """What a segment says of itself. `leaves` is None where there are too many to list."""

    ledger_id: str
    n: int
    base_hint: int
    root_hint: str
    leaves: tuple[bytes, ...] | None
    body_sha: str
    seal: str


@functools.cache
def schema() -> pa.Schema:
    """The Arrow schema of a segment (pyarrow is imported at the first read or large write)."""
    import pyarrow as pa

    return pa.schema(
        [
            pa.field("event_id", pa.binary(16), False),
            pa.field("type", pa.string(), False),
            pa.field("type_version", pa.int16(), False),
            pa.field("stream", pa.string(), False),
            pa.field("writer", pa.binary(16), False),
            pa.field("writer_seq", pa.int64(), False),
            pa.field("recorded_at", pa.timestamp("us", "UTC"), False),
            pa.field("correlation_id", pa.binary(16)),
            pa.field("causation_id", pa.binary(16)),
            pa.field("actor", pa.string()),
            pa.field("body", pa.binary(), False),
        ]
    )


def encode(
    rows: Sequence[Row], ledger_id: str, base_hint: int, root_hint: str, leaves: list[bytes] | None = None
) -> tuple[bytes, list[bytes]]:
    """The bytes of a segment and the leaf hashes of its rows, which may be given."""
    leaves = leaves or leaf_hashes([row.body for row in rows])
    joined = b"".join(leaves)
    keys = {
        "ledger.format": str(FORMAT),
        "ledger.id": ledger_id,
        "ledger.n": str(len(rows)),
        "ledger.base_hint": str(base_hint),
        "ledger.root_hint": root_hint,
        "ledger.body_sha": sha256(joined).hexdigest(),
    }
    if len(rows) <= LEAVES_MAX:
        keys["ledger.leaves"] = base64.b64encode(joined).decode()
    keys["ledger.seal"] = BLANK.decode()
    if len(rows) < MANY:
        return seal(bytearray(plain_parquet.encode(rows, keys))), leaves
    import pyarrow as pa
    import pyarrow.parquet as pq

    arrow = schema()
    columns = [column(values, field.type) for values, field in zip(zip(*rows, strict=True), arrow, strict=True)]
    out = pa.BufferOutputStream()
    with pq.ParquetWriter(
        out,
        arrow,
        compression={**dict.fromkeys(arrow.names, "none"), "body": "zstd"},  # the others are small or random
        use_dictionary=["type", "stream", "writer", "actor", "correlation_id"],
        column_encoding=dict.fromkeys(("writer_seq", "recorded_at"), "DELTA_BINARY_PACKED"),
        write_statistics=[name for name in arrow.names if name != "body"],
        write_page_checksum=True,
        store_schema=False,
    ) as writer:
        writer.write_batch(pa.RecordBatch.from_arrays(columns, schema=arrow))
        writer.add_key_value_metadata(keys)
    return seal(bytearray(out.getvalue())), leaves


def column(values: Sequence[Any], kind: pa.DataType) -> pa.Array:
    """An Arrow array of binary, string, float or integer values; None becomes null.

    pyarrow.array would do, but where pandas is installed it imports it at its first call: half a
    second of CPU that a training script should not pay for.
    """
    import pyarrow as pa

    given: Sequence[Any] = values
    bitmap = None
    if None in values:
        bits = sum(1 << index for index, value in enumerate(values) if value is not None)
        bitmap = pa.py_buffer(bits.to_bytes((len(values) + 7) // 8, "little"))
    if pa.types.is_fixed_size_binary(kind):
        blank = bytes(kind.byte_width)
        data = b"".join([blank if value is None else value for value in given])
        if len(data) != kind.byte_width * len(values):
            raise ValueError(f"a value is not of {kind.byte_width} bytes")
        return pa.Array.from_buffers(kind, len(values), [bitmap, pa.py_buffer(data)])
    if pa.types.is_binary(kind) or pa.types.is_string(kind):
        if pa.types.is_string(kind):
            given = [b"" if value is None else value.encode() for value in given]
        ends = array("i", itertools.accumulate(map(len, given), initial=0))
        return pa.Array.from_buffers(kind, len(values), [bitmap, pa.py_buffer(ends), pa.py_buffer(b"".join(given))])
    code = "d" if pa.types.is_floating(kind) else {16: "h", 64: "q"}[kind.bit_width]
    return pa.Array.from_buffers(kind, len(values), [bitmap, pa.py_buffer(array(code, given))])


def seal(data: bytearray) -> bytes:
    """Fill in the seal of a Parquet file that was written with a blank one."""
    at = data.rindex(_SEAL) + len(_SEAL)
    data[at : at + 64] = sha256(data).hexdigest().encode()
    return bytes(data)


def seal_of(data: bytes) -> str:
    """The seal of a sealed Parquet file, unchecked."""
    at = data.rindex(_SEAL) + len(_SEAL)
    return data[at : at + 64].decode()


def seal_holds(data: bytes) -> bool:
    """Whether a sealed Parquet file is byte for byte what was written."""
    at = data.rfind(_SEAL)
    if at < 0:
        return False
    at += len(_SEAL)
    digest = sha256(data[:at])
    digest.update(BLANK)
    digest.update(data[at + 64 :])
    return digest.hexdigest().encode() == data[at : at + 64]


def check_seal(data: bytes, path: str) -> None:
    """Raises Corrupt unless a sealed Parquet file is byte for byte what was written."""
    if not seal_holds(data):
        raise Corrupt(f"{path} is not what was written: its seal does not hold")


def peek(path: str) -> Footer | None:
    """The footer's key-values from the last 8 KiB (6 µs), None when there is no such file.

    It trusts the bytes that it reads; `decode` and `ledger verify` do not. Raises Corrupt when the
    end of the file is not a segment's.
    """
    try:
        file = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return None
    try:
        size = os.fstat(file).st_size
        tail = os.pread(file, _PEEK, max(0, size - _PEEK))
    except OSError as error:
        raise Corrupt(f"{path} cannot be read: {error.strerror}") from None
    finally:
        os.close(file)
    return footer(tail, path)


def footer(tail: bytes, path: str) -> Footer:
    """The footer of a segment from its last bytes. Raises Corrupt, or Unsupported for a newer format."""
    if tail[-4:] != b"PAR1":
        raise Corrupt(f"{path} does not end like a Parquet file: truncated or overwritten")
    form = _value(tail, "ledger.format")
    if form is not None and form != str(FORMAT).encode():
        raise Unsupported(f"{path} has format {form.decode(errors='replace')}, this program reads {FORMAT}")
    try:
        n = int(_need(tail, "ledger.n"))
        packed = _value(tail, "ledger.leaves")
        joined = base64.b64decode(packed, validate=True) if packed is not None else b""
        body_sha = _need(tail, "ledger.body_sha").decode()
        if n < 1 or (packed is not None and len(joined) != n * HASH_BYTES):
            raise ValueError("row count")
        if packed is not None and sha256(joined).hexdigest() != body_sha:
            raise ValueError("leaves")  # else a damaged leaf would enter the root that the next commit names
        return Footer(
            ledger_id=_need(tail, "ledger.id").decode(),
            n=n,
            base_hint=int(_need(tail, "ledger.base_hint")),
            root_hint=_need(tail, "ledger.root_hint").decode(),
            leaves=tuple(joined[i : i + HASH_BYTES] for i in range(0, len(joined), HASH_BYTES))
            if packed is not None
            else None,
            body_sha=body_sha,
            seal=_need(tail, "ledger.seal").decode(),
        )
    except (ValueError, UnicodeDecodeError):
        raise Corrupt(f"{path} is not a segment of a ledger: its footer cannot be read") from None


def _need(tail: bytes, key: str) -> bytes:
    value = _value(tail, key)
    if value is None:
        raise ValueError(key)
    return value


def _value(tail: bytes, key: str) -> bytes | None:
    """One key's value out of raw Thrift compact bytes: key, 0x18, varint length, bytes."""
    mark = key.encode() + b"\x18"
    at = tail.rfind(mark)
    if at < 0:
        return None
    at += len(mark)
    length = shift = 0
    while at < len(tail):
        byte = tail[at]
        at += 1
        length |= (byte & 0x7F) << shift
        shift += 7
        if not byte & 0x80:
            break
    return tail[at : at + length] if at + length <= len(tail) else None


def decode(data: bytes, path: str, ledger_id: str | None = None) -> tuple[Footer, pa.RecordBatch]:
    """The footer and the rows of a segment, sealed and of this ledger. Raises Corrupt otherwise."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        said = footer(data[-_PEEK:], path)
    except Unsupported:
        check_seal(data, path)
        raise
    check_seal(data, path)
    if ledger_id is not None and said.ledger_id != ledger_id:
        raise Corrupt(f"{path} belongs to ledger {said.ledger_id}, not to {ledger_id}")
    try:
        table = pq.ParquetFile(pa.BufferReader(data)).read(use_threads=False)
        # Files of other Arrow versions may come back with other but equal types.
        batch = table.cast(schema()).combine_chunks().to_batches()[0]
    except (pa.ArrowException, OSError, IndexError, ValueError) as error:
        raise Corrupt(f"{path} is sealed but not readable as a segment: {error}") from None
    if batch.num_rows != said.n:
        raise Corrupt(f"{path} says {said.n} rows and holds {batch.num_rows}")
    return said, batch


def leaves_of(batch: Any) -> list[bytes]:
    """Leaf hashes from the stored bodies of a batch."""
    return leaf_hashes(batch.column("body").to_pylist())

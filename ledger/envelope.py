"""Whether the columns of events say what their bodies say, for many rows at once.

The body is the truth: it is what was hashed. The columns are copies, for readers that want to filter
without parsing, so a changed copy changes answers while every hash still holds. A body is canonical
JSON with sorted keys, so around the event's own data its bytes follow from the columns. They are put
together here for all rows by Arrow and compared: a fifth of the time of parsing each body. A row
that differs (an encoder of another year may write the same value in another way) is parsed.

This never calls a row right because of what a library once wrote: equal bytes are equal, all others
are compared value by value.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import msgspec

from ledger import ids, layout

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

_HEAD = b',"event_id":"00000000-0000-0000-0000-000000000000","recorded_at":"0000-00-00T00:00:00.000000Z","stream":'
_ID, _DATE, _TIME = 13, 66, 77  # where these begin in it; the time is that of the day
_FEW = 8  # rows: as many are parsed in the time that the first calls of Arrow take
_PREFIX = ("actor", "causation_id", "correlation_id")
_TAIL = ("type", "type_version", "writer")


def data_of(batch: pa.RecordBatch) -> list[bytes | None]:
    """The JSON text of each event's `data`, or None where the columns differ from the body.

    What lies between the parts that were compared is returned unparsed: only where it is one JSON
    value was the whole body what its columns say, so the caller has to parse it.
    """
    import numpy as np
    import pyarrow as pa
    import pyarrow.compute as pc

    n, body = batch.num_rows, batch.column("body")
    if n <= _FEW:
        return _parsed(batch)
    prefix, tail = _texts(batch, _PREFIX, _prefix), _texts(batch, _TAIL, _tail)
    stream, number = _texts(batch, ("stream",), msgspec.json.encode), batch.column("writer_seq").cast(pa.string())
    after = [_heads(batch), stream, tail, number.cast(pa.binary()), pa.scalar(b"}", pa.binary())]
    starts = _offsets(body)
    first = np.minimum(starts[:-1] + np.diff(_offsets(prefix)), starts[1:])
    last = starts[1:] - sum(np.diff(_offsets(part)) for part in after[:-1]) - 1
    cuts = np.empty(2 * n + 1, np.int32)
    cuts[0], cuts[1::2], cuts[2::2] = starts[0], first, np.maximum(first, last)
    parts = pa.Array.from_buffers(pa.binary(), 2 * n, [None, pa.py_buffer(cuts), body.buffers()[2]])
    data = parts.take(pa.array(np.arange(1, 2 * n, 2)))
    made = pc.binary_join_element_wise(prefix, data, *after, pa.scalar(b"", pa.binary()))
    found: list[bytes | None] = data.to_pylist()
    same = pc.fill_null(pc.equal(made, body), False)
    if not pc.all(same).as_py():
        for index in np.flatnonzero(~same.to_numpy(zero_copy_only=False)).tolist():
            (found[index],) = _parsed(batch.slice(index, 1))
    return found


def _offsets(array: pa.Array) -> np.ndarray[Any, np.dtype[np.int32]]:
    import numpy as np

    return np.frombuffer(array.buffers()[1], np.int32)[array.offset : array.offset + len(array) + 1]


def _heads(batch: pa.RecordBatch) -> pa.Array:
    """The bytes from the data's end to the stream, which have one length."""
    import numpy as np
    import pyarrow as pa

    n, column = batch.num_rows, batch.column("event_id")
    made = np.empty((n, len(_HEAD)), np.uint8)
    made[:] = np.frombuffer(_HEAD, np.uint8)
    raw = np.frombuffer(column.buffers()[1], np.uint8)[column.offset * 16 : (column.offset + n) * 16]
    ids.write_texts(raw, made[:, _ID : _ID + ids.DIGITS])
    moments = batch.column("recorded_at").cast(pa.timestamp("us")).cast(pa.string())
    if (_offsets(moments) == np.arange(n + 1) * 26).all():  # else a year has five digits: such rows are parsed
        text = np.frombuffer(moments.buffers()[2], np.uint8)[: n * 26].reshape(n, 26)
        made[:, _DATE : _DATE + 10], made[:, _TIME : _TIME + 15] = text[:, :10], text[:, 11:]
    ends = np.arange(n + 1, dtype=np.int32) * len(_HEAD)
    return pa.Array.from_buffers(pa.binary(), n, [None, pa.py_buffer(ends), pa.py_buffer(made)])


def _texts(batch: pa.RecordBatch, names: tuple[str, ...], made: Any) -> pa.Array:
    """made(values of these columns) for each row, called once for each combination that occurs."""
    import numpy as np
    import pyarrow as pa

    columns = [batch.column(name).dictionary_encode(null_encoding="encode") for name in names]
    if len(columns) == 1:
        return pa.array(map(made, columns[0].dictionary.to_pylist()), pa.binary()).take(columns[0].indices)
    codes = np.zeros(batch.num_rows, np.int64)
    for column in columns:
        codes = codes * len(column.dictionary) + column.indices.to_numpy()
    _, first, which = np.unique(codes, return_index=True, return_inverse=True)
    known = [column.take(pa.array(first)).to_pylist() for column in columns]
    return pa.array([made(*values) for values in zip(*known, strict=True)], pa.binary()).take(pa.array(which))


def _prefix(actor: str | None, causation: bytes | None, correlation: bytes | None) -> bytes:
    told = (msgspec.json.encode(value) for value in (actor, _uuid(causation), _uuid(correlation)))
    return b'{"actor":%b,"causation_id":%b,"correlation_id":%b,"data":' % tuple(told)


def _tail(kind: str, version: int, writer: bytes) -> bytes:
    told = (msgspec.json.encode(kind), version, writer.hex().encode())
    return b',"type":%b,"type_version":%d,"writer":"%b","writer_seq":' % told


def _uuid(raw: bytes | None) -> str | None:
    return ids.text(raw) if raw is not None else None


def _parsed(rows: pa.RecordBatch) -> list[bytes | None]:
    """The data of events whose bodies say value by value what their columns say."""
    import pyarrow as pa

    names = [name for name in rows.schema.names if name != "recorded_at"]
    moments = rows.column("recorded_at").cast(pa.int64()).to_pylist()
    columns = [rows.column(name).to_pylist() for name in names]
    return [
        _one_parsed(dict(zip(names, values, strict=True)), moment)
        for moment, *values in zip(moments, *columns, strict=True)
    ]


def _one_parsed(told: dict[str, Any], moment: int) -> bytes | None:
    try:
        body = json.loads(told["body"], object_pairs_hook=_once, parse_constant=_refuse)
        said = {
            "event_id": _uuid(told["event_id"]),
            "recorded_at": layout.time_text(moment),
            "causation_id": _uuid(told["causation_id"]),
            "correlation_id": _uuid(told["correlation_id"]),
            "writer": told["writer"].hex(),
            **{name: told[name] for name in ("actor", "stream", "type", "type_version", "writer_seq")},
        }
        data = body.pop("data")
        return msgspec.json.encode(data) if body == said else None
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError):
        return None


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object. A key that stands in it twice means another thing to every reader."""
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key twice")
    return found


def _refuse(word: str) -> None:
    """NaN and Infinity are no JSON, though Python's reader takes them."""
    raise ValueError(word)

"""From events to typed rows: one staged table a type, filled in order of position, never rewritten.

The columns come from the structs in ledger/events.py, so a new field is staged without a line here.
Bodies of an older version go through their upcasters first. A type or version that this program
does not know stops the projection: to skip it would be to answer without it.

    staged.event          every event's envelope and body
    staged.<type>         position, event_id, recorded_at and the data's fields
    staged.point          points of metrics, from their chunks
    facts.<same names>    the same less what was retracted; this is what tables read
"""

from __future__ import annotations

import types
import typing
from collections.abc import Iterable, Iterator
from typing import Any

import duckdb
import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ledger import events, points
from ledger.chain import Log

_SCALARS = {str: "VARCHAR", int: "BIGINT", float: "DOUBLE", bool: "BOOLEAN"}
_INCOMING = pa.schema(
    [
        ("position", pa.int64()),
        ("event_id", pa.string()),
        ("type", pa.string()),
        ("version", pa.int64()),
        ("stream", pa.string()),
        ("recorded_at", pa.timestamp("us", "UTC")),
        ("actor", pa.string()),
        ("correlation_id", pa.string()),
        ("causation_id", pa.string()),
        ("body", pa.string()),
        ("upcast", pa.string()),  # of an event of an older version: {"data": …} as today's version has it
    ]
)
ENVELOPE = ("position", "event_id", "recorded_at", "stream", "actor", "correlation_id", "causation_id")
_DIGITS = np.frombuffer("".join(f"{byte:02x}" for byte in range(256)).encode(), np.uint8).reshape(256, 2)
_DIGIT_AT = [at for at in range(36) if at not in (8, 13, 18, 23)]  # in the text of a UUID; the rest are dashes


def table_name(kind: str) -> str:
    """`run.started` is staged as run_started."""
    return kind.replace(".", "_")


def structure(kind: Any) -> Any:
    """The json_transform structure of a field's type: "VARCHAR", ["VARCHAR"], {"name": "VARCHAR", …}."""
    if kind in _SCALARS:
        return _SCALARS[kind]
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        hints = typing.get_type_hints(kind)
        return {field.name: structure(hints[field.name]) for field in msgspec.structs.fields(kind)}
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is typing.Literal:
        return _SCALARS[type(arguments[0])]
    if origin is tuple:
        return [structure(arguments[0])]
    if origin in (typing.Union, types.UnionType):
        # An optional is its type; a Real (float or a tag such as "NaN") is a DOUBLE, which reads the tags.
        inner = {str(structure(item)): structure(item) for item in arguments if item is not type(None)}
        return "DOUBLE" if "DOUBLE" in inner else next(iter(inner.values()))
    raise TypeError(f"no column type for {kind}")


def create(connection: duckdb.DuckDBPyConnection) -> None:
    """Make the empty staged tables and the facts views over them."""
    connection.execute("CREATE SCHEMA staged")
    connection.execute("CREATE SCHEMA facts")
    connection.execute(
        """CREATE TABLE staged.event (
            position BIGINT, event_id VARCHAR, type VARCHAR, version BIGINT, stream VARCHAR,
            recorded_at TIMESTAMPTZ, actor VARCHAR, correlation_id VARCHAR, causation_id VARCHAR,
            body VARCHAR USING COMPRESSION zstd)"""  # a third of the size and of the time that DuckDB would take
    )
    connection.execute(
        """CREATE TABLE staged.point (
            run VARCHAR, step BIGINT, name VARCHAR, value DOUBLE, time TIMESTAMPTZ, source VARCHAR,
            recovered BOOLEAN, event_position BIGINT, event_id VARCHAR, row BIGINT)"""
    )
    connection.register("incoming", _INCOMING.empty_table())
    for kind, struct in events.TYPES.items():
        connection.execute(f"CREATE TABLE staged.{table_name(kind)} AS {_select(kind, struct)}")
    connection.unregister("incoming")
    # A retraction cannot be retracted: what was wrongly retracted is appended anew.
    connection.execute(
        """CREATE VIEW facts.retraction AS
        SELECT target, min(position) AS position FROM staged.event_retracted GROUP BY target"""
    )
    connection.execute("CREATE VIEW facts.event AS SELECT * FROM staged.event")
    for name in (*map(table_name, events.TYPES), "point"):
        connection.execute(
            f"""CREATE VIEW facts.{name} AS SELECT fact.* FROM staged.{name} AS fact
            WHERE fact.event_id NOT IN (SELECT target FROM staged.event_retracted)"""
        )


def fields(struct: type) -> str:
    """SQL for the columns of a type's data out of `told.data`. A field may be called as the envelope's are:
    such a one is the column data_<name>."""
    names = [
        (field.name, f"data_{field.name}" if field.name in ENVELOPE else field.name)
        for field in msgspec.structs.fields(struct)
    ]
    return ", ".join(f'told.data."{field}" AS "{column}"' for field, column in names)


def _select(kind: str, struct: type) -> str:
    text = msgspec.json.encode({"data": structure(struct)}).decode()
    # The names and the structure come from our own structs, never from input.
    return f"""SELECT position, event_id, recorded_at, {fields(struct)} FROM (
        SELECT position, event_id, recorded_at, json_transform(coalesce(upcast, body), '{text}') AS told
        FROM incoming WHERE type = '{kind}')"""


def stage(connection: duckdb.DuckDBPyConnection, log: Log, start: int, stop: int) -> list[bytes]:
    """Add the events [start, stop) to the staged tables; their bodies, for the caller to hash.

    Raises Unsupported for an unknown type or version, Corrupt for damaged bytes.
    """
    bodies: list[bytes] = []
    parts: list[pa.RecordBatch] = []
    for base, _, batch in log.batches(start, stop):
        bodies += batch["body"].to_pylist()
        parts.append(_incoming(base, batch))
    if not parts:
        return bodies
    # In one piece: of a thousand small batches DuckDB makes a thousand chunks, each as large as a full one.
    incoming = pa.Table.from_batches(parts).combine_chunks()
    connection.register("incoming", incoming)
    # No ORDER BY: DuckDB keeps the order in which rows come, and tables are ordered by their keys anyway.
    connection.execute("INSERT INTO staged.event SELECT * EXCLUDE (upcast) FROM incoming")
    there = set(pc.unique(incoming["type"]).to_pylist())
    for kind, struct in events.TYPES.items():
        if kind in there:
            connection.execute(f"INSERT INTO staged.{table_name(kind)} {_select(kind, struct)}")
    connection.unregister("incoming")
    _stage_points(connection, log, _chunks(incoming))
    return bodies


def _incoming(base: int, batch: pa.RecordBatch) -> pa.RecordBatch:
    n = batch.num_rows
    arrays = {
        "position": pa.array(np.arange(base, base + n)),
        "version": batch["type_version"].cast(pa.int64()),
        "body": batch["body"].cast(pa.string()),
        "upcast": _upcast(batch),
        **{name: _uuids(batch[name]) for name in ("event_id", "correlation_id", "causation_id")},
    }
    return pa.RecordBatch.from_arrays(
        [arrays[field.name] if field.name in arrays else batch[field.name] for field in _INCOMING], schema=_INCOMING
    )


def _upcast(batch: pa.RecordBatch) -> pa.Array:
    """{"data": …} for the events that are not of today's version, null for the others."""
    pairs = pa.table([batch["type"], batch["type_version"]], ["type", "version"]).group_by(["type", "version"])
    told = pairs.aggregate([]).to_pylist()
    if all(pair["type"] in events.TYPES and pair["version"] == events.TYPES[pair["type"]].VERSION for pair in told):
        return pa.nulls(batch.num_rows, pa.string())
    newer: list[str | None] = []
    for kind, version, body in zip(
        *(batch[name].to_pylist() for name in ("type", "type_version", "body")), strict=True
    ):
        known = events.TYPES.get(kind)
        if known is None or version != known.VERSION:
            data = events.upcast(kind, version, msgspec.json.decode(body)["data"])
            newer.append(msgspec.json.encode({"data": data}).decode())
        else:
            newer.append(None)
    return pa.array(newer, pa.string())


def _uuids(ids: pa.Array) -> pa.Array:
    """Ids of 16 bytes as text. The str() of each alone would take longer than all the rest of an envelope."""
    n = len(ids)
    if ids.null_count == n:
        return pa.nulls(n, pa.string())
    raw = np.frombuffer(ids.buffers()[1], np.uint8)[ids.offset * 16 : (ids.offset + n) * 16]
    text = np.full((n, 36), ord("-"), np.uint8)
    text[:, _DIGIT_AT] = _DIGITS[raw].reshape(n, 32)
    ends = np.arange(0, 36 * (n + 1), 36, dtype=np.int32)
    made = pa.Array.from_buffers(pa.string(), n, [None, pa.py_buffer(ends), pa.py_buffer(text)])
    return pc.if_else(ids.is_valid(), made, pa.scalar(None, pa.string()))


def _chunks(incoming: pa.Table) -> Iterator[tuple[int, str, events.MetricsLogged]]:
    """Position, id and data of every chunk of points, in order."""
    kind = events.MetricsLogged.TYPE
    for row in incoming.filter(pc.equal(incoming["type"], kind)).to_pylist():
        # With `upcast` the data are today's already.
        version = events.MetricsLogged.VERSION if row["upcast"] else row["version"]
        data = events.parse(kind, version, msgspec.json.decode(row["upcast"] or row["body"])["data"])
        assert isinstance(data, events.MetricsLogged)
        yield row["position"], row["event_id"], data


def _stage_points(
    connection: duckdb.DuckDBPyConnection, log: Log, chunks: Iterable[tuple[int, str, events.MetricsLogged]]
) -> None:
    parts = []
    for position, event_id, data in chunks:
        batch = points.read_chunk(log.root, data)
        n = batch.num_rows
        parts.append(
            pa.table(
                {
                    "run": pa.repeat(data.run, n),
                    **{name: batch[name] for name in ("step", "name", "value", "time")},
                    "source": pa.repeat(data.source, n),
                    "recovered": pa.repeat(data.recovered, n),
                    "event_position": pa.repeat(pa.scalar(position, pa.int64()), n),
                    "event_id": pa.repeat(event_id, n),
                    "row": pa.array(np.arange(n)),
                }
            )
        )
    if parts:
        connection.register("incoming_points", pa.concat_tables(parts))
        connection.execute("INSERT INTO staged.point SELECT * FROM incoming_points ORDER BY event_position, row")
        connection.unregister("incoming_points")

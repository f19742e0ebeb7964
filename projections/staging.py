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
from collections.abc import Iterable
from typing import Any

import duckdb
import msgspec
import pyarrow as pa

from ledger import events, points
from ledger.chain import Log

_SCALARS = {str: "VARCHAR", int: "BIGINT", float: "DOUBLE", bool: "BOOLEAN"}
_ENVELOPE = pa.schema(
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
        ("upcast", pa.string()),
    ]
)


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
            recorded_at TIMESTAMPTZ, actor VARCHAR, correlation_id VARCHAR, causation_id VARCHAR, body VARCHAR)"""
    )
    connection.execute(
        """CREATE TABLE staged.point (
            run VARCHAR, step BIGINT, name VARCHAR, value DOUBLE, time TIMESTAMPTZ, source VARCHAR,
            event_position BIGINT, event_id VARCHAR, row BIGINT)"""
    )
    connection.register("incoming", _ENVELOPE.empty_table())
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


def _select(kind: str, struct: type) -> str:
    text = msgspec.json.encode(structure(struct)).decode()
    # The names and the structure come from our own structs, never from input.
    return f"""SELECT position, event_id, recorded_at, unnest(data) FROM (
        SELECT position, event_id, recorded_at,
            json_transform(coalesce(upcast, json_extract(body, '$.data')::VARCHAR), '{text}') AS data
        FROM incoming WHERE type = '{kind}')"""


def stage(connection: duckdb.DuckDBPyConnection, log: Log, start: int, stop: int) -> list[bytes]:
    """Add the events [start, stop) to the staged tables; their bodies, for the caller to hash.

    Raises Unsupported for an unknown type or version, Corrupt for damaged bytes.
    """
    bodies: list[bytes] = []
    parts: list[pa.RecordBatch] = []
    chunks: list[tuple[int, str, events.MetricsLogged]] = []
    for base, _, batch in log.batches(start, stop):
        columns = batch.to_pydict()
        bodies += columns["body"]
        parts.append(_envelope(base, columns))
        for index, kind in enumerate(columns["type"]):
            if kind == events.MetricsLogged.TYPE:
                data = events.parse(
                    kind, columns["type_version"][index], msgspec.json.decode(columns["body"][index])["data"]
                )
                assert isinstance(data, events.MetricsLogged)
                chunks.append((base + index, parts[-1]["event_id"][index].as_py(), data))
    if not parts:
        return bodies
    connection.register("incoming", pa.Table.from_batches(parts).combine_chunks())
    connection.execute("INSERT INTO staged.event SELECT * EXCLUDE (upcast) FROM incoming ORDER BY position")
    for kind, struct in events.TYPES.items():
        connection.execute(f"INSERT INTO staged.{table_name(kind)} {_select(kind, struct)} ORDER BY position")
    connection.unregister("incoming")
    _stage_points(connection, log, chunks)
    return bodies


def _envelope(base: int, columns: dict[str, list[Any]]) -> pa.RecordBatch:
    n = len(columns["body"])
    newer: list[str | None] = [None] * n
    for index, (kind, version) in enumerate(zip(columns["type"], columns["type_version"], strict=True)):
        known = events.TYPES.get(kind)
        if known is None or version != known.VERSION:
            data = events.upcast(kind, version, msgspec.json.decode(columns["body"][index])["data"])
            newer[index] = msgspec.json.encode(data).decode()
    return pa.RecordBatch.from_arrays(
        [
            pa.array(range(base, base + n), pa.int64()),
            pa.array(map(_uuid, columns["event_id"]), pa.string()),
            pa.array(columns["type"], pa.string()),
            pa.array(columns["type_version"], pa.int64()),
            pa.array(columns["stream"], pa.string()),
            pa.array(columns["recorded_at"], pa.timestamp("us", "UTC")),
            pa.array(columns["actor"], pa.string()),
            pa.array(map(_uuid, columns["correlation_id"]), pa.string()),
            pa.array(map(_uuid, columns["causation_id"]), pa.string()),
            pa.array((body.decode() for body in columns["body"]), pa.string()),
            pa.array(newer, pa.string()),
        ],
        schema=_ENVELOPE,
    )


def _uuid(raw: bytes | None) -> str | None:
    if raw is None:
        return None
    text = raw.hex()
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


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
                    "run": pa.array([data.run] * n, pa.string()),
                    "step": batch["step"],
                    "name": batch["name"],
                    "value": batch["value"],
                    "time": batch["time"],
                    "source": pa.array([data.source] * n, pa.string()),
                    "event_position": pa.array([position] * n, pa.int64()),
                    "event_id": pa.array([event_id] * n, pa.string()),
                    "row": pa.array(range(n), pa.int64()),
                }
            )
        )
    if parts:
        connection.register("incoming_points", pa.concat_tables(parts))
        connection.execute("INSERT INTO staged.point SELECT * FROM incoming_points ORDER BY event_position, row")
        connection.unregister("incoming_points")

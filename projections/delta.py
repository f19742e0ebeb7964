"""A Delta log over Parquet files that lie there already: metadata only, so that Delta's readers find them.

One version is a JSON file of actions (github.com/delta-io/delta, PROTOCOL.md). The tables can be
read by every reader of protocol 1; for writers they ask for a feature that no writer has, so that
whoever follows the protocol refuses to append, delete, optimise or vacuum: the files are a ledger's.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import msgspec
import pyarrow as pa

READ_ONLY = "experimentLedgerReadOnly"


class Part(NamedTuple):
    """One Parquet file of a table; `path` is below the table's folder, `modified` milliseconds since 1970."""

    path: str
    bytes: int
    rows: int
    modified: int


class State(NamedTuple):
    """What the versions so far say: the newest one's number (-1: none), the schema, the files."""

    version: int
    schema: str
    parts: Mapping[str, Part]


NOTHING = State(-1, "", {})


def replay(state: State, text: bytes) -> State:
    """The state after one more version. Raises msgspec.DecodeError, KeyError for what is none of ours."""
    schema, parts = state.schema, dict(state.parts)
    for line in text.splitlines():
        action = msgspec.json.decode(line)
        if "metaData" in action:
            schema = action["metaData"]["schemaString"]
        elif "add" in action:
            told = action["add"]
            rows = msgspec.json.decode(told["stats"])["numRecords"]
            parts[told["path"]] = Part(told["path"], told["size"], rows, told["modificationTime"])
        elif "remove" in action:
            del parts[action["remove"]["path"]]
    return State(state.version + 1, schema, parts)


def step(state: State, table_id: str, name: str, schema: str, parts: Iterable[Part], now: int) -> bytes | None:
    """The next version, after which the table is these files; None when it is so already. `now` in milliseconds."""
    wanted = {part.path: part for part in parts}
    same = {path for path, part in wanted.items() if path in state.parts and _alike(part, state.parts[path])}
    actions: list[dict[str, Any]] = []
    if state.version < 0:
        actions.append({"protocol": {"minReaderVersion": 1, "minWriterVersion": 7, "writerFeatures": [READ_ONLY]}})
    if schema != state.schema:
        form = {"provider": "parquet", "options": {}}
        about = {"id": table_id, "name": name, "format": form, "schemaString": schema, "partitionColumns": []}
        actions.append({"metaData": {**about, "configuration": {}, "createdTime": now}})
    actions += [
        {"remove": {"path": path, "deletionTimestamp": now, "dataChange": True}}
        for path in sorted(state.parts)
        if path not in wanted  # an add replaces what its path was before
    ]
    actions += [
        {
            "add": {
                "path": path,
                "partitionValues": {},
                "size": part.bytes,
                "modificationTime": part.modified,
                "dataChange": True,
                "stats": msgspec.json.encode({"numRecords": part.rows}).decode(),
            }
        }
        for path, part in sorted(wanted.items())
        if path not in same
    ]
    if not actions:
        return None
    told = {"commitInfo": {"timestamp": now, "operation": "WRITE", "operationParameters": {}}}
    return b"".join(msgspec.json.encode(action) + b"\n" for action in [told, *actions])


def _alike(one: Part, other: Part) -> bool:
    return (one.bytes, one.rows) == (other.bytes, other.rows)


def schema_text(schema: pa.Schema) -> str:
    """An Arrow schema as Delta writes it."""
    return msgspec.json.encode({"type": "struct", "fields": [_field(field) for field in schema]}).decode()


def _field(field: pa.Field) -> dict[str, Any]:
    return {"name": field.name, "type": _kind(field.type), "nullable": True, "metadata": {}}


def _kind(kind: pa.DataType) -> Any:
    if pa.types.is_struct(kind):
        return {"type": "struct", "fields": [_field(kind.field(index)) for index in range(kind.num_fields)]}
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return {"type": "array", "elementType": _kind(kind.value_type), "containsNull": True}
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return "string"
    if pa.types.is_binary(kind) or pa.types.is_fixed_size_binary(kind):
        return "binary"
    if pa.types.is_timestamp(kind) and kind.tz is not None:
        return "timestamp"
    names = {
        pa.int16(): "short",
        pa.int32(): "integer",
        pa.int64(): "long",
        pa.float64(): "double",
        pa.bool_(): "boolean",
    }
    if kind in names:
        return names[kind]
    raise TypeError(f"no Delta type for {kind}")

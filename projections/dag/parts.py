"""A revision as the events that hold it, and back: an event holds 48 KiB, a DAG of a hundred techniques does not fit.

All parts stand in one commit, one after the other. The lists go on from part to part; texts and the
recommendation stand in the first, what identifies the revision in each.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import msgspec

from ledger.errors import UsageError
from ledger.events import DagRevised, parse
from projections.engine import Tables

ROOM = 40 * 1024  # bytes of a part
TEXT = 32 * 1024  # bytes of a skeleton
LISTS = (
    "used", "nodes", "edges", "lineage", "interactions", "loops", "separations", "measures", "unexplored",
    "discovery", "notes",
)  # fmt: skip


def split(made: DagRevised) -> list[DagRevised]:
    """The parts, in order. Raises UsageError for a skeleton or one entry that is too long for an event."""
    if len(made.skeleton.encode()) > TEXT:
        raise UsageError(f"the skeleton has {len(made.skeleton.encode())} bytes; an event has room for {TEXT}")
    empty: dict[str, Any] = dict.fromkeys(LISTS, ())
    first = msgspec.structs.replace(made, **empty)
    rest = msgspec.structs.replace(first, skeleton="", params=())
    filled: list[dict[str, list[Any]]] = [{}]
    room = ROOM - len(msgspec.json.encode(first))
    for name in LISTS:
        for entry in getattr(made, name):
            size = len(msgspec.json.encode(entry)) + 1
            if size > room:
                if size > ROOM - len(msgspec.json.encode(rest)):
                    raise UsageError(f"an entry of {name} has {size} bytes, more than an event has room for")
                filled.append({})
                room = ROOM - len(msgspec.json.encode(rest))
            room -= size
            filled[-1].setdefault(name, []).append(entry)
    return [
        msgspec.structs.replace(
            first if number == 0 else rest,
            part=number + 1,
            parts=len(filled),
            **{name: tuple(entries) for name, entries in lists.items()},
        )
        for number, lists in enumerate(filled)
    ]


def join(parts: Sequence[DagRevised]) -> DagRevised:
    """The whole revision of its parts in order."""
    lists: dict[str, Any] = {name: tuple(entry for part in parts for entry in getattr(part, name)) for name in LISTS}
    return msgspec.structs.replace(parts[0], part=1, parts=1, **lists)


def revisions(tables: Tables) -> Iterator[tuple[int, DagRevised]]:
    """(position of the first part, whole revision) of all that stand in these tables, in log order."""
    rows = tables.rows(
        """SELECT revision.position AS revision, events.version, events.body
        FROM dag_revisions AS revision
        INNER JOIN events
            ON events.position >= revision.position AND events.position < revision.position + revision.parts
        ORDER BY events.position"""
    )
    for position in dict.fromkeys(row["revision"] for row in rows):
        yield position, join([_parsed(row) for row in rows if row["revision"] == position])


def _parsed(row: dict[str, Any]) -> DagRevised:
    data = parse(DagRevised.TYPE, row["version"], msgspec.json.decode(row["body"])["data"])
    assert isinstance(data, DagRevised)
    return data

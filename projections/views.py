"""The text of views.sql: the log and its typed events for any DuckDB, without an extension and without us.

Paths in it are relative, so it works wherever the ledger's folder lies and whatever it is called, as
long as that is the present folder. It looks for packs and loose segments itself at every query, by
the same rule as the log (chain.py): a loose segment counts from the end of the packs on, and of packs
that overlap the longer one. What is not yet in a typed file is read from the bodies.

DuckDB does not check what it reads: after a doubt, `ledger verify`.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from ledger import events
from projections.staging import fields, structure, table_name

# Matches log/<shard>/<base>.parquet and pack/<p0>-<p1>.parquet: one pattern, because DuckDB refuses one that
# matches nothing, and a ledger may have either kind of file alone.
_GLOB = "'[lp][oa][gc]*/**/*.parquet'"

_HEAD = """\
-- Made by `ledger rebuild`; do not edit. Views over this ledger's files for any DuckDB, no extension needed:
--
--     cd <this folder> && duckdb -init views.sql
--
-- events                 every event: position, id, type, version, stream, recorded_at, actor, …, body (JSON text)
-- run_started, …         one view an event type: its data in columns, less what was retracted
-- events_raw             every event as it is stored, with its position
--
-- DuckDB does not check what it reads; `ledger verify` does.
"""

_RAW = f"""
CREATE OR REPLACE VIEW events_raw AS
WITH listed AS (
    SELECT
        file,
        split_part(parse_filename(file, true), '-', 1)::BIGINT AS base,
        nullif(split_part(parse_filename(file, true), '-', 2), '')::BIGINT AS stop
    FROM glob({_GLOB})
),

-- How far the packs before it reach: of a pack within others nothing counts, of one that overlaps the rest.
packs AS (
    SELECT
        *,
        coalesce(
            max(stop) OVER (ORDER BY base, stop DESC ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING), 0
        ) AS reached
    FROM listed
    WHERE stop IS NOT NULL
),

chained AS (
    SELECT *, bool_and(base <= reached) OVER (ORDER BY base, stop DESC) AS joined
    FROM packs
),

counting AS (
    SELECT file, base, reached
    FROM chained
    WHERE joined AND stop > reached
    UNION ALL
    SELECT file, base, base AS reached
    FROM listed
    WHERE stop IS NULL AND base >= (SELECT coalesce(max(stop), 0) FROM chained WHERE joined)
)

SELECT
    counting.base + stored.file_row_number AS position,
    stored.* EXCLUDE (filename, file_row_number)
-- In this order: files that come between the two looks are not counted, and those that they replace stay a while.
FROM counting
INNER JOIN read_parquet({_GLOB}, filename = true, file_row_number = true) AS stored
    ON stored.filename = counting.file
WHERE counting.base + stored.file_row_number >= counting.reached;

CREATE OR REPLACE MACRO uuid_text(id) AS
    substr(lower(hex(id)), 1, 8) || '-' || substr(lower(hex(id)), 9, 4) || '-' || substr(lower(hex(id)), 13, 4)
    || '-' || substr(lower(hex(id)), 17, 4) || '-' || substr(lower(hex(id)), 21);
"""

_EVENTS = """
CREATE OR REPLACE VIEW events AS
SELECT
    position,
    uuid_text(event_id) AS id,
    type,
    type_version AS version,
    stream,
    recorded_at,
    actor,
    uuid_text(correlation_id) AS correlation_id,
    uuid_text(causation_id) AS causation_id,
    retracted.retracted_by,
    decode(body) AS body
FROM events_raw
LEFT JOIN (SELECT target, min(position) AS retracted_by FROM all_event_retracted GROUP BY target) AS retracted
    ON retracted.target = uuid_text(event_id);
"""


def text(size: int, files: Sequence[tuple[str, str]]) -> str:
    """views.sql for typed files (type, path) that hold the first `size` events."""
    parts = [_HEAD, _RAW]
    for kind, struct in events.TYPES.items():
        parts.append(_one(kind, struct, size, [path for other, path in files if other == kind]))
    parts.append(_EVENTS)
    for kind in events.TYPES:
        name = table_name(kind)
        parts.append(
            f"""
CREATE OR REPLACE VIEW {name} AS
SELECT * FROM all_{name} WHERE event_id NOT IN (SELECT target FROM all_event_retracted);
"""
        )
    return "".join(parts)


def _one(kind: str, struct: type[events.EventData], size: int, paths: Sequence[str]) -> str:
    """The view of all events of a type, retracted ones too: from the typed files, then from the bodies."""
    shape = msgspec.json.encode({"data": structure(struct)}).decode()
    # An event of another version was written by another program: to read it as this one would be to guess.
    newer = f"{kind} has a version that these views do not know: run ledger rebuild"
    tail = f"""\
SELECT position, event_id, recorded_at, stream, actor, correlation_id, causation_id,
    {fields(struct)}
FROM (
    SELECT
        position, uuid_text(event_id) AS event_id, recorded_at, stream, actor,
        uuid_text(correlation_id) AS correlation_id, uuid_text(causation_id) AS causation_id,
        json_transform(decode(body), '{shape}') AS told
    FROM events_raw
    WHERE type = '{kind}' AND position >= {size}
        AND CASE WHEN type_version = {struct.VERSION} THEN true ELSE error('{newer}') END
)"""
    listed = ",\n    ".join(f"'{path}'" for path in paths)
    before = f"SELECT * FROM read_parquet([\n    {listed}\n])\nUNION ALL BY NAME\n" if paths else ""
    return f"\nCREATE OR REPLACE VIEW all_{table_name(kind)} AS\n{before}{tail};\n"

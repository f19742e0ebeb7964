"""The tables: one SQL file each, with its head comment as documentation, in an order that is derived.

A head gives what the table is for, `kind` (table: built and kept; view: read through), `key` (columns
that identify a row, and its total order) and, for a table, `scope`: the column or columns (see engine.py)
such that a row depends only on source rows of the same scope. That is what makes incremental
building right: when events touch some runs, only the rows of those runs are made again. Records are
judged by what all of them show together, so an event of one of them touches all.

A table's file names its sources bare (`run_started`, `runs`); the engine decides which of their
rows it sees. A view's file names `facts.…` because it always sees all.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from hashlib import sha256
from importlib import resources
from typing import Any, Literal, NamedTuple

import duckdb

ESTIMATES = "estimates"  # the relation that judged.py makes for effects.sql
NOISES = "noises"  # noise.py, for noise.sql
STREAMED = "streamed"  # alpha.py, for alpha_ledger.sql
AUDITED = "audited"  # the relation that claims.py makes for claim_audit.sql
SCREENED = "screened"  # the relation that screened.py makes for screen_effects.sql
TRANSFERRED = "transferred"  # those that transfers.py makes for transfer.sql
FORESEEN = "foreseen"  # and for transfer_pred.sql
WORTHS = "worths"  # the relation that ranking.py makes for next_options.sql
MADE_FROM = {  # what the relations that Python makes are made from, each sorted by its key
    ESTIMATES: ("experiments", "runs", "paired_differences", "evidence", "noise_arms"),
    NOISES: ("noise_arms", "runs", "experiments"),
    STREAMED: ("effects", "experiments"),
    AUDITED: (
        "records", "record_seeds", "seed_sources", "lineage", "leaderboard", "record_tests", "record_selections",
    ),
    SCREENED: ("experiments", "runs", "noise_arms"),
    TRANSFERRED: ("change_metrics", "experiments"),
    FORESEEN: ("change_metrics", "experiments"),
    WORTHS: (
        "conditions", "noise", "experiments", "experiment_arms", "paired_differences", "screen_effects", "transfer",
        "transfer_pred", "lineage_effects", "identifiability", "dag_nodes", "records", "intervention_matrix",
        "claim_audit",
    ),
}  # fmt: skip


class Table(NamedTuple):
    """One projection: what its file says, and the relations that it reads."""

    name: str
    about: str
    kind: Literal["table", "view"]
    key: tuple[str, ...]
    scope: str | None
    columns: tuple[tuple[str, str], ...]
    sql: str
    reads: frozenset[str]


@functools.cache
def tables() -> tuple[Table, ...]:
    """All tables, each after those that it reads. Raises ValueError for a malformed file or a circle."""
    folder = resources.files("projections") / "sql"
    found = {
        item.name[:-4]: parse(item.name[:-4], item.read_text(encoding="utf-8"))
        for item in folder.iterdir()
        if item.name.endswith(".sql")
    }
    edges = {table.name: sorted((table.reads | _through(table.reads)) & found.keys()) for table in found.values()}
    try:
        order = list(TopologicalSorter(dict(sorted(edges.items()))).static_order())
    except CycleError as error:
        raise ValueError(f"tables read each other in a circle: {error.args[1]}") from None
    return tuple(found[name] for name in order)


def _through(reads: frozenset[str]) -> set[str]:
    """What Python makes a relation from counts as read by whoever reads the relation."""
    return {source for made, sources in MADE_FROM.items() if made in reads for source in sources}


@functools.cache
def facts(name: str) -> frozenset[str] | None:
    """The facts (staging.py) that a table's rows come from in SQL alone; None where Python makes a part of them, for
    that looks at what it likes."""
    known = {table.name: table for table in tables()}
    if name not in known:
        return None if name in MADE_FROM else frozenset((name,))
    parts = [facts(source) for source in known[name].reads]
    return None if None in parts else frozenset().union(*[part for part in parts if part is not None])


def parse(name: str, text: str) -> Table:
    """A table from its file's text. Raises ValueError naming what is missing."""
    head, sql = re.match(r"((?:--[^\n]*\n)*)(.*)", text, re.DOTALL).groups()  # type: ignore[union-attr]
    about: list[str] = []
    said: dict[str, str] = {}
    columns: list[tuple[str, str]] = []
    for line in head.splitlines():
        body = line[2:]
        if match := re.fullmatch(r"   (\w+): (.+)", body):
            columns.append((match[1], match[2]))
        elif match := re.fullmatch(r" (kind|key|scope): (.+)", body):
            said[match[1]] = match[2]
        elif body != " columns:":
            about.append(body.strip())
    kind = said.get("kind")
    if kind not in ("table", "view") or "key" not in said or not about or not columns:
        raise ValueError(f"{name}.sql: its head needs a description, kind (table or view), key and columns")
    if (kind == "table") != ("scope" in said):
        raise ValueError(f"{name}.sql: a table has a scope, a view has none")
    return Table(
        name=name,
        about="\n".join(about),
        kind="table" if kind == "table" else "view",
        key=tuple(part.strip() for part in said["key"].split(",")),
        scope=said.get("scope"),
        columns=tuple(columns),
        sql=sql.strip(),
        reads=relations(sql, name),
    )


@functools.cache
def _parser() -> duckdb.DuckDBPyConnection:
    """A database in memory that only parses: to open one for each file takes longer than all the rest."""
    return duckdb.connect()


def relations(sql: str, name: str) -> frozenset[str]:
    """Names of the relations that a query reads, its own common table expressions left out."""
    with _parser().cursor() as connection:
        row = connection.execute("SELECT json_serialize_sql($1)", [sql]).fetchone()
    tree = json.loads(row[0]) if row else {"error": True}
    if tree.get("error"):
        raise ValueError(f"{name}.sql: {tree.get('error_message', 'cannot be parsed')}")
    own = {entry["key"] for node in _walk(tree) if "cte_map" in node for entry in node["cte_map"]["map"]}
    return frozenset(node["table_name"] for node in _walk(tree) if node.get("type") == "BASE_TABLE") - own


def _walk(node: Any) -> Iterator[dict[str, Any]]:
    if isinstance(node, dict):
        yield node
        for value in node.values():
            yield from _walk(value)
    elif isinstance(node, list):
        for value in node:
            yield from _walk(value)


@functools.cache
def code_digest() -> str:
    """What the tables' content depends on besides the events: this package's text and DuckDB's version."""
    total = sha256(duckdb.__version__.encode())
    folder = resources.files("projections")
    parts = ("", "sql", "statistics", "dag")
    paths = [(f"{part}/{item.name}", item) for part in parts for item in (folder / part).iterdir()]
    for name, item in sorted(paths, key=lambda path: path[0]):
        if name.endswith((".py", ".sql")):
            total.update(name.encode() + b"\0" + item.read_bytes() + b"\0")
    for name in ("cycles.py", "dag.py", "events.py", "records.py", "upcasters.py"):
        total.update(resources.files("ledger").joinpath(name).read_bytes())
    return total.hexdigest()[:16]

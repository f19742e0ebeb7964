"""`ledger sql`: a query over the tables, read-only, with file and network access off."""

from __future__ import annotations

import json
import sys
from typing import Any, TextIO

import click

from commands.common import Asked, as_plain, print_rows, say, shared
from ledger.errors import CacheDamaged


@click.command("sql")
@click.argument("query", required=False)
@click.option("--csv", "as_csv", is_flag=True, help="Print comma-separated values.")
@shared(as_of=True)
def command(asked: Asked, query: str | None, as_csv: bool) -> None:
    """Run QUERY (or standard input) over the tables; without one, list the tables. See docs/tables.md."""
    log = asked.open()
    tables = asked.tables(log)
    if query is None and not sys.stdin.isatty():
        query = sys.stdin.read()
    if not (query or "").strip():
        from projections.catalog import tables as known

        print_rows([{"table": t.name, "about": t.about.splitlines()[0]} for t in known()], asked)
        return
    try:
        found = tables.query(query)
    except CacheDamaged:  # what a query reads is checked: the log when tables are made of it, the tables by DuckDB
        say("the cached tables were damaged; they are made again from the log")
        found = asked.tables(log).query(query)
    if as_csv:
        write_csv(found, sys.stdout)
        return
    print_rows(found.to_pylist(), asked, found.column_names)
    if not asked.json and found.num_rows == 0:
        say("no rows")


def write_csv(rows: Any, file: TextIO) -> None:
    """An Arrow table as comma-separated values with a head."""
    import csv

    out = csv.writer(file, lineterminator="\n")
    out.writerow(rows.column_names)
    for batch in rows.to_batches():
        out.writerows([csv_cell(value) for value in row.values()] for row in batch.to_pylist())


def csv_cell(value: Any) -> Any:
    """A value as CSV holds it: null is empty, floats keep every digit, lists and structs are JSON."""
    plain = as_plain(value)
    if isinstance(plain, bool):
        return "true" if plain else "false"
    return json.dumps(plain, ensure_ascii=False, default=str) if isinstance(plain, (list, dict)) else plain

"""Write docs/tables.md from the heads of the SQL files and the types that DuckDB gives them.

python -m commands.docs          write it
python -m commands.docs --print  print it instead; a test compares the two
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

_HEAD = """\
# The tables

Made by `make docs` from the heads of `projections/sql/*.sql`; do not edit. Query them with
`ledger sql`, with `ledger.open(path).sql(…)`, or as they were with `--as-of`. Every table can be
rebuilt from the events (`ledger rebuild`), the same digests every time.

A *table* is built and kept in the cache; a *view* reads through. The key identifies a row and is
the table's total order. Times are UTC. Besides these, `facts.<event type>` (such as
`facts.run_started`) holds the typed events themselves, less what was retracted.
"""


def text() -> str:
    """The reference, as Markdown."""
    from ledger.chain import Log
    from projections.catalog import tables as catalog
    from projections.engine import tables

    with tempfile.TemporaryDirectory() as folder:
        built = tables(Log.create(Path(folder) / "ledger"))
        parts = [_HEAD]
        for table in sorted(catalog(), key=lambda table: table.name):
            types = {row["column_name"]: row["column_type"] for row in built.rows(f"DESCRIBE {table.name}")}
            reads = ", ".join(f"`{name}`" for name in sorted(table.reads))
            parts.append(f"## {table.name}\n\n{table.about}\n")
            parts.append(
                f"{table.kind.capitalize()}, key {', '.join(f'`{name}`' for name in table.key)}; reads {reads}.\n"
            )
            rows = ["| column | type | meaning |", "|---|---|---|"]
            rows += [f"| `{name}` | {_kind(types[name])} | {meaning} |" for name, meaning in table.columns]
            parts.append("\n".join(rows) + "\n")
        return "\n".join(parts)


def _kind(kind: str) -> str:
    return kind.lower().replace("timestamp with time zone", "timestamp").replace("varchar", "text")


if __name__ == "__main__":
    if "--print" in sys.argv:
        print(text(), end="")
    else:
        path = Path(__file__).resolve().parent.parent / "docs" / "tables.md"
        path.parent.mkdir(exist_ok=True)
        path.write_text(text(), encoding="utf-8")
        print(f"wrote docs/{path.name}")

"""`ledger rebuild`: build the tables from nothing and print their digests."""

from __future__ import annotations

import click

from commands.common import Asked, print_json, print_rows, shared


@click.command("rebuild")
@click.option("--threads", type=click.IntRange(1), help="Threads for DuckDB; the digests are the same.")
@click.option("--incremental", is_flag=True, help="Build on from the last position instead.")
@click.option("--locate", is_flag=True, hidden=True, help="Bring the cache up to date and print where it lies.")
@shared(as_of=True)
def command(asked: Asked, threads: int | None, incremental: bool, locate: bool) -> None:
    """Rebuild every table from the events and print rows and digest. Equal events give equal digests."""
    from projections.engine import tables

    log = asked.open()
    built = tables(log, asked.position(log), threads=threads, fresh=not (incremental or locate))
    if locate:
        print_json({"cache": built.path, "position": built.head.position, "root": built.head.root})
        return
    digests = built.digests()
    rows = [{"table": name, "rows": count, "digest": digest} for name, (count, digest) in digests.items()]
    if asked.json:
        print_json({"position": built.head.position, "root": built.head.root, "tables": rows})
    else:
        print_rows(rows, asked)
        print(f"at {built.head.position} events, root {built.head.root}")

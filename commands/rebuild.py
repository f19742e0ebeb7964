"""`ledger rebuild`: build the tables and the typed files from nothing and print the tables' digests."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import click

from commands.common import Asked, print_json, print_rows, say, shared
from ledger.errors import NotAppended

if TYPE_CHECKING:
    from ledger.chain import Log


@click.command("rebuild")
@click.option("--threads", type=click.IntRange(1), help="Threads for DuckDB; the digests are the same.")
@click.option("--incremental", is_flag=True, help="Build on from the last position instead.")
@click.option("--locate", is_flag=True, hidden=True, help="Bring the cache up to date and print where it lies.")
@shared(as_of=True)
def command(asked: Asked, threads: int | None, incremental: bool, locate: bool) -> None:
    """Rebuild every table from the events and print rows and digest. Equal events give equal digests.

    Also writes the events as typed Parquet files (typed/) and views.sql, unless --as-of is given, and
    tlog/ anew where there is one (`ledger checkpoint --tiles`).
    """
    from projections.engine import tables

    log = asked.open()
    built = tables(log, asked.position(log), threads=threads, fresh=not (incremental or locate))
    if locate:
        print_json({"cache": built.path, "position": built.head.position, "root": built.head.root})
        return
    digests = built.digests()
    rows = [{"table": name, "rows": count, "digest": digest} for name, (count, digest) in digests.items()]
    made = None if asked.as_of is not None else write_typed(built, log.root, fresh=not incremental)
    write_tiles(log)
    files = {"files": len(made.files), "bytes": sum(file.bytes for file in made.files)} if made else None
    if asked.json:
        print_json({"position": built.head.position, "root": built.head.root, "tables": rows, "typed": files})
    else:
        print_rows(rows, asked)
        print(f"at {built.head.position} events, root {built.head.root}")
        if files:
            print(f"typed: {files['files']} Parquet files, {files['bytes']} bytes; views.sql says how to query them")


def write_typed(built: Any, root: str, *, fresh: bool = False) -> Any:
    """The typed files (a projections.typed.Typed), or None, said aloud, where the ledger cannot be written."""
    from ledger import disk
    from projections.typed import refresh

    try:
        return refresh(built, root, fresh=fresh)
    except OSError as error:
        say(f"the typed files were not written: {disk.plain(error)}")
    except NotAppended as error:
        say(f"the typed files were not written: {str(error).removeprefix('nothing was appended: ')}")
    return None


def write_tiles(log: Log) -> None:
    """Bring tlog/ to the newest signed head, where there is one."""
    from ledger import checkpoints, tiles

    newest = checkpoints.newest(log.root)
    if newest is not None and os.path.isdir(os.path.join(log.root, "tlog")):
        try:
            tiles.write(log, newest)
        except NotAppended as error:
            say(f"the tiles were not written: {str(error).removeprefix('nothing was appended: ')}")

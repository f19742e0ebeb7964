"""`ledger export`: the tables as files, and the ledger's Parquet files as Delta tables for other programs."""

from __future__ import annotations

import itertools
import json
import os
import secrets
import time
import uuid
from typing import Any

import click

from commands.checkpoint import sign_or_warn
from commands.common import Asked, count, print_json, print_rows, say, shared
from commands.rebuild import write_typed
from ledger import disk
from ledger.chain import Log
from ledger.errors import Conflict, Corrupt, LedgerError, UsageError


@click.command("export")
@click.argument("kind", metavar="delta|parquet|csv", type=click.Choice(["delta", "parquet", "csv"]))
@click.argument("table", required=False)
@click.option("-o", "--output", metavar="FILE", help="Where to (default: ./TABLE.parquet or ./TABLE.csv).")
@shared(as_of=True)
def command(asked: Asked, kind: str, table: str | None, output: str | None) -> None:
    """Write TABLE to a Parquet or CSV file; or, with delta, make the ledger readable as Delta tables.

    \b
    ledger export parquet runs            ./runs.parquet
    ledger export csv effects -o e.csv    ./e.csv
    ledger export delta                   all events at the ledger's folder,
                                          and one table an event type below
                                          typed/ (metadata only; call it
                                          again after new events)
    """
    log = asked.open()
    if kind == "delta":
        if table or output or asked.as_of:
            raise UsageError(
                "`ledger export delta` takes no table, no file and no --as-of: it describes the present files"
            )
        _delta(asked, log)
    else:
        _file(asked, log, kind, table, output)
    if os.access(log.root, os.W_OK):
        sign_or_warn(log)  # what leaves the ledger can be held against a signed head


# ── one table as a file ──


def _file(asked: Asked, log: Log, kind: str, table: str | None, output: str | None) -> None:
    from projections.catalog import tables as catalog

    names = [known.name for known in catalog()]
    if table not in names:
        import difflib

        close = difflib.get_close_matches(table or "", names, 1)
        hint = f"did you mean {close[0]}?" if close else f"there are {', '.join(sorted(names))}"
        raise UsageError(f"no table {table!r}; {hint}" if table else f"which table? {hint}")
    built = asked.tables(log)
    order = ", ".join(next(known.key for known in catalog() if known.name == table))
    rows = built.query(f"SELECT * FROM {table} ORDER BY {order}")
    target = output or f"{table}.{kind}"
    try:
        _write(target, lambda path: _as_parquet(rows, path) if kind == "parquet" else _as_csv(rows, path))
    except OSError as error:
        raise UsageError(f"cannot write {target}: {disk.plain(error)}") from None
    told = {"file": target, "table": table, "rows": rows.num_rows, "position": built.head.position}
    if asked.json:
        print_json({**told, "root": built.head.root})
    else:
        print(f"{target}: {count(rows.num_rows, 'row')} of {table} at {count(built.head.position, 'event')}")


def _write(target: str, fill: Any) -> None:
    """Make a file whole or not at all."""
    path = f"{target}.{secrets.token_hex(4)}.tmp"
    try:
        fill(path)
        os.replace(path, target)
    finally:
        disk.remove(path)


def _as_parquet(rows: Any, path: str) -> None:
    import pyarrow.parquet as pq

    pq.write_table(rows, path, compression="zstd", write_page_checksum=True)


def _as_csv(rows: Any, path: str) -> None:
    from commands.sql import write_csv

    with open(path, "w", encoding="utf-8", newline="") as file:
        write_csv(rows, file)


# ── Delta ──


def _delta(asked: Asked, log: Log) -> None:
    import pyarrow.parquet as pq

    from ledger import pack
    from projections import delta

    made = write_typed(asked.tables(log), log.root)
    if made is None:
        raise LedgerError(f"a Delta table's metadata lie beside its files, and {log.root} cannot be written")
    origin = uuid.UUID(log.identity.id)
    told = (
        [_publish(log.root, "", origin, "events", delta.schema_text(pack.schema()), _truth(log))] if made.size else []
    )
    for kind in sorted({file.type for file in made.files}):
        files = [file for file in made.files if file.type == kind]
        folder = os.path.dirname(files[0].path)
        parts = [_part(log.root, file.path, folder, file.rows) for file in files]
        schema = delta.schema_text(pq.read_schema(os.path.join(log.root, files[0].path)))
        told.append(_publish(log.root, folder, uuid.uuid5(origin, folder), kind, schema, parts))
    if asked.json:
        print_json({"position": made.size, "root": made.root, "tables": told})
        return
    print_rows([{**table, "path": os.path.relpath(table["path"], log.root)} for table in told], asked)
    say("these are metadata, no data was copied; call it again after new events")


def _truth(log: Log) -> list[Any]:
    """The files that hold the events, each event once: the packs, then the loose segments beyond them."""
    from ledger import layout, pack, segment

    loose, _ = log.loose()
    packs = pack.chain(pack.listed(log.root))
    if any(later.start < earlier.stop for earlier, later in itertools.pairwise(packs)):
        raise LedgerError("some packs overlap, and Delta cannot say which of their rows count; run `ledger compact`")
    if (packs[-1].stop if packs else 0) != loose[0]:
        raise Conflict("the ledger was compacted at this moment; export again")
    parts = [_part(log.root, os.path.relpath(place.path, log.root), "", place.stop - place.start) for place in packs]
    for base in loose[:-1]:
        path = layout.segment_path(log.root, base)
        said = segment.peek(path)
        if said is None:
            raise Conflict("the ledger was compacted at this moment; export again")
        parts.append(_part(log.root, os.path.relpath(path, log.root), "", said.n))
    return parts


def _part(root: str, path: str, folder: str, rows: int) -> Any:
    from projections.delta import Part

    there = os.stat(os.path.join(root, path))
    return Part(
        os.path.relpath(path, folder) if folder else path, there.st_size, rows, there.st_mtime_ns // 1_000_000
    )


def _publish(root: str, folder: str, table_id: uuid.UUID, name: str, schema: str, parts: list[Any]) -> dict[str, Any]:
    """Write the next version of a table's Delta log, unless the newest one says the same."""
    from projections import delta

    place = os.path.join(root, folder) if folder else root
    versions = os.path.join(place, "_delta_log")
    os.makedirs(versions, exist_ok=True)
    while True:
        state = delta.NOTHING
        while True:
            path = os.path.join(versions, f"{state.version + 1:020d}.json")
            try:
                with open(path, "rb") as file:
                    state = delta.replay(state, file.read())
            except FileNotFoundError:
                break
            except (ValueError, KeyError, json.JSONDecodeError):
                raise Corrupt(f"{path} is damaged; delete {versions} and export again") from None
        text = delta.step(state, str(table_id), name, schema, parts, time.time_ns() // 1_000_000)
        if text is None or disk.publish(os.path.join(root, "tmp"), path, text):  # else another one was faster
            version = state.version + (text is not None)
            return {
                "table": name,
                "path": place,
                "version": version,
                "files": len(parts),
                "rows": sum(part.rows for part in parts),
            }

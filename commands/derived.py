"""Whether what the projections derived from the log is what the log gives. For `ledger verify`."""

from __future__ import annotations

import filecmp
import os
import re
import tempfile
from collections.abc import Iterator

import duckdb

from ledger.chain import Log
from ledger.errors import LedgerError
from projections import catalog, engine, typed


def problems(root: str) -> Iterator[tuple[str, str]]:
    """(path, what is wrong with it): tables are built anew and compared by their digests, typed files byte for
    byte. Files of another version of this program are not looked at: it does not use them either."""
    log = Log(root)
    folder = os.path.join(root, "proj")
    caches = {}
    for name in sorted(os.listdir(folder)) if os.path.isdir(folder) else ():
        if found := re.fullmatch(rf"tables-(\d{{16}})-{catalog.code_digest()}\.duckdb", name):
            caches[int(found[1])] = os.path.join(folder, name)
    made = typed.read(root)
    size = log.advance()
    wanted = sorted({*caches, *([made.size] if made is not None else [])})
    for tables in engine.each_head(log, [one for one in wanted if one <= size]):
        position = tables.head.position
        if position in caches and (what := _other_tables(caches[position], tables)):
            yield os.path.relpath(caches[position], root), what
        if made is not None and made.size == position:
            yield from _other_files(root, tables)
    for beyond in (one for one in wanted if one > size):
        yield "proj" if beyond in caches else "typed", f"is of {beyond} events, the log ends at {size}; delete it"


def _other_tables(path: str, tables: engine.Tables) -> str:
    try:
        there = engine.Tables(path, tables.head)
        try:
            found = there.digests()
        finally:
            there.close()
    except (LedgerError, duckdb.Error):
        return "is damaged; it is made again at its next use"
    wrong = [name for name, digest in tables.digests().items() if found.get(name) != digest]
    return f"holds other rows than the log gives in {', '.join(wrong)}; delete it" if wrong else ""


def _other_files(root: str, tables: engine.Tables) -> Iterator[tuple[str, str]]:
    with tempfile.TemporaryDirectory(prefix="ledger-typed-") as scratch:
        os.mkdir(os.path.join(scratch, "tmp"))
        again = typed.refresh(tables, scratch, fresh=True)
        for path in [typed.FILES, typed.VIEWS, *(file.path for file in again.files)]:
            here, there = os.path.join(root, path), os.path.join(scratch, path)
            if os.path.exists(there) and not (os.path.exists(here) and filecmp.cmp(here, there, shallow=False)):
                yield path, "is not what the log gives; `ledger rebuild` makes it again"

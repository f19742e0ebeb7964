"""`ledger.open(path)`: events, tables and SQL from Python.

The tables are made by the projections, which this package must not import: a training script's own
folder may well be called `projections`. So the tables are brought up to date by a process of their
own and read here from the DuckDB file that it leaves, read-only and without access to files or the
network.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Collection, Iterator
from typing import TYPE_CHECKING, Any

import msgspec

from ledger import disk
from ledger.chain import AsOf, Log
from ledger.errors import CacheDamaged, Conflict, Corrupt, LedgerError, UsageError
from ledger.events import Event, Head

if TYPE_CHECKING:
    import polars
    import pyarrow as pa


class Result:
    """The rows of a query: `arrow()`, `polars()`, or an iterator of dicts."""

    def __init__(self, table: pa.Table) -> None:
        self._table = table

    def arrow(self) -> pa.Table:
        return self._table

    def polars(self) -> polars.DataFrame:
        import polars

        frame = polars.from_arrow(self._table)
        assert isinstance(frame, polars.DataFrame)
        return frame

    def rows(self) -> list[dict[str, Any]]:
        return list(self._table.to_pylist())

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return iter(self.rows())

    def __len__(self) -> int:
        return int(self._table.num_rows)

    def __repr__(self) -> str:
        return repr(self.polars())


class Ledger:
    """A ledger opened for reading."""

    def __init__(self, path: str | os.PathLike[str] | None = None) -> None:
        """Raises NotALedger, Unsupported, Corrupt."""
        self.log = Log(path)

    @property
    def path(self) -> str:
        return self.log.root

    def head(self) -> Head:
        return self.log.head()

    def events(
        self, *, as_of: AsOf = None, stream: str | None = None, types: Collection[str] | None = None
    ) -> Iterator[Event]:
        """Events in order, as Log.events."""
        return self.log.events(as_of=as_of, stream=stream, types=types)

    def table(self, name: str, as_of: AsOf = None) -> Result:
        """One table whole, in its order. Raises UsageError for a name that is no table."""
        if not name.replace("_", "").isalnum():
            raise UsageError(f"{name!r} is not a table's name")
        return self.sql(f'SELECT * FROM "{name}"', as_of=as_of)

    def sql(self, query: str, as_of: AsOf = None) -> Result:
        """Run a query over the tables as of a position, an event id or a time. Raises UsageError on bad SQL."""
        import duckdb

        path = self._cache(as_of)
        try:
            return Result(query_cache(path, query))
        except duckdb.IOException:  # another process has just replaced this cache by a newer one
            return Result(query_cache(self._cache(as_of), query))
        except CacheDamaged:
            disk.remove(path)
            return Result(query_cache(self._cache(as_of), query))

    def _cache(self, as_of: AsOf) -> str:
        position = self.log.position(as_of)
        # -P and this module: neither the script's folder nor PYTHONPATH may shadow our packages.
        command = [
            sys.executable,
            "-P",
            "-m",
            "experiment_ledger",
            "--ledger",
            self.path,
            "--json",
            "rebuild",
            "--locate",
        ]
        done = subprocess.run([*command, "--as-of", str(position)], capture_output=True, check=False, text=True)
        if done.returncode:
            kind = {2: UsageError, 3: Corrupt, 4: Conflict}.get(done.returncode, LedgerError)
            raise kind(done.stderr.strip().removeprefix("ledger: ") or "the tables could not be built")
        return str(msgspec.json.decode(done.stdout)["cache"])


def query_cache(path: str, text: str, parameters: Collection[Any] = ()) -> pa.Table:
    """Run one query on a cache file: read-only, no files, no network, no extension, no settings.

    Raises UsageError with DuckDB's first lines when the query is refused.
    """
    connection = connect(path)
    try:
        return query(connection, text, parameters)
    finally:
        connection.close()


def query(connection: Any, text: str, parameters: Collection[Any] = ()) -> pa.Table:
    """The rows of one query on a connection from `connect`. Raises UsageError when it is refused, and
    CacheDamaged where a block of the file does not have its checksum: DuckDB checks what it reads."""
    import duckdb

    try:
        if len(connection.extract_statements(text)) > 1:
            raise UsageError("SQL: several statements were given; one query is answered at a time")
        relation = connection.sql(text, params=list(parameters) or None)
        if relation is None:
            raise UsageError("SQL: this statement returns no rows; only queries are answered here")
        rows = relation.to_arrow_table()
        return rows.rename_columns(_distinct(rows.column_names))
    except duckdb.Error as error:
        if "Corrupt database file" in str(error) or "has been invalidated" in str(error):
            raise CacheDamaged("the cached tables were damaged; ask again: they are made anew") from None
        raise UsageError(f"SQL: {_plain(error)}") from None


def _distinct(names: list[str]) -> list[str]:
    """Of two columns called alike the second becomes name_1: a row as a map would lose one of them."""
    found: dict[str, None] = {}
    for name in names:
        other, number = name, 0
        while other in found:
            number += 1
            other = f"{name}_{number}"
        found[other] = None
    return list(found)


def _plain(error: Exception) -> str:
    text = " ".join(str(error).split())[:600]
    if "read-only mode" in text:
        return "the tables are read-only: they are made from the events, and only queries are answered"
    if "disabled by configuration" in text:
        return f"files, extensions and the network are out of reach from here ({text})"
    return text


def connect(path: str) -> Any:
    """A connection that can do nothing but read the tables in `path`."""
    import duckdb

    connection = duckdb.connect(
        path,
        read_only=True,
        config={
            "enable_external_access": "false",
            "autoinstall_known_extensions": "false",
            "autoload_known_extensions": "false",
            "allow_community_extensions": "false",
        },
    )
    # DuckDB shares one instance among a process's connections to a file: it may be set and locked already.
    if not connection.execute("SELECT current_setting('lock_configuration')").fetchall()[0][0]:
        connection.execute("SET GLOBAL TimeZone = 'UTC'")
        connection.execute("SET lock_configuration = true")
    return connection

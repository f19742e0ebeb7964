"""The cache of tables: a DuckDB file beside the ledger that can be deleted at any time.

Building from position 0 is the definition; building on from where the cache stands must give the
same digests, and a property test says that it does. The cache remembers the Merkle frontier that it
was built to: if the log's root is not what follows from it, the cache is thrown away and rebuilt.

Nothing here reads a clock, an environment variable or a random source. Only this module writes a
cache, under a file lock; people's queries go through `ledger.reading.connect`, which can only read.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from typing import Any

import duckdb
import msgspec
import pyarrow as pa

from ledger import canonical
from ledger.chain import Log
from ledger.errors import CacheDamaged, LedgerError, UsageError
from ledger.events import Head
from ledger.merkle import Frontier, leaf_hashes
from ledger.reading import connect, query
from projections import alpha, catalog, claims, judged, noise, ranking, screened, staging, touched, transfers
from projections.digest import parts_digest
from projections.evidence import Query, gather

KEEP = 8  # caches of other heads that are kept
_ARMS = "noise_arms"  # what the others of a noise class borrow
_STEPS_OF = "noise_steps"  # up to which outcome they count
_STEP = 200_000  # events staged in one transaction
_MADE = {  # the relations that Python makes
    catalog.ESTIMATES: judged.SCHEMA,
    catalog.NOISES: noise.SCHEMA,
    catalog.STREAMED: alpha.SCHEMA,
    catalog.AUDITED: claims.SCHEMA,
    catalog.SCREENED: screened.SCHEMA,
    catalog.TRANSFERRED: transfers.SCHEMA,
    catalog.FORESEEN: transfers.PREDICTED,
    catalog.WORTHS: ranking.SCHEMA,
}


class _Meta(msgspec.Struct, frozen=True):
    """How far a cache has come, and by which code."""

    code: str
    size: int
    peaks: tuple[str, ...]


class Tables:
    """The tables as of one head. Their file is never written again, and stays readable while this lives."""

    def __init__(self, path: str, head: Head) -> None:
        self.path = path
        self.head = head
        self._connection = connect(path)

    def close(self) -> None:
        """Let go of the file; no query after this."""
        self._connection.close()

    def query(self, sql: str, parameters: tuple[Any, ...] = ()) -> pa.Table:
        """Rows of a read-only query. Raises UsageError for SQL that fails or asks for more than reading,
        CacheDamaged when the file was changed: it is deleted then, and these tables are of no more use."""
        try:
            with self._connection.cursor() as cursor:
                return query(cursor, sql, parameters)
        except CacheDamaged:
            self.close()
            _delete(self.path)
            raise

    def rows(self, sql: str, parameters: tuple[Any, ...] = ()) -> list[dict[str, Any]]:
        return list(self.query(sql, parameters).to_pylist())

    def peaks(self) -> tuple[str, ...]:
        """The Merkle peaks (hex) over the events of this head, as its root was proved to be."""
        (row,) = self.rows("SELECT body FROM staged.meta")
        return msgspec.json.decode(row["body"], type=_Meta).peaks

    def digests(self) -> dict[str, tuple[int, str]]:
        """Rows and digest of every table, by name, in the tables' order."""
        found = {}
        for table in catalog.tables():
            (count,) = self.rows(f"SELECT count(*) AS n FROM {table.name}")
            found[table.name] = (count["n"], parts_digest(count["n"], self._in_order(table)))
        return found

    def _in_order(self, table: catalog.Table) -> Iterator[pa.Table]:
        """The rows of a table by its key: where that is a position, some at a time, for a table may be large."""
        order, first = ", ".join(table.key), table.key[0]
        if not first.endswith("position"):
            yield self.query(f"SELECT * FROM {table.name} ORDER BY {order}")
            return
        for start in range(0, max(self.head.position, 1), _STEP):
            inside = f"{first} >= {start} AND {first} < {start + _STEP}"
            yield self.query(f"SELECT * FROM {table.name} WHERE {inside} ORDER BY {order}")


def tables(log: Log, as_of: int | None = None, *, threads: int | None = None, fresh: bool = False) -> Tables:
    """The tables at the present head, or after the first `as_of` events; built as far as needed.

    `fresh` rebuilds from nothing; `threads` limits DuckDB. Raises Corrupt for a damaged log,
    Unsupported for an event that this program does not know.
    """
    if "?" in log.root:
        raise UsageError(
            f"{log.root}: DuckDB opens no file below a path with a question mark, so there can be no tables; "
            "rename the folder (the log itself is whole)"
        )
    head = log.head()
    if as_of is not None and as_of != head.position:
        head = log.head_at(as_of)
    folder = os.path.join(log.root, "proj")
    with contextlib.ExitStack() as stack:
        try:
            os.makedirs(folder, exist_ok=True)
            lock = stack.enter_context(open(os.path.join(folder, "lock"), "a"))
        except OSError:  # a read-only copy of a ledger can be read all the same
            folder = _scratch()
        else:
            fcntl.flock(lock, fcntl.LOCK_EX)
        path = os.path.join(folder, f"tables-{head.position:016d}-{catalog.code_digest()}.duckdb")
        if fresh or not _stands(path, head):
            # A file that has been published is never written again: whoever asks it keeps what it asked.
            making = f"{path}.new"  # one name is enough: we hold the lock, or the folder is ours alone
            _delete(making)
            if not fresh and (earlier := _longest(folder, head.position)):
                shutil.copyfile(earlier, making)
            _advance(making, log, head, threads)
            os.replace(making, path)
        found = Tables(path, head)
        _tidy(folder, path)
    return found


def _longest(folder: str, position: int) -> str | None:
    """The longest cache of this code that does not go beyond `position`."""
    found = {}
    for name in os.listdir(folder):
        size, _, code = name.removeprefix("tables-").removesuffix(".duckdb").partition("-")
        if size.isdecimal() and code == catalog.code_digest() and int(size) <= position:
            found[int(size)] = os.path.join(folder, name)
    return found[max(found)] if found else None


def _stands(path: str, head: Head) -> bool:
    meta = _meta(path)
    return meta is not None and meta.size == head.position and _frontier(meta).root().hex() == head.root


def _advance(path: str, log: Log, head: Head, threads: int | None) -> None:
    """Bring the cache at `path` to `head`, from where it stands or from nothing."""
    if os.path.exists(path):
        with contextlib.suppress(duckdb.Error), _writing(path, threads) as connection:  # a damaged file is of no use
            meta = _told(connection)
            if meta is not None and meta.size <= head.position and _extend(connection, log, _frontier(meta), head):
                return
    # None there, made by other code, longer than asked, or of another history: build anew, then rename.
    fresh = f"{path}.fresh"
    _delete(fresh)
    with _writing(fresh, threads) as connection:
        _create(connection)
        if not _extend(connection, log, Frontier(), head):
            raise LedgerError(f"the log changed while its tables were built ({log.root}); try again")
    _delete(path)
    os.replace(fresh, path)


@contextlib.contextmanager
def _writing(path: str, threads: int | None) -> Iterator[duckdb.DuckDBPyConnection]:
    config: dict[str, Any] = {
        "enable_external_access": "false",
        "autoinstall_known_extensions": "false",
        "autoload_known_extensions": "false",
        "default_null_order": "nulls_last",
        "default_order": "asc",
    }
    if threads:
        config["threads"] = threads
    connection = duckdb.connect(path, config=config)
    try:
        connection.execute("SET TimeZone = 'UTC'")
        yield connection
    finally:
        connection.close()


def _create(connection: duckdb.DuckDBPyConnection) -> None:
    connection.execute("BEGIN")
    staging.create(connection)
    connection.execute("CREATE TABLE staged.meta (body VARCHAR)")
    touched.clean(connection)
    for made, schema in _MADE.items():
        connection.register(made, schema.empty_table())
    for table in catalog.tables():
        if table.kind == "view":
            connection.execute(f"CREATE VIEW main.{table.name} AS {table.sql}")
        else:
            _scope(connection, table, all_rows=True)
            connection.execute(f"CREATE TABLE main.{table.name} AS SELECT * FROM ({table.sql}) LIMIT 0")
            _unscope(connection, table)
    for made in _MADE:
        connection.unregister(made)
    _remember(connection, Frontier())
    connection.execute("COMMIT")


def _extend(connection: duckdb.DuckDBPyConnection, log: Log, frontier: Frontier, head: Head) -> bool:
    """Stage and project up to `head`. False, with nothing changed, when the log is of another history."""
    touched.clean(connection)
    first = frontier.size
    connection.execute("BEGIN")
    try:
        for start in range(first, head.position, _STEP):
            bodies = staging.stage(connection, log, start, min(start + _STEP, head.position))
            frontier.extend(leaf_hashes(bodies))
        if frontier.size != head.position or frontier.root().hex() != head.root:
            connection.execute("ROLLBACK")
            return False
        kinds = touched.mark_dirty(connection, first)
        made: dict[str, pa.Table] = {}
        for table in catalog.tables():
            sources = catalog.facts(table.name)
            if table.kind == "table" and (first == 0 or sources is None or not sources.isdisjoint(kinds)):
                _project(connection, table, made, all_rows=first == 0)
        _remember(connection, frontier)
        connection.execute("COMMIT")
    except BaseException:
        with contextlib.suppress(duckdb.Error):
            connection.execute("ROLLBACK")
        raise
    return True


def _project(
    connection: duckdb.DuckDBPyConnection, table: catalog.Table, made: dict[str, pa.Table], all_rows: bool
) -> None:
    """Make the dirty rows of a table again; `made` are the relations that Python made so far."""
    if table.name == _STEPS_OF and not all_rows:
        touched.mark_classes(connection)
    needed = sorted(table.reads & _MADE.keys())
    for name in needed:
        if name not in made:
            made |= _MAKERS[name](connection, all_rows)
        connection.register(name, made[name])
    if table.name == _ARMS and not all_rows:
        _exchange(connection, table)
        touched.reach(connection)
    else:
        # No table reads itself, so its own name is not among the views that hide others.
        _scope(connection, table, all_rows)
        connection.execute(
            f"DELETE FROM main.{table.name} WHERE ({table.scope}) IN (FROM {touched.dirty(table.scope or '')})"
        )
        connection.execute(f"INSERT INTO main.{table.name} {table.sql}")
        _unscope(connection, table)
    for name in needed:
        connection.unregister(name)


def _exchange(connection: duckdb.DuckDBPyConnection, table: catalog.Table) -> None:
    """Make the arms of the noise classes in question again, and remember the classes that are known otherwise now.

    They are large and seldom change; what judgements borrow from them must be judged again when they do. Where the
    same runs count as before, and no run in question is among them, there is nothing to make.
    """
    same = connection.execute(
        f"""SELECT coalesce(bool_and(before.last IS NOT DISTINCT FROM now.last
            AND NOT coalesce(before.counts, false) AND NOT coalesce(now.counts, false)), true)
        FROM steps_before AS before FULL JOIN ({touched.STEPS}) AS now ON now.noise_class = before.noise_class
        WHERE coalesce(now.noise_class, before.noise_class) IN (FROM dirty_noise_class)"""
    ).fetchall()[0][0]
    if same:
        return
    _scope(connection, table, False)
    connection.execute(f"CREATE OR REPLACE TEMP TABLE arms_now AS {table.sql}")
    connection.execute(
        f"""INSERT INTO changed_class
        SELECT noise_class FROM (
            (SELECT * FROM main.{_ARMS} WHERE noise_class IN (SELECT noise_class FROM dirty_noise_class)
            EXCEPT FROM arms_now)
            UNION ALL
            (FROM arms_now EXCEPT FROM main.{_ARMS})
        )"""
    )
    if connection.execute("SELECT 1 FROM changed_class LIMIT 1").fetchall():
        connection.execute(
            f"DELETE FROM main.{_ARMS} WHERE noise_class IN (SELECT noise_class FROM dirty_noise_class)"
        )
        connection.execute(f"INSERT INTO main.{_ARMS} SELECT * FROM arms_now ORDER BY {', '.join(table.key)}")
    _unscope(connection, table)


def _rows(connection: duckdb.DuckDBPyConnection) -> Query:
    """A query on the tables that are being built, for the functions that make relations."""

    def query(sql: str, parameters: tuple[Any, ...] = ()) -> list[dict[str, Any]]:
        return list(connection.sql(sql, params=list(parameters)).to_arrow_table().to_pylist())

    return query


def _experiments(query: Query) -> list[str]:
    """The experiments in question."""
    return [row["experiment"] for row in query("SELECT DISTINCT experiment FROM dirty_experiment ORDER BY ALL", ())]


def _estimate(connection: duckdb.DuckDBPyConnection, all_rows: bool) -> dict[str, pa.Table]:
    """Judge the experiments in question."""
    query = _rows(connection)
    wanted = None if all_rows else _experiments(query)
    return {catalog.ESTIMATES: judged.table(judged.judged(query, gather(query, wanted)))}


def _screened(connection: duckdb.DuckDBPyConnection, all_rows: bool) -> dict[str, pa.Table]:
    """Average effects of the screens in question."""
    query = _rows(connection)
    return {catalog.SCREENED: screened.screened(query, None if all_rows else _experiments(query))}


def _classes(query: Query) -> list[str]:
    """The noise classes in question."""
    return [
        row["noise_class"] for row in query("SELECT DISTINCT noise_class FROM dirty_noise_class ORDER BY ALL", ())
    ]


def _noise(connection: duckdb.DuckDBPyConnection, all_rows: bool) -> dict[str, pa.Table]:
    """What is known of the noise classes in question."""
    query = _rows(connection)
    if not all_rows:
        return {catalog.NOISES: noise.known(query, _classes(query))}
    every = query("SELECT DISTINCT noise_class FROM main.runs ORDER BY ALL", ())
    return {catalog.NOISES: noise.known(query, [row["noise_class"] for row in every])}


def _stream(connection: duckdb.DuckDBPyConnection, all_rows: bool) -> dict[str, pa.Table]:
    """A stream depends on all that came before: all of it, or nothing."""
    if not touched.some(connection, "experiment", all_rows):
        return {catalog.STREAMED: alpha.SCHEMA.empty_table()}
    connection.execute("INSERT INTO dirty_track VALUES ('confirm')")
    return {catalog.STREAMED: alpha.stream(connection.sql(alpha.ASKED).to_arrow_table())}


def _audit(connection: duckdb.DuckDBPyConnection, all_rows: bool) -> dict[str, pa.Table]:
    """Recompute what the records claim, all of it or nothing."""
    if not touched.some(connection, "record", False):
        return {catalog.AUDITED: claims.SCHEMA.empty_table()}
    keys = {table.name: ", ".join(table.key) for table in catalog.tables()}
    given = [
        connection.sql(f"SELECT * FROM main.{name} ORDER BY {keys[name]}").to_arrow_table().to_pylist()
        for name in catalog.MADE_FROM[catalog.AUDITED]
    ]
    return {catalog.AUDITED: claims.audit(*given)}


def _transfer(connection: duckdb.DuckDBPyConnection, all_rows: bool) -> dict[str, pa.Table]:
    """What proxies tell, of the pairs that a noise class in question is in."""
    query = _rows(connection)
    wanted: list[str] | None = None
    if not all_rows:
        wanted = _classes(query)
        for name in ("transfer", "transfer_pred"):
            connection.execute(
                f"""INSERT INTO dirty_proxy_target
                SELECT DISTINCT proxy, target FROM main.{name}
                WHERE proxy IN (FROM dirty_noise_class) OR target IN (FROM dirty_noise_class)"""
            )
    slopes, foreseen = transfers.transfers(query, wanted)
    return {catalog.TRANSFERRED: slopes, catalog.FORESEEN: foreseen}


def _worth(connection: duckdb.DuckDBPyConnection, all_rows: bool) -> dict[str, pa.Table]:
    """What can be measured next, of the parts in question."""
    query = _rows(connection)
    wanted: list[str] | None = None
    if not all_rows:
        touched.mark_parts(connection)
        wanted = [row["part"] for row in query("SELECT DISTINCT part FROM dirty_part ORDER BY ALL", ())]
    return {catalog.WORTHS: ranking.next_options(query, wanted)}


_MAKERS: dict[str, Callable[[duckdb.DuckDBPyConnection, bool], dict[str, pa.Table]]] = {
    catalog.ESTIMATES: _estimate,
    catalog.NOISES: _noise,
    catalog.STREAMED: _stream,
    catalog.AUDITED: _audit,
    catalog.SCREENED: _screened,
    catalog.TRANSFERRED: _transfer,
    catalog.FORESEEN: _transfer,
    catalog.WORTHS: _worth,
}


def _scope(connection: duckdb.DuckDBPyConnection, table: catalog.Table, all_rows: bool) -> None:
    """Give the table's sources under their bare names, only the rows of dirty runs or experiments."""
    # A temporary view hides the table of its name even from `main.`, hence the database's own name.
    database = connection.execute("SELECT current_database()").fetchall()[0][0]
    for source, schema in _sources(table):
        place = f'"{database}".{schema}'
        columns = {row[0] for row in connection.execute(f"DESCRIBE {place}.{source}").fetchall()}
        limited = not all_rows and table.scope in columns
        where = f"WHERE {table.scope} IN (FROM {touched.dirty(table.scope)})" if limited and table.scope else ""
        connection.execute(f"CREATE TEMP VIEW {source} AS SELECT * FROM {place}.{source} {where}")


def _unscope(connection: duckdb.DuckDBPyConnection, table: catalog.Table) -> None:
    for source, _ in _sources(table):
        connection.execute(f"DROP VIEW temp.{source}")


def _sources(table: catalog.Table) -> list[tuple[str, str]]:
    names = {other.name for other in catalog.tables()}
    return [(source, "main" if source in names else "facts") for source in sorted(table.reads - _MADE.keys())]


# ── files ──


def _remember(connection: duckdb.DuckDBPyConnection, frontier: Frontier) -> None:
    meta = _Meta(catalog.code_digest(), frontier.size, tuple(peak.hex() for peak in frontier.peaks))
    connection.execute("DELETE FROM staged.meta")
    connection.execute("INSERT INTO staged.meta VALUES ($1)", [canonical.encode(meta).decode()])


def _meta(path: str) -> _Meta | None:
    """What a cache says of itself; None for one that is missing, damaged or made by other code."""
    if not os.path.exists(path):
        return None
    try:
        with connect(path) as connection:
            return _told(connection)
    except duckdb.Error:
        return None


def _told(connection: duckdb.DuckDBPyConnection) -> _Meta | None:
    """What an open cache says of itself; None for one made by other code."""
    row = connection.execute("SELECT body FROM staged.meta").fetchone()
    with contextlib.suppress(msgspec.MsgspecError):
        meta = msgspec.json.decode(row[0], type=_Meta) if row else None
        return meta if meta is not None and meta.code == catalog.code_digest() else None
    return None


def _frontier(meta: _Meta) -> Frontier:
    return Frontier(meta.size, (bytes.fromhex(peak) for peak in meta.peaks))


def _delete(path: str) -> None:
    for name in (path, f"{path}.wal"):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name)


def _tidy(folder: str, keep: str) -> None:
    """Delete caches of other code, what killed processes left, and all but the newest of other heads."""
    others = [entry for entry in os.scandir(folder) if ".duckdb" in entry.name and entry.path != keep]
    current = [entry for entry in others if entry.name.endswith(f"-{catalog.code_digest()}.duckdb")]
    current.sort(key=lambda entry: (entry.stat().st_mtime_ns, entry.name))
    for entry in others:
        if entry not in current[-KEEP:]:
            _delete(entry.path)


def _scratch() -> str:
    """A folder of this process's own for a ledger that cannot be written beside."""
    import atexit

    folder = tempfile.mkdtemp(prefix="experiment-ledger-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def each_head(log: Log, positions: list[int], threads: int | None = None) -> Iterator[Tables]:
    """The tables as of each of `positions` (ascending), built onwards from one to the next in a cache of
    its own: to replay 200 judgements costs one pass over the log. Each is closed before the next."""
    path = os.path.join(_scratch(), "replay.duckdb")
    for position in positions:
        head = log.head_at(position)
        if not _stands(path, head):
            _advance(path, log, head, threads)
        found = Tables(path, head)
        yield found
        found.close()

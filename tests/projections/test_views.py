"""views.sql shows a plain DuckDB what the ledger shows, whatever the files are at the moment."""

import os
import shutil
from pathlib import Path

import duckdb
import history
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ledger import checkpoints, compaction, events, layout, pack
from ledger.chain import Log
from ledger.writer import Draft
from projections import typed
from projections.engine import tables
from projections.staging import table_name


@pytest.fixture
def log(tmp_path, monkeypatch):
    """A ledger in a folder whose name has all that a path in SQL or a glob could trip over; it is the present one."""
    made = Log.create(tmp_path / "we'ird \"[ab]* {c}" / "ledger")
    for _ in history.random_history(made, 7, 60):
        pass
    monkeypatch.chdir(made.root)
    return made


def connect():
    connection = duckdb.connect(config={"autoinstall_known_extensions": "false"})
    connection.execute("SET TimeZone = 'UTC'")
    connection.execute(Path("views.sql").read_text())
    return connection


def rows(connection, query):
    return connection.sql(query).to_arrow_table().to_pylist()


def test_every_view_shows_the_facts(log):
    built = tables(log)
    typed.refresh(built, log.root)
    connection = connect()
    for name in map(table_name, events.TYPES):
        columns = [column["column_name"] for column in built.rows(f"DESCRIBE facts.{name}")]
        query = f"SELECT {', '.join(columns)} FROM {{}}{name} ORDER BY position"
        assert str(rows(connection, query.format(""))) == str(built.rows(query.format("facts.")))
    query = (
        "SELECT position, id, type, version, stream, recorded_at, actor, retracted_by, body FROM events ORDER BY 1"
    )
    assert rows(connection, query) == built.rows(query)
    assert built.rows("SELECT count(*) AS n FROM events WHERE retracted_by IS NOT NULL") != [{"n": 0}]


def test_what_came_after_the_typed_files_is_read_from_the_bodies(log):
    typed.refresh(tables(log), log.root)
    target = next(event for event in log.events() if event.type == "run.started")
    new = history.finished("later", "-Infinity")
    log.writer.append(
        [Draft("run/x", events.EventRetracted(target=target.event_id, reason="wrong")), Draft("run/later", new)]
    )
    connection = connect()
    assert rows(connection, "SELECT value FROM run_finished WHERE run = 'later'") == [{"value": float("-inf")}]
    assert rows(connection, f"SELECT run FROM run_started WHERE position = {target.position}") == []


def positions(connection):
    return [row["position"] for row in rows(connection, "SELECT position FROM events_raw ORDER BY position")]


def test_the_views_go_on_to_be_right_when_the_log_is_packed_later(log):
    typed.refresh(tables(log), log.root)
    connection = connect()
    assert positions(connection) == list(range(log.head().position))
    checkpoints.sign(log)
    compaction.compact(log)  # the segments stay for a while, beside the pack that holds them
    assert pack.listed(log.root)
    assert list(Path("log").rglob("*.parquet"))
    assert positions(connection) == list(range(log.head().position))
    compaction.compact(log, grace=0)
    assert not list(Path("log").rglob("*.parquet"))
    assert positions(connection) == list(range(log.head().position))
    log.writer.append([Draft("run/x", events.EventRetracted(target="x", reason="y"))])
    assert positions(connection) == list(range(log.head().position))


def test_of_packs_within_and_over_each_other_every_event_counts_once(log):
    typed.refresh(tables(log), log.root)
    connection = connect()
    size = log.head().position
    whole = pa.Table.from_batches([batch for _, _, batch in log.batches()])
    for start, stop in ((0, 20), (0, 30), (10, 20), (25, 40), (45, 50)):  # the last one lies beyond a gap
        pq.write_table(whole.slice(start, stop - start), f"pack/{start:016d}-{stop:016d}.parquet")
    for base, path in Log.listed_in(log.root):
        if base < 20:
            os.unlink(path)
    # Beyond 40 the loose segments count again; one that begins before 40 does not, and here none reaches over it.
    cut = min(base for base, _ in Log.listed_in(log.root) if base >= 40)
    assert positions(connection) == [*range(40), *range(cut, size)]


def test_a_version_that_the_views_do_not_know_stops_them(log, monkeypatch):
    typed.refresh(tables(log), log.root)
    monkeypatch.setattr(events.EventRetracted, "VERSION", 2)
    log.writer.append([Draft("run/x", events.EventRetracted(target="x", reason="y"))])
    with pytest.raises(duckdb.Error, match=r"event\.retracted has a version that these views do not know"):
        rows(connect(), "SELECT * FROM event_retracted")


def test_the_views_work_after_the_folder_was_moved(log, tmp_path, monkeypatch):
    typed.refresh(tables(log), log.root)
    before = rows(connect(), "SELECT * FROM run_started ORDER BY position")
    shutil.move(log.root, tmp_path / "moved")
    monkeypatch.chdir(tmp_path / "moved")
    assert rows(connect(), "SELECT * FROM run_started ORDER BY position") == before


def test_an_empty_ledger_has_no_views_yet(tmp_path):
    empty = Log.create(tmp_path / "empty")
    assert typed.refresh(tables(empty), empty.root).files == ()
    assert not os.path.exists(os.path.join(empty.root, typed.VIEWS))
    assert layout.is_ledger(empty.root)

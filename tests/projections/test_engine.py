"""The cache of tables: equal however it was built, and never ahead of or beside the log."""

import os
import shutil
import subprocess
import sys
import threading

import duckdb
import history
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ledger import events
from ledger.chain import Log
from ledger.errors import Unsupported, UsageError
from ledger.writer import Draft
from projections import catalog
from projections.engine import each_head, tables


def digests(log, **options):
    return tables(log, **options).digests()


@settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck))
@given(seed=st.integers(0, 10**6), cuts=st.sets(st.integers(1, 70), max_size=4))
def test_building_onwards_from_any_cut_gives_the_digests_of_building_anew(tmp_path_factory, seed, cuts):
    log = Log.create(tmp_path_factory.mktemp("any") / "ledger")
    for step, _ in enumerate(history.random_history(log, seed, 70)):
        if step in cuts:
            tables(log)
    assert digests(log) == digests(log, fresh=True)


def test_digests_do_not_depend_on_threads(log):
    for _ in history.random_history(log, 3, 120):
        pass
    assert (
        digests(log, fresh=True, threads=1)
        == digests(log, fresh=True, threads=2)
        == digests(log, fresh=True, threads=8)
    )


def test_digests_do_not_depend_on_time_zone_or_locale(log, monkeypatch):
    for _ in history.random_history(log, 4, 60):
        pass
    before = digests(log, fresh=True)
    monkeypatch.setenv("TZ", "Pacific/Chatham")
    monkeypatch.setenv("LC_ALL", "tr_TR.UTF-8")
    assert digests(log, fresh=True) == before


def test_tables_as_of_a_position_are_those_that_were_there_then(log, tmp_path):
    then = {}
    for step, _ in enumerate(history.random_history(log, 5, 40)):
        if step % 10 == 7:
            then[log.head().position] = digests(log)
    for size, found in then.items():
        assert digests(log, as_of=size) == found


def test_a_deleted_cache_is_made_again(log):
    for _ in history.random_history(log, 6, 30):
        pass
    before = digests(log)
    shutil.rmtree(os.path.join(log.root, "proj"))
    assert digests(log) == before


def test_a_damaged_cache_is_made_again(log):
    for _ in history.random_history(log, 6, 30):
        pass
    built = tables(log)
    before = built.digests()
    with open(built.path, "r+b") as file:
        file.write(b"garbage" * 1000)
    assert digests(log) == before


def test_a_cache_of_another_history_is_not_believed(tmp_path):
    first, second = Log.create(tmp_path / "a"), Log.create(tmp_path / "b")
    for _ in history.random_history(first, 1, 40):
        pass
    for _ in history.random_history(second, 2, 60):
        pass
    shutil.copytree(os.path.join(first.root, "proj"), os.path.join(second.root, "proj"), dirs_exist_ok=True)
    tables(first)
    shutil.copy(tables(first).path, os.path.join(second.root, "proj"))
    assert digests(second) == digests(second, fresh=True)


def test_a_reader_who_holds_the_cache_open_does_not_stop_others(log):
    steps = history.random_history(log, 7, 60)
    for _ in range(30):
        next(steps)
    held = duckdb.connect(tables(log).path, read_only=True, config={"access_mode": "read_only"})
    for _ in steps:
        pass
    held.execute("SELECT count(*) FROM runs").fetchall()
    held.close()
    assert digests(log) == digests(log, fresh=True)


def test_an_unknown_event_type_stops_the_tables_and_is_not_skipped(log, monkeypatch):
    class Future(events.EventRetracted, frozen=True):
        TYPE = "future.thing"

    monkeypatch.setitem(events.TYPES, "future.thing", Future)
    log.writer.append([Draft("run/x", Future(target="a", reason="b"))])
    monkeypatch.delitem(events.TYPES, "future.thing")
    with pytest.raises(Unsupported, match=r"future\.thing"):
        tables(log)


def test_an_older_version_is_upcast_when_staged(log, monkeypatch):
    log.writer.append([Draft("run/x", events.EventRetracted(target="a", reason="old"))])
    monkeypatch.setattr(events.EventRetracted, "VERSION", 2)
    monkeypatch.setitem(
        events.UPCASTERS, ("event.retracted", 1), lambda data: {**data, "reason": data["reason"] + "!"}
    )
    rows = tables(log, fresh=True).rows("SELECT reason FROM staged.event_retracted")
    assert rows == [{"reason": "old!"}]


def test_nan_and_infinity_reach_the_tables(log):
    plan = history.registered("e", ["c", "t"], [0])
    history.fill(log, plan, {})
    for run, value in (("a", "NaN"), ("b", "Infinity"), ("c", "-Infinity")):
        log.writer.append(
            [
                Draft(f"run/{run}", history.started(run, "e", "c", 0)),
                Draft(f"run/{run}", history.finished(run, value)),
            ]
        )
    found = {row["run"]: row["value"] for row in tables(log).rows("SELECT run, value FROM runs")}
    assert str(found["a"]) == "nan"
    assert found["b"] == float("inf")
    assert found["c"] == float("-inf")


def test_a_retracted_outcome_leaves_the_tables_but_not_the_past(log):
    plan = history.registered("e", ["c", "t"], [0, 1])
    ids = history.fill(log, plan, {("c", 0): 1.0, ("t", 0): 1.1, ("c", 1): 1.0, ("t", 1): 1.2})
    before = log.head().position
    log.writer.append([Draft("run/x", events.EventRetracted(target=ids[1], reason="wrong data"))])
    query = "SELECT count(*) AS n FROM paired_differences WHERE both_ok"
    assert tables(log).rows(query) == [{"n": 1}]
    assert tables(log, before).rows(query) == [{"n": 2}]
    assert tables(log).rows("SELECT count(*) AS n FROM events WHERE retracted_by IS NOT NULL") == [{"n": 1}]


def test_a_run_before_its_plan_is_marked_for_ever(log):
    log.writer.append([Draft("run/early", history.started("early", "e", "t", 0))])
    history.fill(log, history.registered("e", ["c", "t"], [0]), {("c", 0): 1.0})
    found = {row["run"]: row["started_after_registration"] for row in tables(log).rows("SELECT * FROM runs")}
    assert found == {"early": False, "e-c-0": True}


def test_each_head_gives_the_tables_of_every_position(log):
    for _ in history.random_history(log, 8, 50):
        pass
    positions = [5, 17, log.head().position]
    for position, built in zip(positions, each_head(log, positions), strict=True):
        assert built.digests() == digests(log, as_of=position)


@pytest.mark.parametrize(
    "query",
    [
        "CREATE TABLE x (a INT)",
        "INSERT INTO runs SELECT * FROM runs",
        "DELETE FROM runs",
        "DROP TABLE runs",
        "SELECT * FROM read_csv('/etc/passwd')",
        "SELECT * FROM read_text('/etc/passwd')",
        "COPY runs TO 'x.csv'",
        "ATTACH 'x.duckdb'",
        "SET enable_external_access = true",
        "INSTALL httpfs",
        "LOAD httpfs",
        "SELECT * FROM 'https://example.org/x.parquet'",
        "EXPORT DATABASE 'x'",
        "SELEC 1",
        "SELECT * FROM nothing",
        "",
    ],
)
def test_a_query_can_only_read_the_tables(log, query, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError):
        tables(log).query(query)
    assert not (tmp_path / "x.csv").exists()
    assert not (tmp_path / "x.duckdb").exists()


def test_tables_come_after_what_they_read():
    order = [table.name for table in catalog.tables()]
    assert order.index("runs") < order.index("paired_differences") < order.index("effects")


def test_a_table_file_without_a_key_is_refused():
    with pytest.raises(ValueError, match="key"):
        catalog.parse("x", "-- About.\n-- kind: view\n-- columns:\n--   a: b\nSELECT 1")


def test_tables_stay_as_of_their_head_while_the_log_goes_on(log):
    ids = history.fill(log, history.registered("e", ["c", "t"], [0, 1]), {("c", 0): 1.0, ("t", 0): 1.1})
    before = tables(log)
    log.writer.append([Draft("run/x", events.EventRetracted(target=ids[0], reason="wrong"))])
    assert tables(log).rows("SELECT count(*) AS n FROM paired_differences WHERE both_ok") == [{"n": 0}]
    assert before.rows("SELECT count(*) AS n FROM paired_differences WHERE both_ok") == [{"n": 1}]
    assert before.rows("SELECT count(*) AS n FROM events") == [{"n": before.head.position}]


def test_readers_do_not_fail_while_others_refresh(log):
    steps = history.random_history(log, 9, 55)
    for _ in range(30):
        next(steps)
    failures: list[Exception] = []
    stop = threading.Event()

    def read() -> None:
        own = Log(log.root)
        while not stop.is_set():
            try:
                built = tables(own)
                (row,) = built.rows("SELECT count(*) AS n FROM events")
                assert row["n"] == built.head.position
            except Exception as error:
                failures.append(error)

    readers = [threading.Thread(target=read) for _ in range(3)]
    for reader in readers:
        reader.start()
    for _ in steps:
        tables(log)
    stop.set()
    for reader in readers:
        reader.join()
    assert failures == []


def test_times_are_utc_whatever_the_readers_zone(log):
    history.fill(log, history.registered("e", ["c", "t"], [0]), {("c", 0): 1.0})
    code = (
        "import sys; from ledger.chain import Log; from projections.engine import tables; "
        "print(tables(Log(sys.argv[1])).rows('SELECT min(recorded_at)::VARCHAR AS t FROM events')[0]['t'])"
    )
    for zone in ("America/New_York", "Asia/Tokyo"):
        done = subprocess.run(
            [sys.executable, "-c", code, log.root],
            env={**os.environ, "TZ": zone}, capture_output=True, text=True, check=True,
        )  # fmt: skip
        assert done.stdout.strip().endswith("+00")

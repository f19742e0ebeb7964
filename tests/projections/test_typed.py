"""Typed files: the same bytes whoever makes them, and never of another log than the one that is there."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import history
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ledger import checkpoints, compaction, events, layout
from ledger.chain import Log
from ledger.errors import Unsupported
from ledger.writer import Draft
from projections import typed
from projections.engine import tables
from projections.staging import fields

ROOT = Path(__file__).resolve().parent.parent.parent


def refresh(log, **options):
    return typed.refresh(tables(log), log.root, **options)


def fill(log, seed, length):
    for _ in history.random_history(log, seed, length):
        pass


def files_below(log):
    folder = Path(log.root, "typed")
    return {path.relative_to(log.root).as_posix(): path.read_bytes() for path in folder.rglob("*.parquet")}


@given(st.integers(0, 10**7))
def test_ranges_cover_every_position_once_and_in_order(size):
    found = typed.blocks(size)
    assert [start for start, _ in found] == [0, *(stop for _, stop in found)][: len(found)]
    assert (found[-1][1] if found else 0) == size
    assert len(found) <= size // 2**17 + 17


@given(st.integers(0, 10**7), st.integers(0, 10**6))
def test_a_log_that_grows_has_few_of_its_ranges_made_again(size, more):
    before, after = typed.blocks(size), typed.blocks(size + more)
    made = sum(stop - start for start, stop in set(after) - set(before))
    assert made <= more + 2**17 + 2**13


@pytest.fixture
def small_ranges(monkeypatch):
    monkeypatch.setattr(typed, "_BLOCKS", (32, 8))


@settings(max_examples=8, deadline=None, suppress_health_check=list(HealthCheck))
@given(seed=st.integers(0, 10**6), cuts=st.sets(st.integers(1, 60), max_size=4))
def test_files_made_onwards_from_any_cut_are_those_made_anew(tmp_path_factory, small_ranges, seed, cuts):
    log = Log.create(tmp_path_factory.mktemp("any") / "ledger")
    for step, _ in enumerate(history.random_history(log, seed, 60)):
        if step in cuts:
            refresh(log)
    stepwise = refresh(log)
    made = files_below(log)
    shutil.rmtree(os.path.join(log.root, "typed"))
    assert refresh(log) == stepwise
    assert files_below(log) == made


def test_files_are_the_same_with_any_number_of_threads_in_any_zone_from_packs_and_from_loose_segments(
    log, small_ranges
):
    fill(log, 3, 60)
    size = log.head().position
    typed.refresh(tables(log, threads=1, fresh=True), log.root, fresh=True)
    made, digests = files_below(log), tables(log).digests()
    typed.refresh(tables(log, threads=8, fresh=True), log.root, fresh=True)
    assert files_below(log) == made

    code = (
        "import sys; from ledger.chain import Log; from projections import typed;"
        "from projections.engine import tables;"
        "typed._BLOCKS = (32, 8); log = Log(sys.argv[1]);"
        "typed.refresh(tables(log, fresh=True), log.root, fresh=True)"
    )
    zone = {"TZ": "Pacific/Chatham", "LC_ALL": "tr_TR.UTF-8", "LANG": "tr_TR.UTF-8", "PYTHONHASHSEED": "7"}
    subprocess.run([sys.executable, "-P", "-c", code, log.root], env={**os.environ, **zone}, check=True, cwd=ROOT)
    assert files_below(log) == made

    checkpoints.sign(log)  # adds the event of the key
    assert compaction.compact(log, grace=0).packed
    assert not list(Path(log.root, "log").rglob("*.parquet"))
    shutil.rmtree(os.path.join(log.root, "typed"))
    packed = tables(log, size, fresh=True)
    typed.refresh(packed, log.root)
    assert files_below(log) == made
    assert packed.digests() == digests


def test_a_typed_file_holds_what_the_events_say(log):
    fill(log, 4, 60)
    made = refresh(log)
    told = [event for event in log.events() if event.type == "run.finished"]
    (file,) = [file for file in made.files if file.type == "run.finished"]
    rows = pq.read_table(os.path.join(log.root, file.path), page_checksum_verification=True).to_pylist()
    assert file.rows == len(told) == len(rows)
    for event, row in zip(told, rows, strict=True):
        assert (row["position"], row["event_id"], row["stream"]) == (event.position, event.event_id, event.stream)
        assert row["recorded_at"].strftime("%Y-%m-%dT%H:%M:%S.%fZ") == event.recorded_at
        assert (row["run"], row["status"], row["steps"]) == (event.data.run, event.data.status, event.data.steps)
        assert str(row["value"]) == str(event.data.value) or event.data.value == "NaN"


def test_what_is_up_to_date_is_left_alone_and_what_is_missing_made_again(log, small_ranges):
    fill(log, 5, 40)
    first = refresh(log)
    times = {path: os.stat(path).st_mtime_ns for path in Path(log.root, "typed").rglob("*.parquet")}
    assert refresh(log) == first
    assert {path: os.stat(path).st_mtime_ns for path in times} == times
    before = files_below(log)
    os.unlink(os.path.join(log.root, first.files[0].path))
    assert refresh(log) == first
    assert files_below(log) == before


def test_files_of_another_history_are_not_believed(tmp_path, small_ranges):
    """Two ledgers of equal length: the files of the one lie in the other."""
    first, second = Log.create(tmp_path / "a"), Log.create(tmp_path / "b")
    fill(first, 1, 40)
    while second.head().position < first.head().position:
        second.writer.append([Draft("run/x", events.EventRetracted(target="x", reason="y"))])
    refresh(first)
    shutil.copytree(os.path.join(first.root, "typed"), os.path.join(second.root, "typed"))
    made = refresh(second)
    assert {file.type for file in made.files} == {"event.retracted"}
    assert set(files_below(second)) == {file.path for file in made.files}


def test_after_a_rolled_back_tail_tables_and_files_are_those_of_the_log_that_is_there(log, small_ranges):
    """A power cut may take back a commit that a reader has seen already (it was not acknowledged)."""
    fill(log, 6, 30)
    lost = log.writer.append([Draft("run/lost", history.started("lost", None, "a", 1))]).position
    assert tables(log).rows("SELECT count(*) AS n FROM runs WHERE run = 'lost'") == [{"n": 1}]
    refresh(log)
    os.unlink(layout.segment_path(log.root, lost))
    again = Log(log.root)
    again.writer.append([Draft("run/new", history.started("new", None, "a", 1))])
    assert again.head().position == lost + 1
    assert tables(again).rows("SELECT run FROM runs WHERE run IN ('lost', 'new')") == [{"run": "new"}]
    digests = tables(again).digests()
    made, found = refresh(again), files_below(again)
    assert digests == tables(again, fresh=True).digests()
    assert refresh(again, fresh=True) == made
    assert files_below(again) == found


def test_an_older_version_is_upcast_into_the_files(log, monkeypatch):
    log.writer.append([Draft("run/x", events.EventRetracted(target="a", reason="old"))])
    refresh(log)
    monkeypatch.setattr(events.EventRetracted, "VERSION", 2)
    monkeypatch.setitem(
        events.UPCASTERS, ("event.retracted", 1), lambda data: {**data, "reason": data["reason"] + "!"}
    )
    made = typed.refresh(tables(log, fresh=True), log.root, fresh=True)
    (file,) = made.files
    assert file.path.startswith("typed/event.retracted/v2/")
    assert pq.read_table(os.path.join(log.root, file.path))["reason"].to_pylist() == ["old!"]
    assert set(files_below(log)) == {file.path}


def test_an_unknown_type_stops_before_any_file_is_written(log, monkeypatch):
    class Future(events.EventRetracted, frozen=True):
        TYPE = "future.thing"

    monkeypatch.setitem(events.TYPES, "future.thing", Future)
    log.writer.append([Draft("run/x", Future(target="a", reason="b"))])
    monkeypatch.delitem(events.TYPES, "future.thing")
    with pytest.raises(Unsupported, match=r"future\.thing"):
        refresh(log)
    assert not os.path.exists(os.path.join(log.root, "typed"))


def test_a_field_that_is_called_like_a_column_of_the_envelope_has_a_column_of_its_own():
    assert fields(events.Head).startswith('told.data."position" AS "data_position", told.data."root" AS "root"')

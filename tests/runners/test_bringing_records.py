"""Bringing readings into the log: once, however many processes try, and under names that a stream may have."""

import re
import threading

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger.chain import Log
from ledger.events import STREAM_PATTERN
from ledger.records import (
    ExtractionFailed,
    LeaderboardExtracted,
    LeaderboardRow,
    ReadIntervention,
    RecordExtracted,
    SourceFile,
)
from ledger.segment import MAX_BODY
from runners.records import (
    Known,
    append_failure,
    append_leaderboard,
    append_record,
    grown,
    repository_of,
    stream,
)


@pytest.fixture
def log(tmp_path):
    return Log.create(tmp_path / "ledger")


def reading(name="track/A", source="a", **more):
    files = (SourceFile("README.md", source * 64, 9),)
    rest = {"track": "track", "repository": None, "parser": "rules/1", "vocabulary": "v", "part": 1, "parts": 1}
    return RecordExtracted(**{"record": name, "source_digest": source, "sources": files, **rest, **more})


def board(count, source="a"):
    rows = tuple(
        LeaderboardRow(
            track="t", run=f"run {n}", score=1.0, author="a", summary="word " * 100, date=None, record=None,
            evidence=f"README.md:{n}",
        )
        for n in range(1, count + 1)
    )  # fmt: skip
    return LeaderboardExtracted(repository="o/golf", parser="rules/1", source_digest=source, sources=(), rows=rows)


def failure(digest="d", reason="not UTF-8"):
    return ExtractionFailed(record="track/A", path="README.md", reason=reason, parser="rules/1", source_digest=digest)


def test_each_case_has_its_verdict(log):
    known = Known(log)
    assert append_record(known, [reading()]) == "new"
    assert append_record(known, [reading()]) == "same"
    assert append_record(known, [reading(parser="rules/2")]) == "older"
    assert append_record(known, [reading(parser="rules/2")], again=True) == "reread"
    assert append_record(known, [reading(parser="rules/2")], again=True) == "same"
    assert append_record(known, [reading(source="b")]) == "changed"
    assert append_record(known, [reading()]) == "changed"
    assert log.head().position == 4


def test_a_failure_is_told_once_for_the_same_bytes(log):
    known = Known(log)
    said = [append_failure(known, one) for one in (failure(), failure(), failure("e"), failure("e", "empty"))]
    assert said == ["new", "same", "changed", "reread"]
    assert append_record(known, [reading()]) == "new"
    assert append_failure(known, failure("e", "empty")) == "new"
    assert append_record(known, [reading()]) == "new", "a record that can be read again is read again"


def test_another_process_finds_it_done(log):
    append_record(Known(log), [reading()])
    assert append_record(Known(Log(log.root)), [reading()]) == "same"


def test_of_many_that_read_the_same_folder_each_record_is_appended_once(log):
    names = [f"track/R{n}" for n in range(12)]

    def scan():
        known = Known(Log(log.root))
        for name in names:
            append_record(known, [reading(name)])

    threads = [threading.Thread(target=scan) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(event.data.record for event in log.events()) == sorted(names)


def test_a_long_leaderboard_is_one_commit_of_several_events_and_is_known_again(log):
    known = Known(log)
    assert append_leaderboard(known, board(300)) == "new"
    events = list(log.events())
    assert len(events) > 2
    assert sum(len(event.data.rows) for event in events) == 300
    assert append_leaderboard(Known(log), board(300)) == "same"
    assert append_leaderboard(Known(log), board(300), again=True) == "same"
    assert append_leaderboard(Known(log), board(299, "b")) == "changed"


def test_a_reading_grows_by_parts_that_an_event_can_hold(log):
    rows = tuple(
        ReadIntervention(intervention=f"x{n}", known=True, label="word " * 30, kind="k", status="new")
        for n in range(500)
    )
    parts = grown([reading()], interventions=rows)
    assert [part.part for part in parts] == list(range(1, len(parts) + 1))
    assert {part.parts for part in parts} == {len(parts)}
    assert tuple(row for part in parts for row in part.interventions) == rows
    append_record(Known(log), parts)
    assert all(len(event.body) < MAX_BODY for event in log.events())
    assert append_record(Known(log), parts) == "same"
    assert append_record(Known(log), [msgspec.structs.replace(parts[0], parts=1)], again=True) == "reread"


@given(st.text(min_size=1, max_size=300), st.text(min_size=1, max_size=300))
def test_a_stream_s_name_is_valid_and_two_records_never_share_one(one, other):
    assert STREAM_PATTERN.fullmatch(stream("record", one))
    assert (stream("record", one) == stream("record", other)) is (one == other)


def test_a_usual_name_stays_readable():
    assert stream("record", "track_10min/2026-03-17_Base") == "record/track_10min:2026-03-17_Base"
    assert re.fullmatch(r"record/a-b-[0-9a-f]{16}", stream("record", "a:b"))


def test_a_folder_that_is_in_no_clone_has_no_repository(tmp_path):
    assert repository_of(tmp_path) is None
    assert repository_of(tmp_path / "nowhere") is None

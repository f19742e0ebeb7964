"""Notes of heads remember the end of the log, and a hole in it is never stepped over."""

import os
from pathlib import Path

import pytest

from ledger import disk, writer
from ledger.chain import Log
from ledger.errors import Corrupt, NotAppended
from ledger.verify import verify


@pytest.fixture
def noted(fresh, remark):
    """Six commits and a note of the head."""
    for number in range(6):
        fresh.writer.append([remark(str(number))])
    fresh.close()
    return fresh


def notes(log):
    return sorted(os.listdir(os.path.join(log.root, "state")))


def test_closing_notes_the_head(noted):
    assert notes(noted) == ["0000000000000006.json"]


def test_an_open_that_starts_from_a_note_gives_the_same_head_and_events(noted):
    opened = Log(noted.root)
    assert opened.size == 6
    assert opened.head() == noted.head()
    assert list(opened.events()) == list(noted.events())


def test_a_note_is_made_now_and_then_without_a_close(fresh, remark, monkeypatch):
    monkeypatch.setattr(writer, "_NOTE_EVERY", 3)
    for number in range(10):
        fresh.writer.append([remark(str(number))])
    assert notes(fresh) == ["0000000000000006.json", "0000000000000009.json"]


@pytest.mark.parametrize("lost", [1, 2, 6])
def test_a_log_whose_last_segments_were_deleted_is_refused_at_open(noted, files_of, lost):
    for path in files_of(noted)[-lost:]:
        path.unlink()
    with pytest.raises(Corrupt, match="does not reach the head"):
        Log(noted.root)
    report = verify(noted.root)
    assert [problem.position for problem in report.problems] == [6 - lost]


@pytest.mark.parametrize("gone", [0, 1, 3, 4])
def test_a_gap_below_a_noted_head_is_refused_at_open(noted, files_of, gone):
    files_of(noted)[gone].unlink()
    with pytest.raises(Corrupt, match="missing") as refused:
        Log(noted.root)
    assert refused.value.position == gone
    assert verify(noted.root).problems[0].position == gone


@pytest.mark.parametrize("gone", [0, 1, 4])
def test_a_gap_is_refused_for_reading_the_head_and_for_appending(noted, files_of, remark, gone):
    Path(noted.root, "state", notes(noted)[0]).unlink()
    files_of(noted)[gone].unlink()
    log = Log(noted.root)
    with pytest.raises(Corrupt) as refused:
        log.head()
    assert refused.value.position == gone
    with pytest.raises(Corrupt):
        log.writer.append([remark("more")])
    assert len(files_of(noted)) == 5


def test_a_replaced_last_segment_is_refused_at_open(noted, files_of, forge):
    forge(noted, files_of(noted)[-1], lambda row: row._replace(body=row.body.replace(b'"5"', b'"9"')))
    with pytest.raises(Corrupt, match="another file"):
        Log(noted.root)
    assert verify(noted.root).problems[0].position == 5


@pytest.mark.parametrize("damage", [b"", b"{", b'{"size":6}', b"\xff" * 50])
def test_a_damaged_note_is_passed_over(noted, damage):
    Path(noted.root, "state", notes(noted)[0]).write_bytes(damage)
    assert Log(noted.root).head() == noted.head()
    assert verify(noted.root).problems == ()


def test_a_note_that_lies_about_its_root_is_passed_over(noted):
    path = Path(noted.root, "state", notes(noted)[0])
    path.write_text(path.read_text().replace(noted.head().root, "0" * 64))
    assert Log(noted.root).head() == noted.head()


def test_an_append_stands_although_its_note_could_not_be_written(fresh, remark, monkeypatch):
    monkeypatch.setattr(writer, "_NOTE_EVERY", 1)
    real = disk.write_temporary

    def full(folder, data, *how, **more):
        if b"last_seal" in data:
            raise NotAppended("nothing was appended: no space")
        return real(folder, data, *how, **more)

    monkeypatch.setattr(disk, "write_temporary", full)
    fresh.writer.append([remark("kept")])
    assert fresh.head().position == 1


def test_a_note_is_only_made_of_what_was_made_durable_first(fresh, remark, monkeypatch):
    calls = []
    fresh.writer.append([remark("mine")])
    Log(fresh.root).writer.append([remark("another's, maybe not durable yet")])
    assert fresh.head().position == 2
    monkeypatch.setattr(disk, "sync_folder", calls.append)
    monkeypatch.setattr(disk, "replace", lambda *_: calls.append("note"))
    fresh.close()
    assert calls == [os.path.join(fresh.root, "log", "00000000"), "note"]


def test_reading_makes_no_note(noted):
    before = notes(noted)
    with Log(noted.root) as log:
        list(log.events())
    assert notes(noted) == before


def test_foreign_files_in_log_do_not_pass_for_a_later_segment(noted):
    folder = Path(noted.root, "log")
    (folder / "zz").mkdir()
    (folder / "zz" / "0000000000000099.parquet").write_bytes(b"x")
    (folder / "notes.txt").write_text("x")
    (folder / "00000000" / "99.parquet").write_bytes(b"x")
    assert Log(noted.root).head().position == 6

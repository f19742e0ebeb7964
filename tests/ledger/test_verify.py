"""Whatever is done to the files, verify says so and names the first position in doubt."""

import itertools
import os
from pathlib import Path

import msgspec
import pytest

from ledger import canonical, checkpoints, events, points, segment
from ledger.chain import Log
from ledger.errors import NotALedger, UsageError
from ledger.verify import _Verifier, against, verify
from ledger.writer import Draft


def first(log):
    """The first problem's position and text; fails when there is none."""
    problem = verify(log.root).problems[0]
    return problem.position, problem.what


@pytest.fixture
def ten(fresh, remark):
    """Ten commits of one event by one writer, without a note."""
    for number in range(10):
        fresh.writer.append([remark(f"number {number}")])
    return fresh


def edit(row, **change):
    """A row whose body says something else, in its data (reason) or its envelope."""
    body = canonical.decode(row.body)
    if "reason" in change:
        body["data"]["reason"] = change.pop("reason")
    return row._replace(body=canonical.encode({**body, **change}))


def test_a_log_as_it_was_written_has_no_problem(ten, examples):
    report = verify(ten.root)
    assert report.problems == report.warnings == ()
    assert (report.size, report.root, report.segments) == (10, ten.head().root, 10)
    assert report.bytes == sum(path.stat().st_size for path in Path(ten.root, "log").rglob("*.parquet"))


def test_an_empty_ledger_has_no_problem(fresh):
    report = verify(fresh.root)
    assert (report.size, report.problems) == (0, ())


def test_verify_changes_nothing(ten):
    def state():
        return {path: path.stat().st_mtime_ns for path in Path(ten.root).rglob("*")}

    before = state()
    verify(ten.root)
    assert state() == before


def test_what_is_noted_and_signed_after_the_walk_is_no_problem(fresh, remark, monkeypatch):
    other = Log(fresh.root)
    fresh.writer.append([remark("before")])
    checkpoints.sign(fresh)
    real = _Verifier.walk

    def walk(self):
        real(self)
        other.writer.append([remark("after")])
        other.close()
        checkpoints.sign(other)

    monkeypatch.setattr(_Verifier, "walk", walk)
    assert verify(fresh.root).problems == ()
    monkeypatch.undo()
    assert verify(fresh.root).problems == ()


def test_a_folder_that_is_no_ledger_is_not_verified(tmp_path):
    with pytest.raises(NotALedger):
        verify(tmp_path)


@pytest.mark.parametrize("position", [0, 4, 9])
@pytest.mark.parametrize("left", [0, 1, 300, -1])
def test_a_truncated_segment_is_named(ten, files_of, position, left):
    path = files_of(ten)[position]
    path.write_bytes(path.read_bytes()[:left])
    assert first(ten)[0] == position


@pytest.mark.parametrize("position", [0, 4])
def test_a_deleted_segment_is_named(ten, files_of, position):
    files_of(ten)[position].unlink()
    assert first(ten) == (position, "is missing")


def test_the_deleted_last_segment_is_named_when_the_head_was_noted(ten, files_of):
    ten.close()
    files_of(ten)[-1].unlink()
    position, what = first(ten)
    assert position == 9
    assert "10 events were noted" in what


def test_swapped_segments_are_named(ten, files_of):
    three, seven = files_of(ten)[3], files_of(ten)[7]
    data = three.read_bytes()
    three.write_bytes(seven.read_bytes())
    seven.write_bytes(data)
    assert first(ten)[0] == 3


def test_a_segment_copied_over_another_is_named(ten, files_of):
    files_of(ten)[5].write_bytes(files_of(ten)[4].read_bytes())
    assert first(ten)[0] == 5


@pytest.mark.parametrize("position", [0, 3, 8])
def test_a_consistent_forgery_is_found_by_the_commit_after_it(ten, files_of, forge, position):
    forge(ten, files_of(ten)[position], lambda row: edit(row, reason="what I wish it had been"))
    at, what = first(ten)
    assert at == position
    assert f"positions {position} to {position}" in what


def test_a_consistent_forgery_of_the_last_commit_is_found_by_the_note(ten, files_of, forge):
    ten.close()
    forge(ten, files_of(ten)[-1], lambda row: edit(row, reason="what I wish it had been"))
    at, what = first(ten)
    assert at == 9
    assert "noted" in what


def test_a_consistent_forgery_of_the_last_commit_is_found_by_a_head_that_was_kept(ten, files_of, forge):
    kept = f"{ten.head().position}:{ten.head().root}"
    assert against(verify(ten.root), kept) == []
    forge(ten, files_of(ten)[-1], lambda row: edit(row, reason="what I wish it had been"))
    report = verify(ten.root)
    assert report.problems == ()
    assert "the head that was kept" in against(report, kept)[0].what


def test_a_head_that_was_kept_may_lie_anywhere_in_the_log(ten):
    for size in range(11):
        head = ten.head_at(size)
        assert against(verify(ten.root), f"{head.position}:{head.root[:12]}") == []


def test_a_log_shorter_than_the_head_that_was_kept_is_a_problem(ten, files_of):
    kept = f"{ten.head().position}:{ten.head().root}"
    files_of(ten)[-1].unlink()
    assert against(verify(ten.root), kept)[0].position == 9


@pytest.mark.parametrize("head", ["", "5", "x:abcdef12", "5:xyz", "5:ABCDEF12", "-1:abcdef12", "5:abc"])
def test_a_kept_head_of_another_form_is_a_usage_error(ten, head):
    with pytest.raises(UsageError):
        against(verify(ten.root), head)


@pytest.mark.parametrize(
    "column",
    [
        {"type": "run.started"},
        {"stream": "event/other"},
        {"type_version": 2},
        {"recorded_at": 1},
        {"actor": "somebody else"},
        {"event_id": b"x" * 16},
        {"causation_id": b"x" * 16},
        {"correlation_id": b"x" * 16},
        {"writer_seq": 77},
        {"writer": b"x" * 16},
    ],
)
def test_columns_that_differ_from_the_body_are_named(ten, files_of, forge, column):
    forge(ten, files_of(ten)[6], lambda row: row._replace(**column))
    assert first(ten) == (6, "the columns of an event are not what its body says")


def test_a_gap_in_a_writers_sequence_is_named(ten, files_of, forge):
    forge(
        ten,
        files_of(ten)[9],
        lambda row: edit(row, writer_seq=row.writer_seq + 1)._replace(writer_seq=row.writer_seq + 1),
    )
    at, what = first(ten)
    assert at == 9
    assert "jumps from event 9 to 10" in what


def test_a_removed_event_whose_followers_were_moved_up_is_found(ten, files_of):
    paths = files_of(ten)
    for here, later in itertools.pairwise(paths[4:]):
        here.write_bytes(later.read_bytes())
    paths[-1].unlink()
    assert first(ten)[0] == 4


@pytest.mark.parametrize("body", [b"", b"{}", b"null", b"[]", b"\xff"])
def test_a_forged_body_that_is_no_event_is_a_problem_and_not_a_crash(ten, files_of, forge, body):
    forge(ten, files_of(ten)[9], lambda row: row._replace(body=body))
    assert first(ten)[0] == 9


def test_a_forged_event_without_data_is_a_problem_and_not_a_crash(ten, files_of, forge):
    def without_data(row):
        body = canonical.decode(row.body)
        del body["data"]
        return row._replace(body=canonical.encode(body))

    forge(ten, files_of(ten)[9], without_data)
    assert first(ten)[0] == 9


def test_malformed_data_is_a_problem_of_what_is_derived_from_it(ten, files_of, forge):
    forge(ten, files_of(ten)[9], lambda row: edit(row, data={"target": 5}))
    assert [problem.position for problem in verify(ten.root, level="derived").problems] == [9]


@pytest.mark.parametrize("data", [b"1,2", b'{},"type":"run.started"', b"{", b"", b'{"a":1}}', b"\xff"])
def test_data_that_is_not_one_json_value_is_named_although_all_around_it_fits(ten, files_of, forge, data):
    def slip_in(row):
        told = canonical.decode(row.body)["data"]
        return row._replace(body=row.body.replace(b'"data":' + canonical.encode(told), b'"data":' + data))

    forge(ten, files_of(ten)[9], slip_in)
    assert first(ten) == (9, "the columns of an event are not what its body says")


def test_a_key_that_stands_twice_in_a_body_is_named(ten, files_of, forge):
    forge(ten, files_of(ten)[9], lambda row: row._replace(body=b'{"type":"run.started",' + row.body[1:]))
    assert first(ten) == (9, "the columns of an event are not what its body says")


def test_an_event_of_a_newer_version_is_a_warning(fresh, remark, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(events.EventRetracted, "VERSION", 2)
        fresh.writer.append([remark("from the future")])
    report = verify(fresh.root)
    assert report.problems == ()
    assert "position 0" in report.warnings[0]


@pytest.mark.parametrize(
    "name", ["note.txt", "00000000/note.txt", "00000000/99.parquet", "zz/0000000000000099.parquet", ".hidden"]
)
def test_a_foreign_file_in_log_is_a_problem(ten, name):
    path = Path(ten.root, "log", name)
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(b"x")
    report = verify(ten.root)
    assert [problem.path for problem in report.problems] == [f"log/{name}"]
    assert report.size == 10


def test_an_extra_segment_beyond_the_end_is_named(ten, files_of):
    data = files_of(ten)[9].read_bytes()
    Path(ten.root, "log", "00000000", f"{12:016d}.parquet").write_bytes(data)
    assert first(ten) == (10, "is missing")


def test_an_extra_segment_inside_another_is_named(fresh, remark, files_of):
    fresh.writer.append([remark("a"), remark("b"), remark("c")])
    fresh.writer.append([remark("d")])
    data = files_of(fresh)[1].read_bytes()
    Path(fresh.root, "log", "00000000", f"{1:016d}.parquet").write_bytes(data)
    assert first(fresh) == (1, "lies inside the segment before it")


def test_an_extra_file_elsewhere_is_nobodys_promise_and_no_problem(ten):
    for name in ("tmp/left", "state/left", "note.txt"):
        Path(ten.root, name).write_text("x")
    assert verify(ten.root).problems == ()


def test_a_segment_of_another_ledger_is_named(ten, files_of, tmp_path, remark):
    other = Log.create(tmp_path / "other")
    other.writer.append([remark("elsewhere")])
    files_of(ten)[2].write_bytes(files_of(other)[0].read_bytes())
    assert first(ten)[0] == 2


def test_a_damaged_mark_is_a_problem_in_the_report(ten):
    path = Path(ten.root, "LEDGER.json")
    path.write_text(path.read_text().replace("sha256", "sha255"))
    report = verify(ten.root)
    assert [problem.path for problem in report.problems] == ["LEDGER.json"]


@pytest.fixture
def referring(fresh):
    """A run with metrics, a blob and an artefact."""
    chunk = points.write_chunk(fresh.root, "r", "api", "w", 0, [(1, "loss", 0.5, 1)])
    digest = fresh.blobs.put(b"the model")
    stored = events.ArtifactStored(
        run="r",
        experiment=None,
        name="m",
        kind="file",
        sha256=digest,
        bytes=9,
        left_out=0,
        media_type="application/octet-stream",
    )
    fresh.writer.append([Draft("run/r", chunk)])
    fresh.writer.append([Draft("run/r", stored)])
    return fresh


def test_what_events_refer_to_is_counted(referring):
    report = verify(referring.root)
    assert (report.problems, report.chunks, report.blobs) == ((), 1, 1)


@pytest.mark.parametrize(("what", "position"), [("chunk", 0), ("blob", 1)])
@pytest.mark.parametrize("damage", [None, b"", b"other"])
def test_a_missing_or_damaged_reference_is_named_by_the_event_that_needs_it(referring, what, position, damage):
    (path,) = (path for path in Path(referring.root, what).rglob("*") if path.is_file())
    path.unlink()
    if damage is not None:
        path.write_bytes(damage)
    assert first(referring)[0] == position


def test_a_foreign_file_among_the_blobs_is_a_problem(referring):
    Path(referring.root, "blob", "sha256", "note.txt").write_text("x")
    assert first(referring)[0] is None


def test_a_forged_digest_does_not_lead_out_of_the_ledger(fresh, referring, files_of, forge):
    def traverse(row):
        body = canonical.decode(row.body)
        return edit(row, data={**body["data"], "sha256": "../etc/passwd"})

    forge(referring, files_of(referring)[1], traverse)
    at, what = first(referring)
    assert at == 1
    assert "not the SHA-256" in what


@pytest.mark.parametrize(("head", "expected"), [((2, "0" * 64), 2), ((7, "0" * 64), 3)])
def test_a_judgement_that_read_another_head_is_named(fresh, remark, examples, head, expected):
    decided = next(one for one in examples if one.TYPE == "decision.made")
    for number in range(3):
        fresh.writer.append([remark(str(number))])
    fresh.writer.append([Draft("experiment/e", msgspec.structs.replace(decided, head=events.Head(*head)))])
    at, what = first(fresh)
    assert at == expected
    assert "judgement" in what


def test_a_judgement_that_read_the_true_head_is_no_problem(fresh, remark, examples):
    decided = next(one for one in examples if one.TYPE == "decision.made")
    fresh.writer.append([remark("a")])
    fresh.writer.append([Draft("experiment/e", msgspec.structs.replace(decided, head=fresh.head()))])
    assert verify(fresh.root).problems == ()


def test_all_that_is_wrong_is_listed_in_order(ten, files_of, forge):
    for position in (7, 2):
        files_of(ten)[position].write_bytes(b"x")
    assert [problem.position for problem in verify(ten.root).problems] == [2, 7]


def test_progress_is_told_for_every_segment(ten):
    told = []
    verify(ten.root, told.append)
    assert told == list(range(10))


def test_a_sealed_file_that_is_no_segment_is_named(ten, files_of, monkeypatch):
    said, _batch = segment.decode(files_of(ten)[9].read_bytes(), "x")
    import pyarrow as pa
    import pyarrow.parquet as pq

    out = pa.BufferOutputStream()
    keys = {
        f"ledger.{k}": str(v) for k, v in said._asdict().items() if k in ("n", "base_hint", "root_hint", "body_sha")
    }
    with pq.ParquetWriter(out, pa.schema([("x", pa.int64())]), store_schema=False) as sink:
        sink.write_table(pa.table({"x": [1]}))
        sink.add_key_value_metadata(
            {**keys, "ledger.format": "1", "ledger.id": said.ledger_id, "ledger.seal": segment.BLANK.decode()}
        )
    files_of(ten)[9].write_bytes(segment.seal(bytearray(out.getvalue())))
    at, what = first(ten)
    assert at == 9
    assert "not readable as a segment" in what


def test_damage_on_the_way_does_not_raise(ten, files_of):
    path = files_of(ten)[3]
    path.unlink()
    path.mkdir()
    assert first(ten)[0] == 3
    assert os.path.isdir(path)


# ── levels ──


@pytest.mark.parametrize("level", ["structure", "bytes", "tree", "derived"])
def test_every_level_passes_a_whole_ledger_and_counts_what_it_read(referring, remark, level):
    referring.writer.append([remark("and a large commit")] * 1 + [remark(str(number)) for number in range(99)])
    referring.close()
    report = verify(referring.root, level=level)
    assert (report.problems, report.level, report.size, report.segments) == ((), level, 102, 3)
    assert (report.root == referring.head().root) == (level in ("tree", "derived"))
    assert report.chunks == report.blobs == (level != "structure")


def flip(path, at):
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


def found_at(log):
    """The levels that find something, of those that stand apart."""
    return [bool(verify(log.root, level=level).problems) for level in ("structure", "bytes", "tree", "derived")]


@pytest.mark.parametrize("what", ["missing", "renamed", "truncated"])
def test_names_and_lengths_are_seen_at_level_structure(ten, files_of, what):
    path = files_of(ten)[4]
    if what == "missing":
        path.unlink()
    elif what == "renamed":
        path.rename(path.with_name("0000000000000099.parquet"))
    else:
        path.write_bytes(path.read_bytes()[:-1])
    assert found_at(ten) == [True] * 4
    assert verify(ten.root, level="structure").problems[0].position == 4


def test_changed_bytes_are_seen_at_level_bytes(ten, files_of):
    flip(files_of(ten)[4], 700)
    assert found_at(ten) == [False, True, True, True]


def test_points_that_no_event_names_are_held_against_their_seal_too(referring):
    points.write_chunk(referring.root, "r", "api", "w", 1, [(1, "loss", 0.5, 1)])
    flip(Path(referring.root, "chunk/w/00000001.parquet"), 30)
    assert found_at(referring) == [False, True, True, True]


def test_consistent_changes_are_seen_at_level_tree(ten, files_of, forge):
    forge(ten, files_of(ten)[4], lambda row: edit(row, reason="what I wish it had been"))
    assert found_at(ten) == [False, False, True, True]


def test_a_changed_tile_is_seen_at_level_derived(ten):
    from ledger import checkpoints, tiles

    tiles.write(ten, checkpoints.sign(ten))
    (tile,) = Path(ten.root, "tlog/tile/0").rglob("*.p/*")
    flip(tile, 3)
    assert found_at(ten) == [False, False, False, True]
    assert verify(ten.root, level="derived").problems[0].path.startswith("tlog/tile/0")


@pytest.mark.parametrize("damage", [None, 3, 7])
def test_several_processes_find_what_one_finds(ten, referring, files_of, remark, damage, monkeypatch):
    monkeypatch.setattr("ledger.verify._WORTH", 0)
    ten.writer.append([remark(str(number)) for number in range(200)])
    if damage is not None:
        flip(files_of(ten)[damage], 700)
    told = []
    report = verify(ten.root, told.append, processes=2)
    assert report == verify(ten.root)
    assert bool(report.problems) == (damage is not None)
    assert told == sorted(told)


# ── packs ──


@pytest.fixture
def packed(ten):
    """The ten commits in a pack, and the copies of them still there."""
    from ledger import compaction

    compaction.compact(ten, grace=3600)
    return ten


def pack_of(log):
    (path,) = Path(log.root, "pack").iterdir()
    return path


def test_a_packed_log_has_the_root_of_the_loose_one(packed, files_of):
    loose = verify(packed.root)
    assert (loose.problems, loose.packs) == ((), 1)
    for path in files_of(packed):
        if int(path.stem) < int(pack_of(packed).stem[17:]):
            path.unlink()
    report = verify(packed.root)
    assert (report.problems, report.size, report.root) == ((), loose.size, loose.root)
    assert report.segments == loose.size - int(pack_of(packed).stem[17:])


@pytest.mark.parametrize("at", [5, 400, -5, -500])
def test_a_flipped_bit_in_a_pack_is_named_by_its_position(packed, at):
    flip(pack_of(packed), at)
    report = verify(packed.root)
    assert report.problems[0].position == 0
    assert report.problems[0].path.startswith("pack/")


def test_a_missing_first_pack_is_named(packed, files_of):
    for path in files_of(packed):
        if int(path.stem) < int(pack_of(packed).stem[17:]):
            path.unlink()
    pack_of(packed).unlink()
    assert first(packed)[0] == 0


@pytest.mark.parametrize("at", [None, 400, 7000, -500])
def test_several_processes_find_in_a_large_pack_what_one_finds(fresh, remark, monkeypatch, at):
    from ledger import compaction

    monkeypatch.setattr("ledger.verify._WORTH", 0)
    monkeypatch.setattr("ledger.verify._PART", 2)
    monkeypatch.setattr("ledger.pack.GROUP_ROWS", 50)
    for size in (170, 200, 90, 1):
        fresh.writer.append([remark(str(number)) for number in range(size)])
    compaction.compact(fresh, grace=0)
    compaction.compact(fresh, grace=0)
    if at is not None:
        flip(pack_of(fresh), at)
    one, several = verify(fresh.root), verify(fresh.root, processes=2)
    if at is None:
        assert several == one
        assert one.packs == 1
    else:
        assert several.problems[0].position == one.problems[0].position == 0


def test_a_forged_pack_is_found_by_the_commit_after_it(packed, files_of):
    from ledger import pack

    path = pack_of(packed)
    said, batches = pack.read(str(path))
    (rows,) = [batch for _, batch in batches]
    bodies = rows.column("body").to_pylist()
    bodies[3] = bodies[3].replace(b"number 3", b"number 8")
    columns = [*rows.columns[:-1], segment.column(bodies, rows.schema.field("body").type)]
    forged = type(rows).from_arrays(columns, schema=rows.schema)
    data, _ = pack.encode([forged], said.ledger_id, 0, pack.Frontier(), said.commits)
    path.write_bytes(data)
    at, what = first(packed)
    assert at == 0
    assert "saw another root" in what or "noted" in what


def test_a_judgement_in_the_middle_of_a_pack_is_held_against_the_tree(fresh, remark, examples):
    from ledger import compaction

    decided = next(one for one in examples if one.TYPE == "decision.made")
    fresh.writer.append([remark(str(number)) for number in range(60)])
    wrong = events.Head(7, "0" * 64)
    for head in (fresh.head_at(13), wrong):
        fresh.writer.append([Draft("experiment/e", msgspec.structs.replace(decided, head=head))])
    fresh.writer.append([remark("end")])
    compaction.compact(fresh, grace=0)
    (problem,) = verify(fresh.root).problems
    assert "position 61 read 7 events" in problem.what

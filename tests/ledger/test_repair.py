"""Repair heals what it may, proves it first, and touches nothing else."""

import os
import shutil
from pathlib import Path

import pytest

from ledger import compaction, points, repair
from ledger.chain import Log
from ledger.errors import UsageError
from ledger.verify import verify
from ledger.writer import Draft


@pytest.fixture(autouse=True)
def _own_keys(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))


@pytest.fixture
def ten(fresh, remark):
    """Ten commits of one event, a blob, and a noted head."""
    for number in range(10):
        fresh.writer.append([remark(f"number {number}")])
    fresh.close()
    return fresh


@pytest.fixture
def copy(ten, tmp_path):
    """Another copy of it."""
    return shutil.copytree(ten.root, tmp_path / "copy")


def state(root):
    return {path: path.read_bytes() for path in Path(root).rglob("*") if path.is_file()}


def actions(made):
    return [(step.action, step.path) for step in made.steps]


def reasons(log):
    return [event.data.reason for event in Log(log.root).events(types=("event.retracted",))]


def flip(path, at=700):
    data = bytearray(path.read_bytes())
    data[at] ^= 4
    path.write_bytes(data)


def test_a_whole_ledger_needs_nothing_and_nothing_is_touched(ten):
    before = state(ten.root)
    made = repair.plan(ten.root)
    assert (made.steps, made.damage) == ((), ())
    repair.apply(made)
    assert state(ten.root) == before


def test_what_killed_writers_left_is_deleted_when_it_is_old(ten):
    left = [Path(ten.root, "tmp", name) for name in ("123-0123456789abcdef", "124-0123456789abcdef", "a.lock")]
    for path in left:
        path.write_bytes(b"x")
    os.utime(left[0], (1, 1))
    os.utime(left[2], (1, 1))
    made = repair.plan(ten.root)
    assert actions(made) == [("delete", "tmp/123-0123456789abcdef")]
    assert left[0].exists()
    repair.apply(made)
    assert [path.exists() for path in left] == [False, True, True]
    assert reasons(ten) == [f"number {number}" for number in range(10)]


def test_points_that_no_event_names_are_deleted_when_nobody_can_adopt_them(ten):
    named = points.write_chunk(ten.root, "r", "api", "w", 0, [(1, "loss", 0.5, 1)])
    points.write_chunk(ten.root, "r", "api", "w", 1, [(2, "loss", 0.4, 2)])
    ten.writer.append([Draft("run/r", named)])
    orphan = Path(ten.root, "chunk/w/00000001.parquet")
    assert repair.plan(ten.root).steps == ()
    os.utime(orphan, (1, 1))
    ring = Path(ten.root, "spool", "x.ring")
    ring.parent.mkdir(exist_ok=True)
    ring.write_bytes(b"")
    assert repair.plan(ten.root).steps == ()
    ring.unlink()
    made = repair.plan(ten.root)
    assert actions(made) == [("delete", "chunk/w/00000001.parquet")]
    repair.apply(made)
    assert not orphan.exists()
    assert verify(ten.root).problems == ()


@pytest.mark.parametrize("left", [b"", b"PAR1", None, "flipped"])
def test_an_unreadable_last_commit_is_put_aside_and_told_of(ten, files_of, remark, left):
    last = files_of(ten)[9]
    if left == "flipped":
        flip(last)
    else:
        last.write_bytes(bytes(len(last.read_bytes())) if left is None else left)
    damaged = last.read_bytes()
    made = repair.plan(ten.root)
    assert actions(made)[0] == ("quarantine", "log/00000000/0000000000000009.parquet")
    assert last.read_bytes() == damaged
    repair.apply(made)
    log = Log(ten.root)
    told = [event.data for event in log.events(types=("ledger.recovered",))]
    assert (told[0].action, told[0].position, told[0].bytes) == ("quarantined", 9, len(damaged))
    assert Path(ten.root, told[0].kept).read_bytes() == damaged
    assert reasons(ten) == [f"number {number}" for number in range(9)]
    log.writer.append([remark("after")])
    assert verify(ten.root).problems == ()
    assert repair.plan(ten.root).steps == ()


@pytest.mark.parametrize("position", [0, 4, 8])
def test_damage_in_the_middle_without_a_copy_is_named_and_left_alone(ten, files_of, position):
    flip(files_of(ten)[position])
    before = state(ten.root)
    made = repair.plan(ten.root)
    assert made.steps == ()
    assert made.damage[0].position == position
    repair.apply(made)
    assert state(ten.root) == before


def test_damage_under_a_checkpoint_without_a_copy_is_left_alone(ten, files_of):
    pytest.importorskip("cryptography")
    from ledger import checkpoints

    checkpoints.sign(ten)
    last = files_of(ten)[-1]
    last.write_bytes(last.read_bytes()[:-9])
    before = state(ten.root)
    made = repair.plan(ten.root)
    assert made.steps == ()
    assert made.damage[0].position == len(files_of(ten)) - 1
    assert state(ten.root) == before


@pytest.mark.parametrize("position", [0, 4, 8, 9])
@pytest.mark.parametrize("gone", [True, False])
def test_a_missing_or_damaged_commit_is_restored_from_a_copy(ten, files_of, copy, position, gone):
    path = files_of(ten)[position]
    whole = path.read_bytes()
    path.unlink() if gone else flip(path)
    made = repair.plan(ten.root, str(copy))
    assert actions(made) == [("restore", f"log/00000000/{position:016d}.parquet")]
    repair.apply(made)
    assert path.read_bytes() == whole
    (told,) = [event.data for event in Log(ten.root).events(types=("ledger.recovered",))]
    assert (told.action, told.position, told.kept is None) == ("restored", position, gone)
    assert verify(ten.root).problems == ()


def test_a_lost_end_is_restored_from_a_copy_when_the_head_was_noted(ten, files_of, copy):
    for path in files_of(ten)[6:]:
        path.unlink()
    made = repair.plan(ten.root, str(copy))
    assert [path for _, path in actions(made)] == [f"log/00000000/{n:016d}.parquet" for n in range(6, 10)]
    repair.apply(made)
    assert reasons(ten) == [f"number {number}" for number in range(10)]
    assert verify(ten.root).problems == ()


def test_a_forged_commit_is_restored_from_a_copy(ten, files_of, forge, copy):
    from ledger import canonical

    def lie(row):
        body = canonical.decode(row.body)
        body["data"]["reason"] = "a lie"
        return row._replace(body=canonical.encode(body))

    forge(ten, files_of(ten)[3], lie)
    made = repair.plan(ten.root, str(copy))
    assert actions(made) == [("restore", f"log/00000000/{3:016d}.parquet")]
    repair.apply(made)
    assert "a lie" not in reasons(ten)
    assert verify(ten.root).problems == ()


def test_a_copy_that_lies_is_not_taken(ten, files_of, forge, copy):
    from ledger import canonical

    def lie(row):
        body = canonical.decode(row.body)
        body["data"]["reason"] = "a lie"
        return row._replace(body=canonical.encode(body))

    forge(ten, Path(copy, "log/00000000", f"{3:016d}.parquet"), lie)
    files_of(ten)[3].unlink()
    before = state(ten.root)
    made = repair.plan(ten.root, str(copy))
    assert made.steps == ()
    assert made.damage[0].position == 3
    assert state(ten.root) == before


def test_a_last_commit_that_nothing_vouches_for_is_not_taken_from_a_copy(ten, files_of, forge, copy):
    from ledger import canonical

    def lie(row):
        body = canonical.decode(row.body)
        body["data"]["reason"] = "a lie"
        return row._replace(body=canonical.encode(body))

    shutil.rmtree(Path(ten.root, "state"))
    shutil.rmtree(Path(copy, "state"))
    forge(ten, Path(copy, "log/00000000", f"{9:016d}.parquet"), lie)
    files_of(ten)[9].write_bytes(b"torn")
    made = repair.plan(ten.root, str(copy))
    assert made.steps == ()
    assert "vouched" in made.damage[-1].what


def test_another_ledger_is_no_copy(ten, files_of, tmp_path):
    other = Log.create(tmp_path / "other")
    files_of(ten)[3].unlink()
    with pytest.raises(UsageError, match="not a copy"):
        repair.plan(ten.root, other.root)


def test_a_damaged_mark_a_blob_and_points_are_restored_from_a_copy(ten, examples, tmp_path):
    import msgspec

    digest = ten.blobs.put(b"the model")
    stored = next(one for one in examples if one.TYPE == "artifact.stored")
    chunk = points.write_chunk(ten.root, "r", "api", "w", 0, [(1, "loss", 0.5, 1)])
    ten.writer.append([Draft("run/r", msgspec.structs.replace(stored, sha256=digest)), Draft("run/r", chunk)])
    ten.close()
    copy = shutil.copytree(ten.root, tmp_path / "later")
    Path(ten.root, "LEDGER.json").write_bytes(b"{}")
    Path(ten.blobs.path(digest)).unlink()
    flip(Path(ten.root, chunk.chunk), 30)
    made = repair.plan(ten.root, str(copy))
    assert {action for action, _ in actions(made)} == {"restore"}
    assert {step.path.split("/")[0] for step in made.steps} == {"LEDGER.json", "blob", "chunk"}
    repair.apply(made)
    assert verify(ten.root).problems == ()
    assert Log(ten.root).blobs.get(digest) == b"the model"


def test_a_damaged_pack_is_restored_from_a_copy_that_is_not_packed(ten, copy):
    pytest.importorskip("cryptography")
    compaction.compact(ten, grace=0)
    compaction.compact(ten, grace=0)
    (place,) = Path(ten.root, "pack").iterdir()
    flip(place, 600)
    assert repair.plan(ten.root).steps == ()
    loose = sorted(Path(ten.root, "log").rglob("*.parquet"))
    assert len(loose) < 9
    made = repair.plan(ten.root, str(copy))
    assert made.damage == ()
    repair.apply(made)
    assert reasons(ten) == [f"number {number}" for number in range(10)]
    assert verify(ten.root).problems == ()


def test_a_damaged_commit_that_a_pack_holds_too_is_deleted(ten, files_of):
    pytest.importorskip("cryptography")
    compaction.compact(ten, grace=3600)
    loose = files_of(ten)[2]
    assert Path(ten.root, "pack").iterdir()
    flip(loose)
    assert verify(ten.root).problems[0].position == 2
    made = repair.plan(ten.root)
    assert actions(made) == [("delete", "log/00000000/0000000000000002.parquet")]
    repair.apply(made)
    assert verify(ten.root).problems == ()
    assert reasons(ten) == [f"number {number}" for number in range(10)]


def test_a_zombie_is_deleted(ten, files_of, forge):
    pytest.importorskip("cryptography")
    from ledger import canonical

    compaction.compact(ten, grace=3600)

    def sleep(row):
        body = canonical.decode(row.body)
        body["data"]["reason"] = "from a writer that slept"
        return row._replace(body=canonical.encode(body))

    forge(ten, files_of(ten)[2], sleep)
    report = verify(ten.root)
    assert report.problems == ()
    assert any("leftover" in warning for warning in report.warnings)
    made = repair.plan(ten.root)
    assert actions(made) == [("delete", "log/00000000/0000000000000002.parquet")]
    repair.apply(made)
    assert not any("0000000000000002" in warning for warning in verify(ten.root).warnings)
    assert reasons(ten) == [f"number {number}" for number in range(10)]


def test_damaged_tiles_are_made_again(ten):
    pytest.importorskip("cryptography")
    from ledger import checkpoints, tiles

    tiles.write(ten, checkpoints.sign(ten))
    whole = state(Path(ten.root, "tlog"))
    (tile,) = Path(ten.root, "tlog/tile/0").rglob("*.p/*")
    flip(tile, 5)
    made = repair.plan(ten.root)
    assert actions(made) == [("rebuild", "tlog")]
    repair.apply(made)
    assert state(Path(ten.root, "tlog")) == whole

"""Chunk packs: the same points from fewer files, and no chunk goes before its pack was held against its event."""

import os
import random
from pathlib import Path

import pytest

from ledger import chunkpacks, points
from ledger.chain import Log
from ledger.errors import Corrupt, NotAppended
from ledger.verify import verify
from ledger.writer import Draft


@pytest.fixture
def log(fresh, monkeypatch):
    """Twenty small chunks of three runs, steps out of order, and one that is large."""
    monkeypatch.setattr(chunkpacks, "FEW", 4)
    monkeypatch.setattr(chunkpacks, "SMALL", 100)
    chance = random.Random(0)
    for number in range(20):
        rows = [
            (chance.randrange(50), chance.choice(["b", "a", "ü"]), chance.gauss(0, 1), at)
            for at in range(chance.randrange(1, 40))
        ]
        run = f"r{number % 3}"
        fresh.writer.append([Draft(f"run/{run}", points.write_chunk(fresh.root, run, "api", "w", number, rows))])
    large = points.write_chunk(fresh.root, "r0", "api", "w", 99, [(step, "a", 1.0, step) for step in range(101)])
    fresh.writer.append([Draft("run/r0", large)])
    return fresh


def everything(log):
    return [points.read_chunk(log.root, event.data).to_pydict() for event in log.events(types={"metrics.logged"})]


def files(log, folder):
    return sorted(str(path) for path in Path(log.root, folder).rglob("*.parquet"))


def test_packed_chunks_are_read_as_they_were_and_their_files_go_after_the_grace(log):
    before = everything(log)
    assert points.pack_chunks(log)[:3] == (1, 20, 0)
    assert len(files(log, "chunk")) == 21
    assert points.pack_chunks(log) == (0, 0, 0, 0)
    done = points.pack_chunks(log, grace=0)
    assert (done.packs, done.removed) == (0, 20)
    assert done.freed > 0
    assert (len(files(log, "chunk")), len(files(log, "chunkpack"))) == (1, 1)
    assert everything(log) == before
    assert verify(log.root).problems == ()


def test_a_pack_is_sorted_by_run_metric_and_step(log):
    import pyarrow.parquet as pq

    points.pack_chunks(log)
    (path,) = files(log, "chunkpack")
    rows = pq.read_table(path).to_pydict()
    keys = list(zip(*(rows[name] for name in ("run", "name", "step", "chunk", "row")), strict=True))
    assert keys == sorted(keys)
    assert len(set(keys)) == len(keys)


def test_few_chunks_wait_for_more(log):
    points.pack_chunks(log)
    for number in range(100, 105):
        one = points.write_chunk(log.root, "r9", "api", "w", number, [(1, "a", 1.0, 1)])
        log.writer.append([Draft("run/r9", one)])
        assert points.pack_chunks(log).packs == (number == 103)
    assert len(files(log, "chunkpack")) == 2


def test_points_are_cut_into_packs_that_fit_into_memory(log, monkeypatch):
    before = everything(log)
    monkeypatch.setattr(chunkpacks, "MOST", 100)
    assert points.pack_chunks(log).packs > 2
    points.pack_chunks(log, grace=0)
    assert everything(log) == before


@pytest.mark.parametrize("offset", [10, 1000, -200, -2])
def test_a_damaged_pack_replaces_nothing_and_is_seen(log, offset):
    before = everything(log)
    points.pack_chunks(log)
    (path,) = files(log, "chunkpack")
    data = bytearray(Path(path).read_bytes())
    data[offset] ^= 4
    Path(path).write_bytes(data)
    assert points.pack_chunks(log, grace=0).removed == 0
    assert everything(log) == before
    assert [problem.path for problem in verify(log.root).problems] == [os.path.relpath(path, log.root)]


def test_a_pack_that_is_damaged_later_is_corrupt_and_not_wrong_points(log):
    points.pack_chunks(log)
    points.pack_chunks(log, grace=0)
    (path,) = files(log, "chunkpack")
    data = bytearray(Path(path).read_bytes())
    data[300] ^= 1
    Path(path).write_bytes(data)
    with pytest.raises(Corrupt):
        everything(log)
    assert verify(log.root).problems


def test_a_pack_of_other_points_replaces_nothing(log, monkeypatch):
    real = points.read_chunk

    def changed(root, event):
        batch = real(root, event)
        return batch.set_column(2, "value", batch["step"].cast("float64"))

    with monkeypatch.context() as patch:
        patch.setattr(points, "read_chunk", changed)
        points.pack_chunks(log)
    assert points.pack_chunks(log, grace=0).removed == 0
    assert len(files(log, "chunk")) == 21


def test_a_damaged_chunk_stays_where_it_is(log):
    path = Path(files(log, "chunk")[3])
    path.write_bytes(path.read_bytes()[:-5])
    assert points.pack_chunks(log).chunks == 19
    assert points.pack_chunks(log, grace=0).removed == 19
    assert path.exists()


def test_two_that_pack_at_once_do_no_harm(log):
    before = everything(log)
    other = Log(log.root)
    points.pack_chunks(log)
    first = files(log, "chunkpack")
    chunkpacks._publish(
        other, [(event.position, event.data) for event in other.events(types={"metrics.logged"})][:20]
    )
    assert files(log, "chunkpack") == first
    points.pack_chunks(other, grace=0)
    assert everything(log) == before


def test_no_room_for_a_pack_leaves_the_chunks(log, monkeypatch):
    def full(*_):
        raise NotAppended("no space")

    with monkeypatch.context() as patch:
        patch.setattr(chunkpacks.disk, "publish", full)
        with pytest.raises(NotAppended):
            points.pack_chunks(log)
    assert len(files(log, "chunk")) == 21

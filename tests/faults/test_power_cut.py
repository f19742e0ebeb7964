"""The power fails between any two calls to the disk: what was acknowledged is there, whole, and the log goes on.

The disk is simulated, because a real one loses what it may lose only now and then. The last two tests
take one sync away each: then this very harness has to find a loss, or it would prove nothing.
"""

import os
import random
import shutil
import sys

import pytest

from ledger import disk, layout, points
from ledger import writer as writing
from ledger.chain import Log
from ledger.compaction import compact
from ledger.errors import LedgerError
from ledger.verify import verify
from ledger.writer import Draft


def worst(durable, seen):
    """Only what was synced."""
    return durable


def eager(durable, seen):
    """Every name had come through, whatever was or was not synced."""
    return seen


def mixed(seed):
    """Each name by itself: the synced state or the newest."""
    chance = random.Random(seed)
    return lambda durable, seen: chance.choice((durable, seen))


class Story:
    """Appends to a ledger on a simulated disk; remembers what was acknowledged when."""

    def __init__(self, base, disk_):
        self.base = str(base)
        self.root = os.path.join(self.base, "ledger")
        self.disk = disk_
        self.promises = []  # (calls so far, kind, what)
        self.commits = []  # ids of every commit that was tried, as far as known

    def promise(self, kind, what):
        self.promises.append((len(self.disk.cuts), kind, what))

    def create(self):
        log = Log.create(self.root)
        self.promise("ledger", log.identity.id)
        return log

    def append(self, log, *drafts):
        done = log.writer.append(drafts)
        self.commits.append(done.event_ids)
        self.promise("commit", (done.position, done.event_ids))

    def blob(self, log, data):
        self.promise("blob", (log.blobs.put(data), data))

    def chunk(self, log, number, remark):
        event = points.write_chunk(log.root, "r", "api", log.writer.id.hex(), number, [(1, "a", 0.5, 1)])
        self.append(log, Draft("run/r", event))

    def losses(self, folder, remark):
        """What is wrong after a cut at any moment, under three ways in which a disk may lose things."""
        found = []
        for at, cut in enumerate(self.disk.cuts, 1):
            for name, kept in (("worst", worst), ("eager", eager), ("mixed", mixed(at))):
                where = os.path.join(folder, f"{at}-{name}")
                cut.survive(self.base, where, kept)
                try:
                    self.check(at, os.path.join(where, "ledger"), remark)
                except (AssertionError, LedgerError, KeyError, OSError) as error:
                    found.append(f"call {at}, {name}: {type(error).__name__}: {error}")
                shutil.rmtree(where)
        return found

    def check(self, at, root, remark):
        promised = [(kind, what) for when, kind, what in self.promises if when <= at]
        made = [what for kind, what in promised if kind == "ledger"]
        log = Log(root) if made else Log.create(root)
        assert not made or log.identity.id == made[0], "another ledger"
        found = {event.event_id: event for event in log.events()}
        assert [event.position for event in found.values()] == list(range(len(found))), "a gap"
        for kind, what in promised:
            if kind == "commit":
                position, ids = what
                there = [found[one].position for one in ids]
                assert there == list(range(position, position + len(ids))), "an acknowledged event moved"
                assert all(found[one].data for one in ids)
            elif kind == "blob":
                assert log.blobs.get(what[0]) == what[1]
        for ids in self.commits:
            assert len({one in found for one in ids}) == 1, "half a commit"
        assert verify(root).problems == ()
        log.writer.append([remark("the log goes on")])
        again = Log(root)
        assert again.head().position == len(found) + 1
        assert verify(root).problems == ()


@pytest.fixture
def story(tmp_path, simulated_disk):
    (tmp_path / "disk").mkdir()
    return Story(tmp_path / "disk", simulated_disk(tmp_path / "disk"))


def once(patch, target, name, when, action):
    """Do `action` the first time that target.name is called and when(*arguments) holds, before the call.

    What it returns tells whether that came to pass.
    """
    real, left = getattr(target, name), [1]

    def call(*arguments):
        if left[0] and when(*arguments):
            left[0] = 0
            action()
        return real(*arguments)

    patch.setattr(target, name, call)
    return lambda: not left[0]


def everything(story, remark):
    """A new ledger, single and multiple events, shards that are crossed, blobs, chunks, notes."""
    log = story.create()
    story.append(log, remark("one"))
    story.append(log, remark("two"), remark("three"))
    story.blob(log, b"a payload")
    story.chunk(log, 0, remark)
    log.close()
    story.append(log, remark("long " * 300))
    story.append(log, *(remark(str(number)) for number in range(9)))
    story.append(log, remark("after a commit that reaches over several shards"))
    second = Log(story.root)
    story.append(second, remark("another writer"))
    story.blob(second, b"a payload")
    story.append(log, remark("the first writer again"))
    second.close()


def test_nothing_that_was_acknowledged_is_lost_at_any_moment(story, remark, on_disk, monkeypatch, tmp_path):
    monkeypatch.setattr(layout, "SHARD_BITS", 2)
    with on_disk(story.disk):
        everything(story, remark)
    monkeypatch.setattr(disk, "_flush", lambda file: None)
    assert len(story.disk.cuts) > 150
    assert story.losses(str(tmp_path / "after"), remark) == []


@pytest.mark.parametrize("bits", [16, 1])
def test_an_acknowledged_commit_never_stands_on_one_that_is_lost(story, remark, on_disk, monkeypatch, tmp_path, bits):
    """A second writer appends, acknowledges and notes while the first has linked but not yet synced."""
    monkeypatch.setattr(layout, "SHARD_BITS", bits)
    monkeypatch.setattr(writing, "_NOTE_EVERY", 1)
    with on_disk(story.disk) as patch:
        one = story.create()
        two = Log(story.root)
        story.append(one, remark("a"))
        story.append(two, remark("b"), remark("c"), remark("d"))

        def overtake():
            story.append(two, remark("overtaking"))
            two.close()

        overtaken = once(patch, disk.Folder, "confirm", lambda folder, what: what.startswith("commit"), overtake)
        story.append(one, remark("e"), remark("f"))
        assert overtaken()
        story.append(one, remark("g"))
    monkeypatch.setattr(disk, "_flush", lambda file: None)
    assert story.losses(str(tmp_path / "after"), remark) == []


@pytest.mark.parametrize("synced", [False, True])
def test_a_commit_never_stands_on_a_pack_that_is_lost(story, remark, on_disk, monkeypatch, tmp_path, synced):
    """A commit is packed as soon as it is linked, or synced, and the compactor dies before its pack is durable.
    In the first case another one appends behind the pack, in another shard; in the second, the writer takes
    the packed commit's name back."""
    monkeypatch.setattr(layout, "SHARD_BITS", 1)
    with on_disk(story.disk) as patch:
        one = story.create()
        two = Log(story.root)
        for number in range(3):
            story.append(one, remark(str(number)))
        real = disk.confirm

        def confirm(folder, what):
            if folder.endswith("pack"):
                if not synced:
                    story.append(two, remark("behind the pack"))
                raise KeyboardInterrupt
            real(folder, what)

        def pack_it():
            with monkeypatch.context() as inner:
                inner.setattr(disk, "confirm", confirm)
                inner.setattr(Log, "note_head", lambda log: None)  # it was noted before this commit came
                with pytest.raises(KeyboardInterrupt):
                    compact(Log(story.root))

        if synced:
            done = once(patch, Log, "packed_to", lambda _: sys._getframe(2).f_code.co_name == "_publish", pack_it)
        else:
            done = once(patch, disk.Folder, "confirm", lambda folder, what: what == "commit 3", pack_it)
        story.append(one, remark("packed"))
        assert done()
        story.append(two, remark("the end"))
    monkeypatch.setattr(disk, "_flush", lambda file: None)
    assert story.losses(str(tmp_path / "after"), remark) == []


def test_a_note_does_not_outlive_a_commit_that_was_only_seen(story, remark, on_disk, monkeypatch, tmp_path):
    with on_disk(story.disk) as patch:
        one = story.create()
        two = Log(story.root)
        story.append(two, remark("a"))

        def look_and_note():
            two.head()
            two.close()

        noted = once(patch, disk.Folder, "confirm", lambda folder, what: what.startswith("commit"), look_and_note)
        story.append(one, remark("b"))
        assert noted()
    monkeypatch.setattr(disk, "_flush", lambda file: None)
    assert story.losses(str(tmp_path / "after"), remark) == []


def test_who_opens_a_ledger_that_is_just_being_made_loses_nothing(story, remark, on_disk, monkeypatch, tmp_path):
    with on_disk(story.disk) as patch:
        once(
            patch,
            disk,
            "confirm",
            lambda folder, what: what.endswith("LEDGER.json"),
            lambda: story.append(Log(story.root), remark("early")),
        )
        story.create()
    monkeypatch.setattr(disk, "_flush", lambda file: None)
    assert story.losses(str(tmp_path / "after"), remark) == []


@pytest.mark.parametrize("moment", ["confirm", "write_temporary"])
def test_a_blob_that_another_process_is_storing_is_promised_only_when_durable(
    story, remark, on_disk, monkeypatch, tmp_path, moment
):
    with on_disk(story.disk) as patch:
        log = story.create()
        story.append(log, remark("a"))

        def same_blob():
            story.blob(log, b"payload")
            story.append(log, remark("refers to it"))

        def when(*arguments):
            return b"payload" in arguments if moment == "write_temporary" else "blob" in arguments[0]

        once(patch, disk, moment, when, same_blob)
        story.blob(log, b"payload")
    monkeypatch.setattr(disk, "_flush", lambda file: None)
    assert story.losses(str(tmp_path / "after"), remark) == []


@pytest.mark.parametrize("sync", ["sync_file", "sync_names"])
def test_without_one_of_the_syncs_the_harness_finds_a_loss(story, remark, on_disk, monkeypatch, tmp_path, sync):
    monkeypatch.setattr(layout, "SHARD_BITS", 2)
    with on_disk(story.disk) as patch:
        patch.setattr(disk, sync, lambda *_: None)
        everything(story, remark)
    monkeypatch.setattr(disk, "_flush", lambda file: None)
    story.disk.cuts = story.disk.cuts[-8:]  # the cuts are counted from the end here: all was acknowledged
    story.promises = [(0, kind, what) for _, kind, what in story.promises]
    assert story.losses(str(tmp_path / "after"), remark) != []


def test_the_simulated_disk_loses_what_was_not_synced(tmp_path, simulated_disk):
    base = str(tmp_path / "disk")
    os.mkdir(base)
    model = simulated_disk(base)
    path = os.path.join(base, "file")
    file = model.open(path, os.O_CREAT | os.O_WRONLY)
    model.write(file, b"bytes")

    def left(kept):
        where = tmp_path / f"left-{len(model.cuts)}-{kept.__name__}"
        model.cuts[-1].survive(base, str(where), kept)
        return {inside.name: inside.read_bytes() for inside in where.iterdir()}

    assert (left(worst), left(eager)) == ({}, {"file": b""})
    model.fsync(file)
    assert (left(worst), left(eager)) == ({}, {"file": b"bytes"})
    folder = model.open(base, os.O_RDONLY | os.O_DIRECTORY)
    model.fsync(folder)
    assert left(worst) == {"file": b"bytes"}
    model.unlink(path)
    assert (left(worst), left(eager)) == ({"file": b"bytes"}, {})
    model.close(file)
    model.close(folder)

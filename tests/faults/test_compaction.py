"""Compaction that is cut off, that the disk refuses, and that a writer sleeps through."""

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from ledger import compaction, disk, layout, pack
from ledger.chain import Log
from ledger.errors import NotAppended, Unknown
from ledger.verify import verify


class Cut(BaseException):
    """The process ends here."""


@pytest.fixture
def loose(fresh, remark, without_sync):
    """Forty events in twenty commits."""
    for commit in range(20):
        fresh.writer.append([remark(f"{commit} {part}") for part in range(2)])
    return fresh


def bodies(log):
    return [event.body for event in log.events(as_of=40)]


def litter(log):
    return [name for name in os.listdir(os.path.join(log.root, "tmp")) if name.count("-") == 1]


# ── cut off ──


@pytest.mark.parametrize("merge", [False, True])
@pytest.mark.parametrize("after", [0, 1, 7, 19])
def test_a_compaction_that_is_cut_off_while_it_removes_changes_nothing_for_readers(loose, remark, merge, after):
    before, head = bodies(loose), loose.head_at(40)
    if merge:
        compaction.compact(loose, 3600)
        for number in range(3):
            loose.writer.append([remark(f"later {number}")])
    stale = Log(loose.root)
    left = after
    real = disk.remove

    def cut(path):
        nonlocal left
        if "/log/" in path or "/pack/" in path:
            left -= 1
            if left < 0:
                raise Cut
        real(path)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(disk, "remove", cut)
        with pytest.raises(Cut):
            compaction.compact(loose, 0)
    for log in (stale, loose, Log(loose.root)):
        assert (bodies(log), log.head_at(40)) == (before, head)
    assert verify(loose.root).problems == ()
    compaction.compact(loose, 0)
    assert not [base for base, _ in Log.listed_in(loose.root) if base < 40]
    assert bodies(Log(loose.root)) == before
    assert verify(loose.root).problems == ()


@pytest.mark.parametrize("call", ["write_temporary", "confirm"])
def test_a_compaction_that_is_cut_off_around_the_link_changes_nothing_for_readers(loose, call):
    before = bodies(loose)

    def cut(*_):
        raise Cut

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(disk, call, cut)
        with pytest.raises(Cut):
            compaction.compact(loose, 0)
    assert len(pack.listed(loose.root)) == (call == "confirm")
    for log in (loose, Log(loose.root)):
        assert bodies(log) == before
    compaction.compact(loose, 0)
    assert bodies(Log(loose.root)) == before
    assert verify(loose.root).problems == ()


# ── refused ──


@pytest.mark.parametrize(
    ("call", "number", "where", "kind"),
    [
        ("open", errno.ENOSPC, "/tmp/", NotAppended),
        ("write", errno.ENOSPC, "", NotAppended),
        ("write", errno.EDQUOT, "", NotAppended),
        ("fsync file", errno.EIO, "", NotAppended),
        ("link", errno.ENOSPC, "/pack/", NotAppended),
        ("fsync folder", errno.EIO, "/pack", Unknown),
    ],
)
def test_a_disk_that_refuses_leaves_everything_as_it_was(
    fresh, remark, refusing_disk, on_disk, call, number, where, kind
):
    for commit in range(20):
        fresh.writer.append([remark(f"{commit} {part}") for part in range(2)])
    before, files = bodies(fresh), sorted(Log.listed_in(fresh.root))
    inside = f"{fresh.root}{where}" if where == "/tmp/" else where
    with on_disk(refusing_disk(call, number, lambda path: inside in path, times=9)), pytest.raises(kind) as refused:
        compaction.compact(fresh, 0)
    assert "\n" not in str(refused.value)
    assert sorted(Log.listed_in(fresh.root)) == files
    assert len(pack.listed(fresh.root)) == (kind is Unknown)
    assert litter(fresh) == []
    assert bodies(Log(fresh.root)) == before
    compaction.compact(fresh, 0)
    assert bodies(Log(fresh.root)) == before
    assert verify(fresh.root).problems == ()


# ── slept through ──

SLEEPER = """
import os, signal, sys
from ledger import disk
from ledger.chain import Log
from ledger.events import EventRetracted
from ledger.writer import Draft

root, where = sys.argv[1:]
log = Log(root)
writer = log.writer
asleep = []

def sleep():
    if not asleep:
        asleep.append(True)
        os.kill(os.getpid(), signal.SIGSTOP)

link = disk.Temporary.link

def late(self, target):
    if where != "after the link":
        sleep()
    made = link(self, target)
    if where == "killed after the link":
        os.kill(os.getpid(), signal.SIGKILL)
    sleep()
    return made

disk.Temporary.link = late
drafts = [Draft("event/sleeper", EventRetracted(target="0" * 36, reason=f"of the sleeper {n}")) for n in range(2)]
done = writer.append(drafts)
print(done.position, *done.event_ids, flush=True)
"""


def sleeper(log, where):
    """A writer that stands still at one point of its append; returned when it does."""
    process = subprocess.Popen(
        [sys.executable, "-c", SLEEPER, log.root, where],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    _, status = os.waitpid(process.pid, os.WUNTRACED)
    assert os.WIFSTOPPED(status), process.stderr.read()
    return process


def wake(process):
    process.send_signal(signal.SIGCONT)
    out, err = process.communicate(timeout=60)
    return out.split(), err


@pytest.mark.parametrize("where", ["before the link", "after the link"])
def test_a_writer_that_sleeps_through_a_compaction_is_told_where_its_events_really_are(loose, remark, where):
    process = sleeper(loose, where)
    for number in range(5):
        loose.writer.append([remark(f"while it slept {number}")])
    assert compaction.compact(loose, 0).removed_segments > 20
    size = loose.head().position
    (position, *ids), err = wake(process)
    assert process.returncode == 0, err
    found = list(Log(loose.root).events())
    assert [event.event_id for event in found if event.stream == "event/sleeper"] == ids
    assert [event.event_id for event in found[int(position) : int(position) + 2]] == ids
    assert (int(position) >= size) == (where == "before the link")
    assert [event.position for event in loose.events()] == list(range(len(found)))
    assert compaction.zombies(loose) == []
    assert not [base for base, _ in Log.listed_in(loose.root) if base < 40]
    report = verify(loose.root)
    assert (report.problems, report.warnings) == ((), ())


def test_a_writer_that_is_killed_on_a_freed_name_leaves_what_nobody_reads(loose, remark):
    process = sleeper(loose, "killed after the link")
    for number in range(5):
        loose.writer.append([remark(f"while it slept {number}")])
    compaction.compact(loose, 0)
    out, _ = wake(process)
    assert out == []
    zombie = layout.segment_path(loose.root, 40)
    assert compaction.zombies(loose) == [(40, zombie)]
    for log in (loose, Log(loose.root)):
        assert "event/sleeper" not in {event.stream for event in log.events()}
        assert log.writer.append([remark("goes on")]).position == log.size - 1
    report = verify(loose.root)
    assert report.problems == ()
    assert any("leftover" in warning for warning in report.warnings)
    assert Path(zombie).exists()


def test_a_compactor_that_is_killed_leaves_the_log_as_it_was(loose, remark, script):
    text = """
import os, signal, threading
from ledger import compaction
from ledger.chain import Log
log = Log()
list(log.events())
threading.Timer(float(os.environ["AFTER"]), lambda: os.kill(os.getpid(), signal.SIGKILL)).start()
for _ in range(1000):
    compaction.compact(log, 0)
"""
    expected = bodies(loose)
    for turn in range(4):
        done = script(
            text,
            LEDGER_HOME=loose.root,
            AFTER=str(0.01 + 0.02 * turn),
            XDG_CONFIG_HOME=os.environ["XDG_CONFIG_HOME"],
        )
        assert done.returncode == -signal.SIGKILL, done.stderr
        assert bodies(Log(loose.root)) == expected
        assert verify(loose.root).problems == ()
        for number in range(10):
            loose.writer.append([remark(f"{turn} {number}")])


def test_verify_beside_a_compaction_takes_no_removed_file_for_a_missing_one(loose, monkeypatch):
    real, turns, done = Log.listed_in, [True], []

    def listed(root):
        found = list(real(root))
        if turns:
            turns.clear()
            done.append(compaction.compact(Log(root), 0))
        return iter(found)

    monkeypatch.setattr(Log, "listed_in", staticmethod(listed))
    report = verify(loose.root)
    assert done[0].removed_segments >= 20
    assert (report.problems, report.size) == ((), loose.head().position)

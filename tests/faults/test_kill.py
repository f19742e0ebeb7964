"""kill -9 at any moment, and many writers: every acknowledged event is there exactly once, none is half."""

import itertools
import os
import random
import select
import signal
import subprocess
import sys
import time

import pytest

from ledger import disk, layout
from ledger.chain import Log
from ledger.verify import verify

WRITER = """
import sys
from ledger.chain import Log
from ledger.events import EventRetracted
from ledger.writer import Draft

root, name, commits = sys.argv[1], sys.argv[2], int(sys.argv[3])
writer = Log(root).writer
number = 0
while number < commits:
    size = 1 + number % 3
    drafts = [
        Draft(f"event/{name}", EventRetracted(target="0" * 36, reason=f"{name} {number} {part} of {size}"))
        for part in range(size)
    ]
    done = writer.append(drafts)
    print(done.position, *done.event_ids, flush=True)
    number += 1
"""


class Process:
    """A writer process; `acknowledged` are (position, ids) of the commits that it was told are durable."""

    def __init__(self, root, name, commits=10**9):
        self.acknowledged = []
        self._rest = ""
        self.process = subprocess.Popen(
            [sys.executable, "-c", WRITER, root, name, str(commits)], stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )

    def read(self, timeout):
        """Take in what was printed so far; False at the end of the output."""
        if not select.select([self.process.stdout], [], [], timeout)[0]:
            return True
        data = self.process.stdout.read1(1 << 20)
        *lines, self._rest = (self._rest + data.decode()).split("\n")
        for line in lines:  # a line that was cut off was not acknowledged to anybody
            position, *ids = line.split()
            self.acknowledged.append((int(position), ids))
        return bool(data)

    def kill(self):
        self.process.kill()
        while self.read(60):
            pass
        self.process.wait()

    def finish(self):
        while self.read(300):
            pass
        assert self.process.wait() == 0, self.process.stderr.read().decode()


def check(root, processes):
    """The log is gapless and whole, and holds what was acknowledged, once, where it was said to lie."""
    found = list(Log(root).events())
    assert [event.position for event in found] == list(range(len(found)))
    where = {event.event_id: event.position for event in found}
    assert len(where) == len(found), "an id twice"
    assert len({event.data.reason + event.stream for event in found}) == len(found), "an event twice"
    for process in processes:
        for position, ids in process.acknowledged:
            assert [where[one] for one in ids] == list(range(position, position + len(ids)))
    parts = {}
    for event in found:
        name, number, _, _, size = event.data.reason.split()
        parts.setdefault((name, number, int(size)), []).append(event.position)
    for (_, _, size), positions in parts.items():
        assert positions == list(range(positions[0], positions[0] + size)), "half a commit"
    report = verify(root)
    assert (report.size, report.problems) == (len(found), ())
    return len(found)


def storm(root, kills, seed):
    """Four writers; one after another is killed at a random moment and another one takes its place."""
    chance = random.Random(seed)
    everyone = [Process(root, f"w{number}") for number in range(4)]
    alive = list(everyone)
    for kill in range(kills):
        victim = alive.pop(chance.randrange(4))
        until = time.monotonic() + 60
        while not victim.acknowledged and time.monotonic() < until:
            victim.read(0.05)
        time.sleep(chance.uniform(0, 0.02))
        victim.kill()
        alive.append(Process(root, f"w{kill + 4}"))
        everyone.append(alive[-1])
        for process in alive:
            process.read(0)
    for process in alive:
        process.kill()
    return everyone


def test_twelve_kills_lose_nothing(fresh):
    everyone = storm(fresh.root, 12, seed=1)
    acknowledged = sum(len(ids) for process in everyone for _, ids in process.acknowledged)
    assert check(fresh.root, everyone) >= acknowledged > 12
    opened = Log(fresh.root)
    assert opened.writer.id
    assert opened.head().position == Log(fresh.root).head().position


class Deadly:
    """Stands in for the module `os` in ledger/disk.py: the process is killed between two of its calls."""

    def __init__(self, calls):
        self.left = calls

    def __getattr__(self, name):
        real = getattr(os, name)
        return real if name.isupper() or name in ("path", "strerror") else self._deadly(real)

    def _deadly(self, real):
        def call(*arguments, **options):
            if self.left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            self.left -= 1
            return real(*arguments, **options)

        return call


def killed_after(calls, root, remark):
    """(where acknowledged commits lie, with their ids; whether it came to its end) of a forked child."""
    told, tell = os.pipe()
    if (child := os.fork()) == 0:
        try:
            writer = Log(root).writer
            disk.os = Deadly(calls)
            disk._flush = disk.os.fsync
            for size in (1, 3, 2):  # the names cross into new shards
                done = writer.append([remark(f"child 0 {size} of {part}") for part in range(size)])
                os.write(tell, f"{done.position} {' '.join(done.event_ids)}\n".encode())
            os._exit(0)
        finally:
            os._exit(1)
    os.close(tell)
    with open(told) as lines:
        acknowledged = [(int(line.split()[0]), line.split()[1:]) for line in lines]
    status = os.waitpid(child, 0)[1]
    assert status == 0 or os.WTERMSIG(status) == signal.SIGKILL
    return acknowledged, status == 0


def test_a_kill_between_any_two_calls_of_an_append_loses_nothing(tmp_path, remark, monkeypatch):
    monkeypatch.setattr(layout, "SHARD_BITS", 1)
    for calls in itertools.count():
        root = Log.create(tmp_path / str(calls)).root
        acknowledged, ended = killed_after(calls, root, remark)
        found = list(Log(root).events())
        sizes = [event.data.reason.split()[2] for event in found]
        assert sizes == ["1", "3", "3", "3", "2", "2"][: len(found)]
        assert len(found) in (0, 1, 4, 6), "half a commit"
        assert [event.event_id for event in found][: sum(len(ids) for _, ids in acknowledged)] == [
            one for _, ids in acknowledged for one in ids
        ]
        log = Log(root)
        assert log.writer.append([remark("afterwards")]).position == len(found)
        assert verify(root).problems == ()
        if ended:
            break
    assert calls > 25
    assert len(found) == 6


@pytest.mark.slow
def test_a_hundred_kills_lose_nothing(fresh):
    everyone = storm(fresh.root, 100, seed=2)
    total = check(fresh.root, everyone)
    acknowledged = sum(len(ids) for process in everyone for _, ids in process.acknowledged)
    print(f"100 kills: {acknowledged} events acknowledged, {total} in the log")
    assert total >= acknowledged > 100


def together(root, writers, commits):
    processes = [Process(root, f"w{number}", commits) for number in range(writers)]
    for process in processes:
        process.finish()
    assert all(len(process.acknowledged) == commits for process in processes)
    total = check(root, processes)
    assert total == sum(len(ids) for process in processes for _, ids in process.acknowledged)


def test_four_writers_together_lose_and_double_nothing(fresh):
    together(fresh.root, 4, 150)


@pytest.mark.slow
def test_four_writers_of_two_thousand_commits_lose_and_double_nothing(fresh):
    together(fresh.root, 4, 2000)

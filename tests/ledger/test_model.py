"""The log against a list: whatever is appended, packed, merged, cut off and opened anew, both say the same.

And many processes at once: what they were told is one history in which each of them can have lived.
"""

import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, precondition, rule

from ledger import checkpoints, compaction, disk, events, pack
from ledger.chain import Log
from ledger.errors import Conflict
from ledger.merkle import Frontier, leaf_hash
from ledger.verify import verify
from ledger.writer import Draft, Expect

STREAMS = st.integers(0, 3).map(lambda number: f"event/s{number}")


class Cut(BaseException):
    """The process ends here."""


def draft(stream, text):
    return Draft(stream, events.EventRetracted(target="0" * 36, reason=text))


class LogAgainstList(RuleBasedStateMachine):
    """`self.model` are (stream, reason) by position; logs that were opened long ago are read as well."""

    logs = Bundle("logs")

    def __init__(self):
        super().__init__()
        self.stack = contextlib.ExitStack()
        patch = self.stack.enter_context(pytest.MonkeyPatch.context())
        # So small that a short history has packs of several groups, and packs of several sizes.
        for module, name, value in [
            (pack, "GROUP_ROWS", 16),
            (compaction, "SMALL", 8),
            (disk, "_flush", lambda f: None),
        ]:
            patch.setattr(module, name, value)
        folder = tempfile.mkdtemp(dir="/dev/shm" if os.path.isdir("/dev/shm") else None)
        self.stack.callback(shutil.rmtree, folder, ignore_errors=True)
        self.log = Log.create(os.path.join(folder, "ledger"))
        checkpoints.sign(self.log)  # its key is an event, the first one
        self.model = [("key", None)]
        self.number = 0

    def teardown(self):
        try:
            assert verify(self.log.root).problems == ()
        finally:
            self.stack.close()

    @initialize(target=logs)
    def first(self):
        return self.log

    def new(self, stream, size):
        made = [(stream, str(self.number + part)) for part in range(size)]
        self.number += size
        return made

    @rule(log=logs, stream=STREAMS, size=st.integers(1, 80) | st.integers(1, 3))
    def append(self, log, stream, size):
        made = self.new(stream, size)
        assert log.writer.append([draft(*one) for one in made]).position == len(self.model)
        self.model += made

    @rule(log=logs, stream=STREAMS, size=st.integers(1, 5), back=st.integers(0, 100))
    def append_if_nobody_did(self, log, stream, size, back):
        seen = max(0, len(self.model) - back)
        moved = any(one[0] == stream for one in self.model[seen:])
        made = self.new(stream, size)
        try:
            position = log.writer.append([draft(*one) for one in made], Expect(stream, seen)).position
        except Conflict:
            assert moved
        else:
            assert not moved
            assert position == len(self.model)
            self.model += made

    @rule(log=logs, largest=st.sampled_from([8, 64, 4**10]), grace=st.sampled_from([0, 0, 3600]))
    def compact(self, log, largest, grace):
        compaction.compact(log, grace, largest)

    @rule(
        log=logs,
        largest=st.sampled_from([8, 4**10]),
        after=st.integers(0, 12),
        calls=st.sampled_from(["remove", "link"]),
    )
    def compact_and_be_cut_off(self, log, largest, after, calls):
        left = after

        def cut(real):
            def call(*args):
                nonlocal left
                left -= 1
                if left < 0:
                    raise Cut
                return real(*args)

            return call

        with pytest.MonkeyPatch.context() as patch, contextlib.suppress(Cut):
            place = disk if calls == "remove" else disk.Temporary
            patch.setattr(place, calls, cut(getattr(place, calls)))
            compaction.compact(log, 0, largest)

    @rule(target=logs)
    def open(self):
        return Log(self.log.root)

    @rule(log=logs)
    def close(self, log):
        log.close()

    @rule()
    def lose_the_notes(self):
        shutil.rmtree(os.path.join(self.log.root, "state"))
        os.mkdir(os.path.join(self.log.root, "state"))

    def say(self, found):
        return [
            (event.stream, event.data.reason) if event.type == "event.retracted" else ("key", None) for event in found
        ]

    @rule(log=logs, share=st.floats(0, 1), begin=st.floats(0, 1))
    def read_as_of(self, log, share, begin):
        size = round(share * len(self.model))
        start = round(begin * size)
        found = list(log.events(start=start, as_of=size))
        assert [event.position for event in found] == list(range(start, size))
        assert self.say(found) == self.model[start:size]

    @rule(log=logs, stream=STREAMS)
    def read_a_stream(self, log, stream):
        wanted = [(position, *one) for position, one in enumerate(self.model) if one[0] == stream]
        found = list(log.events(stream=stream))
        assert [(event.position, *said) for event, said in zip(found, self.say(found), strict=True)] == wanted

    @rule(log=logs, share=st.floats(0, 1))
    def ask_for_a_head(self, log, share):
        size = round(share * len(self.model))
        tree = Frontier()
        tree.extend(leaf_hash(event.body) for event in self.log.events(as_of=size))
        head = log.head_at(size)
        assert (head.position, head.root) == (size, tree.root().hex())

    @precondition(lambda self: self.model)
    @rule(log=logs, share=st.floats(0, 0.99))
    def find_an_id(self, log, share):
        position = int(share * len(self.model))
        event = next(self.log.events(start=position, as_of=position + 1))
        assert log.find(event.event_id).position == position

    @invariant()
    def the_end_is_the_same(self):
        assert self.log.head().position == len(self.model)


LogAgainstList.TestCase.settings = settings(
    max_examples=15, stateful_step_count=25, deadline=None, suppress_health_check=list(HealthCheck)
)
TestLogAgainstList = LogAgainstList.TestCase


# ── many processes ──

WRITER = """
import json, random, sys, time
from ledger.chain import Log
from ledger.errors import Conflict
from ledger.events import EventRetracted
from ledger.writer import Draft, Expect

root, name, seconds = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
chance = random.Random(name)
log = Log(root)
log.writer
list(log.events())
import pyarrow.compute, pyarrow.parquet  # now, not while it counts
print("ready", flush=True)
sys.stdin.readline()

def draft(stream, text):
    return Draft(stream, EventRetracted(target="0" * 36, reason=text))

def tell(kind, begun, done, text):
    print(json.dumps([kind, begun, time.monotonic_ns(), done.position, list(done.event_ids), text]), flush=True)

until, number, seen, value = time.monotonic() + seconds, 0, 0, 0
while time.monotonic() < until:
    begun = time.monotonic_ns()
    if chance.random() < 0.6:
        size = chance.choice([1, 1, 1, 2, 5, 60])
        texts = [f"{name} {number} {part} of {size}" for part in range(size)]
        tell("append", begun, log.writer.append([draft(f"event/w{name}", text) for text in texts]), texts[0])
    else:  # count on: one more than the last that was counted, if nobody else does
        size = log.head().position
        for event in log.events(start=seen, as_of=size, stream="event/count"):
            value = int(event.data.reason)
        seen = size
        try:
            done = log.writer.append([draft("event/count", str(value + 1))], Expect("event/count", size))
            tell("count", begun, done, value + 1)
        except Conflict:
            pass
    number += 1
"""

READER = """
import random, sys, time
from ledger.chain import Log

root, name, seconds = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
chance = random.Random(name)
old = Log(root)
list(old.events())
import pyarrow.compute, pyarrow.parquet  # now, not while it counts
print("ready", flush=True)
sys.stdin.readline()
known, until, rounds = [], time.monotonic() + seconds, 0
while time.monotonic() < until:
    log = old if rounds % 2 else Log(root)
    size = log.head().position
    assert size >= len(known), f"the log went back from {len(known)} to {size}"
    start = chance.randrange(len(known) + 1)
    found = list(log.events(start=start, as_of=size))
    assert [event.position for event in found] == list(range(start, size)), "a gap or a double"
    ids = [event.event_id for event in found]
    assert ids[: len(known) - start] == known[start:], "what was read before has changed"
    known += ids[len(known) - start :]
    rounds += 1
assert rounds > 3
print(rounds)
"""

COMPACTOR = """
import random, sys, time
from ledger import compaction
from ledger.chain import Log

root, name, seconds = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
chance = random.Random(name)
log = Log(root)
compaction.compact(log, 0)
import pyarrow.compute, pyarrow.parquet  # now, not while it counts
print("ready", flush=True)
sys.stdin.readline()
until, packed, removed = time.monotonic() + seconds, 0, 0
while time.monotonic() < until:
    done = compaction.compact(log if chance.random() < 0.5 else Log(root), 0, chance.choice([64, 1000, 4**10]))
    packed, removed = packed + len(done.packed), removed + done.removed_segments
    time.sleep(chance.uniform(0, 0.05))
print(packed, removed)
"""


def together(root, seconds, first=0, writers=8, readers=2, compactors=2):
    """Run them all at once, named from `first` on; what the writers were told, and what the compactors did."""
    kinds = [WRITER] * writers + [READER] * readers + [COMPACTOR] * compactors
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", text, root, str(number), str(seconds)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for number, text in enumerate(kinds, first)
    ]  # fmt: skip
    for process in processes:
        assert process.stdout.readline() == "ready\n", process.communicate()[1]
    for process in processes:
        process.stdin.write("\n")
        process.stdin.flush()
    said = []
    for process in processes:
        out, err = process.communicate(timeout=120 + 3 * seconds)
        assert process.returncode == 0, err
        said.append(out)
    told = [json.loads(line) for out in said[:writers] for line in out.splitlines()]
    return told, [tuple(map(int, out.split())) for out in said[writers + readers :]]


def check_history(log, told):
    """What the writers were told is a linear history, and the log holds it: each event once, in its place,
    nothing that was finished before another one began behind it, and the count without a gap."""
    found = list(log.events())
    assert [event.position for event in found] == list(range(len(found)))
    ids = [event.event_id for event in found]
    assert len(set(ids)) == len(ids), "an event twice"
    for _, _, _, position, mine, _ in told:
        assert ids[position : position + len(mine)] == mine
    told = sorted(told, key=lambda one: one[3])
    earliest = float("inf")
    for _, begun, ended, position, _, _ in reversed(told):
        assert begun <= earliest, f"the append at {position} began after one behind it had ended"
        earliest = min(earliest, ended)
    counted = [int(event.data.reason) for event in found if event.stream == "event/count"]
    assert counted == list(range(1, len(counted) + 1))
    for kind, _, _, position, _, text in told:
        assert kind != "count" or found[position].data.reason == str(text)
    sets = {}
    for event in found:
        if event.stream.startswith("event/w"):
            name, number, _, _, size = event.data.reason.split()
            sets.setdefault((name, number, int(size)), []).append(event.position)
    for (_, _, size), positions in sets.items():
        assert positions == list(range(positions[0], positions[0] + size)), "a torn commit"


def soak(fresh, seconds):
    checkpoints.sign(fresh)
    told, compactors = [], []
    for first in range(0, 600, 100):  # where others have the processors, once is too short to pack much
        more, done = together(fresh.root, seconds, first)
        told, compactors = told + more, compactors + done
        if sum(packed for packed, _ in compactors) > 1 and sum(removed for _, removed in compactors) > 10:
            break
    else:
        pytest.fail(f"next to nothing was packed and removed: {compactors}")
    check_history(Log(fresh.root), told)
    report = verify(fresh.root)
    assert report.problems == ()
    print(f"{len(told)} appends, {report.size} events; packed, removed: {compactors}")


def test_eight_writers_two_compactors_and_two_readers_live_in_one_history(fresh):
    soak(fresh, 2.5)


@pytest.mark.slow
def test_they_do_so_for_long(fresh):
    soak(fresh, 60)

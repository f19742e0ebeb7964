"""Appends that are published together: of threads, and of processes, through their boxes."""

import os
import resource
import signal
import subprocess
import sys
import threading
import time
from collections import Counter

import pytest

from ledger import joint, segment
from ledger.chain import Log
from ledger.errors import Conflict, NotAppended, SecretRefused, Unknown, UsageError
from ledger.joint import Joint, Request
from ledger.verify import verify
from ledger.writer import Expect, uuid7


def reasons(log):
    return [event.data.reason for event in log.events()]


def segments(log):
    """How many events each segment holds."""
    return Counter(said.n for _, said, _ in Log(log.root).batches())


def in_threads(number, work):
    """work(0), work(1), … at once; what they returned or raised, in that order."""
    came = [None] * number
    start = threading.Barrier(number)

    def one(index):
        start.wait()
        try:
            came[index] = work(index)
        except BaseException as error:
            came[index] = error

    threads = [threading.Thread(target=one, args=(index,)) for index in range(number)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()
    return came


# ── threads ──


def test_threads_share_commits_and_each_gets_its_own_positions(fresh, remark):
    writer = fresh.writer

    def work(index):
        return [writer.append([remark(f"{index} {turn} {part}") for part in range(2)]) for turn in range(10)]

    came = in_threads(16, work)
    found = reasons(fresh)
    assert len(found) == len(set(found)) == 16 * 10 * 2
    for index, appended in enumerate(came):
        for turn, one in enumerate(appended):
            assert found[one.position : one.position + 2] == [f"{index} {turn} 0", f"{index} {turn} 1"]
            assert one.acknowledged == "ordered"
    assert sum(segments(fresh).values()) < 16 * 10  # some were published together
    assert verify(fresh.root).problems == ()


def test_what_one_thread_may_not_append_does_not_stop_the_others(fresh, remark):
    writer, token = fresh.writer, "ghp_" + "a" * 36

    def work(index):
        return writer.append([remark(token if index == 3 else str(index))])

    came = in_threads(8, work)
    assert isinstance(came[3], SecretRefused)
    assert sorted(reasons(fresh)) == ["0", "1", "2", "4", "5", "6", "7"]
    assert verify(fresh.root).problems == ()


def test_of_threads_that_expect_the_same_exactly_one_wins(fresh, remark):
    writer = fresh.writer
    writer.append([remark("before")])

    def work(index):
        return writer.append([remark(str(index))], Expect("event/remarks", 1))

    came = in_threads(12, work)
    assert sum(isinstance(one, Conflict) for one in came) == 11
    assert len(reasons(fresh)) == 2


def test_a_refused_disk_is_told_to_every_thread_and_all_can_go_on(fresh, remark, monkeypatch):
    writer, real = fresh.writer, joint.Joint.enter

    def slow(self):
        time.sleep(0.02)
        raise NotAppended("nothing was appended: no space")

    monkeypatch.setattr(joint.Joint, "enter", slow)
    came = in_threads(8, lambda index: writer.append([remark(str(index))]))
    assert all(isinstance(one, NotAppended) for one in came)
    assert len({id(one) for one in came}) == 8
    monkeypatch.setattr(joint.Joint, "enter", real)
    in_threads(8, lambda index: writer.append([remark(str(index))]))
    assert len(reasons(fresh)) == 8
    assert verify(fresh.root).problems == ()


def test_ctrl_c_in_the_thread_that_publishes_is_unknown_to_the_others(fresh, remark, monkeypatch):
    writer, entered = fresh.writer, threading.Event()
    real = joint.Joint.enter

    def interrupted(self):
        entered.set()
        time.sleep(0.1)  # the others queue up
        monkeypatch.setattr(joint.Joint, "enter", real)
        raise KeyboardInterrupt

    monkeypatch.setattr(joint.Joint, "enter", interrupted)

    def work(index):
        if index:
            entered.wait()
        return writer.append([remark(str(index))])

    came = in_threads(5, work)
    assert isinstance(came[0], KeyboardInterrupt)
    assert len(reasons(fresh)) == 4
    assert verify(fresh.root).problems == ()


# ── processes ──


@pytest.fixture
def two(fresh):
    """Two ledgers on one folder, as two processes would have them."""
    other = Log(fresh.root)
    assert other.writer.id != fresh.writer.id
    return fresh, other


def test_who_has_the_turn_publishes_what_another_has_ready(two, remark):
    mine, other = two
    turn = other.writer._joint
    assert turn.enter()
    done = []
    thread = threading.Thread(target=lambda: done.append(mine.writer.append([remark("left in the box")])))
    thread.start()
    while not (left := turn.others(64)):
        time.sleep(0.001)
    assert [len(request.rows) for request in left] == [1]
    with_others(other, remark("own"), left)
    thread.join(10)
    turn.leave()
    assert reasons(other) == ["own", "left in the box"]
    assert done[0].position == 1
    assert segments(other) == {2: 1}
    assert verify(other.root).problems == ()


def with_others(log, draft, left):
    """Append `draft` while taking along what was left, as a writer with the turn does."""
    writer = log.writer
    real = writer._joint.enter, writer._joint.leave, writer._joint.others
    writer._joint.enter, writer._joint.leave = lambda: True, lambda: None
    writer._joint.others = lambda limit: left
    try:
        return writer.append([draft])
    finally:
        writer._joint.enter, writer._joint.leave, writer._joint.others = real


def test_rows_whose_publisher_died_without_an_answer_are_not_published_again(two, remark):
    """Another writer read the segment that holds them before it looked into the box."""
    mine, other = two
    third = Log(mine.root)
    turn = other.writer._joint
    assert turn.enter()
    thread = threading.Thread(target=lambda: mine.writer.append([remark("once")]))
    thread.start()
    while not (left := turn.others(64)):
        time.sleep(0.001)
    answer = Request.answer
    Request.answer = lambda self: None
    try:
        with_others(other, remark("own"), left)
    finally:
        Request.answer = answer
    assert third.head().position == 2
    with_others(third, remark("later"), left)
    turn.leave()
    thread.join(10)
    assert reasons(third) == ["own", "once", "later"]
    assert verify(third.root).problems == ()


@pytest.mark.parametrize("behind", [0, 70])
def test_rows_of_a_writer_that_fell_far_behind_are_left_to_it(two, remark, behind):
    mine, other = two
    row = row_of(mine, remark("far behind"))
    for number in range(behind):
        other.writer.append([remark(str(number))])
    assert mine.writer._joint._post([row], 0)
    with_others(other, remark("own"), other.writer._joint.others(64))
    assert ("far behind" in reasons(other)) is (behind == 0)


def test_a_writer_does_not_publish_again_what_came_in_while_it_waited(two, remark, monkeypatch):
    mine, other = two
    turn = other.writer._joint
    assert turn.enter()
    monkeypatch.setattr(Request, "answer", lambda self: None)  # who published died before it could say so
    done = []
    thread = threading.Thread(target=lambda: done.append(mine.writer.append([remark("once")])))
    thread.start()
    while not (left := turn.others(64)):
        time.sleep(0.001)
    with_others(other, remark("own"), left)
    turn.leave()
    thread.join(10)
    assert reasons(other) == ["own", "once"]
    assert done[0].position == 1
    assert verify(other.root).problems == ()


def test_a_publisher_drops_what_its_owner_published_meanwhile(two, remark, monkeypatch):
    mine, other = two
    turn = other.writer._joint
    monkeypatch.setattr(joint, "_PATIENCE", 0.05)
    assert turn.enter()
    thread = threading.Thread(target=lambda: mine.writer.append([remark("once")]))
    thread.start()
    while not (left := turn.others(64)):
        time.sleep(0.001)
    encode, waited = segment.encode, []

    def late(*args):
        data = encode(*args)
        if not waited and threading.current_thread() is threading.main_thread():
            waited.append(thread.join(10))  # the owner loses patience before our link
        return data

    monkeypatch.setattr(segment, "encode", late)
    with_others(other, remark("own"), left)
    turn.leave()
    assert reasons(other) == ["once", "own"]
    assert verify(other.root).problems == ()


def test_a_false_answer_is_not_believed(two, remark):
    mine, other = two
    turn = other.writer._joint
    assert turn.enter()
    done = []
    thread = threading.Thread(target=lambda: done.append(mine.writer.append([remark("really")])))
    thread.start()
    while not (left := turn.others(64)):
        time.sleep(0.001)
    left[0].answer()
    thread.join(10)
    turn.leave()
    assert reasons(mine) == ["really"]
    assert done[0].position == 0


def test_nobody_waits_for_ever_for_a_writer_that_was_stopped(fresh, remark):
    hold = (
        "import sys, time\nfrom ledger.chain import Log\nj = Log(sys.argv[1]).writer._joint\n"
        "assert j.enter()\nprint('ready', flush=True)\ntime.sleep(60)"
    )
    holder = subprocess.Popen([sys.executable, "-c", hold, fresh.root], stdout=subprocess.PIPE)
    try:
        assert holder.stdout.readline() == b"ready\n"
        holder.send_signal(signal.SIGSTOP)
        start = time.monotonic()
        for number in range(3):
            fresh.writer.append([remark(str(number))])
        assert time.monotonic() - start < 20
        assert reasons(fresh) == ["0", "1", "2"]
    finally:
        holder.kill()
        holder.wait()
        holder.stdout.close()


def test_the_box_of_a_dead_writer_is_removed_and_not_published(fresh, remark):
    post = (
        "import sys, os\nfrom ledger import writer\nfrom ledger.chain import Log\nw = Log(sys.argv[1]).writer\n"
        "from ledger.events import EventRetracted\nfrom ledger.writer import Draft\n"
        "draft = Draft('event/x', EventRetracted(target='0'*36, reason='of a dead writer'))\n"
        "assert w._joint._post(w._rows(writer._Commit([draft], None, False)), 0)\nos.kill(os.getpid(), 9)"
    )
    assert subprocess.run([sys.executable, "-c", post, fresh.root], check=False).returncode == -9
    assert {name[-4:] for name in os.listdir(os.path.join(fresh.root, "tmp"))} == {".box", "bell"}
    fresh.writer.append([remark("alive")])
    assert reasons(fresh) == ["alive"]
    assert os.listdir(os.path.join(fresh.root, "tmp")) == []


def test_a_half_written_or_foreign_box_is_passed_over(two, remark):
    mine, other = two
    rows = [row_of(other, remark("x"))]
    assert other.writer._joint._post(rows, 0)
    box, looking = other.writer._joint._box, mine.writer._joint
    assert len(looking.others(64)) == 1
    box[joint._HEAD.size + 5] ^= 1
    assert looking.others(64) == []
    box[joint._HEAD.size + 5] ^= 1
    box[0] ^= 1  # another machine's, on a shared disk
    assert looking.others(64) == []
    box[0] ^= 1
    assert len(looking.others(64)) == 1
    assert looking.others(0) == []


def row_of(log, draft):
    from ledger import writer

    (row,) = log.writer._rows(writer._Commit([draft], None, False))
    return row


def test_a_writer_that_closed_comes_back(fresh, remark):
    fresh.writer.append([remark("a")])
    fresh.close()
    fresh.writer.append([remark("b")])
    assert reasons(fresh) == ["a", "b"]
    fresh.close()
    assert os.listdir(os.path.join(fresh.root, "tmp")) == []


def left_for(turn, log, draft):
    """What `turn` finds of an append that another writer begins while it is published."""
    assert turn.enter()
    thread = threading.Thread(target=lambda: log.writer.append([draft]))
    thread.start()
    until = time.monotonic() + 0.2  # less than the other one's patience
    while not (left := turn.others(64)) and time.monotonic() < until:
        time.sleep(0.001)
    turn.leave()
    thread.join(10)
    assert not thread.is_alive()
    return [len(request.rows) for request in left]


def test_a_writer_that_closed_and_came_back_is_found_by_who_knew_it(two, remark):
    mine, other = two
    turn = other.writer._joint
    assert left_for(turn, mine, remark("a")) == [1]
    mine.close()
    assert left_for(turn, mine, remark("b")) == [1]


def test_a_writer_whose_box_was_deleted_makes_another(two, remark):
    mine, other = two
    turn = other.writer._joint
    assert left_for(turn, mine, remark("a")) == [1]
    for name in os.listdir(os.path.join(mine.root, "tmp")):
        os.unlink(os.path.join(mine.root, "tmp", name))
    assert left_for(turn, mine, remark("b")) == [1]


def test_a_program_with_more_than_a_thousand_open_files_waits_its_turn(two, remark):
    mine, other = two
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < 2048:
        pytest.skip("no more files may be opened here")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 2048), hard))
    opened = [os.open(os.devnull, os.O_RDONLY) for _ in range(1100)]
    try:
        assert left_for(other.writer._joint, mine, remark("a")) == [1]
        assert reasons(mine) == ["a"]
    finally:
        for file in opened:
            os.close(file)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_without_locks_everybody_publishes_alone(two, remark, monkeypatch):
    monkeypatch.setattr(joint, "fcntl", None)
    mine, other = two
    for number in range(3):
        mine.writer.append([remark(f"{number} mine")])
        other.writer.append([remark(f"{number} other")])
    assert len(reasons(Log(mine.root))) == 6


def test_a_box_holds_no_more_than_fits(tmp_path, two, remark):
    mine, _ = two
    row = row_of(mine, remark("x" * 40_000))
    assert mine.writer._joint._post([row], 0)
    assert not mine.writer._joint._post([row, row], 0)
    small = row_of(mine, remark("x"))
    assert not mine.writer._joint._post([small] * (joint.MAX_ROWS + 1), 0)
    assert Joint(str(tmp_path / "nowhere"), b"x" * 16).wait([small], 0) == ""


# ── again ──


def test_an_append_repeated_after_unknown_is_one_event(fresh, remark):
    wanted = [str(uuid7(1_763_645_000_000_000 + number)) for number in range(3)]
    drafts = [remark(str(number), event_id=one) for number, one in enumerate(wanted)]
    fresh.writer.append([remark("before")])
    first = fresh.writer.append(drafts)
    fresh.writer.append([remark("after")])
    again = Log(fresh.root).writer.append(drafts, again=True)
    assert (again.position, again.event_ids) == (first.position, first.event_ids)
    assert len(reasons(fresh)) == 5
    new = fresh.writer.append([remark("new", event_id=str(uuid7(1_763_645_000_000_009)))], again=True)
    assert new.position == 5
    with pytest.raises(UsageError, match="with other events"):
        fresh.writer.append([drafts[0], drafts[2]], again=True)
    with pytest.raises(UsageError, match="event ids of the first attempt"):
        fresh.writer.append([remark("without")], again=True)
    assert verify(fresh.root).problems == ()


def test_a_refused_repetition_leaves_no_gap_in_the_numbers(fresh, remark):
    wanted = [str(uuid7(1_763_645_000_000_000 + number)) for number in range(3)]
    drafts = [remark(str(number), event_id=one) for number, one in enumerate(wanted)]
    fresh.writer.append(drafts)
    with pytest.raises(UsageError, match="with other events"):
        fresh.writer.append([drafts[0], drafts[2]], again=True)
    fresh.writer.append([remark("after")])
    assert verify(fresh.root).problems == ()


def test_rows_that_may_be_repeated_are_left_to_nobody(two, remark):
    """Who repeats them when their process is dead must not be overtaken by one that still holds them."""
    mine, other = two
    wanted = str(uuid7(time.time_ns() // 1000))
    assert left_for(other.writer._joint, mine, remark("mine alone", event_id=wanted)) == []
    assert reasons(mine) == ["mine alone"]


def test_what_a_repetition_finds_is_made_durable_before_it_is_acknowledged(fresh, remark, monkeypatch):
    from ledger import disk

    wanted = str(uuid7(time.time_ns() // 1000))
    with monkeypatch.context() as patch:
        patch.setattr(disk.Folder, "confirm", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))  # killed there
        with pytest.raises(KeyboardInterrupt):
            fresh.writer.append([remark("once", event_id=wanted)])
    writer, synced = Log(fresh.root).writer, []
    monkeypatch.setattr(disk, "_flush", lambda file: synced.append(os.fstat(file).st_ino))
    assert writer.append([remark("once", event_id=wanted)], again=True).position == 0
    assert os.stat(os.path.join(fresh.root, "log", "00000000")).st_ino in synced


def test_a_repetition_with_a_condition_finds_what_came_in_meanwhile(two, remark, monkeypatch):
    mine, other = two
    wanted = str(uuid7(time.time_ns() // 1000))
    real, first = segment.encode, []

    def overtaken(*args):
        if not first:
            first.append(True)
            other.writer.append([remark("once", event_id=wanted)])
        return real(*args)

    monkeypatch.setattr(segment, "encode", overtaken)
    again = mine.writer.append([remark("once", event_id=wanted)], Expect("event/another", 0), again=True)
    assert again.position == 0
    assert reasons(mine) == ["once"]


def test_of_two_that_repeat_the_same_append_at_once_only_one_appends(fresh, remark):
    wanted = str(uuid7(time.time_ns() // 1000))
    logs = [Log(fresh.root) for _ in range(6)]
    came = in_threads(6, lambda index: logs[index].writer.append([remark("same", event_id=wanted)], again=True))
    assert {one.position for one in came} == {0}
    assert reasons(fresh) == ["same"]


def test_unknown_stays_unknown_until_the_ledger_is_opened_anew(fresh, remark, monkeypatch):
    from ledger import disk

    wanted = str(uuid7(time.time_ns() // 1000))

    def failing(folder):
        raise OSError(5, "Input/output error")

    writer = fresh.writer
    with monkeypatch.context() as patch:
        patch.setattr(disk, "sync_names", failing)
        with pytest.raises((Unknown, NotAppended)):
            writer.append([remark("doubtful", event_id=wanted)])
        if writer._broken is None:  # the folder of the shard was made in the same call
            patch.undo()
            writer.append([remark("first")])
            patch.setattr(disk, "sync_names", failing)
            with pytest.raises(Unknown):
                writer.append([remark("doubtful", event_id=wanted)])
    with pytest.raises(Unknown, match=wanted):
        writer.append([remark("more")])
    reopened = Log(fresh.root)
    place = reopened.writer.append([remark("doubtful", event_id=wanted)], again=True).position
    assert reasons(reopened)[place] == "doubtful"
    assert reasons(reopened).count("doubtful") == 1

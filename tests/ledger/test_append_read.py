"""What is appended is read back: whole, in order, once."""

import multiprocessing
import os
import shutil
import threading
import time
import uuid
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ledger import canonical, event_text, ids, layout, segment
from ledger.chain import Log
from ledger.errors import Conflict, Corrupt, NotALedger, SecretRefused, Unsupported, UsageError
from ledger.inspection import DIFFER, OTHER_BODIES
from ledger.merkle import Frontier, leaf_hash
from ledger.verify import verify
from ledger.writer import Draft, Expect, uuid7

GITHUB = "ghp_" + "a1B2" * 9


def reasons(found):
    return [event.data.reason for event in found]


@pytest.fixture
def five(fresh, remark):
    """Five events in three commits: a | b c | d e."""
    writer = fresh.writer
    writer.append([remark("a", "event/x")])
    writer.append([remark("b", "event/y"), remark("c", "event/x")])
    writer.append([remark("d", "event/y"), remark("e", "event/x")])
    return fresh


def test_an_event_of_every_type_is_read_back_as_it_was_appended(fresh, examples):
    from ledger.writer import Draft

    done = fresh.writer.append([Draft("run/r1", data) for data in examples])
    found = list(Log(fresh.root).events())
    assert [event.data for event in found] == examples
    assert [event.event_id for event in found] == list(done.event_ids)
    assert [event.position for event in found] == list(range(len(examples)))


@given(
    commits=st.lists(st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=20), min_size=1, max_size=5))
)
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_sequence_of_commits_is_read_back_gapless_and_in_order(commits, tmp_path, remark):
    log = Log.create(tmp_path / uuid.uuid4().hex)
    positions = [log.writer.append([remark(text) for text in commit]).position for commit in commits]
    flat = [text for commit in commits for text in commit]
    again = Log(log.root)
    found = list(again.events())
    assert reasons(found) == flat
    assert [event.position for event in found] == list(range(len(flat)))
    assert positions == [sum(map(len, commits[:index])) for index in range(len(commits))]
    tree = Frontier()
    tree.extend(leaf_hash(event.body) for event in found)
    assert (again.head().position, again.head().root) == (len(flat), tree.root().hex())


def test_the_envelope_is_read_back(fresh, remark, monkeypatch):
    monkeypatch.setenv("LEDGER_ACTOR", "ada")
    first = fresh.writer.append([remark()]).event_ids[0]
    fresh.writer.append([remark(causation_id=first, correlation_id=first.upper())])
    event = list(fresh.events())[1]
    assert (event.actor, event.causation_id, event.correlation_id) == ("ada", first, first)
    assert verify(fresh.root).problems == ()


def test_events_are_filtered_by_stream_and_by_type(five):
    assert reasons(five.events(stream="event/x")) == ["a", "c", "e"]
    assert reasons(five.events(types={"event.retracted"}, start=3)) == ["d", "e"]
    assert list(five.events(types={"run.started"})) == []


@pytest.mark.parametrize("position", range(6))
def test_as_of_a_position_reads_exactly_that_many(five, position):
    assert reasons(five.events(as_of=position)) == list("abcde")[:position]
    assert reasons(five.events(as_of=str(position))) == list("abcde")[:position]


def test_as_of_an_id_reads_up_to_and_with_that_event(five):
    ids = [event.event_id for event in five.events()]
    assert reasons(five.events(as_of=ids[2])) == ["a", "b", "c"]


def test_as_of_the_beginning_of_an_id_is_never_taken_for_a_count(fresh, remark):
    ids = ["01234567-0000-7000-8000-000000000000", "01999999-0000-7000-8000-000000000000"]
    for one in ids:
        fresh.writer.append([remark(event_id=one)])
    assert fresh.position("01234567") == 1
    assert fresh.position("0199") == 2


def test_as_of_a_time_reads_what_was_recorded_until_then(fresh, remark):
    fresh.writer.append([remark("before")])
    time.sleep(0.01)
    moment = datetime.now(UTC)
    time.sleep(0.01)
    fresh.writer.append([remark("after")])
    assert reasons(fresh.events(as_of=moment)) == ["before"]
    assert reasons(fresh.events(as_of=moment.isoformat())) == ["before"]
    assert reasons(fresh.events(as_of=moment - timedelta(days=1))) == []
    assert reasons(fresh.events(as_of=(moment + timedelta(days=1)).replace(tzinfo=None))) == ["before", "after"]


@pytest.mark.parametrize("as_of", [6, "6", -1, "-1", "yesterday", "abc", "ffff0000"])
def test_as_of_what_is_not_in_the_log_is_a_usage_error(five, as_of):
    with pytest.raises(UsageError):
        list(five.events(as_of=as_of))


def test_find_takes_any_prefix_that_only_one_id_has(five):
    wanted = list(five.events())[3]
    assert five.find(wanted.event_id) == wanted
    assert five.find(wanted.event_id.replace("-", "")[:31].upper()) == wanted


@pytest.mark.parametrize(
    ("prefix", "why"),
    [
        ("01", "at least 4"),
        ("zzzz", "not an event id"),
        ("", "at least 4"),
        ("ffff", "no event"),
        ("0123", "2 events"),
    ],
)
def test_find_says_what_is_wrong_with_a_prefix(fresh, remark, prefix, why):
    for last in "01":
        fresh.writer.append([remark(event_id=f"01234567-0000-7000-8000-00000000000{last}")])
    with pytest.raises(UsageError, match=why):
        fresh.find(prefix)


def test_the_head_at_any_position_is_the_root_over_so_many_bodies(five):
    bodies = [event.body for event in five.events()]
    for size in range(6):
        tree = Frontier()
        tree.extend(map(leaf_hash, bodies[:size]))
        assert five.head_at(size).root == tree.root().hex()


@pytest.mark.parametrize("position", [-1, 6])
def test_there_is_no_head_outside_the_log(five, position):
    with pytest.raises(UsageError):
        five.head_at(position)


def test_a_commit_is_one_file_so_all_or_none_of_it_is_there(five, files_of):
    assert [path.name for path in files_of(five)] == [f"{base:016d}.parquet" for base in (0, 1, 3)]


def test_a_commit_with_one_bad_event_appends_nothing(fresh, remark):
    with pytest.raises(UsageError):
        fresh.writer.append([remark("good"), remark(None)])
    assert list(fresh.events()) == []
    fresh.writer.append([remark("good")])
    assert verify(fresh.root).problems == ()


@pytest.mark.parametrize("stream", ["", "x", "X/y", "a/b c", "a/" + "x" * 129, "../x", "a/b/c", "a/b\n"])
def test_a_stream_that_is_not_kind_and_name_is_refused(fresh, remark, stream):
    with pytest.raises(UsageError, match="stream"):
        fresh.writer.append([remark(stream=stream)])


@pytest.mark.parametrize("field", ["event_id", "causation_id", "correlation_id"])
def test_an_id_that_is_no_uuid_is_refused(fresh, remark, field):
    with pytest.raises(UsageError, match="UUID"):
        fresh.writer.append([remark(**{field: "nonsense"})])


def test_an_append_of_nothing_is_refused(fresh):
    with pytest.raises(UsageError):
        fresh.writer.append([])


def test_a_body_may_have_48_kib_and_not_a_byte_more(fresh, remark):
    fresh.writer.append([remark("")])
    room = segment.MAX_BODY - len(next(fresh.events()).body)
    fresh.writer.append([remark("x" * room)])
    assert len(list(fresh.events())[1].body) == 48 * 1024
    with pytest.raises(UsageError, match="artifact"):
        fresh.writer.append([remark("x" * (room + 1))])
    assert fresh.head().position == 2


@pytest.mark.parametrize(
    "secret",
    [
        GITHUB,
        "hf_" + "x" * 34,
        "sk-ant-" + "x" * 40,
        "AKIA" + "A1" * 8,
        "https://ada:hunter22@example.org/x",
        "-----BEGIN RSA PRIVATE KEY-----\nx",
        'wandb_api_key = "' + "0a" * 20 + '"',
    ],
)
def test_a_secret_is_refused_and_nothing_of_its_commit_is_appended(fresh, remark, secret):
    with pytest.raises(SecretRefused) as refused:
        fresh.writer.append([remark("harmless"), remark(f"token: {secret}")])
    assert secret not in str(refused.value)
    assert fresh.head().position == 0
    assert not any(secret.encode() in path.read_bytes() for path in Path(fresh.root).rglob("*") if path.is_file())


def test_a_writer_that_raced_takes_the_next_position(tmp_path, remark):
    one = Log.create(tmp_path / "ledger")
    two = Log(one.root)
    both = [one.writer, two.writer]
    positions = [both[turn % 2].append([remark(str(turn))]).position for turn in range(6)]
    assert positions == list(range(6))
    assert reasons(one.events()) == list("012345")


def test_a_condition_holds_while_its_stream_has_not_moved(five, remark):
    five.writer.append([remark("f", "event/z")])
    done = five.writer.append([remark("g", "event/x")], Expect("event/x", 5))
    assert done.position == 6


def test_a_condition_fails_when_its_stream_has_moved(five, remark):
    with pytest.raises(Conflict, match="position 4"):
        five.writer.append([remark("f", "event/x")], Expect("event/x", 4))
    assert five.head().position == 5
    five.writer.append([remark("f", "event/x")])
    assert verify(five.root).problems == ()


def _race(root, number, barrier, results, remark):
    writer = Log(root).writer
    barrier.wait()
    try:
        results.put(("won", writer.append([remark(str(number), "event/x")], Expect("event/x", 0)).position))
    except Conflict:
        results.put(("conflict", None))


def test_exactly_one_of_several_racing_conditional_appends_wins(fresh, remark):
    context = multiprocessing.get_context("fork")
    for round_ in range(3):
        root = Log.create(os.path.join(os.path.dirname(fresh.root), f"race-{round_}")).root
        barrier, results = context.Barrier(4), context.Queue()
        racers = [context.Process(target=_race, args=(root, n, barrier, results, remark)) for n in range(4)]
        for racer in racers:
            racer.start()
        outcomes = sorted(results.get(timeout=60)[0] for _ in racers)
        for racer in racers:
            racer.join()
        assert outcomes == ["conflict"] * 3 + ["won"]
        assert Log(root).head().position == 1


def test_threads_share_one_writer_while_others_read(fresh, remark):
    log, failed = fresh, []
    log.writer.append([remark("first")])

    def write(name):
        for number in range(30):
            log.writer.append([remark(f"{name}{number}")])

    def read():
        try:
            while threads[0].is_alive():
                assert len(list(log.events())) <= log.head().position
                log.close()
        except Exception as error:
            failed.append(error)

    threads = [threading.Thread(target=write, args=(name,)) for name in "ab"]
    readers = [threading.Thread(target=read) for _ in range(2)]
    for thread in [*threads, *readers]:
        thread.start()
    for thread in [*threads, *readers]:
        thread.join()
    assert not failed
    report = verify(log.root)
    assert (report.size, report.problems) == (61, ())
    Log(log.root).head()


def test_a_forked_child_goes_on_under_a_writer_of_its_own(fresh, remark):
    writer = fresh.writer
    writer.append([remark("parent")])
    if (child := os.fork()) == 0:
        try:
            assert writer.append([remark("child")]).position == 1
            fresh.writer.append([remark("child again")])
            os._exit(0)
        finally:
            os._exit(1)
    assert os.waitpid(child, 0)[1] == 0
    writer.append([remark("parent again")])
    assert reasons(fresh.events()) == ["parent", "child", "child again", "parent again"]
    assert verify(fresh.root).problems == ()


@pytest.mark.parametrize("moment", ["link", "confirm", "step", "discard"])
def test_ctrl_c_at_any_moment_of_an_append_leaves_a_log_that_verifies(fresh, remark, monkeypatch, moment):
    from ledger import disk

    writer = fresh.writer
    writer.append([remark("before")])

    def interrupting(real):
        def call(*args):
            real(*args)
            raise KeyboardInterrupt

        return call

    with monkeypatch.context() as patch:
        target = {"step": fresh, "confirm": disk.Folder}.get(moment, disk.Temporary)
        patch.setattr(target, moment, interrupting(getattr(target, moment)))
        with pytest.raises(KeyboardInterrupt):
            writer.append([remark("interrupted")])
    writer.append([remark("after")])
    assert reasons(fresh.events()) == ["before", "interrupted", "after"]
    assert verify(fresh.root).problems == ()


@pytest.mark.parametrize("after", ["the commit was queued", "the lead was taken", "the commit was taken out"])
def test_ctrl_c_between_two_steps_of_the_queue_leaves_no_thread_waiting(fresh, remark, after):
    writer = fresh.writer

    class Interrupted(list):
        def append(self, commit):
            super().append(commit)
            if after == "the commit was queued":
                raise KeyboardInterrupt

        def remove(self, commit):
            super().remove(commit)
            if after == "the commit was taken out":
                raise KeyboardInterrupt

    class Mutex:
        def __init__(self, real):
            self.real, self.left = real, 1

        def __enter__(self):
            self.real.acquire()

        def __exit__(self, *error):
            self.real.release()
            if self.left and after == "the lead was taken":
                self.left = 0
                raise KeyboardInterrupt

    writer._queue, writer._mutex = Interrupted(), Mutex(writer._mutex)
    with pytest.raises(KeyboardInterrupt):
        writer.append([remark("interrupted")])
    writer._queue = list(writer._queue)
    others = [threading.Thread(target=writer.append, args=([remark("another")],), daemon=True) for _ in range(3)]
    for thread in others:
        thread.start()
    for thread in others:
        thread.join(10)
        assert not thread.is_alive()
    assert writer.append([remark("after")]).position == 3
    assert reasons(fresh.events()) == ["another"] * 3 + ["after"]


def test_a_writer_goes_on_when_tmp_is_removed(fresh, remark):
    fresh.writer.append([remark("before")])
    shutil.rmtree(os.path.join(fresh.root, "tmp"))
    fresh.writer.append([remark("after")])
    assert reasons(fresh.events()) == ["before", "after"]


def test_an_interrupted_walk_begins_again(fresh, remark, monkeypatch):
    reader = Log(fresh.root)
    fresh.writer.append([remark("a")])
    with monkeypatch.context() as patch:
        patch.setattr(Frontier, "extend", lambda self, leaves: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            reader.advance()
    assert reasons(reader.events()) == ["a"]
    assert reader.head() == fresh.head()


def test_a_log_may_cross_into_many_shards(tmp_path, remark, monkeypatch):
    monkeypatch.setattr(layout, "SHARD_BITS", 1)
    log = Log.create(tmp_path / "ledger")
    for number in range(9):
        log.writer.append([remark(str(number))] * (1 + number % 3))
    assert len(os.listdir(os.path.join(log.root, "log"))) > 4
    assert verify(log.root).problems == ()
    assert Log(log.root).head() == log.head()


@pytest.mark.parametrize("count", [1, 2, 64, 65, 300])
def test_a_commit_of_any_size_is_written_as_its_events_would_be_one_by_one(fresh, examples, count):
    cause, correlation = str(uuid7(1)), str(uuid7(2))
    drafts = [
        Draft(
            f"event/{index % 3}",
            examples[index % len(examples)],
            None,
            cause if index % 4 == 1 else None,
            correlation if index % 5 == 1 else None,
        )
        for index in range(count)
    ]
    done = fresh.writer.append(drafts)
    found = list(fresh.events())
    assert [event.event_id for event in found] == list(done.event_ids) == sorted(done.event_ids)
    for number, (draft, event) in enumerate(zip(drafts, found, strict=True)):
        assert event.body == canonical.text(canonical.decode(event.body))
        said = canonical.decode(event.body)
        assert said["data"] == event_text.check(draft.data)
        assert (said["event_id"], said["type"], said["writer_seq"]) == (event.event_id, draft.data.TYPE, number)
        assert said["stream"] == event.stream == draft.stream
        assert said["causation_id"] == event.causation_id == draft.causation_id
        assert said["correlation_id"] == event.correlation_id == draft.correlation_id
    assert not [problem for problem in verify(fresh.root).problems if problem.what in (DIFFER, OTHER_BODIES)]


def test_a_token_in_one_of_many_events_is_refused_and_none_of_them_enters(fresh, remark):
    drafts = [remark(f"reason {number}") for number in range(200)]
    drafts[137] = remark("the token is hf_" + "x" * 34)
    with pytest.raises(SecretRefused, match="Hugging Face"):
        fresh.writer.append(drafts)
    assert fresh.head().position == 0
    fresh.writer.append(drafts[:137])
    assert fresh.head().position == 137


def test_one_event_that_is_too_large_is_refused_with_all_of_its_commit(fresh, remark):
    with pytest.raises(UsageError, match=r"event\.retracted is 4\d{4,} bytes"):
        fresh.writer.append([remark("x"), remark("y" * segment.MAX_BODY), remark("z")])
    assert fresh.head().position == 0


@given(st.integers(0, 2**52), st.integers(1, 200))
@settings(max_examples=50, deadline=None)
def test_many_ids_made_at_once_are_as_those_made_one_by_one(moment, count):
    for made in (ids.new(moment, count), ids.new_many(moment, count)):
        assert ids.texts_many(made) == [ids.text(one) for one in made] == [str(uuid.UUID(bytes=one)) for one in made]
        assert {uuid.UUID(bytes=one).version for one in made} == {7}
        assert {uuid.UUID(bytes=one).variant for one in made} == {uuid.RFC_4122}
        assert made == sorted(made)
        assert len({one[8:] for one in made}) == count
    assert [one[:8] for one in ids.new(moment, count)] == [one[:8] for one in ids.new_many(moment, count)]


def test_ids_are_uuids_of_version_7_that_tell_their_time():
    made = uuid7(1_763_645_000_000_000)
    assert (made.version, made.variant) == (7, uuid.RFC_4122)
    assert made.int >> 80 == 1_763_645_000_000


def test_a_folder_that_is_no_ledger_is_told_from_a_file_and_from_nothing(tmp_path):
    (tmp_path / "file").write_text("x")
    for path in (tmp_path, tmp_path / "nothing", tmp_path / "file"):
        with pytest.raises(NotALedger):
            Log(path)


def test_a_folder_that_holds_other_things_does_not_become_a_ledger(tmp_path):
    (tmp_path / "thesis.tex").write_text("x")
    with pytest.raises(UsageError, match=r"thesis\.tex"):
        Log.create(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_making_a_ledger_twice_keeps_the_first(fresh, remark):
    fresh.writer.append([remark()])
    assert Log.create(fresh.root).identity == fresh.identity
    assert Log(fresh.root).head().position == 1


def _create(path, barrier, results):
    barrier.wait()
    try:
        results.put(Log.create(path).identity.id)
    except Exception as error:
        results.put(repr(error))


def test_processes_that_make_one_ledger_at_the_same_time_agree(tmp_path):
    context = multiprocessing.get_context("fork")
    for round_ in range(4):
        barrier, results = context.Barrier(4), context.Queue()
        made = [context.Process(target=_create, args=(tmp_path / str(round_), barrier, results)) for _ in range(4)]
        for process in made:
            process.start()
        identities = {results.get(timeout=60) for _ in made}
        for process in made:
            process.join()
        assert len(identities) == 1
        assert identities == {layout.identity(str(tmp_path / str(round_))).id}


def test_a_newer_ledger_is_refused_with_the_word_update(fresh):
    path = os.path.join(fresh.root, "LEDGER.json")
    with open(path) as file:
        text = file.read()
    with open(path, "w") as file:
        file.write(text.replace('"format":1', '"format":2').replace(fresh.identity.id, "0" * 32))
    with pytest.raises(Unsupported, match="update"):
        Log(fresh.root)


@pytest.mark.parametrize("old", ['"format":1', "sha256/rfc6962", "experiment-ledger/", '"created"'])
def test_a_changed_mark_is_damage(fresh, old):
    path = os.path.join(fresh.root, "LEDGER.json")
    with open(path) as file:
        text = file.read()
    with open(path, "w") as file:
        file.write(text.replace(old, old[:-1] + "3"))
    with pytest.raises(Corrupt):
        Log(fresh.root)

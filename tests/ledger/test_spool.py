"""The spool: what was logged is there whoever dies, once, and belongs to the run that logged it."""

import fcntl
import itertools
import math
import os
import struct
import subprocess
import sys
import threading
import uuid
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import ledger
from ledger import layout, points, spool
from ledger.chain import Log
from ledger.errors import NotAppended
from ledger.verify import verify
from ledger.writer import Draft, Writer, uuid7


def label_of(log, number=0, **more):
    given = {
        "ledger": log.identity.id,
        "run": "r1",
        "source": "api",
        "chunk": f"chunk/{uuid.uuid4().hex}/{number:08d}.parquet",
        "event_id": str(uuid7(layout.now_us())),
        "limit": 64,
        "boot": spool.boot(),
    }
    return spool.Label(**{**given, **more})


def fill(made, rows):
    """Rows of (step, {name: value})."""
    for step, values in rows:
        names = tuple(values)
        assert names in made.shapes or made.define(names)
        assert made.add(names, step, values.values())


def left_by_a_dead_process(log, rows, **more):
    """A spool whose owner is gone, as a kill -9 leaves it: its file, without a lock."""
    made = spool.create(log.root, label_of(log, **more))
    fill(made, rows)
    made.release()
    return made


def logged(log):
    """(run, step, name, value, recovered) of every point in the log, in order."""
    found = []
    for event in log.events(types={"metrics.logged"}):
        batch = points.read_chunk(log.root, event.data).to_pydict()
        rows = zip(batch["step"], batch["name"], batch["value"], strict=True)
        found += [(event.data.run, *row, event.data.recovered) for row in rows]
    return found


def rings(log):
    folder = Path(log.root, "spool")
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


ROWS = [(0, {"a": 1.0, "b": 2.0}), (1, {"a": 3.0}), (2, {"a": 4.0, "b": 5.0})]
POINTS = [("r1", 0, "a", 1.0), ("r1", 0, "b", 2.0), ("r1", 1, "a", 3.0), ("r1", 2, "a", 4.0), ("r1", 2, "b", 5.0)]


@given(
    st.lists(
        st.tuples(
            st.integers(-(2**63), 2**63 - 1),
            st.dictionaries(st.sampled_from(["a", "b", "cc", "ä.ö"]), st.floats(), min_size=1),
        ),
        max_size=30,
    )
)
@settings(max_examples=60, deadline=None)
def test_what_goes_in_comes_out_in_order_and_to_the_bit(rows):
    made = spool.in_memory(spool.Label("", "r", "api", "", "", 200, ""))
    fill(made, rows)
    found = made.columns()
    expected = [(step, name, struct.pack("<d", value)) for step, row in rows for name, value in row.items()]
    if not expected:
        assert found is None
        return
    names = [found.names[code] for code in found.codes.tolist()]
    values = [struct.pack("<d", value) for value in found.values.tolist()]
    assert list(zip(found.steps.tolist(), names, values, strict=True)) == expected
    assert set(found.names) == set(names)


def test_a_full_spool_takes_no_more(fresh):
    made = spool.create(fresh.root, label_of(fresh, limit=4))
    made.define(("a", "b"))
    assert [made.add(("a", "b"), step, (1, 2)) for step in range(3)] == [True, True, False]
    made.discard()
    assert rings(fresh) == []


def test_names_that_fill_an_event_need_another_spool(fresh):
    made = spool.in_memory(label_of(fresh, limit=1000))
    wide = tuple(f"{number:03d}" + "x" * 396 for number in range(90))
    assert made.define(wide[:80])
    assert not made.define(wide[80:])
    assert made.define(wide[5:9])  # known ones cost nothing


def test_a_value_that_is_no_number_leaves_no_trace(fresh):
    made = spool.in_memory(label_of(fresh))
    made.define(("a", "b"))
    with pytest.raises(struct.error):
        made.add(("a", "b"), 0, (1.0, "text"))
    assert made.columns() is None
    made.add(("a", "b"), 1, (1.0, 2.0))
    assert made.columns().values.tolist() == [1.0, 2.0]


def test_the_points_of_a_dead_process_are_brought_in_by_the_next_writer_and_flagged(fresh):
    left_by_a_dead_process(fresh, ROWS)
    assert Log(fresh.root).writer
    assert logged(fresh) == [(*point, True) for point in POINTS]
    (event,) = fresh.events()
    assert event.stream == "run/r1"
    assert rings(fresh) == []
    assert verify(fresh.root).problems == ()


def test_reading_a_ledger_leaves_spools_alone(fresh):
    left_by_a_dead_process(fresh, ROWS)
    assert list(Log(fresh.root).events()) == []
    ledger.open(fresh.root).sql("SELECT 1").arrow()
    assert len(rings(fresh)) == 1


def test_the_spool_of_a_living_process_is_left_alone(fresh):
    made = spool.create(fresh.root, label_of(fresh))
    fill(made, ROWS)
    assert spool.recover(fresh) == []
    assert logged(fresh) == []
    made.release()
    assert len(spool.recover(fresh)) == 1


def test_a_reused_process_id_does_not_make_a_dead_writer_look_alive(fresh):
    """What counts is the lock: a process with the id of whoever made the spool is alive, this one."""
    left_by_a_dead_process(fresh, ROWS)
    assert len(spool.recover(fresh)) == 1


@pytest.mark.parametrize("moment", ["before the chunk", "before the event", "after the event"])
def test_who_dies_while_recovering_leaves_it_to_the_next(fresh, monkeypatch, moment):
    left_by_a_dead_process(fresh, ROWS)

    class Killed(BaseException):
        pass

    def die(*_, **__):
        raise Killed

    with monkeypatch.context() as patch:
        name = {"before the chunk": (points, "publish"), "before the event": (Writer, "append")}
        patch.setattr(*name.get(moment, (spool.disk, "remove")), die)
        with pytest.raises(Killed):
            spool.recover(fresh)
    again = Log(fresh.root)
    spool.recover(again)
    assert logged(again) == [(*point, True) for point in POINTS]
    assert (rings(again), len(list(Path(fresh.root, "chunk").rglob("*.parquet")))) == ([], 1)
    assert verify(fresh.root).problems == ()


@pytest.mark.parametrize("moment", ["before the chunk", "before the event", "after the event"])
def test_a_run_that_dies_while_it_flushes_loses_and_doubles_nothing(fresh, moment):
    assert fresh.writer  # which is open before the run begins
    made = left_by_a_dead_process(fresh, ROWS)
    if moment != "before the chunk":
        label = made.label
        event = points.publish(fresh.root, label.chunk, label.run, label.source, made.columns())
        if moment == "after the event":
            fresh.writer.append([Draft("run/r1", event, event_id=label.event_id)])
    spool.recover(Log(fresh.root))
    assert [row[:4] for row in logged(fresh)] == POINTS
    assert rings(fresh) == []


def test_a_chunk_of_other_points_under_its_name_does_not_stop_a_recovery(fresh):
    made = left_by_a_dead_process(fresh, ROWS)
    points.publish(fresh.root, made.label.chunk, "r1", "api", points.columns_of([(0, "a", 1.0, 1)]))
    spool.recover(fresh)
    assert logged(fresh) == [(*point, True) for point in POINTS]
    assert list(points.orphans(fresh)) == [made.label.chunk]


def test_many_that_open_at_once_recover_it_once(fresh):
    for number in range(6):
        left_by_a_dead_process(fresh, [(number, {"a": 1.0})])
    code = f"from ledger.chain import Log; Log({fresh.root!r}).writer"
    openers = [subprocess.Popen([sys.executable, "-c", code]) for _ in range(3)]
    threads = [threading.Thread(target=lambda: Log(fresh.root).writer) for _ in range(3)]
    for thread in threads:
        thread.start()
    for one in (*threads, *openers):
        one.join() if isinstance(one, threading.Thread) else one.wait()
    assert sorted(row[1] for row in logged(Log(fresh.root))) == list(range(6))
    assert rings(fresh) == []
    assert verify(fresh.root).problems == ()


def test_a_disk_that_refuses_leaves_the_spool_to_the_next_opener(fresh, monkeypatch):
    left_by_a_dead_process(fresh, ROWS)
    with monkeypatch.context() as patch:
        patch.setattr(points, "publish", lambda *_, **__: (_ for _ in ()).throw(NotAppended("full")))
        assert spool.recover(fresh) == []
    assert len(rings(fresh)) == 1
    assert len(spool.recover(fresh)) == 1


@pytest.mark.parametrize("damage", [b"", b"garbage", b"\x00" * 5000, b'{"ledger": "x"}', None])
def test_what_is_no_spool_is_put_aside_and_stops_nothing(fresh, damage):
    made = left_by_a_dead_process(fresh, ROWS)
    data = Path(made.path).read_bytes()
    Path(fresh.root, "spool", "0.ring").write_bytes(data[:-9] if damage is None else damage)
    assert len(spool.recover(fresh)) == 1
    assert os.listdir(os.path.join(fresh.root, "quarantine")) == ["0.ring"]
    assert rings(fresh) == []


def test_a_spool_of_another_ledger_is_not_taken_in(fresh, tmp_path):
    other = Log.create(tmp_path / "other")
    made = left_by_a_dead_process(other, ROWS)
    os.makedirs(Path(fresh.root, "spool"))
    os.replace(made.path, Path(fresh.root, "spool", "x.ring"))
    assert spool.recover(fresh) == []
    assert logged(fresh) == []


def test_an_empty_spool_leaves_nothing(fresh):
    left_by_a_dead_process(fresh, [])
    assert spool.recover(fresh) == []
    assert (rings(fresh), list(fresh.events())) == ([], [])


def test_after_a_power_cut_a_page_that_is_missing_becomes_no_values(fresh):
    made = left_by_a_dead_process(
        fresh, [(step, {"a": step + 1.0, "b": math.nan}) for step in range(2000)], limit=4000, boot="an earlier one"
    )
    data = bytearray(Path(made.path).read_bytes())
    start = len(data) - 8 * 4000
    page = (start // 4096 + 3) * 4096
    data[page : page + 4096] = bytes(4096)
    Path(made.path).write_bytes(data)
    spool.recover(fresh)
    found = logged(fresh)
    assert len(found) == 4000 - 512
    assert all(value == step + 1.0 for _, step, name, value, _ in found if name == "a")


def test_every_prefix_of_the_stores_is_a_prefix_of_the_calls():
    """A kill comes between two stores. Each store of `define` and `add` is undone from the last one back."""

    made = spool.in_memory(spool.Label("", "r", "api", "", "", 64, ""))
    states = [bytes(made._memory)]
    for step, values in ROWS:
        names = tuple(values)
        if names not in made.shapes:
            made.define(names)
        made.add(names, step, values.values())
        states.append(bytes(made._memory))
    calls = [[(step, name, value) for name, value in values.items()] for step, values in ROWS]
    for number, (before, after) in enumerate(itertools.pairwise(states)):
        changed = [at for at in range(len(before)) if before[at] != after[at]]
        texts = [at for at in changed if at < spool._LABEL + spool._SHAPES]
        heads = [at for at in changed if spool._LABEL + spool._SHAPES <= at < len(before) - 8 * 64]
        values = [at for at in changed if at >= len(before) - 8 * 64]
        half = bytearray(before)
        done = [row for call in calls[:number] for row in call]
        for at in (*texts, *values, *heads):  # the order in which they are stored
            assert rows_of(half) == done
            half[at] = after[at]
        assert rows_of(half) == done + calls[number]


def rows_of(memory):
    found = spool.read(memory, 64, 64)
    if found is None:
        return []
    names = [found.names[code] for code in found.codes.tolist()]
    return list(zip(found.steps.tolist(), names, found.values.tolist(), strict=True))


def test_a_forked_child_does_not_keep_its_dead_parents_spool_locked(script, fresh):
    text = (
        "import ledger, os, sys, time\n"
        "run = ledger.init(metric=None)\n"
        "run.log({'a': 1})\n"
        "read, write = os.pipe()\n"
        "if os.fork():\n"
        "    os.read(read, 1)\n"
        "    os.kill(os.getpid(), 9)\n"
        "run.log({'a': 2})\n"  # must not reach the parent's spool
        "os.write(write, b'x')\n"
        "time.sleep(0.5)\n"
        "from ledger.chain import Log\n"
        "Log().writer\n"
        "os._exit(0)\n"
    )
    script(text, LEDGER_HOME=fresh.root)  # returns when the child has closed its output
    assert [row[1:4] for row in logged(fresh)] == [(0, "a", 1.0)]
    assert rings(fresh) == []


def test_a_program_that_is_killed_leaves_its_points_to_the_run_that_logged_them(script, fresh):
    text = "import ledger, os; log = ledger.init().log; log({'a': 1}); log({'a': 2, 'b': 3}); os.kill(os.getpid(), 9)"
    script(text, LEDGER_HOME=fresh.root, LEDGER_RUN_ID="joined")
    assert logged(fresh) == []
    assert Log(fresh.root).writer
    assert logged(fresh) == [
        ("joined", 0, "a", 1.0, True),
        ("joined", 1, "a", 2.0, True),
        ("joined", 1, "b", 3.0, True),
    ]


def test_a_spool_is_locked_before_anybody_can_see_it(fresh, monkeypatch):
    seen = []

    def rename(source, target):
        with open(source) as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                seen.append(target)
        os.replace(source, target)

    monkeypatch.setattr(spool.os, "rename", rename)
    made = spool.create(fresh.root, label_of(fresh))
    assert seen == [made.path]
    made.discard()


def test_no_room_for_a_spool_is_an_error_before_anything_is_mapped(fresh, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(spool.os, "posix_fallocate", full)
    with pytest.raises(OSError, match="No space"):
        spool.create(fresh.root, label_of(fresh))
    assert (rings(fresh), os.listdir(os.path.join(fresh.root, "tmp"))) == ([], [])

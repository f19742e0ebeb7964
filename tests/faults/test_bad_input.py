"""Bad input: the rows of the design's table of faults that need no object store, and the tests of each.

 1  kill -9 at any moment: faults/test_kill.py::test_a_kill_between_any_two_calls_of_an_append_loses_nothing,
    faults/test_kill.py::test_twelve_kills_lose_nothing,
    ledger/test_append_read.py::test_ctrl_c_at_any_moment_of_an_append_leaves_a_log_that_verifies
 4  a folder's sync left out: faults/test_power_cut.py::test_without_one_of_the_syncs_the_harness_finds_a_loss
 5  a file's sync left out: faults/test_power_cut.py::test_without_one_of_the_syncs_the_harness_finds_a_loss
 6  fsync fails once: faults/test_refusing_disk.py::test_a_file_whose_sync_failed_is_never_synced_again
 7  no space, no quota: faults/test_refusing_disk.py::test_a_refusal_before_the_link_appends_nothing_and_can_be_repeated,
    faults/test_refusing_disk.py::test_a_disk_that_is_really_full_loses_nothing_and_goes_on_when_there_is_room,
    faults/test_compaction.py::test_a_disk_that_refuses_leaves_everything_as_it_was,
    faults/test_refusing_disk.py::test_refused_tiles_leave_the_log_as_it_is_and_are_made_later
 8  no descriptors, no memory, SIGINT, a fork: here, ledger/test_append_read.py::test_a_forked_child_goes_on_under_a_writer_of_its_own
 9  a damaged last segment: here, ledger/test_repair.py::test_an_unreadable_last_commit_is_put_aside_and_told_of
10  damage in the middle, under a checkpoint: here,
    ledger/test_repair.py::test_damage_under_a_checkpoint_without_a_copy_is_left_alone,
    ledger/test_repair.py::test_a_missing_or_damaged_commit_is_restored_from_a_copy
11  one flipped bit: here, faults/test_bit_flips.py::test_verify_finds_every_one_of_a_hundred_and_twenty_flipped_bits
12  4 to 64 processes append: faults/test_kill.py::test_four_writers_together_lose_and_double_nothing,
    ledger/test_model.py::test_eight_writers_two_compactors_and_two_readers_live_in_one_history
13  a writer sleeps: faults/test_compaction.py::test_a_writer_that_sleeps_through_a_compaction_is_told_where_its_events_really_are
14  two compactors: ledger/test_model.py::test_eight_writers_two_compactors_and_two_readers_live_in_one_history
15  a crash while packing, while removing:
    faults/test_compaction.py::test_a_compaction_that_is_cut_off_around_the_link_changes_nothing_for_readers,
    faults/test_compaction.py::test_a_compaction_that_is_cut_off_while_it_removes_changes_nothing_for_readers
20  clocks that jump and disagree: here
21  an event sent again: here, ledger/test_joint.py::test_an_append_repeated_after_unknown_is_one_event
22  two decisions race: ledger/test_append_read.py::test_exactly_one_of_several_racing_conditional_appends_wins
23  edits, deletions, swaps, other keys: ledger/test_verify.py::test_swapped_segments_are_named,
    faults/test_tampering.py::test_changed_events_contradict_the_first_checkpoint_after_them,
    faults/test_tampering.py::test_a_tail_that_was_deleted_is_missing_from_the_checkpoint,
    faults/test_tampering.py::test_checkpoints_signed_anew_with_another_key_are_signed_by_an_unknown_one
24  an older copy of all: faults/test_tampering.py::test_an_older_copy_of_everything_is_found_by_a_kept_head_in_every_form
25  threads, zone, language, order of files, cuts, packs: here,
    projections/test_engine.py::test_building_onwards_from_any_cut_gives_the_digests_of_building_anew
26  fields, versions, keys, numbers: here, ledger/test_event_types.py::test_reading_applies_the_upcasters
27  points: faults/test_spool_kill.py::test_kills_at_random_moments_lose_and_double_no_point,
    ledger/test_spool.py::test_after_a_power_cut_a_page_that_is_missing_becomes_no_values,
    ledger/test_spool.py::test_a_reused_process_id_does_not_make_a_dead_writer_look_alive,
    ledger/test_repair.py::test_points_that_no_event_names_are_deleted_when_nobody_can_adopt_them
28  read-only, permissions, odd paths, links: here,
    faults/test_refusing_disk.py::test_a_read_only_ledger_can_be_read_and_verified_but_not_written
29  a newer format: here, ledger/test_segment.py::test_a_newer_format_is_refused_and_not_called_damaged
30  all that is derived is deleted: here
"""  # noqa: E501

import contextlib
import os
import random
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import msgspec
import pytest

from commands.main import run as ledger_command
from ledger import canonical, layout, points, segment
from ledger.chain import Log
from ledger.errors import Corrupt, LedgerError, NotAppended, Unsupported, UsageError
from ledger.reading import Ledger
from ledger.verify import verify
from ledger.writer import Draft, uuid7
from projections.engine import tables


@pytest.fixture(autouse=True)
def _quick(without_sync):
    """Durability is tested elsewhere."""


def reasons(log):
    return [event.data.reason for event in Log(log.root).events(types=("event.retracted",))]


def flip(path, at):
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


@pytest.fixture
def busy(fresh, remark):
    """A ledger with single events, a large commit, points and a blob."""
    for number in range(5):
        fresh.writer.append([remark(f"number {number}")])
    fresh.writer.append([remark(f"of many {number}") for number in range(80)])
    chunk = points.write_chunk(fresh.root, "r", "api", "w", 0, [(step, "loss", step / 8, step) for step in range(90)])
    fresh.writer.append([Draft("run/r", chunk)])
    fresh.blobs.put(b"a payload")
    fresh.close()
    return fresh


def test_every_row_of_the_table_names_tests_that_exist():
    rows = {int(row) for row in re.findall(r"^ ?(\d+)  ", __doc__, re.MULTILINE)}
    assert rows == {1, *range(4, 16), *range(20, 31)}
    folder = Path(__file__).parents[1]
    named = re.findall(r"(\w+/\w+\.py)::(\w+)", __doc__)
    assert [f"{path}::{name}" for path, name in named if f"def {name}(" not in (folder / path).read_text()] == []


# ── 8: the process has no more of something, or is interrupted ──


def test_without_a_free_file_descriptor_nothing_is_appended_and_later_it_goes_on(fresh, remark):
    fresh.writer.append([remark("before")])
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    held = []
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(256, soft), hard))
    try:
        with contextlib.suppress(OSError):  # EMFILE
            while True:
                held.append(os.open("/dev/null", os.O_RDONLY))
        with pytest.raises(NotAppended, match="too many open files"):
            fresh.writer.append([remark("refused")])
    finally:
        for file in held:
            os.close(file)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    fresh.writer.append([remark("after")])
    assert reasons(fresh) == ["before", "after"]
    assert verify(fresh.root).problems == ()


def test_without_memory_nothing_is_appended_and_later_it_goes_on(fresh, remark, monkeypatch):
    fresh.writer.append([remark("before")])
    with monkeypatch.context() as patch:

        def no_memory(*_):
            raise MemoryError

        patch.setattr(segment, "encode", no_memory)
        with pytest.raises(MemoryError):
            fresh.writer.append([remark("lost")])
    fresh.writer.append([remark("after")])
    assert reasons(fresh) == ["before", "after"]
    assert verify(fresh.root).problems == ()


APPENDING = """
import sys
from ledger.chain import Log
from ledger.events import EventRetracted
from ledger.writer import Draft, uuid7
writer = Log(sys.argv[1]).writer
number = 0
try:
    while True:
        made = writer.append([Draft("event/remarks", EventRetracted(target="0" * 36, reason=str(number)))])
        print(number, flush=True)
        number += 1
except KeyboardInterrupt:
    made = writer.append([Draft("event/remarks", EventRetracted(target="0" * 36, reason="the last"))])
    print("the last", flush=True)
"""


@pytest.mark.parametrize("seed", range(4))
def test_ctrl_c_at_a_real_moment_loses_nothing_acknowledged_and_the_writer_goes_on(fresh, seed):
    process = subprocess.Popen([sys.executable, "-c", APPENDING, fresh.root], stdout=subprocess.PIPE, text=True)
    process.stdout.readline()
    time.sleep(random.Random(seed).uniform(0.01, 0.1))
    process.send_signal(signal.SIGINT)
    told = ["0", *process.communicate(timeout=60)[0].split("\n")]
    found = reasons(fresh)
    acknowledged = [line for line in told if line and line != "the last"]
    assert found[-1] == "the last"
    assert len(set(found)) == len(found)
    assert set(acknowledged) <= set(found)
    assert len(found) - len(acknowledged) <= 2  # one may have been published just before it could be told
    assert verify(fresh.root).problems == ()


# ── 9, 11: damage, and people who only ask ──


@pytest.mark.parametrize("make", ["truncated", "zeros", "noise"])
def test_a_damaged_last_segment_is_loud_for_everybody(busy, files_of, remark, make, capsys):
    last = files_of(busy)[-1]
    data = last.read_bytes()
    last.write_bytes({"truncated": data[:100], "zeros": bytes(len(data)), "noise": os.urandom(len(data))}[make])
    with pytest.raises(Corrupt):
        Log(busy.root).head()
    with pytest.raises(Corrupt):
        Log(busy.root).writer.append([remark("on sand")])
    assert ledger_command(["--ledger", busy.root, "sql", "SELECT count(*) FROM events"]) == 3
    assert ledger_command(["--ledger", busy.root, "verify"]) == 3
    assert ledger_command(["--ledger", busy.root, "repair"]) == 0
    assert ledger_command(["--ledger", busy.root, "repair", "--apply"]) == 0
    assert ledger_command(["--ledger", busy.root, "verify"]) == 0
    capsys.readouterr()
    assert ledger_command(["--ledger", busy.root, "log", "--type", "ledger.recovered", "--json"]) == 0
    assert last.name in capsys.readouterr().out


def test_damage_in_the_middle_is_told_with_its_position_and_code_3(busy, files_of, capsys):
    flip(files_of(busy)[2], 800)
    before = {path: path.read_bytes() for path in Path(busy.root).rglob("*") if path.is_file()}
    assert ledger_command(["--ledger", busy.root, "repair", "--apply"]) == 3
    said = capsys.readouterr()
    assert "position 2: log/00000000/0000000000000002.parquet" in said.err
    assert "nothing was touched" in said.err
    assert {path: path.read_bytes() for path in Path(busy.root).rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("what", ["log", "chunk"])
def test_a_query_answers_from_whole_files_or_names_the_damaged_one(busy, what, capsys):
    """Every byte that a query needs for the first time is checked when the tables are made of it."""
    files = sorted(path for path in Path(busy.root, what).rglob("*.parquet"))
    chance = random.Random(7)
    for path in files:
        whole = path.read_bytes()
        flip(path, chance.randrange(8, len(whole) - 8))
        shutil.rmtree(Path(busy.root, "proj"), ignore_errors=True)
        code = ledger_command(["--ledger", busy.root, "sql", "SELECT count(*), sum(value) FROM metrics"])
        assert code == 3
        assert path.name in capsys.readouterr().err
        path.write_bytes(whole)
    assert ledger_command(["--ledger", busy.root, "sql", "SELECT count(*) FROM metrics"]) == 0


def test_a_new_damaged_file_is_named_although_the_tables_before_it_are_cached(busy, remark, capsys):
    assert ledger_command(["--ledger", busy.root, "sql", "SELECT count(*) FROM events"]) == 0
    busy.writer.append([remark("new " + "x" * 900)])
    new = Path(layout.segment_path(busy.root, busy.last_base))
    flip(new, 600)
    assert ledger_command(["--ledger", busy.root, "sql", "SELECT count(*) FROM events"]) == 3
    assert new.name in capsys.readouterr().err


def test_damaged_cached_tables_never_answer_and_are_made_again(busy, capsys):
    query = "SELECT position, body FROM events ORDER BY position"
    assert ledger_command(["--ledger", busy.root, "--json", "sql", query]) == 0
    expected = capsys.readouterr().out
    chance = random.Random(3)
    (cache,) = Path(busy.root, "proj").glob("*.duckdb")
    for _ in range(12):
        data = bytearray(cache.read_bytes())
        data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
        cache.write_bytes(data)
        assert ledger_command(["--ledger", busy.root, "--json", "sql", query]) == 0
        assert capsys.readouterr().out == expected


def test_python_s_sql_makes_damaged_tables_again_too(busy):
    opened = Ledger(busy.root)
    query = "SELECT sum(position) AS s, count(DISTINCT body) AS n FROM events"
    expected = opened.sql(query).rows()
    (cache,) = Path(busy.root, "proj").glob("*.duckdb")
    data = bytearray(cache.read_bytes())
    for at in range(20_000, len(data), 4096):
        data[at] ^= 1
    cache.write_bytes(data)
    assert opened.sql(query).rows() == expected


def test_changed_cached_tables_are_found_by_verify_at_level_derived(busy, capsys):
    import duckdb

    assert ledger_command(["--ledger", busy.root, "sql", "SELECT count(*) FROM metrics"]) == 0
    assert ledger_command(["--ledger", busy.root, "verify", "--level", "derived"]) == 0
    (cache,) = Path(busy.root, "proj").glob("*.duckdb")
    with duckdb.connect(str(cache)) as connection:
        connection.execute("UPDATE staged.point SET value = 0.5 WHERE step = 3")
    assert ledger_command(["--ledger", busy.root, "verify"]) == 0
    capsys.readouterr()
    assert ledger_command(["--ledger", busy.root, "verify", "--level", "derived"]) == 3
    assert "metrics" in capsys.readouterr().err


# ── 20: clocks ──


def test_clocks_that_jump_and_disagree_change_neither_order_nor_digests(tmp_path, remark, monkeypatch):
    """Two writers on machines a day apart, a leap second, an hour that comes twice."""
    moments = [1_700_000_000_000_000 + jump * 1_000_000 for jump in (0, 86400, -86400, 0, 3600, 0, 1, -1)]
    log = Log.create(tmp_path / "ledger")
    writers = [Log(log.root).writer, Log(log.root).writer]
    for number, moment in enumerate(moments):
        monkeypatch.setattr(layout, "now_us", lambda moment=moment: moment)
        writers[number % 2].append([remark(str(number))])
    monkeypatch.undo()
    assert reasons(log) == [str(number) for number in range(8)]
    assert verify(log.root).problems == ()
    assert [event.recorded_at < "2023-11-14" for event in log.events()][2]
    first = tables(log).digests()
    shutil.rmtree(Path(log.root, "proj"))
    for size in range(1, 9):
        tables(log, size).close()
    assert tables(log).digests() == first
    assert [log.position("2023-11-14T00:00:00"), log.position("2023-11-16T00:00:00")] == [0, 8]


# ── 21: the same event again ──


AGAIN = """
import sys
from ledger.chain import Log
from ledger.events import EventRetracted
from ledger.writer import Draft, uuid7
draft = Draft("event/remarks", EventRetracted(target="0" * 36, reason="once"), event_id=sys.argv[2])
print(Log(sys.argv[1]).writer.append([draft], again=True).position)
"""


def test_an_event_that_is_sent_again_by_other_processes_is_in_the_log_once(fresh, remark):
    wanted = str(uuid7(layout.now_us()))
    fresh.writer.append([remark("before")])
    there = fresh.writer.append([remark("once", event_id=wanted)]).position
    fresh.writer.append([remark("after")])
    everyone = [
        subprocess.Popen([sys.executable, "-c", AGAIN, fresh.root, wanted], stdout=subprocess.PIPE, text=True)
        for _ in range(3)
    ]
    assert {int(one.communicate(timeout=60)[0]) for one in everyone} == {there}
    assert reasons(fresh) == ["before", "once", "after"]


def test_an_event_that_never_arrived_is_appended_once_by_all_who_send_it_again(fresh):
    wanted = str(uuid7(layout.now_us()))
    everyone = [
        subprocess.Popen([sys.executable, "-c", AGAIN, fresh.root, wanted], stdout=subprocess.PIPE, text=True)
        for _ in range(4)
    ]
    assert {int(one.communicate(timeout=60)[0]) for one in everyone} == {0}
    assert reasons(fresh) == ["once"]
    assert verify(fresh.root).problems == ()


# ── 25, 30: the same tables, whatever the place and the moment ──

DIGESTS = """
import json, os, random, sys
listdir, scandir = os.listdir, os.scandir
def shuffled(*where):
    found = listdir(*where)
    random.shuffle(found)
    return found
os.listdir = shuffled
from ledger.chain import Log
from projections.engine import tables
log = Log(sys.argv[1])
print(json.dumps(tables(log, threads=int(sys.argv[2]), fresh=True).digests()))
"""


def test_digests_are_equal_in_every_zone_language_order_of_files_and_number_of_threads(busy):
    found = set()
    for zone, language, threads in [
        ("UTC", "C", 1),
        ("Asia/Kathmandu", "tr_TR.UTF-8", 8),
        ("America/New_York", "C", 2),
    ]:
        done = subprocess.run(
            [sys.executable, "-c", DIGESTS, busy.root, str(threads)],
            env={**os.environ, "TZ": zone, "LANG": language, "LC_ALL": language, "PYTHONHASHSEED": str(threads)},
            capture_output=True,
            text=True,
            check=True,
        )
        found.add(done.stdout)
    assert len(found) == 1


def test_digests_are_equal_from_packs_and_from_loose_segments(busy):
    from ledger import compaction

    loose = tables(busy).digests()
    head = busy.head()
    compaction.compact(busy, grace=0)
    compaction.compact(busy, grace=0)
    assert list(Path(busy.root, "pack").iterdir())
    shutil.rmtree(Path(busy.root, "proj"))
    assert tables(Log(busy.root), head.position).digests() == loose


def test_all_that_is_derived_may_be_deleted_and_comes_back_equal(busy):
    from ledger import checkpoints, tiles

    tiles.write(busy, checkpoints.sign(busy))
    expected = tables(busy).digests()
    tile = {path: path.read_bytes() for path in Path(busy.root, "tlog").rglob("*") if path.is_file()}
    for name in ("proj", "typed", "tlog", "views.sql", "state", "tmp", "spool", "quarantine"):
        path = Path(busy.root, name)
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    again = Log(busy.root)
    assert verify(again.root).problems == ()
    assert ledger_command(["--ledger", again.root, "rebuild"]) == 0
    assert tables(again).digests() == expected
    tiles.write(again, checkpoints.newest(again.root))
    assert {path: path.read_bytes() for path in Path(busy.root, "tlog").rglob("*") if path.is_file()} == tile


# ── 26: values ──


@pytest.mark.parametrize("number", [2**63, -(2**63) - 1, 10**30])
def test_an_integer_beyond_64_bits_is_refused_at_write(fresh, examples, number):
    outcome = next(one for one in examples if one.TYPE == "run.finished")
    with pytest.raises(UsageError, match="64 bits"):
        fresh.writer.append([Draft("run/r", msgspec.structs.replace(outcome, steps=number))])
    fresh.writer.append([Draft("run/r", msgspec.structs.replace(outcome, steps=2**63 - 1))])
    (row,) = tables(fresh).rows("SELECT steps FROM facts.run_finished")
    assert row["steps"] == 2**63 - 1


@pytest.mark.parametrize("text", ["\ud800", "a\udfffb"])
def test_half_a_surrogate_pair_is_refused_at_write(fresh, remark, text):
    with pytest.raises(UsageError, match="Unicode"):
        fresh.writer.append([remark(text)])
    assert fresh.head().position == 0


def test_a_body_of_64_kib_is_refused_with_what_to_do(fresh, remark):
    with pytest.raises(UsageError, match="store the payload as an artifact"):
        fresh.writer.append([remark("x" * (64 << 10))])
    assert fresh.head().position == 0


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_no_number_stands_in_tables_as_it_was(fresh, examples, value):
    outcome = next(one for one in examples if one.TYPE == "run.finished")
    made = msgspec.structs.replace(outcome, value=canonical.tag(value))
    fresh.writer.append([Draft("run/r", made)])
    (row,) = tables(fresh).rows("SELECT value FROM facts.run_finished")
    assert repr(row["value"]) == repr(value)


@pytest.mark.parametrize("kind", ["run.exploded", "event.retracted"])
def test_an_event_from_the_future_is_kept_proved_and_never_skipped(fresh, remark, forge, files_of, kind):
    """An unknown type, and a version that is not known yet."""
    fresh.writer.append([remark("from the future")])

    def later(row):
        body = {**canonical.decode(row.body), "type": kind, "type_version": 9, "data": {"new": True}}
        return row._replace(type=kind, type_version=9, body=canonical.encode(body))

    forge(fresh, files_of(fresh)[0], later)
    log = Log(fresh.root)
    report = verify(log.root)
    assert report.problems == ()
    assert "update" in report.warnings[0]
    with pytest.raises(Unsupported, match="update"):
        tables(log)
    with pytest.raises(Unsupported):
        _ = next(log.events()).data
    log.writer.append([remark("goes on")])
    assert verify(log.root).problems == ()


def test_a_key_that_stands_twice_in_a_body_is_damage(fresh, remark, forge, files_of):
    fresh.writer.append([remark("honest")])
    forge(fresh, files_of(fresh)[0], lambda row: row._replace(body=row.body[:-1] + b',"actor":"another"}'))
    (problem,) = verify(fresh.root).problems
    assert (problem.position, "not what its body says" in problem.what) == (0, True)


# ── 28: places ──


@pytest.mark.parametrize(
    "name", ["a'b", 'quo"te', "star*[x]", "semi;colon", "per%20cent", "dollar$HOME", "späce ünï", "-dash", "{brace}"]
)
def test_a_path_with_odd_characters_is_a_path_like_any_other(tmp_path, remark, name, capsys):
    root = tmp_path / name / "ledger"
    log = Log.create(root)
    log.writer.append([remark("here")])
    log.close()
    assert ledger_command(["--ledger", str(root), "--json", "sql", "SELECT count(*) AS n FROM events"]) == 0
    assert capsys.readouterr().out == '{"n": 1}\n'
    assert ledger_command(["--ledger", str(root), "rebuild"]) == 0
    assert ledger_command(["--ledger", str(root), "verify", "--level", "derived"]) == 0
    assert ledger_command(["--ledger", str(root), "repair"]) == 0
    assert os.listdir(tmp_path) == [name]


def test_a_path_that_duckdb_cannot_open_is_one_clear_line_and_the_log_works(tmp_path, remark, capsys):
    log = Log.create(tmp_path / "what?" / "ledger")
    log.writer.append([remark("here")])
    log.close()
    assert ledger_command(["--ledger", log.root, "verify"]) == 0
    assert ledger_command(["--ledger", log.root, "sql", "SELECT 1"]) == 2
    assert "question mark" in capsys.readouterr().err


def test_a_warehouse_behind_a_symbolic_link_is_the_same_warehouse(tmp_path, busy, remark):
    link = tmp_path / "link"
    link.symlink_to(busy.root)
    opened = Log(link)
    assert opened.head() == busy.head()
    opened.writer.append([remark("through the link")])
    opened.close()
    assert reasons(busy)[-1] == "through the link"
    assert verify(str(link)).problems == ()
    assert tables(opened).digests() == tables(Log(busy.root)).digests()


def test_a_folder_without_permission_is_one_clear_line(tmp_path, remark, script):
    """As root nothing is refused, so a process of another user asks."""
    if os.geteuid() != 0:
        pytest.skip("another user can only be taken on by root")
    log = Log.create(tmp_path / "ledger")
    log.writer.append([remark("mine")])
    for folder in (*tmp_path.parents, tmp_path):
        if folder != Path("/") and str(folder).startswith("/tmp/"):
            folder.chmod(folder.stat().st_mode | 0o055)
    Path(log.root, "log").chmod(0o700)
    code = f"""
import os
from commands.main import run
run(["--ledger", {log.root!r}, "status"])  # what it imports may lie where the other user may not look
os.setgid(65534); os.setuid(65534)
raise SystemExit(run(["--ledger", {log.root!r}, "status"]))
"""
    done = script(code, cwd=Path(__file__).parents[2])
    assert done.returncode != 0
    assert "Traceback" not in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert "ermission" in done.stderr


# ── 29: the future ──


def test_a_ledger_of_format_2_is_refused_and_left_as_it_is(busy, capsys):
    path = Path(busy.root, "LEDGER.json")
    path.write_text(path.read_text().replace('"format":1', '"format":2').replace('"id":"', '"id":"0', 1))
    before = {path: path.read_bytes() for path in Path(busy.root).rglob("*") if path.is_file()}
    for verb in (["status"], ["verify"], ["repair", "--apply"], ["sql", "SELECT 1"], ["rebuild"]):
        assert ledger_command(["--ledger", busy.root, *verb]) == 2
        assert "update experiment-ledger" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in Path(busy.root).rglob("*") if path.is_file()} == before


def test_a_segment_of_format_2_at_the_end_is_refused_and_not_taken_for_the_end(busy, remark, monkeypatch, capsys):
    with monkeypatch.context() as patch:
        patch.setattr(segment, "FORMAT", 2)
        made, _ = segment.encode(
            [segment.Row(b"e" * 16, "x", 1, "a/b", b"w" * 16, 0, 0, None, None, None, b"{}")],
            busy.identity.id,
            busy.size,
            busy.root_hex(),
        )
    path = Path(layout.segment_path(busy.root, busy.size))
    path.write_bytes(made)
    with pytest.raises(Unsupported, match="format 2"):
        Log(busy.root).head()
    with pytest.raises(LedgerError):
        Log(busy.root).writer.append([remark("over it")])
    for verb in (["verify"], ["repair", "--apply"]):
        assert ledger_command(["--ledger", busy.root, *verb]) == 2
        assert "format 2" in capsys.readouterr().err
    assert path.read_bytes() == made


def test_a_footer_with_keys_of_the_future_is_read(fresh, remark, files_of):
    """A later program may say more of its segments; what it says within format 1 changes nothing."""
    fresh.writer.append([remark("hello")])
    import pyarrow as pa
    import pyarrow.parquet as pq

    said, batch = segment.decode(files_of(fresh)[0].read_bytes(), "x")
    keys = {
        f"ledger.{key}": str(value)
        for key, value in said._asdict().items()
        if key not in ("ledger_id", "leaves", "seal")
    }
    out = pa.BufferOutputStream()
    with pq.ParquetWriter(out, segment.schema(), store_schema=False) as sink:
        sink.write_batch(batch)
        more = {"ledger.colour": "blue", "ledger.format": "1", "ledger.id": said.ledger_id}
        sink.add_key_value_metadata({**more, **keys, "ledger.seal": segment.BLANK.decode()})
    files_of(fresh)[0].write_bytes(segment.seal(bytearray(out.getvalue())))
    again = Log(fresh.root)
    again.writer.append([remark("after")])
    assert reasons(again) == ["hello", "after"]
    assert verify(again.root).problems == ()

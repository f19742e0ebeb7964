"""init, log, finish: they record what they can, and never kill or stall the training."""

import math
import multiprocessing
import os
import sys
import threading
import time
from decimal import Decimal
from pathlib import Path

import numpy as np
import pytest

import ledger
from ledger import disk, events, points, spool, tracking
from ledger.chain import Log
from ledger.errors import NotALedger, NotAppended, SecretRefused, Unknown, UsageError
from ledger.verify import verify
from ledger.writer import Writer


@pytest.fixture(autouse=True)
def _a_run_of_ones_own(monkeypatch):
    monkeypatch.setattr(tracking, "_current", None)
    monkeypatch.setattr(tracking, "_told", False)


@pytest.fixture
def run(fresh):
    run = ledger.init(path=fresh.root, metric="val_bpb", seed=7, config={"lr": 0.02, "name": "x"})
    yield run
    run.finish()


def all_points(root):
    """Every recorded point as (name, step, value), in order."""
    found = []
    for event in Log(root).events(types={"metrics.logged"}):
        batch = points.read_chunk(root, event.data)
        found += zip(batch["name"].to_pylist(), batch["step"].to_pylist(), batch["value"].to_pylist(), strict=True)
    return found


def outcome(root):
    (event,) = Log(root).events(types={"run.finished"})
    return event.data


def test_a_run_is_its_start_its_points_and_its_outcome(run, fresh):
    run.log({"loss": 2.5}, step=0)
    run.log({"loss": 2.0, "val_bpb": 1.25}, step=1)
    run.finish()
    kinds = [event.type for event in fresh.events()]
    assert kinds == ["run.started", "metrics.logged", "run.finished"]
    assert all_points(fresh.root) == [("loss", 0, 2.5), ("loss", 1, 2.0), ("val_bpb", 1, 1.25)]
    ended = outcome(fresh.root)
    assert (ended.status, ended.metric, ended.value, ended.steps) == ("ok", "val_bpb", 1.25, 2)
    assert ended.finals == (events.FinalMetric("loss", 2.0, 1), events.FinalMetric("val_bpb", 1.25, 1))
    assert verify(fresh.root).problems == ()


def test_what_was_known_before_the_run_is_in_its_start(run, fresh):
    started = next(fresh.events()).data
    assert (started.run, started.seed, started.arm) == (run.id, 7, "baseline")
    assert started.config == (events.NameValue("lr", "0.02"), events.NameValue("name", "x"))


def test_equal_settings_are_the_same_cell_and_others_are_not(fresh):
    def cell(**more):
        ledger.init(path=fresh.root, **more).finish()
        return list(fresh.events(types={"run.started"}))[-1].data.cell

    first = cell(config={"a": {"x", "y"}}, seed=1)
    assert first == cell(config={"a": {"y", "x"}}, seed=1)
    assert len({first, cell(config={"a": {"x"}}, seed=1), cell(config={"a": {"x", "y"}}, seed=2)}) == 3


def test_a_step_that_is_not_given_is_the_last_plus_one(run, fresh):
    run.log({"a": 1})
    run.log({"a": 2}, step=10)
    run.log({"a": 3})
    run.flush()
    assert [step for _, step, _ in all_points(fresh.root)] == [0, 10, 11]


def test_nested_maps_become_dotted_names(run, fresh):
    run.log({"train": {"loss": 1.0, "acc": {"top1": 0.5}}})
    run.flush()
    assert [name for name, _, _ in all_points(fresh.root)] == ["train.loss", "train.acc.top1"]


def test_final_metrics_can_be_given_at_the_end(run, fresh):
    run.finish(val_bpb=1.5)
    assert outcome(fresh.root).value == 1.5


def test_a_run_that_never_logged_its_metric_says_so(run, fresh):
    run.finish()
    assert (outcome(fresh.root).status, outcome(fresh.root).value) == ("no_metric", None)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_metric_that_ends_as_no_number_means_that_the_run_diverged(run, fresh, value):
    run.finish(val_bpb=value)
    assert outcome(fresh.root).status == "diverged"


def test_finishing_twice_records_one_outcome(run, fresh):
    run.finish(val_bpb=1)
    run.finish("crash", val_bpb=2)
    ledger.finish()
    assert outcome(fresh.root).value == 1


def test_a_status_that_does_not_exist_is_recorded_as_a_crash(run, fresh):
    run.finish("failed", reason=None)
    assert (outcome(fresh.root).status, outcome(fresh.root).reason) == ("crash", "finished with status 'failed' None")


def test_logging_after_the_end_is_counted_and_told(run, capsys):
    run.finish()
    run.log({"a": 1})
    run.log({"a": 1})
    assert run.dropped == 2
    assert capsys.readouterr().err.count("has ended") == 1


class Hostile:
    def __float__(self):
        raise RuntimeError("the device is lost")

    def __str__(self):
        raise RuntimeError("no text either")

    __repr__ = __str__


class HostileError(Exception):
    def __str__(self):
        raise RuntimeError("an error without text")


class RaisesHostile:
    def __float__(self):
        raise HostileError


@pytest.mark.parametrize(
    "value",
    [
        "text",
        "1.5",
        b"1",
        None,
        10**400,
        Hostile(),
        RaisesHostile(),
        [1, 2],
        object(),
        1j,
        np.zeros(3),
        np.str_("1"),
        {1},
    ],
)
def test_what_is_not_a_number_is_dropped_and_everything_beside_it_is_kept(run, fresh, value, capsys):
    run.log({"before": 1, "bad": value, "after": 2})
    run.flush()
    assert [name for name, _, _ in all_points(fresh.root)] == ["before", "after"]
    assert run.dropped == 1
    assert "bad" in capsys.readouterr().err


@pytest.mark.parametrize(
    "value",
    [True, 3, 2**60, np.float32(0.5), np.float64(0.5), np.int64(3), np.bool_(True), np.float16(2), Decimal("0.5")],
)
def test_every_kind_of_number_is_taken(run, fresh, value):
    run.log({"x": value})
    run.flush()
    assert all_points(fresh.root) == [("x", 0, float(value))]


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, -0.0, 5e-324])
def test_floats_are_kept_to_the_bit(run, fresh, value):
    run.log({"x": value})
    run.flush()
    ((_, _, back),) = all_points(fresh.root)
    assert repr(back) == repr(value)


@pytest.mark.parametrize("values", [None, 5, "text", [("a", 1)], Hostile(), Hostile])
def test_what_is_not_a_map_is_dropped(run, values):
    run.log(values)
    assert run.dropped == 1


@pytest.mark.parametrize("step", [2**63, -(2**63) - 1, math.nan, math.inf, "x", object(), Hostile()])
def test_a_step_that_is_no_step_drops_its_points_and_no_others(run, fresh, step):
    run.log({"a": 1}, step=3)
    run.log({"a": 2}, step=step)
    run.log({"a": 3})
    run.flush()
    assert [(step, value) for _, step, value in all_points(fresh.root)] == [(3, 1.0), (4, 3.0)]


@pytest.mark.parametrize("name", ["\ud800", "a\x00b", "new\nline", "x" * 401, Hostile()])
def test_a_name_that_cannot_be_kept_loses_no_other_point(run, fresh, name):
    run.log({"good": 1})
    run.log({name: 1})
    run.flush()
    assert [name for name, _, _ in all_points(fresh.root)] == ["good"]
    assert run.dropped == 1


def test_a_map_that_holds_itself_is_dropped(run):
    loop = {"a": 1}
    loop["self"] = loop
    run.log(loop)
    assert run.dropped >= 1


def test_a_warning_is_said_once_and_not_for_ever(run, capsys):
    for number in range(200):
        run.log({"x": "text", f"y{number}": "text"})
    assert run.dropped == 400
    told = capsys.readouterr().err
    assert told.count("ledger: x:") == 1
    assert told.count("\n") <= tracking.WARNINGS


def test_a_closed_stderr_is_no_reason_to_raise(run, monkeypatch):
    for broken in (None, open(os.devnull)):  # noqa: SIM115
        monkeypatch.setattr(sys, "stderr", broken)
        if broken:
            broken.close()
        run.log({"x": "text"})
        run.log({f"y{broken}": "text"})
        monkeypatch.setattr(tracking, "_told", False)
        ledger.finish()
        ledger.log({"x": 1})
    monkeypatch.undo()


def test_more_names_than_one_event_holds_become_several_chunks(run, fresh):
    run.log({f"layer.{number}.attention.weight.gradient_norm": number for number in range(3000)})
    run.flush()
    assert len(all_points(fresh.root)) == 3000
    assert len(list(fresh.events(types={"metrics.logged"}))) > 1
    assert run.dropped == 0


def test_the_outcome_fits_into_an_event_whatever_the_names(run, fresh):
    run.log({f"{number:03d}" + "é" * 390: 1 for number in range(300)})
    run.finish(val_bpb=1)
    assert outcome(fresh.root).value == 1
    assert len(all_points(fresh.root)) == 301
    assert "val_bpb" in [final.name for final in outcome(fresh.root).finals]


def test_a_name_that_looks_like_a_secret_loses_its_chunk_and_stops_nothing(run, fresh, capsys):
    run.log({"ghp_" + "a1B2" * 9: 1})
    run.flush()
    run.log({"good": 1})
    run.flush()
    assert all_points(fresh.root) == [("good", 1, 1.0)]
    assert run.dropped >= 1
    assert len(list(Path(fresh.root, "chunk").rglob("*.parquet"))) == 1


def refuse(monkeypatch, name, error):
    def failing(*_):
        raise error

    monkeypatch.setattr(disk, name, failing)


@pytest.mark.parametrize("name", ["write_temporary", "publish", "make_folder"])
def test_a_disk_that_refuses_a_flush_raises_nothing_and_the_points_are_kept(run, fresh, monkeypatch, capsys, name):
    run.log({"a": 1})
    with monkeypatch.context() as patch:
        refuse(patch, name, OSError(28, "No space") if name == "make_folder" else NotAppended("no space"))
        run.flush()
        run.flush()
    assert "ledger: " in capsys.readouterr().err
    run.flush()
    assert all_points(fresh.root) == [("a", 0, 1.0)]
    assert run.dropped == 0


def test_a_chunk_whose_event_was_refused_is_taken_away_again(run, fresh, monkeypatch):
    run.log({"a": 1})
    with monkeypatch.context() as patch:
        patch.setattr(Writer, "append", lambda *_, **__: (_ for _ in ()).throw(NotAppended("no space")))
        for _ in range(3):
            run.flush()
    assert list(Path(fresh.root, "chunk").rglob("*.parquet")) == []
    run.finish(val_bpb=1)
    assert len(all_points(fresh.root)) == 2


@pytest.mark.parametrize("published", [True, False])
def test_after_an_unconfirmed_append_the_points_are_recorded_once_and_the_run_goes_on(
    run, fresh, monkeypatch, published
):
    run.log({"a": 1})
    real, left = Writer.append, [1]

    def append(self, drafts, *rest, **more):
        if left:
            left.clear()
            if published:
                real(self, drafts, *rest, **more)
            raise Unknown("the commit was published but may not survive")
        return real(self, drafts, *rest, **more)

    with monkeypatch.context() as patch:
        patch.setattr(Writer, "append", append)
        run.flush()
    run.log({"a": 2})
    run.finish(val_bpb=1)
    assert not left
    assert [value for name, _, value in all_points(fresh.root) if name == "a"] == [1.0, 2.0]
    assert outcome(fresh.root).status == "ok"
    assert verify(fresh.root).problems == ()


def test_points_the_disk_never_took_stay_in_the_spool_for_the_next_opener(run, fresh, monkeypatch, capsys):
    run.log({"a": 1, "b": 2})
    with monkeypatch.context() as patch:
        refuse(patch, "write_temporary", NotAppended("no space"))
        run.finish()
    assert run.dropped == 0
    assert "2 points are still in spool/" in capsys.readouterr().err
    assert Log(fresh.root).writer
    assert all_points(fresh.root) == [("a", 0, 1.0), ("b", 0, 2.0)]


def refuse_spools(monkeypatch):
    def failing(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(spool, "create", failing)


def test_where_there_is_no_spool_points_the_disk_never_took_are_counted_at_the_end(run, monkeypatch, capsys):
    refuse_spools(monkeypatch)
    run.log({"a": 1, "b": 2})
    refuse(monkeypatch, "write_temporary", NotAppended("no space"))
    run.finish()
    assert run.dropped == 2
    told = capsys.readouterr().err
    assert "2 points could not be recorded" in told
    assert told.count("if this process is killed") == 1


def test_where_there_is_no_spool_points_are_recorded_all_the_same(run, fresh, monkeypatch, capsys):
    Path(fresh.root, "spool").write_text("in the way")
    for step in range(3):
        run.log({"a": step})
    run.finish(val_bpb=1)
    assert [value for name, _, value in all_points(fresh.root) if name == "a"] == [0.0, 1.0, 2.0]
    assert (run.dropped, outcome(fresh.root).status) == (0, "ok")
    assert capsys.readouterr().err.count("if this process is killed") == 1


def test_a_buffer_that_the_disk_never_empties_stops_growing(fresh, monkeypatch):
    monkeypatch.setattr(tracking, "KEEP_POINTS", 100)
    monkeypatch.setattr(tracking, "FLUSH_POINTS", 10)
    monkeypatch.setattr(tracking, "STALL_SECONDS", 0.01)
    run = ledger.init(path=fresh.root)
    with monkeypatch.context() as patch:
        refuse(patch, "write_temporary", NotAppended("no space"))
        for _ in range(300):
            run.log({"a": 1})
        assert run.dropped == 200
    run.finish()
    assert len(all_points(fresh.root)) == 100


def test_a_full_buffer_on_a_refusing_disk_busies_nobody(fresh, monkeypatch):
    tried = []
    monkeypatch.setattr(tracking, "FLUSH_POINTS", 10)
    run = ledger.init(path=fresh.root)
    with monkeypatch.context() as patch:
        refused = lambda *_: tried.append(1) or (_ for _ in ()).throw(NotAppended("full"))  # noqa: E731
        patch.setattr(points, "publish", refused)
        before = time.monotonic()
        for _ in range(50):
            run.log({"a": 1})
            time.sleep(0.002)
        assert len(tried) <= 2
        assert time.monotonic() - before < 2
    run.finish()


def test_a_disk_that_is_only_slow_loses_nothing(fresh, monkeypatch):
    monkeypatch.setattr(tracking, "FLUSH_POINTS", 10)
    monkeypatch.setattr(tracking, "KEEP_POINTS", 50)
    real = points.publish
    monkeypatch.setattr(points, "publish", lambda *a, **k: time.sleep(0.02) or real(*a, **k))
    run = ledger.init(path=fresh.root)
    for step in range(200):
        run.log({"a": step})
    run.finish(val_bpb=1)
    assert run.dropped == 0
    assert [value for name, _, value in all_points(fresh.root) if name == "a"] == list(range(200))


def test_a_call_with_sync_is_in_the_log_when_it_returns(run, fresh):
    for step in range(3):
        run.log({"a": step}, sync=step != 1)
        assert len(all_points(fresh.root)) == (step + 1 if step != 1 else 1)


def test_what_is_logged_while_logging_is_kept_and_nothing_hangs(run, fresh):
    class Telling:
        def __float__(self):
            run.log({"inner": 1.0}, step=7)
            return 2.0

    run.log({"outer": 0.0, "inner": 0.0}, step=0)
    run.log({"inner": 0.5}, step=1)
    run.log({"outer": Telling(), "inner": 3.0}, step=2)
    run.flush()
    assert {("inner", 7, 1.0), ("outer", 2, 2.0), ("inner", 2, 3.0)} <= set(all_points(fresh.root))


def test_a_run_that_is_finished_by_a_signal_handler_in_the_middle_of_a_call_keeps_the_rest(script, fresh):
    text = HEAD + (
        "import signal, time\n"
        "signal.signal(signal.SIGALRM, lambda *_: (run.finish('interrupted'), os._exit(0)))\n"
        "signal.setitimer(signal.ITIMER_REAL, 0.3)\n"
        "for i in range(10**9): run.log({'a': i}, step=i)"
    )
    done = script(text, LEDGER_HOME=fresh.root)
    assert done.returncode == 0, done.stderr
    assert outcome(fresh.root).status == "interrupted"
    assert Log(fresh.root).writer
    steps = [step for _, step, _ in all_points(fresh.root)][1:]
    assert steps == list(range(len(steps)))
    assert len(steps) > 1000


def test_points_are_written_out_while_the_training_goes_on(fresh, monkeypatch):
    monkeypatch.setattr(tracking, "FLUSH_SECONDS", 0.05)
    run = ledger.init(path=fresh.root)
    run.log({"a": 1})
    until = time.monotonic() + 20
    while not list(fresh.events(types={"metrics.logged"})) and time.monotonic() < until:
        time.sleep(0.02)
    assert all_points(fresh.root) == [("a", 0, 1.0)]
    run.finish()


def test_a_full_buffer_is_written_out_at_once(fresh, monkeypatch):
    monkeypatch.setattr(tracking, "FLUSH_POINTS", 100)
    run = ledger.init(path=fresh.root)
    for _ in range(100):
        run.log({"a": 1})
    until = time.monotonic() + 4  # FLUSH_SECONDS is 5
    while not list(fresh.events(types={"metrics.logged"})) and time.monotonic() < until:
        time.sleep(0.02)
    assert len(all_points(fresh.root)) == 100
    run.finish()


def test_threads_may_log_together(run, fresh):
    threads = [
        threading.Thread(target=lambda name=name: [run.log({name: n}, step=n) for n in range(200)]) for name in "abcd"
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    run.flush()
    assert len(all_points(fresh.root)) == 800


def test_a_forked_child_neither_logs_nor_ends_the_run_of_its_parent(run, fresh):
    run.log({"a": 1})
    held, go_on = threading.Event(), threading.Event()

    def hold():
        with run._lock, run._flushing:  # at the moment of the fork
            held.set()
            go_on.wait(60)

    other = threading.Thread(target=hold)
    other.start()
    held.wait(60)
    try:
        child = multiprocessing.get_context("fork").Process(
            target=lambda: (run.log({"a": 2}), run.flush(), run.finish(), sys.exit(int(run.dropped != 1)))
        )
        child.start()
        child.join(30)
    finally:
        go_on.set()
        other.join()
    assert child.exitcode == 0
    run.finish(val_bpb=1)
    assert [value for name, _, value in all_points(fresh.root) if name == "a"] == [1.0]
    assert outcome(fresh.root).status == "ok"


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (None, "ok"),
        (ValueError("loss is wrong"), "crash"),
        (KeyboardInterrupt(), "interrupted"),
        (MemoryError(), "oom"),
        (SystemExit(0), "ok"),
        (SystemExit(), "ok"),
        (SystemExit(3), "crash"),
        (HostileError(), "crash"),
    ],
)
def test_a_block_ends_as_its_exception_says(fresh, error, status):
    def train():
        with ledger.init(path=fresh.root, metric=None):
            if error is not None:
                raise error

    if error is None:
        train()
    else:
        with pytest.raises(type(error)):
            train()
    assert outcome(fresh.root).status == status
    assert type(error).__name__ in outcome(fresh.root).reason or status in ("ok", "interrupted")


def test_a_token_or_broken_text_in_the_reason_does_not_lose_the_outcome(run, fresh):
    run.finish("crash", reason="no answer from https://ada:hunter22@example.org\n\udcff" + "x" * 60_000)
    ended = outcome(fresh.root)
    assert ended.status == "crash"
    assert "hunter22" not in ended.reason
    assert len(ended.reason) <= 300


def test_probes_and_artifacts_are_events_of_the_run(run, fresh, tmp_path):
    (tmp_path / "model.bin").write_bytes(b"weights")
    run.probe("rank", {"rank": 3, "nan": math.nan}, subject="layer.0")
    digest = run.artifact(tmp_path / "model.bin", kind="model")
    probe, stored = (event.data for event in fresh.events(types={"probe.measured", "artifact.stored"}))
    assert probe.values == (events.Probed("nan", "NaN", ""), events.Probed("rank", 3.0, ""))
    assert (stored.run, stored.name, stored.bytes) == (run.id, "model.bin", 7)
    assert fresh.blobs.get(digest) == b"weights"


def test_a_probe_or_an_artifact_that_cannot_be_kept_raises_nothing(run, tmp_path):
    run.probe("rank", {"rank": "text"})
    run.probe("rank", None)
    assert run.artifact(tmp_path / "nothing") is None
    assert run.artifact(None) is None
    assert run.dropped == 4


def test_a_second_init_ends_the_first_run(fresh):
    first = ledger.init(path=fresh.root, metric=None)
    second = ledger.init(path=fresh.root, metric=None)
    ledger.log({"a": 1})
    ledger.finish()
    assert [e.data.run for e in fresh.events(types={"run.finished"})] == [first.id, second.id]
    assert [e.data.run for e in fresh.events(types={"metrics.logged"})] == [second.id]


def test_log_without_init_says_so_once(capsys):
    ledger.log({"a": 1})
    ledger.log({"a": 1})
    ledger.finish()
    assert capsys.readouterr().err.count("before ledger.init") == 1


def test_init_raises_before_any_training(tmp_path, fresh):
    before = set(threading.enumerate())
    with pytest.raises(NotALedger):
        ledger.init(path=tmp_path / "nothing")
    with pytest.raises(UsageError):
        ledger.init(path=fresh.root, seed="seven")
    with pytest.raises(SecretRefused):
        ledger.init(path=fresh.root, config={"token": "hf_" + "x" * 34})
    assert list(fresh.events()) == []
    assert set(threading.enumerate()) <= before


def test_without_a_path_the_ledger_is_the_warehouse_here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    ledger.init(metric=None).finish()
    assert [event.type for event in Log(tmp_path / "warehouse").events()] == ["run.started", "run.finished"]


def test_under_ledger_run_the_child_adds_points_and_nothing_else(fresh, monkeypatch):
    monkeypatch.setenv("LEDGER_RUN_ID", "abc123")
    monkeypatch.setenv("LEDGER_HOME", fresh.root)
    run = ledger.init(config={"ignored": 1})
    run.log({"val_bpb": 1.0})
    run.finish()
    (event,) = fresh.events()
    assert (event.type, event.stream, event.data.run) == ("metrics.logged", "run/abc123", "abc123")


def test_a_run_id_that_cannot_be_one_is_refused_at_init(fresh, monkeypatch):
    monkeypatch.setenv("LEDGER_RUN_ID", "../x y")
    with pytest.raises(UsageError, match="LEDGER_RUN_ID"):
        ledger.init(path=fresh.root)


HEAD = "import ledger, sys, os\nrun = ledger.init(metric=None)\nrun.log({'a': 1})\n"


@pytest.mark.parametrize(
    ("tail", "status", "reason"),
    [
        ("", "ok", ""),
        ("sys.exit()", "ok", ""),
        ("raise ValueError('bad loss')", "crash", "ValueError: bad loss"),
        ("raise KeyboardInterrupt", "interrupted", "interrupted from the keyboard"),
        ("x = [0] * (1 << 62)", "oom", "MemoryError"),
        ("run.finish('diverged', reason='I saw it')", "diverged", "I saw it"),
    ],
)
def test_a_script_that_just_ends_is_recorded_as_it_ended(script, fresh, tail, status, reason):
    done = script(HEAD + tail, LEDGER_HOME=fresh.root)
    assert (outcome(fresh.root).status, outcome(fresh.root).reason.rstrip(": ")) == (status, reason), done.stderr
    assert all_points(fresh.root) == [("a", 0, 1.0)]


def test_a_joined_script_that_just_ends_leaves_its_points(script, fresh):
    done = script(HEAD, LEDGER_HOME=fresh.root, LEDGER_RUN_ID="abc")
    assert (done.returncode, done.stderr) == (0, "")
    assert all_points(fresh.root) == [("a", 0, 1.0)]


def test_a_script_that_forks_records_one_outcome(script, fresh):
    done = script(HEAD + "pid = os.fork()\nif pid: os.waitpid(pid, 0)\n", LEDGER_HOME=fresh.root)
    assert done.returncode == 0, done.stderr
    assert outcome(fresh.root).status == "ok"
    assert all_points(fresh.root) == [("a", 0, 1.0)]


def test_a_killed_script_leaves_a_started_run_and_a_log_that_verifies(script, fresh):
    script(HEAD + "run.flush()\nos.kill(os.getpid(), 9)", LEDGER_HOME=fresh.root)
    assert [event.type for event in fresh.events()] == ["run.started", "metrics.logged"]
    assert verify(fresh.root).problems == ()


def test_the_exit_code_of_a_script_is_its_own(script, fresh):
    assert script(HEAD + "sys.exit(7)", LEDGER_HOME=fresh.root).returncode == 7


def test_logging_four_metrics_takes_microseconds(run):
    values = {"loss": 1.0, "acc": 0.5, "lr": 1e-3, "norm": 2.0}
    best = math.inf
    for _ in range(20):
        start = time.process_time()
        for step in range(100):
            run.log(values, step)
        best = min(best, (time.process_time() - start) / 100)
    assert best < 50e-6

"""Several cells at once: how many, who gets which slot, and what an interruption leaves."""

from __future__ import annotations

import os
import signal
import threading
import time

import pytest

from ledger.chain import Log
from ledger.errors import LedgerError, UsageError
from runners import turns
from runners.cells import INTERRUPTED, Outcome
from runners.conduct import conduct
from runners.plan import parse
from runners.script import ScriptRunner

PLAN = """\
name = "many"
delta = 0.01
seeds = "0-2"
[script]
command = ["train"]
[[arm]]
name = "control"
[[arm]]
name = "fast"
env = { LR = "2" }
"""


def ok(value: float = 1.25) -> Outcome:
    return Outcome(status="ok", finals={"val_bpb": (value, 9)}, wall_s=0.1)


class Waiting:
    """A runner whose cells last until a function lets them go, and which sees what is under way."""

    name, source = "waiting/1", "stdout"

    def __init__(self, act=None) -> None:
        self.act = act or (lambda cell, on_point, should_stop: ok())
        self.now: set[int] = set()
        self.most = 0
        self.cells: list = []
        self.lock = threading.Lock()

    def surroundings(self):
        from runners.cells import Surroundings

        return Surroundings(
            code="c", python="3", platform="p", hardware_class="h", host="here", boot="b", environment=b"{}"
        )

    def command(self, arm):
        return ("train",)

    def environment(self, arm, seed):
        return {}

    def config(self, arm):
        return {}

    def fork_of(self, arm, seed):
        return None

    def run(self, cell, on_point, should_stop):
        with self.lock:
            assert cell.slot not in self.now
            self.now.add(cell.slot)
            self.most = max(self.most, len(self.now))
            self.cells.append(cell)
        try:
            return self.act(cell, on_point, should_stop)
        finally:
            with self.lock:
                self.now.discard(cell.slot)


@pytest.fixture
def log(tmp_path) -> Log:
    return Log.create(tmp_path / "ledger")


def go(log, runner, jobs, text=PLAN, tell=lambda update: None):
    return conduct(log, parse(text, "plan.toml"), runner, tell, jobs=jobs)


def datas(log, kind):
    return [event.data for event in log.events(types=(kind,))]


def test_so_many_run_at_once_as_there_are_slots_and_never_two_in_one(log):
    runner = Waiting(lambda cell, *_: time.sleep(0.05) or ok())
    done = go(log, runner, 3)
    assert (done.statuses, done.ran, runner.most) == ({"ok": 6}, 6, 3)
    assert {cell.slot for cell in runner.cells} == {0, 1, 2}


def test_each_run_has_its_own_points_and_outcome(log):
    def act(cell, on_point, should_stop):
        for step in range(20):
            on_point(step, "train_loss", cell.seed + step / 100)
            time.sleep(0.001)
        return ok(1 + cell.seed / 10)

    seen = []
    go(log, Waiting(act), 3, tell=lambda update: seen.append(update))
    starts = {data.run: data for data in datas(log, "run.started")}
    for data in datas(log, "run.finished"):
        assert data.value == 1 + starts[data.run].seed / 10
    assert sorted((data.run, data.rows) for data in datas(log, "metrics.logged")) == sorted(
        (run, 20) for run in starts
    )
    assert [update.done for update in seen if update.kind == "end"] == [1, 2, 3, 4, 5, 6]


def test_a_failure_of_one_leaves_the_others_as_they_are(log):
    def act(cell, on_point, should_stop):
        if cell.seed == 1:
            raise RuntimeError("no")
        time.sleep(0.02)
        return ok()

    assert go(log, Waiting(act), 2).statuses == {"ok": 4, "crash": 2}


def test_an_interruption_ends_what_runs_begins_no_more_and_is_run_again(log):
    def act(cell, on_point, should_stop):
        if len(runner.cells) == 2:
            os.kill(os.getpid(), signal.SIGINT)
        while not (reason := should_stop()):
            time.sleep(0.01)
        return Outcome(status="interrupted", reason=reason)

    runner = Waiting(act)
    done = go(log, runner, 2)
    assert (done.interrupted, done.ran) == (True, 2)
    assert [(data.status, data.reason) for data in datas(log, "run.finished")] == [("interrupted", INTERRUPTED)] * 2
    assert go(log, Waiting(), 2).statuses == {"ok": 6}


def test_an_interruption_that_finds_only_runs_that_end_well_is_one_all_the_same(log):
    def act(cell, on_point, should_stop):
        if cell.slot == 1:  # the last to begin
            os.kill(os.getpid(), signal.SIGINT)
        while not should_stop():
            time.sleep(0.01)
        return ok()  # it had just finished

    done = go(log, Waiting(act), 2)
    assert (done.interrupted, done.ran, done.statuses) == (True, 2, {"ok": 2})


def test_a_metric_that_nobody_tells_begins_no_more(log):
    runner = Waiting(lambda *_: Outcome(status="ok", finals={"loss": (1.0, 1)}))
    with pytest.raises(LedgerError, match="without telling"):
        go(log, runner, 2)
    assert len(datas(log, "run.finished")) == len(datas(log, "run.started")) == len(runner.cells) < 6


def test_a_slow_run_that_tells_the_metric_is_waited_for_before_the_others_are_blamed(log):
    def act(cell, on_point, should_stop):
        if cell.slot == 0:
            time.sleep(0.4)
            assert not should_stop()
            return ok()
        return Outcome(status="ok", finals={"loss": (1.0, 1)})

    runner = Waiting(act)
    text = PLAN + '[[arm]]\nname = "third"\nenv = { LR = "3" }\n'
    assert go(log, runner, 3, text).statuses["ok"] >= 1
    assert "interrupted" not in {data.status for data in datas(log, "run.finished")}


def test_runs_begin_on_record_in_the_plans_order(log):
    go(log, Waiting(lambda *_: time.sleep(0.01) or ok()), 3)
    begun = [(data.seed, data.arm) for data in datas(log, "run.started")]
    assert begun == [(seed, arm.name) for arm, seed in parse(PLAN, "p").cells()]


def test_many_signals_at_any_moment_leave_nothing_running_and_nothing_open(log):
    def act(cell, on_point, should_stop):
        while not should_stop():
            time.sleep(0.001)
        hand.join()  # a signal after the session would end this process
        return Outcome(status="interrupted", reason=INTERRUPTED)

    def press():
        for pause in (0.1, 0, 0, 0.001, 0.01):
            time.sleep(pause)
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGTERM)

    hand = threading.Thread(target=press)
    hand.start()
    runner = Waiting(act)
    done = go(log, runner, 3)
    assert done.interrupted
    assert not runner.now
    assert {data.status for data in datas(log, "run.finished")} == {"interrupted"}
    assert len(datas(log, "run.finished")) == len(datas(log, "run.started")) == 3


@pytest.mark.parametrize(
    ("more", "jobs", "gpus", "each", "count"),
    [
        ("", None, (), 1, 1),
        ("", 3, (), 1, 3),
        ("", None, ("0", "1"), 1, 2),
        ("", 4, ("0", "1"), 1, 4),
        ("", None, ("0", "1", "2", "3"), 2, 2),
        ('estimand = "wallclock"\n', None, ("0", "1"), 1, 2),
        ('estimand = "wallclock"\n', 1, (), 1, 1),
    ],
)
def test_how_many_at_once(more, jobs, gpus, each, count):
    assert turns.slots(parse(more + PLAN, "p"), jobs, gpus, each=each) == count


@pytest.mark.parametrize(
    ("more", "jobs", "gpus", "each", "cooldown", "why"),
    [
        ('estimand = "wallclock"\n', 2, (), 1, 0, "end by the clock"),
        ('estimand = "wallclock"\n', 3, ("0", "1"), 1, 0, "end by the clock"),
        ('pair_tier = "fork"\n', 2, (), 1, 0, "checkpoints"),
        ("", 2, (), 1, 5.0, "--cooldown"),
        ("", None, ("0", "0"), 1, 0, "twice"),
        ("", None, ("0", "1", "2"), 2, 0, "multiple of 2"),
    ],
)
def test_what_cannot_run_at_once_is_refused(more, jobs, gpus, each, cooldown, why):
    with pytest.raises(UsageError, match=why):
        turns.slots(parse(more + PLAN, "p"), jobs, gpus, each=each, cooldown=cooldown)


@pytest.mark.parametrize("where", ["os", "script", "arm"])
def test_programs_that_end_by_their_own_clock_are_refused(where, monkeypatch, tmp_path):
    said = 'MAX_WALLCLOCK_SECONDS = "600"'
    text = PLAN.replace('env = { LR = "2" }', f"env = {{ {said} }}") if where == "arm" else PLAN
    text = text.replace("[script]", f"[script]\nenv = {{ {said} }}") if where == "script" else text
    if where == "os":
        monkeypatch.setenv("MAX_WALLCLOCK_SECONDS", "600")
    with pytest.raises(UsageError, match="end by the clock"):
        ScriptRunner(parse(text, "p"), str(tmp_path)).at_once(2, ())


@pytest.mark.parametrize(
    ("settings", "jobs", "gpus", "why"),
    [
        ('preset = "baseline"', 2, (), "end by the clock"),
        ('backend = "mlx"', 2, (), "is for backend 'torch'"),
        ('backend = "mlx"', None, ("0",), "is for backend 'torch'"),
        ("stack_seeds = true", 2, (), "stack_seeds"),
        ('device = "cpu"', None, ("0",), "no CUDA device"),
        ("devices = 0", None, ("0",), "say how many each takes"),
        ("devices = 2\nbatch_tokens = 1024", None, ("0", "1", "2"), "multiple of 2"),
    ],
)
def test_trainers_that_cannot_go_at_once_are_refused(log, settings, jobs, gpus, why):
    pytest.importorskip("mlx" if "mlx" in settings else "torch")
    from runners.trainer import GptRunner

    arms = '[[arm]]\nname = "a"\n[[arm]]\nname = "b"\nset = { depth = 3 }\n'
    text = f'name = "n"\ndelta = 0.01\nseeds = "0"\n[trainer]\n{settings}\n{arms}'
    with pytest.raises(UsageError, match=why):
        GptRunner(parse(text, "p"), log).at_once(jobs, gpus)


def test_a_clock_that_only_an_arm_has_counts(log):
    pytest.importorskip("torch")
    from runners.trainer import GptRunner

    arms = '[[arm]]\nname = "a"\n[[arm]]\nname = "b"\nset = { wallclock = 5.0 }\n'
    with pytest.raises(UsageError, match="end by the clock"):
        GptRunner(parse(f'name = "n"\ndelta = 0.01\nseeds = "0"\n[trainer]\n{arms}', "p"), log).at_once(2, ())

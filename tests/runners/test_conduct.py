"""Conducting a plan: what is recorded when, what is run again, and what an odd runner cannot break.

The runner here is a real one in the sense of cells.py: it carries cells out, in no time.
"""

from __future__ import annotations

import math
import os
import signal
from collections import Counter
from collections.abc import Callable

import msgspec
import pytest

from ledger.chain import Log
from ledger.errors import Conflict, LedgerError, NotAppended, UsageError
from ledger.events import EventRetracted
from ledger.writer import Draft
from runners import conduct as module
from runners import recording
from runners.cells import Cell, Kept, Outcome, Surroundings
from runners.conduct import Conducted, Update, conduct
from runners.plan import Plan, parse

PLAN = """\
name = "first"
delta = 0.01
seeds = "0-1"
[script]
command = ["train"]
[[arm]]
name = "control"
[[arm]]
name = "fast"
env = { LR = "2" }
"""
TOKEN = "ghp_" + "abcdefghijklmnopqrstuvwxyz0123456789"
Act = Callable[[Cell, Callable[[int, str, float], None]], Outcome]


def ok(value: float = 1.25) -> Outcome:
    return Outcome(status="ok", exit_code=0, finals={"val_bpb": (value, 9)}, steps=10, wall_s=1.0)


class Acting:
    """A runner whose cells do what a function says."""

    name = "acting/1"
    source = "stdout"

    def __init__(self, act: Act | None = None, code: str = "c0de", host: str = "here") -> None:
        self.act = act or (lambda cell, on_point: ok())
        self.code = code
        self.host = host
        self.ran: list[tuple[str, int]] = []

    def surroundings(self) -> Surroundings:
        return Surroundings(
            code=self.code, python="3", platform="p", hardware_class="h", host=self.host, boot="b", environment=b"{}"
        )

    def command(self, arm):
        return ("train", *arm.args)

    def environment(self, arm, seed):
        return {**arm.env, "SEED": str(seed)}

    def config(self, arm):
        return {"lr": 1}

    def fork_of(self, arm, seed):
        return None

    def run(self, cell, on_point, should_stop):
        self.ran.append((cell.arm.name, cell.seed))
        return self.act(cell, on_point)


@pytest.fixture
def log(tmp_path) -> Log:
    return Log.create(tmp_path / "ledger")


def plan(text: str = PLAN) -> Plan:
    return parse(text, "plan.toml")


def go(log: Log, runner: Acting | None = None, text: str = PLAN, **options: object) -> Conducted:
    return conduct(log, plan(text), runner or Acting(), lambda update: None, **options)  # type: ignore[arg-type]


def datas(log: Log, kind: str) -> list:
    return [event.data for event in log.events(types=(kind,))]


def outcomes(log: Log) -> list[str]:
    return [data.status for data in datas(log, "run.finished")]


# ── the order of things ──


def test_the_plan_is_on_record_before_the_runner_is_asked_for_a_cell(log):
    seen: list[list[str]] = []

    def act(cell, on_point):
        seen.append([event.type for event in Log(log.root).events()])
        return ok()

    go(log, Acting(act))
    assert seen[0] == ["experiment.registered", "run.started"]
    assert [kinds.count("run.started") for kinds in seen] == [1, 2, 3, 4]
    assert [kinds.count("run.finished") for kinds in seen] == [0, 1, 2, 3]


def test_what_the_runner_cannot_do_is_refused_before_anything_is_appended(log):
    class Refusing(Acting):
        def surroundings(self):
            raise UsageError("no such program")

    with pytest.raises(UsageError, match="no such program"):
        go(log, Refusing())
    assert log.head().position == 0


def test_a_start_says_arm_role_seed_variables_and_configuration(log):
    go(log)
    start = datas(log, "run.started")[1]
    assert (start.arm, start.role, start.seed) == ("fast", "treatment", 0)
    assert {item.name: item.value for item in start.env} == {"LR": "2", "SEED": "0"}
    assert {item.name: item.value for item in start.config} == {"lr": "1"}
    assert datas(log, "run.started")[0].role == "control"


def test_an_arm_alone_is_a_single_run_and_not_a_control(log):
    go(log, text=PLAN.split('[[arm]]\nname = "fast"')[0])
    assert {start.role for start in datas(log, "run.started")} == {"single"}


def test_the_runs_of_one_session_are_one_block(log):
    go(log)
    go(log, text=PLAN.replace("0-1", "0-2"))
    blocks = Counter(start.block for start in datas(log, "run.started"))
    assert sorted(blocks.values()) == [2, 4]


def test_progress_is_told_in_order(log):
    told: list[Update] = []
    conduct(log, plan(), Acting(), told.append)
    assert [update.kind for update in told] == ["plan"] + ["start", "end"] * 4
    assert [(update.done, update.total) for update in told if update.kind == "end"] == [(i, 4) for i in (1, 2, 3, 4)]


# ── again ──


def test_what_is_done_is_not_done_again(log):
    go(log)
    size = log.head().position
    again = Acting()
    done = go(log, again)
    assert (again.ran, done.ran, done.before, done.statuses) == ([], 0, 4, {"ok": 4})
    assert log.head().position == size


def test_comments_and_the_order_of_keys_are_not_another_plan(log):
    go(log)
    go(log, text="# why\n" + PLAN.replace('name = "first"\ndelta = 0.01', 'delta = 0.010\nname = "first"'))
    assert len(datas(log, "experiment.registered")) == 1


@pytest.mark.parametrize(
    ("before", "now", "said"),
    [
        ("0.01", "0.02", "delta"),
        ("delta", 'direction = "higher"\ndelta', "direction"),
        ("delta", "alpha = 0.5\ndelta", "alpha"),
    ],
)
def test_what_judges_a_plan_cannot_change_under_its_name(log, before, now, said):
    go(log)
    size = log.head().position
    with pytest.raises(UsageError, match=f"registered with {said}.*new name"):
        go(log, text=PLAN.replace(before, now, 1))
    assert log.head().position == size


def test_more_seeds_are_an_amendment_that_names_what_it_replaces(log):
    go(log)
    go(log, text=PLAN.replace('seeds = "0-1"', 'seeds = "0-2"'))
    first, second = log.events(types=("experiment.registered",))
    assert second.data.amends == first.event_id
    assert first.data.amends is None


@pytest.mark.parametrize("status", ["crash", "diverged", "timeout", "oom", "no_metric"])
def test_a_failed_cell_is_an_outcome_and_stays_one_until_a_retry_is_asked_for(log, status):
    outcome = {
        "diverged": Outcome(status="ok", finals={"val_bpb": (math.nan, 1)}),
        "no_metric": Outcome(status="ok", finals={"loss": (1.0, 1)}),
    }.get(status, Outcome(status=status, reason="bad"))
    done = go(log, Acting(lambda cell, on_point: outcome if cell.seed else ok()))
    assert done.statuses == {"ok": 2, status: 2}
    assert go(log).ran == 0
    again = Acting()
    assert go(log, again, retry_failed=True).statuses == {"ok": 4}
    assert {seed for _, seed in again.ran} == {1}


def test_interrupted_and_lost_cells_are_run_again_without_asking(log):
    def act(cell, on_point):
        if len(runner.ran) == 2:
            raise KeyboardInterrupt
        return ok()

    runner = Acting(act)
    done = go(log, runner)
    assert (done.interrupted, done.ran, done.statuses) == (True, 2, {"ok": 1})
    assert outcomes(log) == ["ok", "interrupted"]
    assert go(log).statuses == {"ok": 4}


def test_a_run_without_an_outcome_is_given_up_as_lost_by_the_next_session(log):
    class Gone(BaseException):
        pass

    def die(cell, on_point):
        raise Gone

    with pytest.raises(Gone):
        go(log, Acting(die))
    assert outcomes(log) == []
    go(log)
    assert outcomes(log) == ["lost", "ok", "ok", "ok", "ok"]


def test_a_run_of_another_machine_is_not_given_up_as_lost(log):
    class Gone(BaseException):
        pass

    def die(cell, on_point):
        raise Gone

    with pytest.raises(Gone):
        go(log, Acting(die, host="there"))
    go(log, Acting(host="here"))
    assert "lost" not in outcomes(log)


def test_a_retracted_outcome_is_to_be_run_again(log):
    go(log)
    event = next(iter(log.events(types=("run.finished",))))
    log.writer.append([Draft(event.stream, EventRetracted(target=event.event_id, reason="wrong"))])
    again = Acting()
    go(log, again)
    assert again.ran == [("control", 0)]
    assert [(data.status, data.reason) for data in datas(log, "run.finished")][4:] == [
        ("lost", "its outcome was retracted"),
        ("ok", ""),
    ]


def test_cells_of_an_arm_that_is_no_longer_planned_are_not_counted(log):
    go(log, Acting(lambda cell, on_point: Outcome(status="crash") if cell.arm.name == "fast" else ok()))
    done = go(log, text=PLAN.replace('LR = "2"', 'LR = "3"').replace('"fast"', '"faster"'))
    assert done.statuses == {"ok": 4}


def test_other_code_other_hardware_or_other_metric_is_another_experiment(log):
    first = go(log).experiment
    assert go(log, Acting(code="other")).experiment != first
    assert go(log, text=f'metric = "x"\n{PLAN}', runner=_telling("x")).experiment != first
    assert go(log).experiment == first


def _telling(name: str) -> Acting:
    return Acting(lambda cell, on_point: Outcome(status="ok", finals={name: (1.0, None)}))


def test_two_sessions_on_one_experiment_conflict_and_the_second_appends_nothing(log):
    sizes: list[int] = []

    def act(cell, on_point):
        other = Log(log.root)
        before = other.head().position
        with pytest.raises(Conflict, match=f"process {os.getpid()}"):
            go(other)
        sizes.append(other.head().position - before)
        return ok()

    go(log, Acting(act))
    assert sizes == [0] * 4


# ── the metric ──


def test_when_no_run_of_two_arms_tells_the_metric_the_rest_is_not_started(log):
    runner = _telling("val_loss")
    with pytest.raises(LedgerError, match=r"without telling 'val_bpb'; it told val_loss"):
        go(log, runner)
    assert runner.ran == [("control", 0), ("fast", 0)]
    with pytest.raises(LedgerError, match="without telling"):
        go(log, runner)
    assert len(runner.ran) == 3
    assert outcomes(log) == ["no_metric"] * 3


def test_an_arm_that_tells_no_metric_does_not_keep_the_other_from_running(log):
    runner = Acting(lambda cell, _: Outcome(status="ok", finals={}) if cell.arm.name == "control" else ok())
    assert go(log, runner).statuses == {"ok": 2, "no_metric": 2}


def test_when_some_run_told_the_metric_the_rest_is_started(log):
    def act(cell, on_point):
        return ok() if len(runner.ran) == 1 else Outcome(status="ok", finals={})

    runner = Acting(act)
    assert go(log, runner).statuses == {"ok": 1, "no_metric": 3}


def test_a_failed_run_keeps_what_it_told(log):
    failed = Outcome(status="crash", reason="bad", exit_code=3, finals={"val_bpb": (1.5, 7)})
    go(log, Acting(lambda cell, on_point: failed))
    end = datas(log, "run.finished")[0]
    assert (end.status, end.value, end.exit_code, end.finals[0].step) == ("crash", 1.5, 3, 7)


# ── a runner that is broken ──


def test_an_error_of_the_runner_is_a_crash_with_its_words_and_the_rest_goes_on(log):
    def act(cell, on_point):
        if cell.seed == 0:
            raise ZeroDivisionError("oh")
        return ok()

    assert go(log, Acting(act)).statuses == {"crash": 2, "ok": 2}
    assert datas(log, "run.finished")[0].reason == "ZeroDivisionError: oh"


def test_tokens_in_names_and_reasons_are_taken_out_and_cost_no_run(log):
    def act(cell, on_point):
        on_point(1, TOKEN, 1.0)
        return msgspec.structs.replace(ok(), reason=f"said {TOKEN}", finals={"val_bpb": (1.0, 1), TOKEN: (2.0, 1)})

    assert go(log, Acting(act)).statuses == {"ok": 4}
    assert not any(TOKEN.encode() in event.body for event in log.events())
    assert "redacted" in datas(log, "metrics.logged")[0].names[0]


def test_bytes_that_are_no_text_in_names_and_reasons_cost_no_run(log):
    def act(cell, on_point):
        on_point(1, "a\udcffb", 1.0)
        return Outcome(status="crash", reason="a\udcffb", finals={"a\udcffb": (1.0, None)})

    assert go(log, Acting(act)).statuses == {"crash": 4}


def test_names_too_many_for_one_event_are_spread_over_several_and_none_is_lost(log):
    names = [f"gradient_norm_of_layer_{index}_{'x' * (index % 150)}" for index in range(2000)]

    def act(cell, on_point):
        for name in names:
            on_point(3, name, 1.0)
        return msgspec.structs.replace(ok(), finals={"val_bpb": (1.0, 1), **dict.fromkeys(names, (1.0, 1))})

    go(log, Acting(act), text=PLAN.split('[[arm]]\nname = "fast"')[0].replace("0-1", "0"))
    logged = datas(log, "metrics.logged")
    assert len(logged) > 1
    assert {name for data in logged for name in data.names} == set(names)
    end = datas(log, "run.finished")[0]
    assert end.finals[0].name == "val_bpb"


def test_a_very_long_name_is_cut(log):
    def act(cell, on_point):
        on_point(1, "x" * 100_000, 1.0)
        return ok()

    assert go(log, Acting(act)).statuses == {"ok": 4}
    assert len(datas(log, "metrics.logged")[0].names[0]) == recording.MAX_NAME


def test_points_are_written_in_chunks_and_not_one_by_one(log, monkeypatch):
    monkeypatch.setattr(recording, "CHUNK_POINTS", 100)

    def act(cell, on_point):
        for step in range(250):
            on_point(step, "loss", 1.0)
        return ok()

    go(log, Acting(act))
    assert [data.rows for data in datas(log, "metrics.logged")] == [100, 100, 50] * 4


def test_after_five_seconds_the_points_of_another_five_seconds_are_gathered(log, monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(recording.time, "monotonic", lambda: clock[0])
    sink = recording.Sink(log, "0" * 16, "stdout")
    for step in range(100):
        clock[0] += 0.5
        sink.add(step, "loss", 1.0)
    assert [data.rows for data in datas(log, "metrics.logged")] == [11] * 9


def test_points_that_the_disk_refused_are_written_later(log, monkeypatch):
    honest = recording.points.write_chunk
    refusals = [3]

    def refuse(*arguments):
        if refusals[0]:
            refusals[0] -= 1
            raise NotAppended("nothing was appended: the disk is full")
        return honest(*arguments)

    monkeypatch.setattr(recording.points, "write_chunk", refuse)
    sink = recording.Sink(log, "0" * 16, "stdout")
    for step in range(10):
        sink.add(step, "loss", 1.0)
    for _ in range(3):
        with pytest.raises(NotAppended):
            sink.flush()
    sink.flush()
    assert [data.rows for data in datas(log, "metrics.logged")] == [10]


def test_what_a_run_leaves_is_kept_by_content_with_what_was_left_out(log):
    kept = (Kept("stdout", "stdout", b"hello\n", 7, "text/plain"), Kept("stderr", "stderr", b"", 0, "text/plain"))
    go(log, Acting(lambda cell, on_point: msgspec.structs.replace(ok(), kept=kept)))
    stored = datas(log, "artifact.stored")[0]
    assert (stored.kind, stored.bytes, stored.left_out) == ("stdout", 6, 7)
    assert log.blobs.get(stored.sha256) == b"hello\n"


def test_a_plan_too_large_for_an_event_is_refused_with_what_makes_it_large(log):
    with pytest.raises(UsageError, match="10000 seeds and 2 arms; have fewer"):
        go(log, text=PLAN.replace("0-1", "0-9999"))
    assert log.head().position == 0


# ── signals ──


def test_the_callers_handlers_are_back_afterwards_and_what_is_ignored_stays_so(log):
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    during: list[object] = []
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        go(log, Acting(lambda cell, on_point: during.append(signal.getsignal(signal.SIGHUP)) or ok()))
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before[signal.SIGHUP])
    assert during == [signal.SIG_IGN] * 4
    assert {number: signal.getsignal(number) for number in before} == before


def test_a_polite_kill_between_two_cells_leaves_no_run_without_an_outcome(log):
    def tell(update: Update) -> None:
        if update.kind == "end" and update.done == 2:
            os.kill(os.getpid(), signal.SIGTERM)

    assert conduct(log, plan(), Acting(), tell).interrupted
    assert outcomes(log) == ["ok", "ok"]
    assert len(datas(log, "run.started")) == 2
    assert go(log).statuses == {"ok": 4}


def test_a_second_ctrl_c_does_not_stop_the_recording_of_the_first(log, monkeypatch):
    honest = module.outcome_event

    def press_again(*arguments):
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGTERM)
        return honest(*arguments)

    def act(cell, on_point):
        monkeypatch.setattr(module, "outcome_event", press_again)
        raise KeyboardInterrupt

    assert go(log, Acting(act)).interrupted
    assert outcomes(log) == ["interrupted"]


def test_an_arm_cannot_become_another_under_its_name(log):
    go(log)
    with pytest.raises(UsageError, match=r"'fast'.*other settings.*new one"):
        go(log, text=PLAN.replace('LR = "2"', 'LR = "3"'))


def test_an_arm_that_was_left_out_and_came_back_changed_is_refused_too(log):
    go(log)
    go(log, text=PLAN.replace('"fast"', '"slow"'))
    with pytest.raises(UsageError, match="'fast'"):
        go(log, text=PLAN.replace('LR = "2"', 'LR = "3"'))


def test_a_plan_whose_registration_was_retracted_can_be_written_anew(log):
    def nothing(cell, on_point):
        raise KeyboardInterrupt

    go(log, Acting(nothing))
    (first,) = log.events(types=("experiment.registered",))
    log.writer.append([Draft(first.stream, EventRetracted(target=first.event_id, reason="a typo"))])
    go(log, text=PLAN.replace("0.01", "0.02"))
    assert [e.data.delta for e in log.events(types=("experiment.registered",))] == [0.01, 0.02]


def test_a_huge_metric_is_a_divergence(log):
    go(log, Acting(lambda cell, on_point: ok(3.2e217)))
    assert {e.data.status for e in log.events(types=("run.finished",))} == {"diverged"}

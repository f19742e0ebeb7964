"""Conduct a plan: register it, run the cells that are missing, record each as it happens.

Everything that it learns is an event before it goes on: the registration before the first run, the
start before the training, the outcome right after. So a process that was killed at any moment leaves
a log from which the next one sees what is missing and runs only that. It decides nothing.
"""

from __future__ import annotations

import contextlib
import functools
import os
import secrets as random
import signal
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, Literal, NamedTuple

import msgspec

from ledger import events, layout, points, spool
from ledger.chain import Log
from ledger.errors import LedgerError
from ledger.writer import Draft
from runners import turns
from runners.alone import no_interrupt, once, only_one, signals_interrupt
from runners.cells import INTERRUPTED, Cell, Closing, Kept, Outcome, Runner, Surroundings, Together
from runners.plan import Plan, PlanArm
from runners.recording import Sink, judged, metric_name, one_line, outcome_event
from runners.registration import (
    Registered,
    base_fingerprint,
    cell_fingerprint,
    experiment_id,
    register,
)

_DONE = ("ok", "crash", "diverged", "timeout", "oom", "no_metric")  # outcomes; the others are to be run again


Kind = Literal["plan", "start", "point", "end"]


class Update(NamedTuple):
    """What a progress display needs to know. `value` is the newest point's, `name` its metric."""

    kind: Kind
    done: int
    total: int
    arm: str = ""
    seed: int = 0
    name: str = ""
    value: float = 0.0
    status: str = ""
    reason: str = ""


class Conducted(NamedTuple):
    """What a session did."""

    experiment: str
    ran: int  # cells run now
    before: int  # cells that were there already
    statuses: dict[str, int]  # of the plan's cells, by status
    interrupted: bool
    exit_code: int | None  # of the last program that ran; 128 and its number for a signal, as shells do


def conduct(
    log: Log,
    plan: Plan,
    runner: Runner,
    report: Callable[[Update], None],
    *,
    retry_failed: bool = False,
    cooldown: float = 0.0,
    jobs: int = 1,
) -> Conducted:
    """Register `plan` unless it is registered, and run its missing cells in order: `cooldown` seconds apart, or
    `jobs` of them at a time.

    Raises UsageError before anything is appended when the plan cannot run; Conflict when another
    process is running the same experiment. An interruption is recorded and returned, not raised.
    """
    once(os.environ)
    around = runner.surroundings()
    base = base_fingerprint(plan, runner, around)
    experiment = experiment_id(plan, base)
    with only_one(log, experiment), _closed(runner):
        registered = register(log, plan, runner, base, experiment, around)
        session = _Session(log, plan, runner, around, base, experiment, registered)
        session.give_up_lost()
        have = session.cells_done(retry_failed)
        missing = [
            (arm, seed) for arm, seed in plan.cells() if (arm.name, cell_fingerprint(base, arm, seed)) not in have
        ]
        total = len(plan.cells())
        report(Update("plan", total - len(missing), total))
        progress = _Progress(report, total - len(missing), total)
        worked = "ok" in have.values()
        silent = {name for (name, _), status in have.items() if status == "no_metric"}
        mute: _NoMetric | None = None  # of the newest run that told no metric, while none has told it
        interrupted, exit_code = False, None
        together = runner if isinstance(runner, Together) else None
        groups = together.groups(missing) if together else [[cell] for cell in missing]
        begin = functools.partial(session.begin, progress=progress)
        with (
            signals_interrupt(),
            contextlib.closing(
                turns.one_by_one(groups, begin, cooldown, session.stop)
                if jobs == 1
                else turns.at_once(groups, begin, jobs, session.stop)
            ) as ended,
        ):
            try:
                for group, outcomes in ended:
                    for (arm, seed), outcome in zip(group, outcomes, strict=True):
                        exit_code = _exit_code(outcome)
                        progress.end(arm, seed, outcome)
                        interrupted = interrupted or outcome.status == "interrupted"
                        worked = worked or outcome.status == "ok"
                        if outcome.status == "no_metric":
                            silent.add(arm.name)
                            mute = _NoMetric(plan, arm, outcome)
                    # One arm may be at fault itself; two name the wrong metric.
                    if worked or len(silent) < min(2, len(plan.arm)):
                        mute = None
                    session.stop.enough = interrupted or mute is not None
            except KeyboardInterrupt:  # between two runs
                interrupted = True
        interrupted = interrupted or bool(session.stop.signals)  # also where all that ran had just ended by itself
        if mute and not interrupted:
            raise mute
        log.close()
        statuses: dict[str, int] = {}
        found = session.cells_done(False)  # also of arms and seeds that an earlier plan had: not counted here
        for arm, seed in plan.cells():
            if status := found.get((arm.name, cell_fingerprint(base, arm, seed))):
                statuses[status] = statuses.get(status, 0) + 1
        return Conducted(experiment, progress.ended, total - len(missing), statuses, interrupted, exit_code)


@contextlib.contextmanager
def _closed(runner: Runner) -> Iterator[None]:
    """What the runner holds on to between cells is let go at the end."""
    try:
        yield
    finally:
        if isinstance(runner, Closing):
            runner.close()


def _exit_code(outcome: Outcome) -> int | None:
    known = signal.Signals.__members__.get(outcome.signal or "")
    if known is None or outcome.status == "timeout":  # a signal that we sent is no code of the program's
        return outcome.exit_code
    return 128 + known


def _all(cells: list[Cell], status: events.Status, reason: str, wall: float) -> list[Outcome]:
    """One outcome for every cell of a group; each has its share of the time."""
    return [Outcome(status=status, reason=reason, wall_s=wall / len(cells)) for _ in cells]


class _NoMetric(LedgerError):
    """Runs of two arms ended well and told no metric, and none before did: the other cells would be wasted."""

    def __init__(self, plan: Plan, arm: PlanArm, outcome: Outcome) -> None:
        import difflib

        names = sorted(outcome.finals)
        close = difflib.get_close_matches(plan.metric, names, 1, 0.5)
        told = (
            f"it told {', '.join(names[:12])}{' …' if len(names) > 12 else ''}"
            if names
            else "it told no metric at all"
        )
        hint = f" (did you mean --metric {close[0]}?)" if close else ""
        super().__init__(
            f"{arm.name} ended without telling {plan.metric!r}; {told}{hint}. No run told it; what ran is on record "
            f"as no_metric, no further one was started. Print `{plan.metric}: <number>`, log it "
            "with ledger.log, or give a --pattern"
        )


class _Progress:
    """Tells a display what happens, of one thread at a time."""

    def __init__(self, report: Callable[[Update], None], before: int, total: int) -> None:
        self.report, self.before, self.total = report, before, total
        self.ended = 0
        self._lock = threading.Lock()

    def start(self, arm: PlanArm, seed: int) -> None:
        self._tell("start", arm, seed)

    def point(self, arm: PlanArm, seed: int, name: str, value: float) -> None:
        self._tell("point", arm, seed, name, value)

    def end(self, arm: PlanArm, seed: int, outcome: Outcome) -> None:
        self.ended += 1
        self._tell("end", arm, seed, "", 0.0, outcome.status, outcome.reason)

    def _tell(self, kind: Kind, arm: PlanArm, seed: int, *what: Any) -> None:
        with self._lock:
            self.report(Update(kind, self.before + self.ended, self.total, arm.name, seed, *what))


class _Session:
    """The runs of one process on one experiment: one block of the layout."""

    def __init__(
        self,
        log: Log,
        plan: Plan,
        runner: Runner,
        around: Surroundings,
        base: str,
        experiment: str,
        registered: Registered,
    ) -> None:
        self.log = log
        self.plan = plan
        self.runner = runner
        self.around = around
        self.base = base
        self.experiment = experiment
        self.registered = registered
        self.block = random.token_hex(6)
        self.stop = turns.Stop()
        self._alone = threading.Lock()  # for what two threads must not do at once
        self.environment: str | None = None
        self.diff: str | None = None
        self._read = 0  # events of the log that the next three know of
        self._started: dict[str, tuple[str, events.RunStarted]] = {}
        self._finished: dict[str, list[tuple[str, events.RunFinished]]] = {}
        self._gone: set[str] = set()

    def history(self) -> tuple[dict[str, events.RunStarted], dict[str, events.RunFinished]]:
        """Starts of this experiment's runs and their outcomes, by run, retracted ones left out."""
        head = self.log.advance()
        kinds = ("run.started", "run.finished", "event.retracted")
        for event in self.log.events(start=self._read, as_of=head, types=kinds):
            data = event.data
            if isinstance(data, events.EventRetracted):
                self._gone.add(data.target)
            elif isinstance(data, events.RunStarted) and data.experiment == self.experiment:
                self._started[data.run] = (event.event_id, data)
            elif isinstance(data, events.RunFinished) and data.run in self._started:
                self._finished.setdefault(data.run, []).append((event.event_id, data))
        self._read = head
        finished = {}
        for run, ends in self._finished.items():
            for event_id, end in ends:
                if event_id not in self._gone:
                    finished[run] = end  # the last counts, as in the table `runs`
        started = {run: data for run, (event_id, data) in self._started.items() if event_id not in self._gone}
        return started, finished

    def cells_done(self, retry_failed: bool) -> dict[tuple[str, str], str]:
        """Status of every (arm, cell) that has an outcome; an ok run counts before a failed one."""
        started, finished = self.history()
        found: dict[tuple[str, str], str] = {}
        for run, start in started.items():
            end = finished.get(run)
            if end is None or end.status not in _DONE or (retry_failed and end.status != "ok"):
                continue
            key = (start.arm, start.cell)
            if found.get(key) != "ok":
                found[key] = end.status
        return found

    def give_up_lost(self) -> None:
        """Runs that began here and have no outcome: their process is gone, for this one holds the lock."""
        started, finished = self.history()
        open_runs = [run for run in started if run not in finished and started[run].host == self.around.host]
        for run in open_runs:
            now = layout.now_text()
            reason = "its outcome was retracted" if run in self._finished else "its process is gone"
            lost = outcome_event(run, self.plan.metric, Outcome(status="lost", reason=reason), now, now)
            self.log.writer.append([Draft(f"run/{run}", lost)])

    def begin(self, group: list[tuple[PlanArm, int]], slot: int, progress: _Progress) -> Callable[[], list[Outcome]]:
        """Record the starts; what is given back carries the cells out."""
        cells = [Cell(random.token_hex(8), arm, seed, slot, self.stop.signals) for arm, seed in group]
        for arm, seed in group:
            progress.start(arm, seed)
        starts = [Draft(f"run/{cell.run}", self.start(cell.run, cell.arm, cell.seed)) for cell in cells]
        appended = self.log.writer.append(starts)
        return functools.partial(self.run, cells, appended.position, progress)

    def run(self, cells: list[Cell], started: int, progress: _Progress) -> list[Outcome]:
        """Carry the cells out, record their points, what they left and their outcomes."""
        began, clock = layout.now_text(), time.monotonic()
        sinks = [Sink(self.log, cell.run, self.runner.source) for cell in cells]
        deadline = clock + self.plan.timeout * len(cells) if self.plan.timeout else None

        def on_point(index: int, step: int, name: str, value: float) -> None:
            # A full disk must not stop the training: the points wait, and the end of the run says so if need be.
            with contextlib.suppress(LedgerError):
                sinks[index].add(step, name, value)
            progress.point(cells[index].arm, cells[index].seed, name, value)

        def should_stop() -> str | None:
            if self.stop.signals:
                return INTERRUPTED
            return "timeout" if deadline is not None and time.monotonic() > deadline else None

        try:
            if isinstance(self.runner, Together):
                outcomes = self.runner.run_together(cells, on_point, should_stop)
            else:
                outcomes = [self.runner.run(cells[0], functools.partial(on_point, 0), should_stop)]
        except KeyboardInterrupt:
            outcomes = _all(cells, "interrupted", INTERRUPTED, time.monotonic() - clock)
        except Exception as error:  # a defect of a runner must still leave the fact that the run failed
            reason = one_line(f"{type(error).__name__}: {error}")
            outcomes = _all(cells, "crash", reason, time.monotonic() - clock)
        with no_interrupt():
            for sink in sinks:
                sink.flush()
            with self._alone:
                spool.recover(self.log)  # a program that was killed could not write out its last seconds itself
            drafts: list[Draft] = []
            for index, cell in enumerate(cells):
                stream = f"run/{cell.run}"
                outcome = judged(self.plan.metric, self.with_logged(outcomes[index], stream, started))
                drafts += [Draft(stream, self.keep(cell.run, kept)) for kept in outcome.kept]
                drafts.append(
                    Draft(stream, outcome_event(cell.run, self.plan.metric, outcome, began, layout.now_text()))
                )
                outcomes[index] = outcome
            self.log.writer.append(drafts)
        return outcomes

    def start(self, run: str, arm: PlanArm, seed: int) -> events.RunStarted:
        around = self.around
        if self.environment is None:
            self.environment = self.log.blobs.put(around.environment)
            self.diff = self.log.blobs.put(around.git_diff) if around.git_diff else None
        role = next(known.role for known in self.registered.event.arms if known.name == arm.name)
        return events.RunStarted(
            run=run,
            experiment=self.experiment,
            arm=arm.name,
            role=role,
            seed=seed,
            seed_role=self.plan.seed_role,
            base=self.base,
            cell=cell_fingerprint(self.base, arm, seed),
            noise_class=self.registered.event.noise_class,
            pair_tier=self.registered.event.pair_tier,
            block=self.block,
            stage=self.plan.stage,
            fork_of=self.runner.fork_of(arm, seed),
            runner=self.runner.name,
            command=self.runner.command(arm),
            config=events.named(self.runner.config(arm)),
            env=events.named(self.runner.environment(arm, seed)),
            environment=self.environment,
            python=around.python,
            platform=around.platform,
            hardware_class=around.hardware_class,
            code=around.code,
            git_commit=around.git_commit,
            git_dirty=around.git_dirty,
            git_diff=self.diff,
            data=around.data,
            host=around.host,
            boot=around.boot,
            pid=os.getpid(),
        )

    def keep(self, run: str, kept: Kept) -> events.ArtifactStored:
        return events.ArtifactStored(
            run=run,
            experiment=self.experiment,
            name=kept.name,
            kind=kept.kind,
            sha256=self.log.blobs.put(kept.data),
            bytes=len(kept.data),
            left_out=kept.left_out,
            media_type=kept.media_type,
        )

    def with_logged(self, outcome: Outcome, stream: str, since: int) -> Outcome:
        """Add what the program logged itself (`ledger.log`): it counts before what was read from its text."""
        finals = dict(outcome.finals)
        for event in self.log.events(start=since, stream=stream, types=("metrics.logged",)):
            data = event.data
            if isinstance(data, events.MetricsLogged) and data.source == "api":
                batch = points.read_chunk(self.log.root, data)
                for name, value, step in zip(
                    batch["name"].to_pylist(), batch["value"].to_pylist(), batch["step"].to_pylist(), strict=True
                ):
                    finals[name] = (value, step)
        return msgspec.structs.replace(
            outcome,
            reason=one_line(outcome.reason),
            finals={metric_name(name): last for name, last in finals.items()},
        )

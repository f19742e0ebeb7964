"""Conduct a plan: register it, run the cells that are missing, record each as it happens.

Everything that it learns is an event before it goes on: the registration before the first run, the
start before the training, the outcome right after. So a process that was killed at any moment leaves
a log from which the next one sees what is missing and runs only that. It decides nothing.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import os
import secrets as random
import signal
import threading
import time
from collections.abc import Callable, Iterator
from hashlib import sha256
from typing import Any, Literal, NamedTuple

import msgspec

from ledger import canonical, events, layout, points
from ledger.chain import Log
from ledger.errors import Conflict, LedgerError, UsageError
from ledger.secrets import redact
from ledger.writer import Draft, Expect
from runners.cells import Cell, Kept, Outcome, Runner, Surroundings
from runners.plan import Plan, PlanArm

POLICY = "paired-pooled/1"  # the decision rule that is registered with a plan
CHUNK_POINTS = 65_536
CHUNK_SECONDS = 5.0
CHUNK_NAMES = 24 * 1024  # bytes of metric names in one chunk's event
MAX_NAME = 200  # characters of a metric's name
MAX_PLAN_EVENT = 47 * 1024  # an event holds 48 KiB, its envelope takes less than one
_DONE = ("ok", "crash", "diverged", "timeout", "oom", "no_metric")  # outcomes; the others are to be run again


class Update(NamedTuple):
    """What a progress display needs to know. `value` is the newest point's, `name` its metric."""

    kind: Literal["plan", "start", "point", "end"]
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


class _Registered(NamedTuple):
    event: events.ExperimentRegistered
    event_id: str


def conduct(
    log: Log,
    plan: Plan,
    runner: Runner,
    report: Callable[[Update], None],
    *,
    retry_failed: bool = False,
) -> Conducted:
    """Register `plan` unless it is registered, and run its missing cells in order.

    Raises UsageError before anything is appended when the plan cannot run; Conflict when another
    process is running the same experiment. An interruption is recorded and returned, not raised.
    """
    around = runner.surroundings()
    base = _base(plan, runner, around)
    experiment = sha256(canonical.encode([plan.name, base, plan.metric])).hexdigest()[:16]
    with _only_one(log, experiment):
        registered = _register(log, plan, runner, base, experiment, around)
        session = _Session(log, plan, runner, around, base, experiment, registered)
        session.give_up_lost()
        have = session.cells_done(retry_failed)
        missing = [(arm, seed) for arm, seed in plan.cells() if (arm.name, _cell(base, arm, seed)) not in have]
        total = len(plan.cells())
        report(Update("plan", total - len(missing), total))
        interrupted, ran = False, 0
        worked = "ok" in have.values()
        exit_code: int | None = None
        with _signals_interrupt():
            for index, (arm, seed) in enumerate(missing):
                done = total - len(missing) + index
                report(Update("start", done, total, arm.name, seed))
                outcome = session.run(arm, seed, _reporter(report, done, total, arm, seed))
                ran, exit_code = ran + 1, _exit_code(outcome)
                report(Update("end", done + 1, total, arm.name, seed, status=outcome.status, reason=outcome.reason))
                if outcome.status == "interrupted":
                    interrupted = True
                    break
                worked = worked or outcome.status == "ok"
                if outcome.status == "no_metric" and not worked:
                    raise _NoMetric(plan, arm, outcome)
        log.close()
        statuses: dict[str, int] = {}
        found = session.cells_done(False)  # also of arms and seeds that an earlier plan had: not counted here
        for arm, seed in plan.cells():
            if status := found.get((arm.name, _cell(base, arm, seed))):
                statuses[status] = statuses.get(status, 0) + 1
        return Conducted(experiment, ran, total - len(missing), statuses, interrupted, exit_code)


def _exit_code(outcome: Outcome) -> int | None:
    known = signal.Signals.__members__.get(outcome.signal or "")
    if known is None or outcome.status == "timeout":  # a signal that we sent is no code of the program's
        return outcome.exit_code
    return 128 + known


class _NoMetric(LedgerError):
    """A run ended well and told no metric, as did all before it: the other cells would be wasted."""

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
            f"{arm.name} ended without telling {plan.metric!r}; {told}{hint}. The run is on record "
            f"as no_metric, no further one was started. Print `{plan.metric}: <number>`, log it "
            "with ledger.log, or give a --pattern"
        )


def _reporter(
    report: Callable[[Update], None], done: int, total: int, arm: PlanArm, seed: int
) -> Callable[[str, float], None]:
    return lambda name, value: report(Update("point", done, total, arm.name, seed, name, value))


# ── identity ──


def _arm(plan: Plan, runner: Runner, arm: PlanArm) -> events.Arm:
    role: events.Role = "single" if len(plan.arm) == 1 else "control" if arm is plan.control else "treatment"
    return events.Arm(
        name=arm.name, role=role, env=events.named(arm.env), args=arm.args, config=events.named(arm.set)
    )


def _base(plan: Plan, runner: Runner, around: Surroundings) -> str:
    """Fingerprint of all that the arms have in common: runs of two bases are never compared."""
    shared = {
        "code": around.code,
        "data": [msgspec.to_builtins(digest) for digest in around.data],
        "hardware_class": around.hardware_class,
        "metric": plan.metric,
        "runner": runner.name,
        "settings": plan.trainer,
        "command": plan.script.command if plan.script else None,
        "env": plan.script.env if plan.script else None,
        "patterns": plan.script.patterns if plan.script else None,
    }
    return sha256(canonical.encode(shared)).hexdigest()[:16]


def _cell(base: str, arm: PlanArm, seed: int) -> str:
    return sha256(canonical.encode([base, arm.changes().decode(), seed])).hexdigest()[:16]


def _noise_class(plan: Plan, around: Surroundings) -> events.NoiseClass:
    return events.NoiseClass(
        platform=around.hardware_class, scale=plan.scale or "unstated", metric=plan.metric, stage=plan.stage
    )


def _register(log: Log, plan: Plan, runner: Runner, base: str, experiment: str, around: Surroundings) -> _Registered:
    stream = f"experiment/{experiment}"
    for _ in range(5):
        head = log.head()
        earlier: _Registered | None = None
        for event in log.events(as_of=head.position, stream=stream, types=("experiment.registered",)):
            data = event.data
            assert isinstance(data, events.ExperimentRegistered)
            earlier = _Registered(data, event.event_id)
        wanted = events.ExperimentRegistered(
            experiment=experiment,
            name=plan.name,
            family=f"{plan.name}/{experiment[:8]}",
            question=plan.question,
            runner=runner.name,
            command=plan.script.command if plan.script else (),
            plan=plan.text,
            plan_digest=sha256(plan.text.encode()).hexdigest(),
            base=base,
            metric=plan.metric,
            direction=plan.direction,
            delta=plan.delta,
            alpha=plan.alpha,
            estimand=plan.estimand,
            seeds=plan.seeds,
            seed_role=plan.seed_role,
            control=plan.control.name,
            arms=tuple(_arm(plan, runner, arm) for arm in plan.arm),
            hypotheses=tuple(events.Hypothesis(arm.name, arm.predict) for arm in plan.arm[1:]),
            pair_tier=plan.pair_tier,
            noise_class=_noise_class(plan, around),
            stopping="fixed",
            looks=(len(plan.seeds),),
            tau=None,
            n_max=len(plan.seeds),
            policy=POLICY,
            timeout=plan.timeout,
            amends=earlier.event_id if earlier else None,
        )
        if (size := len(canonical.encode(wanted))) > MAX_PLAN_EVENT:
            raise UsageError(
                f"the plan takes {size} bytes as an event, at most {MAX_PLAN_EVENT} are possible: it has "
                f"{len(plan.seeds)} seeds and {len(plan.arm)} arms; have fewer, or shorter commands and settings"
            )
        # Comments and spaces of the plan's text are not a change of the plan.
        if earlier and _substance(earlier.event) == _substance(wanted):
            return earlier
        try:
            made = log.writer.append([Draft(stream, wanted)], Expect(stream, head.position))
        except Conflict:
            continue  # somebody registered at this moment: look again, it may be the same plan
        return _Registered(wanted, made.event_ids[0])
    raise Conflict(f"experiment {plan.name} is being registered by several processes at once; try again")


def _substance(event: events.ExperimentRegistered) -> events.ExperimentRegistered:
    return msgspec.structs.replace(event, plan="", plan_digest="", amends=None)


# ── cells ──


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
        registered: _Registered,
    ) -> None:
        self.log = log
        self.plan = plan
        self.runner = runner
        self.around = around
        self.base = base
        self.experiment = experiment
        self.registered = registered
        self.block = random.token_hex(6)
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
            lost = _finished(run, self.plan.metric, Outcome(status="lost", reason=reason), now, now)
            self.log.writer.append([Draft(f"run/{run}", lost)])

    def run(self, arm: PlanArm, seed: int, tell: Callable[[str, float], None]) -> Outcome:
        """Record the start, carry the cell out, record its points, what it left and its outcome."""
        run = random.token_hex(8)
        stream = f"run/{run}"
        start = self.start(run, arm, seed)
        appended = self.log.writer.append([Draft(stream, start)])
        began, clock = layout.now_text(), time.monotonic()
        sink = _Sink(self.log, run, self.runner.source)
        deadline = clock + self.plan.timeout if self.plan.timeout else None

        def on_point(step: int, name: str, value: float) -> None:
            # A full disk must not stop the training: the points wait, and the end of the run says so if need be.
            with contextlib.suppress(LedgerError):
                sink.add(step, name, value)
            tell(name, value)

        def should_stop() -> str | None:
            return "timeout" if deadline is not None and time.monotonic() > deadline else None

        try:
            outcome = self.runner.run(Cell(run, arm, seed), on_point, should_stop)
        except KeyboardInterrupt:
            outcome = Outcome(status="interrupted", reason="interrupted", wall_s=time.monotonic() - clock)
        except Exception as error:  # a defect of a runner must still leave the fact that the run failed
            reason = f"{type(error).__name__}: {error}"
            outcome = Outcome(status="crash", reason=_line(reason), wall_s=time.monotonic() - clock)
        with _no_interrupt():
            sink.flush()
            outcome = _judge(self.plan.metric, self.with_logged(outcome, stream, appended.position))
            drafts = [Draft(stream, self.keep(run, kept)) for kept in outcome.kept]
            end = _finished(run, self.plan.metric, outcome, began, layout.now_text())
            self.log.writer.append([*drafts, Draft(stream, end)])
        return outcome

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
            cell=_cell(self.base, arm, seed),
            noise_class=_noise_class(self.plan, around),
            pair_tier=self.plan.pair_tier,
            block=self.block,
            stage=self.plan.stage,
            fork_of=None,
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
            outcome, reason=_line(outcome.reason), finals={_metric_name(name): last for name, last in finals.items()}
        )


def _judge(metric: str, outcome: Outcome) -> Outcome:
    """A run that ended well is ok only if it told the metric, and as a finite number."""
    if outcome.status != "ok":
        return outcome
    if metric not in outcome.finals:
        told = ", ".join(sorted(outcome.finals)[:8]) or "nothing"
        return msgspec.structs.replace(outcome, status="no_metric", reason=f"it told no {metric}; it told {told}")
    tagged = canonical.tag(outcome.finals[metric][0])
    if isinstance(tagged, str):
        return msgspec.structs.replace(outcome, status="diverged", reason=f"{metric} is {tagged}")
    return outcome


def _finished(run: str, metric: str, outcome: Outcome, began: str, ended: str) -> events.RunFinished:
    finals: list[events.FinalMetric] = []
    room = CHUNK_NAMES
    for name, (number, step) in sorted(outcome.finals.items(), key=lambda item: (item[0] != metric, item[0]))[:200]:
        room -= len(name.encode())
        if room >= 0:
            finals.append(events.FinalMetric(name, canonical.tag(number), step))
    value = outcome.finals.get(metric)
    return events.RunFinished(
        run=run,
        status=outcome.status,
        reason=_line(outcome.reason),
        exit_code=outcome.exit_code,
        signal=outcome.signal,
        metric=metric,
        value=canonical.tag(value[0]) if value else None,
        pre_value=None,
        finals=tuple(finals),
        steps=outcome.steps,
        tokens=outcome.tokens,
        wall_s=outcome.wall_s,
        cpu_s=outcome.cpu_s,
        peak_memory_bytes=outcome.peak_memory_bytes,
        artifact_bytes=None,
        cost=outcome.wall_s,
        extractor=outcome.extractor,
        started_at=began,
        ended_at=ended,
    )


def _line(text: str) -> str:
    return " ".join(redact(text.encode("utf-8", "replace"))[0].decode().split())[:400]


@functools.lru_cache(maxsize=16_384)
def _metric_name(name: str) -> str:
    """A metric's name as it may enter the log: a program that prints `<token>: 1` must not cost its run."""
    return redact(name.encode("utf-8", "replace"))[0].decode()[:MAX_NAME]


class _Sink:
    """Points of one run on their way into chunks: every 65,536 points or 5 seconds, and at the end."""

    def __init__(self, log: Log, run: str, source: str) -> None:
        self.log = log
        self.run = run
        self.source = source
        self.points: list[points.Point] = []
        self.names: set[str] = set()  # of these points
        self.names_bytes = 0
        self.chunks = 0
        self.since = time.monotonic()
        self.refused = False  # the disk refused the last attempt: wait before the next

    def add(self, step: int, name: str, value: float) -> None:
        """Take a point. Raises as flush does; the point is then kept all the same."""
        name = _metric_name(name)
        if name not in self.names:
            self.names.add(name)
            self.names_bytes += len(name.encode()) + 8
        self.points.append((step, name, value, layout.now_us()))
        full = len(self.points) >= CHUNK_POINTS or self.names_bytes > CHUNK_NAMES
        if (full and not self.refused) or time.monotonic() - self.since > CHUNK_SECONDS:
            self.flush()

    def flush(self) -> None:
        """Write out what is there. Raises as write_chunk and append do; the points are then still here."""
        if not self.points:
            return
        self.since, self.refused = time.monotonic(), True
        folder = f"{self.log.writer.id.hex()}-{self.run}"  # one writer records many runs, one after another
        number, self.chunks = self.chunks, self.chunks + 1
        event = points.write_chunk(self.log.root, self.run, self.source, folder, number, self.points)
        self.log.writer.append([Draft(f"run/{self.run}", event)])
        self.points, self.names, self.names_bytes, self.refused = [], set(), 0, False


# ── one process at a time, and its signals ──


@contextlib.contextmanager
def _only_one(log: Log, experiment: str) -> Iterator[None]:
    """Two processes that run one experiment would run its cells twice."""
    path = os.path.join(log.root, "tmp", f"experiment-{experiment}.lock")
    try:
        os.makedirs(os.path.dirname(path), exist_ok=True)  # an empty folder does not survive every copy
        file = open(path, "a+")  # noqa: SIM115 - closed below, at the end of the session
    except OSError as error:
        raise UsageError(f"cannot run here: {path}: {os.strerror(error.errno or 0)}") from None
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            file.seek(0)
            raise Conflict(
                f"another `ledger run` (process {file.read().strip() or 'unknown'}) is running this experiment; "
                "wait for it or stop it"
            ) from None
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield


@contextlib.contextmanager
def _signals_interrupt() -> Iterator[None]:
    """A polite kill ends a session as Ctrl-C does: children stopped, the outcome recorded."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    # Python's own handler, not one of ours: run_command then knows that it may pass the signal on to the
    # child first. What nohup ignores stays ignored.
    with _handled((signal.SIGTERM, signal.SIGHUP), signal.default_int_handler):
        yield


@contextlib.contextmanager
def _no_interrupt() -> Iterator[None]:
    """A second Ctrl-C (or kill) must not stop the recording of the first."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    with _handled((signal.SIGINT, signal.SIGTERM, signal.SIGHUP), signal.SIG_IGN):
        yield


@contextlib.contextmanager
def _handled(kinds: tuple[signal.Signals, ...], handler: Any) -> Iterator[None]:
    """`handler` for these signals, except for those that are ignored already; afterwards as before."""
    before = {kind: signal.getsignal(kind) for kind in kinds}
    before = {kind: known for kind, known in before.items() if known is not signal.SIG_IGN}
    for kind in before:
        signal.signal(kind, handler)
    try:
        yield
    finally:
        for kind, known in before.items():
            signal.signal(kind, known)

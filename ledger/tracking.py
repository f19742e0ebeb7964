"""What a training script calls: init, log, finish. It must never kill or stall the training it records.

`log` only puts numbers into a spool (spool.py), where a kill -9 cannot reach them; a thread writes
them out every few seconds. `log` and `finish` raise nothing: what could not be recorded is counted
and told once on stderr. Only `init` raises, before any training has been paid for.

Under `ledger run` the child's `init` joins the run that started it (LEDGER_RUN_ID): the parent owns
the start and the outcome, the child adds points.
"""

from __future__ import annotations

import atexit
import concurrent.futures.thread  # noqa: F401 - pyarrow may come only with a flush at exit; it needs this before
import contextlib
import functools
import os
import platform
import resource
import secrets as random
import sys
import threading
import time
import weakref
from collections import deque
from collections.abc import Iterator, Mapping
from hashlib import sha256
from queue import Empty, SimpleQueue
from typing import Any, get_args

from ledger import canonical, disk, events, layout, points, secrets, spool
from ledger.chain import Log
from ledger.errors import LedgerError, Unknown, UsageError
from ledger.spool import NAMES_BYTES, Spool
from ledger.writer import Draft, uuid7

FLUSH_POINTS = 65_536
FLUSH_SECONDS = 5.0
KEEP_POINTS = 16 * FLUSH_POINTS  # beyond this the disk has been refusing for long: drop, and say so
STALL_SECONDS = 1.0  # that `log` waits at most for a disk that takes points more slowly than they come
NAME_LENGTH = 400  # characters of one metric's name
WARNINGS = 20  # different ones a run tells


class Run:
    """One run being recorded. Made by `ledger.init`; a context manager that records how the block ended."""

    def __init__(self, log: Log, run: str, metric: str | None, joined: bool, seconds: float | None = None) -> None:
        self.id = run
        self.metric = metric
        self.dropped = 0  # values that were not numbers, or that the disk refused
        self._log = log
        self._joined = joined
        self._pid = os.getpid()
        self._writer = random.token_hex(16)  # the folder of its chunks
        self._chunks = 0
        self._spool: Spool | None = None  # that `log` fills
        self._full: deque[Spool] = deque()  # that wait for the disk, the oldest first
        self._last: dict[str, events.FinalMetric] = {}
        self._step = -1
        self._limit = FLUSH_POINTS
        self._seconds = FLUSH_SECONDS if seconds is None else max(0.01, seconds)
        self._lock = threading.RLock()  # of the spool; a signal handler may log while it is held
        self._flushing = threading.RLock()
        self._publishing = False
        self._wake: SimpleQueue[None] = SimpleQueue()  # an Event may hang when a signal handler sets it
        self._open = True  # False when it has ended, and in a forked child
        self._done = False
        self._refused = False  # whether the disk refused the last flush
        self._warned: set[str] = set()
        self._started_at = layout.now_text()
        self._clock = time.perf_counter()
        _runs.add(self)
        self._thread = threading.Thread(target=self._flush_often, name="ledger-metrics", daemon=True)
        self._thread.start()
        atexit.register(self._at_exit)

    def log(self, values: Mapping[str, Any], step: int | None = None, *, sync: bool = False) -> None:
        """Record metrics at a step (default: the last step plus one). Nested maps become dotted names.

        They survive the death of this process at once, a power cut after a few seconds, or, with
        `sync`, when this returns. Raises nothing: what is not a number is dropped, counted in
        `dropped`, and told once.
        """
        taken = False
        try:
            if self._open:  # the quick way: names that came before, and numbers
                at = self._step + 1 if step is None else step
                with self._lock:
                    into = self._spool
                    if into is not None and at.__class__ is int and into.add(tuple(values), at, values.values()):
                        taken = True
                        self._step = at
                if taken and not sync and into.points < self._limit:  # type: ignore[union-attr]
                    return
        except Exception:  # the other way finds out what is wrong
            pass
        self._log_any(values, step, sync, taken)

    def _log_any(self, values: Mapping[str, Any], step: int | None, sync: bool, taken: bool) -> None:
        try:
            if not self._open:
                self._drop("log", "the run has ended" if self._done else "a forked process cannot log into its run")
                return
            if not taken:
                at = self._step + 1 if step is None else int(step)
                if not canonical.INT64_MIN <= at <= canonical.INT64_MAX:
                    raise UsageError(f"step {at:.3e} does not fit into 64 bits")
                numbers = _numbers(values, "", self._drop)
                with self._lock:
                    self._step = at
                    for names, row in _pieces(numbers, self._limit):
                        self._take(names, at, row)
            if self._spool is not None and self._spool.points >= self._limit:
                self._make_room()
            if sync:
                self.flush()
        except Exception as error:
            self._drop("log", error)

    def _take(self, names: tuple[str, ...], at: int, row: list[float]) -> None:
        """Put one row into the spool, or into a new one where this has no place for it. The lock is held."""
        into = self._spool
        if into is not None:
            if (names in into.shapes or into.define(names)) and into.add(names, at, row):
                return
            self._cut()
        if sum(waiting.points for waiting in list(self._full)) >= KEEP_POINTS:
            self.dropped += len(row)
            return
        into = self._spool = self._new_spool()
        if not (into.define(names) and into.add(names, at, row)):
            raise LedgerError(f"{len(names)} metrics do not fit into an empty spool")

    def _new_spool(self) -> Spool:
        number, self._chunks = self._chunks, self._chunks + 1
        label = spool.Label(
            ledger=self._log.identity.id,
            run=self.id,
            source="api",
            chunk=f"chunk/{self._writer}/{number:08d}.parquet",
            event_id=str(uuid7(layout.now_us())),
            limit=self._limit,
            boot=spool.boot(),
        )
        try:
            return spool.create(self._log.root, label)
        except (OSError, ValueError) as error:
            self._warn("spool", f"if this process is killed, up to {self._seconds:g} s of points are lost: {error}")
            return spool.in_memory(label)

    def _cut(self) -> None:
        """Begin no longer to fill the present spool. The lock is held."""
        if self._spool is not None:
            self._full.append(self._spool)
            self._spool = None

    def _make_room(self) -> None:
        """Hand the full spool to the thread; wait a moment for a disk that is well but behind."""
        with self._lock:
            self._cut()
        self._wake.put(None)
        until = time.monotonic() + STALL_SECONDS
        while len(self._full) > 2 and not self._refused and time.monotonic() < until:
            time.sleep(0.002)

    def probe(
        self, probe: str, values: Mapping[str, float], *, subject: str = "", method: str = "", unit: str = ""
    ) -> None:
        """Record a diagnostic of this run as a `probe.measured` event. Raises nothing."""
        try:
            measured = tuple(
                events.Probed(name, canonical.tag(float(value)), unit) for name, value in sorted(values.items())
            )
            self._append(
                events.ProbeMeasured(
                    run=self.id,
                    probe=probe,
                    subject=subject,
                    method=method,
                    params=(),
                    values=measured,
                    artifact=None,
                )
            )
        except Exception as error:
            self._drop(f"probe {probe}", error)

    def artifact(self, path: str | os.PathLike[str], *, name: str | None = None, kind: str = "file") -> str | None:
        """Keep a file by content; its SHA-256. Raises nothing: None when it could not be kept."""
        try:
            with open(path, "rb") as file:
                data = file.read()
            digest = self._log.blobs.put(data)
            self._append(
                events.ArtifactStored(
                    run=self.id,
                    experiment=None,
                    name=name or os.path.basename(os.fspath(path)),
                    kind=kind,
                    sha256=digest,
                    bytes=len(data),
                    left_out=0,
                    media_type="application/octet-stream",
                )
            )
        except Exception as error:
            self._drop(f"artifact {path}", error)
            return None
        return digest

    def flush(self) -> None:
        """Write out what is buffered. Raises nothing; what the disk refuses is tried again later."""
        if self._lock._is_owned():  # type: ignore[attr-defined]
            self._wake.put(None)  # a signal handler in the middle of `log`: the thread waits until that is done
        elif os.getpid() == self._pid:
            self._flush()

    def _flush(self) -> None:
        cut = False
        while not cut:
            with self._lock:  # never asked for while `_flushing` is held: a signal handler may hold it
                if cut := not self._full:
                    self._cut()
            with self._flushing:
                if self._publishing:  # a signal handler in the middle of it; the spool keeps what is left
                    return
                self._publishing = True
                try:
                    self._publish_full()
                finally:
                    self._publishing = False
                cut = cut or self._refused

    def _publish_full(self) -> None:
        """The spools that wait, in order, until the disk refuses one."""
        while self._full:
            waiting = self._full[0]
            try:
                columns = waiting.columns()
                if columns is not None:
                    self._remember(columns)
                    self._publish(waiting.label, columns)
            except UsageError as error:  # no later try can succeed
                self.dropped += waiting.points
                self._drop(None, error)
            except Exception as error:
                self._refused = True
                self._drop(None, error)
                return
            self._full.popleft().discard()
            self._refused = False

    def _publish(self, label: spool.Label, columns: points.Columns) -> None:
        event = points.publish(self._log.root, label.chunk, label.run, label.source, columns)
        try:
            self._append(event, label.event_id)
        except Unknown:
            raise
        except LedgerError:  # nothing names the chunk: it would only fill the disk
            disk.remove(os.path.join(self._log.root, event.chunk))
            raise

    def _remember(self, columns: points.Columns) -> None:
        """Keep the last value of each metric, for the outcome."""
        last = dict(zip(columns.codes.tolist(), range(len(columns.codes)), strict=True))
        for code, at in last.items():
            value = canonical.tag(float(columns.values[at]))
            self._last[columns.names[code]] = events.FinalMetric(columns.names[code], value, int(columns.steps[at]))

    def finish(self, status: events.Status = "ok", *, reason: str = "", **final: float) -> None:
        """End the run. Keyword arguments are final metrics (`run.finish(val_bpb=1.21)`). Raises nothing.

        A status that is none of events.Status is recorded as a crash that names it.
        """
        if self._done or os.getpid() != self._pid:
            return
        if final:
            self.log(final, self._step if self._step >= 0 else 0)
        self._done, self._open = True, False
        self._wake.put(None)
        atexit.unregister(self._at_exit)
        self._flush()
        self._leave()
        if not self._joined:
            try:
                if status not in get_args(events.Status):
                    status, reason = "crash", f"finished with status {status!r} {reason}"
                self._append(self._outcome(status, _sayable(reason)))
            except Exception as error:
                self._drop(None, error)
        with contextlib.suppress(Exception):
            self._log.close()

    def _leave(self) -> None:
        """What the disk still refuses stays in its spool for the next opener of the ledger, if it has a file."""
        with self._lock:
            self._cut()
        with self._flushing:
            if self._publishing:  # this is a signal handler in the middle of a flush, which goes on after it
                return
            left = list(self._full)
            self._full.clear()
        for waiting in left:
            with contextlib.suppress(Exception):
                if (columns := waiting.columns()) is not None:
                    self._remember(columns)
            waiting.release()
        lost = sum(waiting.points for waiting in left if not waiting.path)
        kept = sum(waiting.points for waiting in left if waiting.path)
        if lost:
            self.dropped += lost
            self._warn("points", f"{lost} points could not be recorded")
        if kept:
            self._warn("kept", f"{kept} points are still in spool/; the next to write to this ledger brings them in")

    def _outcome(self, status: events.Status, reason: str) -> events.RunFinished:
        last = self._last.get(self.metric or "")
        if status == "ok" and self.metric and last is None:
            status, reason = "no_metric", f"the run logged no {self.metric}"
        elif status == "ok" and last is not None and isinstance(last.value, str):
            status, reason = "diverged", f"{self.metric} is {last.value}"
        usage = resource.getrusage(resource.RUSAGE_SELF)
        return events.RunFinished(
            run=self.id,
            status=status,
            reason=reason,
            exit_code=None,
            signal=None,
            metric=self.metric,
            value=last.value if last else None,
            pre_value=None,
            finals=self._finals(),
            steps=self._step + 1 if self._step >= 0 else None,
            tokens=None,
            wall_s=time.perf_counter() - self._clock,
            cpu_s=usage.ru_utime + usage.ru_stime,
            peak_memory_bytes=usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024),
            artifact_bytes=None,
            cost=None,
            extractor=None,
            started_at=self._started_at,
            ended_at=layout.now_text(),
        )

    def _finals(self) -> tuple[events.FinalMetric, ...]:
        """The last values by name: 200 of them at most, and no more than an event holds."""
        names, room = [], NAMES_BYTES
        for name in sorted(self._last, key=lambda name: (name != self.metric, name))[:200]:
            if (room := room - len(canonical.text(name))) >= 0:
                names.append(name)
        return tuple(self._last[name] for name in sorted(names))

    def _append(self, data: events.EventData, event_id: str | None = None) -> None:
        """Append one event, once, also where the log could not tell whether it got there."""
        draft = Draft(f"run/{self.id}", data, event_id=event_id or str(uuid7(layout.now_us())))
        try:
            self._log.writer.append([draft], again=event_id is not None and self._refused)
        except Unknown as unknown:
            try:
                self._log = Log(self._log.root)  # the writer whose sync failed is done for
                self._log.writer.append([draft], again=True)
            except Exception as error:
                raise unknown from error

    def _flush_often(self) -> None:
        while not self._done:
            if self._refused:  # a full buffer must not try without a pause
                time.sleep(self._seconds)
            with contextlib.suppress(Empty):
                self._wake.get(timeout=0 if self._refused else self._seconds)
            if not self._done:
                self.flush()

    def _at_exit(self) -> None:
        self._ended(getattr(sys, "last_value", None))

    def _ended(self, error: BaseException | None) -> None:
        """Finish as the exception says that ended the script or the block."""
        if error is None or (isinstance(error, SystemExit) and not error.code):
            self.finish()
        elif isinstance(error, KeyboardInterrupt):
            self.finish("interrupted", reason="interrupted from the keyboard")
        else:
            try:
                reason = f"{type(error).__name__}: {error}"
            except Exception:
                reason = type(error).__name__
            memory = isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"
            self.finish("oom" if memory else "crash", reason=reason)

    def __enter__(self) -> Run:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> None:
        self._ended(error)

    def _drop(self, what: str | None, error: Exception | str) -> None:
        if what is not None:
            self.dropped += 1
        with contextlib.suppress(Exception):  # an error whose text cannot be made
            self._warn(what or type(error).__name__, f"{what or 'metrics'}: {error}")

    def _warn(self, key: str, message: str) -> None:
        if key not in self._warned and len(self._warned) < WARNINGS:
            self._warned.add(key)
            _tell(f"{' '.join(message.split())[:300]} (said once; training goes on)")


def _numbers(values: Mapping[str, Any], prefix: str, drop: Any) -> list[tuple[str, float]]:
    found: list[tuple[str, float]] = []
    for name, value in values.items():
        full = f"{prefix}{name}"
        if isinstance(value, Mapping):
            found += _numbers(value, f"{full}.", drop)
            continue
        try:
            if isinstance(value, (str, bytes)):
                raise TypeError
            number = float(value)
        except Exception:  # a tensor of a lost device raises whatever it likes
            drop(full[:100], f"{type(value).__name__} is not a number, dropped")
            continue
        if wrong := _wrong_name(full):
            drop(ascii(full[:50]), f"{wrong}; dropped")
            continue
        found.append((full, number))
    return found


@functools.lru_cache(16_384)
def _wrong_name(name: str) -> str:
    """Why a name cannot enter the log, "" when it can."""
    if len(name) > NAME_LENGTH or not name.isprintable():
        return f"a metric's name is printable, with {NAME_LENGTH} characters at most"
    kind = secrets.find(name)
    return f"a metric's name holds what looks like a {kind}" if kind else ""


def _pieces(numbers: list[tuple[str, float]], limit: int) -> Iterator[tuple[tuple[str, ...], list[float]]]:
    """Names and values, in as many pieces as it takes for the names of each to fit into one event."""
    start, room = 0, NAMES_BYTES
    for index, (name, _) in enumerate(numbers):
        room -= spool.cost(name)
        if index > start and (room < 0 or index - start == limit):
            yield tuple(name for name, _ in numbers[start:index]), [value for _, value in numbers[start:index]]
            start, room = index, NAMES_BYTES - spool.cost(name)
    if numbers:
        yield tuple(name for name, _ in numbers[start:]), [value for _, value in numbers[start:]]


def _sayable(reason: object) -> str:
    """A reason as an event can hold it: one short line of Unicode without access tokens."""
    line = " ".join(str(reason or "").split()).encode("utf-8", "replace")
    return secrets.redact(line)[0].decode("utf-8", "replace")[:300]


def _tell(message: str) -> None:
    with contextlib.suppress(Exception):  # stderr may be closed
        if sys.stderr is not None:
            print(f"ledger: {message}", file=sys.stderr)


_current: Run | None = None
_runs: weakref.WeakSet[Run] = weakref.WeakSet()  # of this process


def _in_child() -> None:
    for run in list(_runs):
        run._open = False
    _runs.clear()


os.register_at_fork(after_in_child=_in_child)


def init(
    *,
    config: Mapping[str, Any] | None = None,
    seed: int | None = None,
    metric: str | None = "val_bpb",
    experiment: str | None = None,
    arm: str = "baseline",
    role: events.Role = "single",
    seed_role: events.SeedRole = "confirm",
    base: str | None = None,
    scale: str | None = None,
    stage: events.Stage = "train",
    pair_tier: events.PairTier = "none",
    path: str | os.PathLike[str] | None = None,
    flush_seconds: float | None = None,
) -> Run:
    """Begin to record a run and make it the one that `ledger.log` means.

    Under `ledger run` (LEDGER_RUN_ID is set) it joins the run that is being recorded already, and
    everything but `metric` is known. Else a run is started in the ledger at `path` (default
    LEDGER_HOME, else ./warehouse, which is created). `base` is the fingerprint of what the run was
    before its intervention; its default is made from the main script's text and the metric's name.
    `scale` names what is about as noisy, over bases; without it a run shares its noise with its base.
    `flush_seconds` (default 5): how many seconds of points a power cut may cost.

    Raises LedgerError when nothing could be recorded: before training, not during it.
    """
    global _current
    if _current is not None:
        _current.finish()
    joined = os.environ.get("LEDGER_RUN_ID")
    if joined:
        if not events.STREAM_PATTERN.fullmatch(f"run/{joined}"):
            raise UsageError(f"LEDGER_RUN_ID is {joined!r}, which is not the id of a run")
        run = Run(Log(path), joined, metric, True, flush_seconds)
    else:
        log = Log.create() if path is None and not os.environ.get("LEDGER_HOME") else Log(path)
        name = random.token_hex(8)
        log.writer.append(
            [
                Draft(
                    f"run/{name}",
                    _start(
                        name,
                        config or {},
                        seed,
                        metric,
                        experiment,
                        arm,
                        role,
                        seed_role,
                        base,
                        scale,
                        stage,
                        pair_tier,
                    ),
                )
            ]
        )
        run = Run(log, name, metric, False, flush_seconds)
    _current = run
    return run


def _start(
    run: str,
    config: Mapping[str, Any],
    seed: int | None,
    metric: str | None,
    experiment: str | None,
    arm: str,
    role: events.Role,
    seed_role: events.SeedRole,
    base: str | None,
    scale: str | None,
    stage: events.Stage,
    pair_tier: events.PairTier,
) -> events.RunStarted:
    where = f"{platform.system()} {platform.machine()}"
    code = None
    with contextlib.suppress(OSError), open(sys.argv[0], "rb") as file:
        code = sha256(file.read()).hexdigest()
    settings = events.named(dict(config))
    base = base or sha256(canonical.encode({"code": code, "metric": metric, "platform": where})).hexdigest()[:16]
    cell = sha256(canonical.encode({"base": base, "arm": arm, "config": settings, "seed": seed})).hexdigest()[:16]
    return events.RunStarted(
        run=run,
        experiment=experiment,
        arm=arm,
        role=role,
        seed=seed,
        seed_role=seed_role,
        base=base,
        cell=cell,
        noise_class=events.NoiseClass(where, scale or f"unstated {base[:8]}", metric or "", stage),
        pair_tier=pair_tier,
        block=run,
        stage=stage,
        fork_of=None,
        runner="api/1",
        command=(os.path.basename(sys.argv[0]), *sys.argv[1:]) if sys.argv else (),
        config=settings,
        env=(),
        environment=None,
        python=platform.python_version(),
        platform=where,
        hardware_class=where,
        code=code,
        git_commit=None,
        git_dirty=None,
        git_diff=None,
        data=(),
        host=sha256(platform.node().encode()).hexdigest()[:16],
        boot="",
        pid=os.getpid(),
    )


def log(values: Mapping[str, Any], step: int | None = None, *, sync: bool = False) -> None:
    """Record metrics in the run that `init` began. Raises nothing; without a run it says so once."""
    global _told
    if _current is not None:
        _current.log(values, step, sync=sync)
    elif not _told:
        _told = True
        _tell("ledger.log was called before ledger.init; nothing is recorded (said once)")


_told = False


def finish(status: events.Status = "ok", *, reason: str = "", **final: float) -> None:
    """End the run that `init` began. Raises nothing."""
    global _current
    if _current is not None:
        _current.finish(status, reason=reason, **final)
        _current = None


__all__ = ["LedgerError", "Run", "UsageError", "finish", "init", "log"]

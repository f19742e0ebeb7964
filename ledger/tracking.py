"""What a training script calls: init, log, finish. It must never kill or stall the training it records.

`log` only puts numbers into a list; a thread writes them out every few seconds. `log` and `finish`
raise nothing: what could not be recorded is counted and told once on stderr. Only `init` raises,
before any training has been paid for.

Under `ledger run` the child's `init` joins the run that started it (LEDGER_RUN_ID): the parent owns
the start and the outcome, the child adds points.
"""

from __future__ import annotations

import atexit
import concurrent.futures.thread  # noqa: F401 - pyarrow may come only with a flush at exit; it needs this before
import contextlib
import os
import platform
import resource
import secrets as random
import sys
import threading
import time
from collections.abc import Mapping
from hashlib import sha256
from typing import Any, get_args

from ledger import canonical, disk, events, layout, points, secrets
from ledger.chain import Log
from ledger.errors import LedgerError, Unknown, UsageError
from ledger.writer import Draft, uuid7

FLUSH_POINTS = 65_536
FLUSH_SECONDS = 5.0
KEEP_POINTS = 4 * FLUSH_POINTS  # beyond this the disk has been refusing for long: drop, and say so
NAME_LENGTH = 400  # characters of one metric's name
NAMES_BYTES = 32_768  # of all names in one event, which holds 48 KiB
WARNINGS = 20  # different ones a run tells


class Run:
    """One run being recorded. Made by `ledger.init`; a context manager that records how the block ended."""

    def __init__(self, log: Log, run: str, metric: str | None, joined: bool) -> None:
        self.id = run
        self.metric = metric
        self.dropped = 0  # values that were not numbers, or that the disk refused
        self._log = log
        self._joined = joined
        self._pid = os.getpid()
        self._points: list[points.Point] = []
        self._last: dict[str, events.FinalMetric] = {}
        self._chunks = 0
        self._step = -1
        self._lock = threading.Lock()
        self._flushing = threading.Lock()
        self._wake = threading.Event()
        self._done = False
        self._refused = False  # whether the disk refused the last flush
        self._warned: set[str] = set()
        self._started_at = layout.now_text()
        self._clock = time.perf_counter()
        self._thread = threading.Thread(target=self._flush_often, name="ledger-metrics", daemon=True)
        self._thread.start()
        atexit.register(self._at_exit)

    def log(self, values: Mapping[str, Any], step: int | None = None) -> None:
        """Record metrics at a step (default: the last step plus one). Nested maps become dotted names.

        Raises nothing: what is not a number is dropped, counted in `dropped`, and told once.
        """
        try:
            if self._done or os.getpid() != self._pid:
                self._drop("log", "the run has ended" if self._done else "a forked process cannot log into its run")
                return
            now = layout.now_us()
            at = self._step + 1 if step is None else int(step)
            if not canonical.INT64_MIN <= at <= canonical.INT64_MAX:
                raise UsageError(f"step {at:.3e} does not fit into 64 bits")
            taken = [(at, name, value, now) for name, value in _numbers(values, "", self._drop)]
            with self._lock:
                self._step = at
                if len(self._points) > KEEP_POINTS:
                    self.dropped += len(taken)
                    return
                self._points += taken
                full = len(self._points) >= FLUSH_POINTS
            for at, name, value, _ in taken:
                self._last[name] = events.FinalMetric(name, canonical.tag(value), at)
            if full:
                self._wake.set()
        except Exception as error:
            self._drop("log", error)

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
        if os.getpid() != self._pid:
            return
        with self._flushing:
            with self._lock:
                taken, self._points = self._points, []
            while taken:
                part = taken[: _fitting(taken)]
                try:
                    self._write(part)
                except UsageError as error:  # no later try can succeed
                    self.dropped += len(part)
                    self._drop(None, error)
                except Exception as error:
                    with self._lock:
                        self._points[:0] = taken
                    self._refused = True
                    self._drop(None, error)
                    return
                taken = taken[len(part) :]
            self._refused = False

    def _write(self, taken: list[points.Point]) -> None:
        log = self._log
        number, self._chunks = self._chunks, self._chunks + 1
        event = points.write_chunk(log.root, self.id, "api", log.writer.id.hex(), number, taken)
        try:
            self._append(event)
        except Unknown:
            raise
        except LedgerError:  # nothing names the chunk: it would only fill the disk
            disk.remove(os.path.join(log.root, event.chunk))
            raise

    def finish(self, status: events.Status = "ok", *, reason: str = "", **final: float) -> None:
        """End the run. Keyword arguments are final metrics (`run.finish(val_bpb=1.21)`). Raises nothing.

        A status that is none of events.Status is recorded as a crash that names it.
        """
        if self._done or os.getpid() != self._pid:
            return
        if final:
            self.log(final, self._step if self._step >= 0 else 0)
        self._done = True
        self._wake.set()
        atexit.unregister(self._at_exit)
        self.flush()
        if self._points:  # the disk still refuses
            self.dropped += len(self._points)
            self._warn("points", f"{len(self._points)} points could not be recorded")
        if not self._joined:
            try:
                if status not in get_args(events.Status):
                    status, reason = "crash", f"finished with status {status!r} {reason}"
                self._append(self._outcome(status, _sayable(reason)))
            except Exception as error:
                self._drop(None, error)
        with contextlib.suppress(Exception):
            self._log.close()

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

    def _append(self, data: events.EventData) -> None:
        """Append one event; where the log cannot tell whether it got there, look, and only then repeat."""
        draft = Draft(f"run/{self.id}", data, event_id=str(uuid7(layout.now_us())))
        start = self._log.size
        try:
            self._log.writer.append([draft])
        except Unknown as unknown:
            try:
                self._log = Log(self._log.root)  # the writer whose sync failed is done for
                after = self._log.events(start=start, stream=draft.stream)
                found = any(event.event_id == draft.event_id for event in after)
            except Exception as error:
                raise unknown from error
            if not found:
                self._log.writer.append([draft])

    def _flush_often(self) -> None:
        while not self._done:
            if self._refused:  # a full buffer must not try without a pause
                time.sleep(FLUSH_SECONDS)
            else:
                self._wake.wait(FLUSH_SECONDS)
            self._wake.clear()
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
        if len(full) > NAME_LENGTH or not full.isprintable():
            drop(ascii(full[:50]), f"a metric's name is printable, with {NAME_LENGTH} characters at most; dropped")
            continue
        found.append((full, number))
    return found


def _fitting(taken: list[points.Point]) -> int:
    """How many of the points, from the first, have names that fit into one event."""
    names: set[str] = set()
    room = NAMES_BYTES
    for index, point in enumerate(taken):
        if point[1] not in names:
            names.add(point[1])
            room -= len(canonical.text(point[1])) + 1
            if room < 0 and index:
                return index
    return len(taken)


def _sayable(reason: object) -> str:
    """A reason as an event can hold it: one short line of Unicode without access tokens."""
    line = " ".join(str(reason or "").split()).encode("utf-8", "replace")
    return secrets.redact(line)[0].decode("utf-8", "replace")[:300]


def _tell(message: str) -> None:
    with contextlib.suppress(Exception):  # stderr may be closed
        if sys.stderr is not None:
            print(f"ledger: {message}", file=sys.stderr)


_current: Run | None = None


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
    scale: str = "unstated",
    stage: events.Stage = "train",
    pair_tier: events.PairTier = "none",
    path: str | os.PathLike[str] | None = None,
) -> Run:
    """Begin to record a run and make it the one that `ledger.log` means.

    Under `ledger run` (LEDGER_RUN_ID is set) it joins the run that is being recorded already, and
    everything but `metric` is known. Else a run is started in the ledger at `path` (default
    LEDGER_HOME, else ./warehouse, which is created). `base` is the fingerprint of what the run was
    before its intervention; its default is made from the main script's text and the metric's name.

    Raises LedgerError when nothing could be recorded: before training, not during it.
    """
    global _current
    if _current is not None:
        _current.finish()
    joined = os.environ.get("LEDGER_RUN_ID")
    if joined:
        if not events.STREAM_PATTERN.fullmatch(f"run/{joined}"):
            raise UsageError(f"LEDGER_RUN_ID is {joined!r}, which is not the id of a run")
        run = Run(Log(path), joined, metric, joined=True)
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
        run = Run(log, name, metric, joined=False)
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
    scale: str,
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
        noise_class=events.NoiseClass(platform=where, scale=scale, metric=metric or "", stage=stage),
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


def log(values: Mapping[str, Any], step: int | None = None) -> None:
    """Record metrics in the run that `init` began. Raises nothing; without a run it says so once."""
    global _told
    if _current is not None:
        _current.log(values, step)
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

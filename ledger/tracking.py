"""What a training script calls: init, log, finish. It must never kill or stall the training it records.

`log` only puts numbers into a list; a thread writes them out every few seconds. `log` and `finish`
raise nothing: what could not be recorded is counted and told once on stderr. Only `init` raises,
before any training has been paid for.

Under `ledger run` the child's `init` joins the run that started it (LEDGER_RUN_ID): the parent owns
the start and the outcome, the child adds points.
"""

from __future__ import annotations

import atexit
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
from typing import Any

from ledger import canonical, events, layout, points
from ledger.chain import Log
from ledger.errors import LedgerError, UsageError
from ledger.writer import Draft

FLUSH_POINTS = 65_536
FLUSH_SECONDS = 5.0
KEEP_POINTS = 4 * FLUSH_POINTS  # beyond this the disk has been refusing for long: drop, and say so


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
            now = layout.now_us()
            at = self._step + 1 if step is None else int(step)
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
        with self._flushing:
            with self._lock:
                taken, self._points = self._points, []
            if not taken:
                return
            try:
                writer = self._log.writer
                number, self._chunks = self._chunks, self._chunks + 1
                event = points.write_chunk(self._log.root, self.id, "api", writer.id.hex(), number, taken)
                self._append(event)
            except Exception as error:
                with self._lock:
                    self._points[:0] = taken
                self._drop(None, error)

    def finish(self, status: events.Status = "ok", *, reason: str = "", **final: float) -> None:
        """End the run. Keyword arguments are final metrics (`run.finish(val_bpb=1.21)`). Raises nothing."""
        if self._done or os.getpid() != self._pid:
            return
        if final:
            self.log(final, self._step if self._step >= 0 else 0)
        self._done = True
        self._wake.set()
        atexit.unregister(self._at_exit)
        self.flush()
        if self._points:
            self.dropped += len(self._points)
            self._warn("points", f"{len(self._points)} points could not be recorded")
        if not self._joined:
            try:
                self._append(self._outcome(status, reason))
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
            finals=tuple(self._last[name] for name in sorted(self._last)[:200]),
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

    def _append(self, data: events.EventData) -> None:
        self._log.writer.append([Draft(f"run/{self.id}", data)])

    def _flush_often(self) -> None:
        while not self._done:
            self._wake.wait(FLUSH_SECONDS)
            self._wake.clear()
            if not self._done:
                self.flush()

    def _at_exit(self) -> None:
        error = getattr(sys, "last_value", None)
        if error is not None:
            self.finish("crash", reason=f"{type(error).__name__}: {error}"[:300])
        else:
            self.finish()

    def __enter__(self) -> Run:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> None:
        if error is None:
            self.finish()
        elif isinstance(error, KeyboardInterrupt):
            self.finish("interrupted", reason="interrupted from the keyboard")
        else:
            self.finish("crash", reason=f"{type(error).__name__}: {error}"[:300])

    def _drop(self, what: str | None, error: Exception | str) -> None:
        if what is not None:
            self.dropped += 1
        self._warn(what or type(error).__name__, f"{what or 'metrics'}: {error}")

    def _warn(self, key: str, message: str) -> None:
        if key not in self._warned:
            self._warned.add(key)
            print(f"ledger: {' '.join(message.split())[:300]} (said once; training goes on)", file=sys.stderr)


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
            found.append((full, float(value)))
        except (TypeError, ValueError, OverflowError):
            drop(full, f"{type(value).__name__} is not a number, dropped")
    return found


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
        run = Run(Log(path), joined, metric, joined=True)
    else:
        log = Log.create() if path is None and "LEDGER_HOME" not in os.environ else Log(path)
        run = Run(log, random.token_hex(8), metric, joined=False)
        run._done = True  # until the start is on record, an exit must not record an end
        log.writer.append(
            [
                Draft(
                    f"run/{run.id}",
                    _start(
                        run.id,
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
        run._done = False
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
        print("ledger: ledger.log was called before ledger.init; nothing is recorded (said once)", file=sys.stderr)


_told = False


def finish(status: events.Status = "ok", *, reason: str = "", **final: float) -> None:
    """End the run that `init` began. Raises nothing."""
    global _current
    if _current is not None:
        _current.finish(status, reason=reason, **final)
        _current = None


__all__ = ["LedgerError", "Run", "UsageError", "finish", "init", "log"]

"""Any program as a runner: SEED and the arm's overrides in, metrics out of its text, nothing lost.

The complete text (bounded, its two ends kept) is stored beside the numbers that were read from it,
with the name of the reader, so that a better reader can go over old runs. A program may also log by
itself: it finds LEDGER_RUN_ID and LEDGER_HOME in its environment, and `ledger.init` joins this run.
"""

from __future__ import annotations

import math
import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec

from ledger.errors import UsageError
from ledger.secrets import redact
from runners import capture, logfile, turns
from runners.cells import Cell, Kept, OnPoint, Outcome, ShouldStop, Surroundings, surroundings
from runners.plan import Plan, PlanArm
from runners.process import CommandError, check_command, run_command
from runners.readout import EXTRACTOR, Readout

KEEP_BYTES = 16 << 20  # of each stream
WALLCLOCK, BEYOND = "MAX_WALLCLOCK_SECONDS", 120.0


class ScriptRunner:
    """Runs a plan's command once for each cell, as a process of its own."""

    name = "script/1"
    source = "stdout"

    def __init__(self, plan: Plan, ledger_home: str) -> None:
        assert plan.script is not None
        self.plan = plan
        self.gpus: Sequence[str] = ()
        self.script = plan.script
        self.metric = plan.metric
        self.timeout = plan.timeout
        self.home = ledger_home
        self.folder = Path.cwd()
        try:
            Readout(self.script.patterns)
        except ValueError as error:
            raise UsageError(str(error)) from None

    def at_once(self, jobs: int | None, gpus: Sequence[str], cooldown: float = 0.0) -> int:
        clock = any(beyond_wallclock({**os.environ, **self.environment(arm, 0)}) is not None for arm in self.plan.arm)
        self.gpus = gpus
        return turns.slots(self.plan, jobs, gpus, clock=clock, cooldown=cooldown)

    def surroundings(self) -> Surroundings:
        try:
            check_command(self.script.command, os.environ)
            environment = capture.capture_environment(self.script.capture, {**os.environ, **self.script.env})
        except (CommandError, capture.SecretInEnvironment) as error:
            raise UsageError(str(error)) from None
        # Bytes that are no UTF-8 are recorded escaped: a strange locale must not keep anybody from training.
        clean = {_text(name): _text(value) for name, value in environment.variables.items()}
        environment = msgspec.structs.replace(environment, variables=clean)
        if other := capture.other_python(self.script.command, os.environ):
            packages = capture.packages_of(other)
            environment = msgspec.structs.replace(environment, packages=packages or ())
        git = capture.capture_git(self.folder)
        return surroundings(environment, git, capture.code_digest(self.script.command, self.folder))

    def command(self, arm: PlanArm) -> tuple[str, ...]:
        return (*self.script.command, *arm.args)

    def environment(self, arm: PlanArm, seed: int) -> dict[str, str]:
        return {**self.script.env, **arm.env, "SEED": str(seed)}

    def config(self, arm: PlanArm) -> dict[str, object]:
        return {}

    def fork_of(self, arm: PlanArm, seed: int) -> str | None:
        return None

    def run(self, cell: Cell, on_point: OnPoint, should_stop: ShouldStop) -> Outcome:
        # A reader for each stream: the running step of one must not become the other's.
        readers = {stream: Readout(self.script.patterns) for stream in ("stdout", "stderr")}
        finals: dict[str, tuple[float, int | None]] = {}
        last_step = -1

        def on_line(stream: str, line: str) -> None:
            nonlocal last_step
            for point in readers[stream].feed(line):
                finals[point.name] = (point.value, point.step)
                # A value without a step belongs after the last one; -1 is before the first.
                last_step = last_step if point.step is None else point.step
                on_point(last_step, point.name, point.value)

        variables = self._variables(cell)
        before = logfile.look(self.script.log, self.folder) if self.script.log else {}
        with tempfile.TemporaryDirectory(prefix="ledger-run-") as folder:
            paths = {name: Path(folder) / name for name in readers}
            ended = run_command(
                self.command(cell.arm),
                env=variables,
                cwd=self.folder,
                timeout=self.timeout if self.timeout is not None else beyond_wallclock(variables),
                grace=self.script.grace,
                stdout_to=paths["stdout"],
                stderr_to=paths["stderr"],
                keep_bytes=KEEP_BYTES,
                on_line=on_line,
                heard=cell.signals,
            )
            left_out = {"stdout": ended.stdout_left_out, "stderr": ended.stderr_left_out}
            kept = tuple(_keep(name, path, left_out[name]) for name, path in paths.items())
        extractor, told = EXTRACTOR, ""
        if self.script.log and self.metric not in finals:
            found, told = self._logged(before)
            if found is not None:
                finals = {name: (point.value, point.step) for name, point in found.last.items()} | finals
                kept = (*kept, Kept("log", "log", redact(found.data)[0], found.left_out, "text/plain; charset=utf-8"))
                extractor = logfile.READER if self.metric in finals else EXTRACTOR
        return Outcome(
            status=ended.status,
            reason="; ".join(filter(None, (ended.reason, ended.trouble, told))),
            exit_code=ended.code,
            signal=ended.signal,
            finals=finals,
            steps=last_step if last_step >= 0 else None,
            wall_s=ended.wall_s,
            cpu_s=ended.cpu_s,
            peak_memory_bytes=ended.peak_memory_bytes,
            extractor=extractor,
            kept=kept,
        )

    def _logged(self, before: logfile.Seen) -> tuple[logfile.LogFile | None, str]:
        """The log file that this run wrote, and a line on what it told."""
        name = logfile.written(self.script.log, self.folder, before)
        if name is None:
            return None, f"no file {self.script.log} was written"
        try:
            found = logfile.read(name, self.folder, self.script.patterns)
        except OSError as error:
            return None, f"its log file {name} cannot be read: {error.strerror}"
        if self.metric in found.last:
            return found, f"{self.metric} was read from its log file {name}"
        return found, f"nor does its log file {name} tell {self.metric}"

    def _variables(self, cell: Cell) -> dict[str, str]:
        return {
            **os.environ,
            "PYTHONUNBUFFERED": "1",  # or the live line lags by a buffer
            **({"CUDA_VISIBLE_DEVICES": self.gpus[cell.slot % len(self.gpus)]} if self.gpus else {}),
            **self.environment(cell.arm, cell.seed),
            "LEDGER_HOME": self.home,
            "LEDGER_RUN_ID": cell.run,
        }


def beyond_wallclock(variables: Mapping[str, str]) -> float | None:
    """Seconds that a program may take by its own wall-clock limit and two minutes; None where it has none."""
    try:
        limit = float(variables.get(WALLCLOCK, ""))
    except ValueError:
        return None
    return limit + BEYOND if 0 < limit < math.inf else None


def _text(value: str) -> str:
    return value.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def _keep(name: str, path: Path, left_out: int) -> Kept:
    data = path.read_bytes() if path.exists() else b""
    return Kept(name, name, data, left_out, "text/plain; charset=utf-8")

"""Any program as a runner: SEED and the arm's overrides in, metrics out of its text, nothing lost.

The complete text (bounded, its two ends kept) is stored beside the numbers that were read from it,
with the name of the reader, so that a better reader can go over old runs. A program may also log by
itself: it finds LEDGER_RUN_ID and LEDGER_HOME in its environment, and `ledger.init` joins this run.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import msgspec

from ledger.errors import UsageError
from runners import capture
from runners.cells import Cell, Kept, OnPoint, Outcome, ShouldStop, Surroundings, surroundings
from runners.plan import Plan, PlanArm
from runners.process import CommandError, check_command, run_command
from runners.readout import EXTRACTOR, Readout

KEEP_BYTES = 16 << 20  # of each stream


class ScriptRunner:
    """Runs a plan's command once for each cell, as a process of its own."""

    name = "script/1"
    source = "stdout"

    def __init__(self, plan: Plan, ledger_home: str) -> None:
        assert plan.script is not None
        self.script = plan.script
        self.timeout = plan.timeout
        self.home = ledger_home
        self.folder = Path.cwd()
        try:
            Readout(self.script.patterns)
        except ValueError as error:
            raise UsageError(str(error)) from None

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

        with tempfile.TemporaryDirectory(prefix="ledger-run-") as folder:
            paths = {name: Path(folder) / name for name in readers}
            ended = run_command(
                self.command(cell.arm),
                env=self._variables(cell),
                cwd=self.folder,
                timeout=self.timeout,
                grace=self.script.grace,
                stdout_to=paths["stdout"],
                stderr_to=paths["stderr"],
                keep_bytes=KEEP_BYTES,
                on_line=on_line,
            )
            left_out = {"stdout": ended.stdout_left_out, "stderr": ended.stderr_left_out}
            kept = tuple(_keep(name, path, left_out[name]) for name, path in paths.items())
        return Outcome(
            status=ended.status,
            reason="; ".join(filter(None, (ended.reason, ended.trouble))),
            exit_code=ended.code,
            signal=ended.signal,
            finals=finals,
            steps=last_step if last_step >= 0 else None,
            wall_s=ended.wall_s,
            cpu_s=ended.cpu_s,
            peak_memory_bytes=ended.peak_memory_bytes,
            extractor=EXTRACTOR,
            kept=kept,
        )

    def _variables(self, cell: Cell) -> dict[str, str]:
        return {
            **os.environ,
            "PYTHONUNBUFFERED": "1",  # or the live line lags by a buffer
            **self.environment(cell.arm, cell.seed),
            "LEDGER_HOME": self.home,
            "LEDGER_RUN_ID": cell.run,
        }


def _text(value: str) -> str:
    return value.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def _keep(name: str, path: Path, left_out: int) -> Kept:
    data = path.read_bytes() if path.exists() else b""
    return Kept(name, name, data, left_out, "text/plain; charset=utf-8")

"""What a runner is: something that carries out one cell (one seed of one arm) and tells how it ended."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol, runtime_checkable

import msgspec

from ledger import events
from runners.capture import Environment, Git
from runners.plan import PlanArm

OnPoint = Callable[[int, str, float], None]  # step, name, value
OnCellPoint = Callable[[int, int, str, float], None]  # which of several cells, step, name, value
ShouldStop = Callable[[], str | None]  # a reason to stop, or None
INTERRUPTED = "interrupted"  # the reason that is no fault of the run's: it will be run again


class Surroundings(msgspec.Struct, frozen=True, kw_only=True):
    """What is the same for every cell of a session, captured once before the first."""

    code: str | None  # digest of the code that runs
    python: str
    platform: str
    hardware_class: str
    host: str
    boot: str
    environment: bytes  # JSON: packages, hardware, drivers, allowed variables
    git_commit: str | None = None
    git_dirty: bool | None = None
    git_diff: bytes | None = None
    data: tuple[events.Digest, ...] = ()


def surroundings(
    environment: Environment, git: Git | None, code: str | None, data: tuple[events.Digest, ...] = ()
) -> Surroundings:
    """What was captured, as it stands in the start of every run."""
    return Surroundings(
        code=code,
        python=environment.python,
        platform=environment.platform,
        hardware_class=environment.hardware.hardware_class,
        host=environment.host,
        boot=environment.boot,
        environment=msgspec.json.encode(environment),
        git_commit=git.commit if git else None,
        git_dirty=git.dirty if git else None,
        git_diff=git.diff if git else None,
        data=data,
    )


class Kept(NamedTuple):
    """Bytes that a run leaves behind. `left_out` counts what a bounded copy had to drop."""

    name: str
    kind: str
    data: bytes
    left_out: int
    media_type: str


class Cell(NamedTuple):
    """One seed of one arm, about to run."""

    run: str
    arm: PlanArm
    seed: int
    slot: int = 0  # of those that run at once
    signals: Sequence[int] = ()  # grows by those that come while several run at once


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """How a cell ended. `finals` are the last values by name, as (value, step)."""

    status: events.Status
    reason: str = ""
    exit_code: int | None = None
    signal: str | None = None
    finals: dict[str, tuple[float, int | None]] = {}
    steps: int | None = None
    tokens: int | None = None
    wall_s: float | None = None
    cpu_s: float | None = None
    peak_memory_bytes: int | None = None
    extractor: str | None = None
    kept: tuple[Kept, ...] = ()


class Runner(Protocol):
    """Carries out cells. Two implementations: any program (script.py), the built-in GPT (trainer.py)."""

    name: str  # name and version, recorded with every run
    source: str  # of the points: "stdout" or "trainer"

    def at_once(self, jobs: int | None, gpus: Sequence[str], cooldown: float = 0.0) -> int:
        """How many cells it will carry out at once, in slots from 0, spread over the GPUs. Raises UsageError."""
        ...

    def surroundings(self) -> Surroundings:
        """Capture what surrounds the runs. Raises UsageError for a command that cannot run."""
        ...

    def command(self, arm: PlanArm) -> tuple[str, ...]:
        """What is executed, for the record."""
        ...

    def environment(self, arm: PlanArm, seed: int) -> dict[str, str]:
        """The variables that are set for a cell, for the record."""
        ...

    def config(self, arm: PlanArm) -> dict[str, object]:
        """The settings in force, for the record."""
        ...

    def fork_of(self, arm: PlanArm, seed: int) -> str | None:
        """The run whose checkpoint this cell goes on from, if it does not train itself."""
        ...

    def run(self, cell: Cell, on_point: OnPoint, should_stop: ShouldStop) -> Outcome:
        """Carry out one cell. A failure is an outcome; KeyboardInterrupt becomes status interrupted."""
        ...


@runtime_checkable
class Closing(Protocol):
    """A runner that holds on to processes between its cells."""

    def close(self) -> None:
        """There are no more cells."""
        ...


@runtime_checkable
class Together(Protocol):
    """A runner that can carry out several cells at once: the seeds of an arm in one batch."""

    def groups(self, missing: Sequence[tuple[PlanArm, int]]) -> list[list[tuple[PlanArm, int]]]:
        """The same cells, in the order and in the groups in which they are to run."""
        ...

    def run_together(self, cells: Sequence[Cell], on_point: OnCellPoint, should_stop: ShouldStop) -> list[Outcome]:
        """Carry out a group. One outcome a cell, in their order."""
        ...

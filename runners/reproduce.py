"""Train a recorded run again from what the log holds of it, and compare every loss and every final figure.

On a CPU the same code, data, torch and kind of machine must give the same bits. Where one of them differs, or the run
was made on a GPU, on several devices, by the clock, or in one batch with other seeds, the figures must agree within a
stated tolerance, and what differs is said. A run on more GPUs than are here takes those that are. Nothing is changed
in the log; a figure that was not recorded is not compared.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Literal, NamedTuple

import msgspec

from ledger import events, points
from ledger.chain import Log
from ledger.errors import UsageError
from runners import capture
from runners.gpt_config import GptConfig
from runners.gpt_result import GptResult
from runners.trainer import BACKENDS, close_trainer, code_digest, hardware_class, here, open_text, open_trainer

TOLERANCE = 1e-3  # relative, where bits cannot be expected to agree
APART = ("quant_gap", "artifact_bytes", "pruned_codes")
COST = ("step_ms", "step_drift", "tokens_per_s", "temperature_c", "clock_mhz")  # of a machine, not of a model


class Differs(NamedTuple):
    """Something around the run that is not as it was."""

    what: Literal["code", "data", "library", "python", "hardware"]
    then: str
    now: str


class Compared(NamedTuple):
    """One figure. `deviation` is relative."""

    name: str
    step: int | None
    then: float
    now: float
    deviation: float


class Reproduced(NamedTuple):
    """What came out. `figures` are the final ones; `worst` is the loss of a step that is furthest from its own."""

    run: str
    arm: str
    seed: int
    status: str  # now
    status_then: str
    expected: Literal["bits", "tolerance"]
    why: tuple[str, ...]  # bits are not expected
    tolerance: float
    differs: tuple[Differs, ...]
    steps: int
    points: int  # losses compared
    points_equal: int  # bit by bit
    worst: Compared | None
    figures: tuple[Compared, ...]

    @property
    def exact(self) -> bool:
        return (
            self.status == self.status_then
            and self.points == self.points_equal
            and all(figure.then == figure.now for figure in self.figures)
        )

    @property
    def holds(self) -> bool:
        """Whether the run came out again, by what may be expected."""
        if self.expected == "bits" or self.status != self.status_then:
            return self.exact
        # A gap is the small difference of two figures that are compared already; bytes hold the code's as well, and
        # decide how many codes are pruned.
        figures = (figure for figure in self.figures if not figure.name.startswith(APART))
        compared = (*figures, *((self.worst,) if self.worst else ()))
        return all(figure.deviation <= self.tolerance for figure in compared)


def reproduce(
    log: Log, run: str, tell: Callable[[int, int, float], None], tolerance: float | None = None
) -> Reproduced:
    """Train `run` again. `tell(step, steps, loss)` hears of every step.

    Raises UsageError for a run that is not the built-in trainer's, that has no outcome which training could have, or
    whose text is not here.
    """
    start, end, losses = _recorded(log, run)
    try:
        config = GptConfig.from_record({item.name: item.value for item in start.config})
    except ValueError as error:
        raise UsageError(
            f"run {run[:8]} was configured for another version of the trainer ({error}); check out its commit "
            f"{start.git_commit or '(unknown)'}"
        ) from None
    backend = next(name for name, known in BACKENDS.items() if known.runner == start.runner)
    config = here(config, backend, f"run {run[:8]} cannot be trained here: ", fewer=True)
    text = open_text(config.data, config.shards)
    digests = dict(text.digests)
    if (then := {digest.name: digest.sha256 for digest in start.data}) != digests:
        name = sorted(name for name in {*then, *digests} if then.get(name) != digests.get(name))[0]
        raise UsageError(
            f"run {run[:8]} was trained on other data: {name} was {then.get(name, 'not there')[:12]}, here it is "
            f"{digests.get(name, 'not there')[:12]}; set `data` to the shards that it read"
        )
    differs = _surroundings(log, start, backend, config)
    now: dict[int, float] = {}
    finals: dict[str, float] = {}

    def on_log(step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            finals[name] = value
            if name == "train_loss":
                now[step] = value
                tell(step, config.steps, value)

    trainer = open_trainer(backend, text, config)
    try:
        assert start.seed is not None
        result: GptResult = trainer.train(config, start.seed, on_log=on_log)
    except (ValueError, RuntimeError, MemoryError) as error:
        raise UsageError(f"run {run[:8]} cannot be trained here: {error}") from None
    finally:
        close_trainer(trainer)
    both = sorted(losses.keys() & now.keys())
    compared = [_compare("train_loss", step, losses[step], now[step]) for step in both]
    recorded = {final.name: final.value for final in end.finals if isinstance(final.value, (int, float))}
    why = _no_bits(config, start, differs, result.device)
    return Reproduced(
        run=run,
        arm=start.arm,
        seed=start.seed,
        status=result.status,
        status_then=end.status,
        expected="tolerance" if why else "bits",
        why=why,
        tolerance=TOLERANCE if tolerance is None else tolerance,
        differs=tuple(differs),
        steps=result.steps,
        points=len(losses),
        points_equal=sum(one.then == one.now for one in compared),
        worst=max(compared, key=lambda one: one.deviation, default=None),
        figures=tuple(
            _compare(name, result.steps, float(recorded[name]), finals[name])
            for name in sorted(recorded.keys() & finals.keys())
            if name not in COST
        ),
    )


def _recorded(log: Log, run: str) -> tuple[events.RunStarted, events.RunFinished, dict[int, float]]:
    """The start, the outcome and the losses of a run. Raises UsageError where it cannot be trained again."""
    start: events.RunStarted | None = None
    end: events.RunFinished | None = None
    losses: dict[int, float] = {}
    for event in log.events(stream=f"run/{run}"):
        data = event.data
        if isinstance(data, events.RunStarted):
            start = data
        elif isinstance(data, events.RunFinished):
            end = data
        elif isinstance(data, events.MetricsLogged):
            chunk = points.read_chunk(log.root, data)
            rows = zip(*(chunk[name].to_pylist() for name in ("step", "name", "value")), strict=True)
            losses.update({step: value for step, name, value in rows if name == "train_loss"})
    if start is None:
        raise UsageError(f"run {run[:8]} has no start in this log")
    known = [backend.runner for backend in BACKENDS.values()]
    if start.runner not in known or start.seed is None:
        raise UsageError(
            f"run {run[:8]} was carried out by {start.runner}; only the built-in trainer's runs ({', '.join(known)}) "
            "hold all that training them again takes"
        )
    if end is None or end.status not in ("ok", "diverged"):
        how = "is not finished" if end is None else f"ended as {end.status}"
        raise UsageError(f"run {run[:8]} {how}: there is nothing that training it again could be compared with")
    return start, end, losses


def _surroundings(log: Log, start: events.RunStarted, backend: str, config: GptConfig) -> list[Differs]:
    """What around the run is not as it was."""
    now = capture.capture_environment(())
    packages = {package.name: package.version for package in now.packages}
    then = packages
    if start.environment is not None:
        told = msgspec.json.decode(log.blobs.get(start.environment))
        then = {package["name"]: package["version"] for package in told["packages"]}
    found: list[Differs] = []
    for name in (*BACKENDS[backend].packages, "numpy"):
        if then.get(name) != packages.get(name):
            old, new = (f"{name} {known.get(name, 'missing')}" for known in (then, packages))
            found.append(Differs("library", old, new))
    if start.python != now.python:
        found.append(Differs("python", start.python, now.python))
    hardware = hardware_class(now.hardware.hardware_class, backend, config)
    if start.hardware_class != hardware:
        found.append(Differs("hardware", start.hardware_class, hardware))
    code = code_digest(backend)
    # The library's version is part of the digest: another one says nothing of the code.
    if start.code != code and not any(one.what == "library" for one in found):
        commit = f" at commit {start.git_commit[:12]}" if start.git_commit else ""
        found.append(Differs("code", f"{(start.code or 'unknown')[:12]}{commit}", code[:12]))
    return found


def _no_bits(config: GptConfig, start: events.RunStarted, differs: list[Differs], device: str) -> tuple[str, ...]:
    """Why the same bits cannot be expected."""
    why = [f"{one.what} differs" for one in differs]
    if device != "cpu":
        why.append(f"{device} sums in no fixed order")
    if config.wallclock:
        why.append(f"its schedules followed the clock (wallclock {config.wallclock:g} s)")
    then = next((int(item.value) for item in start.config if item.name == "devices"), 1)
    if then > 1:
        why.append(f"{then} devices summed their gradients")
    if config.stack_seeds:
        why.append("it may have been trained in one batch with other seeds")
    return tuple(why)


def _compare(name: str, step: int | None, then: float, now: float) -> Compared:
    size = max(abs(then), abs(now))
    deviation = 0.0 if then == now else abs(then - now) / size if math.isfinite(size) and size else math.inf
    return Compared(name, step, then, now, deviation)

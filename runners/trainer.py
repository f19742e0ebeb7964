"""The built-in GPT as a runner: in process, set up once, every cell of a plan through one trainer.

A seed and an arm are all that differs between two cells; the data, the tokenizer and the compiled
shapes are shared. There are two backends, torch and MLX. A plan trains on one of them, and runs of two are
never compared: the runner's name, the code and the hardware class all tell which it was. A backend is
imported when a plan asks for it, not before. On several devices each run takes all of them, in processes of their
own (gpt_group.py), and runs that go at once have one each; this one stays what it is.
"""

from __future__ import annotations

import contextlib
import glob
import re
import time
from collections.abc import Mapping, Sequence
from functools import partial
from hashlib import sha256
from importlib import import_module, metadata
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from ledger import events
from ledger.chain import Log
from ledger.errors import UsageError
from runners import capture, fork, gpt_checkpoint, turns
from runners.cells import (
    INTERRUPTED,
    Cell,
    Kept,
    OnCellPoint,
    OnPoint,
    Outcome,
    ShouldStop,
    Surroundings,
    surroundings,
)
from runners.gpt_config import SHOWN, GptConfig, backend_of
from runners.gpt_data import CorpusSource
from runners.gpt_result import GptResult, code_files
from runners.gpt_schedule import fork_step
from runners.plan import Plan, PlanArm

if TYPE_CHECKING:
    from runners.corpus import Corpus


class Backend(NamedTuple):
    """Where a backend is. `runner` is recorded with every run; `packages` are what it imports."""

    runner: str
    module: str  # that has the Trainer
    packages: tuple[str, ...]
    label: str  # in the hardware class; torch was first, and has none


BACKENDS = {
    "torch": Backend("gpt/1", "runners.gpt_train", ("torch",), ""),
    "mlx": Backend("gpt-mlx/1", "runners.gpt_mlx_train", ("mlx",), " mlx"),
}


class GptRunner:
    """Trains cells with runners/gpt.py, or runners/gpt_mlx.py, on the embedded corpus or a folder of shards."""

    source = "trainer"

    def __init__(self, plan: Plan, log: Log) -> None:
        """Check every arm's settings before anything runs. Raises UsageError, also without torch."""
        assert plan.trainer is not None
        self.settings = plan.trainer
        self.metric = plan.metric
        self.configs: dict[str, GptConfig] = {}
        for arm in plan.arm:
            try:
                self.configs[arm.name] = GptConfig.from_dict({**self.settings, **arm.set})
            except ValueError as error:
                raise UsageError(f"arm {arm.name!r}: {error}") from None
        _comparable(plan.metric, self.configs)
        self.data = _one_text(self.configs)
        self.backend = _one_backend(self.configs)
        self.configs = _one_place(self.configs, self.backend)
        self.name = BACKENDS[self.backend].runner
        if plan.pair_tier == "fork":
            fork.check(self.configs)
        self._log = log if plan.pair_tier == "fork" else None
        self._forks: fork.Forks | None = None
        self.plan = plan
        self.jobs, self.gpus = 1, tuple[str, ...]()
        self._trainers: dict[int, Any] = {}  # by slot
        self._corpus: Corpus | None = None

    def at_once(self, jobs: int | None, gpus: Sequence[str], cooldown: float = 0.0) -> int:
        config = next(iter(self.configs.values()))
        if gpus and config.devices == 0:
            raise UsageError(
                "--gpus: devices = 0 lets a run take all that are here; say how many each takes (--devices 2)"
            )
        clock = any(each.wallclock for each in self.configs.values())
        self.jobs = turns.slots(self.plan, jobs, gpus, clock=clock, each=config.devices or 1, cooldown=cooldown)
        self.gpus = tuple(gpus)
        if self.jobs == 1 and not gpus:
            return 1
        asked = f"--jobs {self.jobs}" if self.jobs > 1 else f"--gpus {','.join(gpus)}"
        if self.backend != "torch":
            raise UsageError(f"{asked} is for backend 'torch': {self.backend} trains one run at a time, in one place")
        if any(each.stack_seeds for each in self.configs.values()):
            raise UsageError(f"{asked} does not go with stack_seeds, which trains the seeds of an arm in one batch")
        if gpus:
            from runners.gpt_device import find_device

            try:
                kind = find_device(config.device).type
            except ValueError as error:
                raise UsageError(str(error)) from None
            if kind != "cuda":
                raise UsageError(f"{asked}: torch sees no CUDA device here (device = {config.device!r})")
        return self.jobs

    def surroundings(self) -> Surroundings:
        self.configs = {arm: here(config, self.backend, f"arm {arm!r}: ") for arm, config in self.configs.items()}
        self._corpus = open_text(*self.data)
        for arm, config in self.configs.items():
            try:
                CorpusSource(self._corpus).check(config)
                _check_metric(self.metric, config, len(self._corpus.val))
            except ValueError as error:
                raise UsageError(f"arm {arm!r}: {error}") from None
        environment = capture.capture_environment(())
        git = capture.capture_git(None)
        data = tuple(
            events.Digest(name, digest, self._corpus.sizes[name])
            for name, digest in sorted(self._corpus.digests.items())
        )
        around = surroundings(environment, git, code_digest(self.backend), data)
        hardware = hardware_class(around.hardware_class, self.backend, next(iter(self.configs.values())))
        around = msgspec.structs.replace(around, hardware_class=hardware)
        self._forks = None if self._log is None else fork.Forks(self._log, around, self.configs)
        return around

    def command(self, arm: PlanArm) -> tuple[str, ...]:
        return ()

    def environment(self, arm: PlanArm, seed: int) -> dict[str, str]:
        return {}

    def config(self, arm: PlanArm) -> dict[str, Any]:
        return msgspec.structs.asdict(self.configs[arm.name]) | {"backend": self.backend}

    def groups(self, missing: Sequence[tuple[PlanArm, int]]) -> list[list[tuple[PlanArm, int]]]:
        """Singly as they come; with `stack_seeds` the seeds of an arm together, where its first stands."""
        found: dict[Any, list[tuple[PlanArm, int]]] = {}
        for arm, seed in missing:
            found.setdefault(arm.name if self.configs[arm.name].stack_seeds else (arm.name, seed), []).append(
                (arm, seed)
            )
        return list(found.values())

    def fork_of(self, arm: PlanArm, seed: int) -> str | None:
        held = self._held(arm, seed)
        return held.run if held else None

    def close(self) -> None:
        """End the processes that trained, where there are some."""
        while self._trainers:
            close_trainer(self._trainers.popitem()[1])

    def _held(self, arm: PlanArm, seed: int) -> fork.Checkpoint | None:
        return self._forks.find(self.configs[arm.name], self.config(arm), seed) if self._forks else None

    def run(self, cell: Cell, on_point: OnPoint, should_stop: ShouldStop) -> Outcome:
        (outcome,) = self.run_together([cell], lambda _, *point: on_point(*point), should_stop)
        return outcome

    def run_together(self, cells: Sequence[Cell], on_point: OnCellPoint, should_stop: ShouldStop) -> list[Outcome]:
        """Train the cells, of one arm, in one batch; one after another where they do not fit into memory together."""
        try:
            return self._run(cells, on_point, should_stop)
        except OutOfMemory as error:
            if len(cells) == 1:
                return [Outcome(status="oom", reason=str(error), wall_s=error.seconds, kept=error.kept)]
        alone: list[Outcome] = []
        for index, cell in enumerate(cells):
            if alone and alone[-1].status == "interrupted":
                alone.append(alone[-1])
                continue
            alone += self.run_together([cell], partial(_from, index, on_point), should_stop)
        return alone

    def _run(self, cells: Sequence[Cell], on_point: OnCellPoint, should_stop: ShouldStop) -> list[Outcome]:
        arm = cells[0].arm
        config = self.configs[arm.name]
        trainer = self._ready(config, cells[0].slot)
        finals: list[dict[str, tuple[float, int | None]]] = [{} for _ in cells]
        began = time.perf_counter()

        def on_log(index: int, step: int, values: dict[str, float]) -> None:
            for name, value in values.items():
                finals[index][name] = (value, step)
                on_point(index, step, name, value)

        kept: list[Kept] = []
        cell, held = cells[0], self._held(arm, cells[0].seed)

        def ask() -> str | None:
            reason = should_stop()
            if reason == INTERRUPTED:
                raise KeyboardInterrupt
            return reason

        def whole(step: int, snapshot: Mapping[str, Any]) -> None:
            assert self._forks is not None
            made = fork.Checkpoint(cell.run, step, True, gpt_checkpoint.arrays(snapshot))
            kept.append(self._forks.hold(self.config(arm), cell.seed, made))

        def on_weights(index: int, step: int, weights: gpt_checkpoint.Arrays) -> None:
            if self._forks is not None and fork_step(config) == config.steps:
                made = fork.Checkpoint(cell.run, step, False, weights)
                kept.append(self._forks.hold(self.config(arm), cell.seed, made))
            if config.keep_weights:
                data = gpt_checkpoint.dump(weights, step)
                name = f"weights-seed-{cells[index].seed}.safetensors"
                mine[index].append(Kept(name, "weights", data, 0, gpt_checkpoint.MEDIA_TYPE))

        mine: list[list[Kept]] = [kept, *([] for _ in cells[1:])]
        try:
            if held is not None and not held.whole:
                alone = partial(on_log, 0)
                results = [trainer.late(config, cell.seed, held.arrays, held.step, on_log=alone)]
            else:
                kept_at = self._forks.turns(config, held.step if held else 0) if self._forks else ()
                results = trainer.train_seeds(
                    config,
                    [each.seed for each in cells],
                    on_log=on_log,
                    should_stop=ask,
                    start=held.arrays if held else None,
                    keep={step: partial(whole, step) for step in kept_at},
                    on_weights=on_weights,
                )
        except (KeyboardInterrupt, MemoryError, RuntimeError, TimeoutError, ValueError) as error:
            took = (time.perf_counter() - began) / len(cells)
            if isinstance(error, MemoryError) or "out of memory" in str(error):
                raise OutOfMemory(f"{type(error).__name__}: {error}", took, tuple(kept)) from None
            how: events.Status = "timeout" if isinstance(error, TimeoutError) else "crash"
            reason = str(error) if how == "timeout" else f"{type(error).__name__}: {error}"
            if isinstance(error, KeyboardInterrupt):
                how, reason = "interrupted", "interrupted"
            return [
                Outcome(status=how, reason=reason, finals=each, wall_s=took, kept=tuple(left))
                for each, left in zip(finals, mine, strict=True)
            ]
        return [_outcome(*each) for each in zip(results, finals, mine, strict=True)]

    def _ready(self, config: GptConfig, slot: int) -> Any:
        if slot not in self._trainers:
            if self._corpus is None:
                self._corpus = open_text(*self.data)
            apart = self.jobs > 1
            first = slot * config.devices % len(self.gpus) if self.gpus else 0
            gpus = self.gpus[first : first + config.devices]
            self._trainers[slot] = open_trainer(self.backend, self._corpus, config, gpus, apart)
        return self._trainers[slot]


class OutOfMemory(Exception):
    """A batch did not fit; `seconds` went by, and others may go on from what it kept before."""

    def __init__(self, reason: str, seconds: float, kept: tuple[Kept, ...]) -> None:
        super().__init__(reason)
        self.seconds, self.kept = seconds, kept


def _from(index: int, on_point: OnCellPoint, _: int, step: int, name: str, value: float) -> None:
    on_point(index, step, name, value)


def _outcome(result: GptResult, finals: dict[str, tuple[float, int | None]], kept: Sequence[Kept]) -> Outcome:
    status: events.Status = "timeout" if result.status == "stopped" else result.status
    cost = {"parameters": float(result.parameters)}
    if result.step_ms:  # a run that only continued a checkpoint had no step of its own
        cost |= {"step_ms": result.step_ms, "step_drift": result.step_drift, "tokens_per_s": result.tokens_per_s}
    over = finals.get("artifact_bytes_over", (0.0, None))[0]
    told = (
        f"the artifact has {result.artifact_bytes} bytes, {over:.0f} more than the challenge allows" if over else ""
    )
    return Outcome(
        status=status,
        reason=result.reason or told,
        finals={**finals, **{name: (value, result.steps) for name, value in (cost | heat()).items()}},
        steps=result.steps,
        tokens=result.tokens,
        wall_s=result.wall_s,
        cpu_s=result.cpu_s,
        peak_memory_bytes=result.peak_memory_bytes,
        kept=tuple(kept),
    )


def heat() -> dict[str, float]:
    """How warm and how fast the machine is, as far as it tells: degrees of the hottest sensor, MHz of the cores."""
    found: dict[str, float] = {}
    for name, pattern, unit in (
        ("temperature_c", "/sys/class/thermal/thermal_zone*/temp", 1000),
        ("clock_mhz", "/sys/devices/system/cpu/cpu*/cpufreq/scaling_cur_freq", 1000),
    ):
        values = []
        for path in sorted(glob.glob(pattern)):
            with contextlib.suppress(OSError, ValueError):
                values.append(int(Path(path).read_text()) / unit)
        if values:
            found[name] = max(values)
    return found


def open_trainer(
    backend: str, corpus: Corpus, config: GptConfig, gpus: Sequence[str] = (), apart: bool = False
) -> Any:
    """What trains such configs: the backend's trainer in this process, or a group of processes, one a device; also
    a single one where it is to be `apart`, or to see only some `gpus`."""
    if config.devices > 1 or apart or gpus:
        from runners.gpt_group import GroupTrainer

        return GroupTrainer(corpus, config.device, config.devices, gpus=gpus)
    return import_module(BACKENDS[backend].module).Trainer(corpus, config.device)


def close_trainer(trainer: Any) -> None:
    """End what a trainer has started; one of this process has started nothing."""
    getattr(trainer, "close", lambda: None)()


def here(config: GptConfig, backend: str, whose: str = "", fewer: bool = False) -> GptConfig:
    """The config with the number of devices that it gets on this machine. Raises UsageError."""
    if config.devices == 1:
        return config
    from runners.gpt_group import placed

    try:
        return placed(config, backend, fewer)
    except ValueError as error:
        raise UsageError(f"{whose}{error}") from None


def hardware_class(machine: str, backend: str, config: GptConfig) -> str:
    """The kind of machine that runs are compared within: with the backend, and how many devices train one run."""
    several = f" devices={config.devices}" if config.devices > 1 else ""
    return machine + BACKENDS[backend].label + several


def open_text(folder: str, shards: int) -> Corpus:
    """The embedded corpus, or the published shards in a folder. Raises UsageError."""
    from runners.corpus import CorpusError, prepare
    from runners.export import open_export

    try:
        return open_export(Path(folder).expanduser(), shards) if folder else prepare()
    except CorpusError as error:
        raise UsageError(str(error)) from None


def _one_text(configs: dict[str, GptConfig]) -> tuple[str, int]:
    """(folder, shards) that all arms train on: arms on different texts have no difference. Raises UsageError."""
    (first, config), *rest = configs.items()
    for name, other in rest:
        if (other.data, other.shards) != (config.data, config.shards):
            raise UsageError(
                f"arm {name!r} trains on other data than arm {first!r}: set `data` and `shards` in [trainer], "
                "for all arms alike"
            )
    if config.shards and not config.data:
        raise UsageError(f"shards = {config.shards} goes with data = a folder of shards; the embedded corpus has one")
    return config.data, config.shards


def _check_metric(metric: str, config: GptConfig, held_out: int) -> None:
    """Raises ValueError where the metric is of the whole held-out split and a part is scored, or the other way."""
    from runners.evaluate import SUBSET, named, whole_windows

    if not metric.startswith(("val_", "quant_gap")) or held_out <= config.seq_len:
        return
    scored = whole_windows(held_out, config.seq_len, config.val_tokens)
    plain = metric.replace(SUBSET, "")
    said = re.sub("^(val_bpb|val_loss|quant_gap)", named(r"\1", scored, held_out, config.seq_len), plain)
    if metric != said:
        raise ValueError(
            f"{scored} of {held_out} held-out tokens are scored (val_tokens = {config.val_tokens}), so the metric is "
            f"{said!r}, not {metric!r}; say so in the plan, or change val_tokens (0: all)"
        )


def _comparable(metric: str, configs: Mapping[str, GptConfig]) -> None:
    """Raises UsageError where the metric of one arm is not that of another: a proxy that nobody named."""
    (first, config), *rest = configs.items()
    for name, other in rest:
        if metric == "train_loss":
            if field := next((f for f in SHOWN if getattr(config, f) != getattr(other, f)), None):
                raise UsageError(
                    f"arm {name!r} trains on other text than arm {first!r} ({field}), so their train_loss is not of "
                    "the same thing; compare val_bpb"
                )
        elif config.val_tokens != other.val_tokens:
            raise UsageError(
                f"arm {name!r} scores {other.val_tokens or 'all'} held-out tokens and arm {first!r} "
                f"{config.val_tokens or 'all'}: two metrics; set val_tokens in [trainer], for all arms alike"
            )


def _one_backend(configs: dict[str, GptConfig]) -> str:
    """The backend that all arms train on. Raises UsageError when they differ, or when it is not installed."""
    (first, config), *rest = configs.items()
    backend = backend_of(config)
    for name, other in rest:
        if backend_of(other) != backend:
            raise UsageError(
                f"arm {name!r} trains on {backend_of(other)} and arm {first!r} on {backend}: runs of two backends "
                "are not compared; set `backend` in [trainer]"
            )
    for package in BACKENDS[backend].packages:
        if find_spec(package) is None:
            instead = next(name for name in BACKENDS if name != backend)
            raise UsageError(
                f"the built-in trainer needs {package}: pip install 'experiment-ledger[{backend}]' "
                f"(or set backend = {instead!r} in [trainer])"
            )
    return backend


def _one_place(configs: dict[str, GptConfig], backend: str) -> dict[str, GptConfig]:
    """The configs, checked to take equally many devices. Raises UsageError, also without torch."""
    (first, config), *rest = configs.items()
    for name, other in rest:
        if other.devices != config.devices:
            raise UsageError(
                f"arm {name!r} trains on devices = {other.devices} and arm {first!r} on {config.devices}: set "
                "`devices` in [trainer], for all arms alike"
            )
    if backend != "torch":
        return {name: here(each, backend, f"arm {name!r}: ") for name, each in configs.items()}
    return configs


def code_digest(backend: str) -> str:
    """The trainer's own text and its library's version: other code is another base."""
    total = sha256()
    for package in BACKENDS[backend].packages:
        total.update(metadata.version(package).encode())
    for path in code_files(backend):
        total.update(path.read_bytes())
    return total.hexdigest()

"""The built-in GPT as a runner: in process, set up once, every cell of a plan through one trainer.

A seed and an arm are all that differs between two cells; the data, the tokenizer and the compiled
shapes are shared. There are two backends, torch and MLX. A plan trains on one of them, and runs of two are
never compared: the runner's name, the code and the hardware class all tell which it was. A backend is
imported when a plan asks for it, not before.
"""

from __future__ import annotations

import contextlib
import glob
import re
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from hashlib import sha256
from importlib import import_module, metadata
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from ledger import events
from ledger.errors import UsageError
from runners import capture, gpt_checkpoint
from runners.cells import Cell, Kept, OnCellPoint, OnPoint, Outcome, ShouldStop, Surroundings, surroundings
from runners.gpt_config import LATE, LATE_FROM, WHERE, GptConfig, backend_of
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

    def __init__(self, plan: Plan) -> None:
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
        self.data = _one_text(self.configs)
        self.backend = _one_backend(self.configs)
        self.name = BACKENDS[self.backend].runner
        self.forks = _forks(plan, self.configs)
        self._trunks: dict[tuple[int, int], _Trunk] = {}  # of one seed, by the step that they stand before
        self._trainer: Any = None
        self._corpus: Corpus | None = None

    def surroundings(self) -> Surroundings:
        self._corpus = open_text(*self.data)
        for arm, config in self.configs.items():
            try:
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
        label = BACKENDS[self.backend].label
        return msgspec.structs.replace(around, hardware_class=around.hardware_class + label)

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
        """The run that trained the trunk of this cell so far, where cells fork from one."""
        found = self._trunk(arm, seed)
        return found.run if found else None

    def run(self, cell: Cell, on_point: OnPoint, should_stop: ShouldStop) -> Outcome:
        (outcome,) = self.run_together([cell], lambda _, *point: on_point(*point), should_stop)
        return outcome

    def run_together(self, cells: Sequence[Cell], on_point: OnCellPoint, should_stop: ShouldStop) -> list[Outcome]:
        """Train the cells, of one arm, in one batch; one after another where they do not fit into memory together."""
        try:
            return self._run(cells, on_point, should_stop)
        except OutOfMemory as error:
            if len(cells) == 1:
                return [Outcome(status="oom", reason=str(error), wall_s=error.seconds)]
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
        trainer = self._ready(config)
        finals: list[dict[str, tuple[float, int | None]]] = [{} for _ in cells]
        began = time.perf_counter()

        def on_log(index: int, step: int, values: dict[str, float]) -> None:
            for name, value in values.items():
                finals[index][name] = (value, step)
                on_point(index, step, name, value)

        kept: list[Kept] = []
        trunk = self._trunk(arm, cells[0].seed)
        try:
            results = trainer.train_seeds(
                config,
                [cell.seed for cell in cells],
                on_log=on_log,
                should_stop=should_stop,
                start=trunk.snapshot if trunk else None,
                keep=self._keeping(cells[0], trunk, kept),
            )
        except (KeyboardInterrupt, MemoryError, RuntimeError, ValueError) as error:
            took = (time.perf_counter() - began) / len(cells)
            if isinstance(error, MemoryError) or "out of memory" in str(error):
                raise OutOfMemory(f"{type(error).__name__}: {error}", took) from None
            known = isinstance(error, KeyboardInterrupt)
            reason = "interrupted" if known else f"{type(error).__name__}: {error}"
            how: events.Status = "interrupted" if known else "crash"
            return [Outcome(status=how, reason=reason, finals=each, wall_s=took) for each in finals]
        return [_outcome(result, each, tuple(kept)) for result, each in zip(results, finals, strict=True)]

    def _ready(self, config: GptConfig) -> Any:
        if self._trainer is None:
            if self._corpus is None:
                self._corpus = open_text(*self.data)
            module = import_module(BACKENDS[self.backend].module)
            self._trainer = module.Trainer(self._corpus, config.device)
        return self._trainer

    # --- forks: late arms continue one checkpoint of each seed

    def _trunk(self, arm: PlanArm, seed: int) -> _Trunk | None:
        """The latest checkpoint that this cell may go on from."""
        if not self.forks:
            return None
        at = fork_step(self.configs[arm.name])
        return max(
            (trunk for (known, step), trunk in self._trunks.items() if known == seed and step <= at),
            key=lambda trunk: trunk.step,
            default=None,
        )

    def _keeping(
        self, cell: Cell, trunk: _Trunk | None, kept: list[Kept]
    ) -> dict[int, Callable[[Mapping[str, Any]], None]]:
        """What the training hands over: checkpoints where arms fork, and the weights at its end where asked for."""
        config = self.configs[cell.arm.name]
        wanted: dict[int, list[Callable[[Mapping[str, Any]], None]]] = {}

        def fork(step: int, snapshot: Mapping[str, Any]) -> None:
            taken = gpt_checkpoint.arrays(snapshot)
            for other in [key for key in self._trunks if key[0] != cell.seed]:
                del self._trunks[other]  # cells come seed by seed
            self._trunks[cell.seed, step] = _Trunk(step, cell.run, taken)
            data = gpt_checkpoint.dump(taken)
            kept.append(Kept(f"fork-{step}.safetensors", "checkpoint", data, 0, gpt_checkpoint.MEDIA_TYPE))

        def final(snapshot: Mapping[str, Any]) -> None:
            data = gpt_checkpoint.dump(gpt_checkpoint.weights(gpt_checkpoint.arrays(snapshot)))
            kept.append(Kept("weights.safetensors", "weights", data, 0, gpt_checkpoint.MEDIA_TYPE))

        if self.forks:
            steps = {fork_step(other) for other in self.configs.values()}
            for step in steps:
                if (trunk.step if trunk else -1) < step <= fork_step(config):
                    wanted.setdefault(step, []).append(partial(fork, step))
        if config.keep_weights:
            wanted.setdefault(config.steps, []).append(final)

        def all_of(calls: list[Callable[[Mapping[str, Any]], None]], snapshot: Mapping[str, Any]) -> None:
            for call in calls:
                call(snapshot)

        return {step: partial(all_of, calls) for step, calls in wanted.items()}


class _Trunk(NamedTuple):
    """A seed's training up to a step, and the run that did the last part of it."""

    step: int
    run: str
    snapshot: gpt_checkpoint.Arrays


class OutOfMemory(Exception):
    """A batch did not fit; `seconds` went by."""

    def __init__(self, reason: str, seconds: float) -> None:
        super().__init__(reason)
        self.seconds = seconds


def _from(index: int, on_point: OnCellPoint, _: int, step: int, name: str, value: float) -> None:
    on_point(index, step, name, value)


def _outcome(result: GptResult, finals: dict[str, tuple[float, int | None]], kept: tuple[Kept, ...]) -> Outcome:
    status: events.Status = "timeout" if result.status == "stopped" else result.status
    cost = {"parameters": float(result.parameters)}
    if result.step_ms:  # a run that only continued a checkpoint had no step of its own
        cost |= {"step_ms": result.step_ms, "step_drift": result.step_drift, "tokens_per_s": result.tokens_per_s}
    return Outcome(
        status=status,
        reason=result.reason or "",
        finals={**finals, **{name: (value, result.steps) for name, value in (cost | heat()).items()}},
        steps=result.steps,
        tokens=result.tokens,
        wall_s=result.wall_s,
        cpu_s=result.cpu_s,
        peak_memory_bytes=result.peak_memory_bytes,
        kept=kept if result.status == "ok" else (),
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


def _forks(plan: Plan, configs: Mapping[str, GptConfig]) -> bool:
    """Whether arms continue one checkpoint. Raises UsageError where the plan says so and an arm cannot."""
    if plan.pair_tier != "fork":
        return False
    plain = {name: getattr(GptConfig(), name) for name in (*LATE, *LATE_FROM, *WHERE)}
    (first, trunk), *rest = [(name, msgspec.structs.replace(config, **plain)) for name, config in configs.items()]
    for name, other in rest:
        if other != trunk:
            field = next(f for f in GptConfig.__struct_fields__ if getattr(other, f) != getattr(trunk, f))
            raise UsageError(
                f'arm {name!r} differs from {first!r} in {field!r}, which acts before any fork: pair_tier = "fork" '
                f'is for arms that differ in {", ".join((*LATE_FROM, *LATE))} only; use pair_tier = "seed"'
            )
    for name, config in configs.items():
        if config.stack_seeds:
            raise UsageError(f'arm {name!r}: stack_seeds does not go with pair_tier = "fork": a fork is of one seed')
        if fork_step(config) == 0:
            raise UsageError(
                f"arm {name!r} changes the training from its first step, so there is nothing to fork from: with "
                'qat_bits give qat_from below 1 and no wallclock, or use pair_tier = "seed"'
            )
    return True


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


def code_digest(backend: str) -> str:
    """The trainer's own text and its library's version: other code is another base."""
    total = sha256()
    for package in BACKENDS[backend].packages:
        total.update(metadata.version(package).encode())
    for path in code_files(backend):
        total.update(path.read_bytes())
    return total.hexdigest()

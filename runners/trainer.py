"""The built-in GPT as a runner: in process, set up once, every cell of a plan through one trainer.

A seed and an arm are all that differs between two cells; the data, the tokenizer and the compiled
shapes are shared. There are two backends, torch and MLX. A plan trains on one of them, and runs of two are
never compared: the runner's name, the code and the hardware class all tell which it was. A backend is
imported when a plan asks for it, not before.
"""

from __future__ import annotations

import re
import time
from hashlib import sha256
from importlib import import_module, metadata
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from ledger import events
from ledger.errors import UsageError
from runners import capture
from runners.cells import Cell, OnPoint, Outcome, ShouldStop, Surroundings, surroundings
from runners.gpt_config import GptConfig, backend_of
from runners.gpt_result import code_files
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
        around = surroundings(environment, git, _code_digest(self.backend), data)
        label = BACKENDS[self.backend].label
        return msgspec.structs.replace(around, hardware_class=around.hardware_class + label)

    def command(self, arm: PlanArm) -> tuple[str, ...]:
        return ()

    def environment(self, arm: PlanArm, seed: int) -> dict[str, str]:
        return {}

    def config(self, arm: PlanArm) -> dict[str, Any]:
        return msgspec.structs.asdict(self.configs[arm.name]) | {"backend": self.backend}

    def run(self, cell: Cell, on_point: OnPoint, should_stop: ShouldStop) -> Outcome:
        config = self.configs[cell.arm.name]
        if self._trainer is None:
            assert self._corpus is not None
            module = import_module(BACKENDS[self.backend].module)
            self._trainer = module.Trainer(self._corpus, config.device)
        finals: dict[str, tuple[float, int | None]] = {}
        began = time.perf_counter()

        def on_log(step: int, values: dict[str, float]) -> None:
            for name, value in values.items():
                finals[name] = (value, step)
                on_point(step, name, value)

        try:
            result = self._trainer.train(config, cell.seed, on_log=on_log, should_stop=should_stop)
        except KeyboardInterrupt:
            return Outcome(
                status="interrupted", reason="interrupted", finals=finals, wall_s=time.perf_counter() - began
            )
        except (MemoryError, RuntimeError) as error:
            kind: events.Status = (
                "oom" if isinstance(error, MemoryError) or "out of memory" in str(error) else "crash"
            )
            reason = f"{type(error).__name__}: {error}"
            return Outcome(status=kind, reason=reason, finals=finals, wall_s=time.perf_counter() - began)
        status: events.Status = "timeout" if result.status == "stopped" else result.status
        return Outcome(
            status=status,
            reason=result.reason or "",
            finals=finals,
            steps=result.steps,
            tokens=result.tokens,
            wall_s=result.wall_s,
            cpu_s=result.cpu_s,
            peak_memory_bytes=result.peak_memory_bytes,
        )


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


def _code_digest(backend: str) -> str:
    """The trainer's own text and its library's version: other code is another base."""
    total = sha256()
    for package in BACKENDS[backend].packages:
        total.update(metadata.version(package).encode())
    for path in code_files(backend):
        total.update(path.read_bytes())
    return total.hexdigest()

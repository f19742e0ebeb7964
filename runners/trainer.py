"""The built-in GPT as a runner: in process, set up once, every cell of a plan through one trainer.

A seed and an arm are all that differs between two cells; the data, the tokenizer and the compiled
shapes are shared. Torch is imported when a plan asks for this runner, not before.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import msgspec

from ledger import events
from ledger.errors import UsageError
from runners import capture
from runners.cells import Cell, OnPoint, Outcome, ShouldStop, Surroundings, surroundings
from runners.plan import Plan, PlanArm

if TYPE_CHECKING:
    from runners.corpus import Corpus
    from runners.gpt import GptConfig, Trainer

_CODE = ("runners.gpt", "runners.gpt_init", "runners.corpus")


class GptRunner:
    """Trains cells with runners/gpt.py on the embedded corpus."""

    name = "gpt/1"
    source = "trainer"

    def __init__(self, plan: Plan) -> None:
        """Check every arm's settings before anything runs. Raises UsageError, also without torch."""
        assert plan.trainer is not None
        self.settings = plan.trainer
        self.metric = plan.metric
        try:
            from runners.gpt import GptConfig
        except ImportError as error:
            raise UsageError(
                f"the built-in trainer needs {error.name}: pip install 'experiment-ledger[torch]'"
            ) from None
        self.configs: dict[str, GptConfig] = {}
        for arm in plan.arm:
            try:
                self.configs[arm.name] = GptConfig.from_dict({**self.settings, **arm.set})
            except ValueError as error:
                raise UsageError(f"arm {arm.name!r}: {error}") from None
        self._trainer: Trainer | None = None
        self._corpus: Corpus | None = None

    def surroundings(self) -> Surroundings:
        import torch

        from runners.corpus import prepare

        environment = capture.capture_environment(())
        git = capture.capture_git(None)
        self._corpus = prepare()
        data = tuple(
            events.Digest(name, digest, (self._corpus.folder / name).stat().st_size)
            for name, digest in sorted(self._corpus.digests.items())
        )
        return surroundings(environment, git, _code_digest(torch.__version__), data)

    def command(self, arm: PlanArm) -> tuple[str, ...]:
        return ()

    def environment(self, arm: PlanArm, seed: int) -> dict[str, str]:
        return {}

    def config(self, arm: PlanArm) -> dict[str, Any]:
        return dict(msgspec.structs.asdict(self.configs[arm.name]))

    def run(self, cell: Cell, on_point: OnPoint, should_stop: ShouldStop) -> Outcome:
        from runners.gpt import Trainer

        config = self.configs[cell.arm.name]
        if self._trainer is None:
            assert self._corpus is not None
            self._trainer = Trainer(self._corpus, config.device, config.threads)
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


def _code_digest(torch_version: str) -> str:
    """The trainer's own text and torch's version: other code is another base."""
    from hashlib import sha256
    from importlib.util import find_spec
    from pathlib import Path

    total = sha256(torch_version.encode())
    for name in _CODE:
        spec = find_spec(name)
        assert spec is not None
        assert spec.origin is not None
        total.update(Path(spec.origin).read_bytes())
    return total.hexdigest()

"""Training a GPT in MLX: one seed, from a start or from a checkpoint.

    begin     parameters, momenta and data at the first step, or at a checkpoint's
    advance   steps, to the end, to a fork, to a loss that is not finite, or until told to stop
    finish    the mean weights, quantized where that is asked for, scored on held-out text

The loop of gpt_train.py, with the same data, noise, schedules and names. On a GPU the gradient and the step are
compiled, each once for all runs that compute the same: the whole config is part of the key, but for what comes in as
an array or is only about the run. A Python number that a compiled function reads is a constant for ever, so what
changes from step to step is an array, and whether a step is quantized is part of the key. It must never report a
figure for a run that did not finish: a stopped or diverged one has no validation result.
"""

from __future__ import annotations

import math
import re
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from typing import Any

import mlx.core as mx
import msgspec
import numpy as np

from runners.corpus import Corpus
from runners.gpt_config import WHERE, GptConfig
from runners.gpt_data import BIGRAM_TOKENS, CorpusSource, Source, bigram_nats, needs_reference, noise, stream
from runners.gpt_mlx import Noise, Params, Step, begin, init_params, loss_and_grads, rates, rotary, update
from runners.gpt_mlx_after import quantized, score
from runners.gpt_result import GptResult, OnWeights, Status, code_bytes, drift, process_peak
from runners.gpt_schedule import averaged, qat_active
from runners.gpt_schedule import rates as rates_at
from runners.gpt_stages import PRE_QUANT, Scored, quantization
from runners.quantize import artifact_bytes

OnLog = Callable[[int, dict[str, float]], None]
OnSeedLog = Callable[[int, int, dict[str, float]], None]  # index of the seed, steps done, values
ShouldStop = Callable[[], str | None]
Snapshot = dict[str, np.ndarray]  # a State by name, as a checkpoint holds it
_NO_MEMORY = re.compile(r"(?i)unable to allocate|attempting to allocate|insufficient memory|out ?of ?memory")
# Read by no compiled function: rates come in as arrays, and the rest is about the run.
NOT_COMPILED = frozenset(
    (
        *WHERE,
        *("steps", "wallclock", "warmup_steps", "warmdown", "warmdown_steps"),
        *("matrix_lr", "embed_lr", "scalar_lr", "momentum", "momentum_start", "momentum_warmup"),
        *("init", "bigram_zero", "smear_init"),
        *("data", "embed_init", "qk_gain", "ema", "swa", "swa_every", "val_tokens", "val_every"),
    )
)


@dataclass
class State:
    """A run between two steps."""

    params: Params
    m: Params  # momenta
    v: Params  # Adam's second moments
    position: mx.array | None = None  # running loss at each position, for the adaptive probe
    mean: Params = field(default_factory=dict)  # of the weights, where one is kept
    count: int = 0  # of the weights in it
    step: int = 0
    seconds: float = 0.0  # of training; validation left out
    times: list[float] = field(default_factory=list)
    loss: float = math.nan
    end: tuple[Status, str] | None = None  # how it ended early

    @property
    def weights(self) -> Params:
        """What is evaluated: the mean, or the weights themselves where there is none."""
        return self.mean or self.params

    def snapshot(self) -> Snapshot:
        """A copy by name."""
        made: Snapshot = {}
        for kind, arrays in (("param", self.params), ("optimizer.m", self.m), ("optimizer.v", self.v)):
            made |= {f"{kind}.{name}": np.array(x) for name, x in arrays.items()}
        made |= {f"average.{name}": np.array(x) for name, x in self.mean.items()}
        if self.position is not None:
            made["position"] = np.array(self.position)
        counts = {"optimizer.steps": self.step, "average_count": self.count, "step": self.step}
        made |= {name: np.array(count) for name, count in counts.items()}
        return made | {"seconds": np.array(self.seconds)}

    @classmethod
    def resume(cls, at: Mapping[str, Any]) -> State:
        """What `snapshot` gave."""

        def part(prefix: str) -> Params:
            names = [name for name in at if name.startswith(prefix)]
            return {name.removeprefix(prefix): mx.array(np.asarray(at[name])) for name in names}

        position = mx.array(np.asarray(at["position"])) if "position" in at else None
        state = cls(part("param."), part("optimizer.m."), part("optimizer.v."), position, part("average."))
        state.count, state.step, state.seconds = int(at["average_count"]), int(at["step"]), float(at["seconds"])
        return state


class Trainer:
    """Trains arms on one text in this process; the text is read, and what is compiled is compiled, once.

    `device`, where given, overrules the config's: who runs the machine decides. `compiled` tells whether steps go
    through mx.compile; by default as the config says, and `auto` means on a GPU only: a CPU waits long for MLX's
    compiler and gains a thirtieth.
    """

    def __init__(self, source: Source | Corpus, device: str = "auto", compiled: bool | None = None) -> None:
        self.source: Source = CorpusSource(source) if isinstance(source, Corpus) else source
        self.device, self.compiled = device, compiled
        self._reference: np.ndarray | None = None
        self._made: dict[Any, Callable[..., Any]] = {}
        self._warm: set[Any] = set()

    def train(
        self,
        config: GptConfig,
        seed: int,
        *,
        on_log: OnLog | None = None,
        should_stop: ShouldStop | None = None,
        start: Snapshot | None = None,
        keep: Mapping[int, Callable[[Snapshot], None]] | None = None,
        on_weights: OnWeights | None = None,
    ) -> GptResult:
        """Trains one seed of one arm to its end, to a loss that is not finite, or until told to stop.

        `on_log(steps done, values)` gets train_loss after every step, and val_loss, val_bpb at validations.
        `should_stop()` is asked before every step; a reason that is not empty ends the run with status stopped.
        `start` is a checkpoint to go on from; `keep[step]` is handed one before that step (or after the last).
        `on_weights` gets the weights that are about to be quantized and scored, the mean of them where one is kept.
        Raises ValueError when the config and the text, or the device, do not fit; MemoryError.
        """
        device = find_device(self.device if self.device != "auto" else config.device)
        self.source.check(config)
        with _memory_errors(), mx.stream(device):
            run = _Run(self, config, seed, device, on_log or (lambda *_: None), should_stop or (lambda: None))
            run.on_weights = on_weights
            return run.run(start, keep or {})

    def late(
        self,
        config: GptConfig,
        seed: int,
        weights: Mapping[str, np.ndarray],
        step: int,
        *,
        on_log: OnLog | None = None,
    ) -> GptResult:
        """The late stages alone, on weights that `on_weights` gave after `step` steps of the same training."""
        device = find_device(self.device if self.device != "auto" else config.device)
        self.source.check(config)
        with _memory_errors(), mx.stream(device):
            return _Run(self, config, seed, device, on_log or (lambda *_: None), lambda: None).late(weights, step)

    def train_seeds(
        self,
        config: GptConfig,
        seeds: Sequence[int],
        *,
        on_log: OnSeedLog | None = None,
        on_weights: OnWeights | None = None,
        **more: Any,
    ) -> list[GptResult]:
        """The same for several seeds, one after the other."""
        results = []
        for index, seed in enumerate(seeds):

            def keep(_: int, step: int, weights: dict[str, np.ndarray], index: int = index) -> None:
                if on_weights is not None:
                    on_weights(index, step, weights)

            tell = partial(on_log, index) if on_log else None
            results.append(self.train(config, seed, on_log=tell, on_weights=keep, **more))
        return results

    def evaluate(self, params: Params, config: GptConfig) -> tuple[float, float]:
        """(nats a token, bits a byte) of the held-out text, as the config says."""
        found = score(params, config, self.source)
        return found.loss, found.bpb

    def reference(self, config: GptConfig) -> np.ndarray | None:
        """The bigram model's nats, made once; None where the config asks for none."""
        if not needs_reference(config):
            return None
        if self._reference is None:
            self._reference = bigram_nats(self.source.sample(BIGRAM_TOKENS), self.source.vocab_size)
        return self._reference

    def compiles(self, config: GptConfig, device: mx.Device) -> bool:
        """Whether the steps of this run go through mx.compile."""
        said = {"on": True, "off": False}.get(config.compile, device.type == mx.DeviceType.gpu)
        return said if self.compiled is None else self.compiled

    def function(self, kind: str, config: GptConfig, device: mx.Device, qat: bool = False) -> Callable[..., Any]:
        """The gradient or the step of `config`, made (and compiled) once for all that compute the same."""
        key = kind, qat, self.compiles(config, device), *_key(config, device)
        if key not in self._made:
            function = _gradient(config, qat) if kind == "gradient" else _step(config)
            self._made[key] = mx.compile(function) if self.compiles(config, device) else function
        return self._made[key]


def _key(config: GptConfig, device: mx.Device) -> tuple[Any, ...]:
    told = msgspec.structs.asdict(config)
    return str(device), *((name, told[name]) for name in told if name not in NOT_COMPILED)


def _gradient(config: GptConfig, qat: bool) -> Callable[..., Any]:
    """gradient(params, x, y, rates, draws, more), to a Step's four parts; `more` has what only some configs need."""
    rope, half = rotary(config), config.dtype == "bfloat16"

    def gradient(
        params: Params, x: mx.array, y: mx.array, now: Params, draws: Params, more: Params
    ) -> tuple[mx.array, mx.array, Params, mx.array]:
        dtype = mx.bfloat16 if half else None
        found = loss_and_grads(
            params, config, rope, x, y, now, Noise(**draws), more.get("reference"), more.get("position"), qat, dtype
        )
        return tuple(found)  # type: ignore[return-value]

    return gradient


def _step(config: GptConfig) -> Callable[..., tuple[Params, Params, Params]]:
    return lambda params, grads, m, v, now: update(params, grads, m, v, config, now)


class _Run:
    """One seed of one arm on its way."""

    def __init__(
        self,
        trainer: Trainer,
        config: GptConfig,
        seed: int,
        device: mx.Device,
        on_log: OnLog,
        should_stop: ShouldStop,
    ) -> None:
        self.trainer, self.config, self.seed, self.device = trainer, config, seed, device
        self.on_log, self.should_stop = on_log, should_stop
        self.on_weights: OnWeights | None = None
        reference = trainer.reference(config)
        self.batches: Iterator[np.ndarray] = stream(trainer.source, config, seed, reference)
        needed = config.rho1_keep < 1 and config.rho1_reference == "bigram"
        self.reference = mx.array(reference) if reference is not None and needed else None

    def run(self, start: Snapshot | None, keep: Mapping[int, Callable[[Snapshot], None]]) -> GptResult:
        began, cpu_began = time.perf_counter(), time.process_time()
        mx.reset_peak_memory()
        state = self.begin(start)
        if self.trainer.compiles(self.config, self.device):
            self.warm_up(state)
        if reason := self.advance(state, keep):
            state.end = state.end or ("stopped", reason)
        return self.close(state, began, cpu_began)

    def late(self, weights: Mapping[str, np.ndarray], step: int) -> GptResult:
        """The late stages of weights that were trained before."""
        began, cpu_began = time.perf_counter(), time.process_time()
        mx.reset_peak_memory()
        params = {name: mx.array(array) for name, array in weights.items()}
        return self.close(State(params, {}, {}, step=step), began, cpu_began)

    def close(self, state: State, began: float, cpu_began: float) -> GptResult:
        """The late stages, and what the run came to."""
        found, raw, size = self.finish(state)
        wall, cpu = time.perf_counter() - began, time.process_time() - cpu_began
        config, gpu = self.config, self.device.type == mx.DeviceType.gpu
        status, why = state.end or ("ok", None)
        return GptResult(
            status=status,
            reason=why,
            val_bpb=found.bpb if found else None,
            val_loss=found.loss if found else None,
            val_name=found.bpb_name if found else "val_bpb",
            raw_bpb=raw,
            train_loss=state.loss if math.isfinite(state.loss) else None,
            steps=state.step,
            tokens=state.step * config.batch_tokens,
            wall_s=wall,
            cpu_s=cpu,
            tokens_per_s=len(state.times) * config.batch_tokens / sum(state.times) if state.times else 0.0,
            step_ms=1000 * statistics.median(state.times) if state.times else 0.0,
            step_drift=drift(state.times),
            parameters=sum(p.size for p in state.params.values()),
            peak_memory_bytes=mx.get_peak_memory() if gpu else process_peak(),
            artifact_bytes=size,
            device=("mps" if sys.platform == "darwin" else "cuda") if gpu else "cpu",
        )

    # --- begin

    def begin(self, start: Snapshot | None) -> State:
        """The state before the first step, or as `start` left it."""
        if start is not None:
            next(islice(self.batches, int(start["step"]), int(start["step"])), None)  # what the checkpoint has seen
            return State.resume(start)
        params = init_params(self.config, self.seed)
        state = State(params, *begin(params, self.config))
        if self.config.probe == "adaptive":  # nothing is easy yet
            state.position = mx.ones(self.config.seq_len)
        return state

    def warm_up(self, state: State) -> None:
        """Compile before the clock starts: a step of each kind on no text, whose outcome is thrown away."""
        config, key = self.config, _key(self.config, self.device)
        if key in self.trainer._warm:
            return
        self.trainer._warm.add(key)
        now, zeros = rates(config, rates_at(config, 0), 0), np.zeros((config.windows, config.seq_len + 1), np.int32)
        for qat in {qat_active(config, 0), bool(config.qat_bits)}:
            found = self.gradient(state, zeros, now, noise(config, self.seed, 0), qat)
            apply = self.trainer.function("step", config, self.device)
            mx.eval(apply(state.params, found.grads, state.m, state.v, now))

    # --- advance

    def advance(self, state: State, keep: Mapping[int, Callable[[Snapshot], None]]) -> str | None:
        """Steps until the end; the reason to stop before it, where there was one."""
        config, reason = self.config, None
        while state.step < config.steps and state.end is None:
            if state.step in keep:
                keep[state.step](state.snapshot())
            if reason := self.should_stop() or None:
                return reason
            if config.wallclock and state.step and state.seconds >= config.wallclock:
                break
            self.step(state)
            if (
                config.val_every
                and state.step % config.val_every == 0
                and state.step < config.steps
                and not state.end
            ):
                self.scored(state, "" if config.quantize == "none" else PRE_QUANT)
        over = state.step == config.steps or bool(config.wallclock and state.seconds >= config.wallclock)
        if config.steps in keep and over and state.end is None:
            keep[config.steps](state.snapshot())
        if config.wallclock and state.step == 1 < config.steps and state.seconds > config.wallclock:
            return f"wallclock {config.wallclock:g} s is shorter than one step, which took {state.seconds:.3g} s"
        return None

    def step(self, state: State) -> None:
        """One step, told to `on_log`; a loss that is not finite ends the run and leaves the weights as they were."""
        config, since = self.config, time.perf_counter()
        now = rates(config, rates_at(config, state.step, state.seconds), state.step)
        qat = qat_active(config, state.step, state.seconds)
        in_swa = averaged(config, state.step, state.seconds)
        found = self.gradient(state, next(self.batches), now, noise(config, self.seed, state.step), qat)
        apply = self.trainer.function("step", config, self.device)
        params, m, v = apply(state.params, found.grads, state.m, state.v, now)
        mx.eval(found.loss, params, m, v)
        loss = float(np.array(found.loss))
        if not math.isfinite(loss):
            state.end = "diverged", f"train loss {loss} at step {state.step}"
            state.loss = loss
            return
        state.params, state.m, state.v, state.loss = params, m, v, loss
        if state.position is not None:
            state.position = state.position + config.probe_ema * (found.position - state.position)
        self.average(state, in_swa)
        state.step += 1
        state.times.append(time.perf_counter() - since)
        state.seconds += state.times[-1]
        self.on_log(state.step, {"train_loss": loss})

    def gradient(
        self, state: State, batch: np.ndarray, now: Params, drawn: Mapping[str, np.ndarray], qat: bool
    ) -> Step:
        """Loss and gradient of the whole batch, a micro-batch at a time."""
        config = self.config
        function = self.trainer.function("gradient", config, self.device, qat)
        size = (config.micro_tokens or config.batch_tokens) // config.seq_len
        more = {"reference": self.reference, "position": state.position}
        more = {name: x for name, x in more.items() if x is not None}
        parts = []
        tokens, draws = mx.array(batch.astype(np.int32)), Noise.of(drawn)._asdict()
        for i in range(0, len(batch), size):
            some = {name: x[i : i + size] for name, x in draws.items() if x is not None}
            parts.append(
                Step(*function(state.params, tokens[i : i + size, :-1], tokens[i : i + size, 1:], now, some, more))
            )
            if len(batch) > size:
                parts = [_sum(parts)]
                mx.eval(parts)
        return _mean(parts[0], -(-len(batch) // size))

    def average(self, state: State, in_swa: bool) -> None:
        """Takes the weights after a step into their mean, as gpt_optim.Average does."""
        if not (self.config.ema or in_swa):
            return
        state.count += 1
        weight = 1 / state.count
        if self.config.ema and state.count > 1:
            weight = 1 - min(self.config.ema, state.count / (9 + state.count))
        before = state.mean or state.params
        state.mean = {name: x + weight * (state.params[name] - x) for name, x in before.items()}
        mx.eval(state.mean)

    # --- finish

    def scored(self, state: State, suffix: str = "", params: Params | None = None) -> Scored | None:
        found = score(params or state.weights, self.config, self.trainer.source)
        if not (math.isfinite(found.loss) and math.isfinite(found.bpb)):
            state.end = "diverged", f"validation loss {found.loss} after step {state.step}"
            return None
        self.on_log(state.step, {found.loss_name + suffix: found.loss, found.bpb_name + suffix: found.bpb})
        return found

    def finish(self, state: State) -> tuple[Scored | None, float | None, int | None]:
        """(score, bits a byte before quantization, bytes of the artifact); None for what there is not."""
        if state.end:
            return None, None, None
        if self.on_weights is not None:
            self.on_weights(
                0, state.step, {name: np.array(p.astype(mx.float32)) for name, p in state.weights.items()}
            )
        if self.config.quantize == "none":
            return self.scored(state), None, None
        before = self.scored(state, PRE_QUANT)
        if before is None:
            return None, None, None
        params, model = quantized(state.weights, self.config, self.trainer.source)
        size = artifact_bytes(model, code_bytes("mlx"))
        after = self.scored(state, params=params)
        if after is not None:
            self.on_log(state.step, quantization(before, after, size, model))
        return after, before.bpb, size


def _sum(parts: Sequence[Step]) -> Step:
    if len(parts) == 1:
        return parts[0]
    a, b = parts
    grads = {name: g + b.grads[name] for name, g in a.grads.items()}
    return Step(a.loss + b.loss, a.objective + b.objective, grads, a.position + b.position)


def _mean(whole: Step, parts: int) -> Step:
    if parts == 1:
        return whole
    grads = {name: g / parts for name, g in whole.grads.items()}
    return Step(whole.loss / parts, whole.objective / parts, grads, whole.position / parts)


@contextmanager
def _memory_errors() -> Iterator[None]:
    """A lack of memory as MemoryError: MLX raises one kind of error for everything."""
    try:
        yield
    except RuntimeError as error:
        if _NO_MEMORY.search(str(error)):
            raise MemoryError(str(error)) from None
        raise


def find_device(name: str) -> mx.Device:
    """The device of this name; auto: the GPU where there is one. Raises ValueError."""
    gpu = mx.metal.is_available() or mx.cuda.is_available()
    usable = [*(["mps" if sys.platform == "darwin" else "cuda"] if gpu else []), "cpu"]
    if name not in ("auto", *usable):
        raise ValueError(f"device must be auto or one that is here ({', '.join(usable)}), found {name!r}")
    return mx.Device(mx.gpu if gpu and name != "cpu" else mx.cpu)

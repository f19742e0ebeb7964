"""Training a GPT in MLX: one seed, or the seeds of an arm in one batch, from a start or from a checkpoint.

    begin     parameters, momenta and data at the first step, or at a checkpoint's
    advance   steps, to the end, to a fork, to a loss that is not finite, or until told to stop
    finish    the mean weights, quantized where that is asked for, scored on held-out text

The loop of gpt_train.py, with the same data, noise, schedules and names; what a step computes is in gpt_mlx_steps.py.
It must never report a figure for a run that did not finish: a stopped or diverged one has no validation result.
"""

from __future__ import annotations

import math
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import mlx.core as mx
import numpy as np

from runners.corpus import Corpus
from runners.gpt_config import GptConfig
from runners.gpt_data import BIGRAM_TOKENS, CorpusSource, Source, bigram_nats, needs_reference, noise, stream
from runners.gpt_mlx import Noise, Params, Step, begin, init_params, rates
from runners.gpt_mlx_after import quantized, score
from runners.gpt_mlx_memory import check_step, check_weights, memory_errors
from runners.gpt_mlx_steps import Kind, add, compiled_key, gradient_of, mean, precision, stacked, step_of
from runners.gpt_result import GptResult, OnWeights, Status, code_bytes, drift, process_peak
from runners.gpt_schedule import averaged, qat_active
from runners.gpt_schedule import rates as rates_at
from runners.gpt_stages import PRE_QUANT, Scored, quantization
from runners.quantize import artifact_bytes

OnLog = Callable[[int, dict[str, float]], None]
OnSeedLog = Callable[[int, int, dict[str, float]], None]  # index of the seed, steps done, values
ShouldStop = Callable[[], str | None]
Snapshot = dict[str, np.ndarray]  # a State by name, as a checkpoint holds it


@dataclass
class State:
    """A run between two steps. Of several seeds every array has a leading axis of them."""

    params: Params
    m: Params  # momenta
    v: Params  # Adam's second moments
    position: mx.array | None = None  # running loss at each position, for the adaptive probe
    mean: Params = field(default_factory=dict)  # of the weights, where one is kept
    count: int = 0  # of the weights in it
    step: int = 0
    seconds: float = 0.0  # of training; validation left out
    times: list[float] = field(default_factory=list)
    losses: dict[int, float] = field(default_factory=dict)  # the last of each seed
    # seed -> how it ended early, at which step
    ends: dict[int, tuple[Status, str, int]] = field(default_factory=dict)

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

    # --- one seed, many seeds

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
        `start` is a checkpoint to go on from; `keep[step]` is handed one before that step, `keep[config.steps]`
        when the training is over, by steps or by the clock.
        `on_weights` gets the weights that are about to be quantized and scored, the mean of them where one is kept.
        Raises ValueError when the config and the text, or the device, do not fit; MemoryError.
        """
        tell: OnSeedLog | None = None if on_log is None else lambda _, step, values: on_log(step, values)
        (result,) = self.train_seeds(
            config, [seed], on_log=tell, should_stop=should_stop, start=start, keep=keep, on_weights=on_weights
        )
        return result

    def train_seeds(
        self,
        config: GptConfig,
        seeds: Sequence[int],
        *,
        on_log: OnSeedLog | None = None,
        should_stop: ShouldStop | None = None,
        start: Snapshot | None = None,
        keep: Mapping[int, Callable[[Snapshot], None]] | None = None,
        on_weights: OnWeights | None = None,
    ) -> list[GptResult]:
        """The same for several seeds of one arm in one batch; a seed that diverges leaves the others as they are."""
        with self.set_up(config) as device:
            run = _Run(self, config, seeds, device, on_log or (lambda *_: None), should_stop or (lambda: None))
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
        with self.set_up(config) as device:
            tell: OnSeedLog = (lambda *_: None) if on_log is None else lambda _, at, values: on_log(at, values)
            return _Run(self, config, [seed], device, tell, lambda: None).late(weights, step)

    @contextmanager
    def set_up(self, config: GptConfig) -> Iterator[mx.Device]:
        """The device of a run; ValueError where config, text and device do not fit, and a lack of memory as
        MemoryError."""
        device = find_device(self.device if self.device != "auto" else config.device)
        self.source.check(config)
        with memory_errors(), mx.stream(device):
            yield device

    def evaluate(self, params: Params, config: GptConfig) -> tuple[float, float]:
        """(nats a token, bits a byte) of the held-out text, as the config says."""
        found = score(params, config, self.source, precision(config, mx.default_device()))
        return found.loss, found.bpb

    # --- shared between runs

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

    def function(
        self, kind: Kind, config: GptConfig, device: mx.Device, qat: bool = False, many: bool = False
    ) -> Callable[..., Any]:
        """The gradient or the step of `config`, of one seed or of `many`, made (and compiled) once for all that
        compute the same."""
        key = kind, qat, many, self.compiles(config, device), *compiled_key(config, device, kind)
        if key not in self._made:
            function = gradient_of(config, qat, precision(config, device)) if kind == "gradient" else step_of(config)
            if many:
                function = stacked(function, kind)
            self._made[key] = mx.compile(function) if self.compiles(config, device) else function
        return self._made[key]


class _Run:
    """The seeds of one arm on their way."""

    def __init__(
        self,
        trainer: Trainer,
        config: GptConfig,
        seeds: Sequence[int],
        device: mx.Device,
        on_log: OnSeedLog,
        should_stop: ShouldStop,
    ) -> None:
        self.trainer, self.config, self.seeds, self.device = trainer, config, seeds, device
        self.on_log, self.should_stop = on_log, should_stop
        self.on_weights: OnWeights | None = None
        self.many = len(seeds) > 1
        self.dtype = precision(config, device)
        reference = trainer.reference(config)
        self.batches = [stream(trainer.source, config, seed, reference) for seed in seeds]
        needed = config.rho1_keep < 1 and config.rho1_reference == "bigram"
        self.reference = {"reference": mx.array(reference)} if reference is not None and needed else {}

    def run(self, start: Snapshot | None, keep: Mapping[int, Callable[[Snapshot], None]]) -> list[GptResult]:
        began, cpu_began = time.perf_counter(), time.process_time()
        mx.reset_peak_memory()
        check_weights(self.config, len(self.seeds), self.device)
        state = self.begin(start)
        self.check_memory(state)
        if self.trainer.compiles(self.config, self.device):
            self.warm_up(state)
        done = self.finish(state, self.advance(state, keep))
        wall, cpu = time.perf_counter() - began, time.process_time() - cpu_began
        return [
            self.result(state, index, *done[index], wall / len(done), cpu / len(done)) for index in range(len(done))
        ]

    def late(self, weights: Mapping[str, np.ndarray], step: int) -> GptResult:
        """The late stages of weights that were trained before."""
        began, cpu_began = time.perf_counter(), time.process_time()
        mx.reset_peak_memory()
        state = State({name: mx.array(array) for name, array in weights.items()}, {}, {}, step=step)
        (done,) = self.finish(state, None)
        return self.result(state, 0, *done, time.perf_counter() - began, time.process_time() - cpu_began)

    # --- begin

    def begin(self, start: Snapshot | None) -> State:
        """The state before the first step, or as `start` left it."""
        if start is not None:
            for batches in self.batches:
                next(islice(batches, int(start["step"]), int(start["step"])), None)  # what the checkpoint has seen
            return State.resume(start)
        each = [init_params(self.config, seed) for seed in self.seeds]
        params = {name: mx.stack([p[name] for p in each]) for name in each[0]} if self.many else each[0]
        mx.eval(params)
        state = State(params, *begin(params, self.config))
        if self.config.probe == "adaptive":  # nothing is easy yet
            lead = (len(self.seeds),) if self.many else ()
            state.position = mx.ones((*lead, self.config.seq_len))
        return state

    def check_memory(self, state: State) -> None:
        """MemoryError where a step of this state would not fit."""
        config, now = self.config, self.rates(state)
        functions = gradient_of(config, bool(config.qat_bits), self.dtype), step_of(config)
        if self.many:
            functions = stacked(functions[0], "gradient"), stacked(functions[1], "step")
        given = next(self.passes(state, *self.nothing(), now))
        check_step(
            functions[0],
            given,
            functions[1],
            (state.params, state.m, state.v, now),
            averages=bool(config.ema or config.swa),
            parts=config.windows // self.windows,
            seeds=len(self.seeds),
            device=self.device,
        )

    def warm_up(self, state: State) -> None:
        """Compile before the clock starts: a step of each kind on no text, whose outcome is thrown away."""
        config, now = self.config, self.rates(state)
        kinds: tuple[Kind, Kind] = ("gradient", "step")
        key = len(self.seeds), self.windows, *(compiled_key(config, self.device, kind) for kind in kinds)
        if key in self.trainer._warm:
            return
        self.trainer._warm.add(key)
        for qat in {qat_active(config, 0), bool(config.qat_bits)}:
            found = self.gradient(state, *self.nothing(), now, qat)
            mx.eval(self.function("step")(state.params, found.grads, state.m, state.v, now))

    def nothing(self) -> tuple[list[np.ndarray], list[dict[str, np.ndarray]]]:
        """Batches of no text, and the noise of a first step."""
        zeros = np.zeros((self.config.windows, self.config.seq_len + 1), np.int32)
        return [zeros for _ in self.seeds], [noise(self.config, seed, 0) for seed in self.seeds]

    # --- advance

    def advance(self, state: State, keep: Mapping[int, Callable[[Snapshot], None]]) -> str | None:
        """Steps until the end; the reason to stop before it, where there was one."""
        config = self.config
        while state.step < config.steps and len(state.ends) < len(self.seeds):
            if state.step in keep:
                keep[state.step](state.snapshot())
            if reason := self.should_stop() or None:
                return reason
            if self.out_of_time(state):
                break
            self.step(state)
            if config.val_every and state.step % config.val_every == 0 and state.step < config.steps:
                self.validate(state)
        over = state.step == config.steps or self.out_of_time(state)
        if config.steps in keep and over and not state.ends:
            keep[config.steps](state.snapshot())
        if config.wallclock and state.step == 1 < config.steps and state.seconds > config.wallclock:
            return f"wallclock {config.wallclock:g} s is shorter than one step, which took {state.seconds:.3g} s"
        return None

    def out_of_time(self, state: State) -> bool:
        return bool(self.config.wallclock) and state.step > 0 and state.seconds >= self.config.wallclock

    def rates(self, state: State) -> Params:
        return rates(self.config, rates_at(self.config, state.step, state.seconds), state.step)

    def function(self, kind: Kind, qat: bool = False) -> Callable[..., Any]:
        return self.trainer.function(kind, self.config, self.device, qat, self.many)

    def step(self, state: State) -> None:
        """One step of every seed on its batch; a loss that is not finite ends its seed and leaves the others."""
        config, since = self.config, time.perf_counter()
        now = self.rates(state)
        qat = qat_active(config, state.step, state.seconds)
        in_swa = averaged(config, state.step, state.seconds)
        drawn = [noise(config, seed, state.step) for seed in self.seeds]
        found = self.gradient(state, [next(batches) for batches in self.batches], drawn, now, qat)
        state.params, state.m, state.v = self.function("step")(state.params, found.grads, state.m, state.v, now)
        if state.position is not None:
            state.position = state.position + config.probe_ema * (found.position - state.position)
        self.average(state, in_swa)
        mx.eval(found.loss, state.params, state.m, state.v, state.mean, state.position)
        state.step += 1
        state.times.append(time.perf_counter() - since)
        state.seconds += state.times[-1]
        self.tell(state, np.array(found.loss).reshape(-1).tolist())

    def tell(self, state: State, losses: Sequence[float]) -> None:
        for index, loss in enumerate(losses):
            if index in state.ends:
                continue
            if not math.isfinite(loss):
                done = state.step - 1
                state.ends[index] = "diverged", f"train loss {loss} at step {done}", done
                continue
            state.losses[index] = loss
            self.on_log(index, state.step, {"train_loss": loss})

    @property
    def windows(self) -> int:
        """Of each seed, in one pass."""
        return (self.config.micro_tokens or self.config.batch_tokens) // self.config.seq_len

    def passes(
        self, state: State, batches: Sequence[np.ndarray], drawn: Sequence[Mapping[str, np.ndarray]], now: Params
    ) -> Iterator[tuple[Any, ...]]:
        """What the gradient is given, a micro-batch at a time."""
        tokens = mx.array(self.together(batches).astype(np.int32))
        draws = Noise.of({name: self.together([each[name] for each in drawn]) for name in drawn[0]})._asdict()
        position = {} if state.position is None else {"position": state.position}
        for i in range(0, self.config.windows, self.windows):
            at = (*(slice(None),) * self.many, slice(i, i + self.windows))
            some = {name: x[at] for name, x in draws.items() if x is not None}
            yield state.params, tokens[at][..., :-1], tokens[at][..., 1:], now, some, position, self.reference

    def together(self, each: Sequence[np.ndarray]) -> np.ndarray:
        return np.stack(each) if self.many else each[0]

    def gradient(
        self,
        state: State,
        batches: Sequence[np.ndarray],
        drawn: Sequence[Mapping[str, np.ndarray]],
        now: Params,
        qat: bool,
    ) -> Step:
        """Loss and gradient of the whole batch, a micro-batch at a time."""
        function, parts = self.function("gradient", qat), list[Step]()
        for given in self.passes(state, batches, drawn, now):
            parts = [add([*parts, Step(*function(*given))])]
            if self.windows < self.config.windows:
                mx.eval(parts)
        return mean(parts[0], self.config.windows // self.windows)

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

    # --- finish

    def weights(self, state: State, index: int) -> Params:
        """What is scored of a seed."""
        return {name: p[index] for name, p in state.weights.items()} if self.many else state.weights

    def validate(self, state: State) -> None:
        """Score the weights of now, on the way. Quantization is for the end, and so is its name."""
        for index in range(len(self.seeds)):
            if index not in state.ends:
                suffix = "" if self.config.quantize == "none" else PRE_QUANT
                self.scored(state, index, self.weights(state, index), suffix)

    def scored(self, state: State, index: int, params: Params, suffix: str = "") -> Scored | None:
        found = score(params, self.config, self.trainer.source, self.dtype)
        if not (math.isfinite(found.loss) and math.isfinite(found.bpb)):
            state.ends[index] = "diverged", f"validation loss {found.loss} after step {state.step}", state.step
            return None
        self.on_log(index, state.step, {found.loss_name + suffix: found.loss, found.bpb_name + suffix: found.bpb})
        return found

    def finish(self, state: State, reason: str | None) -> list[tuple[Scored | None, float | None, int | None]]:
        """(score, bits a byte before quantization, bytes of the artifact) of each seed; None where there is none."""
        done: list[tuple[Scored | None, float | None, int | None]] = []
        for index in range(len(self.seeds)):
            if reason:
                state.ends.setdefault(index, ("stopped", reason, state.step))
            done.append((None, None, None) if index in state.ends else self.late_stages(state, index))
        return done

    def late_stages(self, state: State, index: int) -> tuple[Scored | None, float | None, int | None]:
        params = self.weights(state, index)
        if self.on_weights is not None:
            arrays = {name: np.array(p.astype(mx.float32)) for name, p in params.items()}
            self.on_weights(index, state.step, arrays)
        if self.config.quantize == "none":
            return self.scored(state, index, params), None, None
        before = self.scored(state, index, params, PRE_QUANT)
        if before is None:
            return None, None, None
        restored, model = quantized(params, self.config, self.trainer.source)
        size = artifact_bytes(model, code_bytes("mlx"))
        after = self.scored(state, index, restored)
        if after is not None:
            self.on_log(index, state.step, quantization(before, after, size, model))
        return after, before.bpb, size

    def result(
        self,
        state: State,
        index: int,
        found: Scored | None,
        raw: float | None,
        size: int | None,
        wall: float,
        cpu: float,
    ) -> GptResult:
        status: Status = "ok"
        why: str | None = None
        steps, tokens = state.step, self.config.batch_tokens
        if index in state.ends:
            status, why, steps = state.ends[index]
        gpu = self.device.type == mx.DeviceType.gpu
        return GptResult(
            status=status,
            reason=why,
            val_bpb=found.bpb if found else None,
            val_loss=found.loss if found else None,
            val_name=found.bpb_name if found else "val_bpb",
            raw_bpb=raw,
            train_loss=state.losses.get(index),
            steps=steps,
            tokens=steps * tokens,
            wall_s=wall,
            cpu_s=cpu,
            tokens_per_s=len(state.times) * tokens * len(self.seeds) / sum(state.times) if state.times else 0.0,
            step_ms=1000 * statistics.median(state.times) if state.times else 0.0,
            step_drift=drift(state.times),
            parameters=sum(p.size for p in state.params.values()) // len(self.seeds),
            peak_memory_bytes=mx.get_peak_memory() if gpu else process_peak(),
            artifact_bytes=size,
            device=("mps" if sys.platform == "darwin" else "cuda") if gpu else "cpu",
        )


def find_device(name: str) -> mx.Device:
    """The device of this name; auto: the GPU where there is one. Raises ValueError."""
    gpu = mx.metal.is_available() or mx.cuda.is_available()
    usable = [*(["mps" if sys.platform == "darwin" else "cuda"] if gpu else []), "cpu"]
    if name not in ("auto", *usable):
        raise ValueError(f"device must be auto or one that is here ({', '.join(usable)}), found {name!r}")
    return mx.Device(mx.gpu if gpu and name != "cpu" else mx.cpu)

"""Training a GPT in torch: one seed, or the seeds of an arm in one batch, from a start or from a checkpoint.

    begin     parameters, optimiser and data at the first step, or at a checkpoint's
    advance   steps, to the end, to a fork, to a loss that is not finite, or until told to stop
    finish    the mean weights, quantized where that is asked for, scored on held-out text

On a CPU the same (config, seed, threads) gives the same bits, whatever ran before, and a run that went through a
checkpoint gives the bits of one that did not. On CUDA matrix products are in bfloat16 and the objective is compiled
once an architecture, before the clock starts. One of several ranks (gpt_ranks.py) takes its share of each batch; with
passes of one size that gives the figures of one device, to rounding. It must never report a figure for a run that did
not finish: a stopped or diverged one has no validation result.
"""

from __future__ import annotations

import math
import statistics
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import msgspec
import numpy as np
import torch
from torch import Tensor

from runners.corpus import Corpus
from runners.gpt import Params, Rope, init_params, rotary
from runners.gpt_after import quantized, score
from runners.gpt_config import LATE, WHERE, GptConfig
from runners.gpt_cpu import keep_memory
from runners.gpt_data import BIGRAM_TOKENS, CorpusSource, Source, bigram_nats, needs_reference, noise, stream
from runners.gpt_device import attention_kernel, find_device, peak_memory, precision
from runners.gpt_loss import Noise, Step, objective
from runners.gpt_optim import Average, Optimizer, muon_adam
from runners.gpt_ranks import ALONE, Ranks
from runners.gpt_result import GptResult, OnWeights, Status, code_bytes, drift
from runners.gpt_schedule import Rates, averaged, qat_active, rates
from runners.gpt_stages import PRE_QUANT, Scored, quantization

# Read by no compiled function, or given to it as an array: where, how long, how fast, on which text.
NOT_COMPILED = frozenset(
    (
        *(name for name in WHERE if name != "attention"),
        *LATE,
        *(
            "steps",
            "wallclock",
            "warmup_steps",
            "warmdown",
            "warmdown_steps",
            "data",
            "shards",
            "val_tokens",
            "val_every",
        ),
        *("matrix_lr", "embed_lr", "scalar_lr", "momentum", "momentum_start", "momentum_warmup", "qat_from"),
        *("ema", "swa", "swa_every", "curriculum", "curriculum_buffer", "embed_init", "qk_gain", "mtp_warmup"),
        *("init", "bigram_zero", "smear_init"),
    )
)

OnLog = Callable[[int, dict[str, float]], None]
OnSeedLog = Callable[[int, int, dict[str, float]], None]  # index of the seed, steps done, values
ShouldStop = Callable[[], str | None]
Snapshot = Mapping[str, Any]  # a State by name, as a checkpoint holds it: tensors, or arrays that were read back


@dataclass
class State:
    """A run between two steps. Of several seeds every array has a leading axis of them."""

    params: Params
    optimizer: Optimizer
    average: Average
    position: Tensor | None  # running loss at each position, for the adaptive probe
    step: int = 0
    seconds: float = 0.0  # of training, compilation and validation left out
    times: list[float] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)  # the last of each seed
    ends: dict[int, tuple[Status, str, int]] = field(
        default_factory=dict
    )  # seed -> how it ended early, at which step

    def snapshot(self) -> Snapshot:
        """A copy by name."""
        made: dict[str, Tensor] = {f"param.{name}": p.detach().clone() for name, p in self.params.items()}
        made |= {f"optimizer.{name}": x.clone() for name, x in self.optimizer.state().items()}
        made |= {f"average.{name}": x.clone() for name, x in self.average.mean.items()}
        if self.position is not None:
            made["position"] = self.position.clone()
        made["average_count"] = torch.tensor(self.average.count)
        made["step"] = torch.tensor(self.step)
        made["seconds"] = torch.tensor(self.seconds, dtype=torch.float64)
        return made


class Trainer:
    """Trains arms on one text in this process; the text is read, the device chosen and each objective compiled once.

    `device` and `threads`, where given, overrule the config's: who runs the machine decides. `ranks` are the
    processes that train with this one, all of them the same runs in the same order; rank 0 tells what came out.
    """

    def __init__(
        self, source: Source | Corpus, device: str = "auto", threads: int | None = None, ranks: Ranks = ALONE
    ) -> None:
        self.source: Source = CorpusSource(source) if isinstance(source, Corpus) else source
        self.corpus = source
        self.device, self.threads, self.ranks = device, threads, ranks
        # Seeds in a batch: one mapped pass where an accelerator has room for all, else one after another.
        self.mapped: bool | None = None  # None: on all but a CPU
        self._reference: np.ndarray | None = None
        self._compiled: dict[Any, Callable[..., Any]] = {}
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
        Raises ValueError when the config and the text, or the device, do not fit.
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
            run = Run(self, config, seeds, device, on_log or (lambda *_: None), should_stop or (lambda: None))
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
            return Run(self, config, [seed], device, tell, lambda: None).late(weights, step)

    @contextmanager
    def set_up(self, config: GptConfig) -> Iterator[torch.device]:
        """The device of a run, with its threads; ValueError where config, text and device do not fit."""
        device = find_device(self.device if self.device != "auto" else config.device)
        if max(1, config.devices) != self.ranks.size:
            raise ValueError(f"devices = {config.devices} takes as many processes (gpt_group.py); this is one alone")
        self.source.check(config)
        before = torch.get_num_threads()
        torch.set_num_threads(self.threads or config.threads)
        if device.type == "cpu":
            keep_memory()
        try:
            yield device
        finally:
            torch.set_num_threads(before)

    def evaluate(self, params: Params, config: GptConfig) -> tuple[float, float]:
        """(nats a token, bits a byte) of the held-out text, as the config says."""
        found = score(params, config, self.source, precision(config, params["embed"].device), self.ranks)
        return found.loss, found.bpb

    # --- shared between runs

    def reference(self, config: GptConfig) -> np.ndarray | None:
        """The bigram model's nats, made once; None where the config asks for none."""
        if not needs_reference(config):
            return None
        if self._reference is None:
            self._reference = bigram_nats(self.source.sample(BIGRAM_TOKENS), self.source.vocab_size)
        return self._reference

    def compiled(self, key: Any, function: Callable[..., Any]) -> Callable[..., Any]:
        """`function`, compiled once under `key`."""
        if key not in self._compiled:
            torch._dynamo.config.recompile_limit = 64
            self._compiled[key] = torch.compile(function, dynamic=False)
        return self._compiled[key]


class Run:
    """The seeds of one arm on their way."""

    def __init__(
        self,
        trainer: Trainer,
        config: GptConfig,
        seeds: Sequence[int],
        device: torch.device,
        on_log: OnSeedLog,
        should_stop: ShouldStop,
    ) -> None:
        self.trainer, self.config, self.seeds, self.device = trainer, config, seeds, device
        self.on_log, self.should_stop = on_log, should_stop
        self.on_weights: OnWeights | None = None
        self.many = len(seeds) > 1
        self.mapped = self.many and (device.type != "cpu" if trainer.mapped is None else trainer.mapped)
        self.dtype = precision(config, device)
        self.compile = config.compile == "on" or (config.compile == "auto" and device.type == "cuda")
        self.rope: Rope = rotary(config, device)
        reference = trainer.reference(config)
        self.ranks = trainer.ranks
        self.part = self.ranks.part(config.windows)
        self.batches = [stream(trainer.source, config, seed, reference, self.part) for seed in seeds]
        self.reference = None
        if reference is not None and config.rho1_keep < 1 and config.rho1_reference == "bigram":
            self.reference = torch.from_numpy(reference).to(device)

    def run(self, start: Snapshot | None, keep: Mapping[int, Callable[[Snapshot], None]]) -> list[GptResult]:
        began, cpu_began = time.perf_counter(), time.process_time()
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
        if self.compile:
            self.warm_up()
        state = self.begin(start)
        reason = self.advance(state, keep)
        if not state.ends:
            self.ranks.check(state.params)
        done = self.finish(state, reason)
        wall, cpu = time.perf_counter() - began, time.process_time() - cpu_began
        return [
            self.result(state, index, *done[index], wall / len(done), cpu / len(done)) for index in range(len(done))
        ]

    def late(self, weights: Mapping[str, np.ndarray], step: int) -> GptResult:
        """The late stages of weights that were trained before."""
        began, cpu_began = time.perf_counter(), time.process_time()
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
        order = init_params(self.config, self.seeds[0])  # sums over parameters have the bits of a whole run
        params = {name: torch.from_numpy(weights[name].copy()).to(self.device) for name in order}
        state = State(params, Optimizer(params, self.config), Average(self.config), None, step)
        (done,) = self.finish(state, None)
        return self.result(state, 0, *done, time.perf_counter() - began, time.process_time() - cpu_began)

    # --- begin

    def begin(self, start: Snapshot | None) -> State:
        """The state before the first step, or as `start` left it."""
        params = self.fresh()
        state = State(params, self.optimizer(params), Average(self.config), None)
        if self.config.probe == "adaptive":  # nothing is easy yet
            lead = (len(self.seeds),) if self.many else ()
            state.position = torch.ones((*lead, self.config.seq_len), device=self.device)
        if start is not None:
            at = {name: torch.as_tensor(x) for name, x in start.items()}
            with torch.no_grad():
                for name, p in params.items():
                    p.copy_(at[f"param.{name}"])
                state.optimizer.load({name.removeprefix("optimizer."): x for name, x in at.items()})
                if state.position is not None:
                    state.position.copy_(at["position"])
            for name, x in at.items():
                if name.startswith("average."):
                    state.average.mean[name.removeprefix("average.")] = x.to(self.device).clone()
            state.average.count, state.step = int(at["average_count"]), int(at["step"])
            state.seconds = float(at["seconds"])
            for batches in self.batches:
                next(islice(batches, state.step, state.step), None)  # what the checkpoint has seen
        return state

    def fresh(self) -> Params:
        each = [init_params(self.config, seed) for seed in self.seeds]
        made = {name: torch.stack([p[name] for p in each]) for name in each[0]} if self.many else each[0]
        return {name: p.to(self.device).requires_grad_() for name, p in made.items()}

    def optimizer(self, params: Params) -> Optimizer:
        math = self.trainer.compiled(("optimizer", self.key(False)), muon_adam) if self.compile else muon_adam
        return Optimizer(params, self.config, len(self.seeds) if self.many else 0, math)

    def warm_up(self) -> None:
        """Compile before the clock starts, on parameters that are thrown away."""
        key = (self.key(qat_active(self.config, 0)), len(self.seeds))
        if key in self.trainer._warm:
            return
        params = self.fresh()
        zeros = np.zeros((self.config.share_windows, self.config.seq_len + 1), dtype=np.int64)
        state = State(params, self.optimizer(params), Average(self.config), None)
        if self.config.probe == "adaptive":
            state.position = torch.ones(self.config.seq_len, device=self.device)
        for _ in range(2):
            self.step(state, [zeros for _ in self.seeds])
        self.trainer._warm.add(key)

    # --- advance

    def advance(self, state: State, keep: Mapping[int, Callable[[Snapshot], None]]) -> str | None:
        """Steps until the end; the reason to stop before it, where there was one."""
        config = self.config
        # On an accelerator the host runs ahead of the device: figures are fetched some steps at a time, so it may.
        every = 1 if self.device.type == "cpu" or config.wallclock else 16
        waiting: list[tuple[int, Tensor]] = []
        since = time.perf_counter()

        def fetch() -> None:
            nonlocal since
            if not waiting:
                return
            found = torch.stack([loss for _, loss in waiting]).view(len(waiting), -1).tolist()
            now = time.perf_counter()
            each = (now - since) / len(waiting)
            for (step, _), losses in zip(waiting, found, strict=True):
                state.seconds += each
                state.times.append(each)
                self.tell(state, step, losses, each)
            waiting.clear()
            since = now

        while state.step < config.steps:
            if state.step in keep:
                fetch()
                keep[state.step](state.snapshot())
            reason, state.seconds = self.ranks.agreed(self.should_stop() or None, state.seconds)
            if reason or self.out_of_time(state):
                break
            if not waiting:
                since = time.perf_counter()
            step = self.step(state, [next(batches) for batches in self.batches])
            waiting.append((state.step, step.loss))
            validate = config.val_every and state.step % config.val_every == 0 and state.step < config.steps
            if len(waiting) >= every or validate or state.step == config.steps:
                fetch()
            if len(state.ends) == len(self.seeds):
                break
            if validate:
                self.validate(state)
        else:
            reason = None
        fetch()
        reason, state.seconds = self.ranks.agreed(reason, state.seconds)
        over = state.step == config.steps or self.out_of_time(state)
        if config.steps in keep and over and not state.ends:
            keep[config.steps](state.snapshot())
        if (
            reason is None
            and config.wallclock
            and state.step == 1 < config.steps
            and state.seconds > config.wallclock
        ):
            return f"wallclock {config.wallclock:g} s is shorter than one step, which took {state.seconds:.3g} s"
        return reason

    def out_of_time(self, state: State) -> bool:
        return bool(self.config.wallclock) and state.step > 0 and state.seconds >= self.config.wallclock

    def step(self, state: State, batches: Sequence[np.ndarray]) -> Step:
        """One step of every seed on its batch."""
        config = self.config
        now = rates(config, state.step, state.seconds)
        qat = qat_active(config, state.step, state.seconds)
        batch = torch.from_numpy(np.stack(batches) if self.many else batches[0]).to(self.device)
        drawn = [noise(config, seed, state.step) for seed in self.seeds]
        draws = {
            name: torch.from_numpy(
                np.stack([each[name] for each in drawn]) if self.many else drawn[0][name][self.part]
            ).to(self.device)
            for name in drawn[0]
        }
        found = self.gradient(state, batch, now, draws, qat)
        with torch.no_grad():
            state.optimizer.step(state.params, found.grads, now)
            if state.position is not None and found.position is not None:
                state.position.lerp_(found.position.to(state.position.dtype), config.probe_ema)
            state.average.update(state.params, averaged(config, state.step, state.seconds))
        state.step += 1
        return found

    def gradient(self, state: State, batch: Tensor, now: Rates, draws: dict[str, Tensor], qat: bool) -> Step:
        """Loss and gradient of the whole batch: a micro-batch at a time, then of all ranks."""
        axis = int(self.many)
        size = self.config.pass_windows
        total: Step | None = None
        parts = batch.split(size, dim=axis)
        for i, part in enumerate(parts):
            some = {name: draw.split(size, dim=axis)[i] for name, draw in draws.items()}
            found = self.pass_(state, part[..., :-1], part[..., 1:], now, Noise(**some), qat)
            if total is None:
                total = found
            else:
                for name, g in total.grads.items():
                    g.add_(found.grads[name])
                position = None if total.position is None else total.position + found.position
                total = Step(total.loss + found.loss, total.objective + found.objective, total.grads, position)
        assert total is not None
        n = len(parts) * self.ranks.size
        if n == 1:
            return total
        more = [] if total.position is None else [total.position]
        loss, target, *grads = self.ranks.summed([total.loss, total.objective, *total.grads.values(), *more])
        total = Step(loss, target, dict(zip(total.grads, grads, strict=False)), grads[-1] if more else None)
        for g in total.grads.values():
            g.div_(n)
        position = None if total.position is None else total.position / n
        return Step(total.loss / n, total.objective / n, total.grads, position)

    def pass_(self, state: State, x: Tensor, y: Tensor, now: Rates, some: Noise, qat: bool) -> Step:
        """Forward and backward on tokens [(seeds,) windows, seq]."""
        if self.compile:
            now = Rates(*(torch.as_tensor(value, device=self.device) for value in now))
        function = self.objective(qat)
        with attention_kernel(self.config.attention):
            return self.differentiate(function, state, x, y, now, some)

    def differentiate(
        self, function: Callable[..., Any], state: State, x: Tensor, y: Tensor, now: Rates, some: Noise
    ) -> Step:
        given = (state.params, x, y, now, some, state.position)
        if not self.mapped:
            if not self.many:
                return _differentiated(function, *given)
            return _stacked([_differentiated(function, *_seed(i, *given)) for i in range(len(self.seeds))])
        gradient = torch.func.grad_and_value(function, has_aux=True)
        noise_dims = Noise(*(None if draw is None else 0 for draw in some))
        dims = (0, 0, 0, None, noise_dims, None if state.position is None else 0)
        params = {name: p.detach() for name, p in state.params.items()}
        with warnings.catch_warnings():
            # The attention kernel takes the batch seed by seed on a CPU, where it fills the machine anyhow.
            warnings.filterwarnings("ignore", message="There is a performance drop because we have not yet")
            grads, (total, (loss, at)) = torch.func.vmap(gradient, in_dims=dims)(params, *given[1:])
        return Step(loss, total, grads, at)

    def objective(self, qat: bool) -> Callable[..., Any]:
        """The objective of this arm as a function of arrays; compiled where that is asked for."""
        config, rope, reference, dtype = self.config, self.rope, self.reference, self.dtype

        def function(params: Params, x: Tensor, y: Tensor, now: Rates, some: Noise, position: Tensor | None) -> Any:
            if dtype != torch.float32:
                params = {name: p.to(dtype) for name, p in params.items()}
            return objective(params, config, rope, x, y, now, some, reference, position, qat)

        return self.trainer.compiled((self.key(qat), self.mapped), function) if self.compile else function

    def key(self, qat: bool) -> Any:
        """What a compiled objective depends on: the architecture and what it is trained on."""
        told = msgspec.structs.asdict(self.config)
        return (qat, self.device, *((name, value) for name, value in told.items() if name not in NOT_COMPILED))

    # --- tell and finish

    def tell(self, state: State, step: int, losses: Iterable[float], seconds: float) -> None:
        for index, loss in enumerate(losses):
            if index in state.ends:
                continue
            if not math.isfinite(loss):
                state.ends[index] = ("diverged", f"train loss {loss} at step {step - 1}", step - 1)
                continue
            while len(state.losses) <= index:
                state.losses.append(math.nan)
            state.losses[index] = loss
            self.on_log(index, step, {"train_loss": loss})

    def weights(self, params: Params, index: int) -> Params:
        return {name: p[index].detach() for name, p in params.items()} if self.many else params

    def validate(self, state: State) -> None:
        """Score the weights of now, on the way. Quantization is for the end, and so is its name."""
        suffix = "" if self.config.quantize == "none" else PRE_QUANT
        for index in range(len(self.seeds)):
            if index not in state.ends:
                self.scored(state, index, self.weights(state.average.weights(state.params), index), suffix)

    def scored(self, state: State, index: int, params: Params, suffix: str = "") -> Scored | None:
        found = score(params, self.config, self.trainer.source, self.dtype, self.ranks)
        if not (math.isfinite(found.loss) and math.isfinite(found.bpb)):
            state.ends[index] = ("diverged", f"validation loss {found.loss} after step {state.step}", state.step)
            return None
        self.on_log(index, state.step, {found.loss_name + suffix: found.loss, found.bpb_name + suffix: found.bpb})
        return found

    def finish(self, state: State, reason: str | None) -> list[tuple[Scored | None, float | None, int | None]]:
        """(score, bits a byte before quantization, bytes of the artifact) of each seed; None where there is none."""
        done: list[tuple[Scored | None, float | None, int | None]] = []
        for index in range(len(self.seeds)):
            if reason:
                state.ends.setdefault(index, ("stopped", reason, state.step))
            if index in state.ends:
                done.append((None, None, None))
                continue
            params = self.weights(state.average.weights(state.params), index)
            if self.on_weights is not None:
                arrays = {name: p.detach().float().cpu().numpy().copy() for name, p in params.items()}
                self.on_weights(index, state.step, arrays)
            if self.config.quantize == "none":
                done.append((self.scored(state, index, params), None, None))
                continue
            before = self.scored(state, index, params, PRE_QUANT)
            if before is None:
                done.append((None, None, None))
                continue
            first = self.ranks.rank == 0
            made = quantized(params, self.config, self.trainer.source, self.dtype) if first else None
            size, model = (made.total(code_bytes("torch")), made.model) if made else (0, b"")
            after = self.scored(state, index, self.ranks.first(made.params if made else None, params))
            if after is not None:
                self.on_log(index, state.step, quantization(before, after, size, model))
            done.append((after, before.bpb, size))
        return done

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
        steps = state.step
        if index in state.ends:
            status, why, steps = state.ends[index]
        loss = state.losses[index] if index < len(state.losses) else math.nan
        tokens = self.config.batch_tokens
        return GptResult(
            status=status,
            reason=why,
            val_bpb=found.bpb if found else None,
            val_loss=found.loss if found else None,
            val_name=found.bpb_name if found else "val_bpb",
            raw_bpb=raw,
            train_loss=loss if math.isfinite(loss) else None,
            steps=steps,
            tokens=steps * tokens,
            wall_s=wall,
            cpu_s=cpu,
            tokens_per_s=len(state.times) * tokens * len(self.seeds) / sum(state.times) if state.times else 0.0,
            step_ms=1000 * statistics.median(state.times) if state.times else 0.0,
            step_drift=drift(state.times),
            parameters=sum(p.numel() for p in state.params.values()) // len(self.seeds),
            peak_memory_bytes=peak_memory(self.device),
            artifact_bytes=size,
            device=self.device.type,
        )


# --- Seeds ---------------------------------------------------------------------------------------------------


def _differentiated(function: Callable[..., Any], params: Params, *given: Any) -> Step:
    """Loss and gradient of one seed."""
    total, (loss, at) = function(params, *given)
    grads = torch.autograd.grad(total, list(params.values()), materialize_grads=True)
    return Step(loss.detach(), total.detach(), dict(zip(params, grads, strict=True)), at)


def _seed(
    i: int, params: Params, x: Tensor, y: Tensor, now: Rates, some: Noise, position: Tensor | None
) -> tuple[Params, Tensor, Tensor, Rates, Noise, Tensor | None]:
    """What one seed of several is given."""
    own = {name: p.detach()[i].requires_grad_() for name, p in params.items()}
    drawn = Noise(*(None if draw is None else draw[i] for draw in some))
    return own, x[i], y[i], now, drawn, None if position is None else position[i]


def _stacked(steps: Sequence[Step]) -> Step:
    """The steps of several seeds as one, with an axis of seeds before all others."""
    grads = {name: torch.stack([step.grads[name] for step in steps]) for name in steps[0].grads}
    places = [step.position for step in steps if step.position is not None]
    loss, total = (torch.stack([getattr(step, name) for step in steps]) for name in ("loss", "objective"))
    return Step(loss, total, grads, torch.stack(places) if places else None)

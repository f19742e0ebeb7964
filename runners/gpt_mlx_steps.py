"""What a step of training in MLX computes, as functions of arrays: one seed's, or by mx.vmap those of a batch.

They are what is compiled, each once for all runs that compute the same: the gradient's key is the whole config, but
for what comes in as an array, or is about the run or the optimiser; the step's is what the optimiser reads. A Python
number that a compiled function reads is a constant for ever, so what changes from step to step is an array, and
whether a step is quantized is part of the key. A test holds both against the source.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any, Literal

import mlx.core as mx
import msgspec

from runners.gpt_config import LATE, WHERE, GptConfig
from runners.gpt_mlx import Noise, Params, Step, loss_and_grads, rotary, update

Kind = Literal["gradient", "step"]
# Not read by the gradient: rates come in as arrays, and the rest is about the run.
NOT_COMPILED = frozenset(
    (
        *(*WHERE, *LATE),
        *("steps", "wallclock", "warmup_steps", "warmdown", "warmdown_steps", "micro_tokens"),
        *("matrix_lr", "embed_lr", "scalar_lr", "momentum", "momentum_start", "momentum_warmup", "mtp_warmup"),
        *("init", "bigram_zero", "smear_init", "projections"),
        *("data", "shards", "embed_init", "qk_gain", "ema", "swa", "swa_every", "val_tokens", "val_every"),
        *("curriculum", "curriculum_buffer", "token_drop_schedule", "corrupt_schedule", "qat_from", "probe_ema"),
    )
)
# Read by the step, and by it alone: arms that differ in nothing else share a gradient, and all others share a step.
STEP_ONLY = frozenset(("adam_decay", "beta1", "beta2", "grad_clip", "muon_decay", "newton_schulz"))


def compiled_key(config: GptConfig, device: mx.Device, kind: Kind) -> tuple[Any, ...]:
    """What a compiled function depends on, beside quantization and shapes."""
    told = msgspec.structs.asdict(config)
    read = STEP_ONLY if kind == "step" else told.keys() - NOT_COMPILED - STEP_ONLY
    return str(device), *((name, told[name]) for name in sorted(read))


def gradient_of(config: GptConfig, qat: bool, dtype: mx.Dtype) -> Callable[..., Any]:
    """gradient(params, x, y, rates, draws, position, reference), to a Step's four parts."""
    rope, narrow = rotary(config), None if dtype == mx.float32 else dtype

    def gradient(
        params: Params,
        x: mx.array,
        y: mx.array,
        now: Params,
        draws: Params,
        position: Params,
        reference: Params,
    ) -> tuple[mx.array, mx.array, Params, mx.array]:
        more = reference.get("reference"), position.get("position")
        found = loss_and_grads(params, config, rope, x, y, now, Noise(**draws), *more, qat, narrow)
        return tuple(found)  # type: ignore[return-value]

    return gradient


def step_of(config: GptConfig) -> Callable[..., tuple[Params, Params, Params]]:
    return lambda params, grads, m, v, now: update(params, grads, m, v, config, now)


def stacked(function: Callable[..., Any], kind: Kind) -> Callable[..., Any]:
    """The same for a batch of seeds: every array has a leading axis of them, but for the rates of the step and the
    bigram model, which are the same for all."""
    axes = (0, 0, 0, None, 0, 0, None) if kind == "gradient" else (0, 0, 0, 0, None)
    mapped: Callable[..., Any] = mx.vmap(function, in_axes=axes)
    return mapped


def add(parts: Sequence[Step]) -> Step:
    """One pass, or the sum of two."""
    if len(parts) == 1:
        return parts[0]
    a, b = parts
    grads = {name: g + b.grads[name] for name, g in a.grads.items()}
    return Step(a.loss + b.loss, a.objective + b.objective, grads, a.position + b.position)


def mean(whole: Step, parts: int) -> Step:
    """Of what `parts` passes summed up to."""
    if parts == 1:
        return whole
    grads = {name: g / parts for name, g in whole.grads.items()}
    return Step(whole.loss / parts, whole.objective / parts, grads, whole.position / parts)


def precision(config: GptConfig, device: mx.Device) -> mx.Dtype:
    """What matrix products are computed in; parameters and optimiser stay float32."""
    on_cuda = device.type == mx.DeviceType.gpu and sys.platform != "darwin"
    narrow = config.dtype == "bfloat16" or (config.dtype == "auto" and on_cuda)
    return mx.bfloat16 if narrow else mx.float32

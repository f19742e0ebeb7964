"""The GPT of gpt.py in MLX, for Apple Silicon: the same names, shapes, numbers and order of work.

What is special about it:
- a model is a dictionary of arrays and plain functions over it; parameters of one kind are stacked over blocks
- one step (forward, backward, Muon and Adam) is one compiled function. What a step computes is the key it is
  kept under; what changes from step to step (rates, masks, flags) is an array that is passed in. A Python
  number inside a compiled function is a constant for ever, so none there counts, and nothing there asks for a value
- what must be equal in both backends (initial values, masks, the order of the data) comes from gpt_init, in numpy

From the same weights and batch its loss and gradients are torch's to float32's rounding; a test holds every
intervention to that. It must never report a figure for a run that did not finish.
Importing this file imports MLX; import it where a run starts, not before.
"""

from __future__ import annotations

import math
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any, Literal

import mlx.core as mx
import msgspec
import numpy as np

from runners.corpus import Corpus
from runners.gpt import GptResult
from runners.gpt_config import GptConfig
from runners.gpt_init import MATRICES, batch_starts, init_arrays, lr_scale, rotary_tables

Params = dict[str, mx.array]
Rope = tuple[mx.array, mx.array]
OnLog = Callable[[int, dict[str, float]], None]
ShouldStop = Callable[[], str | None]
_EPS = float(np.finfo(np.float32).eps)  # torch's default for a norm

ACTIVATIONS: dict[str, Callable[[mx.array], mx.array]] = {
    "relu2": lambda x: mx.square(mx.maximum(x, 0)),
    "gelu": lambda x: x * (1 + mx.erf(x * 0.5**0.5)) / 2,
    "silu": lambda x: x * mx.sigmoid(x),
    "sin": mx.sin,
    "sin2": lambda x: mx.square(mx.sin(x)),
}


# --- Model -----------------------------------------------------------------------------------------------


def init_params(config: GptConfig, seed: int) -> Params:
    """The parameters of gpt_init, as float32 arrays."""
    return {name: mx.array(value) for name, value in init_arrays(config, seed).items()}


def rotary(config: GptConfig) -> Rope:
    """cos, sin: [seq, 1, head_dim]"""
    cos, sin = (mx.array(table)[:, None] for table in rotary_tables(config))
    return cos, sin


def _norm(x: mx.array) -> mx.array:
    return mx.fast.rms_norm(x, None, _EPS)


def _rotate(x: mx.array, cos: mx.array, sin: mx.array) -> mx.array:
    first, second = mx.split(x, 2, axis=-1)
    return x * cos + mx.concatenate([second, first], axis=-1) * sin


def trunk(params: Params, config: GptConfig, rope: Rope, tokens: mx.array) -> mx.array:
    """What the head reads, [batch * seq, width], from tokens [batch, seq]."""
    batch, seq = tokens.shape
    head_dim, half = config.width // config.heads, config.depth // 2
    act = ACTIVATIONS[config.activation]
    x = x0 = _norm(params["embed"][tokens])  # [batch, seq, width]
    skips: list[mx.array] = []
    for i in range(config.depth):
        p = {name: value[i] for name, value in params.items() if name not in ("embed", "skip")}
        if i >= half and skips:
            x = x + params["skip"][i - half] * skips.pop()
        x = p["mix"][0] * x + p["mix"][1] * x0
        h = _norm(x)
        q = (h @ p["q"].T).reshape(batch, seq, config.heads, head_dim)
        k = (h @ p["k"].T).reshape(batch, seq, config.kv_heads, head_dim)
        v = (h @ p["v"].T).reshape(batch, seq, config.kv_heads, head_dim)
        q, k = _rotate(_norm(q), *rope) * p["q_gain"][:, None], _rotate(_norm(k), *rope)
        q, k, v = (t.swapaxes(1, 2) for t in (q, k, v))  # [batch, heads, seq, head_dim]
        y = mx.fast.scaled_dot_product_attention(q, k, v, scale=head_dim**-0.5, mask="causal")
        x = x + p["attn_scale"] * (y.swapaxes(1, 2).reshape(batch, seq, -1) @ p["o"].T)
        x = x + p["mlp_scale"] * (act(_norm(x) @ p["up"].T) @ p["down"].T)
        if i < half:
            skips.append(x)
    return _norm(x).reshape(batch * seq, -1)


def head(x: mx.array, embed: mx.array, targets: mx.array, softcap: float) -> mx.array:
    """Nats of every target [n], from x [n, width] and embed [vocab, width]."""
    z = x @ embed.T  # [n, vocab]
    if softcap:
        z = softcap * mx.tanh(z / softcap)
    return mx.logsumexp(z, axis=-1) - mx.take_along_axis(z, targets[:, None], axis=-1)[:, 0]


def loss(params: Params, config: GptConfig, rope: Rope, tokens: mx.array, targets: mx.array) -> mx.array:
    """Mean nats a token. tokens, targets: [batch, seq]"""
    x = trunk(params, config, rope, tokens)
    return head(x, params["embed"], targets.flatten(), config.softcap).mean()


# --- Optimiser ---------------------------------------------------------------------------------------------


def orthogonalize(g: mx.array) -> mx.array:
    """The nearest semi-orthogonal matrices to g, [depth, rows, columns], by five Newton-Schulz steps with the
    coefficients of Jordan's Muon, which bring singular values to about 0.7 to 1.2, not to one."""
    wide = g.shape[-2] <= g.shape[-1]
    x = g if wide else g.swapaxes(-2, -1)
    x = x / (mx.sqrt(mx.square(x).sum(axis=(-2, -1), keepdims=True)) + 1e-7)
    for _ in range(5):
        a = x @ x.swapaxes(-2, -1)
        b = -4.7750 * a + 2.0315 * (a @ a)
        x = 3.4445 * x + b @ x
    return x if wide else x.swapaxes(-2, -1)


def begin(params: Params) -> tuple[Params, Params]:
    """Momenta of all parameters, and Adam's second moments, at nought."""
    zeros = {name: mx.zeros_like(p) for name, p in params.items()}
    return zeros, {name: zeros[name] for name in params if name not in MATRICES}


def update(params: Params, grads: Params, m: Params, v: Params, rates: Params) -> tuple[Params, Params, Params]:
    """Muon, momentum whose step is orthogonalised, for the matrices; Adam (0.9, 0.95) for the rest; no decay.

    `rates`: learning rates by group at this step, Muon's momentum, and what takes the bias out of Adam's moments.
    """
    params, m, v, momentum = dict(params), dict(m), dict(v), rates["momentum"]
    for name, p in params.items():
        g = grads[name]
        if name in MATRICES:
            m[name] = momentum * m[name] + g
            step = orthogonalize(g + momentum * m[name])  # Nesterov
            params[name] = p - rates["matrix"] * max(1.0, p.shape[-2] / p.shape[-1]) ** 0.5 * step
        else:
            m[name] = m[name] + 0.1 * (g - m[name])
            v[name] = v[name] + 0.05 * (mx.square(g) - v[name])
            step = (m[name] / rates["unbias1"]) / (mx.sqrt(v[name] / rates["unbias2"]) + 1e-8)
            params[name] = p - rates["embed" if name == "embed" else "scalar"] * step
    return params, m, v


def train_step(config: GptConfig) -> Callable[..., tuple[mx.array, Params, Params, Params]]:
    """step(params, m, v, tokens, targets, rates), to (loss, params, m, v)."""
    rope = rotary(config)

    def step(
        params: Params, m: Params, v: Params, tokens: mx.array, targets: mx.array, rates: Params
    ) -> tuple[mx.array, Params, Params, Params]:
        value, grads = mx.value_and_grad(loss)(params, config, rope, tokens, targets)
        return value, *update(params, grads, m, v, rates)

    return step


def scorer(config: GptConfig) -> Callable[..., mx.array]:
    """score(params, tokens, targets), to the sum of their nats."""
    rope = rotary(config)
    return lambda params, tokens, targets: loss(params, config, rope, tokens, targets) * targets.size


# --- Training ----------------------------------------------------------------------------------------------

# Fields that no function under mx.compile reads: rates come in as arrays, the rest is about the run, not the step.
_NOT_COMPILED = (
    "matrix_lr embed_lr scalar_lr momentum warmup_steps warmdown steps val_tokens val_every device threads qk_gain"
)


def rates(config: GptConfig, step: int) -> Params:
    """What `update` takes that changes from step to step, counted from zero."""
    scale = lr_scale(config, step)
    values = {
        "matrix": config.matrix_lr * scale,
        "embed": config.embed_lr * scale,
        "scalar": config.scalar_lr * scale,
        "momentum": config.momentum,
        "unbias1": 1 - 0.9 ** (step + 1),
        "unbias2": 1 - 0.95 ** (step + 1),
    }
    return {name: mx.array(value, dtype=mx.float32) for name, value in values.items()}


class Trainer:
    """Trains arms on one corpus in this process; the corpus is read, and a step compiled, once.

    `device`, where given, overrules the config's: who runs the machine decides. `compiled`: whether steps go
    through mx.compile; by default on a GPU only, as a CPU waits long for its compiler and gains a thirtieth.
    """

    def __init__(self, corpus: Corpus, device: str = "auto", compiled: bool | None = None) -> None:
        self.corpus, self.device, self.compiled = corpus, device, compiled
        self._made: dict[Any, Callable[..., Any]] = {}

    def _function(self, make: Callable[[GptConfig], Callable[..., Any]], config: GptConfig) -> Callable[..., Any]:
        """make(config), made and compiled once for all configs that compute the same."""
        key = make, tuple((k, v) for k, v in msgspec.structs.asdict(config).items() if k not in _NOT_COMPILED.split())
        if key not in self._made:
            gpu = mx.default_device().type == mx.DeviceType.gpu
            function = make(config)
            self._made[key] = mx.compile(function) if (gpu if self.compiled is None else self.compiled) else function
        return self._made[key]

    def train(
        self, config: GptConfig, seed: int, *, on_log: OnLog | None = None, should_stop: ShouldStop | None = None
    ) -> GptResult:
        """Trains one seed of one arm to its end, to a loss that is not finite, or until told to stop.

        `on_log(steps done, values)` gets train_loss after every step, and val_loss, val_bpb at validations.
        `should_stop()` is asked before every step; a reason that is not empty ends the run with status stopped.
        Raises ValueError when the config and the corpus, or the device, do not fit.
        """
        device = _device(self.device if self.device != "auto" else config.device)
        # check(config, self.corpus)
        with mx.stream(device):
            return self._train(config, seed, device, on_log or (lambda *_: None), should_stop or (lambda: None))

    def _train(
        self, config: GptConfig, seed: int, device: mx.Device, on_log: OnLog, should_stop: ShouldStop
    ) -> GptResult:
        began, cpu_began = time.perf_counter(), time.process_time()
        mx.reset_peak_memory()
        params = init_params(config, seed)
        m, v = begin(params)
        advance = self._function(train_step, config)
        train = self.corpus.train
        starts, window = batch_starts(len(train), config, seed), np.arange(config.seq_len + 1)

        status: Literal["ok", "diverged", "stopped"] = "ok"
        reason: str | None = None
        train_loss, val_loss, val_bpb = math.nan, math.nan, math.nan
        times: list[float] = []
        for step in range(config.steps):
            if reason := should_stop() or None:
                status = "stopped"
                break
            tick = time.perf_counter()
            batch = mx.array(train[next(starts)[:, None] + window].astype(np.int32))  # [batch, seq + 1]
            value, params, m, v = advance(params, m, v, batch[:, :-1], batch[:, 1:], rates(config, step))
            mx.eval(value, params, m, v)
            train_loss = value.item()
            if not math.isfinite(train_loss):
                status, reason = "diverged", f"train loss {train_loss} at step {step}"
                break
            times.append(time.perf_counter() - tick)
            on_log(step + 1, {"train_loss": train_loss})
            done = step + 1 == config.steps
            if done or (config.val_every and (step + 1) % config.val_every == 0):
                val_loss, val_bpb = self.evaluate(params, config)
                if not math.isfinite(val_loss):
                    status, reason = "diverged", f"validation loss {val_loss} after step {step + 1}"
                    break
                on_log(step + 1, {"val_loss": val_loss, "val_bpb": val_bpb})
        return GptResult(
            status=status,
            reason=reason,
            val_bpb=val_bpb if status == "ok" else None,
            val_loss=val_loss if status == "ok" else None,
            train_loss=train_loss if math.isfinite(train_loss) else None,
            steps=len(times),
            tokens=len(times) * config.batch_tokens,
            wall_s=time.perf_counter() - began,
            cpu_s=time.process_time() - cpu_began,
            tokens_per_s=len(times) * config.batch_tokens / sum(times) if times else 0.0,
            step_ms=1000 * statistics.median(times) if times else 0.0,
            parameters=sum(p.size for p in params.values()),
            peak_memory_bytes=mx.get_peak_memory(),
            device=str(device.type).rsplit(".", 1)[-1],
        )

    def evaluate(self, params: Params, config: GptConfig) -> tuple[float, float]:
        """(nats a token, bits a byte) of the first val_tokens of the held-out split, in windows without overlap.

        bits a byte = total nats / ln 2 / total bytes; both totals are over the same tokens, those predicted.
        """
        count = config.val_tokens // config.seq_len * config.seq_len
        val = self.corpus.val[: count + 1].astype(np.int32)
        tokens, targets = val[:-1].reshape(-1, config.seq_len), val[1:].reshape(-1, config.seq_len)
        score, batch = self._function(scorer, config), config.batch_tokens // config.seq_len
        total = 0.0
        for i in range(0, len(tokens), batch):
            total += score(params, mx.array(tokens[i : i + batch]), mx.array(targets[i : i + batch])).item()
        return total / count, total / math.log(2) / int(self.corpus.token_bytes[val[1:]].sum(dtype=np.int64))


def _device(name: str) -> mx.Device:
    gpu = mx.is_available(mx.gpu)
    usable = ["auto", "cpu", *(["mps" if sys.platform == "darwin" else "cuda"] if gpu else [])]
    if name not in usable:
        raise ValueError(f"device must be auto or one that is here ({', '.join(usable[1:])}), found {name!r}")
    return mx.Device(mx.gpu if gpu and name != "cpu" else mx.cpu)

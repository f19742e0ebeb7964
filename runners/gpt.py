"""A GPT that trains in seconds on a laptop: parameter-golf's baseline shape, small, in one file.

What is special about it:
- RMSNorm without weights, on the residual stream and on queries and keys; a learned gain per head on queries
- rotary positions (base 1e4), grouped key/value heads, no biases
- MLP of relu(x)^2, tied embeddings, logits softly capped: cap * tanh(x / cap)
- U-Net: the second half of the blocks adds, with learned weights, what the first half put out; every
  block mixes the embedding back in
- Muon for the matrices, Adam for embedding and scalars, linear warm-down by steps
- every design choice that an experiment may vary is a field of `GptConfig`
- pairs by seed are pairs: a seed gives each parameter its own generator (by name) and the data another, so
  two arms see the same batches and start from the same values wherever shapes agree; no global generator
  is touched
- the head, whose logits are the largest array, runs forward and backward on a slice of tokens at a time

On a CPU the same (config, seed, threads) gives the same bits, whatever ran before. It must never report a
figure for a run that did not finish: a stopped or diverged one has no validation result.
Importing this file imports torch; import it where a run starts, not before.
"""

from __future__ import annotations

import math
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from typing import Literal

import msgspec
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from runners.corpus import Corpus
from runners.gpt_config import GptConfig
from runners.gpt_init import MATRICES, batch_starts, init_arrays, lr_scale, rotary_tables

Params = dict[str, Tensor]
Rope = tuple[Tensor, Tensor]
OnLog = Callable[[int, dict[str, float]], None]
ShouldStop = Callable[[], str | None]

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu2": lambda x: F.relu(x).square(),
    "gelu": F.gelu,
    "silu": F.silu,
    "sin": torch.sin,
    "sin2": lambda x: torch.sin(x).square(),
}


def _must(holds: bool, rule: str, found: object) -> None:
    if not holds:
        raise ValueError(f"{rule}, found {found!r}")


class GptResult(msgspec.Struct, frozen=True, kw_only=True):
    """One seed of one arm. Losses in nats a token; `val_bpb` in bits a byte of text."""

    status: Literal["ok", "diverged", "stopped"]
    reason: str | None  # why it did not finish
    val_bpb: float | None  # None unless status is ok
    val_loss: float | None
    train_loss: float | None  # of the last step; None when not finite
    steps: int  # done
    tokens: int
    wall_s: float  # all of it, with validation
    cpu_s: float  # of this process, all threads
    tokens_per_s: float  # of training, without validation
    step_ms: float  # median
    parameters: int
    peak_memory_bytes: int  # CUDA: allocated by this run; else: the process's peak so far
    device: str


# --- Model -----------------------------------------------------------------------------------------------


def init_params(config: GptConfig, seed: int) -> Params:
    """The parameters of gpt_init, as float32 tensors on the CPU."""
    return {name: torch.from_numpy(value) for name, value in init_arrays(config, seed).items()}


def rotary(config: GptConfig, device: torch.device) -> Rope:
    """cos, sin: [seq, 1, head_dim]. Dimension i turns with i + head_dim / 2."""
    cos, sin = (torch.from_numpy(table).to(device)[:, None] for table in rotary_tables(config))
    return cos, sin


def _norm(x: Tensor) -> Tensor:
    return F.rms_norm(x, (x.size(-1),))


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    return x * cos + x.roll(x.size(-1) // 2, dims=-1) * sin


def trunk(params: Params, config: GptConfig, rope: Rope, tokens: Tensor) -> Tensor:
    """What the head reads, [batch * seq, width], from tokens [batch, seq]."""
    batch, seq = tokens.shape
    head_dim, half = config.width // config.heads, config.depth // 2
    act = ACTIVATIONS[config.activation]
    kinds = ("q", "k", "v", "o", "up", "down", "q_gain", "attn_scale", "mlp_scale", "mix")
    blocks = zip(*(params[kind].unbind() for kind in kinds), strict=True)
    x = x0 = _norm(F.embedding(tokens, params["embed"]))  # [batch, seq, width]
    skips: list[Tensor] = []
    for i, (w_q, w_k, w_v, w_o, up, down, q_gain, attn_scale, mlp_scale, mix) in enumerate(blocks):
        if i >= half and skips:
            x = x + params["skip"][i - half] * skips.pop()
        x = mix[0] * x + mix[1] * x0
        h = _norm(x)
        q = F.linear(h, w_q).view(batch, seq, config.heads, head_dim)
        k = F.linear(h, w_k).view(batch, seq, config.kv_heads, head_dim)
        v = F.linear(h, w_v).view(batch, seq, config.kv_heads, head_dim)
        q, k = _rotate(_norm(q), *rope) * q_gain[:, None], _rotate(_norm(k), *rope)
        q, k, v = (t.transpose(1, 2) for t in (q, k, v))  # [batch, heads, seq, head_dim]
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
        x = x + attn_scale * F.linear(y.transpose(1, 2).reshape(batch, seq, -1), w_o)
        x = x + mlp_scale * F.linear(act(F.linear(_norm(x), up)), down)
        if i < half:
            skips.append(x)
    return _norm(x).flatten(0, 1)


def head(x: Tensor, embed: Tensor, targets: Tensor, softcap: float) -> Tensor:
    """Nats of every target [n], from x [n, width] and embed [vocab, width]."""
    if not softcap:
        return F.cross_entropy(F.linear(x, embed), targets, reduction="none")
    # cap * tanh(z / cap) = 2 cap * sigmoid(2 z / cap) - cap. A softmax does not see the constant, sigmoid costs
    # a third of tanh, and scaling x and working in place spare passes over the largest array.
    z = F.linear(x * (2 / softcap), embed).sigmoid_() * (2 * softcap)  # [n, vocab]
    return F.cross_entropy(z, targets, reduction="none")


def loss_and_grads(
    params: Params, config: GptConfig, rope: Rope, tokens: Tensor, targets: Tensor
) -> tuple[float, Params]:
    """Mean nats a token, and its gradient for each parameter. tokens, targets: [batch, seq]"""
    x = trunk(params, config, rope, tokens)
    embed = params["embed"].detach().requires_grad_()
    loss, embed_grad, x_grads = x.new_zeros(()), torch.zeros_like(embed), []
    for part, y in _slices(x.detach(), targets):
        part_loss = head(part.requires_grad_(), embed, y, config.softcap).sum() / targets.numel()
        x_grad, e_grad = torch.autograd.grad(part_loss, (part, embed))
        x_grads.append(x_grad)
        embed_grad += e_grad
        loss += part_loss.detach()
    # materialize: depth 1 has no skip to use, and its gradient is a zero of no size
    found = torch.autograd.grad(x, list(params.values()), torch.cat(x_grads), materialize_grads=True)
    grads = dict(zip(params, found, strict=True))
    grads["embed"] += embed_grad  # tied: it is read at both ends
    return loss.item(), grads


def _slices(x: Tensor, targets: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Tokens in slices whose logits a CPU's cache and allocator keep (whole, they were handed back to the system and
    faulted in again at every step, a fifth of the time), and that are few launches on an accelerator."""
    rows = 512 if x.device.type == "cpu" else 16_384
    return zip(x.split(rows), targets.flatten().split(rows), strict=True)


# --- Optimiser ---------------------------------------------------------------------------------------------


def orthogonalize(g: Tensor) -> Tensor:
    """The nearest semi-orthogonal matrices to g, [depth, rows, columns], by five Newton-Schulz steps with the
    coefficients of Jordan's Muon, which bring singular values to about 0.7 to 1.2, not to one."""
    wide = g.size(-2) <= g.size(-1)
    x = g if wide else g.mT
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(5):
        a = x @ x.mT
        b = torch.baddbmm(a, a, a, beta=-4.7750, alpha=2.0315)  # b a + c a a, in one call
        x = torch.baddbmm(x, b, x, beta=3.4445)
    return x if wide else x.mT


class Optimizer:
    """Muon, momentum whose step is orthogonalised, for the matrices; Adam (0.9, 0.95) for the rest; no decay."""

    def __init__(self, params: Params, config: GptConfig) -> None:
        self.momentum, self.steps = config.momentum, 0
        self.lr = {name: config.matrix_lr if name in MATRICES else config.scalar_lr for name in params}
        self.lr["embed"] = config.embed_lr
        self.m = {name: torch.zeros_like(p) for name, p in params.items()}
        self.v = {name: torch.zeros_like(p) for name, p in params.items() if name not in MATRICES}

    def step(self, params: Params, grads: Params, scale: float) -> None:
        """Changes params in place, at `scale` times the learning rates. Call it without autograd."""
        self.steps += 1
        unbias1, unbias2 = 1 - 0.9**self.steps, 1 - 0.95**self.steps
        for name, p in params.items():
            g, m, lr = grads[name], self.m[name], self.lr[name] * scale
            if name in MATRICES:
                m.mul_(self.momentum).add_(g)
                update = orthogonalize(g + self.momentum * m)  # Nesterov
                p.sub_(update, alpha=lr * max(1.0, p.size(-2) / p.size(-1)) ** 0.5)
            else:
                m.lerp_(g, 0.1)
                v = self.v[name].lerp_(g.square(), 0.05)
                p.addcdiv_(m, v.sqrt().mul_(unbias2**-0.5).add_(1e-8), value=-lr / unbias1)


# --- Training ----------------------------------------------------------------------------------------------


class Trainer:
    """Trains arms on one corpus in this process; the corpus is read and the device chosen once.

    `device` and `threads`, where given, overrule the config's: who runs the machine decides.
    """

    def __init__(self, corpus: Corpus, device: str = "auto", threads: int | None = None) -> None:
        self.corpus, self.device, self.threads = corpus, device, threads
        self._on: dict[torch.device, tuple[Tensor, Tensor, Tensor]] = {}

    def _data(self, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
        """train [tokens], val [tokens], token_bytes [vocab]: int64 on the device"""
        if device not in self._on:
            arrays = self.corpus.train, self.corpus.val, self.corpus.token_bytes
            train, val, sizes = (torch.from_numpy(a.astype(np.int64)).to(device) for a in arrays)
            self._on[device] = train, val, sizes
        return self._on[device]

    def train(
        self, config: GptConfig, seed: int, *, on_log: OnLog | None = None, should_stop: ShouldStop | None = None
    ) -> GptResult:
        """Trains one seed of one arm to its end, to a loss that is not finite, or until told to stop.

        `on_log(steps done, values)` gets train_loss after every step, and val_loss, val_bpb at validations.
        `should_stop()` is asked before every step; a reason that is not empty ends the run with status stopped.
        Raises ValueError when the config and the corpus, or the device, do not fit.
        """
        device = _device(self.device if self.device != "auto" else config.device)
        self._check(config)
        before = torch.get_num_threads()
        torch.set_num_threads(self.threads or config.threads)
        try:
            return self._train(config, seed, device, on_log or (lambda *_: None), should_stop or (lambda: None))
        finally:
            torch.set_num_threads(before)

    def _check(self, config: GptConfig) -> None:
        known, train, val = self.corpus.vocab_size, len(self.corpus.train), len(self.corpus.val)
        how = "larger" if config.vocab_size > known else "smaller"
        _must(config.vocab_size == known, f"vocab_size is {how} than the tokenizer's {known}", config.vocab_size)
        _must(config.val_tokens < val, f"val_tokens must be below the {val} tokens held out", config.val_tokens)
        room = train - config.seq_len  # an epoch's offset may cost a window
        _must(config.batch_tokens <= room, f"batch_tokens must be at most the corpus's {room}", config.batch_tokens)

    def _train(
        self, config: GptConfig, seed: int, device: torch.device, on_log: OnLog, should_stop: ShouldStop
    ) -> GptResult:
        began, cpu_began = time.perf_counter(), time.process_time()
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        train = self._data(device)[0]
        rope = rotary(config, device)
        params = {name: p.to(device).requires_grad_() for name, p in init_params(config, seed).items()}
        optimizer = Optimizer(params, config)
        starts = batch_starts(len(train), config, seed)
        window = torch.arange(config.seq_len + 1, device=device)

        status: Literal["ok", "diverged", "stopped"] = "ok"
        reason: str | None = None
        train_loss, val_loss, val_bpb = math.nan, math.nan, math.nan
        times: list[float] = []
        for step in range(config.steps):
            if reason := should_stop() or None:
                status = "stopped"
                break
            tick = time.perf_counter()
            batch = train[torch.from_numpy(next(starts)).to(device)[:, None] + window]  # [batch, seq + 1]
            train_loss, grads = loss_and_grads(params, config, rope, batch[:, :-1], batch[:, 1:])
            if not math.isfinite(train_loss):
                status, reason = "diverged", f"train loss {train_loss} at step {step}"
                break
            with torch.no_grad():
                optimizer.step(params, grads, lr_scale(config, step))
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
            parameters=sum(p.numel() for p in params.values()),
            peak_memory_bytes=_peak_memory(device),
            device=device.type,
        )

    def evaluate(self, params: Params, config: GptConfig) -> tuple[float, float]:
        """(nats a token, bits a byte) of the first val_tokens of the held-out split, in windows without overlap.

        bits a byte = total nats / ln 2 / total bytes; both totals are over the same tokens, those predicted.
        """
        device = params["embed"].device
        _, val, sizes = self._data(device)
        count = config.val_tokens // config.seq_len * config.seq_len
        tokens, targets = val[:count].view(-1, config.seq_len), val[1 : count + 1].view(-1, config.seq_len)
        rope, batch = rotary(config, device), config.batch_tokens // config.seq_len
        total = 0.0
        with torch.no_grad():
            for x, y in zip(tokens.split(batch), targets.split(batch), strict=True):
                for part, part_y in _slices(trunk(params, config, rope, x), y):
                    total += head(part, params["embed"], part_y, config.softcap).sum().item()
        return total / count, total / math.log(2) / sizes[targets].sum().item()


def _device(name: str) -> torch.device:
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    usable = [kind for kind in there if there[kind]]
    _must(name in ("auto", *usable), f"device must be auto or one that is here ({', '.join(usable)})", name)
    return torch.device(usable[0] if name == "auto" else name)


def _peak_memory(device: torch.device) -> int:
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    import resource  # POSIX only, and only needed here

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # Linux counts KiB

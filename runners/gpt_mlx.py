"""The GPT of gpt.py in MLX, for Apple Silicon: the same names, shapes, numbers and order of work.

What is special about it:
- a model is a dictionary of arrays and plain functions over it; parameters of one kind are stacked over blocks
- one step (forward, backward, Muon and Adam) is one compiled function. What a step computes is the key it is
  kept under; what changes from step to step (rates, masks, flags) is an array that is passed in. A Python
  number inside a compiled function is a constant for ever, so none there counts, and nothing there asks for a value
- seeds in a batch are mx.vmap over these functions. Its rule for `&` and `|` forgets to broadcast (MLX 0.32), so
  conditions are joined by logical_and and logical_or
- what must be equal in both backends (initial values, masks, the order of the data) comes from gpt_init, in numpy

From the same weights and batch its loss and gradients are torch's to float32's rounding; a test holds every
intervention to that. It must never report a figure for a run that did not finish.
Importing this file imports MLX; import it where a run starts, not before.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import reduce
from itertools import pairwise
from typing import Any, NamedTuple

import mlx.core as mx
import numpy as np

from runners.gpt_config import GptConfig
from runners.gpt_init import MATRICES, TABLES, by_muon, init_arrays, rotary_tables
from runners.gpt_schedule import Rates

Params = dict[str, mx.array]
Rope = tuple[mx.array, mx.array]
Terms = list[mx.array]
_EPS = float(np.finfo(np.float32).eps)  # torch's default for a norm


def _leaky_relu2(x: mx.array) -> mx.array:
    return mx.square(mx.where(x > 0, x, 0.5 * x))


ACTIVATIONS: dict[str, Callable[[mx.array], mx.array]] = {
    "relu2": lambda x: mx.square(mx.maximum(x, 0)),
    "gelu": lambda x: x * (1 + mx.erf(x * 0.5**0.5)) / 2,
    "silu": lambda x: x * mx.sigmoid(x),
    "sin": mx.sin,
    "sin2": lambda x: mx.square(mx.sin(x)),
    "leaky_relu2": _leaky_relu2,
}


def init_params(config: GptConfig, seed: int) -> Params:
    """The parameters of gpt_init, as float32 arrays."""
    return {name: mx.array(value) for name, value in init_arrays(config, seed).items()}


def rotary(config: GptConfig) -> Rope:
    """cos, sin: [seq, 1, rope_dims]"""
    cos, sin = (mx.array(table)[:, None] for table in rotary_tables(config))
    return cos, sin


# --- The trunk ---------------------------------------------------------------------------------------------

BLOCK = ("q", "k", "v", "o", "up", "down", "q_gain", "attn_scale", "mlp_scale", "mix", "value_mix")


def trunk(
    params: Params,
    config: GptConfig,
    rope: Rope,
    tokens: mx.array,
    shown: mx.array | None = None,
    terms: Terms | None = None,
) -> mx.array:
    """What the head reads, [batch, seq, width], from tokens [batch, seq].

    `shown` [batch, seq] scales each token's embedding; `terms` collects the Barlow-Twins terms, where they are on.
    """
    order = config.order
    n, half = len(order), len(order) // 2
    blocks = {name: unbind(params[name]) for name in BLOCK if name in params}
    x = x0 = embed(params, config, tokens, shown)
    added = value_embedding(params, config, tokens, shown) if config.value_embed_last else None
    outs, first_v = [x0], None
    for i, block in enumerate(order):
        p = {name: each[block] for name, each in blocks.items()}
        if config.skips == "unet" and half <= i < 2 * half:
            x = x + params["skip"][i - half] * outs[2 * half - i]  # the last output of the first half first
        elif config.skips == "dense":
            x = total([params["dense"][i, j] * out for j, out in enumerate(outs)])
        x = p["mix"][0] * x + p["mix"][1] * x0
        h = read(x, config, i)
        gain = i - (n - config.value_embed_last)
        more = None if added is None or gain < 0 else params["value_embed_gain"][gain] * added
        y, v = attention(p, config, rope, h, first_v, more, leave_self_out=i >= n - config.xsa_last)
        first_v = v if first_v is None and config.value_residual else first_v
        if i < n - config.parallel_last:
            x = x + p["attn_scale"] * y
            x = x + p["mlp_scale"] * mlp(p, config, read(x, config, i), terms)
        else:
            x = x + p["attn_scale"] * y + p["mlp_scale"] * mlp(p, config, h, terms)
        outs.append(x)
    if terms is not None and config.bt_layers:
        some = [out[..., :128] for out in outs[1:]]
        pairs = [decorrelation(a, b) for a, b in pairwise(some)]
        terms.append(config.bt_layers * total(pairs) / len(pairs))
    return norm(x)


def norm(x: mx.array) -> mx.array:
    return mx.fast.rms_norm(x, None, _EPS)


def unbind(stack: Any) -> list[Any]:
    """The arrays along the first axis. Its gradient is put together once; indexing would add up a stack a block."""
    return stack if isinstance(stack, list) else [part.squeeze(0) for part in mx.split(stack, stack.shape[0])]


def linear(x: mx.array, w: mx.array | Watched) -> mx.array:
    """[..., out], from x [..., in] and w [out, in]."""
    return w(x) if isinstance(w, Watched) else x @ w.T


class Watched:
    """A matrix that tells what it is given; `shape` is the matrix's."""

    def __init__(self, matrix: mx.array, tell: Callable[[mx.array], None]) -> None:
        self.matrix, self.tell, self.shape = matrix, tell, matrix.shape

    def __call__(self, x: mx.array) -> mx.array:
        self.tell(x)
        return x @ self.matrix.T


def total(parts: list[mx.array]) -> mx.array:
    return reduce(mx.add, parts)


def embed(params: Params, config: GptConfig, tokens: mx.array, shown: mx.array | None) -> mx.array:
    """[batch, seq, width]: tokens, hashed pairs, a little of the token before."""
    x = params["embed"][tokens]
    if config.bigram_buckets:
        wide = tokens.astype(mx.int64)
        ids = ((36313 * wide[:, 1:]) ^ (27191 * wide[:, :-1])) % (config.bigram_buckets - 1)
        ids = mx.pad(ids, [(0, 0), (1, 0)], constant_values=config.bigram_buckets - 1)
        x = x + params["bigram_scale"] * linear(params["bigram"][ids], params["bigram_proj"][0])
    x = norm(x)
    if shown is not None:
        x = x * shown[..., None].astype(x.dtype)
    if config.smear_gate:
        gate = mx.sigmoid(params["smear"])
        x = (1 - gate) * x + gate * mx.pad(x[:, :-1], [(0, 0), (1, 0), (0, 0)])
    return x


def read(x: mx.array, config: GptConfig, i: int) -> mx.array:
    """What the i-th block reads of the stream, which grows as it goes on; i counts from zero."""
    return norm(x) * (i + 1) ** -0.5 if config.layer_scale else norm(x)


def value_embedding(params: Params, config: GptConfig, tokens: mx.array, shown: mx.array | None) -> mx.array:
    """[batch, seq, kv_heads, head_dim]: what a token adds to its own values, whatever the stream has made of it."""
    rows = linear(params["value_embed"][tokens], params["value_embed_proj"][0]) * params["value_embed_scale"]
    if shown is not None:
        rows = rows * shown[..., None].astype(rows.dtype)
    return rows.reshape(*tokens.shape, config.kv_heads, config.head_dim)


def attention(
    p: Params,
    config: GptConfig,
    rope: Rope,
    h: mx.array,
    first_v: mx.array | None,
    added: mx.array | None,
    leave_self_out: bool,
) -> tuple[mx.array, mx.array]:
    """(what the heads put out, [batch, seq, width]; values before any residual, [batch, seq, kv_heads, head_dim])"""
    batch, seq, _ = h.shape
    q = linear(h, p["q"]).reshape(batch, seq, config.heads, config.head_dim)
    k = linear(h, p["k"]).reshape(batch, seq, config.kv_heads, config.head_dim)
    v = own = linear(h, p["v"]).reshape(batch, seq, config.kv_heads, config.head_dim)
    if added is not None:
        v = own = v + added
    if first_v is not None:
        v = v + mx.sigmoid(p["value_mix"]) * first_v
    q, k = rotate(norm(q), *rope) * p["q_gain"][:, None], rotate(norm(k), *rope)
    y = mx.fast.scaled_dot_product_attention(
        q.swapaxes(1, 2), k.swapaxes(1, 2), v.swapaxes(1, 2), scale=config.head_dim**-0.5, mask="causal"
    ).swapaxes(1, 2)  # [batch, seq, heads, head_dim]
    if leave_self_out:  # each head's output without its part along the token's own value
        y = y.reshape(batch, seq, config.kv_heads, -1, config.head_dim)
        y = without(y, v[:, :, :, None])
    return linear(y.reshape(batch, seq, -1), p["o"]), own


def rotate(x: mx.array, cos: mx.array, sin: mx.array) -> mx.array:
    """x [..., seq, heads, head_dim], its first rope_dims dimensions turned by position."""
    turning = cos.shape[-1]
    if turning == 0:
        return x
    cos, sin = cos.astype(x.dtype), sin.astype(x.dtype)
    first, second, rest = mx.split(x, (turning // 2, turning), axis=-1)
    turned = x[..., :turning] * cos + mx.concatenate([second, first], axis=-1) * sin
    return turned if turning == x.shape[-1] else mx.concatenate([turned, rest], axis=-1)


def without(x: mx.array, direction: mx.array) -> mx.array:
    """x less its part along `direction`, per vector of the last dimension (one step of Gram-Schmidt)."""
    size = mx.square(direction).sum(-1, keepdims=True) + 1e-6
    return x - (x * direction).sum(-1, keepdims=True) / size * direction


# --- The MLP and its variants ------------------------------------------------------------------------------


def mlp(p: Params, config: GptConfig, h: mx.array, terms: Terms | None) -> mx.array:
    """[batch, seq, width]. The variants are gpt.py's: paths that are gated (DML), made orthogonal, periodic (FAN), or
    three banks of which one is the others' residual."""
    u = linear(h, p["up"])
    columns = p["down"].shape[-1]
    pairs: list[tuple[mx.array, mx.array]] = []
    if config.mlp == "standard":
        inner = (
            fan(u, columns // 8, _leaky_relu2) if config.activation == "fan" else ACTIVATIONS[config.activation](u)
        )
        return linear(inner, p["down"])
    act = ACTIVATIONS[config.activation]
    if config.mlp == "dml_gated":
        nuisance, target = mx.split(u, 2, axis=-1)
        nuisance = act(nuisance)
        inner, pairs = nuisance * target, [(nuisance, target)]
    elif config.mlp == "fan_dml":
        nuisance, rest = mx.split(u, (columns,), axis=-1)
        nuisance, target = act(nuisance), fan(rest, columns // 8, lambda x: x)
        inner, pairs = nuisance * target, [(nuisance, target)]
    elif config.mlp == "dml_orth":
        nuisance, *targets = mx.split(act(u), 3, axis=-1)
        targets = [without(target, nuisance) for target in targets]
        inner, pairs = mx.concatenate([nuisance, *targets], axis=-1), [(nuisance, target) for target in targets]
    else:
        banks = mx.split(u, 3, axis=-1)
        if config.mlp == "causal_wide":
            memory, feature, residual = banks[0], act(banks[1]), act(banks[2])
        else:  # dml_causal_wide: a gate and a value in each bank
            gates, values = zip(*(mx.split(bank, 2, axis=-1) for bank in banks), strict=True)
            gates = (gates[0], act(gates[1]), act(gates[2]))
            memory, feature, residual = (gate * value for gate, value in zip(gates, values, strict=True))
            pairs += zip(gates, values, strict=True)
        residual = without(without(residual, memory), without(feature, memory))
        inner = mx.concatenate([memory, feature, residual], axis=-1)
        pairs += [(memory, feature), (memory, residual), (feature, residual)]
    if terms is not None and config.bt_lambda:
        found = [decorrelation(a, b) for a, b in pairs]
        terms.append(config.bt_lambda * total(found) / len(found) / len(config.order))
    return linear(inner, p["down"])


def fan(u: mx.array, periodic: int, rest: Callable[[mx.array], mx.array]) -> mx.array:
    """Fourier analysis: cosine and sine of the first `periodic` columns, shared, then `rest` of the rest."""
    angle, plain = mx.split(u, (periodic,), axis=-1)
    return mx.concatenate([mx.cos(angle), mx.sin(angle), rest(plain)], axis=-1)


def decorrelation(a: mx.array, b: mx.array) -> mx.array:
    """Barlow-Twins redundancy of two sets of features [..., tokens, features] over all tokens: the sum of the squared
    correlations between every feature of `a` and every one of `b`, over the number of features. It has a gradient."""
    a, b = (_standard(x.reshape(-1, x.shape[-1]).astype(mx.float32)) for x in (a, b))
    correlation = a.T @ b / a.shape[0]
    return mx.square(correlation).sum() / correlation.shape[-1]


def _standard(x: mx.array) -> mx.array:
    x = x - x.mean(0)
    return x / mx.sqrt(mx.square(x).mean(0) + 1e-6)


# --- The head ----------------------------------------------------------------------------------------------


def logits(params: Params, config: GptConfig, x: mx.array) -> mx.array:
    """[..., vocab], within (-softcap, softcap), from what the trunk gave."""
    z = linear(x, params["embed"]).astype(mx.float32)
    return config.softcap * mx.tanh(z / config.softcap) if config.softcap else z


def nats(z: mx.array, targets: mx.array) -> mx.array:
    """Nats of every target [...], from logits [..., vocab]."""
    return mx.logsumexp(z, axis=-1) - mx.take_along_axis(z, targets[..., None], axis=-1)[..., 0]


def forward(
    params: Params, config: GptConfig, rope: Rope, tokens: mx.array, targets: mx.array | None = None
) -> mx.array:
    """Without targets: logits [batch, seq, vocab]. With targets [batch, seq]: nats of each, [batch, seq].

    The seam for evaluation: no objective, no noise, nothing that is only for training."""
    z = logits(params, config, trunk(params, config, rope, tokens))
    return z if targets is None else nats(z, targets)


# --- The objective -----------------------------------------------------------------------------------------


class Noise(NamedTuple):
    """Uniform numbers in [0, 1) for one batch, [batch, seq]; None where the config needs none."""

    drop: mx.array | None = None
    corrupt: mx.array | None = None
    tokens: mx.array | None = None  # int32: what replaces a corrupted token
    probe: mx.array | None = None

    @classmethod
    def of(cls, drawn: Mapping[str, np.ndarray]) -> Noise:
        """What gpt_data drew."""
        return cls(**{name: mx.array(x.astype(np.int32) if name == "tokens" else x) for name, x in drawn.items()})


def rates(config: GptConfig, now: Rates, step: int) -> Params:
    """A step's rates as arrays. `step` counts from zero; Adam's moments are short of their means by `unbias`."""
    values = {
        "matrix_lr": config.matrix_lr * now.lr,
        "embed_lr": config.embed_lr * now.lr,
        "scalar_lr": config.scalar_lr * now.lr,
        "momentum": now.momentum,
        "unbias1": 1 - config.beta1 ** (step + 1),
        "unbias2": 1 - config.beta2 ** (step + 1),
        "token_drop": now.token_drop,
        "corrupt": now.corrupt,
        "mtp": now.mtp,
    }
    return {name: mx.array(value, dtype=mx.float32) for name, value in values.items()}


def objective(
    params: Params,
    config: GptConfig,
    rope: Rope,
    tokens: mx.array,
    targets: mx.array,
    rates: Params,
    noise: Noise = Noise(),  # noqa: B008 - immutable
    reference: mx.array | None = None,
    position: mx.array | None = None,
    qat: bool = False,
) -> tuple[mx.array, mx.array, mx.array]:
    """(what is trained on, plain nats a token that was shown, nats at each position [seq]). tokens: [batch, seq].

    `rates` has the rates of noise and of the second objective; `reference` [vocab, vocab] the nats of a bigram
    model, for rho-1; `position` [seq] the running loss, for the adaptive probe; `qat` quantizes the matrices.
    """
    seq = tokens.shape[1]
    if qat:
        params = {name: straight_through(p, config.qat_bits) if name in MATRICES else p for name, p in params.items()}
    tokens = corrupted(params, config, rope, tokens, rates, noise)
    shown = keep = None
    if noise.drop is not None:
        keep = shown = (noise.drop >= rates["token_drop"]).astype(mx.float32)
    if config.probe != "off":
        probed = mx.stop_gradient(probe_mask(params, config, rope, tokens, targets, noise, position))
        shown = probed if shown is None else shown * probed
    terms: Terms | None = [] if config.bt_lambda or config.bt_layers else None
    x = trunk(params, config, rope, tokens, shown, terms)
    z = logits(params, config, x)
    each = nats(z, targets)

    weights = counted = mx.full(targets.shape, 1 / targets.size)
    if keep is not None:
        weights = counted = keep / mx.maximum(keep.sum(), 1)
    if config.position_weight:
        weights = weights * by_position(config, seq)
    if config.rho1_keep < 1:
        excess = each if reference is None else each - reference[tokens, targets]
        weights = weights * mx.stop_gradient(selected(excess, config.rho1_keep))
        weights = weights / mx.maximum(weights.sum(), 1e-9)
    value = (each * weights).sum()
    if config.mtp_weight:
        value = value + rates["mtp"] * after_next(params, config, x, z, targets)
    return total([value, *(terms or ())]), (each * counted).sum(), each.mean(0)


def corrupted(
    params: Params, config: GptConfig, rope: Rope, tokens: mx.array, rates: Params, noise: Noise
) -> mx.array:
    """Input tokens with a share replaced, by uniform ones or by what the model says is most likely there; never the
    first of a sequence. Targets are the text's."""
    if noise.corrupt is None:
        return tokens
    if config.corrupt_by == "model":
        said = mx.argmax(linear(trunk(params, config, rope, tokens), params["embed"]), axis=-1).astype(tokens.dtype)
        instead = mx.concatenate([tokens[:, :1], mx.stop_gradient(said[:, :-1])], axis=1)
    else:
        assert noise.tokens is not None
        instead = noise.tokens
    first = mx.arange(tokens.shape[1]) == 0
    return mx.where(mx.logical_and(noise.corrupt < rates["corrupt"], ~first), instead, tokens)


def probe_mask(
    params: Params,
    config: GptConfig,
    rope: Rope,
    tokens: mx.array,
    targets: mx.array,
    noise: Noise,
    position: mx.array | None,
) -> mx.array:
    """[batch, seq] of ones, and zeros where an embedding is masked; a sequence's first token is shown.

    adaptive: at random, `probe_max` of the positions whose running loss is below `probe_threshold` times the mean
    over positions, `probe_base` of the others. adversarial: the `probe_base` whose masking raises the loss most, to
    first order: where the derivative of the loss by the embedding's scale is most negative.
    """
    first = mx.arange(tokens.shape[1]) == 0
    if config.probe == "adaptive":
        assert noise.probe is not None
        assert position is not None
        easy = position < config.probe_threshold * position.mean()
        rate = mx.where(easy, config.probe_max, config.probe_base)
        return mx.logical_or(noise.probe >= rate, first).astype(mx.float32)

    frozen = {name: mx.stop_gradient(p) for name, p in params.items()}

    def loss(shown: mx.array) -> mx.array:
        return nats(logits(frozen, config, trunk(frozen, config, rope, tokens, shown)), targets).mean()

    slope = mx.where(first, mx.inf, mx.grad(loss)(mx.ones(tokens.shape)))
    count = max(1, round(config.probe_base * tokens.shape[1]))
    worst = mx.argpartition(slope, count - 1, axis=1)[:, :count]
    return mx.put_along_axis(mx.ones(tokens.shape), worst, mx.array(0.0), axis=1)


def by_position(config: GptConfig, seq: int) -> mx.array:
    """[seq] weights with a mean of one, rising (or, below zero, falling) evenly along a sequence."""
    return 1 + config.position_weight * mx.linspace(-1, 1, seq)


def selected(excess: mx.array, share: float) -> mx.array:
    """Ones at the `share` of tokens with the largest excess loss, zeros elsewhere."""
    count = max(1, round(share * excess.size))
    most = mx.argpartition(-excess.flatten(), count - 1)[:count]
    return mx.put_along_axis(mx.zeros(excess.size), most, mx.array(1.0), axis=0).reshape(excess.shape)


def after_next(params: Params, config: GptConfig, x: mx.array, z: mx.array, targets: mx.array) -> mx.array:
    """Nats of the token after the next, by a matrix of its own before the shared head, over the tokens whose next one
    is clear: the two largest logits differ by more than the margin. It trains the trunk as well."""
    seq = targets.shape[1]
    further = mx.pad(targets[:, 1:], [(0, 0), (0, 1)])
    tops = mx.topk(mx.stop_gradient(z), 2, axis=-1)
    clear = mx.logical_and(tops.max(-1) - tops.min(-1) > config.mtp_margin, mx.arange(seq) < seq - 1)
    weights = clear.astype(mx.float32)
    weights = weights / mx.maximum(weights.sum(), 1)
    return (nats(logits(params, config, linear(x, params["mtp"][0])), further) * weights).sum()


def straight_through(p: mx.array, bits: int) -> mx.array:
    """p rounded to `bits` bits a weight, symmetric per row, with the gradient of p itself."""
    top = 2 ** (bits - 1) - 1
    scale = mx.maximum(mx.abs(p).max(-1, keepdims=True) / top, 1e-12)
    return p + mx.stop_gradient(mx.round(p / scale) * scale - p)


class Step(NamedTuple):
    """What one pass over a batch found."""

    loss: mx.array  # plain nats a token, over the tokens that were shown
    objective: mx.array  # what the gradient is of
    grads: Params
    position: mx.array  # [seq] mean nats at each position, for the adaptive probe


def loss_and_grads(
    params: Params,
    config: GptConfig,
    rope: Rope,
    tokens: mx.array,
    targets: mx.array,
    rates: Params,
    noise: Noise = Noise(),  # noqa: B008 - immutable
    reference: mx.array | None = None,
    position: mx.array | None = None,
    qat: bool = False,
    dtype: mx.Dtype | None = None,
) -> Step:
    """One pass over [batch, seq] tokens, in `dtype` where given. The gradient has an entry for every parameter."""

    def function(params: Params) -> tuple[mx.array, mx.array, mx.array]:
        if dtype is not None:
            params = {name: p.astype(dtype) for name, p in params.items()}
        return objective(params, config, rope, tokens, targets, rates, noise, reference, position, qat)

    (value, plain, at), grads = mx.value_and_grad(function)(params)
    return Step(plain, value, grads, at)


# --- Optimiser ---------------------------------------------------------------------------------------------


def orthogonalize(g: mx.array, steps: int = 5) -> mx.array:
    """The nearest semi-orthogonal matrices to g, [depth, rows, columns], by Newton-Schulz steps with the coefficients
    of Jordan's Muon, which bring singular values to about 0.7 to 1.2, not to one."""
    wide = g.shape[-2] <= g.shape[-1]
    x = g if wide else g.swapaxes(-2, -1)
    x = x / (mx.sqrt(mx.square(x).sum(axis=(-2, -1), keepdims=True)) + 1e-7)
    for _ in range(steps):
        a = x @ x.swapaxes(-2, -1)
        b = -4.7750 * a + 2.0315 * (a @ a)
        x = 3.4445 * x + b @ x
    return x if wide else x.swapaxes(-2, -1)


def clipped(grads: Params, limit: float) -> Params:
    """Gradients scaled down so that their norm over all parameters is at most `limit`."""
    size = mx.sqrt(total([mx.square(g).sum() for g in grads.values()]))
    factor = mx.minimum(limit / (size + 1e-6), 1.0)
    return {name: g * factor for name, g in grads.items()}


def begin(params: Params, config: GptConfig) -> tuple[Params, Params]:
    """Momenta of all parameters, and Adam's second moments, at nought."""
    zeros = {name: mx.zeros_like(p) for name, p in params.items()}
    return zeros, {name: zeros[name] for name in params if not by_muon(config, name)}


def update(
    params: Params, grads: Params, m: Params, v: Params, config: GptConfig, rates: Params
) -> tuple[Params, Params, Params]:
    """(params, m, v) a step on: Muon, momentum whose step is orthogonalised, for the matrices; Adam for the rest."""
    if config.grad_clip:
        grads = clipped(grads, config.grad_clip)
    params, m, v, momentum = dict(params), dict(m), dict(v), rates["momentum"]
    for name, p in params.items():
        g = grads[name]
        if name not in v:
            lr = rates["matrix_lr"]
            m[name] = momentum * m[name] + g
            step = orthogonalize(g + momentum * m[name], config.newton_schulz)  # Nesterov
            if config.muon_decay:
                p = p * (1 - lr * config.muon_decay)
            params[name] = p - lr * max(1.0, p.shape[-2] / p.shape[-1]) ** 0.5 * step
        else:
            m[name] = m[name] + (1 - config.beta1) * (g - m[name])
            v[name] = v[name] + (1 - config.beta2) * (mx.square(g) - v[name])
            step = (m[name] / rates["unbias1"]) / (mx.sqrt(v[name] / rates["unbias2"]) + 1e-8)
            lr = rates["embed_lr" if name in TABLES else "scalar_lr"]
            if config.adam_decay:
                p = p * (1 - lr * config.adam_decay)
            params[name] = p - lr * step
    return params, m, v

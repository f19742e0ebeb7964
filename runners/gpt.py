"""A GPT that trains in seconds on a laptop and at full size on a GPU: parameter-golf's baseline, in one file.

What is special about it:
- RMSNorm without weights, on the residual stream and on queries and keys; a learned gain per head on queries
- rotary positions (base 1e4), grouped key/value heads, no biases
- MLP of relu(x)^2, tied embeddings, logits softly capped: cap * tanh(x / cap)
- U-Net: the second half of the blocks adds, with learned weights, what the first half put out; every
  block mixes the embedding back in
- every design choice that an experiment may vary is a field of `GptConfig` (gpt_config.py); where a field is off,
  its line below does not run
- parameters are a plain dict of arrays, one a kind, stacked over blocks; a model is a function of it

The trunk turns tokens into what the head reads; gpt_loss.py makes an objective of it, gpt_optim.py steps along its
gradient, gpt_train.py runs the loop. It holds no state, draws no random number, and knows no data.
Importing this file imports torch; import it where a run starts, not before.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor

from runners import gpt_cpu
from runners.gpt_config import GptConfig
from runners.gpt_cpu import linear
from runners.gpt_init import init_arrays, rotary_tables

Params = dict[str, Tensor]
Rope = tuple[Tensor, Tensor]
Terms = list[Tensor]


def _leaky_relu2(x: Tensor) -> Tensor:
    return F.leaky_relu(x, 0.5).square()


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu2": lambda x: F.relu(x).square(),
    "gelu": F.gelu,
    "silu": F.silu,
    "sin": torch.sin,
    "sin2": lambda x: torch.sin(x).square(),
    "leaky_relu2": _leaky_relu2,
}


def init_params(config: GptConfig, seed: int) -> Params:
    """float32 parameters on the CPU (gpt_init.py)."""
    return {name: torch.from_numpy(array) for name, array in init_arrays(config, seed).items()}


def rotary(config: GptConfig, device: torch.device) -> Rope:
    """cos, sin: [seq, 1, rope_dims]"""
    cos, sin = (torch.from_numpy(table).to(device)[:, None] for table in rotary_tables(config))
    return cos, sin


# --- The trunk ---------------------------------------------------------------------------------------------


def trunk(
    params: Params,
    config: GptConfig,
    rope: Rope,
    tokens: Tensor,
    shown: Tensor | None = None,
    terms: Terms | None = None,
) -> Tensor:
    """What the head reads, [batch, seq, width], from tokens [batch, seq].

    `shown` [batch, seq] scales each token's embedding; `terms` collects the Barlow-Twins terms, where they are on.
    """
    order = config.order
    n, half = len(order), len(order) // 2
    kinds = [kind for kind in BLOCK if kind in params]
    blocks = [
        dict(zip(kinds, arrays, strict=True)) for arrays in zip(*(params[k].unbind() for k in kinds), strict=True)
    ]
    x = x0 = embed(params, config, tokens, shown)
    added = value_embedding(params, config, tokens, shown) if config.value_embed_last else None
    outs, first_v = [x0], None
    for i, block in enumerate(order):
        p = blocks[block]
        if config.skips == "unet" and half <= i < 2 * half:
            x = x + params["skip"][i - half] * outs[2 * half - i]  # the last output of the first half first
        elif config.skips == "dense":
            x = sum((w * out for w, out in zip(params["dense"][i], outs, strict=False)), torch.zeros_like(x))
        x = p["mix"][0] * x + p["mix"][1] * x0
        h = read(x, config, i)
        gain = i - (n - config.value_embed_last)
        more = None if added is None or gain < 0 else params["value_embed_gain"][gain] * added
        y, v = attention(p, config, rope, h, first_v, more, leave_self_out=i >= n - config.xsa_last)
        first_v = v if first_v is None and config.value_residual else first_v
        if i < n - config.parallel_last:
            x = x + p["attn_scale"] * y
            h = read(x, config, i)
            x = x + p["mlp_scale"] * mlp(p, config, h, terms)
        else:
            x = x + p["attn_scale"] * y + p["mlp_scale"] * mlp(p, config, h, terms)
        outs.append(x)
    if terms is not None and config.bt_layers:
        some = [out[..., :128] for out in outs[1:]]
        pairs = [decorrelation(a, b) for a, b in pairwise(some)]
        terms.append(config.bt_layers * sum(pairs, x.new_zeros(())) / len(pairs))
    return norm(x)


BLOCK = ("q", "k", "v", "o", "up", "down", "q_gain", "attn_scale", "mlp_scale", "mix", "value_mix")


def norm(x: Tensor) -> Tensor:
    return F.rms_norm(x, (x.size(-1),))


def read(x: Tensor, config: GptConfig, i: int) -> Tensor:
    """What the i-th block reads of the stream, which grows as it goes on; i counts from zero."""
    return norm(x) * (i + 1) ** -0.5 if config.layer_scale else norm(x)


def embed(params: Params, config: GptConfig, tokens: Tensor, shown: Tensor | None) -> Tensor:
    """[batch, seq, width]: tokens, hashed pairs, a little of the token before."""
    x = F.embedding(tokens, params["embed"])
    if config.bigram_buckets:
        ids = ((36313 * tokens[:, 1:]) ^ (27191 * tokens[:, :-1])) % (config.bigram_buckets - 1)
        ids = F.pad(ids, (1, 0), value=config.bigram_buckets - 1)
        pairs = linear(F.embedding(ids, params["bigram"]), params["bigram_proj"][0])
        x = x + params["bigram_scale"] * pairs
    x = norm(x)
    if shown is not None:
        x = x * shown[..., None].to(x.dtype)
    if config.smear_gate:
        gate = params["smear"].sigmoid()
        x = (1 - gate) * x + gate * F.pad(x[:, :-1], (0, 0, 1, 0))
    return x


def value_embedding(params: Params, config: GptConfig, tokens: Tensor, shown: Tensor | None) -> Tensor:
    """[batch, seq, kv_heads, head_dim]: what a token adds to its own values, whatever the stream has made of it."""
    rows = linear(F.embedding(tokens, params["value_embed"]), params["value_embed_proj"][0])
    rows = rows * params["value_embed_scale"]
    if shown is not None:
        rows = rows * shown[..., None].to(rows.dtype)
    return rows.view(*tokens.shape, config.kv_heads, config.head_dim)


def attention(
    p: Params,
    config: GptConfig,
    rope: Rope,
    h: Tensor,
    first_v: Tensor | None,
    added: Tensor | None,
    leave_self_out: bool,
) -> tuple[Tensor, Tensor]:
    """(the heads' output [batch, seq, width], the values before any residual [batch, seq, kv_heads, head_dim])"""
    batch, seq, _ = h.shape
    q = linear(h, p["q"]).view(batch, seq, config.heads, config.head_dim)
    k = linear(h, p["k"]).view(batch, seq, config.kv_heads, config.head_dim)
    v = own = linear(h, p["v"]).view(batch, seq, config.kv_heads, config.head_dim)
    if added is not None:
        v = own = v + added
    if first_v is not None:
        v = v + p["value_mix"].sigmoid() * first_v
    q, k = rotate(norm(q), *rope) * p["q_gain"][:, None], rotate(norm(k), *rope)
    y = F.scaled_dot_product_attention(
        q.transpose(1, 2),
        k.transpose(1, 2),
        v.transpose(1, 2),
        is_causal=True,
        enable_gqa=config.kv_heads < config.heads,
    ).transpose(1, 2)  # [batch, seq, heads, head_dim]
    if leave_self_out:  # each head's output without its part along the token's own value
        y = y.reshape(batch, seq, config.kv_heads, -1, config.head_dim)
        y = without(y, v[:, :, :, None])
    return linear(y.reshape(batch, seq, -1), p["o"]), own


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """x [..., seq, heads, head_dim], its first rope_dims dimensions turned by position."""
    turning = cos.size(-1)
    cos, sin = cos.to(x.dtype), sin.to(x.dtype)
    if turning == x.size(-1):
        return x * cos + x.roll(turning // 2, dims=-1) * sin
    part, rest = x.split((turning, x.size(-1) - turning), dim=-1)
    return torch.cat([part * cos + part.roll(turning // 2, dims=-1) * sin, rest], dim=-1)


def without(x: Tensor, direction: Tensor) -> Tensor:
    """x less its part along `direction`, per vector of the last dimension (one step of Gram-Schmidt)."""
    size = direction.square().sum(-1, keepdim=True) + 1e-6
    return x - (x * direction).sum(-1, keepdim=True) / size * direction


# --- The MLP and its variants ------------------------------------------------------------------------------


def mlp(p: Params, config: GptConfig, h: Tensor, terms: Terms | None) -> Tensor:
    """[batch, seq, width]. The variants are the first pipeline's, as its texts describe them: paths that are gated
    (DML), made orthogonal, periodic (FAN), or three banks of which one is the others' residual."""
    u = linear(h, p["up"])
    columns = p["down"].size(-1)
    pairs: list[tuple[Tensor, Tensor]] = []
    if config.mlp == "standard":
        if config.activation == "fan":
            inner = fan(u, columns // 8, _leaky_relu2)
        else:
            inner = ACTIVATIONS[config.activation](u)
        return linear(inner, p["down"])
    act = ACTIVATIONS[config.activation]
    if config.mlp == "dml_gated":
        nuisance, target = u.chunk(2, dim=-1)
        nuisance = act(nuisance)
        inner, pairs = nuisance * target, [(nuisance, target)]
    elif config.mlp == "fan_dml":
        nuisance, rest = u.split((columns, u.size(-1) - columns), dim=-1)
        nuisance, target = act(nuisance), fan(rest, columns // 8, lambda x: x)
        inner, pairs = nuisance * target, [(nuisance, target)]
    elif config.mlp == "dml_orth":
        nuisance, *targets = act(u).chunk(3, dim=-1)
        targets = [without(target, nuisance) for target in targets]
        inner, pairs = torch.cat([nuisance, *targets], dim=-1), [(nuisance, target) for target in targets]
    else:
        if config.mlp == "causal_wide":
            memory, feature, residual = u.chunk(3, dim=-1)
            feature, residual = act(feature), act(residual)
        else:  # dml_causal_wide: a gate and a value in each bank
            gates, values = zip(*(bank.chunk(2, dim=-1) for bank in u.chunk(3, dim=-1)), strict=True)
            gates = (gates[0], act(gates[1]), act(gates[2]))
            memory, feature, residual = (gate * value for gate, value in zip(gates, values, strict=True))
            pairs += zip(gates, values, strict=True)
        residual = without(without(residual, memory), without(feature, memory))
        inner = torch.cat([memory, feature, residual], dim=-1)
        pairs += [(memory, feature), (memory, residual), (feature, residual)]
    if terms is not None and config.bt_lambda:
        found = [decorrelation(a, b) for a, b in pairs]
        terms.append(config.bt_lambda * sum(found, u.new_zeros(())) / len(found) / len(config.order))
    return linear(inner, p["down"])


def fan(u: Tensor, periodic: int, rest: Callable[[Tensor], Tensor]) -> Tensor:
    """Fourier analysis: cosine and sine of the first `periodic` columns, which they share, then the rest."""
    angle, plain = u.split((periodic, u.size(-1) - periodic), dim=-1)
    return torch.cat([angle.cos(), angle.sin(), rest(plain)], dim=-1)


def decorrelation(a: Tensor, b: Tensor) -> Tensor:
    """Barlow-Twins redundancy of two sets of features [..., tokens, features] over all tokens: the sum of the squared
    correlations between every feature of `a` and every one of `b`, over the number of features. It has a gradient."""
    a, b = (_standard(x.flatten(0, -2).to(torch.promote_types(x.dtype, torch.float32))) for x in (a, b))
    correlation = a.mT @ b / a.size(0)
    return correlation.square().sum() / correlation.size(-1)


def _standard(x: Tensor) -> Tensor:
    x = x - x.mean(0)
    return x / (x.square().mean(0) + 1e-6).sqrt()


# --- The head ----------------------------------------------------------------------------------------------


def cap(z: Tensor, softcap: float) -> Tensor:
    """Logits within (-softcap, softcap); as they are where softcap is 0."""
    return softcap * torch.tanh(z / softcap) if softcap else z


def logits(params: Params, config: GptConfig, rope: Rope, tokens: Tensor) -> Tensor:
    """[batch, seq, vocab] in float32, from tokens [batch, seq]."""
    return cap(linear(trunk(params, config, rope, tokens), params["embed"]).float(), config.softcap)


def forward(params: Params, config: GptConfig, rope: Rope, tokens: Tensor, targets: Tensor | None = None) -> Tensor:
    """Without targets: logits [batch, seq, vocab]. With targets [batch, seq]: nats of each, [batch, seq].

    The seam for evaluation: no objective, no noise, nothing that is only for training."""
    if targets is None:
        return logits(params, config, rope, tokens)
    x = trunk(params, config, rope, tokens)
    parts = [nats(part, params["embed"], y, config.softcap) for part, y in slices(x.flatten(0, 1), targets.flatten())]
    return torch.cat(parts).view(targets.shape)


def nats(x: Tensor, embed: Tensor, targets: Tensor, softcap: float) -> Tensor:
    """Nats of every target [n], from x [n, width] and embed [vocab, width]."""
    if x.device.type == "cpu" and x.dtype == torch.float32 and not torch.is_grad_enabled():
        return gpt_cpu.nats(x, embed, targets, softcap)
    return F.cross_entropy(cap(linear(x, embed).float(), softcap), targets, reduction="none")


def slices(x: Tensor, targets: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Tokens [n, …] in slices whose logits a CPU's cache and allocator keep (whole, they were handed back to the
    system and faulted in again at every step, a fifth of the time), and that are few launches on an accelerator."""
    rows = gpt_cpu.ROWS if x.device.type == "cpu" else 65_536
    return list(zip(x.split(rows), targets.split(rows), strict=True))

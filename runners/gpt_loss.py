"""What a GPT is trained on: the objective, its gradient, and the plain loss that is reported beside it.

An objective may weigh tokens, leave some out, add terms, or show the model a damaged context. What it may never do is
put its own value where the loss is reported: `Step.loss` is always the mean nats of the text's next token over the
tokens that were shown, so that no arm wins by having made its task easier.

    shown       token dropout and probes scale embeddings, corruption replaces input tokens; shapes never change
    weights     of tokens, sum one: dropped ones 0, by position, the share that rho-1 selects
    terms       Barlow-Twins (from the trunk), the token after the next (multi-token prediction)

On a CPU the head runs forward and backward on a slice of tokens at a time, with its gradient written out
(gpt_cpu.py): its logits are the largest array there is. Random numbers come from outside (`Noise`), so that both
backends see the same ones.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from runners import gpt_cpu
from runners.gpt import Params, Rope, cap, nats, slices, trunk
from runners.gpt_config import GptConfig
from runners.gpt_cpu import linear
from runners.gpt_init import MATRICES
from runners.gpt_schedule import Rates


class Noise(NamedTuple):
    """Uniform numbers in [0, 1) for one batch, [batch, seq]; None where the config needs none."""

    drop: Tensor | None = None
    corrupt: Tensor | None = None
    tokens: Tensor | None = None  # int64: what replaces a corrupted token
    probe: Tensor | None = None


class Step(NamedTuple):
    """What one pass over a batch found."""

    loss: Tensor  # plain nats a token, over the tokens that were shown
    objective: Tensor  # what the gradient is of
    grads: Params
    position: Tensor | None  # [seq] mean nats at each position, for the adaptive probe


# --- The weighted head -------------------------------------------------------------------------------------


def weighted_nats(
    x: Tensor, embed: Tensor, targets: Tensor, weights: Tensor, softcap: float
) -> tuple[Tensor, Tensor]:
    """(sum of weight times nats, nats of each target [n] without gradient)."""
    if x.device.type == "cpu" and x.dtype in (torch.float32, torch.float64):
        return gpt_cpu.weighted_nats(x, embed, targets, weights, softcap)
    each = nats(x, embed, targets, softcap)
    return (each * weights).sum(), each.detach()


# --- The objective -----------------------------------------------------------------------------------------


def objective(
    params: Params,
    config: GptConfig,
    rope: Rope,
    tokens: Tensor,
    targets: Tensor,
    rates: Rates,
    noise: Noise = Noise(),  # noqa: B008 - immutable
    reference: Tensor | None = None,
    position: Tensor | None = None,
    qat: bool = False,
) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """(objective, (plain loss, nats at each position [seq])). tokens, targets: [batch, seq].

    `reference` [vocab, vocab] holds the nats of a bigram model, for rho-1; `position` [seq] the running loss, for the
    adaptive probe; `qat` quantizes the matrices on the way.
    """
    batch, seq = tokens.shape
    if qat:
        params = {name: straight_through(p, config.qat_bits) if name in MATRICES else p for name, p in params.items()}
    tokens = corrupted(params, config, rope, tokens, rates, noise)
    shown = keep = None
    if noise.drop is not None:
        keep = shown = (noise.drop >= rates.token_drop).to(params["embed"].dtype)
    if config.probe != "off":
        probed = probe_mask(params, config, rope, tokens, targets, noise, position)
        shown = probed if shown is None else shown * probed
    terms: list[Tensor] | None = [] if config.bt_lambda or config.bt_layers else None
    x = trunk(params, config, rope, tokens, shown, terms).flatten(0, 1)
    flat = targets.flatten()

    weights = torch.full_like(flat, 1 / flat.numel(), dtype=torch.float32 if x.dtype == torch.bfloat16 else x.dtype)
    counted = weights
    if keep is not None:
        kept = keep.flatten().to(weights.dtype)  # bfloat16 cannot count so far
        weights = counted = kept / kept.sum().clamp_min(1)
    if config.position_weight:
        weights = weights * by_position(config, seq, weights).repeat(batch)
    if config.rho1_keep < 1:
        with torch.no_grad():
            each = torch.cat([nats(a, params["embed"], b, config.softcap) for a, b in slices(x, flat)])
            excess = each if reference is None else each - reference[tokens.flatten(), flat]
            weights = weights * selected(excess, config.rho1_keep)
            weights = weights / weights.sum().clamp_min(1e-9)
    total, each = weighted_nats(x, params["embed"], flat, weights, config.softcap)
    if config.mtp_weight:
        total = total + rates.mtp * after_next(params, config, x, targets)
    for term in terms or ():
        total = total + term.to(total.dtype)
    return total, ((each * counted).sum(), each.detach().view(batch, seq).mean(0))


def corrupted(params: Params, config: GptConfig, rope: Rope, tokens: Tensor, rates: Rates, noise: Noise) -> Tensor:
    """Input tokens with a share replaced, by uniform ones or by what the model says is most likely there; never the
    first of a sequence. Targets are the text's."""
    if noise.corrupt is None:
        return tokens
    if config.corrupt_by == "model":
        with torch.no_grad():
            x = trunk(params, config, rope, tokens).flatten(0, 1)
            said = torch.cat([linear(part, params["embed"]).argmax(-1) for part, _ in slices(x, x)])
            said = said.view(tokens.shape)
        instead = torch.cat([tokens[:, :1], said[:, :-1]], dim=1)
    else:
        assert noise.tokens is not None
        instead = noise.tokens
    first = torch.arange(tokens.size(1), device=tokens.device) == 0
    return torch.where((noise.corrupt < rates.corrupt) & ~first, instead, tokens)


def probe_mask(
    params: Params,
    config: GptConfig,
    rope: Rope,
    tokens: Tensor,
    targets: Tensor,
    noise: Noise,
    position: Tensor | None,
) -> Tensor:
    """[batch, seq] of ones, and zeros where an embedding is masked; a sequence's first token is shown.

    adaptive: at random, `probe_max` of the positions whose running loss is below `probe_threshold` times the mean,
    `probe_base` of the others. adversarial: the `probe_base` whose masking raises the loss most, to first
    order: where the derivative of the loss by the embedding's scale is most negative.
    """
    dtype = params["embed"].dtype
    first = torch.arange(tokens.size(1), device=tokens.device) == 0
    if config.probe == "adaptive":
        assert noise.probe is not None
        assert position is not None
        easy = position < config.probe_threshold * position.mean()
        rate = torch.where(easy, config.probe_max, config.probe_base)
        return ((noise.probe >= rate) | first).to(dtype)

    frozen = {name: p.detach() for name, p in params.items()}

    def loss(shown: Tensor) -> Tensor:
        x = trunk(frozen, config, rope, tokens, shown).flatten(0, 1)
        even = torch.full_like(targets.flatten(), 1 / targets.numel(), dtype=x.dtype)
        return weighted_nats(x, frozen["embed"], targets.flatten(), even, config.softcap)[0]

    slope = torch.func.grad(loss)(torch.ones_like(tokens, dtype=dtype))
    slope = slope.masked_fill(first, torch.inf)
    count = max(1, round(config.probe_base * tokens.size(1)))
    worst = slope.topk(count, dim=1, largest=False).indices
    return torch.ones_like(slope).scatter(1, worst, 0.0)


def by_position(config: GptConfig, seq: int, like: Tensor) -> Tensor:
    """[seq] weights with a mean of one, rising (or, below zero, falling) evenly along a sequence."""
    return 1 + config.position_weight * torch.linspace(-1, 1, seq, device=like.device, dtype=like.dtype)


def selected(excess: Tensor, share: float) -> Tensor:
    """Ones at the `share` of tokens with the largest excess loss, zeros elsewhere."""
    count = max(1, round(share * excess.numel()))
    return torch.zeros_like(excess).scatter(0, excess.topk(count).indices, 1.0)


def after_next(params: Params, config: GptConfig, x: Tensor, targets: Tensor) -> Tensor:
    """Nats of the token after the next, by a matrix of its own before the shared head, over the tokens whose next one
    is clear: the two largest logits differ by more than the margin. It trains the trunk as well."""
    batch, seq = targets.shape
    further = F.pad(targets[:, 1:], (0, 1)).flatten()
    with torch.no_grad():
        tops = [cap(linear(part, params["embed"]).float(), config.softcap).topk(2).values for part, _ in slices(x, x)]
        clear = torch.cat([top[:, 0] - top[:, 1] > config.mtp_margin for top in tops]).view(batch, seq)
        clear = clear & (torch.arange(seq, device=x.device) < seq - 1)
        weights = clear.flatten().to(torch.float32 if x.dtype == torch.bfloat16 else x.dtype)
        weights = weights / weights.sum().clamp_min(1)
    return weighted_nats(linear(x, params["mtp"][0]), params["embed"], further, weights, config.softcap)[0]


def straight_through(p: Tensor, bits: int) -> Tensor:
    """p rounded to `bits` bits a weight, symmetric per row, with the gradient of p itself."""
    top = 2 ** (bits - 1) - 1
    scale = (p.detach().abs().amax(-1, keepdim=True) / top).clamp_min(1e-12)
    return p + ((p.detach() / scale).round() * scale - p.detach())


# --- Its gradient ------------------------------------------------------------------------------------------


def loss_and_grads(
    params: Params,
    config: GptConfig,
    rope: Rope,
    tokens: Tensor,
    targets: Tensor,
    rates: Rates = Rates(),  # noqa: B008 - immutable
    noise: Noise = Noise(),  # noqa: B008
    reference: Tensor | None = None,
    position: Tensor | None = None,
    qat: bool = False,
) -> Step:
    """One pass over [batch, seq] tokens. The gradient has an entry for every parameter."""
    total, (loss, at) = objective(params, config, rope, tokens, targets, rates, noise, reference, position, qat)
    # materialize: depth 1 has no skip to use, and its gradient is a zero of no size
    found = torch.autograd.grad(total, list(params.values()), materialize_grads=True)
    return Step(loss.detach(), total.detach(), dict(zip(params, found, strict=True)), at)

"""The optimiser: Muon for the matrices, Adam for tables, gains and scales, and the running means of weights.

Muon is momentum whose step is orthogonalised. Its state and Adam's are plain dicts of arrays like the parameters, so
that a checkpoint is three dicts. Arrays may have a leading axis of seeds: everything works per matrix and per number.
Nothing here knows a model, a loss or a schedule; the rates of a step come in.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from runners.gpt import Params
from runners.gpt_config import GptConfig
from runners.gpt_init import TABLES, by_muon
from runners.gpt_schedule import Rates


def orthogonalize(g: Tensor, steps: int = 5) -> Tensor:
    """The nearest semi-orthogonal matrices to g, [..., rows, columns], by Newton-Schulz steps with the coefficients
    of Jordan's Muon, which bring singular values to about 0.7 to 1.2, not to one. In bfloat16 on CUDA."""
    wide = g.size(-2) <= g.size(-1)
    x = (g if wide else g.mT).flatten(0, -3)
    if x.device.type == "cuda":
        x = x.bfloat16()
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(steps):
        a = x @ x.mT
        b = torch.baddbmm(a, a, a, beta=-4.7750, alpha=2.0315)  # b a + c a a, in one call
        x = torch.baddbmm(x, b, x, beta=3.4445)
    return (x if wide else x.mT).view(g.shape).to(g.dtype)


def muon_adam(
    config: GptConfig,
    base: dict[str, float],
    params: Params,
    grads: Params,
    m: Params,
    v: Params,
    scalars: tuple[Any, ...],
    seeds: int,
) -> None:
    """One step, in place. `base` has each parameter's learning rate; `scalars` are its factor, Muon's momentum and
    what corrects Adam's two means, as floats, or on the device where a trainer compiles this."""
    rate, momentum, unbias1, unbias2 = scalars
    if config.grad_clip:
        grads = clipped(grads, config.grad_clip, seeds)
    for name, p in params.items():
        g, mean, lr = grads[name], m[name], rate * base[name]
        if name not in v:
            mean.mul_(momentum).add_(g)
            update = orthogonalize(g + mean * momentum, config.newton_schulz)  # Nesterov
            if config.muon_decay:
                p.mul_(1 - lr * config.muon_decay)
            p.sub_(update.mul_(lr * max(1.0, p.size(-2) / p.size(-1)) ** 0.5))
        else:
            mean.lerp_(g, 1 - config.beta1)
            square = v[name].lerp_(g.square(), 1 - config.beta2)
            if config.adam_decay:
                p.mul_(1 - lr * config.adam_decay)
            p.sub_(mean / square.sqrt().mul_(unbias2**-0.5).add_(1e-8) * (lr / unbias1))


class Optimizer:
    """The state of Muon and Adam over a dict of parameters.

    `seeds` says that every array has a leading axis of that many seeds, each clipped by itself; `math` is muon_adam,
    or what a trainer compiled of it.
    """

    def __init__(
        self, params: Params, config: GptConfig, seeds: int = 0, math: Callable[..., None] = muon_adam
    ) -> None:
        self.config, self.steps, self.seeds, self.math = config, 0, seeds, math
        self.lr = {
            name: config.matrix_lr
            if by_muon(config, name)
            else config.embed_lr
            if name in TABLES
            else config.scalar_lr
            for name in params
        }
        self.m = {name: torch.zeros_like(p) for name, p in params.items()}
        self.v = {name: torch.zeros_like(p) for name, p in params.items() if not by_muon(config, name)}

    def step(self, params: Params, grads: Params, rates: Rates) -> None:
        """Changes params in place. Call it without autograd."""
        self.steps += 1
        b1, b2 = self.config.beta1, self.config.beta2
        scalars: tuple[Any, ...] = (rates.lr, rates.momentum, 1 - b1**self.steps, 1 - b2**self.steps)
        if self.math is not muon_adam:  # numbers in the code would make torch.compile build it anew at every step
            device = next(iter(params.values())).device
            scalars = torch.tensor(scalars, dtype=torch.float32).to(device, non_blocking=True).unbind()
        live = {name: p.detach() for name, p in params.items()}
        self.math(self.config, self.lr, live, grads, self.m, self.v, scalars, self.seeds)

    def state(self) -> Params:
        """Everything that a run must keep to go on, by name: a checkpoint holds it beside the parameters."""
        state = {f"m.{name}": x for name, x in self.m.items()} | {f"v.{name}": x for name, x in self.v.items()}
        return state | {"steps": torch.tensor(self.steps)}

    def load(self, state: Params) -> None:
        """Takes back what `state` gave."""
        self.steps = int(state["steps"])
        for kind, arrays in (("m", self.m), ("v", self.v)):
            for name, x in arrays.items():
                x.copy_(state[f"{kind}.{name}"])


def clipped(grads: Params, limit: float, seeds: int = 0) -> Params:
    """Gradients scaled down so that their norm over all parameters is at most `limit`; each seed's on its own."""
    lead = 1 if seeds else 0
    size = sum(g.square().flatten(lead).sum(-1) for g in grads.values())
    factor = (limit / (torch.as_tensor(size).sqrt() + 1e-6)).clamp_max(1.0)
    return {name: g * (factor.view(-1, *[1] * (g.ndim - 1)) if seeds else factor) for name, g in grads.items()}


class Average:
    """A mean of the weights along the run: exponential (`ema`), or of the last part's (`swa`). Off: it keeps nothing.

    An exponential mean begins as the weights are after the first step and follows at most as slowly as
    (1 + t) / (10 + t), so that a short run is not judged by its start.
    """

    def __init__(self, config: GptConfig) -> None:
        self.config, self.count, self.mean = config, 0, dict[str, Tensor]()

    def update(self, params: Params, in_swa: bool) -> None:
        """Takes the weights after a step in. Call it without autograd."""
        if not (self.config.ema or in_swa):
            return
        self.count += 1
        if not self.mean:
            self.mean = {name: p.detach().clone() for name, p in params.items()}
            return
        weight = 1 / self.count
        if self.config.ema:
            weight = 1 - min(self.config.ema, self.count / (9 + self.count))
        for name, p in params.items():
            self.mean[name].lerp_(p.detach(), weight)

    def weights(self, params: Params) -> Params:
        """What is evaluated: the mean, or the weights themselves where there is none."""
        return self.mean or params

"""What happens to a GPT in torch once it is trained: quantized through its bytes, then scored on held-out text.

The two late stages, as functions of a dict of parameters, so that several of them can follow one checkpoint.
quantize.py and evaluate.py do the work on plain arrays; this file brings them the model: its losses, one step of its
training, and the inputs of its matrices. It must never score other weights than those that the artifact holds.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from runners.gpt import Params, Rope, cap, nats, rotary, slices, trunk
from runners.gpt_config import GptConfig
from runners.gpt_cpu import linear
from runners.gpt_data import Source
from runners.gpt_init import MATRICES, TABLES
from runners.gpt_ranks import ALONE, Ranks
from runners.gpt_result import code_bytes
from runners.gpt_stages import Following, InputSum, Scored, calibration, compressed, scheme
from runners.gpt_stages import score as score_model
from runners.gptq import Inputs
from runners.quantize import artifact_bytes, restore


def score(
    params: Params, config: GptConfig, source: Source, dtype: torch.dtype = torch.float32, ranks: Ranks = ALONE
) -> Scored:
    """The model on held-out text, as `config.eval` says, each rank some of it. `params` are not changed."""
    with torch.no_grad():
        model = Model(params, config, dtype, ranks)
    return score_model(model, config, source, ranks)


class Model:
    """Parameters as evaluate.py asks for them: nats of windows, and a step of plain gradient descent on others."""

    def __init__(
        self, params: Params, config: GptConfig, dtype: torch.dtype = torch.float32, ranks: Ranks = ALONE
    ) -> None:
        self.config, self.dtype, self.ranks = config, dtype, ranks
        self.learns = config.eval == "ttt"
        self.params = {name: p.detach().clone() if self.learns else p.detach() for name, p in params.items()}
        self.rope: Rope = rotary(config, params["embed"].device)
        self.momentum = {name: torch.zeros_like(p) for name, p in self.params.items()} if self.learns else {}

    def losses(self, tokens: np.ndarray, targets: np.ndarray, first: int) -> np.ndarray:
        """float32 [batch, seq - first]"""
        with torch.no_grad():
            found: np.ndarray = self._nats(self.params, tokens, targets, first).float().cpu().numpy()
        return found

    def learn(self, tokens: np.ndarray, targets: np.ndarray, lr: float) -> None:
        """One step of SGD with momentum 0.9, its gradient clipped to a norm of one; the first blocks stay."""
        live = {name: p.requires_grad_() for name, p in self.params.items()}
        mine = slice(self.ranks.rank, None, self.ranks.size)  # of several ranks each takes some windows, or none
        if share := len(tokens[mine]) / len(tokens):
            loss = self._nats(live, tokens[mine], targets[mine], 0).mean() * share
            grads = torch.autograd.grad(loss, list(live.values()), materialize_grads=True)
        else:
            grads = tuple(torch.zeros_like(p) for p in live.values())
        grads = self.ranks.summed(grads)
        with torch.no_grad():
            for g, (name, _) in zip(grads, live.items(), strict=True):
                if g.ndim and name not in TABLES and g.size(0) == self.config.depth:
                    g[: self.config.ttt_freeze] = 0
            size = torch.stack([g.square().sum() for g in grads]).sum().sqrt()
            scale = (1 / (size + 1e-6)).clamp_max(1.0)
            for g, (name, p) in zip(grads, live.items(), strict=True):
                p.sub_(self.momentum[name].mul_(0.9).add_(g * scale), alpha=lr)
        self.params = {name: p.detach() for name, p in live.items()}

    def _nats(self, params: Params, tokens: np.ndarray, targets: np.ndarray, first: int) -> Tensor:
        device = params["embed"].device
        x_in, y_in = (torch.from_numpy(np.ascontiguousarray(a)).to(device) for a in (tokens, targets))
        if self.dtype != torch.float32:
            params = {name: p.to(self.dtype) for name, p in params.items()}
        rope = tuple(table[: x_in.size(1)] for table in self.rope)
        x = trunk(params, self.config, rope, x_in)[:, first:].flatten(0, 1)
        each = [nats(a, params["embed"], b, self.config.softcap) for a, b in slices(x, y_in[:, first:].flatten())]
        return torch.cat(each).view(len(tokens), -1)


# --- Quantization ------------------------------------------------------------------------------------------


class Artifact(NamedTuple):
    """A model as its compressed bytes, and what it is after it was read back."""

    params: Params
    model: bytes

    def total(self, code_bytes: int) -> int:
        """What the challenge counts."""
        return artifact_bytes(self.model, code_bytes)


def quantized(params: Params, config: GptConfig, source: Source, dtype: torch.dtype = torch.float32) -> Artifact:
    """The parameters through `config.quantize`: compressed and read back, on the device that they came from. `dtype`
    is what the model writes its own text in, where that is asked for.

    Raises ValueError for weights that are not finite.
    """
    arrays = {name: p.detach().float().cpu().numpy() for name, p in params.items()}
    inputs = matrix_inputs(params, config, source, dtype) if scheme(config).calibrated else None
    model = compressed(arrays, config, inputs, code_bytes("torch"))
    device = params["embed"].device
    back = {name: torch.from_numpy(array).to(device) for name, array in restore(model).items()}
    return Artifact({name: back[name] for name in params}, model)


def matrix_inputs(
    params: Params, config: GptConfig, source: Source, dtype: torch.dtype = torch.float32
) -> dict[str, list[Inputs]]:
    """What every matrix is given by `calib_tokens` of the training text, or of the model's own, a slice each."""
    said = calibration(config, source, following(params, config, dtype))
    windows = torch.from_numpy(said).to(params["embed"].device)
    rope = rotary(config, windows.device)
    with torch.no_grad(), _watch(params) as seen:
        for part in windows.split(8):
            x = trunk(params, config, rope, part)
            if "mtp" in params:
                linear(x, params["mtp"][0])
    return {name: [each.inputs() for each in slices_] for name, slices_ in seen.items()}


def following(params: Params, config: GptConfig, dtype: torch.dtype = torch.float32) -> Following:
    """The model as one that writes."""
    device = params["embed"].device
    cast = {name: p.detach().to(dtype) for name, p in params.items()}
    cos, sin = rotary(config, device)

    def logits(tokens: np.ndarray) -> np.ndarray:
        shown = torch.from_numpy(np.ascontiguousarray(tokens)).to(device)
        with torch.no_grad():
            x = trunk(cast, config, (cos[: shown.size(1)], sin[: shown.size(1)]), shown)[:, -1]
            found: np.ndarray = cap(linear(x, cast["embed"]).float(), config.softcap).cpu().numpy()
        return found

    return logits


def _add(at: InputSum, x: Tensor) -> None:
    """Sums x, [tokens, columns], in float64: on the device where it can, not to carry every activation over."""
    if x.device.type != "cuda":
        at.add(x.float().cpu().numpy())
        return
    x = x.double()
    at.add_sums((x.mT @ x).cpu().numpy(), x.abs().sum(0).cpu().numpy(), len(x))


@contextmanager
def _watch(params: Params) -> Iterator[dict[str, list[InputSum]]]:
    """Every linear layer whose weight is a slice of a matrix tells its input; the model need not know."""
    seen = {name: [InputSum(p.size(-1)) for _ in p] for name, p in params.items() if name in MATRICES}
    where = {p[i].data_ptr(): (name, i) for name, p in params.items() if name in MATRICES for i in range(len(p))}

    class Watch(TorchFunctionMode):  # type: ignore[misc]
        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            if func in (F.linear, linear) and (found := where.get(args[1].data_ptr())):
                _add(seen[found[0]][found[1]], args[0].detach().flatten(0, -2))
            return func(*args, **(kwargs or {}))

    with Watch():
        yield seen

"""What happens to a GPT in MLX once it is trained: quantized through its bytes, then scored on held-out text.

The two late stages of gpt_after.py, with the same names. quantize.py and evaluate.py do the work on plain arrays;
this file brings them the model: its losses, one step of its training, and the inputs of its matrices. It must never
score other weights than those that the artifact holds.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import mlx.core as mx
import numpy as np

from runners.gpt_config import GptConfig
from runners.gpt_data import Source
from runners.gpt_init import MATRICES, TABLES
from runners.gpt_mlx import Params, Watched, clipped, forward, linear, rotary, trunk
from runners.gpt_mlx import logits as head
from runners.gpt_result import code_bytes
from runners.gpt_stages import Following, InputSum, Scored, calibration, compressed, scheme
from runners.gpt_stages import score as score_model
from runners.gptq import Inputs
from runners.quantize import restore


def score(params: Params, config: GptConfig, source: Source, dtype: mx.Dtype = mx.float32) -> Scored:
    """The model on held-out text, as `config.eval` says. `params` are not changed."""
    return score_model(Model(params, config, dtype), config, source)


class Model:
    """Parameters as evaluate.py asks for them: nats of windows, and a step of plain gradient descent on others."""

    def __init__(self, params: Params, config: GptConfig, dtype: mx.Dtype = mx.float32) -> None:
        self.params, self.config, self.rope, self.dtype = dict(params), config, rotary(config), dtype
        self.momentum = {name: mx.zeros_like(p) for name, p in params.items()}

    def losses(self, tokens: np.ndarray, targets: np.ndarray, first: int) -> np.ndarray:
        """float32 [batch, seq - first]"""
        return np.array(self._nats(self.params, *map(_int32, (tokens, targets)))[:, first:])

    def learn(self, tokens: np.ndarray, targets: np.ndarray, lr: float) -> None:
        """One step of SGD with momentum 0.9, its gradient clipped to a norm of one; the first blocks stay."""
        x, y = _int32(tokens), _int32(targets)
        grads = mx.grad(lambda params: self._nats(params, x, y).mean())(self.params)
        for name, g in grads.items():
            if name not in TABLES and g.ndim and g.shape[0] == self.config.depth:
                live = mx.arange(self.config.depth) >= self.config.ttt_freeze
                grads[name] = g * live.reshape(-1, *[1] * (g.ndim - 1))
        grads = clipped(grads, 1.0)
        self.momentum = {name: 0.9 * m + grads[name] for name, m in self.momentum.items()}
        self.params = {name: p - lr * self.momentum[name] for name, p in self.params.items()}
        mx.eval(self.params, self.momentum)

    def _nats(self, params: Params, tokens: mx.array, targets: mx.array) -> mx.array:
        cos, sin = self.rope
        seq = tokens.shape[1]
        if self.dtype != mx.float32:
            params = {name: p.astype(self.dtype) for name, p in params.items()}
        return forward(params, self.config, (cos[:seq], sin[:seq]), tokens, targets)


def _int32(tokens: np.ndarray) -> mx.array:
    return mx.array(tokens.astype(np.int32))


# --- Quantization ------------------------------------------------------------------------------------------


def quantized(params: Params, config: GptConfig, source: Source) -> tuple[Params, bytes]:
    """The parameters through `config.quantize`, as they were read back, and the compressed model.

    Raises ValueError for weights that are not finite.
    """
    arrays = {name: np.array(p.astype(mx.float32)) for name, p in params.items()}
    inputs = matrix_inputs(params, config, source) if scheme(config).calibrated else None
    model = compressed(arrays, config, inputs, code_bytes("mlx"))
    back = restore(model)
    return {name: mx.array(back[name]) for name in params}, model


def matrix_inputs(params: Params, config: GptConfig, source: Source) -> Mapping[str, list[Inputs]]:
    """What every matrix is given by `calib_tokens` of the training text, or of the model's own, a slice each."""
    matrices = {name: p for name, p in params.items() if name in MATRICES}
    seen = {name: [InputSum(p.shape[-1]) for _ in range(p.shape[0])] for name, p in matrices.items()}

    def watched(matrix: mx.array, at: InputSum) -> Watched:
        return Watched(matrix, lambda x: at.add(np.array(x.reshape(-1, x.shape[-1]))))

    stand_ins: dict[str, Any] = dict(params)
    for name, p in matrices.items():
        stand_ins[name] = [watched(p[i], at) for i, at in enumerate(seen[name])]
    windows, rope = calibration(config, source, following(params, config)), rotary(config)
    for i in range(0, len(windows), 8):
        x = trunk(stand_ins, config, rope, _int32(windows[i : i + 8]))
        if "mtp" in params:
            linear(x, stand_ins["mtp"][0])
    return {name: [each.inputs() for each in sums] for name, sums in seen.items()}


def following(params: Params, config: GptConfig) -> Following:
    """The model as one that writes."""
    cos, sin = rotary(config)

    def logits(tokens: np.ndarray) -> np.ndarray:
        seq = tokens.shape[1]
        x = trunk(params, config, (cos[:seq], sin[:seq]), _int32(tokens))
        return np.array(head(params, config, x[:, -1]))

    return logits

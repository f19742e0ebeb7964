"""The two late stages of a run, for any backend: the weights through their bytes, then held-out text scored.

gpt_after.py brings a model in torch, gpt_mlx_after.py one in MLX; what is decided by a config (which scheme, which
evaluation, under which name) is decided here, once. Plain numpy. It must never score other weights than it was given.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import islice
from typing import NamedTuple

import msgspec
import numpy as np

from runners.evaluate import ALONE, Learner, Share, named, score_first, summed, token_losses, whole_windows
from runners.gpt_config import GptConfig
from runners.gpt_data import Source
from runners.gpt_init import MATRICES, TABLES
from runners.gptq import Inputs
from runners.quantize import SCHEMES, SIZE_LIMIT, Scheme, compress

PRE_QUANT = "_pre_quant"  # what a figure of the weights before quantization is called


class Scored(NamedTuple):
    """Nats a token and bits a byte, under names that say whether the whole held-out split was scored."""

    loss: float
    bpb: float
    loss_name: str
    bpb_name: str


def score(model: Learner, config: GptConfig, source: Source, share: Share = ALONE) -> Scored:
    """The model on held-out text, as `config.eval` says, with those who share it. `ttt` trains the model."""
    count = whole_windows(len(source.val), config.seq_len, config.val_tokens)
    batch = config.pass_windows
    if config.eval == "ttt":
        found = score_first(
            model,
            source.val,
            count,
            config.seq_len,
            stride=min(config.eval_stride, config.seq_len),
            chunk=config.ttt_chunk,
            lr=config.ttt_lr,
            epochs=config.ttt_epochs,
            batch=batch,
            step=(config.micro_tokens or config.batch_tokens) // config.seq_len,  # of all ranks together
            share=share,
        )
    else:
        stride = config.eval_stride if config.eval == "sliding" else 0
        found = token_losses(model.losses, source.val, count, config.seq_len, stride=stride, batch=batch, share=share)
    total = summed(found, source.val, source.counts)
    names = (named(name, count, len(source.val), config.seq_len) for name in ("val_loss", "val_bpb"))
    return Scored(total.loss, total.bpb, *names)


def quantization(before: Scored, after: Scored, size: int) -> dict[str, float]:
    """What quantization cost: `quant_gap` in bits a byte (named as the scores are), the artifact's bytes, and how
    many of them are beyond the challenge's limit."""
    gap = after.bpb_name.replace("val_bpb", "quant_gap")
    return {
        gap: after.bpb - before.bpb,
        "artifact_bytes": float(size),
        "artifact_bytes_over": float(max(0, size - SIZE_LIMIT)),
    }


def scheme(config: GptConfig) -> Scheme:
    """What `config.quantize` stands for."""
    found = SCHEMES[config.quantize]
    return msgspec.structs.replace(found, group=config.quant_group) if found.group else found


def compressed(
    arrays: Mapping[str, np.ndarray], config: GptConfig, inputs: Mapping[str, list[Inputs]] | None
) -> bytes:
    """The model's bytes. Raises ValueError for weights that are not finite."""
    matrices = [name for name in arrays if name in MATRICES]
    tables = [name for name in arrays if name in TABLES]
    return compress(arrays, scheme(config), matrices, tables, inputs)


def calibration(config: GptConfig, source: Source) -> np.ndarray:
    """int64 [windows, seq]: the training text that schemes look at, `calib_tokens` of it in `calib_seed`'s order."""
    count = max(1, config.calib_tokens // config.seq_len)
    parts = islice(source.batches(config, config.calib_seed), -(-count // config.windows))
    return np.concatenate([part[:, :-1] for part in parts])[:count]


class InputSum:
    """The sums over tokens of one matrix's inputs."""

    def __init__(self, columns: int) -> None:
        self.hessian, self.magnitude, self.tokens = np.zeros((columns, columns)), np.zeros(columns), 0

    def add(self, rows: np.ndarray) -> None:
        """rows: [tokens, columns]"""
        rows = rows.astype(np.float64)
        self.add_sums(rows.T @ rows, np.abs(rows).sum(0), len(rows))

    def add_sums(self, hessian: np.ndarray, magnitude: np.ndarray, tokens: int) -> None:
        """What a device has summed over some tokens: of x x', of |x|."""
        self.hessian += hessian
        self.magnitude += magnitude
        self.tokens += tokens

    def inputs(self) -> Inputs:
        return Inputs(self.hessian, self.magnitude / max(1, self.tokens), self.tokens)

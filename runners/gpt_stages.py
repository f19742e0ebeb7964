"""The two late stages of a run, for any backend: the weights through their bytes, then held-out text scored.

gpt_after.py brings a model in torch, gpt_mlx_after.py one in MLX; what is decided by a config (which scheme, which
evaluation, under which name) is decided here, once. Plain numpy. It must never score other weights than it was given.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import islice
from typing import NamedTuple

import msgspec
import numpy as np

from runners.evaluate import ALONE, Learner, Share, named, score_first, summed, token_losses, whole_windows
from runners.gpt_config import GptConfig
from runners.gpt_data import Source
from runners.gpt_init import MATRICES, TABLES, rng
from runners.gptq import Inputs
from runners.quantize import SCHEMES, SIZE_LIMIT, Scheme, compress, pruned

PRE_QUANT = "_pre_quant"  # what a figure of the weights before quantization is called
WRITING = 64  # windows that a model writes at a time

Following = Callable[[np.ndarray], np.ndarray]  # tokens [n, t] to logits of what follows, float32 [n, vocab]


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


def quantization(before: Scored, after: Scored, size: int, model: bytes = b"") -> dict[str, float]:
    """What quantization cost: `quant_gap` in bits a byte (named as the scores are), the artifact's bytes, how many of
    them are beyond the challenge's limit, and how many codes of `model` became zero for it, if any did."""
    gap = after.bpb_name.replace("val_bpb", "quant_gap")
    told = {
        gap: after.bpb - before.bpb,
        "artifact_bytes": float(size),
        "artifact_bytes_over": float(max(0, size - SIZE_LIMIT)),
    }
    zeroed = pruned(model) if model else 0
    return told | ({"pruned_codes": float(zeroed)} if zeroed else {})


def scheme(config: GptConfig) -> Scheme:
    """What `config.quantize` stands for."""
    found = SCHEMES[config.quantize]
    group = config.quant_group if found.group else 0
    return msgspec.structs.replace(found, group=group, floor=config.quant_floor, pack=config.quant_pack)


def compressed(
    arrays: Mapping[str, np.ndarray], config: GptConfig, inputs: Mapping[str, list[Inputs]] | None, code: int
) -> bytes:
    """The model's bytes; so many of `code` count beside them. Raises ValueError for weights that are not finite."""
    matrices = [name for name in arrays if name in MATRICES]
    tables = [name for name in arrays if name in TABLES]
    room = config.prune_to - code if config.prune_to else None
    return compress(arrays, scheme(config), matrices, tables, inputs, damping=config.gptq_damping, room=room)


def calibration(config: GptConfig, source: Source, following: Following | None = None) -> np.ndarray:
    """int64 [windows, seq]: what schemes look at, `calib_tokens` of it: the training text in `calib_seed`'s order, or
    what the model says, which is asked only then."""
    count = max(1, config.calib_tokens // config.seq_len)
    if config.calib_text == "own":
        assert following is not None
        return own_text(config, count, following)
    parts = islice(source.batches(config, config.calib_seed), -(-count // config.windows))
    return np.concatenate([part[:, :-1] for part in parts])[:count]


def own_text(config: GptConfig, count: int, following: Following) -> np.ndarray:
    """int64 [count, seq] that a model wrote: each window from a token drawn evenly, then one at a time from the whole
    distribution at `calib_temperature`, by numbers that `calib_seed` alone decides. Nothing is kept between tokens,
    so a window costs about seq / 2 passes over it; many are written at a time."""
    generator = rng(config.calib_seed, "own_text")
    written = np.empty((count, config.seq_len), dtype=np.int64)
    written[:, 0] = generator.integers(config.vocab_size, size=count)
    draws = generator.random((count, config.seq_len))
    for start in range(0, count, WRITING):
        some, drawn = written[start : start + WRITING], draws[start : start + WRITING]
        for at in range(1, config.seq_len):
            z = following(some[:, :at]).astype(np.float64) / config.calib_temperature
            mass = np.exp(z - z.max(axis=1, keepdims=True)).cumsum(axis=1)
            some[:, at] = (mass < drawn[:, at, None] * mass[:, -1:]).sum(axis=1)
    return written


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

"""What a run starts from and what it draws, in numpy: the same numbers whatever trains them.

The GPT exists twice, in torch (gpt.py) and in MLX (gpt_mlx.py); what both must agree on to the last bit is
here once: initial values, rotary tables, the order of the data, learning rates, random masks. Every draw has
its own generator, named and seeded; no global generator is read or moved. It must import neither backend.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from runners.gpt_config import GptConfig

Arrays = dict[str, np.ndarray]
MATRICES = ("q", "k", "v", "o", "up", "down")  # Muon's; the rest is Adam's


def rng(seed: int, name: str) -> np.random.Generator:
    """The generator of one thing (a parameter, the data, a mask) under a seed."""
    return np.random.default_rng(np.random.SeedSequence([seed, zlib.crc32(name.encode())]))


def init_arrays(config: GptConfig, seed: int) -> Arrays:
    """float32 parameters. Matrices of one kind are stacked over blocks, [depth, out, in], so that Muon turns
    them in one batch; each block's slice has its own generator, so depth 3 begins like depth 2."""
    d, kv = config.width, config.width // config.heads * config.kv_heads
    shapes = {"q": (d, d), "k": (kv, d), "v": (kv, d), "o": (d, d)}
    shapes |= {"up": (config.mlp_mult * d, d), "down": (d, config.mlp_mult * d)}
    params: Arrays = {}
    for name, (rows, columns) in shapes.items():
        if name in ("o", "down"):  # blocks begin as the identity
            params[name] = np.zeros((config.depth, rows, columns))
            continue
        bound = columns**-0.5
        layers = [rng(seed, f"{i}.{name}").uniform(-bound, bound, (rows, columns)) for i in range(config.depth)]
        params[name] = np.stack(layers)
    embed = rng(seed, "embed").standard_normal((config.vocab_size, d), dtype=np.float32)
    params["embed"] = embed * np.float32(0.005)
    params["q_gain"] = np.full((config.depth, config.heads), config.qk_gain)
    params["attn_scale"] = np.ones((config.depth, d))
    params["mlp_scale"] = np.ones((config.depth, d))
    params["mix"] = np.stack([np.ones((config.depth, d)), np.zeros((config.depth, d))], axis=1)
    params["skip"] = np.ones((config.depth // 2, d))
    return {name: value.astype(np.float32) for name, value in params.items()}


def rotary_tables(config: GptConfig) -> tuple[np.ndarray, np.ndarray]:
    """cos, sin: float32 [seq, head_dim]. Dimension i turns with i + head_dim / 2; the sign is in sin."""
    half = config.width // config.heads // 2
    angles = np.outer(np.arange(config.seq_len), config.rope_base ** (-np.arange(half) / half))
    cos, sin = np.tile(np.cos(angles), 2), np.concatenate([np.sin(angles), -np.sin(angles)], axis=1)
    return cos.astype(np.float32), sin.astype(np.float32)


def batch_starts(tokens: int, config: GptConfig, seed: int) -> Iterator[np.ndarray]:
    """Where each batch's windows begin, [batch] a time: every epoch a new order and a new offset of windows
    that do not overlap. It depends on the seed and the batch's shape and on nothing else of the config."""
    generator, size = rng(seed, "data"), config.batch_tokens // config.seq_len
    while True:
        offset = int(generator.integers(config.seq_len))
        order = generator.permutation((tokens - 1 - offset) // config.seq_len) * config.seq_len + offset
        for i in range(0, len(order) - size + 1, size):
            yield order[i : i + size]


def lr_scale(config: GptConfig, step: int) -> float:
    """Factor on every learning rate: up over warmup_steps, then one, then down to zero over the warm-down."""
    up = (step + 1) / (config.warmup_steps + 1)
    down = (config.steps - step) / (config.warmdown * config.steps) if config.warmdown else 1.0
    return min(1.0, up, down)

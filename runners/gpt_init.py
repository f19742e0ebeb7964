"""Where a GPT begins: every parameter of a config, by name, as plain arrays that both backends start from.

Each parameter has its own generator, by name and seed, so two arms of one seed begin with the same values wherever
their shapes agree, and a new field moves nobody else's start. No backend is imported here, no global generator used.
"""

from __future__ import annotations

import zlib

import numpy as np

from runners.gpt_config import GptConfig

Arrays = dict[str, np.ndarray]
PROJECTIONS = ("bigram_proj", "value_embed_proj")  # behind a table; Muon's, or Adam's where a config says so
MATRICES = ("q", "k", "v", "o", "up", "down", "mtp", *PROJECTIONS)  # [blocks, out, in], Muon's; the rest is Adam's
TABLES = ("embed", "bigram", "value_embed")  # Adam's, at embed_lr; what is in neither is at scalar_lr


def rng(seed: int, name: str) -> np.random.Generator:
    """The generator of one thing of one seed."""
    return np.random.default_rng(np.random.SeedSequence([seed, zlib.crc32(name.encode())]))


def by_muon(config: GptConfig, name: str) -> bool:
    """Whether Muon trains this parameter; else Adam does."""
    return name in MATRICES and not (name in PROJECTIONS and config.projections == "adam")


def init_arrays(config: GptConfig, seed: int) -> Arrays:
    """float32. Matrices of one kind are stacked over blocks, [depth, out, in], so that Muon turns them in one batch;
    each block's slice has its own generator, so depth 3 begins like depth 2."""
    d, kv, n = config.width, config.head_dim * config.kv_heads, len(config.order)
    up, down = config.hidden
    shapes = {"q": (d, d), "k": (kv, d), "v": (kv, d), "o": (d, d), "up": (up, d), "down": (d, down)}
    made: Arrays = {}
    for name, (rows, columns) in shapes.items():
        made[name] = np.zeros((config.depth, rows, columns), dtype=np.float32)
        if name not in ("o", "down"):  # blocks begin as the identity
            for i in range(config.depth):
                made[name][i] = _matrix(config, seed, f"{i}.{name}", rows, columns)
    made["embed"] = rng(seed, "embed").standard_normal((config.vocab_size, d), dtype=np.float32)
    made["embed"] *= np.float32(config.embed_init)
    made["q_gain"] = _full(config.qk_gain, config.depth, config.heads)
    made["attn_scale"] = _full(1, config.depth, d)
    made["mlp_scale"] = _full(1, config.depth, d)
    made["mix"] = np.stack([_full(1, config.depth, d), _full(0, config.depth, d)], axis=1)
    if config.skips == "unet":
        made["skip"] = _full(1, n // 2, d)
    elif config.skips == "dense":  # row i: weights of the embedding and of i outputs; it begins with the last alone
        made["dense"] = np.eye(n, n + 1, dtype=np.float32)
    if config.value_residual:
        made["value_mix"] = _full(0, config.depth)
    if config.value_embed_last:
        wide = config.value_embed_width
        made["value_embed"] = rng(seed, "value_embed").standard_normal((config.vocab_size, wide), dtype=np.float32)
        made["value_embed"] *= np.float32(0.01)
        made["value_embed_proj"] = _matrix(config, seed, "value_embed_proj", kv, wide)[None]
        made["value_embed_scale"] = _full(0.1, 1)
        made["value_embed_gain"] = _full(1, config.value_embed_last)
    if config.bigram_buckets:
        table = rng(seed, "bigram").standard_normal((config.bigram_buckets, config.bigram_width), dtype=np.float32)
        made["bigram"] = table * np.float32(0 if config.bigram_zero else config.embed_init)
        made["bigram_proj"] = _matrix(config, seed, "bigram_proj", d, config.bigram_width)[None]
        made["bigram_scale"] = _full(0.05, 1)
    if config.smear_gate:
        made["smear"] = _full(config.smear_init, d)  # -2: a gate of 0.12
    if config.mtp_weight:
        made["mtp"] = np.eye(d, dtype=np.float32)[None]
    return made


def _matrix(config: GptConfig, seed: int, name: str, rows: int, columns: int) -> np.ndarray:
    """uniform: within 1 / sqrt(columns). orthogonal: rows, or columns where they are fewer, of length one and at
    right angles, any such matrix as likely as another."""
    if config.init == "uniform":
        bound = columns**-0.5
        return rng(seed, name).uniform(-bound, bound, (rows, columns)).astype(np.float32)
    tall = rng(seed, name).standard_normal((max(rows, columns), min(rows, columns)))
    q, r = np.linalg.qr(tall)
    q = q * np.sign(np.diag(r))
    return np.ascontiguousarray(q if rows >= columns else q.T, dtype=np.float32)


def _full(value: float, *shape: int) -> np.ndarray:
    return np.full(shape, value, dtype=np.float32)


def rotary_tables(config: GptConfig) -> tuple[np.ndarray, np.ndarray]:
    """cos, sin: float32 [seq, rope_dims]. Dimension i turns with i + rope_dims / 2."""
    half = config.rope_dims // 2
    angles = np.outer(np.arange(config.seq_len), config.rope_base ** (-np.arange(half) / max(1, half)))
    tables = np.tile(np.cos(angles), 2), np.concatenate([np.sin(angles), -np.sin(angles)], axis=1)
    return tables[0].astype(np.float32), tables[1].astype(np.float32)


def bigram_ids(config: GptConfig, tokens: np.ndarray) -> np.ndarray:
    """The bucket of each token and the one before it, [..., seq]; a sequence's first token has the last bucket."""
    previous, token = tokens[..., :-1].astype(np.int64), tokens[..., 1:].astype(np.int64)
    ids = np.full(tokens.shape, config.bigram_buckets - 1, dtype=np.int64)
    ids[..., 1:] = ((36313 * token) ^ (27191 * previous)) % (config.bigram_buckets - 1)
    return ids

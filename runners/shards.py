"""Tokens in files: the challenge's shards, read without copying, and a training order over many of them.

A shard is 256 little-endian int32 (magic 20240520, version 1, number of tokens, zeros), then uint16 tokens: the
format of modded-nanogpt and parameter-golf. A shard is memory-mapped; what a model is shown is copied, nothing else,
so eighty shards of a hundred million tokens train in the memory of one batch.

Every seed has its own order: of the shards, of the windows in each, and of where windows begin. So seeds differ by
their data as well as by their start, and the spread between them holds both.

What it must never do: read a file as what it is not. A header that lies about its length, a file of odd size, a token
outside the vocabulary are refused with the file's name.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

SHARD_MAGIC, SHARD_VERSION, HEADER_INTS = 20240520, 1, 256
HEADER_BYTES = 4 * HEADER_INTS


class CorpusError(ValueError):
    """A shard or a corpus folder is not what it claims to be."""


def write_shard(path: Path, tokens: np.ndarray) -> None:
    """Writes tokens (any integers, 0 to 65535) as one shard."""
    header = np.zeros(HEADER_INTS, dtype="<i4")
    header[:3] = SHARD_MAGIC, SHARD_VERSION, len(tokens)
    path.write_bytes(header.tobytes() + np.asarray(tokens).astype("<u2").tobytes())


def load_shard(path: Path, vocab_size: int | None = None) -> np.ndarray:
    """The tokens of a shard, uint16 [tokens], memory-mapped read-only.

    Raises CorpusError for a missing file, a wrong magic number or version, a file shorter or longer than its header
    says, and, where `vocab_size` is given, a token that is not below it.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            head = file.read(HEADER_BYTES)
    except OSError as error:
        raise CorpusError(f"{path}: the shard cannot be read: {error.strerror}") from None
    if len(head) < HEADER_BYTES:
        raise CorpusError(f"{path}: no shard: expected a header of {HEADER_BYTES} bytes, found {size} bytes")
    magic, version, expected = (int(x) for x in np.frombuffer(head, dtype="<i4", count=3))
    if magic != SHARD_MAGIC:
        raise CorpusError(f"{path}: no shard: expected magic number {SHARD_MAGIC}, found {magic}")
    if version != SHARD_VERSION:
        raise CorpusError(f"{path}: expected shard version {SHARD_VERSION}, found {version}")
    found = (size - HEADER_BYTES) / 2
    if found != expected:
        what = "truncated" if found < expected else "longer than its header says"
        raise CorpusError(f"{path}: {what}: expected {expected} tokens, found {found:g}")
    if expected == 0:
        raise CorpusError(f"{path}: the shard holds no tokens")
    tokens = np.memmap(path, dtype="<u2", mode="r", offset=HEADER_BYTES, shape=(expected,))
    if vocab_size is not None and int(tokens.max()) >= vocab_size:
        at = int(np.argmax(tokens >= vocab_size))
        raise CorpusError(f"{path}: token {tokens[at]} at {at} is outside the vocabulary of {vocab_size}")
    return tokens


def windows_of_an_epoch(lengths: Sequence[int], seq_len: int, rng: np.random.Generator) -> Iterator[np.ndarray]:
    """(shard, start) of every window, int64 [windows, 2] a shard at a time, in one epoch's order.

    Windows of seq_len + 1 tokens, side by side from an offset that is drawn; none reaches into the next shard.
    """
    order = rng.permutation(len(lengths)) if len(lengths) > 1 else np.zeros(1, dtype=np.int64)
    for shard in order:
        offset = int(rng.integers(seq_len))
        count = max(0, lengths[shard] - 1 - offset) // seq_len
        starts = rng.permutation(count) * seq_len + offset
        yield np.stack([np.full(count, shard), starts], axis=1)


def batches(
    shards: Sequence[np.ndarray], seq_len: int, size: int, seed: int, part: slice = slice(None)
) -> Iterator[np.ndarray]:
    """int64 [size, seq_len + 1] for ever: every epoch all windows in a new order, at most a batch of them left out.
    With `part` only these windows of each batch are read.

    The order depends on the shards' lengths, the batch's shape and the seed, and on nothing else.
    Raises ValueError where an epoch holds less than one batch.
    """
    lengths = [len(shard) for shard in shards]
    least = sum(max(0, length - seq_len) // seq_len for length in lengths)  # whatever the offsets are
    if least < size:
        raise ValueError(
            f"expected training text of at least {size} windows of {seq_len} tokens, a batch; found {least} in "
            f"{len(shards)} shard{'' if len(shards) == 1 else 's'} of {sum(lengths)} tokens"
        )
    rng = np.random.default_rng(np.random.SeedSequence([seed, zlib.crc32(b"data")]))
    span = np.arange(seq_len + 1)
    while True:
        waiting = np.empty((0, 2), dtype=np.int64)
        for found in windows_of_an_epoch(lengths, seq_len, rng):
            waiting = np.concatenate([waiting, found])
            whole = len(waiting) // size * size
            for at in range(0, whole, size):
                some = waiting[at : at + size][part]
                yield np.stack([shards[s][start + span] for s, start in some]).astype(np.int64)
            waiting = waiting[whole:]

"""What a GPT reads: batches of windows in a seed's own order, and the random numbers that go with each batch.

Pairs by seed are pairs: a seed gives the data one generator and every step's noise another, so two arms of one seed
see the same batches and the same damage wherever their settings agree. Plain numpy, so both backends see the same.

    Source      held-out tokens with their bytes, training windows in an order that depends on the seed
    curriculum  windows scored by a bigram model of the training text and reordered, a buffer at a time
    noise       uniform numbers for dropout, corruption and probes, one draw a step

What it must never do: let an arm's settings move the data of another arm, or touch a global generator.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Protocol

import numpy as np

from runners.bytecount import ByteCount
from runners.corpus import Corpus
from runners.gpt_config import GptConfig
from runners.gpt_init import rng
from runners.shards import batches

Batch = np.ndarray  # int64 [windows, seq + 1]: inputs are all but the last, targets all but the first
ALL = slice(None)
BIGRAM_TOKENS = 10_000_000  # of the training text that the bigram model is made of
_KAPPA = 16.0  # tokens that the unigram model is worth beside a pair's own count


class Source(Protocol):
    """A tokenized text, as a trainer asks for it."""

    vocab_size: int
    val: np.ndarray  # held-out tokens, one dimension
    counts: ByteCount

    @property
    def digests(self) -> Mapping[str, tuple[str, int]]:
        """file -> (sha256, bytes): the text's identity"""
        ...

    def batches(self, config: GptConfig, seed: int, part: slice = ALL) -> Iterator[Batch]:
        """Batches of `config.windows` windows without end, in an order that is a function of seed and shape alone;
        `part` of each where that is asked for."""
        ...

    def sample(self, tokens: int) -> np.ndarray:
        """At most so many tokens from the start of the training text, the same for every seed."""
        ...

    def check(self, config: GptConfig) -> None:
        """Raises ValueError where config and text do not fit."""
        ...


class CorpusSource:
    """The embedded corpus or a folder of shards: windows that do not overlap, a new order and offset every epoch."""

    def __init__(self, corpus: Corpus) -> None:
        self.corpus, self.vocab_size, self.val = corpus, corpus.vocab_size, corpus.val
        self.counts = corpus.counts
        self.digests: Mapping[str, tuple[str, int]] = {
            name: (digest, corpus.sizes[name]) for name, digest in corpus.digests.items()
        }

    def batches(self, config: GptConfig, seed: int, part: slice = ALL) -> Iterator[Batch]:
        return batches(self.corpus.shards, config.seq_len, config.windows, seed, part)

    def sample(self, tokens: int) -> np.ndarray:
        parts, left = [], tokens
        for shard in self.corpus.shards:
            parts.append(shard[:left])
            left -= len(parts[-1])
            if left <= 0:
                break
        found: np.ndarray = np.concatenate(parts)
        return found

    def check(self, config: GptConfig) -> None:
        # An epoch's offset may cost each shard a window.
        room = sum(max(0, len(shard) - config.seq_len) // config.seq_len for shard in self.corpus.shards)
        if config.windows > room:
            most = room * config.seq_len
            raise ValueError(f"batch_tokens must be at most the corpus's {most}, found {config.batch_tokens}")
        check_fit(self, config)


def check_fit(source: Source, config: GptConfig) -> None:
    """Raises ValueError where the vocabulary or the held-out part does not fit the text."""
    known, val = source.vocab_size, len(source.val)
    if config.vocab_size != known:
        how = "larger" if config.vocab_size > known else "smaller"
        raise ValueError(f"vocab_size is {how} than the tokenizer's {known}, found {config.vocab_size}")
    if config.val_tokens >= val:
        raise ValueError(f"val_tokens must be below the {val} tokens held out, found {config.val_tokens}")
    if val <= config.seq_len:
        raise ValueError(f"seq_len must be below the {val} tokens held out, found {config.seq_len}")


# --- Curriculum --------------------------------------------------------------------------------------------


def bigram_nats(sample: np.ndarray, vocab_size: int) -> np.ndarray:
    """float32 [vocab, vocab]: nats of a token (column) after another (row), by counts of the training text smoothed
    towards single tokens. What a model of two tokens knows; rho-1 and the curriculum measure against it."""
    pairs = sample[:-1].astype(np.int64) * vocab_size + sample[1:]
    counts = np.bincount(pairs, minlength=vocab_size**2).reshape(vocab_size, vocab_size)
    single = (np.bincount(sample, minlength=vocab_size) + 1.0) / (len(sample) + vocab_size)
    smooth = (counts + _KAPPA * single) / (counts.sum(1, keepdims=True) + _KAPPA)
    found: np.ndarray = -np.log(smooth).astype(np.float32)
    return found


def stream(
    source: Source, config: GptConfig, seed: int, reference: np.ndarray | None, part: slice = ALL
) -> Iterator[Batch]:
    """A seed's batches, or `part` of each, reordered by difficulty where the config has a curriculum: of every
    `curriculum_buffer` batches the windows are sorted by their mean bigram nats. Every window comes exactly as often
    as without."""
    if config.curriculum == "off":
        yield from source.batches(config, seed) if part == ALL else source.batches(config, seed, part)
        return
    order = source.batches(config, seed)
    assert reference is not None
    count = config.curriculum_buffer or config.steps
    while chunk := list(islice(order, count)):
        windows = np.concatenate(chunk)
        score = reference[windows[:, :-1], windows[:, 1:]].mean(1)
        ranked = np.argsort(score if config.curriculum == "easy_first" else -score, kind="stable")
        yield from windows[ranked].reshape(len(chunk), *chunk[0].shape)[:, part]


def needs_reference(config: GptConfig) -> bool:
    """Whether a run asks for bigram nats."""
    return config.curriculum != "off" or (config.rho1_keep < 1 and config.rho1_reference == "bigram")


# --- Noise -------------------------------------------------------------------------------------------------


def noise(config: GptConfig, seed: int, step: int) -> dict[str, np.ndarray]:
    """The random numbers of one step, [windows, seq]; of each kind only where the config needs it."""
    shape = (config.windows, config.seq_len)
    made: dict[str, np.ndarray] = {}
    if config.token_drop:
        made["drop"] = rng(seed, f"drop.{step}").random(shape, dtype=np.float32)
    if config.corrupt:
        made["corrupt"] = rng(seed, f"corrupt.{step}").random(shape, dtype=np.float32)
        if config.corrupt_by == "uniform":
            made["tokens"] = rng(seed, f"tokens.{step}").integers(config.vocab_size, size=shape)
    if config.probe == "adaptive":
        made["probe"] = rng(seed, f"probe.{step}").random(shape, dtype=np.float32)
    return made

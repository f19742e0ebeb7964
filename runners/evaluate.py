"""What a model scores on held-out text: bits per byte, each token once, and never with a look ahead.

    chunked   windows of seq_len, side by side; a window's first tokens have hardly any context
    sliding   windows that overlap; each after the first scores only its last `stride` tokens, so every token but the
              first seq_len has at least seq_len - stride tokens before it
    ttt       sliding, and after every chunk the model trains on it: only on tokens that were scored before

    bits per byte = sum of nats / ln 2 / bytes, both over the same tokens

The whole split and a part of it are two metrics with two names (`named`): what a part says of the whole is a guess.

What it must never do: score a token with a model that has seen it. `Split` hands out training tokens, and none that
was not scored. Backends come as functions on numpy arrays; nothing here knows of torch or MLX.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import NamedTuple, Protocol

import numpy as np

from runners.bytecount import ByteCount

SUBSET = "_subset"


class Losses(Protocol):
    """A model on tokens and targets [batch, seq]: nats of the targets from `first` on, float [batch, seq - first]."""

    def __call__(self, tokens: np.ndarray, targets: np.ndarray, first: int) -> np.ndarray: ...


class Learner(Protocol):
    """A model that can also take one step of training."""

    def losses(self, tokens: np.ndarray, targets: np.ndarray, first: int) -> np.ndarray: ...

    def learn(self, tokens: np.ndarray, targets: np.ndarray, lr: float) -> None: ...


class Share(Protocol):
    """One of several processes that score a text together, each some of its windows."""

    rank: int
    size: int

    def merged(self, nats: np.ndarray) -> np.ndarray:
        """The sum over all of them, the same on each: what one has not scored is zero there."""
        ...


class Alone:
    """A process that scores by itself."""

    rank, size = 0, 1

    def merged(self, nats: np.ndarray) -> np.ndarray:
        return nats


ALONE = Alone()


class LeakError(RuntimeError):
    """Training was about to see tokens that are still to be scored."""


class Score(NamedTuple):
    """Nats a token and bits a byte of `tokens` tokens that stand for `bytes` bytes."""

    loss: float
    bpb: float
    tokens: int
    bytes: int


class Window(NamedTuple):
    """Inputs from `start`; scored are its targets from `first` on."""

    start: int
    length: int
    first: int

    @property
    def scored(self) -> tuple[int, int]:
        """Targets [from, to) that it scores, counted over the split."""
        return self.start + self.first, self.start + self.length


def whole_windows(tokens: int, seq_len: int, limit: int = 0) -> int:
    """Targets that are scored: those of the windows of seq_len that fit into `tokens`, or into `limit` if above 0.

    Raises ValueError where not one window fits.
    """
    most = min(tokens - 1, limit) if limit else tokens - 1
    if most < seq_len:
        raise ValueError(f"expected held-out text of more than seq_len {seq_len} tokens, found {max(most, 0) + 1}")
    return most // seq_len * seq_len


def named(metric: str, scored: int, tokens: int, seq_len: int) -> str:
    """The metric's name: `val_bpb` when all windows of the split were scored, else `val_bpb_subset`."""
    return metric if scored == whole_windows(tokens, seq_len) else metric + SUBSET


def windows(count: int, seq_len: int, stride: int) -> Iterator[Window]:
    """Windows that score each of `count` targets once. With stride = seq_len they lie side by side.

    count: at least seq_len; stride: 1 to seq_len. The last window may score fewer than stride.
    """
    if not 1 <= stride <= seq_len <= count:
        raise ValueError(f"expected 1 <= stride <= seq_len <= count, found {stride}, {seq_len}, {count}")
    yield Window(0, seq_len, 0)
    for done in range(seq_len, count, stride):
        end = min(done + stride, count)
        yield Window(end - seq_len, seq_len, done - (end - seq_len))


def token_losses(
    losses: Losses,
    tokens: np.ndarray,
    count: int,
    seq_len: int,
    *,
    stride: int = 0,
    batch: int = 8,
    share: Share = ALONE,
) -> np.ndarray:
    """float32 [count]: nats of each target, tokens[1:count + 1]. stride 0: chunked. batch: windows at a time, which
    those who `share` the work take in turns: each window is scored once, in the same company whoever takes it."""
    nats = np.full(count, np.nan, dtype=np.float32)
    for number, group in enumerate(_batches(windows(count, seq_len, stride or seq_len), batch)):
        _score(losses if number % share.size == share.rank else None, tokens, group, nats)
    return share.merged(nats)


def summed(nats: np.ndarray, tokens: np.ndarray, counts: ByteCount) -> Score:
    """What the nats of tokens[1:] come to. Raises ValueError for text of no bytes."""
    total = float(nats.sum(dtype=np.float64))
    size = counts.total(tokens[: len(nats) + 1])
    if not size:
        raise ValueError("the held-out tokens stand for no text at all: bits per byte are undefined")
    return Score(total / len(nats), total / math.log(2) / size, len(nats), size)


def _batches(all_windows: Iterator[Window], batch: int) -> Iterator[list[Window]]:
    """Windows of one shape, at most `batch` at a time, in order."""
    for _, alike in groupby(all_windows, key=lambda window: (window.length, window.first)):
        group: list[Window] = []
        for window in alike:
            group.append(window)
            if len(group) == batch:
                yield group
                group = []
        if group:
            yield group


def _score(losses: Losses | None, tokens: np.ndarray, group: Sequence[Window], nats: np.ndarray) -> None:
    """Score a group of windows; without losses it is another's, and its nats are zero here."""
    if losses is None:
        nats[group[0].scored[0] : group[-1].scored[1]] = 0
        return
    starts = np.array([window.start for window in group])
    shown = tokens[starts[:, None] + np.arange(group[0].length + 1)].astype(np.int64)
    found = losses(shown[:, :-1], shown[:, 1:], group[0].first)
    for window, row in zip(group, found, strict=True):
        start, end = window.scored
        nats[start:end] = row


# --- Test-time training ------------------------------------------------------------------------------------


class Split:
    """Held-out tokens as test-time training may see them: what was scored, and nothing after it."""

    def __init__(self, tokens: np.ndarray, count: int) -> None:
        self._tokens, self.nats = tokens, np.full(count, np.nan, dtype=np.float32)
        self.scored = 0  # targets so far

    def score(self, losses: Losses | None, group: Sequence[Window]) -> None:
        """Score windows that go on where the last ones ended, or leave them to another. Raises LeakError for any
        other."""
        if group[0].scored[0] != self.scored:
            raise LeakError(f"target {self.scored} is to be scored next, not {group[0].scored[0]}")
        _score(losses, self._tokens, group, self.nats)
        self.scored = group[-1].scored[1]

    def given(self, starts: np.ndarray, length: int) -> tuple[np.ndarray, np.ndarray]:
        """(tokens, targets), [windows, length] each, to train on. Raises LeakError when one was not scored yet."""
        if (last := int(starts.max()) + length) > self.scored:
            raise LeakError(f"training asked for target {last - 1}, and only the first {self.scored} are scored")
        shown = self._tokens[starts[:, None] + np.arange(length + 1)].astype(np.int64)
        return shown[:, :-1], shown[:, 1:]


def score_first(
    learner: Learner,
    tokens: np.ndarray,
    count: int,
    seq_len: int,
    *,
    stride: int,
    chunk: int,
    lr: float,
    epochs: int,
    batch: int = 8,
    step: int = 0,
    share: Share = ALONE,
) -> np.ndarray:
    """float32 [count]: nats of each target by a model that trained on the chunks before it.

    chunk: tokens that are scored, then trained on `epochs` times in windows of seq_len in their order, `step` (or
    `batch`) of them a step. The rate falls along half a cosine over the chunks. The last chunk is scored and teaches
    nothing.
    """
    split = Split(tokens, count)
    chunks = list(_chunks(windows(count, seq_len, stride), chunk))
    for number, (begin, end, members) in enumerate(chunks):
        for at, group in enumerate(_batches(iter(members), batch)):
            split.score(learner.losses if at % share.size == share.rank else None, group)
        split.nats[begin:end] = share.merged(split.nats[begin:end])
        if number + 1 == len(chunks):
            break
        rate = lr * 0.5 * (1 + math.cos(math.pi * number / max(1, len(chunks) - 1)))
        length = min(seq_len, end - begin)
        starts = np.arange(begin, end - length + 1, length)
        for _ in range(epochs):
            for at in range(0, len(starts), step or batch):
                learner.learn(*split.given(starts[at : at + (step or batch)], length), rate)
    return split.nats


def _chunks(all_windows: Iterator[Window], size: int) -> Iterator[tuple[int, int, list[Window]]]:
    """(first target, end, windows) of runs of windows that score `size` targets or just more; the last may not."""
    members: list[Window] = []
    for window in all_windows:
        members.append(window)
        begin, end = members[0].scored[0], window.scored[1]
        if end - begin >= size:
            yield begin, end, members
            members = []
    if members:
        yield members[0].scored[0], members[-1].scored[1], members

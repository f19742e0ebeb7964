"""How many bytes of text a token stands for, which is what bits per byte divide by.

Exactly as the challenge counts: a piece has the bytes of its text without the leading "▁"; that mark is a space,
one byte more, unless the token before it is a boundary (a control token, or one that the tokenizer does not use),
where sentencepiece puts it before the first word without there being a space. A byte-fallback token is one byte,
a control token none. A "▁" inside a piece counts the three bytes of that character: so does the challenge.

What it must never do: be generous. A tokenizer whose bytes are counted too high wins every comparison.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

_SPACE = "\u2581"  # sentencepiece's mark for a space


@dataclass(frozen=True)
class ByteCount:
    """Per token: bytes without a leading space, whether it begins with one, whether it is a boundary. [vocab] each"""

    base: np.ndarray  # int32
    leading_space: np.ndarray  # bool
    boundary: np.ndarray  # bool

    @property
    def vocab_size(self) -> int:
        return len(self.base)

    def of(self, previous: np.ndarray, targets: np.ndarray) -> np.ndarray:
        """int32, the shape of targets: bytes of each target, given the token before it."""
        spaces = self.leading_space[targets] & ~self.boundary[previous]
        counted: np.ndarray = self.base[targets] + spaces.astype(np.int32)
        return counted

    def total(self, tokens: np.ndarray) -> int:
        """Bytes of tokens[1:], each with the one before it: what a model that is shown `tokens` predicts."""
        step, total = 1 << 22, 0
        for start in range(0, len(tokens) - 1, step):
            part = tokens[start : start + step + 1]
            total += int(self.of(part[:-1], part[1:]).sum(dtype=np.int64))
        return total


def of_tokenizer(tokenizer: Any) -> ByteCount:
    """The counts of a sentencepiece model, by the challenge's rule."""
    size = tokenizer.get_piece_size()
    base = np.zeros(size, dtype=np.int32)
    leading = np.zeros(size, dtype=bool)
    boundary = np.ones(size, dtype=bool)
    for token in range(size):
        if tokenizer.is_control(token) or tokenizer.is_unknown(token) or tokenizer.is_unused(token):
            continue
        boundary[token] = False
        if tokenizer.is_byte(token):
            base[token] = 1
            continue
        piece = tokenizer.id_to_piece(token)
        leading[token] = piece.startswith(_SPACE)
        base[token] = len(piece.removeprefix(_SPACE).encode())
    return ByteCount(base, leading, boundary)


def exact(token_bytes: np.ndarray) -> ByteCount:
    """Where every token's bytes are known whatever stands before it, as with a tokenizer without a dummy prefix."""
    return ByteCount(
        token_bytes.astype(np.int32), np.zeros(len(token_bytes), dtype=bool), np.zeros(len(token_bytes), dtype=bool)
    )

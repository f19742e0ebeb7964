"""Merkle proofs as RFC 6962 and RFC 9162 define them, in files that can be checked without the ledger.

An inclusion proof shows that an event lies at a position under a signed head: c2sp.org/tlog-proof,
with the event's body as its extra data. A consistency proof shows that the log under a signed head
begins with the events of an earlier head; the file has the same form, with

    experiment-ledger/consistency@v1
    old SIZE ROOT
    hashes, one a line, then an empty line and the checkpoint

A proof is as good as the head that it ends in: who checks one must trust the key that signed it, or
have the head from somebody whom he trusts.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Sequence
from typing import NamedTuple

from ledger import checkpoints, signing
from ledger.checkpoints import Checkpoint
from ledger.errors import Corrupt
from ledger.merkle import Frontier, leaf_hash, node_hash

INCLUSION = "c2sp.org/tlog-proof@v1"
CONSISTENCY = "experiment-ledger/consistency@v1"


# ── making them ──


def root(leaves: Sequence[bytes]) -> bytes:
    """The Merkle root over leaf hashes."""
    tree = Frontier()
    tree.extend(leaves)
    return tree.root()


def inclusion(leaves: Sequence[bytes], index: int) -> list[bytes]:
    """PATH(index, leaves), RFC 6962 section 2.1.1: from the leaf's sibling to the root's child."""
    if len(leaves) == 1:
        return []
    k = _split(len(leaves))
    if index < k:
        return [*inclusion(leaves[:k], index), root(leaves[k:])]
    return [*inclusion(leaves[k:], index - k), root(leaves[:k])]


def consistency(leaves: Sequence[bytes], old: int) -> list[bytes]:
    """PROOF(old, leaves), RFC 6962 section 2.1.2, for 0 < old <= len(leaves)."""
    return _subproof(leaves, old, True)


def _subproof(leaves: Sequence[bytes], old: int, complete: bool) -> list[bytes]:
    if old == len(leaves):
        return [] if complete else [root(leaves)]
    k = _split(len(leaves))
    if old <= k:
        return [*_subproof(leaves[:k], old, complete), root(leaves[k:])]
    return [*_subproof(leaves[k:], old - k, False), root(leaves[:k])]


def _split(n: int) -> int:
    """The largest power of two below n."""
    return 1 << (n - 1).bit_length() - 1


# ── checking them ──


def inclusion_holds(leaf: bytes, index: int, size: int, hashes: Sequence[bytes], head: bytes) -> bool:
    """RFC 9162 section 2.1.3.2."""
    if not 0 <= index < size:
        return False
    first, last, node = index, size - 1, leaf
    for other in hashes:
        if last == 0:
            return False
        if first & 1 or first == last:
            node = node_hash(other, node)
            while not first & 1 and first:
                first, last = first >> 1, last >> 1
        else:
            node = node_hash(node, other)
        first, last = first >> 1, last >> 1
    return last == 0 and node == head


def consistency_holds(old: int, size: int, hashes: Sequence[bytes], old_head: bytes, head: bytes) -> bool:
    """RFC 9162 section 2.1.4.2."""
    if not 0 < old <= size:
        return False
    if old == size:
        return not hashes and old_head == head
    path = [old_head, *hashes] if old & (old - 1) == 0 else list(hashes)
    if not path:
        return False
    first, last = old - 1, size - 1
    while first & 1:
        first, last = first >> 1, last >> 1
    was = now = path[0]
    for other in path[1:]:
        if last == 0:
            return False
        if first & 1 or first == last:
            was, now = node_hash(other, was), node_hash(other, now)
            while not first & 1 and first:
                first, last = first >> 1, last >> 1
        else:
            now = node_hash(now, other)
        first, last = first >> 1, last >> 1
    return last == 0 and was == old_head and now == head


# ── files ──


class Inclusion(NamedTuple):
    """The event with this body lies at this position under the checkpoint."""

    position: int
    body: bytes
    hashes: tuple[bytes, ...]
    checkpoint: Checkpoint

    def holds(self) -> bool:
        head = self.checkpoint
        return inclusion_holds(leaf_hash(self.body), self.position, head.size, self.hashes, bytes.fromhex(head.root))

    def encode(self) -> bytes:
        lines = [INCLUSION, f"extra {_text(self.body)}", f"index {self.position}", *map(_text, self.hashes), "", ""]
        return "\n".join(lines).encode() + self.checkpoint.note.encode()


class Consistency(NamedTuple):
    """The log under the checkpoint begins with the `old` events whose root (hex) is `old_root`."""

    old: int
    old_root: str
    hashes: tuple[bytes, ...]
    checkpoint: Checkpoint

    def holds(self) -> bool:
        head = self.checkpoint
        return consistency_holds(
            self.old, head.size, self.hashes, bytes.fromhex(self.old_root), bytes.fromhex(head.root)
        )

    def encode(self) -> bytes:
        old = f"old {self.old} {_text(bytes.fromhex(self.old_root))}"
        return (
            "\n".join([CONSISTENCY, old, *map(_text, self.hashes), "", ""]).encode() + self.checkpoint.note.encode()
        )


def decode(data: bytes, path: str) -> Inclusion | Consistency:
    """The proof in a file, not yet checked. Raises Corrupt when it is none."""
    try:
        proof, _, note = data.decode().partition("\n\n")
        kind, *lines = proof.split("\n")
        checkpoint = checkpoints.parse(note.encode(), path)
        if kind == INCLUSION:
            body = _bytes(_after("extra", lines.pop(0)))
            return Inclusion(_number(_after("index", lines.pop(0))), body, _hashes(lines), checkpoint)
        if kind == CONSISTENCY:
            size, _, old_root = _after("old", lines.pop(0)).partition(" ")
            old = _hashes([old_root])[0]
            return Consistency(_number(size), old.hex(), _hashes(lines), checkpoint)
        raise ValueError(f"it begins with {kind[:40]!r}")
    except (ValueError, IndexError) as error:
        raise Corrupt(f"{path} is not a proof: {error}") from None


def _after(word: str, line: str) -> str:
    if not line.startswith(f"{word} "):
        raise ValueError(f"where {word!r} was expected stands {line[:40]!r}")
    return line[len(word) + 1 :]


def _number(text: str) -> int:
    if not re.fullmatch(r"0|[1-9][0-9]{0,15}", text):
        raise ValueError(f"{text[:40]!r} is not a position")
    return int(text)


def _hashes(lines: list[str]) -> tuple[bytes, ...]:
    found = tuple(map(_bytes, lines))
    if len(found) > 64 or any(len(one) != 32 for one in found):
        raise ValueError("its hashes are malformed")
    return found


def _bytes(text: str) -> bytes:
    return signing.strict_base64(text)


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode()

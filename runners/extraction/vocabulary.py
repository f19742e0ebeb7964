"""The names of techniques: which spellings are one column of the intervention matrix.

The vocabulary is data (vocabulary.toml, or a file of the user's in the same form) and is hand-kept. It must not
guess: a spelling that it does not hold gets the id "unknown:<slug>", the same one every time.

Words are compared one by one, so the time is linear in the text, and an alias stands on word borders.
"""

from __future__ import annotations

import hashlib
import re
import tomllib
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from ledger.errors import UsageError

DEFAULT = Path(__file__).with_name("vocabulary.toml")
_WORD = re.compile(r"[a-z0-9]+(?:\.[0-9]+)?")
_DIGITS = re.compile(r"\d+(?:\.\d+)?")
_ASCII = str.maketrans({"²": "2", "×": "x", "₂": "2", **{chr(65 + i): chr(97 + i) for i in range(26)}})


class Technique(NamedTuple):
    id: str
    kind: str
    aliases: tuple[str, ...]
    weak: bool  # a size or a general part: it names a label only where no other technique does


class Mention(NamedTuple):
    """A technique's alias in a text: `start` and `end` are its place, `words` how many words it has."""

    technique: Technique
    start: int
    end: int
    words: int


class Vocabulary(NamedTuple):
    """`first` leads from an alias's first word to the aliases that begin with it, longest first."""

    techniques: tuple[Technique, ...]
    digest: str
    first: dict[str, list[tuple[tuple[str, ...], Technique]]]

    def mentions(self, text: str) -> list[Mention]:
        """All techniques that a text names, left to right, the longest alias at each place."""
        words = [(match[0], match.start(), match.end()) for match in _WORD.finditer(text.translate(_ASCII))]
        forms = [_forms(word) for word, _, _ in words]
        found: list[Mention] = []
        at = 0
        while at < len(words):
            best = self._longest(forms, at)
            if best is None:
                at += 1
                continue
            length, technique = best
            found.append(Mention(technique, words[at][1], words[at + length - 1][2], length))
            at += length
        return found

    def _longest(self, forms: list[tuple[str, ...]], at: int) -> tuple[int, Technique] | None:
        best: tuple[int, Technique] | None = None
        for form in forms[at]:
            for alias, technique in self.first.get(form, ()):
                if len(alias) <= (best[0] if best else 0):
                    break
                if at + len(alias) <= len(forms) and all(
                    word in forms[at + offset] for offset, word in enumerate(alias)
                ):
                    best = (len(alias), technique)
                    break
        return best

    def find(self, label: str) -> Mention | None:
        """The technique that a short label names: the alias with the most letters, the first of equals."""
        return strongest(self.mentions(label))

    def unknown_label(self, label: str) -> str:
        """The id of a technique that the vocabulary does not hold."""
        slug = re.sub(r"[^a-z0-9]+", "-", label.translate(_ASCII)).strip("-")
        return f"unknown:{slug[:60].strip('-') or 'unnamed'}"


def strongest(mentions: list[Mention]) -> Mention | None:
    """The mention that a label is named by."""
    return max(mentions, key=lambda each: (not each.technique.weak, each.end - each.start, -each.start), default=None)


def _forms(word: str) -> tuple[str, ...]:
    """A word as it may stand in an alias: itself, without its plural s, with # for its numbers."""
    base = word[:-1] if len(word) > 3 and word.endswith("s") and not word.endswith("ss") else word
    numbered = _DIGITS.sub("#", base)
    return (base,) if numbered == base else (base, numbered)


@cache
def load(path: Path | None = None) -> Vocabulary:
    """Read a vocabulary; the one of this package by default. Raises UsageError for a file that is none."""
    source = path or DEFAULT
    try:
        data = source.read_bytes()
        rows = tomllib.loads(data.decode())["technique"]
        techniques = tuple(_technique(row) for row in rows)
    except OSError as error:
        raise UsageError(f"{source}: the vocabulary cannot be read: {error.strerror}") from None
    except (ValueError, KeyError, TypeError) as error:
        raise UsageError(
            f"{source}: not a vocabulary: {error}; expected [[technique]] with id, kind, aliases"
        ) from None
    first: dict[str, list[tuple[tuple[str, ...], Technique]]] = {}
    owner: dict[tuple[str, ...], str] = {}
    for technique in techniques:
        for alias in technique.aliases:
            words = tuple(
                _alias_word(word) for word in re.findall(r"[a-z0-9#]+(?:\.[0-9#]+)?", alias.translate(_ASCII))
            )
            if not words or owner.setdefault(words, technique.id) != technique.id:
                raise UsageError(f"{source}: the alias {alias!r} is empty or of two techniques")
            first.setdefault(words[0], []).append((words, technique))
    for aliases in first.values():
        aliases.sort(key=lambda each: -len(each[0]))
    return Vocabulary(techniques, hashlib.sha256(data).hexdigest(), first)


def _alias_word(word: str) -> str:
    return word[:-1] if len(word) > 3 and word.endswith("s") and not word.endswith("ss") else word


def _technique(row: Any) -> Technique:
    if not (isinstance(row["id"], str) and isinstance(row["kind"], str) and isinstance(row["aliases"], list)):
        raise TypeError("id and kind are text, aliases a list of text")
    return Technique(row["id"], row["kind"], tuple(str(alias) for alias in row["aliases"]), row.get("weak") is True)

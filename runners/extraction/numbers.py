"""Figures in words: scores, differences with sign and unit, sizes, before and after.

Signs come from the text and from nothing else. A figure whose direction the text leaves open, a range, a gap
between two evaluations of one model, or a threshold is no difference. One number pattern, no backtracking.
"""

from __future__ import annotations

import math
import re
from typing import Literal, NamedTuple

MINUS = str.maketrans({"−": "-", "–": "-", "—": "-", "‑": "-", "＋": "+"})
NUMBER = re.compile(
    r"(?<![\w.,^])([+\-−–±≈~]{0,3})\s?(\d{1,3}(?:,\d{3})+(?:\.\d+)?|\d+(?:\.\d+)?|\.\d+)([eE][+-]?\d{1,3})?(?![\d])"
)
_UNIT = re.compile(
    r"\s{0,2}(?:additional\s|val[_ ])?(mbpb|mbpp|bpb|bpp|nats?|%|ms|kb|mb|mib|gib|x\b|×|s\b|k\b)", re.I
)
_UNIT_BEFORE = re.compile(r"\bbp[bp]\s(?:by|of)\s(?:about |roughly |only )?$", re.I)
_RANGE = re.compile(r"\s{0,1}(?:-|–|—|to)\s{0,1}\.?\d")
_BETTER = re.compile(
    r"\b(improv\w*|gain\w*|better|win|wins|reduc\w*|lower\w*|free|beats?|beating|saves?|recover\w*|worth"
    r"|drop\w*|optimal"
    r"|benefit\w*|contribut\w*|gave|gives?|yield\w*|deliver\w*)\b",
    re.I,
)
_WORSE = re.compile(r"\b(worse\w*|hurts?|hurt|penalty|regress\w*|degrad\w*|behind|lost|harms?)\b", re.I)
_NO_DELTA = re.compile(
    r"\b(gaps?|penalt\w*|quant(?:ization)? (?:loss|error)|threshold|std|significance|roundtrip|round-trip|RT"
    r"|reported as"
    r"|ttt gain|train(?:ing)? loss)\b",
    re.I,
)


class Figure(NamedTuple):
    """A number in a text. `sign` is as printed, None where it has none; `unit` in lower case or empty."""

    value: float
    sign: Literal["+", "-", "±"] | None
    unit: str
    start: int
    end: int
    decimals: int
    range: bool


class Delta(NamedTuple):
    """A difference, negative where the score got lower."""

    bpb: float | None
    nats: float | None


def figures(text: str) -> list[Figure]:
    """All numbers of a text, in order."""
    found = []
    last_end = -1
    for match in NUMBER.finditer(text[:4000]):
        digits = match[2].replace(",", "")
        try:
            value = float(digits + (match[3] or ""))
        except ValueError:
            continue
        if not math.isfinite(value):
            continue
        marks = match[1].translate(MINUS)
        sign: Literal["+", "-", "±"] | None = None
        if "±" in marks or "+-" in marks:
            sign = "±"
        elif "-" in marks:
            sign = "-"
        elif "+" in marks:
            sign = "+"
        unit = _UNIT.match(text, match.end())
        start = match.start()
        second = start == last_end or (
            text[start - 1 : start] in ("-", "–", "—") and text[start - 2 : start - 1].isdigit()
        )
        ranged = _RANGE.match(text, match.end()) is not None or second
        last_end = match.end()
        decimals = len(digits.partition(".")[2])
        end = unit.end() if unit else match.end()
        name = unit[1].lower() if unit else ""
        if not name and _UNIT_BEFORE.search(text[max(0, match.start() - 24) : match.start()]):
            name = "bpb"
        name = {"bpp": "bpb", "mbpp": "mbpb", "nat": "nats"}.get(name, name)
        found.append(Figure(value, sign, name, match.start(), end, decimals, ranged))
    return found


def is_score(value: float, decimals: int = 4) -> bool:
    """Whether a number can be a score in bits per byte, as records print them."""
    return decimals >= 2 and 0.3 < value < 5.0


def score(cell: str) -> float | None:
    """The score that a table cell holds, the first number that can be one."""
    for figure in figures(cell):
        if figure.unit in ("", "bpb") and figure.sign in (None, "±") and is_score(figure.value, figure.decimals):
            return figure.value
    return None


def delta_cell(cell: str, unit: str = "") -> Delta | None:
    """The difference in a cell of a delta column. `unit` is the header's, where the cell has none.

    A printed sign counts; a number without one is a difference only with a word that says the direction.
    """
    bpb = nats = None
    for figure in figures(cell):
        kind = figure.unit or unit
        if kind not in ("", "bpb", "nats", "mbpb") or figure.range:
            continue
        if figure.sign == "±" and figure.value != 0:
            continue
        value = signed(figure, cell)
        if value is None or (kind == "" and figure.decimals < 3 and figure.value != 0):
            continue
        if kind == "nats":
            nats = value if nats is None else nats
        elif bpb is None:
            bpb = value / 1000 if kind == "mbpb" else value
    return None if bpb is None and nats is None else Delta(bpb, nats)


def signed(figure: Figure, text: str) -> float | None:
    """The figure as score after minus score before, by its sign or by the words around it; None where open."""
    if figure.value == 0:
        return 0.0
    if figure.sign == "-":
        return -figure.value
    better, worse = _distance(_BETTER, figure, text), _distance(_WORSE, figure, text)
    if better is not None and (worse is None or better < worse):
        return -figure.value
    return figure.value if worse is not None or figure.sign == "+" else None


def _distance(words: re.Pattern[str], figure: Figure, text: str) -> int | None:
    """How many characters lie between a figure and the nearest of these words; None where none is near."""
    before = [figure.start - match.end() for match in words.finditer(text, max(0, figure.start - 60), figure.start)]
    after = [match.start() - figure.end for match in words.finditer(text, figure.end, figure.end + 40)]
    return min((*before, *after), default=None)


def delta_prose(text: str) -> Delta | None:
    """The one difference that a text states with its unit, in bits per byte or nats; none where it states two."""
    bpb: list[float] = []
    nats: list[float] = []
    for sentence in sentences(text):
        found = [figure for figure in figures(sentence) if figure.unit in ("bpb", "mbpb", "nats")]
        for figure in found:
            near = sentence[max(0, figure.start - 40) : figure.end + 25]
            if figure.range or figure.sign == "±" or _NO_DELTA.search(near) or figure.value > 0.9:
                continue
            value = signed(figure, sentence)
            open_plus = figure.sign == "+" and value == figure.value and _distance(_WORSE, figure, sentence) is None
            if value is None or open_plus:  # in a sentence a plus alone may be a gain
                continue
            if figure.unit == "nats":
                nats.append(value)
            else:
                bpb.append(value / 1000 if figure.unit == "mbpb" else value)
    one, other = _only(bpb), _only(nats)
    return None if one is None and other is None else Delta(one, other)


def _only(values: list[float]) -> float | None:
    return values[0] if values and max(values) - min(values) < 1e-9 else None


_SENTENCE = re.compile(r"(?<=[.;!?])\s+(?=[A-Z\d(*`])")


def sentences(text: str) -> list[str]:
    return _SENTENCE.split(text[:8000])


_BYTES = re.compile(r"~?\s?(\d{1,3}(?:,\d{3})+|\d+(?:\.\d+)?)\s?(k|kb|kib|mb|mib|m|b|bytes)?\b", re.I)
_SCALE = {"k": 1000, "kb": 1000, "kib": 1024, "mb": 1_000_000, "m": 1_000_000, "mib": 1 << 20, "b": 1, "bytes": 1}


def byte_count(cell: str) -> int | None:
    """A size in bytes: 15,967,483; 15.90MB; ~15.8M; 15,967K. None where no number can be that of an artifact."""
    for found in _BYTES.finditer(cell[:400]):
        value = float(found[1].replace(",", "")) * _SCALE.get((found[2] or "b").lower(), 1)
        if 100_000 <= value < 1e12:
            return round(value)
    return None


class Change(NamedTuple):
    """What a text says that a value was and is."""

    before: str | None
    after: str | None


_VALUE = r"(?:`{0,2}\*{0,2})([~+-]?[\w.,/%²×^@-]{1,24})(?:`{0,2}\*{0,2})"
_FROM_TO = re.compile(r"\bfrom\s(?=[`*~]{0,3}\.?\d)" + _VALUE + r"(?:\s\([^()]{1,30}\))?\s(?:to|->|→)\s" + _VALUE)
_ARROW = re.compile(r"([~]?\d[\w.,/%×^-]{0,20}|\bnone|\boff)\s{0,2}(?:->|→|⇒)\s{0,2}([~]?\d[\w.,/%×^-]{0,20})", re.I)
_WAS = re.compile(
    r"\((?:vs\.?|from(?=\s[~`]?\d)|up from|down from|default:?|was|instead of|previously|rather than"
    r"|baseline:?)\s([^()]{1,60}?)"
    r"(?:\sbaseline|\sdefault)?\)",
    re.I,
)
_INSTEAD = re.compile(r"\b(?:instead of|rather than|up from|down from|vs default)\s([^.;,()—–:]{1,60})", re.I)
_REPLACING = re.compile(r"[^.:;,]{1,60}\breplac(?:es|ing)\s([^.;,()—–:]{1,40})$", re.I)
_EQUALS = re.compile(r"(?<![\w:])([A-Za-z_][\w.]{0,40})\s?=\s?`?([~+-]?\.?\d[\w.,]{0,15})`?")


def change(text: str) -> Change:
    """Before and after, where the text says them: from A to B, A -> B, (vs A), (default: A), instead of A, N=B."""
    text = text[:600]
    found = _FROM_TO.search(text)
    if found is not None:
        return Change(found[1].rstrip(".,"), found[2].rstrip(".,"))
    after = _EQUALS.search(text)
    value = after[2].rstrip(".,") if after else None
    arrow = _ARROW.search(text)
    if arrow is not None and text.count("->") + text.count("→") == 1:
        return Change(arrow[1].rstrip(".,"), arrow[2].rstrip(".,"))
    was = _WAS.search(text) or _INSTEAD.search(text) or _REPLACING.match(text)
    if was is not None:
        return Change(was[1].strip(" `*")[:60], value)
    return Change(None, value)

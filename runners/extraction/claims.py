"""What a text says of significance and of the choice of seeds: printed p-values, seeds that tuned, seeds left out.

Figures are kept as written, with their line; whether they are right is the projection's question. A sentence that
tells a rule (what a record must show) is no result, and a `p` of dropout or sampling is no p-value.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import msgspec

from ledger.records import ReadSeed, ReadSelection, ReadTest
from runners.extraction import seeds
from runners.extraction.markdown import Block, Document, plain

_NUMBER = r"\d{0,3}\.\d{1,12}(?:e-?\d{1,3})?"
_P = re.compile(rf"\bp(?:[- ]?values?)?\s?(=|<<|<|≤|≈|~|:)\s?({_NUMBER})", re.I)
_P_BELOW = re.compile(rf"\bp(?:[- ]?value)\s?<\s?(\d\.\d{{1,9}})\s?:\s?({_NUMBER})", re.I)
_T = re.compile(r"(?<![\w.])t(?:[- ]?stat(?:istic)?)?\s?[=:≈]\s?(-?\d{1,5}(?:\.\d{1,9})?)(?![\w.]*[A-Za-z])")
_DF = re.compile(r"\bdf\s?[=:≈]\s?(\d{1,5}(?:\.\d{1,6})?)")
_AGAINST = re.compile(r"\b(?:against|vs\.?|versus|over|beats?|beating|exceeds?)\s", re.I)
_TARGET = re.compile(r"#\d{1,6}\b|(?<![\d.\-])\d\.\d{3,9}(?![\d.])")
_PULL = re.compile(r"#\d{1,6}\b")
_ABOUT = re.compile(
    r"t-?test|t[- ]stat|welch|significan|p-?value|\bseeds?\b|seed\b|improve|beats|sota|\bdf\b|\bmean\b", re.I
)
_NOT_ABOUT = re.compile(r"dropout|top-?p|nucleus|probabilit|\brequire[sd]?\b|\bmust\b|\bneeds? to\b|\bshould\b", re.I)
_CHOSE = re.compile(r"\bgreedy|forward[- ]selection|\btuned\b|\btuning\b|\bsweeps?\b|\bswept\b|\bselected on\b", re.I)
_DENIED = re.compile(r"\b(?:not|never|without|except|excluding|excluded|fresh|held[- ]out)\b", re.I)
_SEED = re.compile(r"\bseed\s?[=:#]?\s?(\d{1,10})\b", re.I)
_END = re.compile(r"(?<=[.!?])\s")


def tests(document: Document, source: str) -> list[ReadTest]:
    """The tests that a README prints, in the order of its lines."""
    found: list[ReadTest] = []
    for section in document.sections:
        title = plain(section.title)
        found += printed(title, f"{source}:{section.line}")
        for block in section.blocks:
            if block.kind in ("paragraph", "item", "code"):
                for line, text in _sentences(block):
                    if block.kind != "code" or "p-value" in text.lower():
                        found += printed(text, f"{source}:{line}", title)
    return found


def printed(text: str, evidence: str, heading: str = "") -> list[ReadTest]:
    """The test that a sentence (or a line of the leaderboard) prints: none or one for each p, else one for its t."""
    text = text.replace("\N{MINUS SIGN}", "-")
    if not _ABOUT.search(text) or _NOT_ABOUT.search(text):
        return []
    t, df = _T.search(text), _DF.search(text)
    bare = ReadTest(t=t[1] if t else None, df=df[1] if df else None, evidence=evidence)
    if below := _P_BELOW.search(text):
        return [msgspec.structs.replace(bare, p=below[2], against=(below[1],))]
    found = []
    for p in _P.finditer(text):
        if 0 < float(p[2]) < 1:
            relation = "<" if p[1] in "<<≤" else "="
            against = _against(text, p, heading)
            found.append(msgspec.structs.replace(bare, p=p[2], relation=relation, against=against))
    if not found and t and (df or re.search(r"t-?test|t[- ]stat|welch", text, re.I)):
        found.append(msgspec.structs.replace(bare, against=_against(text, t, heading)))
    return found


def _against(text: str, figure: re.Match[str], heading: str) -> tuple[str, ...]:
    """What stands behind "vs" right after the figure, else behind the last such word before it, else a pull request
    of the sentence, else what the heading names."""
    behind = re.match(r"\W{0,3}vs\.?\s[^.;)]{0,20}?(#\d{1,6}|\d\.\d{3,9})", text[figure.end() :], re.I)
    if behind:
        return (behind[1],)
    for words in (text[: figure.start()], heading.replace("\N{MINUS SIGN}", "-")):
        for word in reversed(list(_AGAINST.finditer(words))):
            if near := _TARGET.findall(words[word.end() : word.end() + 60]):
                pulls = [each for each in near if each.startswith("#")]
                return (pulls[0],) if pulls else tuple(near)
    pull = _PULL.search(text)
    return (pull[0],) if pull else ()


def selections(document: Document, source: str, told: Sequence[ReadSeed], claim: float | None) -> list[ReadSelection]:
    """Seeds that something was chosen on, and seeds of a table that holds all the reported ones and more."""
    found: dict[tuple[str, int], ReadSelection] = {}
    for section in document.sections:
        for block in section.blocks:
            if block.kind not in ("paragraph", "item"):
                continue
            for line, text in _sentences(block):
                if _CHOSE.search(text) and not _DENIED.search(text):
                    for seed in _SEED.findall(text):
                        one = ReadSelection(kind="tuned_on", seed=int(seed), evidence=f"{source}:{line}")
                        found.setdefault((one.kind, one.seed), one)
    for row in seeds.left_out(document, source, told, claim):
        if row.seed is not None:
            one = ReadSelection(kind="left_out", seed=row.seed, val_bpb=row.val_bpb, evidence=row.evidence)
            found.setdefault((one.kind, one.seed), one)
    return [found[key] for key in sorted(found)]


def _sentences(block: Block) -> list[tuple[int, str]]:
    """(line, sentence) of a block; a sentence may run over lines, code does not."""
    if block.kind == "code":
        return [(block.first + at, line) for at, line in enumerate(block.text.split("\n"))]
    words: list[str] = []
    found: list[tuple[int, str]] = []
    begun = block.first
    for at, line in enumerate(block.text.split("\n")):
        for number, part in enumerate(_END.split(plain(line))):
            if number:
                found.append((begun, " ".join(words)))
                words = []
            if not words:
                begun = block.first + at
            words.append(part)
    return [*found, (begun, " ".join(words))]

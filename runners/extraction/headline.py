"""The score that a record claims: a bold line near the top, the title, a line of metrics, or the mean of its seeds.

A README tells many scores; those before quantization, of a standard evaluation beside a sliding one, or before
test-time training are not the claim. What the README says in its own headline goes before submission.json.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from runners.extraction import numbers, roles
from runners.extraction.markdown import Document, plain
from runners.extraction.sources import Source

TOP = 12  # blocks that are looked at for a headline


class Score(NamedTuple):
    value: float
    decimals: int
    evidence: str


_NAMED = re.compile(
    r"(?:\bmean\s|\bfinal\s)?\b(?:val[_ ](?:var[_ ])?bp[bp]|bpb)(?:\s\([^()]{0,40}\))?\s{0,2}(?:[:=≈~]|of|is"
    r"|at)\s{0,2}[~≈]?(\d\.\d{2,9})(?!\d)",
    re.I,
)
_AFTER = re.compile(r"(?<![\d.])(\d\.\d{3,9})\s?(?:val[_ ])?bp[bp]\b", re.I)
_ARROW = re.compile(r"^\W{0,8}(?:\([^()]{0,60}\))?\W{0,6}(?:->|→)\W{0,6}(\d\.\d{3,9})")
_EXACT = re.compile(
    r"(?:exact|post-?quant|post-quantization|final|sliding|submitt)\w*[^|\n]{0,90}?val_bpb\s?[:=]\s?(\d\.\d{3,9})",
    re.I,
)
_BEST = re.compile(r"^\W*(?:final|best|score|result|headline)[^|\n\d]{0,40}?:\W{0,6}(\d\.\d{3,9})(?!\d)", re.I)
_MEAN = re.compile(r"^\W*(?:\d-seed )?mean\b.{0,12}val_bpb[^\d|]{0,24}(\d\.\d{3,9})", re.I)
_NOT_CLAIM = re.compile(r"pre-?quant|baseline|previous|sota|pr #\d|merged|beat|vs\b", re.I)


_NO_NUMBER = re.compile(r"\bval[_ ]bpb\W{1,6}([+-]?(?:nan|inf))\b", re.I)


def no_number(readme: Source) -> tuple[str, str]:
    """A claim that is no number, and its place."""
    found = _NO_NUMBER.search(readme.text[:2000])  # further down a try that diverged is told
    return (found[1], f"{readme.path}:{readme.text.count(chr(10), 0, found.start()) + 1}") if found else ("", "")


def read(document: Document, found: list[roles.Role], source: str) -> Score | None:
    """The claim in the README's title, its first lines, or its section of results."""
    line = _first_lines(document, source)
    title = _title(document, source)
    if line is not None and title is not None and abs(line.value - title.value) < 6e-4:
        return line if line.decimals >= title.decimals else title
    return line or title or _mean(document, found, source)


def _mean(document: Document, found: list[roles.Role], source: str) -> Score | None:
    """A bold line of the results that gives the mean of the seeds."""
    for index, section in enumerate(document.sections):
        if found[index] not in ("results", "lead", "other"):
            continue
        for block in section.blocks:
            if block.kind == "paragraph":
                for offset, raw in enumerate(block.text.split("\n")):
                    match = _MEAN.search(plain(raw)) if raw.startswith("**") else None
                    if match is not None:
                        return _score(match, f"{source}:{block.first + offset}")
    return None


def _title(document: Document, source: str) -> Score | None:
    title = roles.title(document)
    if title is None:
        return None
    match = (
        _NAMED.search(title[0])
        or _AFTER.search(title[0])
        or re.search(r"\bval[_ ]bpb\s(\d\.\d{3,9})", title[0], re.I)
    )
    return _score(match, f"{source}:{title[1]}") if match is not None else None


def _first_lines(document: Document, source: str) -> Score | None:
    seen = 0
    for section in document.sections[:6]:
        words = roles.heading(section) if section.title else ""
        match = _NAMED.search(words)
        if match is not None and section.line > 1 and section.level < 7:
            return _score(match, f"{source}:{section.line}")
        for block in section.blocks:
            seen += 1
            if seen > TOP:
                return None
            if block.kind not in ("paragraph", "item"):
                continue
            for offset, raw in enumerate(block.text.split("\n")):
                text = plain(raw)
                match = _NAMED.search(text) or _BEST.search(text)
                bold = "**" in raw and match is not None
                if (
                    match is None
                    or (not bold and match.start() > 12)
                    or re.search(r"pre-?quant", text[: match.start()], re.I)
                ):
                    continue
                arrow = _ARROW.match(text[match.end() :])
                if arrow is not None:
                    return _score(arrow, f"{source}:{block.first + offset}")
                return _score(match, f"{source}:{block.first + offset}")
    return None


def metrics(document: Document, found: list[roles.Role], source: str) -> Score | None:
    """A line or row of metrics that gives the final score, where no headline does: the last one counts."""
    best: Score | None = None
    for section in document.sections:
        for block in section.blocks:
            if block.kind in ("item", "paragraph"):
                text = plain(block.text)
                for match in _EXACT.finditer(text[:2000]):
                    if not _NOT_CLAIM.search(match[0]):
                        best = _score(match, f"{source}:{block.first}")
            elif block.table is not None and roles.is_metrics(block.table) and len(block.table.header) == 2:
                for row in block.table.rows:
                    name = plain(row.cells[0])
                    value = numbers.score(plain(row.cells[1]))
                    if value is not None and roles.is_bpb(name) and not _NOT_CLAIM.search(name):
                        bold = "**" in row.cells[1] or "**" in row.cells[0]
                        if bold or best is None:
                            best = Score(value, 4, f"{source}:{row.line}")
    return best or _first_table(document, found, source)


def _first_table(document: Document, found: list[roles.Role], source: str) -> Score | None:
    """The first row of a table of best results, in its last column of scores that has one."""
    for index, section in enumerate(document.sections):
        if found[index] not in ("lead", "results"):
            continue
        for block in section.blocks:
            if block.table is None or not block.table.rows or roles.base_and_this(block.table) is not None:
                continue
            columns = [i for i, cell in enumerate(block.table.header) if roles.is_bpb(cell)]
            row = block.table.rows[0]
            for i in reversed(columns):
                value = numbers.score(plain(row.cells[i]))
                if value is not None and not _NOT_CLAIM.search(plain(row.cells[0])):
                    return Score(value, 4, f"{source}:{row.line}")
    return None


def _score(match: re.Match[str], evidence: str) -> Score | None:
    value = float(match[1])
    if not numbers.is_score(value, len(match[1]) - 2):
        return None
    return Score(value, len(match[1].partition(".")[2]), evidence)

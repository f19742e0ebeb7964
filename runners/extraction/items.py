"""The items of a list and bold paragraphs as labels: where a name ends, what is nested, what is only a procedure."""

from __future__ import annotations

import re

from runners.extraction import numbers
from runners.extraction.markdown import Block, bold_head, is_bold, plain

_STEP_VERB = re.compile(
    r"^(run|after|then|gather|resume|split|score|for each|find|reset|collect|train|compute|repeat|load|save"
    r"|clone|snap|forward"
    r"|restore|apply|first|next|finally|phase \d|step \d|last|chunk|buckets?|compress(es)?|falls? back|for the"
    r"|set|val tokens"
    r"|provide|confirm|document|each|every|only|we |the |it |at |in |both|if )\b",
    re.I,
)


def sentence(text: str) -> str:
    return numbers.sentences(text)[0][:200]


def is_run_in(head: tuple[str, str], text: str) -> bool:
    """A bold beginning that names what the paragraph is about, rather than a sentence in bold."""
    words = head[0]
    if len(words) > 110 or (" + " in text and text.rstrip().endswith("**") and text.count(" + ") >= 3):
        return False
    ends = words.rstrip().endswith((":", ".")) or head[1].startswith((":", "—", "–", "-")) or not head[1]
    return ends and not re.search(r"\bval[_ ]?bpb|\bseeds?\b|\d\.\d{3}", words, re.I)


def label_of(text: str) -> tuple[str, str]:
    """The label of an item, and what is said after it."""
    head = bold_head(text)
    if head is not None:
        words, rest = head
        if words.endswith((":", ".")) or not rest or rest[0] in ":—–-,.;":
            return words.strip(" :."), plain(rest).lstrip(" :—–-,.;")
        told = clause(rest)
        return f"{words} {told}", plain(rest)[len(told) :]
    flat = plain(text)
    told = clause(flat)
    return told, flat[len(told) :]


_CLAUSE_END = re.compile(
    r"[()\[\]]|[.;:!?](?:\s|$)|\s(?:—|–|--|-)\s|,\s(?:as|since|because|which|so|giving|enabled|but|and instead"
    r"|for the same)\b"
)


def clause(text: str) -> str:
    """The first clause of a text: up to a full stop, colon, semicolon or dash that stands in no bracket."""
    text, depth = plain(text), 0
    for found in _CLAUSE_END.finditer(text):
        if found[0] in "([":
            depth += 1
        elif found[0] in ")]":
            depth = max(0, depth - 1)
        elif depth == 0:
            return text[: found.start()]
    return text


def grouped(blocks: tuple[Block, ...]) -> dict[int, tuple[Block, list[Block]]]:
    """The outermost items by their place, each with the items nested in it."""
    top = min((block.level for block in blocks if block.kind == "item"), default=0)
    groups: dict[int, tuple[Block, list[Block]]] = {}
    last = None
    for at, block in enumerate(blocks):
        if block.kind == "item" and block.level <= top:
            last = at
            groups[at] = (block, [])
        elif block.kind == "item" and last is not None:
            groups[last][1].append(block)
    return groups


def is_procedure(items: list[Block]) -> bool:
    """Numbered steps of one procedure rather than a list of changes."""
    if len(items) < 3 or any(block.number is None or is_bold(block.text) for block in items):
        return False
    verbs = sum(_STEP_VERB.match(plain(block.text)) is not None for block in items)
    return verbs * 2 >= len(items)


def is_step(block: Block, text: str) -> bool:
    """A numbered item that tells what is done then, or what a run took: no part of a stack."""
    return (block.number is not None and not is_bold(block.text) and _STEP_VERB.match(text) is not None) or (
        re.match(r"~?\d[\d,]* steps\b", text) is not None
    )


def stack(text: str) -> list[str]:
    """The parts of a line of a stack: "SmearGate + BigramHash (2048), tied embeddings"."""
    pieces, start, depth = [], 0, 0
    for found in re.finditer(r"[()\[\]]|,\s|\s\+\s|;\s|\s/\s", text[:2000]):
        if found[0] in "([":
            depth += 1
        elif found[0] in ")]":
            depth = max(0, depth - 1)
        elif depth == 0:
            pieces.append(text[start : found.start()])
            start = found.end()
    return [piece.strip() for piece in [*pieces, text[start:]] if piece.strip()]

"""Markdown as records use it, line by line: headings, paragraphs, list items, tables, fences, each with its lines.

It is no Markdown renderer and never fails: what it does not understand is a paragraph. Ragged rows are cut or
filled to the header; comments in fences are not headings; every pass over a line is linear in its length.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterator
from typing import Literal, NamedTuple

LINE_LIMIT = 4000  # characters of one line that are looked at
CELLS = 40  # of one table row

_LINK = re.compile(r"!?\[([^\[\]]{0,400})\]\([^()\s]{0,400}\)")
_TAG = re.compile(r"</?[a-zA-Z][^<>]{0,200}>")
_BREAK = re.compile(r"<br\s{0,3}/?>", re.I)
_ESCAPE = re.compile(r"\\([\\`*_{}\[\]()#+.!~|<>-])")
_EMPHASIS = re.compile(r"(?<![\w*])\*(?=[^\s*])|(?<=[^\s*])\*(?![\w*])")
_HEADING = re.compile(r" {0,3}(#{1,6})(?:\s+(.*))?$")
_ITEM = re.compile(r"(\s*)(?:([-*+•])|(\d{1,3})[.)])\s+(\S.*)$")
_BOLD_HEAD = re.compile(r"(?:\*\*|__)(?=\S)([^*]{1,300}?(?:\*(?!\*)[^*]{0,100}){0,3})(?:\*\*|__)")


class Block(NamedTuple):
    """`text` is raw Markdown; `first` and `last` are lines from 1. An item has its `indent` and `number`."""

    kind: Literal["heading", "paragraph", "item", "table", "code"]
    text: str
    first: int
    last: int
    level: int = 0  # of a heading; of an item its indentation
    number: int | None = None
    table: Table | None = None


class Row(NamedTuple):
    cells: tuple[str, ...]  # raw Markdown, as many as the header has
    line: int


class Table(NamedTuple):
    header: tuple[str, ...]
    rows: tuple[Row, ...]
    line: int


class Section(NamedTuple):
    """A heading with the blocks up to the next heading of any level. The first may have no heading."""

    title: str
    level: int
    line: int
    parents: tuple[int, ...]  # indices of the sections that hold it, outermost first
    blocks: tuple[Block, ...]


class Document(NamedTuple):
    sections: tuple[Section, ...]
    lines: int


def plain(text: str) -> str:
    """Inline Markdown without its mark-up: emphasis, code ticks, links, tags, entities, backslashes."""
    text = text[:LINE_LIMIT]
    if "<" in text:
        text = _TAG.sub("", _BREAK.sub(" ", text))
    if "\\" in text:
        text = _ESCAPE.sub(r"\1", text)
    if "](" in text:
        text = _LINK.sub(r"\1", _LINK.sub(r"\1", text))
    text = text.replace("**", "").replace("__", "").replace("`", "")
    if "*" in text:
        text = _EMPHASIS.sub("", text)
    if "&" in text:
        text = html.unescape(text)
    return " ".join(text.split())


def bold_head(text: str) -> tuple[str, str] | None:
    """The bold (or code) words that a text begins with, and what follows them; None where it begins plainly."""
    text = text.lstrip()
    found = _BOLD_HEAD.match(text)
    if found is not None:
        return found[1].strip(), text[found.end() :].strip()
    return None


def is_bold(cell: str) -> bool:
    return "**" in cell or "__" in cell


def parse(text: str) -> Document:
    """The sections of a document, in order."""
    sections: list[Section] = []
    title, level, line = "", 0, 1
    parents: tuple[int, ...] = ()
    blocks: list[Block] = []
    stack: list[tuple[int, int]] = []  # (level, index) of the open sections
    count = 0
    for block in _headed(list(_blocks(text))):
        count = block.last
        if block.kind != "heading":
            blocks.append(block)
            continue
        sections.append(Section(title, level, line, parents, tuple(blocks)))
        while stack and stack[-1][0] >= block.level:
            stack.pop()
        title, level, line, parents, blocks = block.text, block.level, block.first, tuple(i for _, i in stack), []
        stack.append((block.level, len(sections)))
    sections.append(Section(title, level, line, parents, tuple(blocks)))
    if not sections[0].blocks and not sections[0].title and len(sections) > 1:
        sections = [each._replace(parents=tuple(i - 1 for i in each.parents)) for each in sections[1:]]
    return Document(tuple(sections), count)


def _headed(blocks: list[Block]) -> Iterator[Block]:
    """A short line that ends in a colon and stands before a list, table or code is a heading of the lowest level."""
    for at, block in enumerate(blocks):
        following = blocks[at + 1] if at + 1 < len(blocks) else None
        if (
            block.kind == "paragraph"
            and following is not None
            and following.kind in ("item", "code", "table")
            and len(block.text) <= 320
            and plain(block.text).endswith(":")
        ):
            words = plain(block.text).rstrip(":")
            if len(words) > 60 or ". " in words:
                yield block
            yield block._replace(kind="heading", text=words[words.rfind(". ") + 1 :].strip(), level=7)
        else:
            yield block


def _blocks(text: str) -> Iterator[Block]:
    lines = [line[:LINE_LIMIT] for line in text.split("\n")]
    at = 0
    while at < len(lines):
        line = _unquote(lines[at])
        stripped = line.strip()
        if not stripped:
            at += 1
        elif stripped.startswith(("```", "~~~")):
            last = _fence_end(lines, at)
            yield Block("code", "\n".join(lines[at + 1 : last]), at + 1, min(last, len(lines) - 1) + 1)
            at = last + 1
        elif heading := _HEADING.match(line):
            yield Block("heading", (heading[2] or "").strip().rstrip("#").strip(), at + 1, at + 1, len(heading[1]))
            at += 1
        elif "|" in line and at + 1 < len(lines) and _is_separator(_unquote(lines[at + 1])):
            end = at + 2
            while end < len(lines) and "|" in lines[end] and lines[end].strip():
                end += 1
            table = _table(lines, at, end)
            yield Block("table", "", at + 1, end, 0, None, table)
            at = end
        elif item := _ITEM.match(line):
            end = at + 1
            while end < len(lines) and _continues(_unquote(lines[end])):
                end += 1
            more = " ".join(_unquote(each).strip() for each in lines[at + 1 : end])
            indent = len(item[1].expandtabs(4))
            number = int(item[3]) if item[3] else None
            yield Block("item", f"{item[4]} {more}".strip(), at + 1, end, indent, number)
            at = end
        elif line.startswith(("    ", "\t")):
            end = at + 1
            while end < len(lines) and lines[end].startswith(("    ", "\t")):
                end += 1
            yield Block("code", "\n".join(lines[at:end]), at + 1, end)
            at = end
        else:
            end = at + 1
            while end < len(lines) and _continues(_unquote(lines[end])) and not _starts_table(lines, end):
                end += 1
            yield Block("paragraph", "\n".join(_unquote(each).strip() for each in lines[at:end]), at + 1, end)
            at = end


def _unquote(line: str) -> str:
    stripped = line.lstrip()
    return stripped.lstrip("> ") if stripped.startswith(">") else line


def _continues(line: str) -> bool:
    """Whether a line goes on with the paragraph or item above it."""
    stripped = line.strip()
    return bool(stripped) and not (
        stripped.startswith(("#", "```", "~~~", "---", "***", "|")) or _ITEM.match(line) is not None
    )


def _starts_table(lines: list[str], at: int) -> bool:
    return "|" in lines[at] and at + 1 < len(lines) and _is_separator(lines[at + 1])


def _fence_end(lines: list[str], at: int) -> int:
    mark = lines[at].strip()[:3]
    opening = lines[at].strip()
    if len(opening) > 6 and opening.endswith(mark):  # all of it on one line
        return at
    for end in range(at + 1, len(lines)):
        if lines[end].strip().startswith(mark):
            return end
    return len(lines)


def _is_separator(line: str) -> bool:
    stripped = line.strip()
    return "-" in stripped and "|" in stripped and not set(stripped) - set("|-: \t")


def _table(lines: list[str], at: int, end: int) -> Table:
    header = _cells(_unquote(lines[at]))
    rows = []
    for number in range(at + 2, end):
        if _is_separator(lines[number]):
            continue
        cells = _cells(_unquote(lines[number]))[: len(header)]
        rows.append(Row((*cells, *[""] * (len(header) - len(cells))), number + 1))
    return Table(tuple(header), tuple(rows), at + 1)


def _cells(line: str) -> list[str]:
    """Cells between bars; a bar after a backslash or in code is text."""
    cells: list[str] = []
    cell: list[str] = []
    code = escaped = False
    ticks = line.count("`") % 2 == 0
    for character in line.strip():
        if character == "`" and ticks:
            code = not code
        if character == "|" and not code and not escaped:
            cells.append("".join(cell).strip())
            cell = []
        else:
            cell.append(character)
        escaped = character == "\\" and not escaped
    cells.append("".join(cell).strip())
    if cells and not cells[0]:
        cells = cells[1:]
    if len(cells) > 1 and not cells[-1] and line.rstrip().endswith("|"):
        cells = cells[:-1]
    return cells[:CELLS]

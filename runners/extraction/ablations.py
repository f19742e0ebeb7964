"""Ablation, sweep and negative-result rows: what was tried, its score, its difference and what that is against.

Which tables are ablations is told by their header and place: a score or a difference in bits per byte a row, and no
seeds, no metrics of one run, no training curve, no list of other people's records, no base | this.
"""

from __future__ import annotations

import re
from typing import Literal, NamedTuple

from ledger.records import ReadAblation
from runners.extraction import numbers, roles
from runners.extraction.markdown import Block, Document, Row, Table, bold_head, is_bold, plain
from runners.extraction.tables import change_column

_CURVE = re.compile(r"\bcurves?\b|learning curve|training curve|over training", re.I)
_ENTRY = re.compile(r"(?<![\w-])(?:PR\s?#?|#)\d{2,6}\b")
_OTHERS = re.compile(
    r"^(pr|model|track|method|submission|entry|author|metric|approach|user|virtual layer|file|phase|item)s?$",
    re.I,
)
_CODE = re.compile(r"^(?:[A-Z]{0,3}\d{1,4}|#|id|exp|run|no\.?)$", re.I)
_TROUBLE = re.compile(r"^\W*(?:—|–|-|--|baseline|n/?a|ref(?:erence)?)?\W*$", re.I)

Meaning = Literal["incremental", "cumulative", "versus_base"]


class Linked(NamedTuple):
    """An ablation row with what is needed to give its difference to a technique."""

    row: ReadAblation
    label: str
    chosen: bool  # bold, or marked as the best or kept
    order: int


def read(document: Document, found: list[roles.Role], source: str) -> list[Linked]:
    """All rows, in the order of the text."""
    linked: list[Linked] = []
    for index, section in enumerate(document.sections):
        role = found[index]
        heading = plain(section.title) or None
        if role == "future":
            continue
        for block in section.blocks:
            if block.table is not None and is_ablation(block.table, _place(document, found, index), heading or ""):
                linked += _rows(block.table, source, heading, len(linked), role == "negative")
            elif block.kind in ("item", "paragraph") and role not in ("negative", "ignore"):
                linked += _sentence(block, heading, source, len(linked))
        if role == "negative":
            linked += _negative(section.blocks, heading, source, len(linked), document, index)
    return _once(linked)


def _place(document: Document, found: list[roles.Role], index: int) -> roles.Role:
    """The role of a section; "Results" below a heading of its own are results of that, not of the record."""
    section = document.sections[index]
    if found[index] == "results" and section.level >= 3:
        above = [found[parent] for parent in section.parents if document.sections[parent].level > 1]
        if above and above[-1] not in ("results", "lead", "ignore"):
            return "other"
    return found[index]


_COMPARES = re.compile(r"\b(over|vs\.?|than|compared)\b", re.I)
_WHOLE = re.compile(r"\bPR\b|#\d|\bsota\b|leaderboard|baseline|previous|record|improvement over|total|mean", re.I)


def _sentence(block: Block, heading: str | None, source: str, order: int) -> list[Linked]:
    """A bold sentence that compares two variants with a figure, or an item "No X" that says by how much X hurts."""
    head = bold_head(block.text)
    if head is None:
        return []
    label, rest = plain(head[0]).strip(" :."), plain(head[1])
    where = f"{source}:{block.first}"
    if re.match(r"no\s", label, re.I) and numbers.delta_prose(rest) is not None:
        return [_told(label, rest, heading, where, order)]
    delta = numbers.delta_prose(label)
    if delta is None or delta.bpb is None or _COMPARES.search(label) is None or _WHOLE.search(label) is not None:
        return []
    score = numbers.score(rest[:40])
    row = ReadAblation(
        change=label[:200], val_bpb=score, delta_bpb=delta.bpb, meaning="versus_base", heading=heading, evidence=where
    )
    return [Linked(row, label, False, order)]


def _once(linked: list[Linked]) -> list[Linked]:
    """Without the sentences that repeat the figure of a table's row."""
    figures = {
        round(each.row.delta_bpb, 6)
        for each in linked
        if each.row.val_bpb is not None and each.row.delta_bpb is not None
    }
    return [
        each
        for each in linked
        if each.row.val_bpb is not None or each.row.delta_bpb is None or round(each.row.delta_bpb, 6) not in figures
        or each.row.delta_bpb == 0
    ]  # fmt: skip


def is_ablation(table: Table, role: roles.Role, heading: str) -> bool:
    scores = [i for i, cell in enumerate(table.header) if roles.is_bpb(cell)]
    deltas = [i for i, cell in enumerate(table.header) if roles.is_delta(cell) and roles.delta_unit(cell) != "nats"]
    if roles.seed_column(table) is not None or roles.base_and_this(table) is not None or len(table.rows) < 2:
        return False
    if role in ("lead", "ignore") or _CURVE.search(heading) or (roles.is_components(table) and not scores):
        return False
    if not scores and not (deltas and role in ("ablation", "negative")):
        return False
    first = plain(table.header[0]).strip(" *").lower()
    if _OTHERS.match(first) or (roles.is_metrics(table) and role != "ablation"):
        return False
    entries = sum(_ENTRY.search(plain(row.cells[0])) is not None for row in table.rows)
    if entries * 2 > len(table.rows):
        return False
    if first in ("step", "steps") and len(table.header) > 1:
        steps = [figure.value for row in table.rows for figure in numbers.figures(plain(row.cells[0]))[:1]]
        if not steps or max(steps) > 5000 or len(scores) > 1:
            return False
    return (
        role != "results"
        or bool(deltas)
        or re.search(r"ablation|sweep|config|comparison|variant", f"{heading} {first}", re.I) is not None
    )


def _rows(table: Table, source: str, heading: str | None, order: int, negative: bool) -> list[Linked]:
    score = _score_columns(table)
    delta = next(
        (i for i, cell in enumerate(table.header) if i and roles.is_delta(cell) and roles.delta_unit(cell) != "nats"),
        None,
    )
    name = _name_column(table, score, delta)
    status = next(
        (
            i
            for i, cell in enumerate(table.header)
            if re.fullmatch(r"status|verdict|kept\??|decision|takeaway", plain(cell).lower())
        ),
        None,
    )
    told: list[tuple[Row, str, float | None, float | None]] = []
    for row in table.rows:
        label = _change(table, row, name)
        if not label or re.match(r"\W*(total|sum|mean|std|improvement|gain|delta|net)\b", label, re.I):
            continue
        value = next((found for i in score if (found := numbers.score(plain(row.cells[i]))) is not None), None)
        difference = None
        if delta is not None and not _TROUBLE.match(plain(row.cells[delta])):
            given = numbers.delta_cell(plain(row.cells[delta]), roles.delta_unit(table.header[delta]) or "bpb")
            difference = given.bpb if given else None
        told.append((row, label, value, difference))
    meaning = _meaning(table, delta, [(value, difference) for _, _, value, difference in told])
    linked: list[Linked] = []
    for row, label, value, difference in told:
        words = plain(row.cells[status]) if status is not None else ""
        bold = any(is_bold(cell) for cell in row.cells)
        worse = re.search(r"discard|reject|revert|crash|fail|hurt|worse", words, re.I) is not None
        linked.append(
            Linked(
                ReadAblation(
                    change=label[:200], val_bpb=value, delta_bpb=difference, heading=heading,
                    meaning=meaning if difference is not None else None, negative=negative or worse,
                    evidence=f"{source}:{row.line}",
                ),
                label,
                bold or re.search(r"\bbest\b|\bkeep\b|kept", words, re.I) is not None,
                order + len(linked),
            )
        )  # fmt: skip
    return linked


def _score_columns(table: Table) -> list[int]:
    """The columns of scores, the one that counts first: named val_bpb, else bold, else the last evaluation."""
    columns = [i for i, cell in enumerate(table.header) if roles.is_bpb(cell)]
    if not columns:
        return []

    def rank(i: int) -> tuple[bool, bool, bool, int]:
        name = plain(table.header[i]).lower().strip(" *")
        exact = re.fullmatch(r"(final |best )?(val[_ ])?bpb", name) is not None
        bold = sum(is_bold(row.cells[i]) for row in table.rows) > 0
        final = re.search(r"post[- ]?ttt|sliding|final", name) is not None and "pre" not in name
        return exact, final, bold, i

    return sorted(columns, key=rank, reverse=True)


def _name_column(table: Table, score: list[int], delta: int | None) -> int:
    column = change_column(table)
    if column == 0 and len(table.header) > 2:
        cells = [plain(row.cells[0]).strip(" *") for row in table.rows]
        if all(_CODE.match(cell) for cell in cells) and _CODE.match(plain(table.header[0]).strip()):
            column = next((i for i in range(1, len(table.header)) if i not in score and i != delta), 0)
    return column


def _change(table: Table, row: Row, name: int) -> str:
    """What a row changed: its words, or the column's name with the value where the cell is only a value."""
    cell = plain(row.cells[name]).strip(" *")
    header = plain(table.header[name]).strip(" *")
    if re.match(r"^[~<>=]?\.?\d", cell) and not re.search(r"[A-Za-z]{4}", cell.split("(")[0]):
        second = ""
        if (
            name + 1 < len(table.header)
            and not roles.is_bpb(table.header[name + 1])
            and not roles.is_delta(table.header[name + 1])
        ):
            other = plain(row.cells[name + 1]).strip(" *")
            if other and not re.match(r"^[~]?[\d.,]+\s?(ms|s|mb|k|m)?$", other, re.I):
                second = f", {plain(table.header[name + 1])}={other}"
        return f"{header}={cell}{second}" if header else cell
    if re.fullmatch(r"(on|off|yes|no|none|true|false|--?|—)", cell, re.I) and header:
        return f"{header}={cell}"
    return cell


def _meaning(table: Table, delta: int | None, told: list[tuple[float | None, float | None]]) -> Meaning | None:
    """What the differences are against, where the scores beside them show it."""
    if delta is None:
        return None
    header = plain(table.header[delta]).lower()
    values = [value for value, _ in told]
    base = next((value for value in values if value is not None), None)
    steps = totals = checked = 0
    for at in range(1, len(told)):
        value, difference = told[at]
        before = values[at - 1]
        if value is None or difference is None or before is None or base is None:
            continue
        checked += 1
        steps += abs((value - before) - difference) < 4e-4
        totals += abs((value - base) - difference) < 4e-4
    if checked >= 2 and totals > steps:
        added = sum(plain(row.cells[change_column(table)]).startswith("+") for row in table.rows)
        return "cumulative" if added >= 2 else "versus_base"
    if checked >= 1 and steps >= totals and steps * 2 > checked:
        return "incremental"
    return "versus_base" if re.search(r"\bvs\b|baseline|base\b|default", header) else None


def _negative(
    blocks: tuple[Block, ...], heading: str | None, source: str, order: int, document: Document, index: int
) -> list[Linked]:
    """What did not help: an item or a bold name each, or the heading itself."""
    found: list[Linked] = []
    section = document.sections[index]
    items = [block for block in blocks if block.kind in ("item", "paragraph") and bold_head(block.text) is not None]
    items = items or [block for block in blocks if block.kind == "item" and block.level == 0]
    own = roles.role(roles.heading(section)) if section.title else "other"
    if own != "negative" and section.title:
        text = " ".join(plain(block.text) for block in blocks if block.kind in ("paragraph", "item"))
        return [_told(roles.heading(section), text, heading, f"{source}:{section.line}", order)]
    for block in items:
        head = bold_head(block.text)
        label = plain(head[0]).strip(" :.") if head is not None else re.split(r"[.;:—]\s", plain(block.text))[0]
        found.append(_told(label, plain(block.text), heading, f"{source}:{block.first}", order + len(found)))
    return found


def _told(label: str, text: str, heading: str | None, evidence: str, order: int) -> Linked:
    """A negative result with its first figure that has a sign or a word for its direction."""
    delta = score = None
    for sentence in numbers.sentences(text):
        for figure in numbers.figures(sentence):
            near = sentence[max(0, figure.start - 40) : figure.end + 12]
            if re.search(r"reported as|ms/step|standard deviation", near, re.I) or figure.range:
                continue
            if (
                figure.sign in ("+", "-")
                and figure.decimals >= 2
                and figure.unit in ("", "bpb")
                and figure.value < 0.9
            ):
                delta = delta if delta is not None else (figure.value if figure.sign == "+" else -figure.value)
            elif figure.unit == "bpb" and figure.value < 0.3 and figure.sign is None:
                value = numbers.signed(figure, sentence)
                delta = delta if delta is not None else value
            elif (
                figure.sign is None
                and score is None
                and 0.8 < figure.value < 5
                and figure.decimals >= 2
                and figure.unit in ("", "bpb")
            ):
                score = figure.value
        if delta is not None:
            break
    row = ReadAblation(
        change=label[:200], val_bpb=score if delta is not None or score is not None else None, delta_bpb=delta,
        meaning="versus_base" if delta is not None else None, negative=True, heading=heading, evidence=evidence,
    )  # fmt: skip
    return Linked(row, label, False, order)

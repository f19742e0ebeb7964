"""The seeds that a README lists with their scores: tables of seeds, lines SEED=…, lists without numbers.

Of several columns in bits per byte the one is taken whose mean is the claim, else the bold one, else the last that
says the final evaluation. A second table of the same seeds adds columns; it adds no seeds.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

from ledger.records import ReadSeed
from runners.extraction import numbers, roles
from runners.extraction.markdown import Document, Table, is_bold, plain

_SEED_LINE = re.compile(
    r"\bseed\s?[=:#]?\s?(\d{1,10})\b[^\d\n]{0,60}?(?:val_bpb|bpb)?\s?[=:]?\s?\(?(\d\.\d{3,9})(?!\d)", re.I
)
_LIST = re.compile(r"^\s{0,4}(?:val_)?bpb\s{0,2}[:=]\s{0,2}\[([\d., \t]{5,400})\]", re.I | re.M)
_HEADLINE_SEED = re.compile(r"\bseeds?\s?[=:]?\s?(\d{1,10})\b", re.I)
_BEFORE = re.compile(
    r"pre[- _]?(?:quant|ttt|ema)|post[- _]?ema|quantized|post[- _]?quant|\brt\b|round-?trip|standard", re.I
)
_FINAL = re.compile(r"post[- _]?ttt|\bttt\b(?! gain| time)|sliding|slide|final", re.I)


class Found(NamedTuple):
    seeds: list[ReadSeed]
    mean: float | None
    mean_evidence: str | None


def read(document: Document, found: list[roles.Role], source: str, claim: float | None) -> Found:
    """The seeds of the first table that has them; lines and lists only where there is no table."""
    tables: list[tuple[int, Table, list[ReadSeed], float | None, str | None]] = []
    for index, section in enumerate(document.sections):
        if found[index] in ("negative", "future"):
            continue
        for block in section.blocks:
            if block.table is None:
                continue
            told = _of_table(block.table, source, claim) or _transposed(block.table, source, claim)
            if told is not None and told[0]:
                tables.append((index, block.table, *told))
    if tables:
        tables.sort(key=lambda each: not _fits(each[3], claim))  # the table of the claim first; the order stays
        _, _, seeds, mean, where = tables[0]
        return Found(seeds, mean, where)
    lines = _of_lines(document, found, source)
    if lines:
        return Found(lines, None, None)
    return Found(_of_lists(document, source), None, None)


def left_out(document: Document, source: str, told: Sequence[ReadSeed], claim: float | None) -> list[ReadSeed]:
    """Further seeds of a table that lists every reported seed with its score: they ran, and are not reported."""
    reported = {(each.seed, each.val_bpb) for each in told}
    found: list[ReadSeed] = []
    for section in document.sections:
        for block in section.blocks:
            rows = _of_table(block.table, source, claim) if block.table is not None else None
            if rows is not None and reported and reported < {(each.seed, each.val_bpb) for each in rows[0]}:
                found += [each for each in rows[0] if (each.seed, each.val_bpb) not in reported]
    return found


def _fits(mean: float | None, claim: float | None) -> bool:
    return mean is not None and claim is not None and abs(mean - claim) < 6e-4


def _of_table(
    table: Table, source: str, claim: float | None
) -> tuple[list[ReadSeed], float | None, str | None] | None:
    column = roles.seed_column(table)
    if column is None:
        return None
    rows = [(row, _seed_number(row.cells[column])) for row in table.rows]
    scores = _score_column(table, [row.cells for row, seed in rows if seed is not None], claim)
    if scores is None:
        return None
    names = [plain(cell).lower() for cell in table.header]
    size = next(
        (
            i
            for i, name in enumerate(names)
            if re.search(r"artifact|submission|^total\b|size|bytes", name) and "code" not in name
        ),
        None,
    )
    steps = next((i for i, name in enumerate(names) if name.strip() == "steps"), None)
    loss = next(
        (
            i
            for i, name in enumerate(names)
            if re.search(r"val_loss|nats|^loss$|_loss", name) and not roles.is_delta(name)
        ),
        None,
    )
    time = next((i for i, name in enumerate(names) if re.search(r"ms/step|step_avg|step avg", name)), None)
    before = next(
        (i for i, name in enumerate(names) if i != scores and re.search(r"pre[- _]?quant|post[- _]?ema", name)), None
    )
    seeds: list[ReadSeed] = []
    mean = where = None
    for row, seed in rows:
        value = numbers.score(plain(row.cells[scores]))
        if seed is None:
            if value is not None and re.match(r"\W*(mean|avg|average)", plain(row.cells[column]), re.I):
                mean, where = value, f"{source}:{row.line}"
            continue
        if value is None:
            continue
        seeds.append(
            ReadSeed(
                seed=seed,
                val_bpb=value,
                val_loss=_plain_number(row.cells[loss]) if loss is not None else None,
                pre_quant_bpb=numbers.score(plain(row.cells[before])) if before is not None else None,
                bytes_total=numbers.byte_count(plain(row.cells[size])) if size is not None else None,
                steps=_whole(row.cells[steps]) if steps is not None else None,
                step_ms=_plain_number(row.cells[time]) if time is not None else None,
                source="readme",
                evidence=f"{source}:{row.line}",
            )
        )
    if mean is None and seeds:
        values = [each.val_bpb for each in seeds if each.val_bpb is not None]
        mean = sum(values) / len(values)
    return seeds, mean, where


def _transposed(
    table: Table, source: str, claim: float | None
) -> tuple[list[ReadSeed], float | None, str | None] | None:
    """Metric | Seed 42 | Seed 7 | …"""
    columns = [
        (i, int(match[1]))
        for i, cell in enumerate(table.header)
        if i and (match := re.fullmatch(r"seed\s?[=#]?\s?(\d{1,10})", plain(cell).lower()))
    ]
    rows = [
        row
        for row in table.rows
        if (roles.is_bpb(row.cells[0]) or _FINAL.match(plain(row.cells[0])))
        and not re.search(r"pre[- _]?(quant|ttt)|time|stride$", row.cells[0], re.I)
    ]
    if not columns or not rows:
        return None
    best = next((row for row in rows if is_bold(row.cells[0])), None) or next(
        (row for row in reversed(rows) if _FINAL.search(plain(row.cells[0]))), rows[-1]
    )
    seeds = [
        ReadSeed(seed=seed, val_bpb=value, source="readme", evidence=f"{source}:{best.line}")
        for i, seed in columns
        if (value := numbers.score(plain(best.cells[i]))) is not None
    ]
    values = [each.val_bpb for each in seeds if each.val_bpb is not None]
    return seeds, sum(values) / len(values) if values else None, None


def _score_column(table: Table, rows: list[tuple[str, ...]], claim: float | None) -> int | None:
    """The column of the score: the one whose mean is the claim, else by its name and its bold type."""
    fitting = [i for i, cell in enumerate(table.header) if roles.is_bpb(cell)]
    fitting += [
        i for i, cell in enumerate(table.header) if not fitting and re.search(r"sliding|\bs64\b", plain(cell), re.I)
    ]
    fitting += [
        i
        for i, cell in enumerate(table.header)
        if fitting
        and i not in fitting
        and re.fullmatch(r"(sliding|ttt|post-ttt|roundtrip)( \([^()]*\))?", plain(cell).strip(" *").lower())
    ]
    if "bpb" not in " ".join(plain(cell).lower() for cell in table.header).replace("bpp", "bpb"):
        fitting = [
            i for i, cell in enumerate(table.header) if re.search(r"sliding|\bscore\b", plain(cell), re.I)
        ] or fitting
    ranked = []
    for i in fitting:
        values = [value for cells in rows if (value := numbers.score(plain(cells[i]))) is not None]
        if not values:
            continue
        name = plain(table.header[i])
        near = claim is not None and abs(sum(values) / len(values) - claim) < 6e-4
        best = claim is not None and any(abs(value - claim) < 6e-5 for value in values)
        bold = is_bold(table.header[i]) or sum(is_bold(cells[i]) for cells in rows) * 2 > len(rows)
        final = _FINAL.search(name) is not None and not re.search(r"pre[- _]?ttt|no ttt", name, re.I)
        ranked.append(((near, best, bold, final, not _BEFORE.search(name), i), i))
    return max(ranked)[1] if ranked else None


def _of_lines(document: Document, found: list[roles.Role], source: str) -> list[ReadSeed]:
    """Lines such as `SEED=1337`: `1.2057`; the same seed told twice is one, with the most digits."""
    seeds: dict[int, tuple[int, ReadSeed]] = {}
    for index, section in enumerate(document.sections):
        if found[index] in ("negative", "future"):
            continue
        for block in section.blocks:
            if block.kind not in ("item", "paragraph"):
                continue
            text = plain(block.text)
            for match in _SEED_LINE.finditer(text[:2000]):
                digits = len(match[2])
                value = float(match[2])
                seed = int(match[1])
                if numbers.is_score(value) and digits > seeds.get(seed, (0, None))[0]:
                    row = ReadSeed(seed=seed, val_bpb=value, source="readme", evidence=f"{source}:{block.first}")
                    seeds[seed] = (digits, row)
    return [row for _, row in seeds.values()]


def _of_lists(document: Document, source: str) -> list[ReadSeed]:
    """bpb: [1.1, 1.2]: runs without numbers."""
    for section in document.sections:
        for block in section.blocks:
            for match in _LIST.finditer(block.text[:4000]):
                line = block.first + block.text.count("\n", 0, match.start()) + (1 if block.kind == "code" else 0)
                values = [figure.value for figure in numbers.figures(match[1]) if numbers.is_score(figure.value)]
                if len(values) > 1:
                    return [
                        ReadSeed(seed=None, val_bpb=value, source="readme", evidence=f"{source}:{line}")
                        for value in values
                    ]
    return []


def of_headline(document: Document, source: str, evidence: str | None, value: float | None) -> list[ReadSeed]:
    """The one seed that the headline itself names: val_bpb: 1.1239 (sliding, seed=42)."""
    if evidence is None or value is None:
        return []
    line = int(evidence.rpartition(":")[2])
    for section in document.sections[:3]:
        for block in section.blocks[:6]:
            if block.kind == "paragraph" and block.first <= line <= block.last:
                seeds = {int(match) for match in re.findall(r"\bseed\s?=\s?(\d{1,10})\b", plain(block.text))}
                if len(seeds) == 1:
                    return [ReadSeed(seed=seeds.pop(), val_bpb=value, source="readme", evidence=evidence)]
    return []


def _seed_number(cell: str) -> int | None:
    match = re.fullmatch(r"(?:seed\s?[=#]?\s?)?(\d{1,10})(?:\s?\([^()]{0,60}\))?", plain(cell).strip(" *"), re.I)
    return int(match[1]) if match else None


def _plain_number(cell: str) -> float | None:
    found = numbers.figures(plain(cell))
    return found[0].value if found else None


def _whole(cell: str) -> int | None:
    value = _plain_number(cell)
    return int(value) if value is not None and value == int(value) else None

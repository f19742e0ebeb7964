"""What a record builds on, with its score and the difference that the text states, and every other parent it names.

A parent is a pull request, a record's folder, "merged SOTA" or the baseline, in the words of the text. Credits and
comparisons name many; the base is the one that is built on or changed, then the one that is compared with.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from ledger.records import ReadLineage
from runners.extraction import numbers, roles
from runners.extraction.markdown import Document, Table, plain

_PR = re.compile(r"(?<![\w-])(?:PR\s?#?\s?|#)(\d{2,6})(?!\d)(?![-\w]*[.)]\s*\w+_)")
_OTHER_REPOSITORY = re.compile(
    r"[\w.-]+/(?!parameter-golf\b)[\w.-]+\s+PR\s?#?\d+|modded-nanogpt\s(?:PR\s)?#?\d+|issues?\s#\d+|see #\d+", re.I
)
_FOLDER = re.compile(r"\d{4}-\d{2}-\d{2}_[\w.+-]{2,160}")
_SCORE = re.compile(r"(?<![\d.])(\d\.\d{3,9})(?!\d)")
_BUILT = re.compile(
    r"\b(?:builds?|built|building)(?:\sdirectly)?\s(?:on|upon|off)(?:\stop of)?\b"
    r"|\bstarted (?:this submission )?from\b|\bbased on\b"
    r"|\bon top of\b|\bforked from\b|\bderived from\b|\bfork of\b|\bexperiment over\b"
    r"|\bapplied changes from .{0,60} to\b"
    r"|\bdirect (?:baseline|predecessor)\b|\bbase scaffold\b|\bbase model\b|\bbase stack\b|\bbase\W{0,4}:"
    r"|\bmodifications? (?:on|of|to)\b"
    r"|\breproduc\w+ (?:and support package )?(?:for|of)\b|\bbuilds?\b.{0,30}\bstack\b|\bkeeps (?:the )?",
    re.I,
)
_HEADING = re.compile(
    r"\b(?:changes?|carried|adds|innovations?|improvements?|differences?|unchanged|inherited|modifications?"
    r"|over|support)\b.{0,60}?"
    r"\b(?:from|over|vs\.?|on|to|against|baseline|base|for)\b",
    re.I,
)
_COMPARED = re.compile(
    r"\bimprovement over\b|\bbeats?\b|\bcomparison baseline\b|\bcomparison baseline is\b|\bvs\.?\s"
    r"|\bcompared (?:to|with)\b|\bdelta vs\b"
    r"|\bmy (?:other|previous)\b|\bour previous\b|\bmerged sota\b|\bcurrent (?:merged )?sota\b"
    r"|\bprevious(?::|\s(?:best|sota|record|submission|entry|pr|merged)\b)"
    r"|\bcurrent leaderboard\b|\bover current\b|\bsota\b",
    re.I,
)
NAIVE = "naive baseline"
_BASELINE = re.compile(r"\b(?:naive |stock |ar |the |official )?baseline\b|\bstock config\b", re.I)


class Parent(NamedTuple):
    ref: str
    val_bpb: float | None
    weight: int
    line: int
    order: int


class Base(NamedTuple):
    ref: str | None = None
    val_bpb: float | None = None
    evidence: str | None = None
    named: bool = False  # a record of its own, not the baseline
    delta_bpb: float | None = None
    delta_nats: float | None = None


def read(
    document: Document,
    found: list[roles.Role],
    source: str,
    told: str | None,
    told_at: str | None,
    claim: float | None,
) -> Base:
    """The base of a README; `told` is what submission.json names."""
    parents = _parents(document, found)
    scores = _scores(document)
    baseline = _baseline(document, found, claim)
    total = stated(document, found)
    own = _own_number(document)
    parents = [each for each in parents if each.ref != own]
    best = max(parents, key=lambda each: (each.weight, -each.order), default=None)
    if best is None or best.weight < 3:
        named = _ref(told) if told else None
        if named is not None:
            return Base(named, scores.get(named, (None, 0))[0], told_at, True, *total)
    if best is None and told and _FOLDER.search(told):
        return Base(told, None, told_at, True, *total)
    if best is not None and (best.weight >= 2 or baseline is None):
        beside = next((each.val_bpb for each in parents if each.ref == best.ref and each.val_bpb is not None), None)
        value = scores.get(best.ref, (beside, 0))[0]
        return Base(best.ref, value, f"{source}:{best.line}", True, *total)
    if baseline is not None:
        return Base(baseline[2], baseline[0], f"{source}:{baseline[1]}", False, *total)
    return Base(None, None, None, False, *total)


def lineage(document: Document, found: list[roles.Role], source: str, base: Base) -> list[ReadLineage]:
    """Every parent that the text says it builds on or compares with, once each; the base first."""
    rows: dict[str, ReadLineage] = {}
    if base.ref is not None and base.evidence is not None:
        rows[base.ref] = ReadLineage(parent=base.ref, val_bpb=base.val_bpb, evidence=base.evidence)
    scores = _scores(document)
    for each in sorted(_parents(document, found), key=lambda parent: (-parent.weight, parent.order)):
        value = each.val_bpb if each.val_bpb is not None else scores.get(each.ref, (None, 0))[0]
        if each.weight >= 1:
            rows.setdefault(each.ref, ReadLineage(parent=each.ref, val_bpb=value, evidence=f"{source}:{each.line}"))
    return list(rows.values())[:20]


def _ref(text: str) -> str | None:
    folder = _FOLDER.search(text)
    if folder is not None:
        return folder[0]
    found = _PR.search(_OTHER_REPOSITORY.sub(" ", text))
    return f"PR #{int(found[1])}" if found else None


def _own_number(document: Document) -> str | None:
    """The number that a record gives to itself: "PR #363 | …" at the head of its first lines."""
    for block in document.sections[0].blocks[:3]:
        found = re.match(r"\W{0,4}PR\s?#(\d{2,6})\s\|", plain(block.text))
        if found is not None:
            return f"PR #{int(found[1])}"
    return None


def _parents(document: Document, found: list[roles.Role]) -> list[Parent]:
    """Parents in the order of the text. Weight 5: changed from it (a heading, a table's column); 4: built on it;
    2: compared with; 1: named in a lineage."""
    parents: list[Parent] = []

    def add(text: str, weight: int, line: int, value_in: str | None = None, last: bool = False) -> None:
        text = _OTHER_REPOSITORY.sub(lambda match: " " * len(match[0]), text)
        places = [(match.start(), match.end(), f"PR #{int(match[1])}") for match in _PR.finditer(text)]
        places += [(match.start(), match.end(), match[0]) for match in _FOLDER.finditer(text)]
        for _, end, ref in sorted(places)[-1:] if last else sorted(places)[:1]:
            after = (value_in or text)[end : end + 60] if value_in is None else value_in
            value = _SCORE.search(re.split(r"(?:->|→|;)", after)[0])
            parents.append(Parent(ref, float(value[1]) if value else None, weight, line, len(parents)))

    for index, section in enumerate(document.sections):
        role = found[index]
        words = roles.heading(section) if section.title else ""
        if words and section.level < 7 and _HEADING.search(words) and role not in ("future", "negative"):
            add(words, 5, section.line)
        quiet = role in ("future", "negative") or re.search(
            r"credits?|acknowledg|references|related|files", words, re.I
        )
        for block in section.blocks:
            if block.table is not None:
                columns = roles.base_and_this(block.table)
                if columns is not None:
                    header = plain(block.table.header[columns[0]])
                    score = next(
                        (
                            value
                            for row in block.table.rows
                            if (roles.is_bpb(row.cells[0]) or re.match(r"\W*total\b", row.cells[0], re.I))
                            and (value := numbers.score(plain(row.cells[columns[0]]))) is not None
                        ),
                        None,
                    )
                    add(header, 5, block.table.line, str(score) if score is not None else "")
                for row in block.table.rows[:2]:
                    if re.search(r"\bbase(?:line)?\b", plain(row.cells[0]), re.I) and any(
                        roles.is_bpb(cell) for cell in block.table.header
                    ):
                        score = next(
                            (value for cell in row.cells[1:] if (value := numbers.score(plain(cell))) is not None),
                            None,
                        )
                        add(plain(row.cells[0]), 4, row.line, str(score) if score is not None else "")
                continue
            if block.kind == "code":
                continue
            texts = _with_links(block.text)
            for sentence in (each for line in texts.split("\n") for each in numbers.sentences(line)):
                if quiet and block.kind == "item" and _PR.match(sentence.lstrip("[ ")):
                    continue
                built = _BUILT.search(sentence)
                if (
                    built is not None
                    and re.search(
                        r"\binspired|\bcopied\b|\bkernels\b|\bimplementation is\b|\bmy implementation\b", sentence
                    )
                    is None
                ):
                    weight = 4 if not quiet else 3
                    tail = sentence[built.end() :]
                    head = sentence[: built.start()]
                    if _PR.search(tail[:90]) or _FOLDER.search(tail[:300]):
                        add(tail[:300], weight, block.first)
                    elif re.search(r"direct|base", built[0], re.I) and _PR.search(
                        head[-90:] if len(head) > 90 else head
                    ):
                        add(head[-90:], weight, block.first, last=True)
                elif named := re.search(r"(?:PR\s?#?|#)(\d{2,6})(?:'s)?\s(?:base|baseline)\b", sentence):
                    add(named[0], 4 if not quiet else 3, block.first)
                elif quiet:
                    continue
                elif role in ("lead", "results", "other", "method") or (role == "changes" and section.level <= 2):
                    compared = _COMPARED.search(sentence)
                    if compared is not None:
                        chain = re.search(r"(?:->|→)\s*this\b", sentence)
                        if chain is not None:
                            add(re.split(r"->|→", sentence[: chain.start()])[-1], 3, block.first)
                        else:
                            add(sentence[compared.start() :][:200], 2, block.first)
    return parents


def _with_links(text: str) -> str:
    """Plain text in which a link to a record's folder or pull request keeps what it points to."""
    text = re.sub(r"\[([^\[\]]{0,300})\]\(([^()\s]{0,300})\)", _link, text)
    return "\n".join(plain(line) for line in text.split("\n"))


def _link(match: re.Match[str]) -> str:
    folder = _FOLDER.search(match[2])
    pull = re.search(r"/pull/(\d{1,6})", match[2])
    if folder is not None and folder[0] not in match[1]:
        return f"{match[1]} {folder[0]} "
    if pull is not None and pull[1] not in match[1]:
        return f"{match[1]} PR #{pull[1]} "
    return match[1]


_NUMBER_OF_PR = re.compile(r"(?<![\w-])(?:PR\s?#?|#)(\d{2,6})(?!\d)")


def _scores(document: Document) -> dict[str, tuple[float, int]]:
    """The score that stands right after a pull request's number: PR #1394 (1.08563), PR #1493, 1.0810 BPB."""
    found: dict[str, tuple[float, int]] = {}
    for section in document.sections:
        for block in section.blocks:
            if block.table is not None:
                for i, cell in enumerate(block.table.header):
                    named = _NUMBER_OF_PR.search(plain(cell))
                    means = [row for row in block.table.rows if re.match(r"\W*mean", plain(row.cells[0]), re.I)]
                    value = numbers.score(plain(means[0].cells[i])) if named is not None and means else None
                    if named is not None and value is not None:
                        found.setdefault(f"PR #{int(named[1])}", (value, 4))
            if block.kind not in ("paragraph", "item", "code"):
                continue
            for line in block.text.split("\n"):
                text = plain(line)
                for match in _NUMBER_OF_PR.finditer(text[:3000]):
                    after = re.split(r"->|→|;|\bPR\b|#", text[match.end() : match.end() + 60])[0]
                    value_at = re.search(r"(?<![\d.])(\d\.\d{3,9})(?!\d)", after)
                    if value_at is None or not 0.8 < float(value_at[1]) < 3:
                        continue
                    between = after[: value_at.start()]
                    if re.search(r"[-−+±]\s?$|\bby\s|\blogs?\b|per-seed|\blr\b|\bwd\b|\busing\b", between, re.I):
                        continue
                    digits = len(value_at[1])
                    if digits > found.get(f"PR #{int(match[1])}", (0.0, 0))[1]:
                        found[f"PR #{int(match[1])}"] = (float(value_at[1]), digits)
    return found


def _baseline(
    document: Document, found: list[roles.Role], claim: float | None
) -> tuple[float | None, int, str] | None:
    """The baseline, with its score where one stands beside the word."""
    first: int | None = None
    told: list[tuple[int, float, int, str]] = []
    naive = False
    for index, section in enumerate(document.sections):
        if found[index] in ("future",):
            continue
        words = roles.heading(section) if section.title else ""
        naive = naive or re.search(r"\bnaive baseline\b", words, re.I) is not None
        if _BASELINE.search(words) and found[index] in ("changes", "changes:named") and first is None:
            first = section.line
        for block in section.blocks:
            if block.table is not None:
                for row in block.table.rows[:6]:
                    cell = plain(row.cells[0]) + " " + (plain(row.cells[1]) if len(row.cells) > 1 else "")
                    scores = [i for i, name in enumerate(block.table.header) if roles.is_bpb(name)]
                    is_default = re.search(r"\(default\)", plain(row.cells[0]), re.I) is not None
                    if (
                        scores
                        and (_BASELINE.search(cell) or is_default or re.match(r"\W*control\b", cell, re.I))
                        and roles.seed_column(block.table) is None
                    ):
                        value = numbers.score(plain(row.cells[scores[0]]))
                        if value is not None:
                            told.append(
                                (0 if is_default or found[index] == "ablation" else 2, value, row.line, NAIVE)
                            )
                told += _beside_claim(block.table, claim)
                columns = roles.base_and_this(block.table)
                if columns is not None and _BASELINE.search(plain(block.table.header[columns[0]])):
                    for row in block.table.rows:
                        value = numbers.score(plain(row.cells[columns[0]]))
                        if (
                            value is not None
                            and roles.is_bpb(row.cells[0])
                            and not re.search(r"pre-?quant", row.cells[0], re.I)
                        ):
                            told.append((0, value, row.line, NAIVE))
                continue
            if block.kind == "code":
                continue
            text = plain(block.text)
            beside = re.search(
                r"(?:baseline|sota)\b`?\s?(?:\(|:|at|of|is)?\s?[^\d.;]{0,12}?`?(\d\.\d{3,9})(?!\d)", text, re.I
            )
            versus = re.search(r"baseline\s\(\d\.\d{3,9}\svs\.?\s(\d\.\d{3,9})\)", text, re.I)
            match = versus or beside
            if match is not None and 0.8 < float(match[1]) < 4:
                sota = re.match(r"sota", match[0], re.I) is not None
                told.append((1, float(match[1]), block.first, "current SOTA" if sota else NAIVE))
            naive = naive or re.search(r"\bnaive baseline\b", text, re.I) is not None
            if _BASELINE.search(text) and first is None and found[index] not in ("ignore", "negative"):
                first = block.first
    if told:
        _, value, line, ref = min(told, key=lambda each: (each[0], each[2]))
        return value, line, NAIVE if naive else ref
    return (None, first, NAIVE) if first is not None else None


def _beside_claim(table: Table, claim: float | None) -> list[tuple[int, float, int, str]]:
    """The score in a column "baseline" of the row that holds the claim."""
    columns = [i for i, cell in enumerate(table.header) if _BASELINE.search(plain(cell)) and roles.is_bpb(cell)]
    if claim is None or not columns:
        return []
    for row in table.rows:
        values = [numbers.score(plain(cell)) for cell in row.cells]
        if any(value is not None and abs(value - claim) < 6e-5 for i, value in enumerate(values) if i not in columns):
            value = values[columns[0]]
            return [(0, value, row.line, NAIVE)] if value is not None else []
    return []


_TOTAL = re.compile(
    r"\b(?:(?:total |mean )?improvement(?: over|:)|beats\b|delta(?: vs)?\b|net(?: effect| delta)?\b"
    r"|mean improvement)",
    re.I,
)


_VERSUS = re.compile(r"[-−]\d?\.\d+\s?bp[bp]\svs\b", re.I)


def stated(document: Document, found: list[roles.Role]) -> tuple[float | None, float | None]:
    """The difference from the base that the text prints, in bits per byte and in nats."""
    for index, section in enumerate(document.sections):
        if found[index] in ("negative", "future", "ignore"):
            continue
        for block in section.blocks:
            if block.table is not None:
                columns = roles.base_and_this(block.table)
                column = next((i for i, cell in enumerate(block.table.header) if i and roles.is_delta(cell)), None)
                bpb = nats = None
                for row in block.table.rows:
                    name = plain(row.cells[0])
                    if columns is not None and column is not None and roles.is_bpb(name):
                        told = numbers.delta_cell(row.cells[column], "bpb")
                        bpb = told.bpb if told else bpb
                    if columns is not None and re.match(r"\W*(improvement|delta|Δ)", name, re.I):
                        unit = "nats" if re.search(r"nats|val_loss", name, re.I) else "bpb"
                        told = numbers.delta_cell(row.cells[columns[1]], unit)
                        bpb, nats = (told.bpb or bpb, told.nats or nats) if told else (bpb, nats)
                    if columns is not None and column is not None and re.search(r"val_loss", name):
                        told = numbers.delta_cell(row.cells[column], "nats")
                        nats = told.nats if told else nats
                    if (
                        re.match(r"\W*total", name, re.I)
                        and column is not None
                        and roles.base_and_this(block.table) is not None
                    ):
                        told = numbers.delta_cell(row.cells[column], "bpb")
                        bpb = told.bpb if told else bpb
                if bpb is not None or nats is not None:
                    return bpb, nats
                continue
            if block.kind not in ("paragraph", "item"):
                continue
            for line in block.text.split("\n"):
                for sentence in numbers.sentences(plain(line)):
                    match = _TOTAL.search(sentence) or _VERSUS.search(sentence)
                    if match is None:
                        continue
                    figures = [
                        each
                        for each in numbers.figures(sentence)
                        if each.start >= match.start() and each.unit in ("bpb", "nats")
                    ]
                    bpb = next(
                        (
                            _value(each, sentence)
                            for each in figures
                            if each.unit == "bpb" and each.value < 0.7 and not each.range
                        ),
                        None,
                    )
                    nats = next(
                        (
                            _value(each, sentence)
                            for each in figures
                            if each.unit == "nats" and each.value < 1.5 and not each.range
                        ),
                        None,
                    )
                    if bpb is not None or nats is not None:
                        return bpb, nats
    return None, None


def _value(figure: numbers.Figure, text: str) -> float | None:
    value = numbers.signed(figure, text)
    return value if value is not None else -figure.value

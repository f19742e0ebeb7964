"""One telling of one technique, and all tellings of it as one row.

The place that is surest gives the label, new goes before carried, all give evidence. No difference is divided.
"""

from __future__ import annotations

import re
from typing import Literal, NamedTuple

from ledger.records import ReadIntervention
from runners.extraction import items, numbers, techniques
from runners.extraction.markdown import plain
from runners.extraction.numbers import Delta
from runners.extraction.vocabulary import Technique, Vocabulary

Status = Literal["new", "carried"]

REMOVED = re.compile(
    r"^(removed?|drop(ped)?|no\b|without|disabled?|eliminated?|got rid of|stripped|delet\w+)\b[:\s]*", re.I
)
_HURTS = re.compile(r"\b(worse\w*|hurts?|penalty|regress\w*|degrad\w*|harms?)\b", re.I)


class Candidate(NamedTuple):
    """One telling of one technique."""

    label: str
    technique: Technique | None
    status: Status
    rank: int  # 1 is the surest place for a label; above 7 another telling goes before
    line: int
    text: str = ""  # what is said about it
    before: str | None = None
    after: str | None = None
    delta: Delta | None = None
    joint: bool = False
    removed: bool = False


def tell(
    vocabulary: Vocabulary,
    label: str,
    status: Status,
    rank: int,
    line: int,
    text: str,
    delta: Delta | None = None,
    after: str | None = None,
    whole: str | None = None,
) -> list[Candidate]:
    """One candidate a part of a bundle of known techniques, else one. `whole` is the text of the item."""
    removal = REMOVED.match(techniques.clean(label))
    if removal is not None and status == "new" and label.lower().startswith("no ") and _HURTS.search(text[:200]):
        return []  # "No X: it hurts" tells what was not done
    found = techniques.parts(label, vocabulary)
    if delta is None and (tail := techniques.TAIL_DELTA.search(plain(label))) is not None:
        delta = numbers.delta_prose(tail[0])
    change = numbers.change(plain(label))
    if whole and change == (None, None):
        change = numbers.change(items.sentence(whole))._replace(after=None)
    elif whole and change.before is None:
        change = change._replace(before=numbers.change(items.sentence(whole)).before)
    alone = len(found) == 1
    return [
        Candidate(
            label=each.label,
            technique=each.technique,
            status=status,
            rank=rank,
            line=line,
            text=text,
            before=change.before if alone else None,
            after=after or (change.after if alone else None),
            delta=delta,
            joint=not alone or techniques.is_bundle(label),
            removed=removal is not None,
        )
        for each in found
    ]


def merged(candidates: list[Candidate], vocabulary: Vocabulary, source: str) -> list[ReadIntervention]:
    """One row a technique: the surest telling gives the label, new goes before carried, all give evidence."""
    groups: dict[str, list[Candidate]] = {}
    for each in _without_umbrellas(candidates):
        key = each.technique.id if each.technique is not None else vocabulary.unknown_label(each.label)
        groups.setdefault(key, []).append(each)
    rows = []
    for key, told in groups.items():
        strong = [each for each in told if each.status == "new" and each.rank <= 7]
        carried = [each for each in told if each.status == "carried"]
        weak = [each for each in told if each.status == "new" and each.rank > 7]
        group = strong or carried or weak
        surest = sorted(group, key=lambda each: (each.rank, -each.line if each.rank == 7 else each.line))
        first = min(
            group, key=lambda each: (_told_by(each, vocabulary) == 0.0, each.rank, -_told_by(each, vocabulary))
        )
        before = next((each.before for each in surest if each.before), None)
        after = next((each.after for each in surest if each.after), None)
        stated = next((each for each in sorted(group, key=lambda c: c.rank) if each.delta is not None), None)
        lines = sorted({each.line for each in told})[:12]
        rows.append(
            ReadIntervention(
                intervention=key,
                known=first.technique is not None,
                label=first.label,
                kind=first.technique.kind if first.technique is not None else "other",
                status=first.status,
                before=before,
                after=after,
                level=techniques.level(first.label, after),
                delta_bpb=stated.delta.bpb if stated is not None and stated.delta is not None else None,
                delta_nats=stated.delta.nats if stated is not None and stated.delta is not None else None,
                delta_source="stated"
                if stated is not None and stated.delta is not None and stated.delta.bpb is not None
                else None,
                delta_joint=stated.joint if stated is not None else False,
                removed=all(each.removed for each in group),
                evidence=tuple(f"{source}:{line}" for line in lines),
            )
        )
    return sorted(
        rows, key=lambda row: (row.status != "new", int(row.evidence[0].rpartition(":")[2]), row.intervention)
    )


_LEARNING_RATES = ("matrix-lr", "scalar-lr", "embed-lr")


def _without_umbrellas(candidates: list[Candidate]) -> list[Candidate]:
    """Without the general "learning rate" of a title or bundle where the rates themselves are told."""
    told = {
        each.line
        for each in candidates
        if each.technique and each.technique.id in _LEARNING_RATES and each.status == "new"
    }
    return [
        each
        for each in candidates
        if not (
            each.technique and each.technique.id == "learning-rate" and told and (each.rank >= 7 or each.line in told)
        )
    ]


def _told_by(candidate: Candidate, vocabulary: Vocabulary) -> float:
    """How much of a label is the technique's name."""
    named = vocabulary.find(candidate.label)
    return (named.end - named.start) / max(len(candidate.label), 1) if named is not None else 0.0

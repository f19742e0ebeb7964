"""Which stated difference belongs to which technique: from its own words, from a row of an ablation, from the total.

A cumulative difference belongs to no single technique but the first; the total only where one change is all there is.
"""

from __future__ import annotations

import re
from typing import Literal, NamedTuple

import msgspec

from ledger.records import ReadIntervention
from runners.extraction import numbers, techniques
from runners.extraction.ablations import Linked
from runners.extraction.base import Base
from runners.extraction.candidates import Candidate
from runners.extraction.numbers import Delta
from runners.extraction.vocabulary import Vocabulary


class Told(NamedTuple):
    """An ablation row with the techniques that it is about."""

    linked: Linked
    ids: tuple[str, ...]


def attach(
    rows: list[ReadIntervention],
    candidates: list[Candidate],
    ablations: list[Linked],
    base: Base,
    vocabulary: Vocabulary,
) -> list[ReadIntervention]:
    """The rows with the differences that the text states for them."""
    first = next((each.order for each in ablations if each.label.startswith("+")), None)
    told = [
        Told(each, _ids(each.label, vocabulary))
        for each in ablations
        if each.row.delta_bpb is not None and (each.row.meaning != "cumulative" or each.order == first)
    ]
    words: dict[str, list[Candidate]] = {}
    for each in sorted(candidates, key=lambda candidate: candidate.rank):
        key = each.technique.id if each.technique is not None else vocabulary.unknown_label(each.label)
        words.setdefault(key, []).append(each)
    found = [_with(row, words.get(row.intervention, []), told) if row.status == "new" else row for row in rows]
    new = [row for row in found if row.status == "new"]
    if len(new) == 1 and new[0].delta_bpb is None and new[0].delta_nats is None and not new[0].removed:
        only = msgspec.structs.replace(
            new[0], delta_bpb=base.delta_bpb, delta_nats=base.delta_nats, delta_source=_source(base.delta_bpb)
        )
        return [only if row is new[0] else row for row in found]
    return found


def _ids(label: str, vocabulary: Vocabulary) -> tuple[str, ...]:
    parts = techniques.parts(label.lstrip("+ "), vocabulary)
    return tuple(
        part.technique.id if part.technique is not None else vocabulary.unknown_label(part.label) for part in parts
    )


def _source(delta_bpb: float | None) -> Literal["stated"] | None:
    return "stated" if delta_bpb is not None else None


def _with(row: ReadIntervention, words: list[Candidate], told: list[Told]) -> ReadIntervention:
    if row.delta_bpb is not None or row.removed:
        return row
    best = _of_ablation(row, told)
    if best is not None:
        lines = dict.fromkeys((*row.evidence, best.linked.row.evidence))
        return msgspec.structs.replace(
            row, delta_bpb=best.linked.row.delta_bpb, delta_source="stated",
            delta_joint=len(best.ids) > 1 or techniques.is_bundle(best.linked.label),
            evidence=tuple(lines)[:12],
        )  # fmt: skip
    stated = _of_words(words)
    if stated is None:
        return row
    delta, joint = stated
    return msgspec.structs.replace(
        row, delta_bpb=delta.bpb, delta_nats=row.delta_nats if row.delta_nats is not None else delta.nats,
        delta_source=_source(delta.bpb), delta_joint=joint,
    )  # fmt: skip


def _of_ablation(row: ReadIntervention, told: list[Told]) -> Told | None:
    """The ablation row about this technique: the one with its values, a single change before a bundle, the last."""
    figures = _figures(f"{row.label} {row.after or ''} {row.level or ''}")
    fitting: list[tuple[tuple[int, bool, bool, int], Told]] = []
    for each in told:
        linked, delta = each.linked, each.linked.row.delta_bpb
        if row.intervention not in each.ids or delta is None:
            continue
        shared = len(figures & _figures(linked.label))
        sweep = "=" in linked.label and not linked.label.startswith("+")
        if sweep and (not shared or not linked.chosen):
            continue
        if linked.row.negative and not shared and delta > 0:
            continue
        fitting.append(((shared, len(each.ids) == 1, linked.chosen, linked.order), each))
    return max(fitting, key=lambda each: each[0])[1] if fitting else None


def _of_words(words: list[Candidate]) -> tuple[Delta, bool] | None:
    """A difference in the words about a technique: in its label, else the only one that its description states."""
    for each in words:
        for text in (each.label, each.text):
            delta = numbers.delta_prose(text)
            if delta is not None:
                return delta, each.joint
    return None


def _figures(text: str) -> set[str]:
    """The numbers of a label: {"10240", "131"}."""
    return {match.replace(",", "") for match in re.findall(r"\d+(?:,\d{3})+|\d+(?:\.\d+)?", text)}

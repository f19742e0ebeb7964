"""Which techniques can be told apart from the comparisons that exist, and which comparison would separate two.

Rows of D are comparisons (child minus parent), columns techniques, entries -1, 0 or 1. Technique j is
identifiable when its unit vector lies in the row space of D (equivalently H_jj = 1 for H = D^+ D). The
others fall into alias classes: the connected components of the support of D's null space. All of it is
exact arithmetic with fractions, so no tolerance decides.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from typing import NamedTuple

from ledger.errors import UsageError

Row = Sequence[int]


class Identifiability(NamedTuple):
    """For every technique: can its effect be told, and if not, with which others it is confounded."""

    rank: int
    structural: tuple[bool, ...]
    alias_class: tuple[int | None, ...]  # number of the class, from 0 in order of its first technique; None if told


class Separation(NamedTuple):
    """The cheapest comparison that tells something new about a class."""

    candidate: int
    cost: float
    rank: int  # of all comparisons, with it


def reduced(rows: Sequence[Row], width: int) -> list[tuple[int, list[Fraction]]]:
    """Reduced row echelon form: (pivot column, row) of every non-zero row."""
    found: list[tuple[int, list[Fraction]]] = []
    for row in rows:
        if len(row) != width:
            raise UsageError(f"a comparison has {len(row)} techniques; expected {width}")
        rest = without(found, [Fraction(value) for value in row])
        pivot = next((column for column, value in enumerate(rest) if value), None)
        if pivot is None:
            continue
        rest = [value / rest[pivot] for value in rest]
        found = [(at, _less(old, old[pivot], rest) if old[pivot] else old) for at, old in found]
        found.append((pivot, rest))
    return sorted(found)


def without(echelon: Sequence[tuple[int, list[Fraction]]], row: list[Fraction]) -> list[Fraction]:
    """The row less its part in the row space."""
    for pivot, base in echelon:
        if factor := row[pivot]:
            row = _less(row, factor, base)
    return row


def _less(row: list[Fraction], factor: Fraction, base: list[Fraction]) -> list[Fraction]:
    """row - factor base; most entries of base are 0."""
    return [a - factor * b if b else a for a, b in zip(row, base, strict=True)]


def identify(rows: Sequence[Row], width: int) -> Identifiability:
    """What `rows` say about each of `width` techniques."""
    echelon = reduced(rows, width)
    pivots = [pivot for pivot, _ in echelon]
    parent = list(range(width))

    def root(j: int) -> int:
        while parent[j] != j:
            j = parent[j]
        return j

    loose = [column not in pivots for column in range(width)]
    for pivot, row in echelon:
        for column, value in enumerate(row):
            if column != pivot and value:  # a free column: both lie in the support of one null vector
                loose[pivot] = True
                a, b = sorted((root(pivot), root(column)))
                parent[b] = a
    numbers: dict[int, int] = {}
    classes = tuple(numbers.setdefault(root(j), len(numbers)) if loose[j] else None for j in range(width))
    return Identifiability(len(echelon), tuple(not value for value in loose), classes)


def separate(
    rows: Sequence[Row], width: int, candidates: Sequence[tuple[Row, float]], among: Sequence[int]
) -> Separation | None:
    """The cheapest candidate (row, cost) that raises the rank and touches the techniques `among`; ties by order.

    None when no candidate tells anything new about them.
    """
    echelon = reduced(rows, width)
    for _cost, index in sorted((cost, index) for index, (_, cost) in enumerate(candidates)):
        row, cost = candidates[index]
        rest = without(echelon, [Fraction(value) for value in row])
        if any(rest) and any(row[j] for j in among):
            return Separation(index, cost, len(echelon) + 1)
    return None

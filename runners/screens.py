"""A screen: many two-level factors in few runs, as a plan of stacks. Designs only; nothing is estimated here.

    kind = "screen"
    [[factor]]                            # two to 47 of them
    name = "gelu"
    set = { activation = "gelu" }         # the high level; a script takes env = { … }
    low = { activation = "relu2" }        # the low level; default: the base as it is

A Hadamard matrix of order n (Plackett and Burman 1946) without its constant column sets up to n - 1 factors in n
runs; folded over (every run once more with all levels turned round) the 2 n runs tell each factor's average effect,
and no average effect is confused with an interaction of two factors. Without the fold they are, and interactions then
look like effects; so there is no unfolded screen. Orders come from Paley's constructions I and II (q + 1 for a prime
q = 3 mod 4, 2 (q + 1) for a prime q = 1 mod 4) and from doubling (Sylvester).

Choices that exclude each other are levels of one factor; a factor here has two levels, so two factors that set the
same thing are refused. The first stack, every factor low, is the control.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from ledger import canonical, cycles
from ledger.errors import UsageError

FEWEST, MOST = 2, 47  # factors; up to here there is a matrix of every order that is a multiple of 4

Levels = tuple[int, ...]  # of each factor: -1 low, +1 high


class PlanFactor(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One factor: what its high level sets, and what its low level does where that is not the base as it is."""

    name: str
    set: dict[str, Any] = {}
    env: dict[str, str] = {}
    low: dict[str, Any] = {}

    def level(self, high: bool) -> dict[str, Any]:
        return (self.set or self.env) if high else self.low


def _legendre(q: int) -> list[int]:
    """Quadratic characters of 0..q-1 modulo a prime: 0, 1 for squares, -1 for the others."""
    squares = {i * i % q for i in range(1, q)}
    return [0 if i == 0 else 1 if i in squares else -1 for i in range(q)]


def _prime(n: int) -> bool:
    return n > 1 and all(n % d for d in range(2, math.isqrt(n) + 1))


@functools.cache
def hadamard(n: int) -> tuple[Levels, ...] | None:
    """A Hadamard matrix of order n with its first column all +1; None where the constructions give none."""
    matrix: list[list[int]] | None = None
    if n in (1, 2):
        matrix = [[1]] if n == 1 else [[1, 1], [1, -1]]
    elif n % 4 == 0 and _prime(n - 1):  # Paley I: q = n - 1 is 3 modulo 4
        q, chi = n - 1, _legendre(n - 1)
        matrix = [[1] * n]
        matrix += [[-1, *(1 if i == j else chi[(j - i) % q] for j in range(q))] for i in range(q)]
    elif n % 8 == 4 and _prime(n // 2 - 1) and (n // 2 - 1) % 4 == 1:  # Paley II
        q, chi = n // 2 - 1, _legendre(n // 2 - 1)
        c = [[0] + [1] * q, *([1, *(chi[(j - i) % q] for j in range(q))] for i in range(q))]
        blocks = {0: ((1, -1), (-1, -1)), 1: ((1, 1), (1, -1)), -1: ((-1, -1), (-1, 1))}
        matrix = [[blocks[c[i][j]][a][b] for j in range(q + 1) for b in (0, 1)] for i in range(q + 1) for a in (0, 1)]
    elif n % 2 == 0 and (half := hadamard(n // 2)) is not None:
        matrix = [[*row, *row] for row in half] + [[*row, *(-x for x in row)] for row in half]
    if matrix is None:
        return None
    return tuple(tuple(x * row[0] for x in row) for row in matrix)


def folded(factors: int) -> tuple[Levels, ...]:
    """The stacks of a folded screen, the first with every factor at its low level; each next to its mirror.

    Raises UsageError for a number of factors that no screen has.
    """
    if not FEWEST <= factors <= MOST:
        raise UsageError(f"a screen has {FEWEST} to {MOST} factors, not {factors}")
    found = next(matrix for n in range(4, MOST + 5, 4) if n > factors and (matrix := hadamard(n)) is not None)
    rows = [tuple(row[1 : factors + 1]) for row in found]
    # Turning a factor's levels round changes nothing of the design, and makes its first run the base as it is.
    rows = [tuple(-x * first for x, first in zip(row, rows[0], strict=True)) for row in rows]
    # Two factors are all four of their combinations; from three on no run comes twice.
    return tuple(dict.fromkeys(levels for row in rows for levels in (row, tuple(-x for x in row))))


def check(factors: Sequence[PlanFactor], where: str, trainer: bool) -> None:
    """Raises UsageError for factors that make no screen."""
    if not FEWEST <= len(factors) <= MOST:
        raise UsageError(f"{where}: a screen has {FEWEST} to {MOST} [[factor]]s, not {len(factors)}")
    owner: dict[str, str] = {}
    names: set[str] = set()
    for factor in factors:
        if factor.name in names:
            raise UsageError(f"{where}: two factors are called {factor.name!r}; give each its own name")
        names.add(factor.name)
        if factor.env if trainer else factor.set:
            takes = "set = { … }" if trainer else "env = { … }"
            raise UsageError(
                f"{where}: factor {factor.name!r}: {'a trainer' if trainer else 'a script'} takes {takes}"
            )
        if not factor.level(True) or factor.level(True) == factor.level(False):
            raise UsageError(f"{where}: factor {factor.name!r} changes nothing between its two levels")
        for key in {**factor.level(True), **factor.level(False)}:
            if other := owner.get(key):
                raise UsageError(
                    f"{where}: factors {other!r} and {factor.name!r} both set {key!r}: choices that exclude each "
                    "other are levels of one factor, and a factor of a screen has two; keep one of them"
                )
        owner |= dict.fromkeys({**factor.level(True), **factor.level(False)}, factor.name)


def arms(factors: Sequence[PlanFactor], trainer: bool) -> list[dict[str, Any]]:
    """The stacks as arms, as plain data: `base`, then s01, s02, …"""
    found = []
    for number, levels in enumerate(folded(len(factors))):
        settings: dict[str, Any] = {}
        for factor, level in zip(factors, levels, strict=True):
            settings |= factor.level(level > 0)
        name = "base" if number == 0 else f"s{number:02d}"
        found.append({"name": name, ("set" if trainer else "env"): settings})
    return found


def described(factors: Sequence[PlanFactor]) -> tuple[tuple[cycles.Factor, ...], tuple[cycles.Stack, ...]]:
    """Factors and stacks as `screen.planned` holds them."""
    told = tuple(
        cycles.Factor(factor.name, _text(factor.level(False)), _text(factor.level(True))) for factor in factors
    )
    stacks = [
        cycles.Stack("base" if number == 0 else f"s{number:02d}", levels)
        for number, levels in enumerate(folded(len(factors)))
    ]
    return told, tuple(stacks)


def _text(level: Mapping[str, Any]) -> str:
    return canonical.encode(dict(level)).decode()

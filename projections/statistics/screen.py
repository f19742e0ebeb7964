"""Many two-level changes in few runs: fold-over Plackett-Burman screens, and what they estimate.

A Hadamard matrix of order n (Plackett and Burman 1946) without its constant column sets up to n - 1 factors in n
runs; folded over (every run once more with all levels turned round) the 2 n runs estimate each factor's *average
effect*, and no average effect is confused with an interaction of two factors. Without the fold they are, and
interactions then look like effects; so there is no unfolded screen here. 24 changes take 56 runs.

    y = mean + seed + sum_j x_j beta_j + e,  x_j = -1/2 at the low level and +1/2 at the high one,

by least squares, so that beta_j is a difference of two means of half the runs each. It is an average over the
stacks of the screen: where changes interact it is *not* the effect of one change on the base. A screen therefore
suggests; one change at a time confirms. Orders come from Paley's constructions I and II (q + 1 for a prime
q = 3 mod 4, 2 (q + 1) for a prime q = 1 mod 4) and from doubling (Sylvester).

The error of an average effect is taken, where there are enough degrees of freedom, from what interactions of two
factors cannot reach: differences between a run and its mirror image that no factor explains, repeats of one run
with other seeds, and other experiments' noise of the same class. Else from all that the model leaves.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from ledger.errors import UsageError
from projections.statistics.distributions import f_upper, t_bound, t_two_sided
from projections.statistics.multiplicity import benjamini_hochberg
from projections.statistics.numeric import Array, finite

MOST_FACTORS = 63
FEWEST_DF = 4  # degrees of freedom of a variance that interactions do not reach, for it to be used alone

Levels = tuple[int, ...]  # of each factor: -1 low, +1 high


class AverageEffect(NamedTuple):
    """What a screen says of one factor: high minus low, averaged over the stacks of the screen."""

    factor: str
    effect: float
    se: float
    df: float
    t: float
    p: float
    q: float  # after Benjamini and Hochberg over the screen's factors
    ci95_lo: float
    ci95_hi: float


class Screened(NamedTuple):
    """All of a screen. `p_interactions` is None where nothing tells interactions from noise."""

    effects: tuple[AverageEffect, ...]
    runs: int  # that ended with a value
    missing: int  # that were planned and did not
    sd: float  # of one run, as the errors use it
    df: float
    noise: str  # what it was taken from: pure (no interaction reaches it) or all
    p_interactions: float | None  # F test: are there interactions of two factors?


# ── designs ──


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


def order(factors: int) -> int:
    """The smallest order of a Hadamard matrix that holds so many factors. Raises UsageError beyond the limits."""
    if not 2 <= factors <= MOST_FACTORS:
        raise UsageError(f"a screen has 2 to {MOST_FACTORS} factors, not {factors}")
    return next(n for n in range(4, 2 * MOST_FACTORS + 6, 4) if n > factors and hadamard(n) is not None)


def folded(factors: int) -> tuple[Levels, ...]:
    """The runs of a folded screen, first the one with every factor at its low level; each next to its mirror."""
    found = hadamard(order(factors))
    assert found is not None
    rows = [tuple(row[1 : factors + 1]) for row in found]
    # Turning a factor's levels round changes nothing of the design, and makes its first run the base as it is.
    rows = [tuple(-x * first for x, first in zip(row, rows[0], strict=True)) for row in rows]
    # Two factors are all four of their combinations; from three on no run comes twice.
    return tuple(dict.fromkeys(levels for row in rows for levels in (row, tuple(-x for x in row))))


# ── what a screen says ──


def analyse(
    factors: Sequence[str],
    levels: Mapping[str, Levels],
    values: Mapping[tuple[str, int], float],
    planned: int,
    elsewhere: Sequence[tuple[float, float]] = (),
) -> Screened:
    """Average effects from the value of each (arm, seed) and the levels of each arm.

    `elsewhere` are variances of one run and their degrees of freedom from other experiments of the noise class.
    Raises UsageError where the runs that ended cannot tell every factor from the others.
    """
    cells = sorted(values)
    y = np.asarray(finite([values[cell] for cell in cells], "values of the screen"))
    seeds = sorted({seed for _, seed in cells})
    rows = [
        [*(float(seed == other) for other in seeds), *(x / 2 for x in levels[arm])] for arm, seed in cells
    ]
    if not rows:
        raise UsageError("no run of the screen has ended with a value yet")
    design = np.asarray(rows)
    rank, k = int(np.linalg.matrix_rank(design)), design.shape[1]
    if rank < k:
        raise UsageError(
            f"the {len(cells)} runs that ended do not tell the {len(factors)} factors apart; run what is missing"
        )
    inverse = np.linalg.inv(design.T @ design)
    beta = inverse @ (design.T @ y)
    rest = y - design @ beta
    left = math.fsum((rest * rest).tolist()), float(len(cells) - rank)
    pure, reached = _split(factors, levels, cells, rest, left)
    sources = [pure, *((variance * df, df) for variance, df in elsewhere if df > 0)]
    squares, df = math.fsum([s for s, _ in sources]), math.fsum([d for _, d in sources])
    noise = "pure"
    if df < FEWEST_DF:
        (squares, df), noise = left, "all"
    if df <= 0 or squares <= 0:
        raise UsageError(
            "nothing tells the noise of the screen: its runs fit exactly; repeat them with another seed"
        )
    variance = squares / df
    p_interactions = None
    if noise == "pure" and reached[1] > 0:
        p_interactions = f_upper(reached[0] / reached[1] / variance, reached[1], df)
    at = len(seeds)
    se = [math.sqrt(variance * float(inverse[at + j, at + j])) for j in range(len(factors))]
    effects = [float(beta[at + j]) for j in range(len(factors))]
    t = [effect / error for effect, error in zip(effects, se, strict=True)]
    p = [float(t_two_sided(value, df)) for value in t]
    bound = float(t_bound(0.025, df))
    found = [
        AverageEffect(name, effect, error, df, value, p_value, q, effect - bound * error, effect + bound * error)
        for name, effect, error, value, p_value, q in zip(
            factors, effects, se, t, p, benjamini_hochberg(p), strict=True
        )
    ]
    return Screened(
        tuple(found), len(cells), max(0, planned - len(cells)), math.sqrt(variance), df, noise, p_interactions
    )


def _split(
    factors: Sequence[str],
    levels: Mapping[str, Levels],
    cells: Sequence[tuple[str, int]],
    rest: Array,
    left: tuple[float, float],
) -> tuple[tuple[float, float], tuple[float, float]]:
    """((sum of squares, df) that no interaction of two factors reaches, the same of all that one may).

    A run and its mirror have the same levels in every product of two factors: their difference is free of these.
    Only for complete screens; else nothing is known to be free, and repeats alone count.
    """
    by_arm: dict[str, list[tuple[int, float]]] = {}
    for (arm, seed), value in zip(cells, rest.tolist(), strict=True):
        by_arm.setdefault(arm, []).append((seed, value))
    seeds = sorted({seed for _, seed in cells})
    complete = len(cells) == len(levels) * len(seeds)
    if not complete:
        return (0.0, 0.0), left
    mean = {arm: math.fsum([value for _, value in found]) / len(found) for arm, found in by_arm.items()}
    n = len(seeds)
    within = math.fsum([(value - mean[arm]) ** 2 for arm, found in by_arm.items() for _, value in found])
    within_df = float((len(levels) - 1) * (n - 1))
    mirror = {levels[arm]: arm for arm in levels}
    odd = 0.0
    pairs = 0
    for arm in sorted(levels):
        other = mirror.get(tuple(-x for x in levels[arm]))
        if other is None:
            return (within, within_df), (left[0] - within, left[1] - within_df)
        if arm < other:
            odd += n * (mean[arm] - mean[other]) ** 2 / 2
            pairs += 1
    pure = within + odd, within_df + pairs - len(factors)
    return pure, (max(0.0, left[0] - pure[0]), left[1] - pure[1])

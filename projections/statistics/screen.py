"""Many two-level changes in few runs: fold-over Plackett-Burman screens, and what they estimate.

A screen runs 2 n stacks for up to n - 1 factors, each stack beside its mirror image (runners/screens.py makes them),
so that no *average effect* is confused with an interaction of two factors. 24 changes take 56 runs.

    y = mean + seed + sum_j x_j beta_j + e,  x_j = -1/2 at the low level and +1/2 at the high one,

by least squares, so that beta_j is a difference of two means of half the runs each. It is an average over the
stacks of the screen: where changes interact it is *not* the effect of one change on the base. A screen therefore
suggests; one change at a time confirms.

The error of an average effect is taken, where there are enough degrees of freedom, from what interactions of two
factors cannot reach: differences between a run and its mirror image that no factor explains, repeats of one run
with other seeds, and other experiments' noise of the same class. Else from all that the model leaves.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from ledger.errors import UsageError
from projections.statistics.distributions import f_upper, t_bound, t_two_sided
from projections.statistics.multiplicity import benjamini_hochberg
from projections.statistics.numeric import Array, finite

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


def runs_of(factors: int) -> int:
    """Runs of a folded screen: twice the smallest multiple of 4 above the number of factors; two factors take 4."""
    return 4 if factors == 2 else 8 * (factors // 4 + 1)


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
    rows = [[*(float(seed == other) for other in seeds), *(x / 2 for x in levels[arm])] for arm, seed in cells]
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
        raise UsageError("nothing tells the noise of the screen: its runs fit exactly; repeat them with another seed")
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

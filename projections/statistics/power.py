"""Power of a t test, the smallest effect it can see, and the seeds it needs.

With a true effect of theta standard errors and a variance on nu degrees of freedom,

    power = E[ Phi(theta - t s) + Phi(-theta - t s) ],  s = sqrt(chi2_nu / nu),

which is the tail of the noncentral t. The expectation is our own 400-point Gauss-Legendre rule on
the quantiles of chi2: scipy's noncentral t gives NaN in the tails that small plans live in, and
statsmodels' solver returns wrong sample sizes there.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

import numpy as np
from scipy import special

from projections.statistics.distributions import t_bound
from projections.statistics.numeric import Array, between, finite, positive

MOST_SEEDS = 10_000


@functools.cache
def _rule() -> tuple[Array, Array]:
    nodes, weights = np.polynomial.legendre.leggauss(400)
    v, w = (nodes + 1) / 2, weights / 2
    # chi2 quantiles have a root at 0 and a logarithm at 1; this substitution flattens both ends, which
    # brings the error of the plain rule at 2 degrees of freedom from 1e-6 to below 1e-10.
    return v**3 * (10 - 15 * v + 6 * v**2), w * 30 * v**2 * (1 - v) ** 2


@functools.lru_cache(maxsize=4096)
def _scale(df: float) -> Array:
    """sqrt(chi2_df / df) at the rule's quantiles."""
    if math.isinf(df):
        return np.ones(400)
    found: Array = np.sqrt(2.0 * special.gammaincinv(df / 2.0, _rule()[0]) / df)
    return found


def power(theta: float, df: float, alpha: float, sides: int = 2) -> float:
    """Power of a t test at a true effect of `theta` standard errors; 0 without degrees of freedom.

    One-sided tests look for a positive effect.
    """
    between(alpha, 0, 1, "alpha")
    finite((theta,), "effect")
    if not df > 0:
        return 0.0
    bound = float(t_bound(alpha / sides, df)) * _scale(df)
    values = special.ndtr(theta - bound)
    if sides == 2:
        values = values + special.ndtr(-theta - bound)
    return math.fsum((_rule()[1] * values).tolist())


@functools.lru_cache(maxsize=65536)
def smallest_effect(df: float, alpha: float, wanted: float = 0.8, sides: int = 2) -> float:
    """The effect, in standard errors, that a t test shows with the wanted power; inf when df is 0, or so small
    that nothing finite is shown (an estimated correlation can leave next to no degrees of freedom)."""
    if not df > 0:
        return math.inf
    low, high = 0.0, 1.0
    while power(high, df, alpha, sides) < wanted:
        if high > 1e12:
            return math.inf
        low, high = high, 2 * high
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if power(middle, df, alpha, sides) < wanted else (low, middle)
    return high


def planning_df(df: float) -> float:
    """Degrees of freedom rounded down to a whole number of two digits, for plans: a seed more, never one less.

    There are few of these, so a screen of thousands of arms solves a few dozen equations.
    """
    if df < 1 or math.isinf(df):
        return df
    unit = 10.0 ** max(0, math.floor(math.log10(df)) - 1)
    return math.floor(df / unit) * unit


def paired_power(theta: float, n: int, sd: float, alpha: float, df: float | None = None, sides: int = 2) -> float:
    """Power of a test of the mean of n differences with standard deviation sd (df n - 1 unless given)."""
    return power(theta * math.sqrt(n) / positive(sd, "sd"), n - 1 if df is None else df, alpha, sides)


def seeds_needed(enough: Callable[[int], bool]) -> int | None:
    """The smallest k from 1 for which `enough(k)` holds, a monotone test; None above MOST_SEEDS."""
    low, high = 0, 1
    while not enough(high):
        if high >= MOST_SEEDS:
            return None
        low, high = high, min(2 * high, MOST_SEEDS)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high


def paired_seeds(theta: float, sd: float, alpha: float, wanted: float = 0.8, sides: int = 2) -> int | None:
    """Pairs of a paired t test that shows `theta` with the wanted power."""
    unit = abs(theta) / positive(sd, "sd")
    if unit == 0:
        return None
    found = seeds_needed(lambda k: power(unit * math.sqrt(k + 1), k, alpha, sides) >= wanted)
    return None if found is None else found + 1

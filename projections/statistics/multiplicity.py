"""Many questions at once: corrections for a family, for a stream, and for cycles.

Holm for confirming, Benjamini and Hochberg for exploring, Benjamini and Yekutieli where a proof under
any dependence is wanted, e-BH for e-values (Wang and Ramdas 2022), LORD++ for a stream without an end
(Ramdas et al. 2017). A hypothesis of the family without a result counts as p = 1.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from ledger.errors import UsageError
from projections.statistics.numeric import between


def _ordered(p: Sequence[float]) -> list[int]:
    if any(not 0 <= value <= 1 for value in p):
        raise UsageError("a p-value lies outside 0 to 1; expected finite p-values")
    return sorted(range(len(p)), key=lambda i: (p[i], i))


def holm(p: Sequence[float], family: int | None = None) -> list[float]:
    """Holm's adjusted p-values, in the order given (Holm 1979). `family` counts the registered hypotheses."""
    m = max(family or 0, len(p))
    adjusted = [0.0] * len(p)
    worst = 0.0
    for rank, index in enumerate(_ordered(p)):
        worst = max(worst, min(1.0, (m - rank) * p[index]))
        adjusted[index] = worst
    return adjusted


def benjamini_hochberg(p: Sequence[float], family: int | None = None, factor: float = 1.0) -> list[float]:
    """Adjusted p-values (q) of Benjamini and Hochberg 1995."""
    m = max(family or 0, len(p))
    adjusted = [0.0] * len(p)
    least = 1.0
    order = _ordered(p)
    for rank in range(len(p), 0, -1):
        index = order[rank - 1]
        least = min(least, p[index] * m * factor / rank)
        adjusted[index] = least
    return adjusted


def benjamini_yekutieli(p: Sequence[float], family: int | None = None) -> list[float]:
    """Adjusted p-values valid under any dependence (Benjamini and Yekutieli 2001)."""
    m = max(family or 0, len(p))
    return benjamini_hochberg(p, family, math.fsum([1.0 / k for k in range(1, m + 1)]))


def e_bh(e: Sequence[float], alpha: float, family: int | None = None) -> list[bool]:
    """Which hypotheses e-BH rejects: the k largest, k = max {k : e_(k) >= m / (alpha k)}. Any dependence."""
    between(alpha, 0, 1, "alpha")
    if any(not value >= 0 for value in e):
        raise UsageError("an e-value is negative or not a number; expected 0 or more")
    m = max(family or 0, len(e))
    order = sorted(range(len(e)), key=lambda i: (-e[i], i))
    k = max([rank for rank, index in enumerate(order, 1) if e[index] >= m / (alpha * rank)], default=0)
    rejected = set(order[:k])
    return [index in rejected for index in range(len(e))]


def cycle_alpha(alpha: float, cycle: int) -> float:
    """What cycle c (from 1) may spend: alpha / (c (c + 1)), which adds up to alpha over any number of cycles."""
    between(alpha, 0, 1, "alpha")
    if cycle < 1:
        raise UsageError(f"cycle is {cycle}; expected 1 or more")
    return alpha / (cycle * (cycle + 1))


def lord_gamma(length: int) -> list[float]:
    """gamma_j of Javanmard and Montanari 2018, as in R's onlineFDR: .07720838 ln(max(j, 2)) / (j e^sqrt(ln j))."""
    return [0.07720838 * math.log(max(j, 2)) / (j * math.exp(math.sqrt(math.log(j)))) for j in range(1, length + 1)]


def lord(
    p: Sequence[float], alpha: float = 0.05, w0: float | None = None, gamma: Sequence[float] | None = None
) -> list[tuple[float, bool]]:
    """LORD++ on p-values in their order: (level, rejected) of each. w0 is alpha / 10 unless given.

    level_t = gamma_t w0 + (alpha - w0) gamma_(t - tau_1) + alpha sum over later rejections gamma_(t - tau_j).
    """
    between(alpha, 0, 1, "alpha")
    _ordered(p)
    wealth = alpha / 10 if w0 is None else between(w0, 0, alpha, "w0")
    weights = list(gamma) if gamma is not None else lord_gamma(len(p))
    if len(weights) < len(p):
        raise UsageError(f"gamma has {len(weights)} values; expected one for each of {len(p)} p-values")
    found: list[tuple[float, bool]] = []
    rejections: list[int] = []
    for t, value in enumerate(p):
        terms = [weights[t] * wealth]
        terms += [(alpha if j else alpha - wealth) * weights[t - tau - 1] for j, tau in enumerate(rejections)]
        level = math.fsum(terms)
        found.append((level, value <= level))
        if value <= level:
            rejections.append(t)
    return found

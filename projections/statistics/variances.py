"""Moderated variance: what the arms of one noise class say together about the noise of each.

Smyth 2004 (limma's fitFDist and squeezeVar), per noise class, from within-arm variances s_j^2 with
df_j degrees of freedom. With e_j = ln s_j^2 - psi(df_j / 2) + ln(df_j / 2) and
V = var(e) - mean psi'(df_j / 2):

    V > 0:  d0 = 2 psi'^-1(V),  s0^2 = exp(mean e + psi(d0 / 2) - ln(d0 / 2))
    else:   d0 = inf,           s0^2 = sum df s^2 / sum df
    s~_j^2 = (d0 s0^2 + df_j s_j^2) / (d0 + df_j)  on  min(d0 + df_j, sum df) degrees of freedom.

d0 is capped at 20: where variances really differ, full pooling breaks the error rate. Variances are
never pooled across noise classes; that is the caller's part.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import NamedTuple

from scipy import special

from ledger.errors import UsageError
from projections.statistics.distributions import f_upper
from projections.statistics.numeric import finite, mean, variance

CAP = 20.0  # default bound of d0
FEWEST = 5  # variances that a prior is fitted to
NOISIER = 0.2  # level of the F test that keeps a noisy arm from borrowing the others' quiet


class Prior(NamedTuple):
    """What a noise class says about a variance that was not seen yet."""

    d0: float  # degrees of freedom that it is worth, after the cap
    s0_squared: float
    d0_fitted: float  # before the cap
    capped: bool
    arms: int  # variances that it was fitted to
    df: float  # their degrees of freedom together
    floored: int  # variances raised to the floor


class Spread(NamedTuple):
    """The variance of one arm, as a test uses it, and how much of it is borrowed from the other arms."""

    variance: float
    df: float
    source: str  # moderated, pooled, own or none
    own_df: float  # degrees of freedom of the part that is the arm's own
    borrowed: float = 0.0  # the part of the variance that all arms share
    borrowed_df: float = math.inf
    limit: float = math.inf  # degrees of freedom that all the variances have together


def own_spread(value: float, df: float) -> Spread:
    """An arm that borrows nothing."""
    return Spread(value, df, "own", df) if df > 0 else Spread(0.0, 0.0, "none", 0.0)


def rounding_variance(resolution: float) -> float:
    """Variance of a rounding error when values are printed in steps of `resolution`."""
    return resolution**2 / 12.0


@functools.lru_cache(maxsize=4096)
def trigamma_inverse(x: float) -> float:
    """The y with psi'(y) = x, by Newton steps on 1 / psi' (Smyth 2004, appendix)."""
    if x > 1e7:
        return 1.0 / math.sqrt(x)
    if x < 1e-6:
        return 1.0 / x
    y = 0.5 + 1.0 / x
    for _ in range(50):
        trigamma = float(special.polygamma(1, y))
        step = trigamma * (1.0 - trigamma / x) / float(special.polygamma(2, y))
        y += step
        if abs(step) <= 1e-15 * y:
            break
    return y


@functools.lru_cache(maxsize=4096)
def _centre(df: float) -> float:
    """Mean of ln s^2 for a variance of 1 on df degrees of freedom."""
    return float(special.digamma(df / 2)) - math.log(df / 2)


@functools.lru_cache(maxsize=4096)
def _trigamma(x: float) -> float:
    return float(special.polygamma(1, x))


def fit_prior(
    variances: Sequence[float], dfs: Sequence[float], cap: float = CAP, floor: float = 0.0, fewest: int = FEWEST
) -> Prior | None:
    """The prior of one noise class; None when fewer than `fewest` variances have a degree of freedom.

    A variance below `floor` (the metric's rounding variance) counts as the floor, because the fit
    takes logarithms; variances of 0 with a floor of 0 are raised to 1e-5 of the median, as limma does.
    All zero gives None. Raises UsageError for negative or infinite variances.
    """
    finite(variances, "variances")
    if any(value < 0 for value in variances) or len(variances) != len(dfs):
        raise UsageError("variances must not be negative, and each needs its degrees of freedom")
    known = sorted((value, df) for value, df in zip(variances, dfs, strict=True) if df > 0)
    if len(known) < max(fewest, 2):
        return None
    values, df = [value for value, _ in known], [float(df) for _, df in known]
    middle = (
        values[len(values) // 2] if len(values) % 2 else mean(values[len(values) // 2 - 1 : len(values) // 2 + 1])
    )
    lowest = max(floor, 1e-5 * middle)
    if lowest <= 0:
        return None
    floored = [max(value, lowest) for value in values]
    logs = [math.log(s) - _centre(d) for s, d in zip(floored, df, strict=True)]
    excess = variance(logs) - mean([_trigamma(d / 2) for d in df])
    if excess > 0:
        d0 = 2.0 * trigamma_inverse(excess)
        s0_squared = math.exp(mean(logs) + float(special.digamma(d0 / 2)) - math.log(d0 / 2))
    else:
        d0, s0_squared = math.inf, math.fsum([d * s for s, d in zip(floored, df, strict=True)]) / math.fsum(df)
    raised = len([value for value in values if value < lowest])
    return Prior(min(d0, cap), s0_squared, d0, d0 > cap, len(known), math.fsum(df), raised)


def squeeze(value: float, df: float, prior: Prior) -> Spread:
    """The moderated variance of one arm; an arm with one seed (df 0) has the prior's."""
    if math.isinf(prior.d0):
        return Spread(prior.s0_squared, prior.df, "moderated", 0.0, prior.s0_squared, prior.df, prior.df)
    total = prior.d0 + df
    borrowed, own = prior.d0 * prior.s0_squared / total, (df * value / total if df > 0 else 0.0)
    limit = max(prior.df, df)
    return Spread(borrowed + own, min(total, limit), "moderated", df, borrowed, prior.d0, limit)


def pool(variances: Sequence[float], dfs: Sequence[float]) -> tuple[float, float]:
    """(pooled variance, degrees of freedom); (0, 0) when there is none."""
    total = math.fsum(dfs)
    if total <= 0:
        return 0.0, 0.0
    return math.fsum([df * value for value, df in zip(variances, dfs, strict=True) if df > 0]) / total, total


def spreads(own: Sequence[tuple[float, float]], prior: Prior | None, floor: float = 0.0) -> list[Spread]:
    """A variance for each arm of a family, from its own (variance, df).

    With a prior: moderated. Else with three variances or more: pooled within the family, but an arm
    whose variance exceeds the rest's (F test at NOISIER) keeps its own. Else each its own. `none`
    where an arm has no degree of freedom and nothing to borrow.
    """
    if prior is not None:
        return [squeeze(max(value, floor), df, prior) for value, df in own]
    known = [(max(value, floor), df) for value, df in own if df > 0]
    if len(known) >= 3:
        total, total_df = pool(*zip(*known, strict=True))
        return [_pooled(max(value, floor), df, total, total_df) for value, df in own]
    return [own_spread(max(value, floor), df) for value, df in own]


def _pooled(value: float, df: float, total: float, total_df: float) -> Spread:
    if df > 0 and total_df > df:
        rest = (total * total_df - value * df) / (total_df - df)
        if value > 0 and (rest <= 0 or f_upper(value / rest, df, total_df - df) < NOISIER):
            return own_spread(value, df)
    return Spread(total, total_df, "pooled", 0.0, total, total_df, total_df)

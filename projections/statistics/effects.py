"""The effect of a change: generalised least squares with shared controls, by pair tier.

A treatment has n_s seeds that the control has too and n_u of its own; the control has n_o further
seeds, among them the bank of the same base. Same-seed runs correlate with rho. The weights are those
of generalised least squares with equal variances; with n_u = 0 and n_t = n_s they are

    d = mean(y_t) - b mean(y_c, same) - (1 - b) mean(y_c, other),  b = (n_t + rho n_o) / n_c.

The variance uses each arm's own. rho = 0 is Welch's test, rho = 1 the paired estimate. Pairing is a
tier: `fork` (one checkpoint) takes paired differences, `rerun` an estimated rho, and `seed` (the seed
number only) and `none` take rho = 0, because equal integers are not equal noise. rho too low costs
power only; too high breaks the error rate.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from projections.statistics.distributions import f_bound, floats
from projections.statistics.numeric import Array, mean, variance
from projections.statistics.variances import Spread

Values = Mapping[int, float]  # value of one arm by seed


class Weights(NamedTuple):
    """What each value of a contrast counts: the treatment's with a partner and without, the control's likewise."""

    t_same: float
    t_only: float
    c_same: float
    c_only: float


class Counts(NamedTuple):
    """Seeds of both, of the treatment alone, of the control alone."""

    same: int
    t_only: int
    c_only: int


class Effect(NamedTuple):
    """An estimate: its standard error is exact for the variances it was given."""

    d: float
    se: float
    df: float
    b: float  # weight of the controls that share the treatment's seeds
    counts: Counts


def weights(counts: Counts, rho: float) -> Weights:
    """Generalised least squares with equal variances. Needs a seed on each side."""
    same, t_only, c_only = counts
    rho = rho if same else 0.0
    n_t, n_c = same + t_only, same + c_only
    total = n_t * n_c - rho * rho * t_only * c_only
    return Weights(
        (n_c + rho * t_only) / total,
        (n_c - rho * rho * c_only - rho * same) / total,
        -(n_t + rho * c_only) / total,
        -(n_t - rho * rho * t_only - rho * same) / total,
    )


def contrast_variance(counts: Counts, rho: float, v_t: float, v_c: float) -> float:
    """Variance of the estimate when a treatment run has variance v_t and a control run v_c."""
    a, b, c = _parts(counts, rho)
    return max(0.0, a * v_t + b * v_c + 2.0 * c * math.sqrt(v_t * v_c))


def _parts(counts: Counts, rho: float) -> tuple[float, float, float]:
    """Coefficients of v_t, v_c and 2 sqrt(v_t v_c) in the variance."""
    w = weights(counts, rho)
    return (
        counts.same * w.t_same**2 + counts.t_only * w.t_only**2,
        counts.same * w.c_same**2 + counts.c_only * w.c_only**2,
        rho * counts.same * w.t_same * w.c_same,
    )


def contrast_df(counts: Counts, rho: float, treatment: Spread, control: Spread) -> float:
    """Degrees of freedom of the estimate's variance (Satterthwaite).

    Its sources are the variance that both arms borrow, which counts once, and each arm's own. Without
    borrowing that is Welch's test, with a pooled variance Student's; moderated it lies between.
    """
    a, b, c = _parts(counts, rho)
    v_t, v_c = treatment.variance, control.variance
    both = c * math.sqrt(v_t * v_c)  # the covariance grows with the root of either variance
    g_t, g_c = a + (both / v_t if v_t > 0 else 0.0), b + (both / v_c if v_c > 0 else 0.0)
    parts = [
        (g_t * treatment.borrowed + g_c * control.borrowed, min(treatment.borrowed_df, control.borrowed_df)),
        (g_t * (v_t - treatment.borrowed), treatment.own_df),
        (g_c * (v_c - control.borrowed), control.own_df),
    ]
    return min(satterthwaite(parts), treatment.limit, control.limit)


def satterthwaite(parts: Sequence[tuple[float, float]]) -> float:
    """Degrees of freedom of a sum of independent (variance, df); inf when all are known, 0 when all vanish."""
    total = math.fsum([part for part, _ in parts])
    if total <= 0:
        return 0.0
    below = math.fsum([(part / total) ** 2 / df for part, df in parts if part and df > 0])
    return 1.0 / below if below > 0 else math.inf


def count(treatment: Values, control: Values) -> Counts:
    """How the seeds of two arms overlap."""
    same = len(treatment.keys() & control.keys())
    return Counts(same, len(treatment) - same, len(control) - same)


def estimate(treatment: Values, control: Values, rho: float, spread_t: Spread, spread_c: Spread) -> Effect:
    """The effect of a treatment against a control, from one value a seed on each side."""
    counts = count(treatment, control)
    w = weights(counts, rho)
    products = [y * (w.t_same if seed in control else w.t_only) for seed, y in treatment.items()]
    products += [y * (w.c_same if seed in treatment else w.c_only) for seed, y in control.items()]
    return Effect(
        math.fsum(products),
        math.sqrt(contrast_variance(counts, rho, spread_t.variance, spread_c.variance)),
        contrast_df(counts, rho, spread_t, spread_c),
        -w.c_same * counts.same,
        counts,
    )


def differences(treatment: Values, control: Values) -> list[float]:
    """Paired differences, in the order of seeds."""
    return [treatment[seed] - control[seed] for seed in sorted(treatment.keys() & control.keys())]


def covariance(
    arms: Sequence[Values], control: Values, rho: float, v_arms: Sequence[float], v_control: float
) -> Array:
    """Covariance matrix of the effects of several arms against one control.

    Effects share the control's noise, and with rho above 0 also that of a seed. Its diagonal is
    contrast_variance; one arm at two sizes has Cov(d_m, d_n) = Var(d_n), which is what sequential
    methods need.
    """
    scale = [math.sqrt(v) for v in v_arms]
    scale_c = math.sqrt(v_control)
    rows: list[tuple[dict[int, float], dict[int, float]]] = []
    for arm in arms:
        w = weights(count(arm, control), rho)
        rows.append(
            (
                {seed: w.t_same if seed in control else w.t_only for seed in sorted(arm)},
                {seed: w.c_same if seed in arm else w.c_only for seed in sorted(control)},
            )
        )
    found = []
    for i, (t_i, c_i) in enumerate(rows):
        line = []
        for j, (t_j, c_j) in enumerate(rows):
            terms = [w * c_j[seed] * v_control for seed, w in c_i.items()]
            terms += [rho * scale[i] * scale_c * w * c_j.get(seed, 0.0) for seed, w in t_i.items()]
            terms += [rho * scale[j] * scale_c * w * c_i.get(seed, 0.0) for seed, w in t_j.items()]
            same = 1.0 if i == j else rho
            terms += [same * scale[i] * scale[j] * w * t_j.get(seed, 0.0) for seed, w in t_i.items()]
            line.append(math.fsum(terms))
        found.append(line)
    return floats(found)


class Correlation(NamedTuple):
    """Same-seed correlation: its REML estimate, a lower 90 % bound, and the layout behind it."""

    rho: float
    low: float
    arms: int
    df: int


def same_seed_correlation(layouts: Sequence[Sequence[Values]], level: float = 0.9) -> Correlation:
    """The correlation of runs that share a seed, from complete layouts (arms by seeds).

    y = arm + seed + e. In a complete layout REML is the analysis of variance, F = MS(seeds) / MS(rest),
    rho = (F - 1) / (F + a - 1), and the exact lower bound puts F / F_quantile for F (Searle 1971).
    Of a layout with holes the complete part with most degrees of freedom is used. Layouts with the same
    number of arms are pooled; of several numbers the one with most degrees of freedom counts. Without a
    layout: 0.
    """
    sums: dict[int, list[tuple[float, float, int]]] = {}
    for layout in layouts:
        arms, seeds = _complete(layout)
        if len(seeds) < 2:
            continue
        a = len(arms)
        centre = [mean([arm[seed] for seed in seeds]) for arm in arms]
        rest = [[arm[seed] - m for seed in seeds] for arm, m in zip(arms, centre, strict=True)]
        by_seed = [mean(column) for column in zip(*rest, strict=True)]
        between = a * math.fsum([m * m for m in by_seed])
        within = math.fsum([(y - m) ** 2 for row in rest for y, m in zip(row, by_seed, strict=True)])
        sums.setdefault(a, []).append((between, within, len(seeds) - 1))
    if not sums:
        return Correlation(0.0, 0.0, 0, 0)
    a, found = max(sorted(sums.items()), key=lambda item: (item[0] - 1) * math.fsum([s[2] for s in item[1]]))
    df = int(math.fsum([s[2] for s in found]))
    ms_seeds, ms_rest = math.fsum([s[0] for s in found]) / df, math.fsum([s[1] for s in found]) / (df * (a - 1))
    if ms_rest <= 0:
        rho = 1.0 if ms_seeds > 0 else 0.0
        return Correlation(rho, 0.0, a, df)  # no noise left to test against: nothing is claimed
    ratio = ms_seeds / ms_rest
    lower = ratio / f_bound(1.0 - level, df, df * (a - 1))
    return Correlation(max(0.0, (ratio - 1) / (ratio + a - 1)), max(0.0, (lower - 1) / (lower + a - 1)), a, df)


def _complete(layout: Sequence[Values]) -> tuple[list[Values], list[int]]:
    """The arms, and the seeds that all of them have, with most degrees of freedom; those with more seeds first."""
    best: tuple[int, list[Values], list[int]] = (0, [], [])
    ordered = sorted([arm for arm in layout if arm], key=lambda arm: -len(arm))
    seeds: set[int] = set(ordered[0]) if ordered else set()
    for size, arm in enumerate(ordered, 1):
        seeds &= arm.keys()
        if (df := (size - 1) * (len(seeds) - 1)) > best[0]:
            best = (df, ordered[:size], sorted(seeds))
    return best[1], best[2]


def own_variance(values: Sequence[float]) -> tuple[float, float]:
    """(variance, degrees of freedom) of one arm; (0, 0) below two values."""
    return (variance(values), len(values) - 1.0) if len(values) > 1 else (0.0, 0.0)

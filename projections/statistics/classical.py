"""The tests that people know: paired, Welch, one sample, known standard deviation, two one-sided tests.

`sides` is 2, or 1 with the alternative that the statistic is positive ("greater") or negative
("less"). Degenerate data have a defined result: without spread a difference of 0 has p = 1, any other
p = 0, and below two values on a side there is no test (None).
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np

from ledger.errors import UsageError
from projections.statistics.distributions import normal_lower, t_bound, t_lower, t_two_sided, t_upper
from projections.statistics.effects import satterthwaite
from projections.statistics.numeric import Array, between, finite, mean, positive, variance

Side = Literal["two-sided", "greater", "less"]


class TTest(NamedTuple):
    """A test and its interval. `t` is infinite when there is no spread."""

    effect: float
    se: float
    df: float
    t: float
    p: float
    low: float
    high: float


def t_test(effect: float, se: float, df: float, side: Side = "two-sided", level: float = 0.95) -> TTest:
    """The t test of an effect with its standard error; the interval is two-sided at `level`."""
    finite((effect, se), "effect and standard error")
    if se <= 0:
        t = 0.0 if effect == 0 else math.copysign(math.inf, effect)
        p = {"two-sided": float(t == 0), "greater": 1.0 - (t > 0), "less": 1.0 - (t < 0)}[side]
        return TTest(effect, 0.0, df, t, p, effect, effect)
    t = effect / se
    half = float(t_bound((1.0 - between(level, 0, 1, "level")) / 2, df)) * se
    return TTest(effect, se, df, t, p_of(t, df, side), effect - half, effect + half)


def p_of(t: float, df: float, side: Side) -> float:
    """p-value of a t statistic."""
    if side == "two-sided":
        return float(t_two_sided(t, df))
    return float(t_upper(t, df) if side == "greater" else t_lower(t, df))


def one_sample(values: Sequence[float], target: float = 0.0, side: Side = "two-sided") -> TTest | None:
    """Student's test of a mean against `target`. The effect is mean minus target."""
    values = finite(values, "values")
    if len(values) < 2:
        return None
    shifted = [value - target for value in values]
    return t_test(mean(shifted), math.sqrt(variance(shifted) / len(values)), len(values) - 1, side)


def paired(treatment: Sequence[float], control: Sequence[float], side: Side = "two-sided") -> TTest | None:
    """Student's test of paired differences, treatment minus control."""
    if len(treatment) != len(control):
        raise UsageError(f"pairs need as many values on both sides; found {len(treatment)} and {len(control)}")
    pairs = zip(finite(treatment, "treatment"), finite(control, "control"), strict=True)
    return one_sample([t - c for t, c in pairs], 0.0, side)


def welch(
    treatment: Sequence[float], control: Sequence[float], side: Side = "two-sided", margin: float = 0.0
) -> TTest | None:
    """Welch's test of mean(treatment) - mean(control) against `margin` (the effect reported is less the margin)."""
    treatment, control = finite(treatment, "treatment"), finite(control, "control")
    n, m = len(treatment), len(control)
    if n < 2 or m < 2:
        return None
    parts = [(variance(treatment) / n, n - 1.0), (variance(control) / m, m - 1.0)]
    se = math.sqrt(math.fsum([part for part, _ in parts]))
    return t_test(mean(treatment) - mean(control) - margin, se, satterthwaite(parts), side)


class KnownSd(NamedTuple):
    """A mean against a target when the standard deviation of one run is known."""

    effect: float  # target minus mean: positive beats a target that is to be undercut
    statistic: float  # effect times sqrt(n)
    z: float
    p: float  # one-sided


def known_sd(values: Sequence[float], target: float, sd: float) -> KnownSd | None:
    """One-sided z test that the mean lies below `target`; statistic (target - mean) sqrt(n)."""
    values = finite(values, "values")
    if not values:
        return None
    effect = mean([target - value for value in values])
    statistic = effect * math.sqrt(len(values))
    z = statistic / positive(sd, "sd")
    return KnownSd(effect, statistic, z, float(normal_lower(-z)))


class Equivalence(NamedTuple):
    """Two one-sided tests (Schuirmann 1987)."""

    t_low: float
    p_low: float  # against effect <= -delta
    t_high: float
    p_high: float  # against effect >= +delta
    p: float


def equivalence(effect: float, se: float, df: float, delta: float) -> Equivalence:
    """Is |effect| < delta? p is the larger of the two."""
    positive(delta, "delta")
    finite((effect, se), "effect and standard error")
    if se <= 0:
        low, high = (effect > -delta), (effect < delta)
        return Equivalence(
            math.copysign(math.inf, effect + delta), 1.0 - low, math.copysign(math.inf, effect - delta), 1.0 - high,
            1.0 - (low and high),
        )  # fmt: skip
    t_low, t_high = (effect + delta) / se, (effect - delta) / se
    p_low, p_high = float(t_upper(t_low, df)), float(t_lower(t_high, df))
    return Equivalence(t_low, p_low, t_high, p_high, max(p_low, p_high))


def bootstrap_mean(
    values: Sequence[float], seed: int, resamples: int = 10_000, level: float = 0.95
) -> tuple[float, float]:
    """Percentile bootstrap interval of a mean. Wrong at small n (75 % coverage at n = 3): shown, never decided on.

    The resamples are those of numpy's default_rng(seed).integers(0, n, (resamples, n)), made here from
    PCG64's raw stream, which numpy keeps stable, with Lemire's rejection.
    """
    values = finite(values, "values")
    if not values:
        raise UsageError("a bootstrap needs at least one value; found none")
    means = np.zeros(resamples)
    for value, times in zip(values, _times_drawn(seed, len(values), resamples), strict=True):
        means += value * times
    tails = [(1.0 - level) / 2 * (resamples - 1), (1.0 + level) / 2 * (resamples - 1)]
    places = [min(math.floor(tail) + step, resamples - 1) for tail in tails for step in (0, 1)]
    a, b, c, d = (np.partition(means, sorted({*places}))[places] / len(values)).tolist()
    low, high = (tail - math.floor(tail) for tail in tails)  # linear between order statistics, as numpy's percentile
    return a + low * (b - a), c + high * (d - c)


@functools.lru_cache(maxsize=16)
def _times_drawn(seed: int, n: int, resamples: int) -> Array:
    """How often each resample draws each value: one row a value, one column a resample."""
    stream = np.random.PCG64(seed)
    wanted = resamples * n
    kept = []
    have = 0
    while have < wanted:
        raw = stream.random_raw((wanted - have + 3) // 2)
        halves = np.column_stack([raw & np.uint64(0xFFFFFFFF), raw >> np.uint64(32)]).ravel()
        scaled = halves * np.uint64(n)
        good = scaled[(scaled & np.uint64(0xFFFFFFFF)) >= np.uint64((2**32 - n) % n)] >> np.uint64(32)
        kept.append(good)
        have += len(good)
    drawn = np.concatenate(kept)[:wanted].astype(np.int64)
    cells = np.arange(resamples).repeat(n) + resamples * drawn
    return np.bincount(cells, minlength=n * resamples).reshape(n, resamples).astype(np.float64)

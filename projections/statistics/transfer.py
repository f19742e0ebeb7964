"""Does an effect on a proxy tell the effect on the target? Regression with errors in both.

x_k (proxy) and y_k (target) are estimates with known standard errors of effects theta_k and
b theta_k + nu_k, theta ~ N(0, tau^2), nu ~ N(0, omega^2):

    Cov(x, y) = [[tau^2 + sx^2, b tau^2 + sxy], [b tau^2 + sxy, b^2 tau^2 + omega^2 + sy^2]],

where sxy is 0 unless x and y are two metrics of the same runs.

The posterior is a fixed grid, so that it is the same on every machine: b from -3 to 4 in steps of .05
with prior N(.5, 1); ln tau over two prior standard deviations, N(ln delta, 1); omega from 0 to
1.75 delta with a half-normal prior of scale delta / 2 (delta = .002 bpb gives the design's figures).
A least-squares slope is attenuated by the proxy's noise and a mean of ratios is useless at K = 8.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from ledger.errors import UsageError
from projections.statistics.numeric import Array, finite, ordered_sum, positive

FEWEST = 3


class Wilson(NamedTuple):
    """A share with its Wilson interval."""

    share: float
    low: float
    high: float


class Prediction(NamedTuple):
    """What the proxy says of an effect that the target has not seen."""

    mean: float
    sd: float


class Transfer(NamedTuple):
    """The slope from proxy to target and how far to trust it."""

    k: int
    b: float  # posterior mean
    low: float  # 90 % interval
    high: float
    p_positive: float
    reliability: float  # posterior mean of tau^2 / (tau^2 + mean sx^2)
    signs: Wilson
    predictions: tuple[Prediction, ...]


def wilson(successes: int, n: int, z: float = 1.959963984540054) -> Wilson:
    """Wilson's interval of a share (1927); 0 to 1 without observations."""
    if n == 0:
        return Wilson(math.nan, 0.0, 1.0)
    share, z2 = successes / n, z * z
    centre = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = z / (1 + z2 / n) * math.sqrt(share * (1 - share) / n + z2 / (4 * n * n))
    return Wilson(share, max(0.0, centre - half), min(1.0, centre + half))


def transfer(
    x: Sequence[float],
    sx: Sequence[float],
    y: Sequence[float],
    sy: Sequence[float],
    delta: float = 0.002,
    new: Sequence[tuple[float, float]] = (),
    sxy: Sequence[float] | None = None,
) -> Transfer:
    """Posterior of the transfer slope from K interventions measured on both; predictions for `new` (x, sx).

    `sxy` are covariances of the errors of x and y, where both were measured on the same runs (two metrics).
    """
    positive(delta, "delta")
    for values, what in ((x, "proxy effects"), (y, "target effects"), (sx, "proxy errors"), (sy, "target errors")):
        finite(values, what)
    if not FEWEST <= len(x) == len(sx) == len(y) == len(sy):
        raise UsageError(
            f"transfer needs {FEWEST} interventions or more on both platforms; found {len(x)} and {len(y)}"
        )
    if any(s <= 0 for s in (*sx, *sy, *(s for _, s in new))):
        raise UsageError("a standard error is 0 or negative; expected errors above 0")
    shared = [0.0] * len(x) if sxy is None else finite(sxy, "covariances of the errors")
    if len(shared) != len(x) or any(
        c * c > (1 - 1e-9) * a * a * e * e for c, a, e in zip(shared, sx, sy, strict=True)
    ):
        raise UsageError("each covariance of two errors must lie within the product of their standard errors")
    b, tau, omega, weight = _grid(x, sx, y, sy, shared, delta)
    slopes, by_slope = b[:, 0, 0], np.add.accumulate(weight.reshape(len(b), -1), axis=1)[:, -1]
    mean_b = float(ordered_sum(by_slope * slopes))
    mean_sx2 = math.fsum([s * s for s in sx]) / len(sx)
    reliability = float(ordered_sum((weight * tau**2 / (tau**2 + mean_sx2)).ravel()))
    agree = len([1 for a, c in zip(x, y, strict=True) if a * c > 0])
    told = len([1 for a, c in zip(x, y, strict=True) if a * c != 0])
    return Transfer(
        len(x),
        mean_b,
        _quantile(slopes, by_slope, 0.05),
        _quantile(slopes, by_slope, 0.95),
        float(ordered_sum(by_slope * (np.where(slopes > 0, 1.0, 0.0) + np.where(slopes == 0, 0.5, 0.0)))),
        reliability,
        wilson(agree, told),
        tuple(_predict(value, error, b, tau, omega, weight) for value, error in new),
    )


def _grid(
    x: Sequence[float],
    sx: Sequence[float],
    y: Sequence[float],
    sy: Sequence[float],
    sxy: Sequence[float],
    delta: float,
) -> tuple[Array, Array, Array, Array]:
    """(b, tau, omega, posterior weight) on the grid."""
    b = np.round(np.linspace(-3.0, 4.0, 141), 10)[:, None, None]
    steps = np.linspace(-2.0, 2.0, 9)[None, :, None]
    tau = delta * np.exp(steps)
    omega = (delta / 4 * np.arange(8.0))[None, None, :]
    log = -0.5 * (b - 0.5) ** 2 - 0.5 * steps**2 - 0.5 * (omega / (delta / 2)) ** 2
    for xk, sxk, yk, syk, shared in zip(x, sx, y, sy, sxy, strict=True):
        vx, c, vy = tau**2 + sxk**2, b * tau**2 + shared, b**2 * tau**2 + omega**2 + syk**2
        determinant = vx * vy - c**2
        log = log - 0.5 * (np.log(determinant) + (vy * xk**2 - 2 * c * xk * yk + vx * yk**2) / determinant)
    weight = np.exp(log - np.max(log))
    return b, tau, omega, weight / ordered_sum(weight.ravel())


def _quantile(points: Array, mass: Array, q: float) -> float:
    """Quantile of a distribution whose mass is spread evenly over a cell around each grid point."""
    step = float(points[1] - points[0])
    cumulative = np.concatenate([[0.0], np.add.accumulate(mass)])
    edges = np.concatenate([points - step / 2, [points[-1] + step / 2]])
    return float(np.interp(q, cumulative / cumulative[-1], edges))


def _predict(x: float, sx: float, b: Array, tau: Array, omega: Array, weight: Array) -> Prediction:
    """Predictive mean and sd of the target effect, over the posterior (or the prior) of (b, tau, omega)."""
    shrink = tau**2 / (tau**2 + sx**2)
    centre = b * shrink * x
    spread = b**2 * shrink * sx**2 + omega**2 + 0.0 * centre
    mean = float(ordered_sum((weight * centre).ravel()))
    second = float(ordered_sum((weight * (spread + centre**2)).ravel()))
    return Prediction(mean, math.sqrt(max(second - mean * mean, 0.0)))


def foreseen(x: float, sx: float, delta: float = 0.002) -> Prediction:
    """What a proxy's effect says of the target by the prior alone, before any intervention was measured on both."""
    positive(delta, "delta"), positive(sx, "standard error"), finite((x,), "proxy effect")
    return _predict(x, sx, *_prior(delta))


@functools.lru_cache(maxsize=8)
def _prior(delta: float) -> tuple[Array, Array, Array, Array]:
    """The grid before any observation."""
    return _grid((), (), (), (), (), delta)


def deming(x: Sequence[float], y: Sequence[float], ratio: float) -> float:
    """Deming's slope (with intercept) for a known ratio var(error of y) / var(error of x)."""
    if len(x) != len(y) or len(x) < 2:
        raise UsageError("a slope needs two points or more, each with x and y")
    mx, my = math.fsum(finite(x, "x")) / len(x), math.fsum(finite(y, "y")) / len(y)
    sxx, syy = math.fsum([(v - mx) ** 2 for v in x]), math.fsum([(v - my) ** 2 for v in y])
    sxy = math.fsum([(a - mx) * (b - my) for a, b in zip(x, y, strict=True)])
    if sxy == 0:
        raise UsageError("x and y do not vary together: no slope is defined")
    positive(ratio, "ratio")
    return (syy - ratio * sxx + math.sqrt((syy - ratio * sxx) ** 2 + 4 * ratio * sxy**2)) / (2 * sxy)

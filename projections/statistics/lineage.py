"""Effects of techniques from declared parents: additive component network meta-analysis.

After Rucker, Petropoulou and Schwarzer 2020. Each comparison is a child minus its parent,

    dy = D beta + c + h + e,   beta_j ~ N(m, tau^2),   h ~ N(0, omega^2) hidden retuning,
    Cov(e) = N S N'  (N: child +1, parent -1; S: variances of the nodes' means),

so siblings share their parent's noise and chains get negative covariance. m and c are normal with
scale delta and integrated exactly; (tau, omega) is a fixed grid, so no optimiser decides. A lineage
effect is a prior, never confirmed: records are kept because they improved.

Two things make its intervals honest where techniques interact and parents are declared wrongly. A
comparison of k changes has (k + 1) / 2 times omega^2: each change meets a stack that it was not tuned on.
And a comparison that the others do not foresee counts less: with z its residual when they foresee it,
in their standard deviation, (z / FAR)^4 times its variance where that is more, in ROUNDS rounds.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from ledger.errors import UsageError
from projections.statistics.distributions import floats, normal_lower
from projections.statistics.numeric import Array, finite, ordered_sum, positive

TAUS = 0.25 * 2.0 ** (0.5 * np.arange(13))  # in deltas: .25 to 16
OMEGAS = 0.25 * np.concatenate([np.arange(8), 8 * 2.0 ** (0.5 * np.arange(5))])  # in deltas: 0 to 1.75, 2 to 8
FAR = 3.0
ROUNDS = 4
PRACTICAL = 0.7  # posterior sd below this share of the prior's


class LineageEffects(NamedTuple):
    """Posterior of each technique's effect, one entry each."""

    mean: tuple[float, ...]
    sd: tuple[float, ...]
    p_negative: tuple[float, ...]
    shrink: tuple[float, ...]  # 1 - (posterior sd / prior sd)^2
    practical: tuple[bool, ...]
    m: float
    tau: float
    omega: float
    c: float
    covariance: Array  # of the effects, techniques by techniques
    extra: tuple[float, ...]  # variance that a comparison got besides omega^2, as an outlier
    z: tuple[float, ...]  # of each comparison: its residual when the others foresee it, in their standard deviation


def lineage(
    differences: Sequence[float],
    design: Sequence[Sequence[int]],
    edges: Sequence[tuple[int, int]],
    node_variances: Sequence[float],
    delta: float = 0.002,
    *,
    robust: bool = False,
) -> LineageEffects:
    """Posterior from comparisons with their techniques, their (child, parent), and the variances of node means.

    `robust` gives comparisons of several changes, and outliers, the variance that the head of this file tells of.
    """
    positive(delta, "delta")
    dy = floats(finite(differences, "differences"))
    finite(node_variances, "variances of nodes")
    if not len(dy) == len(design) == len(edges) or not len(dy):
        raise UsageError("each comparison needs its techniques and its (child, parent); expected one or more")
    d = floats(design).reshape(len(dy), -1)
    noise = noise_of(edges, node_variances) + 1e-12 * delta**2 * np.eye(len(dy))
    steps = steps_of(d) if robust else np.ones(len(dy))
    extra = np.zeros(len(dy))
    found = _posterior(dy, d, noise, steps, extra, delta)
    for _ in range(ROUNDS if robust else 0):
        before, extra = extra, _outliers(dy, d, noise, steps, extra, found, delta)
        if not np.any(extra) and not np.any(before):
            break
        found = _posterior(dy, d, noise, steps, extra, delta)
    residual, spread = left_out(dy, total_of(d, noise, steps, extra, found.tau, found.omega, delta))
    return found._replace(extra=tuple(extra.tolist()), z=tuple((residual / np.sqrt(spread)).tolist()))


def steps_of(d: Array) -> Array:
    """How many times omega^2 a comparison has: once, and half as much more for every further change."""
    changes = ordered_sum(np.abs(d).T) if d.shape[1] else np.zeros(len(d))
    found: Array = 0.5 + 0.5 * np.maximum(1.0, changes)
    return found


def wide_of(d: Array) -> Array:
    """Coefficients are techniques, then m, then c: techniques given m are independent, so D carries both."""
    n, k = d.shape
    return np.concatenate([d, d @ np.ones((k, 1)), np.ones((n, 1))], axis=1)


def prior_of(k: int, tau: float, delta: float) -> Array:
    """Variances of those coefficients."""
    return np.concatenate([np.full(k, tau**2), [delta**2, delta**2]])


def total_of(d: Array, noise: Array, steps: Array, extra: Array, tau: float, omega: float, delta: float) -> Array:
    """Covariance of the differences before any was seen."""
    wide, prior = wide_of(d), prior_of(d.shape[1], tau, delta)
    total: Array = noise + np.diag(omega**2 * steps + extra) + (wide * prior) @ wide.T
    return total


def left_out(dy: Array, total: Array) -> tuple[Array, Array]:
    """Of each difference: what the others did not foresee of it, and the variance of that."""
    inverse = np.linalg.inv(total)
    precision = np.diag(inverse)
    return (inverse @ dy) / precision, 1.0 / precision


def _outliers(
    dy: Array, d: Array, noise: Array, steps: Array, extra: Array, found: LineageEffects, delta: float
) -> Array:
    residual, spread = left_out(dy, total_of(d, noise, steps, extra, found.tau, found.omega, delta))
    plain = np.maximum(spread - extra, 1e-6 * spread)
    factor = np.square(np.square(residual) / (plain * FAR**2))
    return plain * np.maximum(factor - 1.0, 0.0)


def _posterior(dy: Array, d: Array, noise: Array, steps: Array, extra: Array, delta: float) -> LineageEffects:
    k = d.shape[1]
    wide = wide_of(d)
    logs: list[float] = []
    means: list[Array] = []
    within: list[Array] = []
    for tau in TAUS * delta:
        prior = prior_of(k, tau, delta)
        omegas = OMEGAS * delta
        base = total_of(d, noise, steps, extra, tau, 0.0, delta)
        # All omegas at once: a grid of small matrices, one by one, would be Python's time and not arithmetic's.
        lower = np.linalg.cholesky(base + np.square(omegas)[:, None, None] * np.diag(steps))
        right = np.broadcast_to(np.concatenate([dy[:, None], wide * prior], axis=1), (len(omegas), len(dy), k + 3))
        for omega, factor, solved in zip(omegas, lower, np.linalg.solve(lower, right), strict=True):
            z, gain = solved[:, 0], solved[:, 1:]
            mean = gain.T @ z
            log = -0.5 * float(ordered_sum(z * z)) - float(ordered_sum(np.log(np.diag(factor))))
            logs.append(log - 0.5 * (omega / delta) ** 2 - 0.5 * math.log(tau / delta) ** 2)
            covariance = np.diag(prior) - gain.T @ gain
            # beta_j = its own part + m
            within.append(
                covariance[:k, :k] + covariance[k, k] + covariance[:k, k : k + 1] + covariance[k : k + 1, :k]
            )
            means.append(np.concatenate([mean[:k] + mean[k], [mean[k], tau, omega, mean[k + 1]]]))
    weight = np.exp(floats(logs) - max(logs))
    weight = weight / ordered_sum(weight)
    centre, inside = floats(means), floats(within)
    mean = ordered_sum(weight[:, None] * centre)
    away = centre[:, :k] - mean[:k]
    between = ordered_sum(weight[:, None, None] * away[:, :, None] * away[:, None, :])
    covariance = ordered_sum(weight[:, None, None] * inside) + between
    variance = np.maximum(np.diag(covariance), 0.0)
    spread = np.sqrt(np.maximum(np.diagonal(inside, axis1=1, axis2=2), 1e-300))
    negative = ordered_sum(weight[:, None] * normal_lower(-centre[:, :k] / spread))
    prior_variance = float(ordered_sum(weight * np.square(centre[:, k + 1]))) + delta**2
    return LineageEffects(
        tuple(mean[:k].tolist()),
        tuple(np.sqrt(variance).tolist()),
        tuple(negative.tolist()),
        tuple((1.0 - variance / prior_variance).tolist()),
        tuple((np.sqrt(variance / prior_variance) < PRACTICAL).tolist()),
        float(mean[k]),
        float(mean[k + 1]),
        float(mean[k + 2]),
        float(mean[k + 3]),
        covariance,
        (),
        (),
    )


def noise_of(edges: Sequence[tuple[int, int]], node_variances: Sequence[float]) -> Array:
    """N S N': covariance of differences between nodes that share noise."""
    found = np.zeros((len(edges), len(edges)))
    for i, (child, parent) in enumerate(edges):
        for j, (other_child, other_parent) in enumerate(edges):
            found[i, j] = math.fsum(
                [
                    node_variances[child] * ((child == other_child) - (child == other_parent)),
                    node_variances[parent] * ((parent == other_parent) - (parent == other_child)),
                ]
            )
    return found

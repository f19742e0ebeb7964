"""Effects of techniques from declared parents: additive component network meta-analysis.

After Rucker, Petropoulou and Schwarzer 2020. Each comparison is a child minus its parent,

    dy = D beta + c + h + e,   beta_j ~ N(m, tau^2),   h ~ N(0, omega^2) hidden retuning,
    Cov(e) = N S N'  (N: child +1, parent -1; S: variances of the nodes' means),

so siblings share their parent's noise and chains get negative covariance. m and c are normal with
scale delta and integrated exactly; (tau, omega) is a fixed grid, so no optimiser decides. A lineage
effect is a prior, never confirmed: records are kept because they improved.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from ledger.errors import UsageError
from projections.statistics.distributions import floats, normal_lower
from projections.statistics.numeric import Array, finite, ordered_sum, positive

TAUS = 0.25 * 2.0 ** (0.5 * np.arange(9))  # in deltas: .25 to 4
OMEGAS = 0.25 * np.arange(8)  # in deltas: 0 to 1.75
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


def lineage(
    differences: Sequence[float],
    design: Sequence[Sequence[int]],
    edges: Sequence[tuple[int, int]],
    node_variances: Sequence[float],
    delta: float = 0.002,
) -> LineageEffects:
    """Posterior from comparisons with their techniques, their (child, parent), and the variances of node means."""
    positive(delta, "delta")
    dy = floats(finite(differences, "differences"))
    finite(node_variances, "variances of nodes")
    if not len(dy) == len(design) == len(edges) or not len(dy):
        raise UsageError("each comparison needs its techniques and its (child, parent); expected one or more")
    d = floats(design)
    noise = _noise(edges, node_variances) + 1e-12 * delta**2 * np.eye(len(dy))
    k = d.shape[1]
    ones = np.ones((len(dy), 1))
    # coefficients: techniques, then m, then c; techniques given m are independent, so D carries both
    wide = np.concatenate([d, d @ np.ones((k, 1)), ones], axis=1)
    logs, means, squares = [], [], []
    for tau in TAUS * delta:
        prior = np.concatenate([np.full(k, tau**2), [delta**2, delta**2]])
        for omega in OMEGAS * delta:
            total = noise + omega**2 * np.eye(len(dy)) + (wide * prior) @ wide.T
            lower = np.linalg.cholesky(total)
            solved = np.linalg.solve(lower, np.concatenate([dy[:, None], wide * prior], axis=1))
            z, gain = solved[:, 0], solved[:, 1:]
            mean = gain.T @ z
            covariance = np.diag(prior) - gain.T @ gain
            log = -0.5 * float(ordered_sum(z * z)) - float(ordered_sum(np.log(np.diag(lower))))
            logs.append(log - 0.5 * (omega / delta) ** 2 - 0.5 * math.log(tau / delta) ** 2)
            effect = mean[:k] + mean[k]  # beta_j = its own part + m
            spread = np.diag(covariance)[:k] + covariance[k, k] + 2 * covariance[:k, k]
            means.append(np.concatenate([effect, [mean[k], tau, omega, mean[k + 1]]]))
            squares.append(np.maximum(spread, 0.0))
    weight = np.exp(floats(logs) - max(logs))
    weight = weight / ordered_sum(weight)
    centre, within = floats(means), floats(squares)
    mean = ordered_sum(weight[:, None] * centre)
    variance = ordered_sum(weight[:, None] * (within + np.square(centre[:, :k] - mean[:k])))
    negative = ordered_sum(weight[:, None] * normal_lower(-centre[:, :k] / np.sqrt(np.maximum(within, 1e-300))))
    prior_variance = float(ordered_sum(weight * np.square(centre[:, k + 1]))) + delta**2
    return LineageEffects(
        tuple(mean[:k].tolist()),
        tuple(np.sqrt(variance).tolist()),
        tuple(negative.tolist()),
        tuple((1.0 - variance / prior_variance).tolist()),
        tuple((np.sqrt(variance / prior_variance) < PRACTICAL).tolist()),
        *(float(value) for value in mean[k:]),
    )


def _noise(edges: Sequence[tuple[int, int]], node_variances: Sequence[float]) -> Array:
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

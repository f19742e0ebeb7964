"""Shrunken effects for ranking: never for calling an effect zero.

After ash (Stephens 2017): effects come from pi0 delta_0 + sum pi_k N(0, s_k^2), with s_k = s_0 sqrt(2)^k
for k = 0..9 and s_0 a quarter of delta (.0005 bpb at .002), weights by 200 steps of EM, and two extra
counts for pi0. Standard errors are widened to the t quantile. Stages (train, quant, eval) are separate
families.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from projections.statistics.distributions import floats, normal_lower, t_bound
from projections.statistics.numeric import Array, finite, ordered_sum, positive

STEPS = 200
EXTRA_NULLS = 2.0
COMPONENTS = 10


class Shrunk(NamedTuple):
    """Posterior of each effect, one array each; `pi0` is the share of exact nulls in its family."""

    mean: Array
    sd: Array
    lfsr: Array  # probability that the sign is wrong
    p_negative: Array
    p_in_rope: Array  # P(|effect| < delta)
    pi0: Array


def shrink(effects: Sequence[float], ses: Sequence[float], dfs: Sequence[float], delta: float) -> Shrunk:
    """Posteriors of one family of effects. Their order should be canonical: sums run in it."""
    return shrink_families(effects, ses, dfs, [delta] * len(effects), [len(effects)])


def shrink_families(
    effects: Sequence[float],
    ses: Sequence[float],
    dfs: Sequence[float],
    deltas: Sequence[float],
    sizes: Sequence[int],
) -> Shrunk:
    """Posteriors of many families at once, each on its own: effects in order of family, and the sizes of those."""
    d, df, delta = (
        floats(finite(effects, "effects")),
        floats(dfs),
        floats([positive(value, "delta") for value in deltas]),
    )
    sizes = [size for size in sizes if size]
    if not sizes:
        empty = floats([])
        return Shrunk(empty, empty, empty, empty, empty, empty)
    starts = np.concatenate([[0], np.add.accumulate(sizes)[:-1]])
    size = floats(sizes)
    se = np.maximum(floats(finite(ses, "standard errors")), 1e-12 * delta) * (
        t_bound(0.025, df) / t_bound(0.025, np.inf)
    )
    scale = np.concatenate([[0.0], 0.25 * np.sqrt(2.0) ** np.arange(COMPONENTS)])[:, None]
    prior = np.square(scale * delta)  # variances, components by effects
    total = prior + np.square(se)
    log_density = -0.5 * (np.square(d) / total + np.log(total))
    density = np.exp(log_density - np.max(log_density, axis=0))
    weights = np.full((len(scale), len(sizes)), 1.0 / len(scale))  # components by families
    for _ in range(STEPS):
        joint = np.repeat(weights, sizes, axis=1) * density
        counts = np.add.reduceat(joint / ordered_sum(joint), starts, axis=1)
        counts[0] += EXTRA_NULLS
        weights = counts / (size + EXTRA_NULLS)
    joint = np.repeat(weights, sizes, axis=1) * density
    share = joint / ordered_sum(joint)
    gain = prior / total
    centre = gain * d
    spread = np.sqrt(gain) * se  # posterior sd within a component
    mean = ordered_sum(share * centre)
    second = ordered_sum(share * (np.square(spread) + np.square(centre)))
    point = spread == 0
    safe = np.where(point, 1.0, spread)
    below = np.where(point, 0.0, normal_lower(-centre / safe))
    above = np.where(point, 0.0, normal_lower(centre / safe))
    inside = np.where(point, 1.0, normal_lower((delta - centre) / safe) - normal_lower((-delta - centre) / safe))
    p_negative, p_positive = ordered_sum(share * below), ordered_sum(share * above)
    return Shrunk(
        mean,
        np.sqrt(np.maximum(second - np.square(mean), 0.0)),
        share[0] + np.minimum(p_negative, p_positive),
        p_negative,
        ordered_sum(share * inside),
        np.repeat(weights[0], sizes),
    )

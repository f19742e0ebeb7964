"""What choosing does to a mean: the bias of reporting the best seeds of those that ran.

The mean of the best k of n normal values lies below their true mean by the mean of k expected order
statistics, E[X_(i)] = n C(n-1, i-1) integral of x Phi(x)^(i-1) (1 - Phi(x))^(n-i) phi(x) dx.
"""

from __future__ import annotations

import functools
import math

import numpy as np
from scipy import special

from ledger.errors import UsageError
from projections.statistics.distributions import normal_density


@functools.lru_cache(maxsize=1024)
def best_of(k: int, n: int) -> float:
    """Expected mean of the lowest k of n standard normal values: 0 for k = n, else negative."""
    if not 1 <= k <= n:
        raise UsageError(f"the best {k} of {n} seeds: expected 1 to {n}")
    return math.fsum([_order_statistic(i, n) for i in range(1, k + 1)]) / k


@functools.lru_cache(maxsize=4096)
def _order_statistic(i: int, n: int) -> float:
    x = np.linspace(-10.0, 10.0, 4001)  # the integrand vanishes at both ends: the trapezoid rule is exact to 1e-12
    log = (i - 1) * special.log_ndtr(x) + (n - i) * special.log_ndtr(-x)
    scale = math.lgamma(n + 1) - math.lgamma(i) - math.lgamma(n - i + 1)
    values = x * np.exp(log + scale) * normal_density(x)
    return math.fsum(values.tolist()) * float(x[1] - x[0])

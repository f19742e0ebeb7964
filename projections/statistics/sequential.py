"""Looking more than once, as planned: spending functions and their exact boundaries.

Lan and DeMets 1983. With t the share of the final information, a two-sided plan spends

    pocock:  alpha ln(1 + (e - 1) t)
    obf:     4 (1 - Phi(z_{alpha/4} / sqrt t))     (O'Brien and Fleming)

and the boundary of look k solves P(inside before, |Z_k| >= c_k) = what is spent newly, by numerical
integration of the joint normal density (Armitage, McPherson and Rowe 1969). A t statistic is compared
through its nominal p. Boundaries hold for the planned looks; a further look goes by its e-value.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Literal, NamedTuple

import numpy as np
from scipy import special

from ledger.errors import UsageError
from projections.statistics.distributions import normal_bound, normal_lower, t_bound
from projections.statistics.numeric import Array, between

Spending = Literal["pocock", "obf"]
NODES = 240  # Gauss-Legendre nodes a look; the boundaries are then exact to 1e-9 where looks are not closer than 1e-3


class Boundary(NamedTuple):
    """One look: information, alpha spent up to it, the bound of |z| and its nominal two-sided p."""

    information: float
    spent: float
    bound: float
    nominal_p: float


def spent(kind: Spending, alpha: float, t: float) -> float:
    """Two-sided alpha spent at information share t (0 to 1)."""
    between(alpha, 0, 1, "alpha")
    if not 0 <= t <= 1:
        raise UsageError(f"information is {t}; expected a share of the final information, 0 to 1")
    if t == 0:
        return 0.0
    if kind == "pocock":
        return alpha * math.log1p((math.e - 1.0) * t)
    if kind == "obf":
        return 4.0 * float(normal_lower(-normal_bound(alpha / 4) / math.sqrt(t)))
    raise UsageError(f"no spending function {kind}; expected pocock or obf")


def boundaries(information: Sequence[float], alpha: float, kind: Spending = "pocock") -> list[Boundary]:
    """The boundaries of looks at these rising shares of the final information (two-sided, symmetric)."""
    times = tuple(float(t) for t in information)
    if not times or not all(a < b for a, b in pairwise((0.0, *times))) or times[-1] > 1 + 1e-12:
        raise UsageError(f"looks at information {times}; expected rising shares above 0 and up to 1")
    return list(_boundaries(tuple(min(t, 1.0) for t in times), alpha, kind))


@functools.lru_cache(maxsize=1024)
def _boundaries(times: tuple[float, ...], alpha: float, kind: Spending) -> tuple[Boundary, ...]:
    found: list[Boundary] = []
    paths: tuple[Array, Array] | None = None  # Brownian values inside at the last look, and their mass
    before, last = 0.0, 0.0
    for t in times:
        total = spent(kind, alpha, t)
        fresh = total - before
        bound = _solve(paths, last, t, fresh)
        found.append(Boundary(t, total, bound, 2.0 * float(normal_lower(-bound))))
        paths = _inside(paths, last, t, bound)
        before, last = total, t
    return tuple(found)


def _crossing(paths: tuple[Array, Array] | None, last: float, t: float, bound: float) -> float:
    """P(inside at all looks before, |Z| >= bound at t)."""
    if paths is None:
        return 2.0 * float(special.ndtr(-bound))
    values, mass = paths
    edge, step = bound * math.sqrt(t), math.sqrt(t - last)
    tail = special.ndtr((values - edge) / step) + special.ndtr((-values - edge) / step)
    return math.fsum((mass * tail).tolist())


def _solve(paths: tuple[Array, Array] | None, last: float, t: float, fresh: float) -> float:
    """The bound whose crossing probability is `fresh`; inf when nothing can be spent."""
    if fresh < 1e-290:
        return math.inf
    if paths is None:
        return float(normal_bound(fresh / 2))
    low, high = 0.0, 37.0
    if _crossing(paths, last, t, low) <= fresh:
        return 0.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if _crossing(paths, last, t, middle) > fresh else (low, middle)
    return (low + high) / 2


def _inside(paths: tuple[Array, Array] | None, last: float, t: float, bound: float) -> tuple[Array, Array]:
    """Nodes within the bound at t, and the probability mass of the paths that reach each."""
    edge = min(bound, 12.0) * math.sqrt(t)
    nodes, weights = _legendre()
    at, width = nodes * edge, weights * edge
    step = math.sqrt(t - last)
    if paths is None:
        density = np.exp(-0.5 * np.square(at / step))
    else:
        values, mass = paths
        kernel = np.exp(-0.5 * np.square((at[:, None] - values[None, :]) / step))
        density = np.add.accumulate(kernel * mass[None, :], axis=1)[:, -1]
    return at, width * density / (step * math.sqrt(2.0 * math.pi))


@functools.cache
def _legendre() -> tuple[Array, Array]:
    """Composite rule on -1 to 1: twelve panels, so that narrow kernels between close looks are met."""
    nodes, weights = np.polynomial.legendre.leggauss(NODES // 12)
    edges = np.linspace(-1.0, 1.0, 13)
    at = np.concatenate([(a + b) / 2 + nodes * (b - a) / 2 for a, b in pairwise(edges)])
    return at, np.tile(weights / 12.0, 12)


def multiplier(bound: float, df: float) -> float:
    """The bound of |t| with the nominal p of a bound of |z|: the half width of a repeated interval in se."""
    if math.isinf(bound):
        return math.inf
    return float(t_bound(normal_lower(-bound), df))

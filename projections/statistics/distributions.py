"""Tails and quantiles of Student's t, the normal and F, for floats and arrays.

scipy.special is right here (it matches R to 1e-9). Small upper tails are taken as lower tails, which
keeps their digits. Infinite degrees of freedom mean the normal distribution.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy import special

from projections.statistics.numeric import Array

Numbers = float | Array


def t_lower(t: Numbers, df: Numbers) -> Array:
    """P(T < t)."""
    t, df = np.asarray(t, float), np.asarray(df, float)
    normal = np.isinf(df)
    found: Array = np.where(normal, special.ndtr(t), special.stdtr(np.where(normal, 1.0, df), t))
    return found


def t_upper(t: Numbers, df: Numbers) -> Array:
    """P(T > t)."""
    return t_lower(-np.asarray(t, float), df)


def t_two_sided(t: Numbers, df: Numbers) -> Array:
    """P(|T| > |t|)."""
    found: Array = np.minimum(1.0, 2.0 * t_lower(-np.abs(t), df))
    return found


def t_bound(tail: Numbers, df: Numbers) -> Array:
    """The value that T exceeds with probability `tail`: the 1 - tail quantile, exact for a tiny tail."""
    tail, df = np.asarray(tail, float), np.asarray(df, float)
    normal = np.isinf(df)
    found: Array = -np.where(normal, special.ndtri(tail), special.stdtrit(np.where(normal, 1.0, df), tail))
    return found


def normal_lower(z: Numbers) -> Array:
    """P(Z < z)."""
    found: Array = np.asarray(special.ndtr(z))
    return found


def normal_bound(tail: Numbers) -> Array:
    """The value that Z exceeds with probability `tail`."""
    found: Array = -np.asarray(special.ndtri(tail))
    return found


def normal_density(z: Numbers) -> Array:
    """Density of the standard normal distribution."""
    found: Array = np.exp(-0.5 * np.square(z)) / np.sqrt(2 * np.pi)
    return found


def f_upper(ratio: float, df1: float, df2: float) -> float:
    """P(F > ratio)."""
    return float(special.fdtrc(df1, df2, ratio))


def f_bound(tail: float, df1: float, df2: float) -> float:
    """The value that F exceeds with probability `tail`."""
    return float(1.0 / special.fdtri(df2, df1, tail))


def floats(values: npt.ArrayLike) -> Array:
    """An array of floats."""
    return np.asarray(values, dtype=np.float64)

"""Evidence that survives looking at any time: e-values and confidence sequences.

A normal mixture over the effect with prior standard deviation tau (registered before data; Robbins
1970, Howard et al. 2021). With I = 1 / se^2, r = I tau^2, z = d / se:

    E = (1 + r)^-1/2 exp(z^2 r / (2 (1 + r)))
    nu df:  E = (1 + r)^-1/2 [(nu + z^2) / (nu + z^2 / (1 + r))]^((nu + 1) / 2)

Reject at E >= 1 / alpha; 1 / E is a p-value that any look may use. e-values of independent runs
multiply; those that share controls do not (average them, or use e-BH). tau chosen after looking voids them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from ledger.errors import UsageError
from projections.statistics.distributions import Numbers
from projections.statistics.numeric import Array, between, finite, positive

MOST = 1e300  # an e-value beyond this is written as this: it must stay a finite figure


def _arrays(d: Numbers, se: Numbers, tau: Numbers, df: Numbers) -> tuple[Array, ...]:
    found = tuple(np.asarray(x, float) for x in (d, se, tau, df))
    if not all(np.all(np.isfinite(x)) for x in found[:3]) or np.any(np.isnan(found[3])):
        raise UsageError("an effect, standard error, tau or its degrees of freedom is not a finite number")
    if np.any(found[1] < 0) or np.any(found[2] <= 0):
        raise UsageError("an e-value needs standard errors of 0 or more and tau above 0")
    return found


def log_e(d: Numbers, se: Numbers, tau: Numbers, df: Numbers = math.inf) -> Array:
    """ln E for effects with standard errors; se = 0 is no evidence unless d differs from 0."""
    d, se, tau, df = _arrays(d, se, tau, df)
    safe = np.where(se > 0, se, 1.0)
    r, z2 = np.square(tau / safe), np.square(d / safe)
    nu = np.where(np.isinf(df), 1.0, df)
    normal = z2 * r / (2.0 * (1.0 + r))
    student = 0.5 * (nu + 1.0) * (np.log1p(z2 / nu) - np.log1p(z2 / (nu * (1.0 + r))))
    found = np.where(np.isinf(df), normal, student) - 0.5 * np.log1p(r)
    found = np.where(df > 0, found, 0.0)
    exact: Array = np.where(se > 0, found, np.where(d == 0, 0.0, math.log(MOST)))
    return exact


def e_value(d: Numbers, se: Numbers, tau: Numbers, df: Numbers = math.inf) -> Array:
    """E, at most MOST."""
    found: Array = np.exp(np.minimum(log_e(d, se, tau, df), math.log(MOST)))
    return found


def half_width(se: Numbers, tau: Numbers, alpha: float, df: Numbers = math.inf) -> Array:
    """Half width of the confidence sequence at 1 - alpha; inf where so few df exclude nothing."""
    between(alpha, 0, 1, "alpha")
    _, se, tau, df = _arrays(0.0, se, tau, df)
    safe = np.where(se > 0, se, 1.0)
    r = np.square(tau / safe)
    normal = np.sqrt(2.0 * (1.0 + r) / r * (math.log(1.0 / alpha) + 0.5 * np.log1p(r)))
    nu = np.where(np.isinf(df), 1.0, df)
    log_c = 2.0 / (nu + 1.0) * (0.5 * np.log1p(r) - math.log(alpha))
    room = 1.0 - np.exp(np.minimum(log_c - np.log1p(r), 0.0))
    student = np.sqrt(nu * np.expm1(np.minimum(log_c, 700.0)) / np.where(room > 0, room, 1.0))
    student = np.where((room > 0) & (df > 0), student, math.inf)
    found: Array = np.where(se > 0, safe * np.where(np.isinf(df), normal, student), 0.0)
    return found


def t_bound(se: float, tau: float, alpha: float, df: float) -> float:
    """half_width in standard errors for one effect, se above 0: what |t| has to reach for E >= 1 / alpha."""
    r = (tau / se) ** 2
    if math.isinf(df):
        return math.sqrt(2.0 * (1.0 + r) / r * (0.5 * math.log1p(r) - math.log(alpha)))
    log_c = 2.0 / (df + 1.0) * (0.5 * math.log1p(r) - math.log(alpha))
    room = -math.expm1(min(log_c - math.log1p(r), 0.0))
    return math.sqrt(df * math.expm1(min(log_c, 700.0)) / room) if room > 0 and df > 0 else math.inf


def scale_free_e(differences: Sequence[float], g: float = 1.0) -> float:
    """E of paired differences without any prior variance: effect sd is sqrt(g) of the noise sd.

    (1 + n g)^-1/2 [SS / (SS - n^2 g dbar^2 / (1 + n g))]^(n/2), SS = sum d^2. All zero: 1.
    """
    values = finite(differences, "differences")
    positive(g, "g")
    n = len(values)
    total = math.fsum([d * d for d in values])
    if total == 0:
        return 1.0
    share = math.fsum(values) ** 2 * g / (1.0 + n * g) / total
    return math.exp(min(-0.5 * math.log1p(n * g) - 0.5 * n * math.log1p(-share), math.log(MOST)))


def multiply(e: Sequence[float]) -> float:
    """The product of e-values of independent runs."""
    if any(value == 0 for value in e):
        return 0.0
    return math.exp(min(math.fsum([math.log(value) for value in e]), math.log(MOST)))


def average(e: Sequence[float]) -> float:
    """The mean of e-values that may depend on each other: again an e-value."""
    return math.fsum(e) / len(e)

"""Crashes are outcomes: rates by arm, an exact test, and the name of a condition that lost seeds.

Fisher's exact test conditions on both margins. The two-sided p adds every table that is no likelier
than the one seen; the mid-p counts the likelihood of equal tables half, because the exact p of such
small tables is far too careful. Leaving crashes out by arm is selection: "2 of 3 survived" is not n = 2.
"""

from __future__ import annotations

import functools
import math
from typing import Literal, NamedTuple

from scipy import special

from ledger.errors import UsageError

Condition = Literal["complete", "reduced_power", "failed"]
TIES = 1e-7  # tables within this relative distance are equally likely


class Exact(NamedTuple):
    """Fisher's test of two crash rates."""

    p: float  # two-sided
    mid_p: float  # two-sided
    p_more: float  # one-sided: the treatment crashes more often


@functools.lru_cache(maxsize=65536)
def fisher(failed_t: int, runs_t: int, failed_c: int, runs_c: int) -> Exact:
    """Do treatment and control crash equally often? Runs are attempts, failed ones among them."""
    if not (0 <= failed_t <= runs_t and 0 <= failed_c <= runs_c):
        raise UsageError(f"{failed_t} of {runs_t} and {failed_c} of {runs_c} failed: expected 0 to all of the runs")
    failed = failed_t + failed_c
    least, most = max(0, failed - runs_c), min(runs_t, failed)
    logs = {k: _log_choose(runs_t, k) + _log_choose(runs_c, failed - k) for k in range(least, most + 1)}
    whole = _log_choose(runs_t + runs_c, failed)
    mass = {k: math.exp(value - whole) for k, value in logs.items()}
    seen = mass[failed_t]
    rare = [m for m in mass.values() if m < seen * (1 - TIES)]
    ties = [m for m in mass.values() if seen * (1 - TIES) <= m <= seen * (1 + TIES)]
    more = [m for k, m in mass.items() if k >= failed_t]
    return Exact(
        min(1.0, math.fsum(rare + ties)),
        min(1.0, math.fsum([*rare, 0.5 * math.fsum(ties)])),
        min(1.0, math.fsum(more)),
    )


def _log_choose(n: int, k: int) -> float:
    return float(special.gammaln(n + 1) - special.gammaln(k + 1) - special.gammaln(n - k + 1))


def condition(planned: int, survived: int) -> Condition:
    """What a condition is called after its failures.

    Of three seeds, one lost is reduced power and two lost is a failed condition; in general it failed
    when fewer than two of several planned seeds survived, or more failed than survived.
    """
    if survived >= planned:
        return "complete"
    if survived < min(2, planned) or planned - survived > survived:
        return "failed"
    return "reduced_power"

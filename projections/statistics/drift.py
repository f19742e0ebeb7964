"""Do the controls stay where they are? A run chart of one base, tested for slope and for blocks.

A shared control bank drifts with drivers, nodes and temperature. The slope is that of least squares
over the order of runs; blocks (machine sessions) are compared by the one-way analysis of variance.
Flagged below p = .01. Controls that do not vary at all are flagged by nobody here.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from ledger.errors import UsageError
from projections.statistics.classical import t_test
from projections.statistics.distributions import f_upper
from projections.statistics.numeric import finite, mean

LEVEL = 0.01


class Drift(NamedTuple):
    """Tests of one base's controls; a p is None where there are too few runs or blocks for it."""

    n: int
    slope: float | None  # metric a run
    p_slope: float | None
    blocks: int
    p_blocks: float | None
    flagged: bool


def drift(values: Sequence[float], order: Sequence[float], blocks: Sequence[str], level: float = LEVEL) -> Drift:
    """Slope and block tests of the controls of one base, in any order; `order` is the place in the run chart."""
    values, order = finite(values, "control values"), finite(order, "order of controls")
    if not len(values) == len(order) == len(blocks):
        raise UsageError("a run chart needs a place and a block for every control value")
    slope, p_slope = _slope(order, values)
    p_blocks = one_way([[y for y, b in zip(values, blocks, strict=True) if b == name] for name in sorted({*blocks})])
    flagged = any(p is not None and p < level for p in (p_slope, p_blocks))
    return Drift(len(values), slope, p_slope, len({*blocks}), p_blocks, flagged)


def _slope(x: Sequence[float], y: Sequence[float]) -> tuple[float | None, float | None]:
    if len(y) < 3:
        return None, None
    centre_x, centre_y = mean(x), mean(y)
    dx, dy = [value - centre_x for value in x], [value - centre_y for value in y]
    ss = math.fsum([value * value for value in dx])
    if ss <= 0:
        return None, None
    slope = math.fsum([a * b for a, b in zip(dx, dy, strict=True)]) / ss
    rest = math.fsum([(b - slope * a) ** 2 for a, b in zip(dx, dy, strict=True)])
    return slope, t_test(slope, math.sqrt(rest / (len(y) - 2) / ss), len(y) - 2).p


def one_way(groups: Sequence[Sequence[float]]) -> float | None:
    """p of the one-way analysis of variance; None without two groups and a value more than groups."""
    groups = [group for group in groups if group]
    df1, df2 = len(groups) - 1, sum(1 for group in groups for _ in group) - len(groups)
    if df1 < 1 or df2 < 1:
        return None
    whole = mean([y for group in groups for y in group])
    centres = [mean(group) for group in groups]
    between = math.fsum([len(group) * (m - whole) ** 2 for group, m in zip(groups, centres, strict=True)])
    within = math.fsum([(y - m) ** 2 for group, m in zip(groups, centres, strict=True) for y in group])
    if within <= 0:
        return 1.0 if between <= 0 else 0.0
    return f_upper((between / df1) / (within / df2), df1, df2)

"""What the whole log has granted and spent of the error that false claims may cost, hypothesis by hypothesis.

A plan controls its own family and cycles of one family share one alpha; but a log with a hundred plans has granted a
hundred alphas. The running sum bounds the probability of one false claim or more anywhere in it (Boole), and LORD++
(Ramdas et al. 2017) says what a hypothesis may spend where the whole log is one stream without an end: its level is
shown beside the plan's, and decides nothing.
"""

from __future__ import annotations

import math

import numpy as np
import pyarrow as pa

from projections.statistics.multiplicity import cycle_alpha, lord_gamma
from projections.statistics.numeric import Array, digits

STREAM_ALPHA = 0.05  # of the whole log as one stream
SCHEMA = pa.schema(
    [
        ("track", pa.string()),
        ("number", pa.int64()),
        ("experiment", pa.string()),
        ("name", pa.string()),
        ("family", pa.string()),
        ("cycle", pa.int64()),
        ("intervention", pa.string()),
        ("registered_position", pa.int64()),
        ("alpha_granted", pa.float64()),
        ("alpha_spent", pa.float64()),
        ("alpha_left", pa.float64()),
        ("granted_total", pa.float64()),
        ("p", pa.float64()),
        ("e_value", pa.float64()),
        ("verdict", pa.string()),
        ("lord_level", pa.float64()),
        ("lord_rejects", pa.bool_()),
    ]
)
ASKED = """SELECT 'confirm' AS track, row_number() OVER () AS number, *
    FROM (
        SELECT plans.experiment, plans.name, plans.family, plans.cycle, effects.intervention,
            plans.first_position AS registered_position, plans.alpha, effects.alpha_look, effects.mode,
            effects.p IS NOT NULL AND effects.pending = 0 AS looked, effects.p, effects.e_value, effects.verdict
        FROM main.effects AS effects
        INNER JOIN main.experiments AS plans ON plans.experiment = effects.experiment
        WHERE plans.track = 'confirm' AND plans.seed_role = 'confirm'
        ORDER BY plans.first_position, plans.experiment, effects.intervention
    )"""


def stream(asked: pa.Table) -> pa.Table:
    """Rows of SCHEMA from those of ASKED: every hypothesis that a plan registered to confirm, in that order.

    Columns and not rows: it is made anew whenever an effect changes.
    """
    at = np.unique(asked["registered_position"].to_numpy(), return_index=True)[1]
    alphas, cycles = asked["alpha"].to_pylist(), asked["cycle"].to_pylist()
    sizes = np.diff([*at, len(alphas)])
    by_plan = [_granted(alphas[index], cycles[index]) for index in at]
    granted = np.repeat(by_plan, sizes)
    totals = np.repeat([digits(value) for value in np.add.accumulate(by_plan)] if by_plan else [], sizes)
    looked = asked["looked"].to_numpy()
    spent = np.where(
        asked["mode"].to_numpy() == "anytime", granted, np.minimum(granted, asked["alpha_look"].to_numpy())
    )
    spent = np.where(looked, spent, 0.0)
    levels, rejects = _lord(np.where(looked, asked["p"].to_numpy(), 1.0))
    figures = {
        "alpha_granted": granted,
        "alpha_spent": spent,
        "alpha_left": granted - spent,
        "granted_total": totals,
        "lord_level": np.array([digits(level) for level in levels.tolist()]),
        "lord_rejects": rejects & looked,
    }
    arrays = [
        pa.array(figures[field.name], field.type) if field.name in figures else asked[field.name].cast(field.type)
        for field in SCHEMA
    ]
    return pa.Table.from_arrays(arrays, schema=SCHEMA)


def _granted(alpha: float, cycle: int | None) -> float:
    if cycle is None or cycle < 1 or not 0 < alpha < 1:
        return alpha if math.isfinite(alpha) else 0.0
    return cycle_alpha(alpha, cycle)


def _lord(p: Array, alpha: float = STREAM_ALPHA) -> tuple[Array, Array]:
    """multiplicity.lord for a long stream: each rejection adds its share to all later levels at once."""
    gamma = np.array(lord_gamma(len(p)))
    wealth = alpha / 10
    levels = gamma * wealth
    rejects = np.zeros(len(p), bool)
    share = alpha - wealth  # of the first rejection; later ones give alpha
    for t in range(len(p)):
        if p[t] <= levels[t]:
            levels[t + 1 :] += share * gamma[: len(p) - t - 1]
            rejects[t], share = True, alpha
    return levels, rejects

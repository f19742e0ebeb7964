"""What the whole log has granted and spent of the error that false claims may cost, hypothesis by hypothesis.

A plan controls its own family and cycles of one family share one alpha; but a log with a hundred plans has granted a
hundred alphas. The running sum bounds the probability of one false claim or more anywhere in it (Boole), and LORD++
(Ramdas et al. 2017) says what a hypothesis may spend where the whole log is one stream without an end: its level is
shown beside the plan's, and decides nothing.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pyarrow as pa

from projections.evidence import Query
from projections.statistics.multiplicity import cycle_alpha, lord_gamma
from projections.statistics.numeric import digits

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
Row = dict[str, Any]


def stream(query: Query) -> pa.Table:
    """Rows of SCHEMA: every hypothesis that a plan registered to confirm, in the order of registration."""
    rows = query(
        """SELECT effects.track, plans.experiment, plans.name, plans.family, plans.cycle, effects.intervention,
            plans.first_position AS registered_position, plans.alpha, effects.alpha_look, effects.mode, effects.look,
            effects.p, effects.e_value, effects.verdict, effects.pending
        FROM main.effects AS effects
        INNER JOIN main.experiments AS plans ON plans.experiment = effects.experiment
        WHERE plans.track = 'confirm' AND plans.seed_role = 'confirm'
        ORDER BY plans.first_position, plans.experiment, effects.intervention""",
        (),
    )
    levels = _lord([1.0 if row["p"] is None or row["pending"] else row["p"] for row in rows])
    found, total, last = [], 0.0, ""
    for number, (row, (level, rejects)) in enumerate(zip(rows, levels, strict=True), 1):
        granted = _granted(row["alpha"], row["cycle"])
        if row["experiment"] != last:
            total, last = total + granted, row["experiment"]
        looked = row["p"] is not None and not row["pending"]
        spent = 0.0 if not looked else min(granted, row["alpha_look"]) if row["mode"] != "anytime" else granted
        found.append(
            {
                **{name: row[name] for name in SCHEMA.names if name in row},
                "track": "confirm",
                "number": number,
                "alpha_granted": digits(granted),
                "alpha_spent": digits(spent),
                "alpha_left": digits(max(0.0, granted - spent)),
                "granted_total": digits(total),
                "lord_level": digits(level),
                "lord_rejects": bool(looked and rejects),
            }
        )
    return pa.Table.from_pylist(found, schema=SCHEMA)


def _granted(alpha: float, cycle: int | None) -> float:
    if cycle is None or cycle < 1 or not 0 < alpha < 1:
        return alpha if math.isfinite(alpha) else 0.0
    return cycle_alpha(alpha, cycle)


def _lord(p: list[float], alpha: float = STREAM_ALPHA) -> list[tuple[float, bool]]:
    """multiplicity.lord for a long stream: each rejection adds its share to all later levels at once."""
    gamma = np.array(lord_gamma(len(p)))
    wealth = alpha / 10
    levels = gamma * wealth
    found: list[tuple[float, bool]] = []
    rejections = 0
    for t, value in enumerate(p):
        level = float(levels[t])
        found.append((level, value <= level))
        if value <= level:
            levels[t + 1 :] += (alpha if rejections else alpha - wealth) * gamma[: len(p) - t - 1]
            rejections += 1
    return found

"""What effects in one noise class say of effects in another: every pair of classes with three interventions or more
that were measured in both, and what it predicts for those that the target has not seen.

An intervention is known by its arm's name and its metric's direction; of several experiments in one class the newest
counts. A metric, a platform, a scale and a stage are all noise classes, so a proxy may be any of them.
"""

from __future__ import annotations

import math
from itertools import groupby
from typing import Any

import pyarrow as pa

from projections.evidence import Query
from projections.statistics.numeric import digits
from projections.statistics.transfer import FEWEST, Transfer, transfer

MOST = 24  # noise classes that are compared, those with most interventions first

SCHEMA = pa.schema(
    [
        ("target", pa.string()),
        ("proxy", pa.string()),
        ("intervention", pa.string()),  # null in the row of the pair itself
        ("k", pa.int64()),
        ("b", pa.float64()),
        ("lo", pa.float64()),
        ("hi", pa.float64()),
        ("p_pos", pa.float64()),
        ("reliability", pa.float64()),
        ("sign_agree", pa.float64()),
        ("sign_lo", pa.float64()),
        ("sign_hi", pa.float64()),
        ("effect", pa.float64()),
        ("se", pa.float64()),
        ("pred", pa.float64()),
        ("sd", pa.float64()),
    ]
)
Row = dict[str, Any]


def compare(query: Query) -> pa.Table:
    """Rows of SCHEMA: one a pair of noise classes, and one a prediction."""
    rows = query(
        """SELECT effects.noise_class, effects.intervention, effects.effect, effects.se, effects.delta
        FROM main.effects AS effects
        INNER JOIN main.experiments AS plans ON plans.experiment = effects.experiment
        WHERE effects.effect IS NOT NULL AND effects.se > 0 AND isfinite(effects.se) AND effects.defect = ''
            AND abs(effects.effect) < 1e100
        QUALIFY row_number() OVER (
            PARTITION BY effects.noise_class, effects.intervention ORDER BY plans.first_position DESC
        ) = 1
        ORDER BY effects.noise_class, effects.intervention""",
        (),
    )
    classes = {
        name: {row["intervention"]: row for row in group}
        for name, group in groupby(rows, lambda row: row["noise_class"])
    }
    widest = sorted(sorted(classes), key=lambda name: -len(classes[name]))[:MOST]
    found: list[Row] = []
    for target in sorted(widest):
        for proxy in sorted(widest):
            if proxy != target:
                found += _pair(target, proxy, classes[target], classes[proxy])
    return pa.Table.from_pylist(found, schema=SCHEMA)


def _pair(target: str, proxy: str, on_target: dict[str, Row], on_proxy: dict[str, Row]) -> list[Row]:
    both = sorted(on_target.keys() & on_proxy.keys())
    if len(both) < FEWEST:
        return []
    new = sorted(on_proxy.keys() - on_target.keys())
    delta = max(row["delta"] for row in on_target.values())
    if not (delta > 0 and math.isfinite(delta)):
        return []
    told = transfer(
        [on_proxy[name]["effect"] for name in both],
        [on_proxy[name]["se"] for name in both],
        [on_target[name]["effect"] for name in both],
        [on_target[name]["se"] for name in both],
        delta,
        [(on_proxy[name]["effect"], on_proxy[name]["se"]) for name in new],
    )
    rows = [{"target": target, "proxy": proxy, "intervention": None, **_slope(told)}]
    for name, prediction in zip(new, told.predictions, strict=True):
        row = on_proxy[name]
        rows.append(
            {
                "target": target,
                "proxy": proxy,
                "intervention": name,
                "k": told.k,
                "effect": row["effect"],
                "se": row["se"],
                "pred": digits(prediction.mean),
                "sd": digits(prediction.sd),
            }
        )
    return rows


def _slope(told: Transfer) -> Row:
    figures = {
        "b": told.b,
        "lo": told.low,
        "hi": told.high,
        "p_pos": told.p_positive,
        "reliability": told.reliability,
        "sign_agree": told.signs.share,
        "sign_lo": told.signs.low,
        "sign_hi": told.signs.high,
    }
    return {"k": told.k, **{name: digits(v) if math.isfinite(v) else None for name, v in figures.items()}}

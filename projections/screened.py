"""What screens tell: average effects of their factors, as rows for `screen_effects`.

An average effect is over the stacks of the screen; it is never called better or worse. A factor is worth confirming
by itself, with fresh seeds, when its effect stands out at a false discovery rate of 10 % over the screen's factors.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import groupby
from typing import Any

import pyarrow as pa

from ledger.errors import UsageError
from projections.statistics.numeric import LARGEST, digits
from projections.statistics.screen import analyse

DISCOVERY = 0.10  # false discovery rate of what is worth confirming
_FIGURES = ("effect", "se", "df", "t", "p", "q", "ci95_lo", "ci95_hi")
SCHEMA = pa.schema(
    [
        ("experiment", pa.string()),
        ("factor", pa.string()),
        ("number", pa.int64()),
        ("low", pa.string()),
        ("high", pa.string()),
        *[(name, pa.float64()) for name in _FIGURES],
        ("candidate", pa.bool_()),
        ("sd", pa.float64()),
        ("noise", pa.string()),
        ("p_interactions", pa.float64()),
        ("runs", pa.int64()),
        ("missing", pa.int64()),
        ("defect", pa.string()),
    ]
)

Row = dict[str, Any]
Query = Callable[[str, tuple[Any, ...]], list[Row]]


def screened(query: Query, experiments: Sequence[str] | None = None) -> pa.Table:
    """Rows of SCHEMA for every factor of some screens, or of all."""
    only, given = ("", ()) if experiments is None else ("WHERE experiment IN (SELECT unnest($1))", ([*experiments],))
    plans = query(
        f"""SELECT experiment, factors, stacks FROM facts.screen_planned {only}
        QUALIFY row_number() OVER (PARTITION BY experiment ORDER BY position) = 1
        ORDER BY experiment""",
        given,
    )
    if not plans:
        return SCHEMA.empty_table()
    seeds = query(
        f"""SELECT experiment, seed FROM (
            SELECT experiment, unnest(seeds) AS seed FROM facts.experiment_registered {only}
        ) GROUP BY ALL ORDER BY experiment, seed""",
        given,
    )
    values = query(
        f"""SELECT experiment, arm, seed, value FROM main.runs
        {only or "WHERE experiment IN (SELECT experiment FROM facts.screen_planned)"}
            AND status = 'ok' AND isfinite(value) AND abs(value) < {LARGEST:g} AND seed IS NOT NULL
        QUALIFY row_number() OVER (PARTITION BY experiment, arm, seed ORDER BY started_position) = 1
        ORDER BY experiment, arm, seed""",
        given,
    )
    classes = query(
        """SELECT plan.experiment, other.variance, other.df
        FROM main.experiments AS plan
        INNER JOIN main.noise_arms AS other
            ON other.noise_class = plan.noise_class AND other.study <> plan.experiment AND other.variance > 0
            AND other.unit = 'run'
        WHERE plan.experiment IN (SELECT experiment FROM facts.screen_planned)
        ORDER BY plan.experiment, other.study, other.arm""",
        (),
    )
    planned, found_values, elsewhere = (_grouped(rows) for rows in (seeds, values, classes))
    rows = []
    for plan in plans:
        experiment = plan["experiment"]
        rows += _screen(
            plan,
            {row["seed"] for row in planned.get(experiment, [])},
            found_values.get(experiment, []),
            [(row["variance"], float(row["df"])) for row in elsewhere.get(experiment, [])],
        )
    return pa.Table.from_pylist(rows, schema=SCHEMA)


def _grouped(rows: Sequence[Row]) -> dict[str, list[Row]]:
    return {key: list(group) for key, group in groupby(rows, key=lambda row: row["experiment"])}


def _screen(plan: Row, seeds: set[int], values: Sequence[Row], elsewhere: Sequence[tuple[float, float]]) -> list[Row]:
    names = [factor["name"] for factor in plan["factors"]]
    levels = {stack["arm"]: tuple(stack["levels"]) for stack in plan["stacks"]}
    cells = {(row["arm"], row["seed"]): row["value"] for row in values if row["arm"] in levels}
    planned = len(levels) * len(seeds)
    rows: list[Row] = []
    for number, factor in enumerate(plan["factors"]):
        row: Row = dict.fromkeys(SCHEMA.names)
        row |= {"experiment": plan["experiment"], "factor": factor["name"], "number": number, "low": factor["low"]}
        row |= {"high": factor["high"], "candidate": False, "noise": "", "defect": ""}
        rows.append(row | {"runs": len(cells), "missing": max(0, planned - len(cells))})
    try:
        found = analyse(names, levels, cells, planned, elsewhere)
    except UsageError as error:
        return [row | {"defect": str(error)} for row in rows]
    for row, effect in zip(rows, found.effects, strict=True):
        row |= {name: digits(getattr(effect, name)) for name in _FIGURES}
        row |= {
            "candidate": effect.q <= DISCOVERY and not found.missing,
            "sd": digits(found.sd),
            "noise": found.noise,
        }
        if found.p_interactions is not None:
            row["p_interactions"] = digits(found.p_interactions)
    return rows

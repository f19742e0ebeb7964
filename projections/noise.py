"""What a noise class is known to be: the prior of its variances, its same-seed correlation, drift of its controls.

One row a noise class, for people: a judgement fits its own prior, in which its own arms are exact. The prior is that
of the arms in `noise_arms`; the correlation is pooled over the newest experiments; the run chart has the controls of
each base. Nothing is pooled across noise classes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import groupby
from typing import Any

import pyarrow as pa

from projections.evidence import BORROWED, Query
from projections.statistics.drift import Drift, drift
from projections.statistics.effects import Correlation, same_seed_correlation
from projections.statistics.numeric import digits
from projections.statistics.policies import find
from projections.statistics.variances import Prior, fit_prior, pool

NEWEST = 64  # experiments and bases that are looked at for correlation and drift

SCHEMA = pa.schema(
    [
        ("noise_class", pa.string()),
        ("unit", pa.string()),
        ("arms", pa.int64()),
        ("runs", pa.int64()),
        ("df", pa.float64()),
        ("sd", pa.float64()),
        ("d0", pa.float64()),
        ("d0_fitted", pa.float64()),
        ("s0", pa.float64()),
        ("cap_used", pa.bool_()),
        ("floored", pa.int64()),
        ("rho_hat", pa.float64()),
        ("rho_lo", pa.float64()),
        ("rho_df", pa.int64()),
        ("n_control", pa.int64()),
        ("bases", pa.int64()),
        ("drift_p", pa.float64()),
        ("drift_base", pa.string()),
        ("drifting", pa.int64()),
    ]
)
Row = dict[str, Any]


def known(query: Query, classes: Sequence[str]) -> pa.Table:
    """Rows of SCHEMA for those of `classes` that have a run with a value.

    A run counts with its plan in the plan's own class only, so that a row does not depend on which others are asked.
    """
    given = ([*classes],)
    arms = _grouped(
        query(
            """SELECT noise_class, unit, n, df, variance FROM main.noise_arms
            WHERE noise_class IN (SELECT unnest($1)) AND newness <= $2 ORDER BY noise_class, unit, newness""",
            (*given, BORROWED),
        )
    )
    cells = _grouped(
        query(
            """SELECT runs.noise_class, runs.experiment, runs.arm, runs.seed, runs.value, runs.base, runs.block,
                runs.started_position, plans.control = runs.arm AS is_control, plans.control_key
            FROM main.runs AS runs
            INNER JOIN (
                SELECT experiment, noise_class, control, control_key FROM main.experiments
                WHERE noise_class IN (SELECT unnest($1))
                QUALIFY row_number() OVER (PARTITION BY noise_class ORDER BY first_position DESC, experiment) <= $2
            ) AS plans ON plans.experiment = runs.experiment AND plans.noise_class = runs.noise_class
            WHERE runs.noise_class IN (SELECT unnest($1)) AND runs.status = 'ok' AND runs.seed IS NOT NULL
                AND isfinite(runs.value) AND abs(runs.value) < 1e100
            QUALIFY row_number() OVER (
                PARTITION BY runs.experiment, runs.arm, runs.seed ORDER BY runs.started_position
            ) = 1
            ORDER BY runs.noise_class, runs.experiment, runs.arm, runs.seed""",
            (*given, NEWEST),
        )
    )
    rows = []
    for name in sorted({*arms, *cells}):
        mine = arms.get(name, [])
        rows.append(_row(name, "run", [arm for arm in mine if arm["unit"] == "run"], cells.get(name, [])))
        if forks := [arm for arm in mine if arm["unit"] == "fork"]:
            rows.append(_row(name, "fork", forks, []))
    return pa.Table.from_pylist(rows, schema=SCHEMA)


def _grouped(rows: list[Row]) -> dict[str, list[Row]]:
    return {key: list(group) for key, group in groupby(rows, key=lambda row: row["noise_class"])}


def _row(name: str, unit: str, arms: list[Row], cells: list[Row]) -> Row:
    varying = [arm for arm in arms if arm["variance"] > 0 and math.isfinite(arm["variance"])]
    variances, dfs = [arm["variance"] for arm in varying], [float(arm["df"]) for arm in varying]
    pooled, df = pool(variances, dfs)
    policy = find("ledger")
    prior = fit_prior(variances, dfs, policy.d0_cap, 0.0, policy.fewest_variances)
    correlation = _correlation(cells)
    charts = _charts(cells)
    told = [(p, base) for base, chart in charts for p in (chart.p_slope, chart.p_blocks) if p is not None]
    worst = min(told, default=None)
    return {
        "noise_class": name,
        "unit": unit,
        "arms": len(varying),
        "runs": int(math.fsum(arm["n"] for arm in varying)),
        "df": df,
        "sd": digits(math.sqrt(pooled)) if df else None,
        **_prior(prior),
        "rho_hat": digits(correlation.rho) if correlation.df else None,
        "rho_lo": digits(correlation.low) if correlation.df else None,
        "rho_df": correlation.df,
        "n_control": int(math.fsum(chart.n for _, chart in charts)),
        "bases": len(charts),
        "drift_p": None if worst is None else digits(min(1.0, len(told) * worst[0])),
        "drift_base": None if worst is None else worst[1],
        "drifting": len([chart for _, chart in charts if chart.flagged]),
    }


def _prior(prior: Prior | None) -> Row:
    if prior is None:
        return {"d0": None, "d0_fitted": None, "s0": None, "cap_used": False, "floored": 0}
    return {
        "d0": digits(prior.d0),
        "d0_fitted": digits(prior.d0_fitted) if math.isfinite(prior.d0_fitted) else None,
        "s0": digits(math.sqrt(prior.s0_squared)),
        "cap_used": prior.capped,
        "floored": prior.floored,
    }


def _correlation(cells: list[Row]) -> Correlation:
    layouts = []
    for _, of in groupby(cells, key=lambda row: row["experiment"]):
        by_arm = groupby(list(of), key=lambda row: row["arm"])
        layouts.append([{row["seed"]: row["value"] for row in rows} for _, rows in by_arm])
    return same_seed_correlation(layouts)


def _charts(cells: list[Row]) -> list[tuple[str, Drift]]:
    """The run chart of each base and control: one value a seed, the first."""
    controls: dict[tuple[str, str], dict[int, Row]] = {}
    for row in sorted(cells, key=lambda row: int(row["started_position"])):
        if row["is_control"]:
            controls.setdefault((row["base"], row["control_key"]), {}).setdefault(row["seed"], row)
    return [
        (
            base,
            drift(
                [row["value"] for row in rows.values()],
                [float(row["started_position"]) for row in rows.values()],
                [row["block"] for row in rows.values()],
            ),
        )
        for (base, _), rows in sorted(controls.items())
    ]

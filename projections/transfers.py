"""Which proxies tell what happens on a target, from changes that were measured on both: rows for `transfer`.

Two noise classes of one metric are compared where the same change against the same control was measured on both;
the one whose control runs take less wall time is the proxy of the other. Within one noise class other losses that
the same runs told (training loss, loss before quantization) are proxies of the metric that decides: then the errors
of both correlate, and the model takes that in. Model and prior: statistics/transfer.py. Below three shared changes
there is no slope, and predictions go by the prior alone; of more than 200 the newest count. Effects on one base share
their control's noise, which the model does not know of: with few control seeds its intervals are too narrow.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping
from itertools import groupby
from typing import Any, NamedTuple

import pyarrow as pa

from projections.statistics.numeric import digits
from projections.statistics.transfer import FEWEST, Transfer, foreseen, transfer

SCHEMA = pa.schema(
    [
        ("proxy", pa.string()),
        ("target", pa.string()),
        ("metric", pa.string()),
        ("same_runs", pa.bool_()),
        ("k", pa.int64()),
        *[(name, pa.float64()) for name in ("b", "lo", "hi", "p_pos", "reliability")],
        *[(name, pa.float64()) for name in ("sign_agree", "sign_lo", "sign_hi", "delta", "noise")],
    ]
)
PREDICTED = pa.schema(
    [
        ("proxy", pa.string()),
        ("target", pa.string()),
        ("intervention", pa.string()),
        *[(name, pa.float64()) for name in ("x", "sx", "pred", "sd")],
        ("experiment", pa.string()),
    ]
)
NEWEST = 200  # changes that a slope is estimated from

Row = dict[str, Any]
Query = Callable[[str, tuple[Any, ...]], list[Row]]


class Class(NamedTuple):
    """A noise class. `wall_s` is what a run of a control takes, infinite where none told it; `noise` is the variance
    of a run, None where nothing was repeated."""

    name: str
    place: str
    stage: str
    metric: str
    delta: float
    wall_s: float
    noise: float | None


def transfers(query: Query, only: Collection[str] | None = None) -> tuple[pa.Table, pa.Table]:
    """Rows of SCHEMA and of PREDICTED; with `only` those of pairs that one of these noise classes is in."""
    classes = _classes(query)
    found: list[Row] = []
    predicted: list[Row] = []
    for pair in _pairs(classes):
        if only is None or not {*pair}.isdisjoint(only):
            _across(query, classes[pair[0]], classes[pair[1]], found, predicted)
    for name in sorted(classes if only is None else classes.keys() & {*only}):
        _within(query, classes[name], found)
    for row in (*found, *predicted):
        row.update({key: digits(value) for key, value in row.items() if type(value) is float})
    return pa.Table.from_pylist(found, schema=SCHEMA), pa.Table.from_pylist(predicted, schema=PREDICTED)


def _classes(query: Query) -> dict[str, Class]:
    """All noise classes. What a class says of itself is what its newest measurement says."""
    rows = query(
        """SELECT
            told.noise_class AS name,
            arg_max(told.place, told.position) AS place,
            arg_max(told.stage, told.position) AS stage,
            arg_max(told.outcome, told.position) AS metric,
            arg_max(experiments.delta, told.position) AS delta,
            coalesce(quantile_disc(told.wall_s, 0.5) FILTER (told.control = told.condition), 'inf'::DOUBLE) AS wall_s,
            list_sum(list(told.squares ORDER BY told.base, told.control, told.condition))
                / nullif(sum(told.n - 1), 0) AS noise
        FROM change_metrics AS told
        INNER JOIN experiments ON experiments.experiment = told.experiment
        WHERE told.metric = told.outcome
        GROUP BY told.noise_class
        ORDER BY told.noise_class""",
        (),
    )
    return {row["name"]: Class(**row) for row in rows}


def _pairs(classes: Mapping[str, Class]) -> list[tuple[str, str]]:
    """(proxy, target) of one metric and stage, the proxy being the one whose control takes less wall time."""
    pairs = []
    for a in sorted(classes):
        for b in sorted(classes):
            one, other = classes[a], classes[b]
            if a < b and (one.metric, one.stage) == (other.metric, other.stage):
                pairs.append((a, b) if (one.wall_s, a) <= (other.wall_s, b) else (b, a))
    return sorted(pairs)


# Every change as the classes $1 and $2 show it on their own metric, of several bases that with most seeds; `per`
# times the variance of a run is the variance of an effect.
_SEEN = """WITH seen AS (
        SELECT
            t.noise_class, t.control, t.condition, t.arm, t.experiment, t.mean - c.mean AS effect,
            1.0 / t.n + 1.0 / c.n AS per, greatest(t.position, c.position) AS position
        FROM change_metrics AS t
        INNER JOIN change_metrics AS c
            ON c.noise_class = t.noise_class AND c.base = t.base AND c.control = t.control
            AND c.metric = t.metric AND c.condition = c.control
        WHERE t.noise_class IN ($1, $2) AND t.metric = $3 AND t.outcome = $3 AND t.condition <> t.control
        QUALIFY row_number() OVER (
            PARTITION BY t.noise_class, t.control, t.condition
            ORDER BY per, greatest(t.position, c.position) DESC, t.base
        ) = 1
    ),
    xs AS (SELECT * FROM seen WHERE noise_class = $1),
    ys AS (SELECT * FROM seen WHERE noise_class = $2)"""


def _across(query: Query, proxy: Class, target: Class, found: list[Row], predicted: list[Row]) -> None:
    """One noise class as a proxy of another."""
    if not proxy.noise:
        return
    shared: list[Row] = []
    if target.noise:
        shared = query(
            f"""{_SEEN}
            SELECT xs.effect AS x, xs.per * $4 AS vx, ys.effect AS y, ys.per * $5 AS vy
            FROM xs INNER JOIN ys ON ys.control = xs.control AND ys.condition = xs.condition
            ORDER BY greatest(xs.position, ys.position) DESC, xs.control, xs.condition
            LIMIT {NEWEST}""",
            (proxy.name, target.name, target.metric, proxy.noise, target.noise),
        )
    rest = query(
        f"""{_SEEN}
        SELECT arm, experiment, effect AS x, per * $4 AS vx
        FROM xs
        WHERE control IN (SELECT control FROM change_metrics WHERE noise_class = $2)
            AND (NOT $5 OR (control, condition) NOT IN (SELECT control, condition FROM ys))
        ORDER BY control, condition""",
        (proxy.name, target.name, target.metric, proxy.noise, bool(target.noise)),
    )
    if not shared and not rest:
        return
    new = [(row["x"], math.sqrt(row["vx"])) for row in rest]
    told = None
    if len(shared) >= FEWEST:
        told = transfer(
            [row["x"] for row in shared],
            [math.sqrt(row["vx"]) for row in shared],
            [row["y"] for row in shared],
            [math.sqrt(row["vy"]) for row in shared],
            target.delta,
            new,
        )
    found.append(_row(proxy.name, target, False, len(shared), told, target.noise or None))
    said = told.predictions if told else [foreseen(x, sx, target.delta) for x, sx in new]
    predicted += [
        {
            "proxy": proxy.name,
            "target": target.name,
            "intervention": row["arm"],
            "x": row["x"],
            "sx": math.sqrt(row["vx"]),
            "pred": one.mean,
            "sd": one.sd,
            "experiment": row["experiment"],
        }
        for row, one in zip(rest, said, strict=True)
    ]


def _within(query: Query, one: Class, found: list[Row]) -> None:
    """Other losses of the same runs as proxies of the metric that decides."""
    if not one.noise:
        return
    pooled = query(
        """SELECT
            metric,
            list_sum(list(squares ORDER BY base, control, condition)) / nullif(sum(n - 1), 0) AS vx,
            list_sum(list(products ORDER BY base, control, condition)) / nullif(sum(n - 1), 0) AS vxy
        FROM change_metrics
        WHERE noise_class = $1 AND outcome = $2 AND metric <> $2
        GROUP BY metric ORDER BY metric""",
        (one.name, one.metric),
    )
    if not pooled:
        return
    pairs = query(
        f"""SELECT
            t.metric, t.mean - c.mean AS x, t.outcome_mean - c.outcome_mean AS y, 1.0 / t.n + 1.0 / c.n AS per,
            c.mean AS level, c.outcome_mean AS outcome
        FROM change_metrics AS t
        INNER JOIN change_metrics AS c
            ON c.noise_class = t.noise_class AND c.base = t.base AND c.control = t.control
            AND c.metric = t.metric AND c.condition = c.control
        WHERE t.noise_class = $1 AND t.outcome = $2 AND t.metric <> $2 AND t.condition <> t.control
        QUALIFY row_number() OVER (
            PARTITION BY t.metric ORDER BY greatest(t.position, c.position) DESC, t.base, t.control, t.condition
        ) <= {NEWEST}
        ORDER BY t.metric, t.base, t.control, t.condition""",
        (one.name, one.metric),
    )
    mine = {metric: list(group) for metric, group in groupby(pairs, key=lambda row: str(row["metric"]))}
    for row in pooled:
        vx, vxy, vy = row["vx"], row["vxy"], one.noise
        if not vx or vxy is None or vxy * vxy >= (1 - 1e-6) * vx * vy:  # one is the other in another unit
            continue
        told = mine.get(row["metric"], [])
        if len(told) < FEWEST or any(each["level"] == 0 for each in told):
            continue
        # The prior of the slope is meant for one unit: the proxy's effects are told in the target's, by the levels.
        unit = math.fsum([abs(each["outcome"] / each["level"]) for each in told]) / len(told)
        said = transfer(
            [each["x"] * unit for each in told],
            [math.sqrt(vx * each["per"]) * unit for each in told],
            [each["y"] for each in told],
            [math.sqrt(vy * each["per"]) for each in told],
            one.delta,
            sxy=[vxy * each["per"] * unit for each in told],
        )
        said = said._replace(b=said.b * unit, low=said.low * unit, high=said.high * unit)
        proxy = f"{one.place}, {row['metric']}, {one.stage}"
        found.append(_row(proxy, one, True, len(told), said, vy))


def _row(proxy: str, target: Class, same_runs: bool, k: int, told: Transfer | None, noise: float | None) -> Row:
    row: Row = dict.fromkeys(SCHEMA.names)
    row |= {"proxy": proxy, "target": target.name, "metric": target.metric, "same_runs": same_runs, "k": k}
    row |= {"delta": target.delta, "noise": noise}
    if told is not None:
        row |= {
            "b": told.b, "lo": told.low, "hi": told.high, "p_pos": told.p_positive, "reliability": told.reliability,
            "sign_agree": told.signs.share, "sign_lo": told.signs.low, "sign_hi": told.signs.high,
        }  # fmt: skip
        if math.isnan(told.signs.share):
            row["sign_agree"] = None
    return row

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
from collections.abc import Callable, Collection, Mapping, Sequence
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
Key = tuple[str, str]  # (control's condition, condition): a change by what it sets


class Seen(NamedTuple):
    """A change as one noise class shows it: its newest name, its effect, and the position of its newest run."""

    name: str
    experiment: str
    effect: float
    se: float
    position: int


class Effects(NamedTuple):
    """What a noise class shows: each change, the controls that it ran, and the variance of a run."""

    seen: Mapping[Key, Seen]
    controls: frozenset[str]
    noise: float | None


class Class(NamedTuple):
    """A noise class. `wall_s` is what a run of a control takes, infinite where none told it."""

    name: str
    place: str
    stage: str
    metric: str
    delta: float
    wall_s: float


def transfers(query: Query, only: Collection[str] | None = None) -> tuple[pa.Table, pa.Table]:
    """Rows of SCHEMA and of PREDICTED; with `only` those of pairs that one of these noise classes is in."""
    if only is not None and not only:
        return SCHEMA.empty_table(), PREDICTED.empty_table()
    classes = _classes(query)
    effects: dict[str, Effects] = {}
    found: list[Row] = []
    predicted: list[Row] = []
    for pair in _pairs(classes):
        if only is None or not {*pair}.isdisjoint(only):
            for name in pair:
                if name not in effects:
                    effects[name] = _effects(query, classes[name])
            proxy, target = pair
            _across(proxy, effects[proxy], classes[target], effects[target], found, predicted)
    for name in sorted(classes if only is None else classes.keys() & only):
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
            coalesce(quantile_disc(told.wall_s, 0.5) FILTER (told.control = told.condition), 'inf'::DOUBLE) AS wall_s
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


def _effects(query: Query, one: Class) -> Effects:
    """Effects of a class on its own metric, of several bases the one with most seeds."""
    rows = query(
        """SELECT base, control, condition, arm, experiment, n, mean, squares, position FROM change_metrics
        WHERE noise_class = $1 AND metric = $2 ORDER BY base, control, condition""",
        (one.name, one.metric),
    )
    noise = _pooled([row["squares"] for row in rows], [row["n"] for row in rows])
    controls = {(row["base"], row["control"]): row for row in rows if row["control"] == row["condition"]}
    known = frozenset(row["control"] for row in rows)
    if noise is None or noise <= 0:
        return Effects({}, known, None)
    found: dict[Key, Seen] = {}
    for row in rows:
        key = (row["control"], row["condition"])
        base = controls.get((row["base"], row["control"]))
        if base is None or base is row:
            continue
        se = math.sqrt(noise * (1.0 / row["n"] + 1.0 / base["n"]))
        newest = max(row["position"], base["position"])
        seen = Seen(row["arm"], row["experiment"], row["mean"] - base["mean"], se, newest)
        before = found.get(key)
        if before is None or (seen.se, -seen.position) < (before.se, -before.position):
            found[key] = seen
    return Effects(found, known, noise)


def _pooled(sums: Sequence[float], sizes: Sequence[int]) -> float | None:
    """A variance or covariance within arms from sums of squares or products; None without a repeated run."""
    df = sum(sizes) - len(sizes)
    return math.fsum(sums) / df if df else None


def _across(
    proxy: str, cheap: Effects, target: Class, dear: Effects, found: list[Row], predicted: list[Row]
) -> None:
    """One noise class as a proxy of another."""
    xs, ys = cheap.seen, dear.seen
    shared = sorted(xs.keys() & ys.keys(), key=lambda key: (-max(xs[key].position, ys[key].position), key))[:NEWEST]
    rest = sorted(key for key in xs.keys() - ys.keys() if key[0] in dear.controls)
    if not shared and not rest:
        return
    new = [(xs[key].effect, xs[key].se) for key in rest]
    told = None
    if len(shared) >= FEWEST:
        told = transfer(
            [xs[key].effect for key in shared],
            [xs[key].se for key in shared],
            [ys[key].effect for key in shared],
            [ys[key].se for key in shared],
            target.delta,
            new,
        )
    found.append(_row(proxy, target, False, len(shared), told, dear.noise))
    said = told.predictions if told else [foreseen(x, sx, target.delta) for x, sx in new]
    predicted += [
        {
            "proxy": proxy,
            "target": target.name,
            "intervention": xs[key].name,
            "x": xs[key].effect,
            "sx": xs[key].se,
            "pred": one.mean,
            "sd": one.sd,
            "experiment": xs[key].experiment,
        }
        for key, one in zip(rest, said, strict=True)
    ]


def _within(query: Query, one: Class, found: list[Row]) -> None:
    """Other losses of the same runs as proxies of the metric that decides."""
    rows = query(
        """SELECT
            metric, outcome = metric AS decides, base, control, condition, n, mean, outcome_mean, squares, products,
            position
        FROM change_metrics
        WHERE noise_class = $1 AND outcome = $2 ORDER BY metric, base, control, condition""",
        (one.name, one.metric),
    )
    own = [row for row in rows if row["decides"]]
    vy = _pooled([row["squares"] for row in own], [row["n"] for row in own])
    for metric, group in groupby([row for row in rows if not row["decides"]], key=lambda row: row["metric"]):
        told = list(group)
        sizes = [row["n"] for row in told]
        vx, vxy = _pooled([row["squares"] for row in told], sizes), _pooled([row["products"] for row in told], sizes)
        if not vx or not vy or vxy is None or vxy * vxy >= (1 - 1e-6) * vx * vy:  # one is the other in another unit
            continue
        controls = {(row["base"], row["control"]): row for row in told if row["control"] == row["condition"]}
        pairs = [
            (row, controls[row["base"], row["control"]])
            for row in told
            if row["control"] != row["condition"] and (row["base"], row["control"]) in controls
        ]
        pairs = sorted(pairs, key=lambda pair: -max(pair[0]["position"], pair[1]["position"]))[:NEWEST]
        if len(pairs) < FEWEST or any(c["mean"] == 0 for _, c in pairs):
            continue
        # The prior of the slope is meant for one unit: the proxy's effects are told in the target's, by the levels.
        unit = math.fsum([abs(c["outcome_mean"] / c["mean"]) for _, c in pairs]) / len(pairs)
        per = [1.0 / t["n"] + 1.0 / c["n"] for t, c in pairs]
        said = transfer(
            [(t["mean"] - c["mean"]) * unit for t, c in pairs],
            [math.sqrt(vx * p) * unit for p in per],
            [t["outcome_mean"] - c["outcome_mean"] for t, c in pairs],
            [math.sqrt(vy * p) for p in per],
            one.delta,
            sxy=[vxy * p * unit for p in per],
        )
        said = said._replace(b=said.b * unit, low=said.low * unit, high=said.high * unit)
        proxy = f"{one.place}, {metric}, {one.stage}"
        found.append(_row(proxy, one, True, len(pairs), said, vy))


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

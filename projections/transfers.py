"""Which proxies tell what happens on a target, from changes that were measured on both: rows for `transfer`.

Two noise classes of one metric are compared where the same change against the same control was measured on both;
the one whose control runs take less wall time is the proxy of the other. Within one noise class other losses that
the same runs told (training loss, loss before quantization) are proxies of the metric that decides: then the errors
of both correlate, and the model takes that in. Model and prior: statistics/transfer.py. Below three shared changes
there is no slope, and predictions go by the prior alone. Effects on one base share their control's noise, which the
model does not know of: with few control seeds its intervals are too narrow.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import pyarrow as pa

from projections.statistics.numeric import LARGEST, digits
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
_LOSS = re.compile(r"(?i)(?:.*[^a-z])?(?:bpb|bpc|loss|nll)")

Row = dict[str, Any]
Query = Callable[[str, tuple[Any, ...]], list[Row]]
Key = tuple[str, str]  # (control's condition, condition): a change by what it sets


class Seen(NamedTuple):
    """A change as one noise class shows it."""

    name: str
    experiment: str
    effect: float
    se: float


def transfers(query: Query) -> tuple[pa.Table, pa.Table]:
    """Rows of SCHEMA and of PREDICTED."""
    rows = _values(query)
    found: list[Row] = []
    predicted: list[Row] = []
    classes = _classes(rows)
    for proxy, target in _pairs(classes):
        _across(classes[proxy], classes[target], found, predicted)
    for name in sorted(classes):
        _within(classes[name], found)
    for row in (*found, *predicted):
        row.update({key: digits(value) for key, value in row.items() if type(value) is float})
    return pa.Table.from_pylist(found, schema=SCHEMA), pa.Table.from_pylist(predicted, schema=PREDICTED)


def slopes(query: Query) -> pa.Table:
    """Rows of SCHEMA."""
    return transfers(query)[0]


def predictions(query: Query) -> pa.Table:
    """Rows of PREDICTED."""
    return transfers(query)[1]


def _values(query: Query) -> list[Row]:
    """One row a seed of a condition: its value, and the other metrics that its run told last."""
    return query(
        """WITH arms AS (
            SELECT
                experiment,
                first_value(control) OVER (PARTITION BY experiment ORDER BY position) AS control,
                metric,
                delta,
                position,
                unnest(arms) AS arm
            FROM facts.experiment_registered
            WHERE experiment NOT IN (SELECT experiment FROM facts.screen_planned)
        ),
        named AS (
            SELECT
                *, arm.name AS name,
                md5(to_json({'env': arm.env, 'args': arm.args, 'config': arm.config})::VARCHAR) AS condition
            FROM arms
            QUALIFY row_number() OVER (PARTITION BY experiment, arm.name ORDER BY position DESC) = 1
        )
        SELECT
            runs.base, runs.noise_class,
            concat_ws(', ', runs.platform, runs.scale) AS place, runs.stage,
            base.condition AS control, named.condition, named.name, named.experiment, named.metric, named.delta,
            named.name = named.control AS is_control, runs.seed, runs.value, runs.wall_s,
            finished.finals, runs.pre_value
        FROM runs
        INNER JOIN named ON named.experiment = runs.experiment AND named.name = runs.arm
        INNER JOIN named AS base ON base.experiment = named.experiment AND base.name = named.control
        INNER JOIN facts.run_finished AS finished ON finished.event_id = runs.finished_id
        WHERE runs.status = 'ok' AND runs.seed IS NOT NULL AND isfinite(runs.value) AND abs(runs.value) < 1e100
        QUALIFY row_number() OVER (
            PARTITION BY runs.base, runs.noise_class, base.condition, named.condition, runs.seed
            ORDER BY runs.started_position
        ) = 1
        ORDER BY runs.noise_class, runs.base, base.condition, named.condition, runs.seed""",
        (),
    )


class Class(NamedTuple):
    """The runs of one noise class: by base and control the values of each condition and metric, by seed."""

    name: str
    place: str
    stage: str
    metric: str
    delta: float
    wall_s: float
    groups: Mapping[tuple[str, str], Mapping[str, Mapping[str, Mapping[int, float]]]]  # condition -> metric -> seed
    names: Mapping[Key, tuple[str, str]]  # change -> newest name and its experiment


def _classes(rows: Sequence[Row]) -> dict[str, Class]:
    found: dict[str, Class] = {}
    walls: dict[str, list[float]] = {}
    for row in rows:
        name = row["noise_class"]
        if name not in found:
            found[name] = Class(name, row["place"], row["stage"], row["metric"], row["delta"], math.inf, {}, {})
        one = found[name]
        groups: Any = one.groups
        names: Any = one.names
        told = groups.setdefault((row["base"], row["control"]), {}).setdefault(row["condition"], {})
        told.setdefault(row["metric"], {})[row["seed"]] = row["value"]
        others = {item["name"]: item["value"] for item in row["finals"] or ()}
        if row["pre_value"] is not None:
            others["before quantization"] = row["pre_value"]
        for metric, value in others.items():
            known = metric == "before quantization" or _LOSS.fullmatch(metric)
            if known and metric != row["metric"] and value is not None and abs(value) < LARGEST:
                told.setdefault(metric, {})[row["seed"]] = value
        if row["is_control"]:
            if row["wall_s"] is not None:
                walls.setdefault(name, []).append(row["wall_s"])
        else:
            names[row["control"], row["condition"]] = (row["name"], row["experiment"])
    return {
        name: one._replace(wall_s=sorted(walls[name])[len(walls[name]) // 2] if name in walls else math.inf)
        for name, one in found.items()
    }


def _pairs(classes: Mapping[str, Class]) -> list[tuple[str, str]]:
    """(proxy, target) of one metric and stage, the proxy being the one whose control takes less wall time."""
    pairs = []
    for a in sorted(classes):
        for b in sorted(classes):
            one, other = classes[a], classes[b]
            if a < b and (one.metric, one.stage) == (other.metric, other.stage):
                pairs.append((a, b) if (one.wall_s, a) <= (other.wall_s, b) else (b, a))
    return sorted(pairs)


def _effects(one: Class) -> tuple[dict[Key, Seen], float | None]:
    """Effects of a class on its own metric, of several bases the one with most seeds; the variance of a run."""
    noise = _covariance(one, one.metric, one.metric)
    found: dict[Key, Seen] = {}
    if noise is None or noise <= 0:
        return found, None
    for (_, control), conditions in sorted(one.groups.items()):
        c = list(conditions.get(control, {}).get(one.metric, {}).values())
        for condition, told in sorted(conditions.items()):
            t = list(told.get(one.metric, {}).values())
            if condition == control or not c or not t:
                continue
            effect = math.fsum(t) / len(t) - math.fsum(c) / len(c)
            se = math.sqrt(noise * (1.0 / len(t) + 1.0 / len(c)))
            name, experiment = one.names[control, condition]
            before = found.get((control, condition))
            if before is None or se < before.se:
                found[control, condition] = Seen(name, experiment, effect, se)
    return found, noise


def _covariance(one: Class, a: str, b: str) -> float | None:
    """Pooled covariance within arms of two metrics of one run; None without a repeated run."""
    total, df = [], 0
    for _, conditions in sorted(one.groups.items()):
        for _, told in sorted(conditions.items()):
            seeds = sorted(told.get(a, {}).keys() & told.get(b, {}).keys())
            if len(seeds) > 1:
                ma = math.fsum([told[a][s] for s in seeds]) / len(seeds)
                mb = math.fsum([told[b][s] for s in seeds]) / len(seeds)
                total += [(told[a][s] - ma) * (told[b][s] - mb) for s in seeds]
                df += len(seeds) - 1
    return math.fsum(total) / df if df else None


def _across(proxy: Class, target: Class, found: list[Row], predicted: list[Row]) -> None:
    """One noise class as a proxy of another."""
    (xs, _), (ys, noise) = _effects(proxy), _effects(target)
    controls = {control for _, control in target.groups}
    shared = sorted(xs.keys() & ys.keys())
    rest = sorted(key for key in xs.keys() - ys.keys() if key[0] in controls)
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
    found.append(_row(proxy.name, target, False, len(shared), told, noise))
    said = told.predictions if told else [foreseen(x, sx, target.delta) for x, sx in new]
    predicted += [
        {
            "proxy": proxy.name,
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


def _within(one: Class, found: list[Row]) -> None:
    """Other losses of the same runs as proxies of the metric that decides."""
    metrics = {m for conditions in one.groups.values() for told in conditions.values() for m in told}
    for metric in sorted(metrics - {one.metric}):
        vx, vy, vxy = (
            _covariance(one, *pair) for pair in ((metric, metric), (one.metric, one.metric), (metric, one.metric))
        )
        if not vx or not vy or vxy is None or vxy * vxy >= (1 - 1e-6) * vx * vy:  # one is the other in another unit
            continue
        xs, ys, per, levels = [], [], [], []
        for (_, control), conditions in sorted(one.groups.items()):
            for condition, told in sorted(conditions.items()):
                t, c = told, conditions.get(control, {})
                seeds = [sorted(side.get(metric, {}).keys() & side.get(one.metric, {}).keys()) for side in (t, c)]
                if condition == control or not all(seeds):
                    continue
                means = [
                    [math.fsum([side[m][s] for s in own]) / len(own) for m in (metric, one.metric)]
                    for side, own in zip((t, c), seeds, strict=True)
                ]
                xs.append(means[0][0] - means[1][0])
                ys.append(means[0][1] - means[1][1])
                per.append(1.0 / len(seeds[0]) + 1.0 / len(seeds[1]))
                levels.append(means[1])
        if len(xs) < FEWEST or any(level[0] == 0 for level in levels):
            continue
        # The prior of the slope is meant for one unit: the proxy's effects are told in the target's, by the levels.
        unit = math.fsum([abs(level[1] / level[0]) for level in levels]) / len(levels)
        told_ = transfer(
            [x * unit for x in xs],
            [math.sqrt(vx * p) * unit for p in per],
            ys,
            [math.sqrt(vy * p) for p in per],
            one.delta,
            sxy=[vxy * p * unit for p in per],
        )
        told_ = told_._replace(b=told_.b * unit, low=told_.low * unit, high=told_.high * unit)
        proxy = f"{one.place}, {metric}, {one.stage}"
        found.append(_row(proxy, one, True, len(xs), told_, vy))


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

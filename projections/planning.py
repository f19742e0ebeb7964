"""What a plan can see before it has run: the noise that it will meet, and the effects that it shows.

Noise is what runs of the same noise class have in the log: the residual variance within each of their
experiments, seeds and arms taken out, as the estimator will meet it; where no experiment allows that,
the variance within arms. Power is that of the rule of `estimates`: a variance on all arms of the plan,
Holm at its first step (alpha / family), the look's share of alpha. Another rule's power takes the place
of `sight`. It only tells: nothing here is recorded or decides.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import groupby
from typing import Literal, NamedTuple

from ledger.errors import UsageError
from ledger.events import NoiseClass
from projections import stats
from projections.engine import Tables
from projections.estimates import HUGE, look_alpha, more_seeds, residual
from projections.statistics.policies import find


class Noise(NamedTuple):
    """Standard deviation of one run over seeds, and what it rests on."""

    sd: float
    df: int
    runs: int
    kind: Literal["between arms of one seed", "within arms"]


class Sight(NamedTuple):
    """What a number of seeds shows, in the metric's unit; None where the noise is not known."""

    seeds: int
    alpha: float  # that one hypothesis may spend
    in_sd: float | None  # smallest effect with 80 % power, in standard deviations of one run
    smallest: float | None  # the same in the metric's unit
    at_delta: float | None  # power at the smallest effect that matters
    seeds_for_delta: int | None  # seeds per arm that show it with 80 % power; None above 10,000


def policy_id(name: str, metric: str) -> str:
    """Name and version of a decision rule. Raises UsageError for one that is unknown or judges another metric."""
    policy = find(name)
    if policy.metric not in (None, metric):
        raise UsageError(f"policy {policy.id} judges {policy.metric}, and the plan's metric is {metric}")
    return policy.id


def noise(tables: Tables, where: NoiseClass) -> Noise | None:
    """What the log knows of a noise class; None when it knows nothing that varies."""
    rows = tables.rows(
        """SELECT coalesce(experiment, base) AS study, arm, seed, value
        FROM runs
        WHERE status = 'ok' AND abs(value) < $5 AND seed IS NOT NULL
            AND platform = $1 AND scale = $2 AND metric = $3 AND stage = $4
        QUALIFY row_number() OVER (PARTITION BY study, arm, seed ORDER BY started_position) = 1
        ORDER BY study, arm, seed""",
        (where.platform, where.scale, where.metric, where.stage, HUGE),
    )
    studies = [list(group) for _, group in groupby(rows, key=lambda row: row["study"])]
    paired = [
        (*residual({(row["arm"], row["seed"]): row["value"] for row in study}), len(study)) for study in studies
    ]
    if found := _pooled(paired, "between arms of one seed"):
        return found
    arms = [[row["value"] for row in group] for _, group in groupby(rows, key=lambda row: (row["study"], row["arm"]))]
    return _pooled([(_squares(values), len(values) - 1, len(values)) for values in arms], "within arms")


def _pooled(
    parts: Sequence[tuple[float, int, int]], kind: Literal["between arms of one seed", "within arms"]
) -> Noise | None:
    """From sums of squares, degrees of freedom and runs."""
    counted = [part for part in parts if part[1] > 0 and part[0] > 0]  # runs that ignore their seed say nothing
    if not counted:
        return None
    squares, df, runs = (math.fsum(column) for column in zip(*counted, strict=True))
    return Noise(stats.digits(math.sqrt(squares / df)), int(df), int(runs), kind)


def _squares(values: Sequence[float]) -> float:
    mean = math.fsum(values) / len(values)
    return math.fsum((value - mean) ** 2 for value in values)


def sight(*, arms: int, seeds: int, family: int, alpha: float, look: int, delta: float, sd: float | None) -> Sight:
    """What `seeds` seeds of `arms` arms (the control included) show at look number `look`."""
    share = stats.digits(look_alpha(alpha, look) / family)
    df = (arms - 1) * (seeds - 1)
    in_sd = stats.smallest_effect(seeds, math.sqrt(2.0), df, share)
    if sd is None or in_sd is None:
        return Sight(seeds, share, _told(in_sd), None, None, None)
    d = math.sqrt(2.0) * sd  # of the difference of two runs
    more = more_seeds(1, d, arms - 1, share, delta)
    return Sight(
        seeds,
        share,
        _told(in_sd),
        _told(in_sd * sd),
        _told(stats.power(delta, seeds, d, df, share)),
        None if more is None else 1 + more,
    )


def _told(value: float | None) -> float | None:
    return None if value is None else stats.digits(value)


def told_metrics(tables: Tables, command: Sequence[str], code: str | None) -> list[str]:
    """Names of the metrics that runs of this command and code told, when they ended by themselves."""
    rows = tables.rows(
        """SELECT DISTINCT final.name AS name
        FROM (
            SELECT unnest(finished.finals) AS final
            FROM facts.run_finished AS finished
            INNER JOIN facts.run_started AS started ON started.run = finished.run
            WHERE finished.status IN ('ok', 'no_metric') AND started.code = $1
                AND started.command[:$2] = $3
        )
        ORDER BY name""",
        (code, len(command), list(command)),
    )
    return [row["name"] for row in rows]


def runs_on_record(tables: Tables, experiment: str) -> int:
    """Cells (one arm, one seed) of an experiment that have an outcome."""
    (row,) = tables.rows(
        """SELECT count(DISTINCT (arm, seed)) AS n FROM runs
        WHERE experiment = $1 AND status NOT IN ('running', 'interrupted', 'lost')""",
        (experiment,),
    )
    return int(row["n"])

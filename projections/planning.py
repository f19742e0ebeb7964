"""What a plan can see before it has run: the noise that it will meet, and the effects that it shows.

Noise is what runs of the same noise class have in the log, as the policy that will decide meets it: for the
ledger's rule the pooled variance within arms with the class's prior, for rules on pairs the residual variance
with seeds and arms taken out. Power is that of the policy's own test: its standard error, degrees of freedom
and level at the look (Holm at its first step, the boundary of a planned look, 1 / alpha for an e-value). It only
tells: nothing here is recorded or decides.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import groupby
from typing import Literal, NamedTuple

from ledger.errors import UsageError
from ledger.events import ExperimentRegistered, NameValue, NoiseClass
from projections import stats
from projections.engine import Tables
from projections.estimates import HUGE, look_alpha, residual
from projections.statistics.anytime import t_bound
from projections.statistics.effects import Counts, contrast_df, contrast_variance
from projections.statistics.multiplicity import cycle_alpha
from projections.statistics.policies import FOUNDING, Policy, find
from projections.statistics.power import planning_df, power, seeds_needed, smallest_effect
from projections.statistics.sequential import boundaries
from projections.statistics.variances import Prior, Spread, own_spread, squeeze

Kind = Literal["between arms of one seed", "within arms", "between forks"]


class Noise(NamedTuple):
    """Standard deviation of one run over seeds, and what it rests on."""

    sd: float
    df: int
    runs: int
    kind: Kind
    arms: int = 0  # variances that a moderated one would borrow
    d0: float | None = None  # what they are worth
    rho: float = 0.0  # same-seed correlation that pairs of the tier rerun may use


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


def noise(tables: Tables, where: NoiseClass, policy: str, tier: str = "seed") -> Noise | None:
    """What the log knows of a noise class, as this policy meets it; None when it knows nothing that varies."""
    if find(policy) is not FOUNDING and find(policy).procedure != "paired_gate":
        return _moderated(tables, where, "fork" if tier == "fork" else "run")
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


def _moderated(tables: Tables, where: NoiseClass, unit: str) -> Noise | None:
    """The row of the table `noise`, with the class's prior and correlation."""
    rows = tables.rows(
        """SELECT noise.*, (SELECT rho_lo FROM noise AS runs WHERE runs.noise_class = noise.noise_class
            AND runs.unit = 'run') AS rho FROM noise
        WHERE noise_class = concat_ws(', ', $1, $2, $3, $4) AND unit = $5 AND sd > 0""",
        (where.platform, where.scale, where.metric, where.stage, unit),
    )
    if not rows:
        return None
    (row,) = rows
    kind: Kind = "between forks" if unit == "fork" else "within arms"
    sd = row["sd"] / math.sqrt(2.0) if unit == "fork" else row["sd"]  # of one run, as if its pair shared nothing
    return Noise(stats.digits(sd), int(row["df"]), row["runs"], kind, row["arms"], row["d0"], row["rho"] or 0.0)


def bank(tables: Tables, wanted: ExperimentRegistered) -> int:
    """Controls that a plan would share with other experiments on its base, seeds of its own left out."""
    rows = tables.rows(
        """SELECT count(DISTINCT evidence.seed) AS n
        FROM evidence
        INNER JOIN experiments AS plans ON plans.experiment = evidence.experiment AND plans.control = evidence.arm
        WHERE plans.experiment <> $1 AND plans.base = $2 AND plans.metric = $3 AND NOT evidence.bank
            AND NOT evidence.tuning AND evidence.status = 'ok' AND NOT list_contains($4, evidence.seed)
            AND plans.control_key = (
                SELECT md5(to_json([{'env': $5::STRUCT(name VARCHAR, value VARCHAR)[], 'args': $6::VARCHAR[],
                    'config': $7::STRUCT(name VARCHAR, value VARCHAR)[]}])::VARCHAR)
            )""",
        (
            wanted.experiment,
            wanted.base,
            wanted.metric,
            list(wanted.seeds),
            *next(
                ([_pair(one) for one in arm.env], list(arm.args), [_pair(one) for one in arm.config])
                for arm in wanted.arms
                if arm.name == wanted.control
            ),
        ),
    )
    return int(rows[0]["n"])


def _pair(one: NameValue) -> dict[str, str]:
    return {"name": one.name, "value": one.value}


def granted(policy: str, alpha: float, look: int, cycle: int | None) -> float:
    """What the family may spend at a look by this policy; planned looks share it."""
    if find(policy) is FOUNDING:
        return stats.digits(look_alpha(alpha, look))
    of = find(policy).alpha
    alpha = alpha if of is None else of
    return stats.digits(alpha if cycle is None else cycle_alpha(alpha, cycle))


def _pooled(parts: Sequence[tuple[float, int, int]], kind: Kind) -> Noise | None:
    """From sums of squares, degrees of freedom and runs."""
    counted = [part for part in parts if part[1] > 0 and part[0] > 0]  # runs that ignore their seed say nothing
    if not counted:
        return None
    squares, df, runs = (math.fsum(column) for column in zip(*counted, strict=True))
    return Noise(stats.digits(math.sqrt(squares / df)), int(df), int(runs), kind)


def _squares(values: Sequence[float]) -> float:
    mean = math.fsum(values) / len(values)
    return math.fsum((value - mean) ** 2 for value in values)


def sight(
    *,
    policy: str,
    arms: int,
    seeds: int,
    family: int,
    alpha: float,
    look: int,
    delta: float,
    sd: float | None,
    tier: str = "seed",
    stopping: str = "fixed",
    looks: tuple[int, ...] = (),
    tau: float | None = None,
    cycle: int | None = None,
    bank: int = 0,
    known: Noise | None = None,
) -> Sight:
    """What `seeds` seeds of `arms` arms (the control included) show at look number `look`, by this policy.

    `bank` counts controls of the same base that the log has; `known` is what the log knows of the noise class. All
    is None for a policy that compares with a target instead of the control.
    """
    rule = find(policy)
    test: Callable[[int, float], _Test | None]
    if rule is FOUNDING:
        share = stats.digits(look_alpha(alpha, look) / family)

        def test(n: int, noise: float) -> _Test | None:
            return _Test(math.sqrt(2.0 / n) * noise, (arms - 1) * (n - 1), share, 2)

    elif rule.procedure == "moderated":
        share = (alpha if cycle is None else cycle_alpha(alpha, cycle)) / family
        plan = _Plan(arms, share, look, delta, tier, stopping, looks, tau, bank, known)

        def test(n: int, noise: float) -> _Test | None:
            return _own(rule, plan, n, noise)

    elif rule.procedure in ("paired_gate", "welch"):
        of = alpha if rule.alpha is None else rule.alpha
        share = of / family if rule.procedure == "paired_gate" else of
        sides = 2 if rule.procedure == "paired_gate" else 1

        def test(n: int, noise: float) -> _Test | None:
            return _Test(
                math.sqrt(2.0 / n) * noise, n - 1 if sides == 2 else 2 * (n - 1), share, sides, rule.gate or 0.0
            )

    else:
        return Sight(seeds, alpha, None, None, None, None)
    # The level of an e-value depends on the noise, which stands for delta where it is not known.
    unit = _smallest(test(seeds, delta if sd is None else sd))
    in_sd = None if unit is None else unit / (delta if sd is None else sd)
    if sd is None or in_sd is None:
        return Sight(seeds, share, _told(in_sd), None, None, None)
    more = seeds_needed(lambda k: (smallest := _smallest(test(1 + k, sd))) is not None and smallest <= delta)
    now = test(seeds, sd)
    return Sight(
        seeds,
        share,
        _told(in_sd),
        _told(in_sd * sd),
        _told(0.0 if now is None else _power(now, delta)),
        None if more is None else 1 + more,
    )


class _Test(NamedTuple):
    """A t test on an effect: its standard error, degrees of freedom, nominal level, sides, and a gate on its size."""

    se: float
    df: float
    level: float
    sides: int
    gate: float = 0.0


class _Plan(NamedTuple):
    arms: int
    share: float
    look: int
    delta: float
    tier: str
    stopping: str
    looks: tuple[int, ...]
    tau: float | None
    bank: int
    known: Noise | None


def _own(rule: Policy, plan: _Plan, n: int, sd: float) -> _Test | None:
    """The test of the ledger's own rule at n seeds per arm, as study.py builds it."""
    if n < 2:
        return None
    fork = plan.tier == "fork"
    own, known = (plan.arms - 1 if fork else plan.arms), plan.known
    variance = 2.0 * sd * sd if fork else sd * sd
    others, df = (known.arms, float(known.df)) if known else (0, 0.0)

    def spread(seeds: int) -> Spread:
        if own + others >= rule.fewest_variances:
            d0 = min(rule.d0_cap, known.d0 if known and known.d0 is not None else rule.d0_cap)
            return squeeze(variance, seeds - 1.0, Prior(d0, variance, d0, False, own + others, df + own * (n - 1), 0))
        if own >= 3:
            together = own * (n - 1.0)
            return Spread(variance, together, "pooled", 0.0, variance, together, together)
        return own_spread(variance, seeds - 1.0)

    rho = known.rho if known and plan.tier == "rerun" else 0.0
    if fork:
        se, freedom = math.sqrt(variance / n), spread(n).df
    else:
        counts = Counts(n, 0, plan.bank)
        se = math.sqrt(contrast_variance(counts, rho, variance, variance))
        freedom = contrast_df(counts, rho, spread(n), spread(n + plan.bank))
    freedom = planning_df(freedom)
    if not freedom > 0:
        return None
    if plan.stopping == "looks" and n in plan.looks:
        sizes = [1.0 / m if fork else contrast_variance(Counts(m, 0, plan.bank), rho, 1.0, 1.0) for m in plan.looks]
        level = boundaries([sizes[-1] / size for size in sizes], plan.share)[plan.looks.index(n)].nominal_p
    elif plan.stopping == "fixed" and plan.look == 1:
        level = plan.share
    else:  # a look that is not planned goes by its e-value
        bound = t_bound(se, plan.tau or plan.delta, plan.share, freedom)
        level = stats.t_two_sided(bound, freedom) if math.isfinite(bound) else 0.0
    return _Test(se, freedom, level, 2) if 0 < level < 1 else None


def _smallest(test: _Test | None) -> float | None:
    if test is None or not test.df > 0:
        return None
    shown = test.se * smallest_effect(test.df, test.level, 0.8, test.sides)
    if test.gate:  # what is observed has to reach the gate, too
        shown = max(shown, test.gate + 0.8416212335729143 * test.se)
    return shown


def _power(test: _Test, effect: float) -> float:
    found = power(effect / test.se, test.df, test.level, test.sides)
    if test.gate:
        found = min(found, 0.5 * math.erfc((test.gate - effect) / test.se / math.sqrt(2.0)))
    return found


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

"""What can be measured next on our own platforms: open arms, cycle candidates, screens, banks, transfers.

From the tables to options of `statistics.value`: each a posterior, the variance of what further runs would tell,
and their cost in runs of the control. A condition is measured where it ran, under whatever name; what is not known
is said in words beside the figures. Nothing is chosen here (see ranking.py) and nothing claimed.

The posterior of an effect is its normal prior (a cycle plan's, else N(0, delta)) with the difference of the means of
all seeds on one base, the noise being that of its noise class (table `noise`). Where a class has no repeated run yet,
the noise of one run is taken to be delta.

Options come in parts that do not depend on each other: those of one base, and those by transfer. So one more run
changes those of its base, and those of its noise class only where that is known otherwise than before.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, NamedTuple

import msgspec

from ledger.events import Arm, CyclePlanned
from projections.statistics import value
from projections.statistics.policies import of_plan_sql
from projections.statistics.screen import runs_of
from projections.statistics.transfer import foreseen

Row = dict[str, Any]
Query = Callable[[str, tuple[Any, ...]], list[Row]]
FEWEST_FACTORS = 4  # open changes on one base from which on a screen is an option
MOST_FACTORS = 24
TRANSFER = "transfer"  # the part that is no base's
INTERACTIONS = 0.25  # sd in deltas by which an average effect may differ from the one on the base


class Option(NamedTuple):
    """One line of the ranking before it is ranked. Effects are oriented: negative is better."""

    source: str  # cycle, experiment, screen, transfer, lineage
    where: str  # the cycle's name, the control and base, the track: what the line is about
    action: str
    candidate: str
    parts: tuple[value.Part, ...]
    costs: tuple[float, ...]
    k: int | None  # steps where these are fixed (then costs has one entry), else None
    feasible: float
    blocked_by: str
    uncertain: bool  # for the seed rule
    told: str  # the first half of the reason
    adopt: float
    delta: float
    sign: int  # 1 where lower is better, -1 where higher is
    metric: str
    target: str  # noise class
    base: str
    experiment: str  # that has the arm or its control; empty for none
    arms: tuple[str, ...]  # names of what would be measured

    @property
    def id(self) -> str:
        return f"{self.source}/{self.where}/{self.action}/{self.candidate}"

    @property
    def part(self) -> str:
        return self.source if self.source in (TRANSFER, "lineage") else part_of(self.base)


class Known(NamedTuple):
    """What the tables know of one noise class and its conditions."""

    conditions: Mapping[tuple[str, str, str], Row]  # (base, noise class, condition) -> row
    noise: Mapping[str, float]  # noise class -> variance of one run


def part_of(base: str) -> str:
    """Name of the part that the options of a base are."""
    return f"base {base}"


def known(query: Query, bases: Collection[str] | None = None) -> Known:
    """Conditions on some bases, or on all, and the variance of a run in each noise class that repeats one."""
    only, given = _only(bases)
    rows = query(f"SELECT * FROM conditions {only} ORDER BY base, noise_class, condition", given)
    noise = query("SELECT noise_class, sd FROM noise WHERE unit = 'run' AND sd > 0 ORDER BY noise_class", ())
    return Known(
        {(row["base"], row["noise_class"], row["condition"]): row for row in rows},
        {row["noise_class"]: row["sd"] ** 2 for row in noise},
    )


def _only(bases: Collection[str] | None, column: str = "base") -> tuple[str, tuple[str, ...]]:
    """A condition for rows of these bases: a list of values, which DuckDB looks up without reading all rows."""
    if bases is None:
        return "", ()
    return f"WHERE {column} IN ({', '.join('?' * len(bases))})", tuple(sorted(bases))


def options(query: Query, parts: Collection[str] | None = None) -> list[Option]:
    """Everything that can be measured on our own platforms, or of that some parts, in a fixed order."""
    found = []
    bases = None if parts is None else {part.removeprefix("base ") for part in parts if part.startswith("base ")}
    if bases is None or bases:
        have = known(query, bases)
        arms = _arms(query, bases)
        cycles = [cycle for cycle in _cycles(query) if bases is None or cycle["base"] in bases]
        found = [option for cycle in cycles for option in _candidates(cycle, have, query)]
        taken = {(cycle["base"], key) for cycle in cycles for key in cycle["keys"]}
        found += [
            option for arm in arms if (arm["base"], arm["condition"]) not in taken for option in _open(arm, have)
        ]
        found += _screened(query, bases)
        found += _banks(arms, have)
        found += _screens(found, have)
    if parts is None or TRANSFER in parts:
        found += _checks(query)
    return sorted(found, key=lambda option: (option.id, option.base, option.experiment))


def cycle_options(query: Query, planned: CyclePlanned, own: bool = True) -> list[Option]:
    """The candidates of one cycle plan, whether or not it is in the log, and a screen of them.

    Without `own` decisions of any policy count, which was so up to next/2.
    """
    keys = [_digest(query, arm) for arm in (planned.control, *planned.arms)]
    cycle: Row = {
        **msgspec.to_builtins(planned),
        "target": ", ".join(msgspec.to_builtins(planned.noise_class).values()),
        "control_condition": keys[0],
        "keys": keys[1:],
    }
    have = known(query, (planned.base,))
    found = _candidates(cycle, have, query, own)
    return sorted([*found, *_screens(found, have)], key=lambda option: option.id)


def _digest(query: Query, arm: Arm) -> str:
    """The condition of an arm, as the tables have it."""
    told = msgspec.to_builtins(arm)
    (row,) = query(
        """SELECT md5(to_json({
            'env': CAST($1::JSON AS STRUCT(name VARCHAR, value VARCHAR)[]),
            'args': CAST($2::JSON AS VARCHAR[]),
            'config': CAST($3::JSON AS STRUCT(name VARCHAR, value VARCHAR)[])
        })::VARCHAR) AS condition""",
        tuple(msgspec.json.encode(told[name]).decode() for name in ("env", "args", "config")),
    )
    return str(row["condition"])


# ── what is there ──


def _arms(query: Query, bases: Collection[str] | None = None) -> list[Row]:
    """One row a treatment on a base: of several experiments with it the one that was decided last, else the newest.
    With its control, and the verdict of its plan's own policy: what other rules said stands beside. The stacks of a
    screen are no treatments."""
    only, given = _only(bases, "plans.base")
    return query(
        f"""WITH mine AS (
            SELECT
                arms.experiment, arms.arm AS name, arms.condition, arms.control_condition, arms.position,
                plans.base, plans.metric, plans.direction, plans.delta, plans.tau, plans.track, plans.noise_class,
                plans.control, plans.name AS experiment_name, {of_plan_sql("plans.policy")} AS policy
            FROM experiment_arms AS arms
            INNER JOIN experiments AS plans ON plans.experiment = arms.experiment
                AND plans.control <> arms.arm AND arms.control_condition IS NOT NULL AND NOT arms.stack
            {only}
        ),
        verdicts AS (
            SELECT
                experiment, intervention, policy, arg_max(verdict, position) AS verdict, max(position) AS position
            FROM facts.decision_made
            WHERE experiment IN (SELECT experiment FROM mine)
            GROUP BY experiment, intervention, policy
        ),
        waiting AS (
            SELECT experiment, intervention, count(*) FILTER (pending) AS pending
            FROM paired_differences
            WHERE experiment IN (SELECT experiment FROM mine)
            GROUP BY experiment, intervention
        )
        SELECT mine.* EXCLUDE (position), verdicts.verdict, coalesce(waiting.pending, 0) AS pending
        FROM mine
        LEFT JOIN verdicts ON verdicts.experiment = mine.experiment AND verdicts.intervention = mine.name
            AND verdicts.policy = mine.policy
        LEFT JOIN waiting ON waiting.experiment = mine.experiment AND waiting.intervention = mine.name
        QUALIFY row_number() OVER (
            PARTITION BY mine.base, mine.noise_class, mine.control_condition, mine.condition
            ORDER BY coalesce(verdicts.position, -1) DESC, mine.position DESC, mine.experiment, mine.name
        ) = 1
        ORDER BY mine.base, mine.noise_class, mine.control_condition, mine.condition""",
        given,
    )


def _cycles(query: Query) -> list[Row]:
    """The newest plan of every series of cycles, its candidates in their order."""
    if not query("SELECT 1 AS there FROM facts.cycle_planned LIMIT 1", ()):
        return []
    return query(
        """SELECT
            position, cycle, name, base, metric, direction, delta, adopt, seeds, batch, control, candidates,
            concat_ws(', ', noise_class.platform, noise_class.scale, noise_class.metric, noise_class.stage) AS target,
            md5(to_json({'env': control.env, 'args': control.args, 'config': control.config})::VARCHAR)
                AS control_condition,
            [md5(to_json({'env': arm.env, 'args': arm.args, 'config': arm.config})::VARCHAR) FOR arm IN arms] AS keys
        FROM facts.cycle_planned
        QUALIFY row_number() OVER (PARTITION BY cycle ORDER BY position DESC) = 1
        ORDER BY cycle""",
        (),
    )


class Measured(NamedTuple):
    """An effect as all seeds on a base tell it."""

    n_t: int
    n_c: int
    error: float  # variance of the estimate; inf for none
    mean: float  # posterior
    variance: float
    noise: float  # variance of one run
    cost: float  # of a run, in runs of the control
    ok: int
    attempts: int
    last_seed: int


def _measured(
    have: Known, base: str, noise_class: str, condition: str, control: str, prior: tuple[float, float],
    sign: int, delta: float, cost: float | None = None,
) -> Measured:  # fmt: skip
    t, c = (have.conditions.get((base, noise_class, key)) for key in (condition, control))
    noise = have.noise.get(noise_class, delta * delta)
    n_t, n_c = (row["n"] if row else 0 for row in (t, c))
    error, mean, variance = math.inf, sign * prior[0], prior[1] ** 2
    if t and c and n_t and n_c:
        error = noise * (1.0 / n_t + 1.0 / n_c)
        mean, variance = value.posterior(mean, variance, sign * (t["mean"] - c["mean"]), error)
    if cost is None:
        cost = 1.0
        if t and c and t["wall_s"] and c["wall_s"]:
            cost = t["wall_s"] / c["wall_s"]
    seeds = [row["last_seed"] for row in (t, c) if row]
    return Measured(
        n_t, n_c, error, mean, variance, noise, cost, t["ok"] if t else 0, t["attempts"] if t else 0,
        max(seeds, default=-1),
    )  # fmt: skip


def _sign(direction: str) -> int:
    return 1 if direction == "lower" else -1


def figure(number: float) -> str:
    """A size as a reason tells it."""
    return f"{number:.2g}"


def _estimate(name: str, found: Measured, sign: int, verdict: str | None) -> str:
    if not found.n_t or not found.n_c:
        return f"{name} was not measured on this base yet"
    so_far = f"{name} stands at {sign * found.mean:+.2g} ± {figure(math.sqrt(found.variance))}"
    seeds = f"{found.n_t} seed{'' if found.n_t == 1 else 's'}"
    return f"{so_far} after {seeds} ({verdict.replace('_', ' ') if verdict else 'not decided'})"


# ── options ──


def _open(arm: Row, have: Known) -> list[Option]:
    """More seeds for an arm of an experiment."""
    sign = _sign(arm["direction"])
    prior = (0.0, arm["tau"] or arm["delta"])
    found = _measured(
        have, arm["base"], arm["noise_class"], arm["condition"], arm["control_condition"], prior, sign, arm["delta"]
    )
    verdict = arm["verdict"]
    decided = verdict in ("better", "worse", "no_effect_that_matters")
    blocked = f"decided: {verdict.replace('_', ' ')}" if decided else ""
    if not blocked and arm["pending"]:
        blocked = f"{arm['pending']} planned pairs have not run yet: ledger run its plan first"
    news = value.contrast_news(found.noise, found.n_t, found.n_c, found.error, 1)
    return [
        Option(
            "experiment", f"{arm['control']} on {arm['base'][:8]}", "add_seeds" if found.n_t else "ablate",
            arm["name"], (value.Part(found.mean, found.variance, news),),
            tuple(k * (found.cost + 1.0) for k in range(1, value.STEPS + 1)), None,
            value.feasible(1.0, found.ok, found.attempts), blocked, not decided,
            _estimate(arm["name"], found, sign, verdict), arm["delta"] / 2, arm["delta"], sign, arm["metric"],
            arm["noise_class"], arm["base"], arm["experiment"], (arm["name"],),
        )
    ]  # fmt: skip


def _candidates(cycle: Row, have: Known, query: Query, own: bool = True) -> list[Option]:
    """The candidates of a series of cycles: a fixed number of fresh seeds each, the control's shared by a batch."""
    verdicts = {
        row["intervention"]: row["verdict"]
        for row in query(
            f"""SELECT decision.intervention, arg_max(decision.verdict, decision.position) AS verdict
            FROM facts.decision_made AS decision
            INNER JOIN experiments ON experiments.experiment = decision.experiment
            INNER JOIN facts.cycle_ranked AS ranked
                ON ranked.experiment = experiments.name AND experiments.base = $2
            WHERE ranked.cycle = $1 AND (NOT $3 OR decision.policy = {of_plan_sql("experiments.policy")})
            GROUP BY decision.intervention ORDER BY decision.intervention""",
            (cycle["cycle"], cycle["base"], own),
        )
    }
    lineage = _lineage_priors(query) if any(one["technique"] for one in cycle["candidates"]) else {}
    sign, seeds = _sign(cycle["direction"]), cycle["seeds"]
    better = {
        one["excludes"]: one["name"]
        for one in cycle["candidates"]
        if one["excludes"] and verdicts.get(one["name"]) == "better"
    }
    options = []
    for one, key in zip(cycle["candidates"], cycle["keys"], strict=True):
        prior = (one["mean"], one["sd"])
        technique = lineage.get(one["technique"])
        if technique is not None:
            said = foreseen(*technique, cycle["delta"])
            prior = (sign * said.mean, said.sd)
        found = _measured(
            have, cycle["base"], cycle["target"], key, cycle["control_condition"], prior, sign, cycle["delta"],
            one["cost"],
        )  # fmt: skip
        verdict = verdicts.get(one["name"])
        decided = verdict in ("better", "worse", "no_effect_that_matters")
        blocked = f"decided: {verdict.replace('_', ' ')}" if decided and verdict else ""
        if not blocked and (other := better.get(one["excludes"])):
            blocked = f"excludes {other}, which is better"
        if not blocked and verdict == "invalid" and not found.ok:
            blocked = "none of its runs ended well"
        told = _estimate(one["name"], found, sign, verdict)
        if technique is not None and not found.n_t:
            told += f", and the records say {technique[0]:+.2g} ± {figure(technique[1])} of {one['technique']}"
        after = found.noise * (1.0 / (found.n_t + seeds) + 1.0 / (found.n_c + seeds))
        u = value.more_news(found.error, after) if after < found.error else math.inf
        options.append(
            Option(
                "cycle", cycle["name"], "add_seeds" if found.n_t else "ablate", one["name"],
                (value.Part(found.mean, found.variance, (u,)),), (seeds * (found.cost + 1.0 / cycle["batch"]),),
                seeds, value.feasible(one["feasible"], found.ok, found.attempts), blocked, not decided, told,
                cycle["adopt"], cycle["delta"], sign, cycle["metric"], cycle["target"], cycle["base"], "",
                (one["name"],),
            )
        )  # fmt: skip
    return options


def _lineage_priors(query: Query) -> dict[str, tuple[float, float]]:
    """Mean and sd of each technique's effect as the newest revision of the DAG has it; empty without one."""
    rows = query(
        """SELECT effect.technique, effect.mean, effect.sd
        FROM lineage_effects AS effect
        WHERE effect.latest AND effect.noise_class IN (SELECT track FROM facts.record_extracted)
            AND effect.target IN (SELECT id FROM dag_nodes WHERE kind = 'outcome' AND revision = effect.revision)
        ORDER BY effect.technique, effect.sd, effect.noise_class""",
        (),
    )
    found: dict[str, tuple[float, float]] = {}
    for row in rows:
        found.setdefault(row["technique"], (row["mean"], row["sd"]))
    return found


def _screened(query: Query, bases: Collection[str] | None) -> list[Option]:
    """Factors that a screen suggests: to be confirmed one at a time, with fresh seeds."""
    if not query("SELECT 1 AS there FROM screen_effects WHERE candidate LIMIT 1", ()):
        return []  # to ask is cheaper than what follows
    only, given = _only(bases, "experiments.base")
    rows = query(
        f"""SELECT screen_effects.*, experiments.base, experiments.name, experiments.delta AS size,
            experiments.metric AS outcome, experiments.direction AS way, experiments.noise_class,
            EXISTS (
                SELECT 1 FROM facts.experiment_registered AS later
                WHERE later.base = experiments.base AND later.experiment <> experiments.experiment
                    AND list_contains([arm.name FOR arm IN later.arms], screen_effects.factor)
            ) AS followed
        FROM screen_effects
        INNER JOIN experiments
            ON experiments.experiment = screen_effects.experiment AND screen_effects.candidate
        {only}
        ORDER BY screen_effects.experiment, screen_effects.factor""",
        given,
    )
    found = []
    for row in rows:
        sign, delta = _sign(row["way"]), row["size"]
        error = row["se"] ** 2 + (INTERACTIONS * delta) ** 2
        mean, variance = value.posterior(0.0, delta * delta, sign * row["effect"], error)
        noise = row["sd"] ** 2
        news = tuple(2.0 * noise / k for k in range(1, value.STEPS + 1))
        told = (
            f"{row['factor']} changes {row['outcome']} by {row['effect']:+.2g} ± {figure(row['se'])} on the average "
            f"of {row['runs']} stacks, which is not its effect on the base"
        )
        found.append(
            Option(
                "screen", row["name"], "ablate", row["factor"], (value.Part(mean, variance, news),),
                tuple(2.0 * k for k in range(1, value.STEPS + 1)), None, 1.0,
                "another plan measures it by itself" if row["followed"] else "", not row["followed"], told, delta / 2,
                delta, sign, row["outcome"], row["noise_class"], row["base"], row["experiment"], (row["factor"],),
            )
        )  # fmt: skip
    return found


def _banks(arms: Sequence[Row], have: Known) -> list[Option]:
    """More controls: they help every open effect that is measured against them."""
    groups: dict[tuple[str, str, str], list[Row]] = {}
    for arm in arms:
        groups.setdefault((arm["base"], arm["noise_class"], arm["control_condition"]), []).append(arm)
    found = []
    for (base, noise_class, control), rows in sorted(groups.items()):
        parts = []
        first = rows[0]
        delta, sign = first["delta"], _sign(first["direction"])
        open_ = [row for row in rows if row["verdict"] in (None, "undecided") and not row["pending"]]
        n_c = 0
        for row in open_:
            one = _measured(
                have, base, noise_class, row["condition"], control, (0.0, row["tau"] or delta), sign, delta
            )
            if one.n_t and one.n_c:
                n_c = one.n_c
                afters = [one.noise * (1.0 / one.n_t + 1.0 / (n_c + k)) for k in range(1, value.STEPS + 1)]
                news = tuple(value.more_news(one.error, after) for after in afters)
                parts.append(value.Part(one.mean, one.variance, news))
        if len(parts) < 2:
            continue
        there = have.conditions[base, noise_class, control]
        found.append(
            Option(
                "experiment", f"{first['control']} on {base[:8]}", "grow_bank", first["control"], tuple(parts),
                tuple(float(k) for k in range(1, value.STEPS + 1)), None,
                value.feasible(1.0, there["ok"], there["attempts"]), "", False,
                f"{len(parts)} open effects share the {n_c} seeds of {first['control']}", delta / 2, delta, sign,
                first["metric"], noise_class, base, first["experiment"], (first["control"],),
            )
        )  # fmt: skip
    return found


def _screens(options: Sequence[Option], have: Known) -> list[Option]:
    """All open changes of one base in one folded screen, where there are enough of them."""
    groups: dict[tuple[str, str, str], list[Option]] = {}
    for option in options:
        if option.source in ("cycle", "experiment") and option.action in ("ablate", "add_seeds"):
            groups.setdefault((option.source, option.where, option.base), []).append(option)
    found = []
    for (source, where, _), rows in sorted(groups.items()):
        open_ = [row for row in rows if not row.blocked_by and row.feasible > 0.5]
        if not len(open_) >= FEWEST_FACTORS:
            continue
        open_ = sorted(open_, key=lambda row: (-row.parts[0].variance, row.id))[:MOST_FACTORS]
        first, runs = open_[0], runs_of(len(open_))
        noise = have.noise.get(first.target, first.delta**2)
        u = 4.0 * noise / runs + (INTERACTIONS * first.delta) ** 2
        parts = tuple(value.Part(row.parts[0].mean, row.parts[0].variance, (u,)) for row in open_)
        # A stack has half of the factors at their high level.
        each = 1.0 + math.fsum([max(0.0, _ratio(row) - 1.0) for row in open_]) / 2
        found.append(
            Option(
                source, where, "factorial_screen", f"{len(open_)} changes", parts, (runs * each,), runs,
                min(row.feasible for row in open_), "", False,
                f"{len(open_)} changes of {where} are open, and a folded screen measures all of them in {runs} runs "
                "(average effects, to be confirmed one at a time)",
                first.adopt, first.delta, first.sign, first.metric, first.target, first.base, first.experiment,
                tuple(row.candidate for row in open_),
            )
        )  # fmt: skip
    return found


def _ratio(option: Option) -> float:
    """What a run of an option costs in runs of the control, its own control left out."""
    k = option.k or 1
    return max(0.0, option.costs[0] / k - 1.0)


# What carries out a plan's runs: the first script that its command names, else the program; empty for the built-in
# trainer, whatever it computes with.
_PROGRAMS = r"""(
    SELECT event_id, regexp_extract(
        coalesce(list_filter(command, lambda word: regexp_matches(word, '\.(py|sh)$'))[1], command[1], ''), '[^/]*$'
    ) AS program
    FROM facts.experiment_registered
)"""


def _checks(query: Query) -> list[Option]:
    """What was measured on a proxy, and not yet on the platform that it stands for."""
    predictions = query("SELECT * FROM transfer_pred ORDER BY proxy, target, intervention", ())
    if not predictions:
        return []
    slopes = {
        (row["proxy"], row["target"]): row for row in query("SELECT * FROM transfer ORDER BY proxy, target", ())
    }
    # Of the experiments on a target that run the same program the first: an option names one plan that its runs may
    # follow, and what an arm sets means something to its own program alone.
    targets = {
        (row["noise_class"], row["program"]): row
        for row in query(
            f"""SELECT noise_class, metric, direction, delta, base, program FROM experiments
            INNER JOIN {_PROGRAMS} USING (event_id)
            WHERE noise_class IN (SELECT target FROM transfer_pred) AND hypothesis_count > 0
                AND experiment NOT IN (SELECT experiment FROM facts.screen_planned)
            ORDER BY base DESC, first_position DESC""",
            (),
        )
    }
    programs = {
        row["experiment"]: row["program"]
        for row in query(
            f"""SELECT experiment, program FROM experiments INNER JOIN {_PROGRAMS} USING (event_id)
            WHERE experiment IN (SELECT experiment FROM transfer_pred) ORDER BY experiment""",
            (),
        )
    }
    found = []
    for row in predictions:
        slope = slopes[row["proxy"], row["target"]]
        arm = targets.get((row["target"], programs.get(row["experiment"])))
        if arm is None or row["sd"] is None or slope["metric"] != arm["metric"]:
            continue
        sign, delta = _sign(arm["direction"]), arm["delta"]
        noise = slope["noise"] if slope["noise"] is not None else delta * delta
        news = tuple(2.0 * noise / k for k in range(1, value.STEPS + 1))
        part = value.Part(sign * row["pred"], row["sd"] ** 2, news)
        slope_told = (
            "no slope is known yet"
            if slope["b"] is None
            else f"slope {slope['b']:.2g} from {slope['k']} shared changes"
        )
        told = (
            f"{row['intervention']} has {row['x']:+.2g} on {row['proxy']}, which foresees {row['pred']:+.2g} ± "
            f"{figure(row['sd'])} on {row['target']} ({slope_told})"
        )
        found.append(
            Option(
                "transfer", f"{row['proxy']} to {row['target']}", "transfer_check", row["intervention"], (part,),
                tuple(2.0 * k for k in range(1, value.STEPS + 1)), None, 1.0, "", True, told, delta / 2, delta, sign,
                arm["metric"], row["target"], arm["base"], row["experiment"], (row["intervention"],),
            )
        )  # fmt: skip
    return found

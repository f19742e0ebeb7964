"""From tables to what a rule may look at: one `Inputs` an experiment, and the events that it rests on.

It reads the first registration for what decides (control, delta, alpha, direction, looks), every registration for
seeds and arms, the view `evidence` for runs and shared controls, and `noise_arms` for the noise of the class. Nothing
is estimated here. The same rows give the same inputs, whatever else the log holds.

A plan that looks more than once is judged at the last planned look whose seeds have all ended, on the seeds of that
look alone, in the order in which they were registered; an arm that an amendment left out stays at its own last look.
A plan with one look that was given more seeds after it was registered is judged by e-values from then on: the look
was not planned.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import groupby
from typing import Any, NamedTuple

import msgspec

from projections.estimates import HUGE
from projections.statistics.inputs import ClassVariance, Inputs, Run, Tier, Track
from projections.statistics.numeric import digits

Row = dict[str, Any]
Query = Callable[[str, tuple[Any, ...]], list[Row]]
Classes = dict[tuple[str, str], list[tuple[str, ClassVariance]]]  # by noise class and unit: (study, variance)
BORROWED = 200  # newest arms of a noise class whose variances an experiment borrows


class Evidence(NamedTuple):
    """One experiment as a rule sees it, and where each part of that comes from."""

    plan: Row  # of the table experiments
    inputs: Inputs
    outcomes: tuple[tuple[int, str, str, int, bool], ...]  # position, id, arm, seed and bank of every run in order
    registrations: tuple[str, ...]  # event ids

    def used(self, arm: str) -> list[str]:
        """Ids of the outcomes behind what is said of one arm, in log order."""
        return [id for _, id, of, _, _ in self.outcomes if of in (arm, self.inputs.control)]


def gather(query: Query, experiments: Sequence[str] | None = None) -> list[Evidence]:
    """The evidence of some experiments, or of all that have a hypothesis, in the order of their ids.

    Experiments without a hypothesis are left out.
    """
    if experiments is not None and not experiments:
        return []
    only, given = "", tuple[str, ...]()
    if experiments is not None:  # a list of values, and no list as one value: DuckDB then reads their rows alone
        only, given = f"WHERE experiment IN ({', '.join('?' * len(experiments))})", tuple(experiments)
    plans = query(f"SELECT * FROM main.experiments {only} ORDER BY experiment", given)
    registered = _grouped(
        query(
            f"""SELECT experiment, event_id, seeds, looks, tau, seed_role, [arm.name FOR arm IN arms] AS arms,
                [claim.arm FOR claim IN hypotheses] AS claims,
                CASE WHEN len(command) > 0 THEN arms END AS settings
            FROM facts.experiment_registered {only} ORDER BY experiment, position""",
            given,
        )
    )
    runs = _grouped(
        query(f"SELECT * FROM main.evidence {only} ORDER BY experiment, bank, arm, seed, started_position", given)
    )
    classes: Classes = {}
    for row in query(
        """SELECT noise_class, unit, study, arm, variance, df FROM main.noise_arms
        WHERE newness <= $1 AND variance > 0 AND isfinite(variance) ORDER BY noise_class, unit, newness""",
        (BORROWED,),
    ):
        part = ClassVariance(f"{row['study']}/{row['arm']}", row["variance"], float(row["df"]))
        classes.setdefault((row["noise_class"], row["unit"]), []).append((row["study"], part))
    return [
        _evidence(plan, registered[plan["experiment"]], runs.get(plan["experiment"], []), classes)
        for plan in plans
        if plan["hypothesis_count"]
    ]


def with_nats(query: Query, each: Evidence) -> Evidence:
    """The same with the nats that one unit of the metric has, where every run that tells it also tells val_loss in
    nats and their ratio is one (for bits per byte: nats a token over bits a byte, which the tokenizer fixes)."""
    rows = query(
        """SELECT loss.value / finished.value AS ratio
        FROM (SELECT run, value, unnest(finals) AS loss FROM facts.run_finished WHERE status = 'ok') AS finished
        INNER JOIN facts.run_started AS started ON started.run = finished.run
        WHERE started.experiment = $1 AND loss.name = 'val_loss' AND finished.value > 0
        ORDER BY ratio""",
        (each.plan["experiment"],),
    )
    ratios = [float(row["ratio"]) for row in rows if row["ratio"] is not None]
    if not ratios or not 0 < ratios[0] <= ratios[-1] < ratios[0] * 1.001:  # scores are printed with few digits
        return each
    middle = digits(ratios[len(ratios) // 2])
    return each._replace(inputs=msgspec.structs.replace(each.inputs, nats_per_unit=middle))


def _grouped(rows: list[Row]) -> dict[str, list[Row]]:
    return {key: list(group) for key, group in groupby(rows, key=lambda row: row["experiment"])}


def _evidence(plan: Row, registered: list[Row], runs: list[Row], classes: Classes) -> Evidence:
    experiment, control = plan["experiment"], plan["control"]
    planned: dict[str, list[int]] = {}
    for row in registered:
        for arm in row["arms"]:
            mine = planned.setdefault(arm, [])
            mine += [seed for seed in row["seeds"] if seed not in mine]
    arms = tuple(sorted({claim for row in registered for claim in row["claims"]} - {control}))
    seeds = tuple(dict.fromkeys(seed for row in registered for seed in row["seeds"]))
    stopped = {arm: tuple(planned[arm]) for arm in arms if arm in planned and {*planned[arm]} != {*seeds}}
    looks: tuple[int, ...] = ()
    look: int | None = 1 if plan["stopping"] == "fixed" and plan["look"] == 1 else None
    if plan["stopping"] == "looks":
        looks = tuple(registered[0]["looks"])
        ended = {(row["arm"], row["seed"]) for row in runs if not row["bank"]}
        look, seeds, stopped = _planned_look(looks, seeds, stopped, (control, *arms), ended)
    counted = {arm: {*stopped.get(arm, seeds)} for arm in arms} | {control: {*seeds}}
    kept = [row for row in runs if row["bank"] or row["seed"] in counted.get(row["arm"], ())]
    beyond = any(map(_huge, kept))
    track: Track = "explore" if plan["track"] == "explore" or plan["seed_role"] == "tuning" else "confirm"
    tier: Tier = plan["pair_tier"]
    unit = (plan["noise_class"], "fork" if tier == "fork" else "run")
    inputs = Inputs(
        experiment=plan["name"],
        metric=plan["metric"],
        direction=plan["direction"],
        control=control,
        arms=arms,
        seeds=seeds,
        stopped=stopped,
        runs=tuple(
            Run(
                row["arm"],
                row["seed"],
                None if _huge(row) else row["value"],
                "diverged" if _huge(row) else row["status"],
                row["tuning"],
                row["early"],
                float(row["started_position"]),
                row["block"],
                row["base"],
                row["bank"],
            )
            for row in kept
        ),
        delta=plan["delta"],
        alpha=plan["alpha"],
        family_size=plan["hypothesis_count"],
        track=track,
        tier=tier,
        tau=plan["tau"],
        looks=looks,
        look=look,
        cycle=plan["cycle"],
        class_variances=tuple(part for study, part in classes.get(unit, ()) if study != experiment),
        sets=_sets(registered, control, arms),
        defects=(f"a value is beyond {HUGE:g}: that is no measurement, retract its outcome",) if beyond else (),
    )
    outcomes = sorted(
        (row["finished_position"], row["finished_id"], row["arm"], row["seed"], row["bank"]) for row in kept
    )
    return Evidence(plan, inputs, tuple(outcomes), tuple(row["event_id"] for row in registered))


def _sets(registered: list[Row], control: str, arms: tuple[str, ...]) -> dict[str, str]:
    """In what treatments of a program differ from its control, by names and arguments. What the built-in trainer is
    told it reads, or refuses, so of its arms nothing is said."""
    settings = {arm["name"]: arm for row in registered for arm in row["settings"] or ()}
    if control not in settings:
        return {}
    found = {}
    env = {pair["name"]: pair["value"] for pair in settings[control]["env"]}
    args = settings[control]["args"]
    for name in arms:
        if name not in settings:
            continue
        mine = {pair["name"]: pair["value"] for pair in settings[name]["env"]}
        told = [one for one in sorted(env.keys() | mine.keys()) if env.get(one) != mine.get(one)]
        if settings[name]["args"] != args:
            told.append(" ".join(one for one in settings[name]["args"] if one not in args) or "its arguments")
        if told:
            found[name] = ", ".join(told)
    return found


def _huge(row: Row) -> bool:
    return row["value"] is not None and abs(row["value"]) > HUGE


def _planned_look(
    looks: tuple[int, ...],
    seeds: tuple[int, ...],
    stopped: dict[str, tuple[int, ...]],
    arms: tuple[str, ...],
    ended: set[tuple[str, int]],
) -> tuple[int | None, tuple[int, ...], dict[str, tuple[int, ...]]]:
    """Number of the look that is reached, its seeds, and those of arms that stopped before it.

    The first look counts as reached, so that what has not run yet is pending there. Fewer seeds than the first
    look has, or more than the last, make a look that was not planned.
    """
    if not looks[0] <= len(seeds) <= looks[-1]:
        return None, seeds, stopped
    at = 1
    for number, size in enumerate(looks, 1):
        now = seeds[:size]
        cells = [(arm, seed) for arm in arms for seed in now if seed in stopped.get(arm, seeds)]
        if len(now) == size and all(cell in ended for cell in cells):
            at = number
    now = seeds[: looks[at - 1]]
    rest = {arm: tuple(seed for seed in now if seed in {*mine}) for arm, mine in stopped.items() if {*now} - {*mine}}
    return at, now, rest

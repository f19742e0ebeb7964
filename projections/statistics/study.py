"""What was measured in one experiment, before any distribution function: arms, variances, estimates.

It decides which runs may carry which claim: a claim is confirmed with fresh seeds only, controls may
come from the bank of the same base, and runs that ignore their seed or their settings, or differ in base, carry
none.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from projections.statistics import multiplicity
from projections.statistics.drift import Drift, drift
from projections.statistics.effects import (
    Correlation,
    Counts,
    contrast_variance,
    differences,
    estimate,
    own_variance,
    same_seed_correlation,
)
from projections.statistics.inputs import OK, Cells, Inputs, sort_out, unread
from projections.statistics.numeric import mean
from projections.statistics.policies import Policy
from projections.statistics.variances import Prior, Spread, fit_prior, own_spread, rounding_variance, spreads

Values = dict[int, float]


class Arm(NamedTuple):
    """One treatment with what was estimated of it, before any test. se is None where there is no estimate."""

    name: str
    track: str
    defect: str
    treatment: Values
    control: Values
    counts: Counts
    spread_t: Spread | None
    spread_c: Spread | None
    b: float | None
    effect: float | None
    se: float | None
    df: float
    testable: bool
    look: int | None = None  # the planned look that it has come to


class Study(NamedTuple):
    """One experiment on its way to a judgement."""

    inputs: Inputs
    cells: Cells
    arms: list[Arm]
    prior: Prior | None
    rho: float
    correlation: Correlation
    alpha: float
    family: int
    mode: str
    information: tuple[float, ...]  # of the planned looks up to this one
    drift: Drift


def study(policy: Policy, inputs: Inputs) -> Study:
    """Everything of one experiment that needs no distribution function."""
    cells = sort_out(inputs)
    floor = rounding_variance(inputs.resolution)
    fork = inputs.tier == "fork"
    chosen = [(name, *_track(inputs, cells, name)) for name in sorted(inputs.arms)]
    control = _control(inputs, cells, "confirm" if any(track == "confirm" for _, track, _ in chosen) else "explore")
    if fork:
        own = [own_variance(differences(values, _control(inputs, cells, track))) for _, track, values in chosen]
    else:
        own = [own_variance(list(values.values())) for _, _, values in chosen]
        own.append(own_variance(list(control.values())))
    own = [(v, df) if v > 0 or floor > 0 else (0.0, 0.0) for v, df in own]  # runs that ignore their seed say nothing
    elsewhere = [(part.variance, part.df) for part in inputs.class_variances]
    everywhere = [*own, *elsewhere]
    prior = fit_prior(
        [v for v, _ in everywhere], [df for _, df in everywhere], policy.d0_cap, floor, policy.fewest_variances
    )
    spread = spreads(own, prior, floor)
    correlation = same_seed_correlation([[cells.values[name] for name in (inputs.control, *sorted(inputs.arms))]])
    rho = 1.0 if fork else correlation.low if inputs.tier == "rerun" else 0.0
    arms = []
    for index, (name, track, values) in enumerate(chosen):
        against = control if not fork and track == "confirm" else _control(inputs, cells, track)
        defect = _defect(inputs, cells, name, values, against, floor)
        sides = (spread[index], own_spread(0.0, 0.0)) if fork else (spread[index], spread[-1])
        arm = _arm(inputs, name, track, defect, values, against, sides, rho)
        arms.append(arm._replace(look=_look(inputs, name)))
    alpha = inputs.alpha if policy.alpha is None else policy.alpha
    if inputs.cycle is not None:
        alpha = multiplicity.cycle_alpha(alpha, inputs.cycle)
    mode = "anytime" if inputs.look is None else "looks" if len(inputs.looks) > 1 else "fixed"
    return Study(
        inputs,
        cells,
        arms,
        prior,
        rho,
        correlation,
        alpha,
        max(inputs.family_size or 0, len(inputs.arms)),
        mode,
        look_information(inputs, len(cells.bank), rho)[: inputs.look] if mode == "looks" else (),
        _run_chart(inputs),
    )


def _track(inputs: Inputs, cells: Cells, name: str) -> tuple[str, Values]:
    """The track of a treatment and the values it may use: a claim is confirmed with fresh seeds only."""
    fresh, spoiled = cells.values[name], cells.early_values[name]
    control_spoiled = not cells.values[inputs.control] and not cells.bank and cells.early_values[inputs.control]
    if inputs.track == "confirm" and not control_spoiled and (fresh or not spoiled):
        return "confirm", fresh
    return "explore", spoiled | fresh


def _control(inputs: Inputs, cells: Cells, track: str) -> Values:
    fresh = cells.values[inputs.control]
    own = fresh if track == "confirm" else cells.early_values[inputs.control] | fresh
    return own if inputs.tier == "fork" else own | cells.bank


def _look(inputs: Inputs, name: str) -> int | None:
    """The look of an arm: that of the experiment, but an arm that stopped stays at its last one."""
    if inputs.look is None or name not in inputs.stopped or len(inputs.looks) < 2:
        return inputs.look
    have = len(inputs.planned(name))
    return max(1, min(inputs.look, len([n for n in inputs.looks if n <= have])))


def _arm(
    inputs: Inputs, name: str, track: str, defect: str, values: Values, control: Values,
    sides: tuple[Spread, Spread], rho: float,
) -> Arm:  # fmt: skip
    same = len(values.keys() & control.keys())
    counts = Counts(same, len(values) - same, len(control) - same)
    empty = Arm(name, track, defect, values, control, counts, None, None, None, None, None, 0.0, False)
    if defect or not values or not control or (inputs.tier == "fork" and not same):
        return empty
    spread_t, spread_c = sides
    if inputs.tier == "fork":
        effect = mean(differences(values, control))
        if spread_t.source == "none":
            return empty._replace(effect=effect)
        se = math.sqrt(spread_t.variance / same)
        enough = same >= 2 or spread_t.source == "moderated"
        return Arm(name, track, defect, values, control, counts, spread_t, None, 1.0, effect, se, spread_t.df, enough)
    found = estimate(values, control, rho, spread_t, spread_c)
    if "none" in (spread_t.source, spread_c.source):
        return empty._replace(effect=found.d, b=found.b)
    enough = len(values) >= 2 and len(control) >= 2 and found.se > 0
    return Arm(
        name, track, defect, values, control, counts, spread_t, spread_c, found.b, found.d, found.se, found.df, enough
    )


def _defect(inputs: Inputs, cells: Cells, name: str, values: Values, control: Values, floor: float) -> str:
    """Why nothing may be claimed from these runs; empty when something may."""
    if inputs.defects:
        return "; ".join(inputs.defects)
    if inputs.flags:
        return "selection: " + "; ".join(inputs.flags)
    if cells.bases > 1:
        return f"its runs come from {cells.bases} bases: code, data or hardware differ by more than the change"
    if floor > 0:
        return ""
    if why := unread(inputs, name, values, control):
        return why
    if inputs.tier == "fork":
        d = differences(values, control)
        if len(d) > 1 and len({*d}) == 1:
            return "every pair has the same difference: its runs do not seem to read their seed"
        return ""
    for arm, ys in ((name, values), (inputs.control, control)):
        if len(ys) > 1 and len({*ys.values()}) == 1:
            return f"every seed of {arm} gave the same value: its runs do not seem to read their seed"
    return ""


def look_information(inputs: Inputs, banked: int, rho: float) -> tuple[float, ...]:
    """Share of the final information at each planned look, for equal variances."""
    if inputs.tier == "fork":
        sizes = [1.0 / n for n in inputs.looks]
    else:
        sizes = [contrast_variance(Counts(n, 0, banked), rho, 1.0, 1.0) for n in inputs.looks]
    return tuple(sizes[-1] / size for size in sizes)


def _run_chart(inputs: Inputs) -> Drift:
    runs = [run for run in inputs.runs if run.arm == inputs.control and run.status == OK and run.value is not None]
    runs.sort(key=lambda run: (run.order, run.seed, run.value))
    return drift([run.value or 0.0 for run in runs], [run.order for run in runs], [run.block for run in runs])

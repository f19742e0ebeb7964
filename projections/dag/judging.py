"""The status of an edge: own experiments first, the lineage second, the expert where there is neither.

An edge is decided when its 95 % interval (of an experiment; the decision that stands, where one was made)
or its 90 % interval (of the lineage, where the technique can be told from the others) leaves out 0, or
when the 90 % interval lies within +-delta. An edge that nobody drew needs a 99 % interval: there are many
of those. An experiment that did not decide leaves the edge to the records' lineage, but not to the model
of its own runs. Discovery never decides anything.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

from ledger.dag import EdgeKind, EdgeStatus, Tag
from projections.dag.contrasts import Contrast, Data, Trial
from projections.dag.model import Fit
from projections.dag.skeleton import Expect
from projections.statistics.distributions import normal_lower, t_bound

Found = Literal["effect", "none", "undecided"]


class Evidence(NamedTuple):
    """What one source says of one edge."""

    kind: EdgeKind
    found: Found
    effect: float
    sd: float
    lo90: float
    hi90: float
    p_negative: float
    where: str


class Judged(NamedTuple):
    """An edge as far as data say anything of it."""

    kind: EdgeKind
    status: EdgeStatus
    best: Evidence | None
    lineage: Evidence | None
    experiment: Evidence | None
    fit: Fit | None  # where the lineage's figures are from
    evidence: tuple[str, ...]


TAGS: dict[EdgeStatus, Tag] = {
    "imposed": "expert_imposed",
    "supported": "data_confirmed",
    "contradicted": "data_contradicted",
    "no_effect_that_matters": "data_contradicted",
    "undecided": "uncertain",
}


def judge(
    technique: str, target: str, expect: Expect, delta: float, data: Data, fits: Sequence[Fit], imposed: bool
) -> Judged | None:
    """One edge; None where neither an expert nor any comparison has it."""
    fit = lineage_fit(technique, target, fits)
    lineage = _lineage(technique, fit, delta, imposed) if fit is not None else None
    trials = [one for one in data.trials if (one.technique, one.target) == (technique, target)]
    experiment = _experiment(trials, delta, imposed)
    best = experiment or lineage
    if experiment and experiment.found == "undecided" and fit and fit.contrasts[0].source == "records":
        best = lineage if lineage and lineage.found != "undecided" else experiment
    if best is None:
        return Judged("imposed", "imposed", None, None, None, None, ()) if imposed else None
    ids: list[str] = []
    for contrast in fit.contrasts if fit is not None else ():
        if changes(contrast, technique):
            ids += contrast.evidence
    for trial in trials:
        ids += trial.evidence
    return Judged(best.kind, _status(best, expect), best, lineage, experiment, fit, in_order(ids, data))


def changes(contrast: Contrast, technique: str) -> bool:
    return any(name == technique for name, _ in contrast.row)


def in_order(ids: Sequence[str], data: Data) -> tuple[str, ...]:
    """Event ids without repetition, in log order."""
    return tuple(sorted(dict.fromkeys(ids), key=lambda one: (data.order.get(one, -1), one)))


def lineage_fit(technique: str, target: str, fits: Sequence[Fit]) -> Fit | None:
    """The fit that says most of a technique: where most comparisons change it, records first, then by name."""
    mine = [one for one in fits if one.target == target and one.of(technique) is not None]
    return min(
        mine,
        key=lambda one: (one.contrasts[0].source != "records", -one.counts[_at(one, technique)], one.where),
        default=None,
    )


def _at(fit: Fit, technique: str) -> int:
    return fit.techniques.index(technique)


def _status(best: Evidence, expect: Expect) -> EdgeStatus:
    if best.found == "none":
        return "no_effect_that_matters"
    if best.found == "undecided":
        return "undecided"
    agrees = expect == "any" or (best.effect < 0) == (expect == "lower")
    return "supported" if agrees else "contradicted"


def _lineage(technique: str, fit: Fit, delta: float, imposed: bool) -> Evidence:
    j = _at(fit, technique)
    low, high = fit.interval(j)
    found: Found = "undecided"
    if fit.known.structural[j]:
        least, most = fit.interval(j, 0.05 if imposed else 0.005)
        found = "effect" if least > 0 or most < 0 else "none" if -delta < low and high < delta else "undecided"
    effects = fit.effects
    return Evidence("lineage", found, effects.mean[j], effects.sd[j], low, high, effects.p_negative[j], fit.where)


def _experiment(trials: Sequence[Trial], delta: float, imposed: bool) -> Evidence | None:
    """Trials of one noise class together, weighted by their precision; of the class that is most precise."""
    valid = [one for one in trials if one.verdict != "invalid"]
    places = sorted({one.where for one in valid})
    found = [_together([one for one in valid if one.where == place], delta, imposed) for place in places]
    return min(found, key=lambda one: (one.sd, one.where), default=None)


def _together(trials: Sequence[Trial], delta: float, imposed: bool) -> Evidence:
    weights = [one.se**-2 for one in trials]
    total = math.fsum(weights)
    effect = math.fsum([w * one.effect for w, one in zip(weights, trials, strict=True)]) / total
    se = total**-0.5
    df = min(one.df for one in trials)
    half = float(t_bound(0.05, df)) * se
    wide = float(t_bound(0.025 if imposed else 0.005, df)) * se
    found: Found = "effect" if abs(effect) > wide else "none" if abs(effect) + half < delta else "undecided"
    if len(trials) == 1 and trials[0].verdict is not None:
        told: dict[str, Found] = {"better": "effect", "worse": "effect", "no_effect_that_matters": "none"}
        found = told.get(trials[0].verdict, "undecided")
    p = float(normal_lower(-effect / se))
    return Evidence("experiment", found, effect, se, effect - half, effect + half, p, trials[0].where)

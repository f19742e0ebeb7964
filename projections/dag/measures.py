"""What the data as a whole can show: how many comparisons change one thing, what never comes apart, what is untried.

The first plan's own measures are among them: comparisons with one change and with three or more, the share
of edges that some comparison of one change tests, pairs that always come together, and whether to go on
("skip" where more than half of the comparisons change three things or more).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from itertools import combinations

from ledger.dag import Measure, Separation, Unexplored
from projections.dag.contrasts import Contrast, Data
from projections.dag.model import Fit
from projections.statistics import identifiability
from projections.statistics.numeric import digits

MANY = 3  # changes in one comparison from which on it counts as many
TOO_MANY = 0.5  # share of such comparisons above which to skip
SEEDS = 3  # of each arm of an experiment that separates
UNTRIED = 20  # combinations that are listed


def measures(outcome: str, data: Data, fits: Sequence[Fit]) -> list[Measure]:
    """Figures about all comparisons on the outcome."""
    used = [one for one in data.contrasts if one.target == outcome and one.primary]
    changes = [len(one.row) for one in used]
    techniques = sorted({name for one in used for name, _ in one.row})
    alone = {one.row[0][0] for one in used if len(one.row) == 1}
    mine = [one for one in fits if one.target == outcome]
    told = [(one, j) for one in mine for j in range(len(one.techniques))]
    single, many = changes.count(1), len([n for n in changes if n >= MANY])
    return [
        Measure("comparisons", float(len(used)), "a record or arm with its parent or control"),
        Measure("techniques", float(len(techniques)), "that some comparison changes"),
        Measure("single", float(single), "comparisons that change one technique"),
        Measure("double", float(changes.count(2)), "comparisons that change two"),
        Measure("many", float(many), f"comparisons that change {MANY} or more"),
        Measure("many_share", _share(many, len(used)), f"above {TOO_MANY:g} the advice is to skip"),
        Measure(
            "testable_share", _share(len(alone), len(techniques)), "techniques that one comparison changes alone"
        ),
        Measure(
            "identifiable_share",
            _share(len([1 for one, j in told if one.known.structural[j]]), len(told)),
            "techniques that the comparisons together tell from all others",
        ),
        Measure(
            "practical_share",
            _share(len([1 for one, j in told if one.effects.practical[j]]), len(told)),
            "techniques of which the data say more than the prior",
        ),
        Measure("always_together", float(always_together(data)), "pairs of techniques that no record has apart"),
        Measure(
            "outliers",
            float(len([1 for one in mine for extra in one.effects.extra if extra > 0])),
            "comparisons that the others do not foresee, which count less",
        ),
    ]


def always_together(data: Data) -> int:
    """Pairs of techniques of which no record names one without the other."""
    alike = Counter(tuple(records) for records in data.named.values())
    return int(math.fsum([count * (count - 1) // 2 for count in alike.values()]))


def _share(part: int, whole: int) -> float:
    return part / whole if whole else 0.0


def separations(data: Data, fits: Sequence[Fit], outcome: str) -> list[Separation]:
    """For each alias class the cheapest experiment that tells something new: one technique taken out of a stack."""
    found = []
    measured = {one.where for one in data.contrasts if one.source == "experiment"}
    number = 0
    for fit in fits:
        if fit.target != outcome:
            continue
        rows = [[dict(one.row).get(name, 0) for name in fit.techniques] for one in fit.contrasts]
        width = len(fit.techniques)
        cost = SEEDS if fit.where in measured else 2 * SEEDS  # where controls have run, they are there already
        for label in sorted({one for one in fit.known.alias_class if one is not None}):
            members = [j for j in range(width) if fit.known.alias_class[j] == label]
            # Of equal cost: first the technique of which least is known.
            ordered = sorted(members, key=lambda j: (-digits(fit.effects.sd[j], 9), fit.techniques[j]))
            candidates = [([int(i == j) for i in range(width)], float(cost)) for j in ordered]
            best = identifiability.separate(rows, width, candidates, members)
            names = tuple(fit.techniques[j] for j in members)
            if best is None:
                found.append(_unseparated(number, fit, names))
            else:
                name = fit.techniques[ordered[best.candidate]]
                stack = _newest(fit.contrasts, name)
                how = f"{SEEDS} seeds" if cost == SEEDS else f"{SEEDS} seeds with it and {SEEDS} without"
                found.append(
                    Separation(
                        alias_class=number,
                        where=fit.where,
                        techniques=names,
                        experiment=f"take {name} out of {stack}: {how}",
                        ablate=name,
                        cost_runs=cost,
                        rank=best.rank,
                    )
                )
            number += 1
    return found


def _unseparated(number: int, fit: Fit, names: tuple[str, ...]) -> Separation:
    return Separation(
        alias_class=number, where=fit.where, techniques=names, experiment="", ablate=None, cost_runs=None,
        rank=fit.known.rank,
    )  # fmt: skip


def _newest(contrasts: Sequence[Contrast], technique: str) -> str:
    """The last stack, by its name, that brought the technique (records begin with their date)."""
    return max(one.child for one in contrasts if any(name == technique for name, _ in one.row))


def unexplored(outcome: str, lower: bool, data: Data, fits: Sequence[Fit]) -> list[Unexplored]:
    """Pairs of techniques that no stack of their noise class has together, the most promising first."""
    found = []
    for fit in fits:
        if fit.target != outcome:
            continue
        stacks = [has for where, has in data.stacks.values() if where == fit.where]
        told = [j for j in range(len(fit.techniques)) if fit.known.structural[j] or fit.effects.practical[j]]
        effects, known = fit.effects, {(pair.a, pair.b): pair for pair in fit.pairs}
        for i, j in combinations(told, 2):
            a, b = fit.techniques[i], fit.techniques[j]
            if any(a in has and b in has for has in stacks):
                continue
            pair = known.get((a, b))
            mean = pair.mean if pair else 0.0
            prior = pair.sd if pair else fit.interaction_sd
            spread = math.fsum(
                [effects.covariance[i, i], effects.covariance[j, j], 2 * effects.covariance[i, j], prior**2]
            )
            found.append(
                Unexplored(
                    a=a, b=b, expected=math.fsum([effects.mean[i], effects.mean[j], mean]),
                    sd=math.sqrt(max(spread, 0.0)), prior_sd=prior,
                )
            )  # fmt: skip
    found.sort(key=lambda one: ((1 if lower else -1) * one.expected, one.a, one.b))
    return found[:UNTRIED]

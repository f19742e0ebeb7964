"""From an estimate to a verdict, and back: the first decision rule, and its replay.

The rule, in order: `invalid` when the runs cannot carry an estimate, or when more of the planned
pairs failed than survived (who survives may depend on the arm); `undecided` while planned pairs have
not run; `better` or `worse` when Holm's p is below what this look may spend of alpha;
`no_effect_that_matters` when the 90 % interval lies within +-delta (two one-sided tests at 5 %); else
`undecided`, with the number of seeds still needed. The size of the observed effect is never a gate:
at a true effect of delta that would be a coin toss.

`decide` is a pure function of tables, so `replay` can build the tables as of the head that a
judgement read, decide again, and compare every figure.
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import msgspec

from ledger import canonical
from ledger.errors import UsageError
from ledger.events import DecisionMade
from projections.catalog import code_digest
from projections.engine import Tables
from projections.estimates import ENGINE, look_alpha

POLICY = "paired-pooled/1"
_FIGURES = (
    "effect",
    "sd",
    "se",
    "df",
    "t",
    "p",
    "p_adj",
    "ci95_lo",
    "ci95_hi",
    "ci90_lo",
    "ci90_hi",
    "p_tost",
    "p_beyond",
)
_COUNTS = ("n_t", "n_c", "n_pairs", "failed", "pending", "failures_t", "failures_c")
Row = dict[str, Any]
Verdict = Literal["better", "worse", "no_effect_that_matters", "undecided", "invalid"]


class Difference(NamedTuple):
    """A figure of a judgement that did not come out the same: recorded, and computed now."""

    field: str
    recorded: Any
    now: Any


def decide(tables: Tables, experiment: str) -> list[DecisionMade]:
    """A decision for every hypothesis of an experiment, in the plan's order of names.

    Raises UsageError when there is no such experiment, or it has no hypothesis to decide.
    """
    plans = tables.rows("SELECT * FROM experiments WHERE experiment = $1", (experiment,))
    if not plans:
        raise UsageError(f"no experiment {experiment} in this ledger")
    effects = tables.rows("SELECT * FROM effects WHERE experiment = $1 ORDER BY intervention", (experiment,))
    if not effects:
        raise UsageError(f"experiment {plans[0]['name']} has one arm only: there is nothing to decide")
    used = _evidence(tables, experiment)
    return [_decision(tables, plans[0], row, used) for row in effects]


def _evidence(tables: Tables, experiment: str) -> dict[str, list[str]]:
    """Ids of the outcomes behind the pairs of each intervention, treatment and control, in log order."""
    rows = tables.rows(
        """SELECT pairs.intervention, runs.finished_position, runs.finished_id
        FROM paired_differences AS pairs
        INNER JOIN runs ON runs.run = pairs.run_t OR runs.run = pairs.run_c
        WHERE pairs.experiment = $1 AND pairs.both_ok AND runs.finished_position IS NOT NULL
        ORDER BY pairs.intervention, runs.finished_position""",
        (experiment,),
    )
    found: dict[str, list[str]] = {}
    for row in rows:
        found.setdefault(row["intervention"], []).append(row["finished_id"])
    return found


def _decision(tables: Tables, plan: Row, row: Row, used: dict[str, list[str]]) -> DecisionMade:
    delta, family = plan["delta"], plan["hypothesis_count"]
    spend = look_alpha(plan["alpha"], plan["look"])
    verdict = _verdict(plan, row, spend)
    real = verdict in ("better", "worse")
    beyond = real and row["p_beyond"] * family < spend / 2
    small = real and max(abs(row["ci95_lo"]), abs(row["ci95_hi"])) < delta
    figures: Row = {name: None if row[name] is None else canonical.tag(row[name]) for name in _FIGURES}
    counts: Row = {name: row[name] for name in _COUNTS}
    return DecisionMade(
        experiment=plan["experiment"],
        intervention=row["intervention"],
        policy=POLICY,
        engine=ENGINE,
        code=code_digest(),
        head=tables.head,
        alpha=plan["alpha"],
        look=plan["look"],
        alpha_look=spend,
        delta=delta,
        direction=plan["direction"],
        family_size=family,
        used=tuple(used.get(row["intervention"], [])),
        variance=row["variance"],
        **counts,
        **figures,
        verdict=verdict,
        beyond_delta=beyond,
        small=small,
        k_more_seeds=row["k_more_seeds"] if verdict == "undecided" and not row["pending"] else None,
        why=_why(verdict, plan, row, beyond, small),
    )


def _verdict(plan: Row, row: Row, spend: float) -> Verdict:
    lost = row["failed"] - row["pending"]  # planned pairs that ran and do not count
    if row["defect"] or lost > row["n_pairs"]:
        return "invalid"
    if row["pending"] or row["p_adj"] is None:
        return "undecided"
    if row["p_adj"] < spend:
        return "better" if (row["effect"] < 0) == (plan["direction"] == "lower") else "worse"
    if row["p_tost"] < 0.05:
        return "no_effect_that_matters"
    return "undecided"


def _why(verdict: Verdict, plan: Row, row: Row, beyond: bool, small: bool) -> str:
    """One sentence. Its numbers are those of the row."""
    name, metric = row["intervention"], plan["metric"]
    planned = row["n_pairs"] + row["failed"]
    if row["defect"]:
        return f"{name}: {row['defect']}."
    if verdict == "invalid":
        lost = row["failed"] - row["pending"]
        return f"{name}: {lost} of {planned} planned pairs failed{_failures(row)}; what survived is a selection."
    if row["pending"]:
        return f"{name} is undecided: {row['pending']} of {planned} planned pairs have not run yet."
    if row["p_adj"] is None:
        have = f"{row['n_pairs']} finished pair{'' if row['n_pairs'] == 1 else 's'}"
        return f"{name} is undecided: {have}{_failures(row)}; at least 2 are needed to tell an effect from noise."
    found = (
        f"{metric} changes by {row['effect']:+.4g} (95 % interval {row['ci95_lo']:+.4g} to {row['ci95_hi']:+.4g}, "
        f"{row['n_pairs']} pairs, Holm p {row['p_adj']:.2g})"
    )
    if row["variance"] == "own":
        found += "; its pairs vary more than the other arms', so only their own spread counts"
    found += _failures(row)
    if verdict in ("better", "worse"):
        size = f", by more than {plan['delta']:g}" if beyond else f", by less than {plan['delta']:g}" if small else ""
        return f"{name} is {verdict}{size}: {found}."
    if verdict == "no_effect_that_matters":
        return (
            f"{name} has no effect that matters: {found}; the 90 % interval {row['ci90_lo']:+.4g} to "
            f"{row['ci90_hi']:+.4g} lies within +-{plan['delta']:g}."
        )
    more = row["k_more_seeds"]
    need = f"about {more} more seed{'' if more == 1 else 's'}" if more else "more than 10,000 more seeds"
    return f"{name} is undecided: {found}; {need} would show an effect of {plan['delta']:g} with 80 % power."


def _failures(row: Row) -> str:
    """Failures are part of the finding, also where a later try succeeded."""
    if not row["failures_t"] and not row["failures_c"]:
        return ""
    return f"; {row['failures_t']} of its runs and {row['failures_c']} of the control's failed"


def replay(tables: Tables, recorded: DecisionMade) -> list[Difference]:
    """Decide again on `tables` (as of the judgement's head) and list every figure that differs.

    Empty when the judgement comes out exactly. A changed engine is a difference of `engine`.
    """
    differences: list[Difference] = []
    if tables.head != recorded.head:
        differences.append(Difference("head.root", recorded.head.root, tables.head.root))
    now = {made.intervention: made for made in decide(tables, recorded.experiment)}.get(recorded.intervention)
    if now is None:
        return [*differences, Difference("intervention", recorded.intervention, None)]
    before, after = msgspec.to_builtins(recorded), msgspec.to_builtins(now)
    differences += [
        Difference(name, before[name], after[name])
        for name in before
        if name not in ("head", "code") and before[name] != after[name]
    ]
    if differences and recorded.code != now.code:  # other code that finds the same is no difference
        differences.insert(0, Difference("code", recorded.code, now.code))
    return differences

"""The judgement of every hypothesis as the runs are now, by whichever policy: one row each.

These rows are the table `effects`, and a decision is made of the same row, so that what is shown and what is decided
cannot differ. The founding rule has its own estimator (estimates.py) on the table of pairs; all other policies
judge `Inputs` (statistics.judging). Nothing here asks which events there are: evidence.py does.
"""

from __future__ import annotations

import typing
from collections.abc import Sequence
from itertools import groupby
from typing import Any

import msgspec
import pyarrow as pa

from ledger.errors import UsageError
from ledger.events import DecisionMade
from projections import estimates
from projections.evidence import Evidence, Query, with_nats
from projections.statistics.inputs import check
from projections.statistics.judgement import Finding, Judgement
from projections.statistics.judging import judge_all
from projections.statistics.policies import FOUNDING, Policy, digest, of_plan

# Of the package statistics; a change of its figures is another number. A judgement that was made by an older one is
# made again by that one. 2: an arm whose runs are the control's, digit for digit, is invalid.
ENGINE = "judging/2"
ENGINES = ("judging/1", ENGINE)
Row = dict[str, Any]

_OF_THE_EVENT = ("code", "head", "used", "used_count", "used_digest")  # of a decision, not of a judgement
_ARROW = {str: pa.string(), int: pa.int64(), float: pa.float64(), bool: pa.bool_()}


def _arrow(hint: Any) -> pa.DataType:
    if hint in _ARROW:
        return _ARROW[hint]
    inner = typing.get_args(hint)
    if typing.get_origin(hint) is typing.Literal:
        return _ARROW[type(inner[0])]
    found = [_arrow(item) for item in inner if item is not type(None)]
    return pa.float64() if pa.float64() in found else found[0]


FIELDS = tuple(name for name in DecisionMade.__struct_fields__ if name not in _OF_THE_EVENT)
SCHEMA = pa.schema([(name, _arrow(typing.get_type_hints(DecisionMade)[name])) for name in FIELDS])


def judged(
    query: Query, many: Sequence[Evidence], policy: Policy | None = None, engine: str = ENGINE
) -> list[list[Row]]:
    """Rows of SCHEMA for each experiment, by `policy` or by the one that its plan registered, as
    this engine does it; the founding rule is its own.

    What cannot be judged has a row that says why; `refuse` raises it.
    """
    found: dict[str, list[Row]] = {}
    chosen = [(policy or registered(each), each) for each in many]
    for one in sorted({one for one, _ in chosen}, key=lambda one: one.id):
        mine = [each for other, each in chosen if other == one]
        found |= (
            _founding(query, mine)
            if one is FOUNDING
            else _judged(one, [_as_of(engine, _told(query, one, each)) for each in mine], engine)
        )
    return [found[each.plan["experiment"]] for each in many]


def table(rows: Sequence[Sequence[Row]]) -> pa.Table:
    """The rows of all experiments as the relation of SCHEMA."""
    return pa.Table.from_pylist([row for each in rows for row in each], schema=SCHEMA)


def refuse(query: Query, policy: Policy, each: Evidence) -> None:
    """Raises UsageError with one line where this policy cannot judge this experiment at all."""
    if policy is FOUNDING:
        return
    if policy.procedure == "moderated":
        check(each.inputs)  # what it refuses; nothing else needs to be computed for that
    else:
        judge_all(policy, [_told(query, policy, each).inputs])


def _told(query: Query, policy: Policy, each: Evidence) -> Evidence:
    """The evidence with what this policy alone asks for."""
    asks = policy.margin_nats is not None and each.plan["metric"] != "val_loss"
    return with_nats(query, each) if asks else each


def _as_of(engine: str, each: Evidence) -> Evidence:
    """The evidence without what an older engine did not look at."""
    if engine == "judging/1":
        return each._replace(inputs=msgspec.structs.replace(each.inputs, sets={}))
    return each


def registered(each: Evidence) -> Policy:
    """The policy of a plan."""
    return of_plan(each.plan["policy"])


# ── the policies of the package statistics ──


def _judged(policy: Policy, many: Sequence[Evidence], engine: str) -> dict[str, list[Row]]:
    try:
        together = judge_all(policy, [each.inputs for each in many], unrun=True)
    except UsageError:
        pass
    else:
        return {
            each.plan["experiment"]: [
                _row(each, policy, finding, judgement, engine) for finding in judgement.findings
            ]
            for each, judgement in zip(many, together, strict=True)
        }
    sound, found = [], {}
    for each in many:
        try:
            judge_all(policy, [each.inputs], unrun=True)
        except UsageError as error:  # one plan that cannot be judged must not hide the others
            found[each.plan["experiment"]] = [
                _unjudged(each, policy, arm, str(error), engine) for arm in each.inputs.arms
            ]
        else:
            sound.append(each)
    for each, judgement in zip(sound, judge_all(policy, [each.inputs for each in sound], unrun=True), strict=True):
        found[each.plan["experiment"]] = [
            _row(each, policy, finding, judgement, engine) for finding in judgement.findings
        ]
    return found


def _unjudged(each: Evidence, policy: Policy, arm: str, why: str, engine: str) -> Row:
    said = Finding(arm=arm, track=each.inputs.track, verdict="invalid", defect=why, why=f"{arm}: {why}.")
    return _row(each, policy, said, None, engine)


def _row(each: Evidence, policy: Policy, finding: Finding, judgement: Judgement | None, engine: str) -> Row:
    plan, inputs = each.plan, each.inputs
    row: Row = msgspec.structs.asdict(finding)
    row["intervention"] = row.pop("arm")
    row |= {
        "experiment": plan["experiment"],
        "policy": policy.id,
        "policy_digest": digest(policy),
        "engine": engine,
        "mode": "fixed",
        "alpha": plan["alpha"],
        "cycle": inputs.cycle,
        "alpha_look": plan["alpha"],
        "alpha_spent": None,
        "information": None,
        "delta": plan["delta"],
        "direction": plan["direction"],
        "family_size": plan["hypothesis_count"],
        "n_bank": 0,
        "failed": len(inputs.planned(finding.arm)) - min(finding.n_pairs, len(inputs.planned(finding.arm))),
        "variance": finding.variance or None,
        "d0": None,
        "d0_fitted": None,
        "s0": None,
        "prior_arms": 0,
        "rho": None,
        "rho_hat": None,
        "drift_p_slope": None,
        "drift_p_blocks": None,
    }
    if judgement is not None:
        spent = judgement.alpha_spent
        row |= {name: getattr(judgement, name) for name in _SHARED}
        row["alpha_look"] = judgement.alpha if spent is None else min(spent * judgement.family_size, judgement.alpha)
    return {name: row[name] for name in FIELDS}


_SHARED = (
    "mode", "alpha_spent", "information", "family_size", "n_bank", "d0", "d0_fitted", "s0", "prior_arms", "rho",
    "rho_hat", "drift_p_slope", "drift_p_blocks",
)  # fmt: skip


# ── the founding rule ──


def _founding(query: Query, many: Sequence[Evidence]) -> dict[str, list[Row]]:
    pairs = query(
        """SELECT * FROM main.paired_differences WHERE experiment IN (SELECT unnest($1))
        ORDER BY experiment, intervention, seed""",
        ([each.plan["experiment"] for each in many],),
    )
    by_plan = {name: list(rows) for name, rows in groupby(pairs, key=lambda row: row["experiment"])}
    return {
        each.plan["experiment"]: [
            _founding_row(each.plan, row)
            for row in estimates.estimate_plan(each.plan, by_plan[each.plan["experiment"]])
        ]
        if each.plan["experiment"] in by_plan
        else []
        for each in many
    }


def _founding_row(plan: Row, estimate: Row) -> Row:
    said = estimates.conclude(plan, estimate)
    row: Row = dict.fromkeys(FIELDS)
    row |= dict.fromkeys(
        ("n_bank", "planned", "lost", "attempts_t", "attempts_c", "early", "tuning", "prior_arms"), 0
    )
    row |= {name: value for name, value in estimate.items() if name in row}
    row |= {
        "policy": FOUNDING.id,
        "policy_digest": digest(FOUNDING),
        "track": "explore" if plan["track"] == "explore" else "confirm",
        "mode": "fixed",
        "alpha": plan["alpha"],
        "look": plan["look"],
        "alpha_look": estimates.look_alpha(plan["alpha"], plan["look"]),
        "delta": plan["delta"],
        "direction": plan["direction"],
        "family_size": plan["hypothesis_count"],
        "planned": estimate["n_pairs"] + estimate["failed"] - estimate["pending"],
        "lost": estimate["failed"] - estimate["pending"],
        "condition": "complete",
        "label": "",
        "candidate": False,
    }
    return {**row, **said}

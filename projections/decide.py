"""Decisions: what a policy says of an experiment's hypotheses at a head, as events; and their replay.

A decision is the judged row of a hypothesis (judged.py) with the head that it read and the events that it rests on.
`decide` is a pure function of tables, so `replay` can build the tables as of the head that a judgement read, decide
again, and compare every figure; `against` decides again on today's tables and names the events that made the
difference.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import msgspec

from ledger import canonical
from ledger.errors import UsageError
from ledger.events import DecisionMade
from ledger.upcasters import DECISION_ADDED_IN_2, MOST_USED, used_digest
from projections.catalog import code_digest
from projections.engine import Tables
from projections.evidence import Evidence, gather
from projections.judged import ENGINE, ENGINES, FIELDS, judged, refuse, registered
from projections.statistics.policies import FOUNDING, Policy, find

Row = dict[str, Any]


class Difference(NamedTuple):
    """A figure of a judgement that did not come out the same: recorded, and computed now."""

    field: str
    recorded: Any
    now: Any


def decide(tables: Tables, experiment: str, policy: Policy | None = None, engine: str = ENGINE) -> list[DecisionMade]:
    """A decision for every hypothesis of an experiment, in the order of their names, by `policy` or by the one that
    its plan registered. With a policy it may be an older engine that judges.

    Raises UsageError when there is no such experiment, it has no hypothesis, no pair of runs has ended, or the policy
    needs what the runs lack.
    """
    return decide_all(tables, [experiment], policy, engine)[0]


def decide_all(
    tables: Tables, experiments: Sequence[str], policy: Policy | None = None, engine: str = ENGINE
) -> list[list[DecisionMade]]:
    """The same for several experiments, each as if alone. Raises UsageError for the first that cannot be decided."""
    found = {each.plan["experiment"]: each for each in gather(tables.rows, experiments)}
    for experiment in experiments:
        if experiment not in found:
            plans = tables.rows("SELECT name FROM experiments WHERE experiment = $1", (experiment,))
            if not plans:
                raise UsageError(f"no experiment {experiment} in this ledger")
            raise UsageError(f"experiment {plans[0]['name']} has one arm only: there is nothing to decide")
    many = [found[experiment] for experiment in experiments]
    for each in many:
        _refuse(tables, each, policy)
    # By the plans' own policies the table `effects` has it all.
    judgements = _effects(tables, experiments) if policy is None else judged(tables.rows, many, policy, engine)
    code = code_digest()
    return [[_decision(tables, each, row, code) for row in rows] for each, rows in zip(many, judgements, strict=True)]


def _effects(tables: Tables, experiments: Sequence[str]) -> list[list[Row]]:
    """Judgements by the plans' own policies, as the table `effects` has them."""
    rows = tables.rows(
        f"SELECT {', '.join(FIELDS)} FROM effects WHERE experiment IN (SELECT unnest($1)) ORDER BY intervention",
        ([*experiments],),
    )
    found: dict[str, list[Row]] = {experiment: [] for experiment in experiments}
    for row in rows:
        found[row["experiment"]].append(row)
    return [found[experiment] for experiment in experiments]


def _refuse(tables: Tables, each: Evidence, policy: Policy | None) -> None:
    """Raises UsageError where there is nothing to say, or not by this policy."""
    ok: dict[str, int] = {}
    for run in each.inputs.runs:
        ok[run.arm] = ok.get(run.arm, 0) + (run.status == "ok")
    control = each.inputs.control
    ended = {run.arm for run in each.inputs.runs if not run.bank}
    waiting = control not in ended or any(arm not in ended for arm in each.inputs.arms)
    if waiting and not (ok.get(control) and any(ok.get(arm) for arm in each.inputs.arms)):
        raise UsageError(
            f"experiment {each.plan['name']} has no finished pair yet: expected a run of {control} and one of "
            "another arm that ended; `ledger run` runs what is missing"
        )
    refuse(tables.rows, policy or registered(each), each)


def _decision(tables: Tables, each: Evidence, row: Row, code: str) -> DecisionMade:
    arm = row["intervention"]
    used = _pairs(tables, each.plan["experiment"], arm) if row["policy"] == FOUNDING.id else each.used(arm)
    figures: Row = {name: canonical.tag(value) if type(value) is float else value for name, value in row.items()}
    return DecisionMade(
        **figures,
        code=code,
        head=tables.head,
        used=tuple(used[:MOST_USED]),
        used_count=len(used),
        used_digest=used_digest(used),
    )


def _pairs(tables: Tables, experiment: str, intervention: str) -> list[str]:
    """Ids of the outcomes behind the pairs of an intervention, treatment and control, in log order: what the
    founding rule rests on."""
    rows = tables.rows(
        """SELECT runs.finished_id
        FROM paired_differences AS pairs
        INNER JOIN runs ON runs.run = pairs.run_t OR runs.run = pairs.run_c
        WHERE pairs.experiment = $1 AND pairs.intervention = $2
            AND pairs.both_ok AND runs.finished_position IS NOT NULL
        ORDER BY runs.finished_position""",
        (experiment, intervention),
    )
    return [row["finished_id"] for row in rows]


def again(tables: Tables, recorded: DecisionMade, engine: str = ENGINE) -> DecisionMade | None:
    """The same judgement on other tables: same hypothesis, same policy. None when the hypothesis is not there.

    Raises UsageError as `decide`, and for a policy that this program does not have.
    """
    made = decide(tables, recorded.experiment, find(recorded.policy), engine)
    return {one.intervention: one for one in made}.get(recorded.intervention)


def replay(tables: Tables, recorded: DecisionMade) -> list[Difference]:
    """Decide again on `tables` (as of the judgement's head) and list every figure that differs.

    It is decided by the engine that the judgement names. Empty when the judgement comes out exactly. An engine that
    this program does not have, or a changed policy, is a difference of `engine` or `policy_digest`. Of a judgement
    of version 1 what it has said is compared.
    """
    return beside(tables, recorded, again(tables, recorded, _engine(recorded)))


def _engine(recorded: DecisionMade) -> str:
    """The engine that made a judgement, else the newest."""
    return recorded.engine if recorded.engine in ENGINES else ENGINE


def replay_many(tables: Tables, many: Sequence[DecisionMade]) -> list[list[Difference]]:
    """The same for many judgements of one head, in their order; the experiments of a policy are judged together.

    One that cannot be made again has a difference of `experiment` that says why, and hides no other.
    """
    wanted: dict[tuple[str, str], list[str]] = {}
    for recorded in many:
        of = wanted.setdefault((recorded.policy, _engine(recorded)), [])
        of += [recorded.experiment] if recorded.experiment not in of else []
    made: dict[tuple[str, str, str, str], DecisionMade] = {}
    refused: dict[tuple[str, str], str] = {}
    for (name, engine), experiments in wanted.items():
        try:
            decided = decide_all(tables, experiments, find(name), engine)
        except UsageError:
            decided = []
            for experiment in experiments:
                try:
                    decided.append(decide(tables, experiment, find(name), engine))
                except UsageError as error:
                    refused[name, experiment] = str(error)
        made |= {(name, engine, one.experiment, one.intervention): one for each in decided for one in each}
    found = []
    for recorded in many:
        if why := refused.get((recorded.policy, recorded.experiment)):
            found.append([Difference("experiment", recorded.experiment, why)])
        else:
            now = made.get((recorded.policy, _engine(recorded), recorded.experiment, recorded.intervention))
            found.append(beside(tables, recorded, now))
    return found


def beside(tables: Tables, recorded: DecisionMade, now: DecisionMade | None) -> list[Difference]:
    """What differs between a judgement and the same one made again on these tables, which should have its head."""
    differences: list[Difference] = []
    if tables.head != recorded.head:
        differences.append(Difference("head.root", recorded.head.root, tables.head.root))
    if now is None:
        return [*differences, Difference("intervention", recorded.intervention, None)]
    differences += compared(recorded, now)
    if differences and recorded.code != now.code:  # other code that finds the same is no difference
        differences.insert(0, Difference("code", recorded.code, now.code))
    return differences


def compared(recorded: DecisionMade, now: DecisionMade) -> list[Difference]:
    """The fields in which two judgements of one hypothesis differ, what they read and by which code left out."""
    skip = {"head", "code"} | (DECISION_ADDED_IN_2 if not recorded.policy_digest else set())
    before, after = msgspec.to_builtins(recorded), msgspec.to_builtins(now)
    return [
        Difference(name, before[name], after[name])
        for name in before
        if name not in skip and before[name] != after[name]
    ]

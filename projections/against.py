"""What a judgement would be today, and which events made the difference.

The same experiment is gathered twice, as of the head that the judgement read and as of now; what differs between the
two is what changed: seeds that ended late, runs again, controls that the bank gained, retractions, amendments, and
what the noise class has learned. Nothing is guessed from dates.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from ledger.errors import UsageError
from ledger.events import DecisionMade
from projections.decide import Difference, again, beside, compared
from projections.engine import Tables
from projections.evidence import Evidence, gather
from projections.statistics.policies import FOUNDING


class Change(NamedTuple):
    """One event that the judgement of today has and the recorded one had not; of the noise of a class the newest."""

    position: int | None
    event_id: str | None
    type: str
    why: str


class Against(NamedTuple):
    """A judgement beside the same one today."""

    recorded: DecisionMade
    now: DecisionMade | None  # None where nothing can be decided any more
    refused: str  # why, then
    program: list[Difference]  # what today's program finds otherwise on the very events that were read
    differences: list[Difference]
    changes: list[Change]


def against(then: Tables, now: Tables, recorded: DecisionMade) -> Against:
    """`recorded` beside what the same policy says on `now`; `then` are the tables as of the head that it read."""
    program = _program(then, recorded)
    refused, made = "", None
    try:
        made = again(now, recorded)
    except UsageError as error:
        refused = str(error)
    differences = (
        [] if made is None else [one for one in compared(recorded, made) if one.field not in ("used", "engine")]
    )
    before, after = _of(then, recorded.experiment), _of(now, recorded.experiment)
    return Against(recorded, made, refused, program, differences, _changes(then, now, recorded, before, after))


def _program(then: Tables, recorded: DecisionMade) -> list[Difference]:
    """What this program finds otherwise on the events that were read; that its engine has another number is told only
    beside a figure that differs."""
    found = beside(then, recorded, again(then, recorded))
    return [] if {one.field for one in found} <= {"code", "engine"} else found


def _of(tables: Tables, experiment: str) -> Evidence | None:
    return next(iter(gather(tables.rows, [experiment])), None)


def _changes(
    then: Tables, now: Tables, recorded: DecisionMade, before: Evidence | None, after: Evidence | None
) -> list[Change]:
    start = recorded.head.position
    taken = {
        row["target"]: row
        for row in now.rows(
            "SELECT position, event_id, target, reason FROM facts.event_retracted ORDER BY position DESC"
        )
    }
    gone = _gone(now, taken, start, before, after)
    return sorted(
        {
            *(_added(now, recorded, before, after, start) if after else ()),
            *gone,
            *(_amended(now, recorded.experiment, start)),
            *(_noise(then, now, recorded, before, after)),
        },
        key=lambda change: (change.position is None, change.position or 0, change.why),
    )


def _added(now: Tables, recorded: DecisionMade, before: Evidence | None, after: Evidence, start: int) -> list[Change]:
    """Outcomes that came after the judgement, or that an amendment made count."""
    had = {outcome[1] for outcome in before.outcomes} if before else set()
    cells = {(arm, seed) for _, _, arm, seed, bank in before.outcomes if not bank} if before else set()
    found = []
    for position, event_id, arm, seed, bank in after.outcomes:
        if event_id in had:
            continue
        if bank:
            (row,) = now.rows(
                """SELECT coalesce(plans.name, runs.experiment) AS name FROM runs
                LEFT JOIN experiments AS plans ON plans.experiment = runs.experiment
                WHERE runs.finished_id = $1""",
                (event_id,),
            )
            why = f"bank grew: a control of {row['name']} on the same base, seed {seed}"
        elif (arm, seed) in cells:
            why = f"rerun: {arm} seed {seed} has another outcome"
        elif position < start:
            why = f"{arm} seed {seed} counts since the plan has it"
        elif arm in (recorded.intervention, after.inputs.control):
            why = f"late seed: {arm} seed {seed} ended after the judgement"
        else:
            why = f"late seed: {arm} seed {seed}, whose spread the arms of the plan share"
        found.append(Change(position, event_id, "run.finished", why))
    return found


def _gone(
    now: Tables, taken: dict[str, dict[str, Any]], start: int, before: Evidence | None, after: Evidence | None
) -> list[Change]:
    """Retractions of what the judgement read."""
    if before is None:
        return []
    kept = {outcome[1] for outcome in after.outcomes} if after else set()
    found = []
    for _, event_id, arm, seed, bank in before.outcomes:
        if event_id in kept:
            continue
        (row,) = now.rows(
            """SELECT min(started.event_id) AS started FROM staged.run_finished AS finished
            INNER JOIN staged.run_started AS started ON started.run = finished.run WHERE finished.event_id = $1""",
            (event_id,),
        )
        by = taken.get(event_id) or taken.get(row["started"])
        what = f"{arm} seed {seed}" + (" of the bank" if bank else "")
        if by is None:
            newest = f"{what} does not count any more: it was replaced, or the look has other seeds"
            found.append(Change(None, event_id, "run.finished", newest))
        else:
            found.append(
                Change(by["position"], by["event_id"], "event.retracted", f"retraction: {what} ({by['reason']})")
            )
    standing = set(after.registrations) if after else set()
    for event_id in before.registrations:
        if event_id not in standing and (by := taken.get(event_id)) and by["position"] >= start:
            why = f"retraction: a registration of the plan ({by['reason']})"
            found.append(Change(by["position"], by["event_id"], "event.retracted", why))
    return found


def _amended(now: Tables, experiment: str, start: int) -> list[Change]:
    rows = now.rows(
        """SELECT position, event_id, string_agg(key || ' ' || before || ' -> ' || after, '; ' ORDER BY key) AS what
        FROM amendments WHERE experiment = $1 AND position >= $2 GROUP BY position, event_id ORDER BY position""",
        (experiment, start),
    )
    found = [Change(row["position"], row["event_id"], "plan.amended", f"amendment: {row['what']}") for row in rows]
    told = {row["position"] for row in rows}
    for row in now.rows(
        """SELECT position, event_id FROM facts.experiment_registered
        WHERE experiment = $1 AND position >= $2 ORDER BY position""",
        (experiment, start),
    ):
        if row["position"] + 1 not in told:
            found.append(Change(row["position"], row["event_id"], "experiment.registered", "registered again"))
    return found


def _noise(
    then: Tables, now: Tables, recorded: DecisionMade, before: Evidence | None, after: Evidence | None
) -> list[Change]:
    """What other experiments have taught about the noise of the class."""
    if recorded.policy == FOUNDING.id or before is None or after is None:
        return []
    knew, knows = before.inputs.class_variances, after.inputs.class_variances
    if knew == knows:
        return []
    (row,) = now.rows(
        "SELECT max(position) AS position FROM noise_arms WHERE noise_class = $1 AND unit = $2 AND study <> $3",
        (after.plan["noise_class"], "fork" if after.inputs.tier == "fork" else "run", recorded.experiment),
    )
    events = now.rows("SELECT finished_id FROM runs WHERE finished_position = $1", (row["position"],))
    return [
        Change(
            row["position"],
            events[0]["finished_id"] if events else None,
            "run.finished",
            f"noise class: {len(knows)} arms elsewhere tell its noise, {len(knew)} did then (their newest event)",
        )
    ]

"""A series of cycles as the log shows it: where it stands, the next ranking as a judgement, and its replay.

Everything is derived from events, so a process that was killed at any moment leaves a log from which the next one
sees what is to be done: run the plan of the last ranking, decide it, or rank anew. A ranking is a pure function of
the tables at its head and of the cycle plan; whether the series ends is part of it.
"""

from __future__ import annotations

import math
from typing import Any, Literal, NamedTuple

import msgspec

from ledger.cycles import RankedOption, StopState
from ledger.errors import UsageError
from ledger.events import CyclePlanned, CycleRanked
from projections import board
from projections.catalog import code_digest
from projections.decide import Difference
from projections.engine import Tables
from projections.ranking import PROCEDURE, PROCEDURES, ranked
from projections.statistics import stopping
from projections.statistics.multiplicity import cycle_alpha
from projections.statistics.numeric import digits

MOST_RANKED = 60  # lines of a ranking that its event holds

Row = dict[str, Any]
Step = Literal["rank", "run", "decide", "done"]


class Standing(NamedTuple):
    """What is to be done next. `last` is the newest ranking; `experiment` the id of the one that it asked for."""

    step: Step
    last: CycleRanked | None
    experiment: str | None


def standing(tables: Tables, cycle: str) -> Standing:
    """Where a series stands."""
    rows = _rankings(tables, cycle)
    if not rows:
        return Standing("rank", None, None)
    last, position = rows[-1]
    if last.stopped:
        (row,) = tables.rows("SELECT max(position) AS at FROM facts.cycle_planned WHERE cycle = $1", (cycle,))
        return Standing("rank" if row["at"] > position else "done", last, None)  # planned again: it may go on
    found = tables.rows(
        """SELECT experiments.experiment FROM experiments
        INNER JOIN facts.cycle_planned AS plan ON plan.base = experiments.base AND plan.cycle = $1
        WHERE experiments.name = $2 LIMIT 1""",
        (cycle, last.experiment),
    )
    if not found:
        return Standing("run", last, None)
    experiment = found[0]["experiment"]
    (waiting,) = tables.rows(
        "SELECT count(*) AS n FROM paired_differences WHERE experiment = $1 AND pending", (experiment,)
    )
    if waiting["n"]:
        return Standing("run", last, experiment)
    (decided,) = tables.rows(
        """SELECT count(DISTINCT intervention) AS n FROM decisions
        WHERE experiment = $1 AND registered
            AND position > (SELECT coalesce(max(finished_position), -1) FROM runs WHERE experiment = $1)""",
        (experiment,),
    )
    return Standing("rank" if decided["n"] >= len(last.chosen) else "decide", last, experiment)


def rank(tables: Tables, planned: CyclePlanned, plan_id: str, procedure: str = PROCEDURE) -> CycleRanked:
    """What the next cycle measures, or why there is none, as of these tables, by the newest procedure or an older."""
    own = procedure != "next/2"
    options = ranked(board.cycle_options(_query(tables), planned, own))
    measured = [ranking for ranking, _ in _rankings(tables, planned.cycle) if not ranking.stopped]
    number = len(measured) + 1
    limits = {rule.rule: rule.limit for rule in planned.stop}
    price = limits.get("price", 0.0)
    single = [row for row in options if row["action"] in ("ablate", "add_seeds") and row["rank"] is not None]
    chosen = [row for row in single if row["score"] > 0 and row["score"] >= price][: planned.batch]
    state = _state(tables, planned, measured, single, chosen, own)
    rules = stopping.evaluate(limits, state)
    rule = stopping.holding(rules)
    alpha = cycle_alpha(planned.alpha, number)
    experiment = f"{planned.name}-c{number}"
    first = planned.first_seed + (number - 1) * planned.seeds
    if rule is not None:
        why = f"{planned.name} ends after {len(measured)} cycle{'' if len(measured) == 1 else 's'}: "
        why += stopping.sentence(rule) + "."
    else:
        why = f"cycle {number} measures {' and '.join(row['candidate'] for row in chosen)}: {chosen[0]['reason']}"
    return CycleRanked(
        cycle=planned.cycle,
        number=number,
        procedure=procedure,
        code=code_digest(),
        head=tables.head,
        plan=plan_id,
        alpha=digits(alpha),
        ranking=tuple(
            RankedOption(**{name: row[name] for name in RankedOption.__struct_fields__})
            for row in options[:MOST_RANKED]
        ),
        chosen=() if rule else tuple(row["candidate"] for row in chosen),
        experiment="" if rule else experiment,
        seeds=() if rule else tuple(range(first, first + planned.seeds)),
        rules=tuple(StopState(one.name, one.limit, digits(one.at), one.holds) for one in rules),
        stopped=rule.name if rule else "",
        why=why,
    )


def replay(tables: Tables, recorded: CycleRanked) -> list[Difference]:
    """Rank again as of the judgement's head by its procedure and list what differs; empty when it comes out exactly.

    A procedure that this program does not have is a difference of `procedure`.
    """
    found: list[Difference] = []
    if tables.head != recorded.head:
        found.append(Difference("head.root", recorded.head.root, tables.head.root))
    rows = tables.rows("SELECT body FROM events WHERE id = $1", (recorded.plan,))
    if not rows:
        raise UsageError(f"its cycle plan {recorded.plan} is not in the log")
    planned = msgspec.json.decode(
        msgspec.json.encode(msgspec.json.decode(rows[0]["body"])["data"]), type=CyclePlanned
    )
    procedure = recorded.procedure if recorded.procedure in PROCEDURES else PROCEDURE
    now = rank(tables, planned, recorded.plan, procedure)
    before, after = msgspec.to_builtins(recorded), msgspec.to_builtins(now)
    found += [
        Difference(name, before[name], after[name])
        for name in before
        if name not in ("head", "code") and before[name] != after[name]
    ]
    if found and recorded.code != now.code:
        found.insert(0, Difference("code", recorded.code, now.code))
    return found


def _query(tables: Tables) -> board.Query:
    return lambda sql, parameters: tables.rows(sql, parameters)


def _rankings(tables: Tables, cycle: str) -> list[tuple[CycleRanked, int]]:
    """The rankings of a series in order, those that were taken back left out."""
    rows = tables.rows(
        """SELECT events.position, events.body FROM events
        INNER JOIN facts.cycle_ranked AS ranked ON ranked.event_id = events.id
        WHERE ranked.cycle = $1 ORDER BY events.position""",
        (cycle,),
    )
    return [(msgspec.convert(msgspec.json.decode(row["body"])["data"], CycleRanked), row["position"]) for row in rows]


def _state(
    tables: Tables, planned: CyclePlanned, measured: list[CycleRanked], open_: list[Row], chosen: list[Row], own: bool
) -> stopping.State:
    """What the stop rules look at. Times are what the runs took; verdicts are those of the plans' own policies."""
    names = [ranking.experiment for ranking in measured]
    runs = tables.rows(
        """SELECT experiments.name, runs.arm, runs.status, runs.wall_s FROM runs
        INNER JOIN experiments ON experiments.experiment = runs.experiment
        WHERE experiments.base = $1 AND experiments.name IN (SELECT unnest($2::VARCHAR[]))
            AND runs.status NOT IN ('running', 'interrupted', 'lost')
        ORDER BY runs.started_position""",
        (planned.base, names),
    )
    said = {
        (row["name"], row["intervention"]): row["verdict"]
        for row in tables.rows(
            """SELECT experiments.name, decisions.intervention, decisions.verdict FROM decisions
            INNER JOIN experiments ON experiments.experiment = decisions.experiment
            WHERE experiments.base = $1 AND decisions.latest AND (decisions.registered OR NOT $2)
            ORDER BY decisions.position""",
            (planned.base, own),
        )
    }
    verdicts = [
        said[ranking.experiment, name]
        for ranking in measured
        for name in ranking.chosen
        if (ranking.experiment, name) in said
    ]
    walls = sorted(row["wall_s"] for row in runs if row["arm"] == planned.control.name and row["wall_s"] is not None)
    control = walls[len(walls) // 2] if walls else 0.0
    return stopping.State(
        verdicts=tuple(verdicts),
        cycles=len(measured),
        wall_s=digits(math.fsum(row["wall_s"] for row in runs if row["wall_s"] is not None)),
        runs=len(runs),
        next_wall_s=digits(control * math.fsum(row["cost"] for row in chosen)),
        next_runs=planned.seeds * (len(chosen) + 1) if chosen else 0,
        best_score=open_[0]["score"] if open_ and open_[0]["score"] > 0 else None,
    )

"""From the average effects of a screen to a judgement that can be made again: `screen.judged`, and its replay.

It suggests, and says so in each sentence: an average over stacks is not the effect of one change on the base.
"""

from __future__ import annotations

from typing import Any

import msgspec

from ledger.cycles import AverageEffect
from ledger.errors import UsageError
from ledger.events import ScreenJudged
from projections.catalog import code_digest
from projections.decide import Difference
from projections.engine import Tables

ENGINE = "screen/1"
_FIGURES = ("effect", "se", "df", "t", "p", "q", "ci95_lo", "ci95_hi")

Row = dict[str, Any]


def is_screen(tables: Tables, experiment: str) -> bool:
    """Whether an experiment is a screen."""
    return bool(tables.rows("SELECT 1 FROM facts.screen_planned WHERE experiment = $1 LIMIT 1", (experiment,)))


def judge(tables: Tables, experiment: str) -> ScreenJudged:
    """What a screen says as of these tables. Raises UsageError when there is no such screen."""
    plans = tables.rows("SELECT * FROM experiments WHERE experiment = $1", (experiment,))
    rows = tables.rows("SELECT * FROM screen_effects WHERE experiment = $1 ORDER BY number", (experiment,))
    if not plans or not rows:
        raise UsageError(f"no screen {experiment} in this ledger")
    plan, first = plans[0], rows[0]
    used = tables.rows(
        """SELECT finished_id FROM runs WHERE experiment = $1 AND status = 'ok' AND isfinite(value)
        ORDER BY finished_position""",
        (experiment,),
    )
    effects = tuple(
        AverageEffect(
            factor=row["factor"],
            candidate=row["candidate"],
            why=_sentence(row, plan),
            **{name: row[name] for name in _FIGURES},
        )
        for row in rows
        if not row["defect"]
    )
    return ScreenJudged(
        experiment=experiment,
        engine=ENGINE,
        code=code_digest(),
        head=tables.head,
        metric=plan["metric"],
        direction=plan["direction"],
        delta=plan["delta"],
        used=tuple(row["finished_id"] for row in used),
        runs=first["runs"],
        missing=first["missing"],
        sd=first["sd"],
        df=effects[0].df if effects else None,
        noise=first["noise"],
        p_interactions=first["p_interactions"],
        effects=effects,
        why=_why(plan, first, effects),
    )


def _sentence(row: Row, plan: Row) -> str:
    """One factor in one sentence whose numbers are in the row."""
    found = (
        f"{row['factor']}: the average effect on {plan['metric']} is {row['effect']:+.4g} (95 % interval "
        f"{row['ci95_lo']:+.4g} to {row['ci95_hi']:+.4g}, q {row['q']:.2g})"
    )
    if not row["candidate"]:
        return f"{found}; nothing to follow up."
    lowers = row["effect"] < 0
    good = lowers == (plan["direction"] == "lower")
    worth = "worth confirming" if good else "it seems to harm: worth leaving out"
    return f"{found}; {worth}, by itself, with fresh seeds."


def _why(plan: Row, first: Row, effects: tuple[AverageEffect, ...]) -> str:
    if first["defect"]:
        return f"{plan['name']} says nothing yet: {first['defect']}."
    many = [one.factor for one in effects if one.candidate]
    told = f"{len(many)} of {len(effects)} factors stand out on the average of {first['runs']} stacks"
    if many:
        told += f" ({', '.join(many[:6])}{' …' if len(many) > 6 else ''})"
    if first["missing"]:
        told += f"; {first['missing']} planned runs are missing, so none is suggested yet"
    elif first["p_interactions"] is not None and first["p_interactions"] < 0.05:
        told += "; factors interact, so effects on the base may differ from these averages"
    return f"{told}; average effects suggest, one change at a time confirms."


def replay(tables: Tables, recorded: ScreenJudged) -> list[Difference]:
    """Judge again as of the judgement's head and list what differs; empty when it comes out exactly."""
    found: list[Difference] = []
    if tables.head != recorded.head:
        found.append(Difference("head.root", recorded.head.root, tables.head.root))
    now = judge(tables, recorded.experiment)
    before, after = msgspec.to_builtins(recorded), msgspec.to_builtins(now)
    found += [
        Difference(name, before[name], after[name])
        for name in before
        if name not in ("head", "code") and before[name] != after[name]
    ]
    if found and recorded.code != now.code:
        found.insert(0, Difference("code", recorded.code, now.code))
    return found

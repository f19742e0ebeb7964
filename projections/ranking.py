"""What to run next: the rows of `next_interventions`, the same ones for the same log.

Options come from board.py (our own platforms) and lineage_board.py (the records); here they get their score and
their place. Scores of one metric compare as they are; across metrics a score counts in smallest effects that matter
(its delta). An option that is blocked has its figures and no place.
"""

from __future__ import annotations

import math
from typing import Any

import pyarrow as pa

from projections import board, lineage_board
from projections.board import Option, Query, figure
from projections.statistics import value
from projections.statistics.numeric import digits

PROCEDURE = "next/1"
SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("rank", pa.int64()),
        ("source", pa.string()),
        ("about", pa.string()),
        ("candidate", pa.string()),
        ("action", pa.string()),
        ("k", pa.int64()),
        *[(name, pa.float64()) for name in ("cost", "m", "sd", "gain", "score")],
        ("seed_rule_rank", pa.int64()),
        ("feasible", pa.float64()),
        ("blocked_by", pa.string()),
        ("reason", pa.string()),
        ("adopt", pa.float64()),
        ("delta", pa.float64()),
        ("metric", pa.string()),
        ("direction", pa.string()),
        ("target", pa.string()),
        ("base", pa.string()),
        ("experiment", pa.string()),
        ("arms", pa.string()),
        ("engine_version", pa.string()),
    ]
)

Row = dict[str, Any]


def next_interventions(query: Query) -> pa.Table:
    """Rows of SCHEMA for everything that can be measured next."""
    return pa.Table.from_pylist(ranked([*board.options(query), *lineage_board.options(query)]), schema=SCHEMA)


def ranked(options: list[Option]) -> list[Row]:
    """Options as rows, those with a place first, in its order."""
    scored = []
    for option in options:
        asked = value.Option(option.id, option.parts, option.costs, option.feasible, bool(option.blocked_by))
        scored.append((option, value.worth(asked, option.adopt)))
    single = ("ablate", "add_seeds", "separate_aliases", "transfer_check")
    seeds = value.seed_rule(
        [
            (option.id, option.parts[0].mean / option.delta, option.uncertain and not option.blocked_by)
            for option, _ in scored
            if option.action in single
        ]
    )
    scored.sort(key=lambda pair: (bool(pair[0].blocked_by), -pair[1].score / pair[0].delta, pair[0].id))
    return [
        _row(option, worth, None if option.blocked_by else number, seeds.get(option.id))
        for number, (option, worth) in enumerate(scored, 1)
    ]


def _row(option: Option, worth: value.Worth, rank: int | None, seed_rule: int | None) -> Row:
    best = option.parts[0]
    if option.action in ("grow_bank", "factorial_screen"):  # of many effects that one most worth knowing is told
        best = max(option.parts, key=lambda part: (value.gain(part.mean, part.variance, option.adopt), -part.mean))
    row: Row = {
        "id": option.id,
        "rank": rank,
        "source": option.source,
        "about": option.where,
        "candidate": option.candidate,
        "action": option.action,
        "k": option.k or worth.k,
        "cost": worth.cost,
        "m": option.sign * best.mean,
        "sd": math.sqrt(best.variance),
        "gain": worth.gain,
        "score": worth.score,
        "seed_rule_rank": seed_rule,
        "feasible": option.feasible,
        "blocked_by": option.blocked_by,
        "reason": _reason(option, worth, best),
        "adopt": option.adopt,
        "delta": option.delta,
        "metric": option.metric,
        "direction": "lower" if option.sign > 0 else "higher",
        "target": option.target,
        "base": option.base,
        "experiment": option.experiment,
        "arms": ", ".join(option.arms),
        "engine_version": PROCEDURE,
    }
    return {name: digits(entry) if type(entry) is float else entry for name, entry in row.items()}


def _reason(option: Option, worth: value.Worth, best: value.Part) -> str:
    """One sentence: what is known, what the runs would tell, and what that is worth."""
    if option.blocked_by:
        return f"{option.told}; {option.blocked_by}."
    step = len(best.news) if option.k else worth.k
    after = math.sqrt(max(0.0, best.variance - value.mean_variance(best.variance, best.news[step - 1])))
    cost = f"{worth.cost:.3g} runs"
    seeds = f"{option.k or worth.k} seed{'' if (option.k or worth.k) == 1 else 's'}"
    match option.action:
        case "grow_bank":
            tail = f"{seeds} more would sharpen all of them"
        case "factorial_screen":
            return f"{option.told}, for an expected gain of {figure(worth.gain)} at a cost of {cost}."
        case "transfer_check":
            tail = f"{seeds} there would tell it to ± {figure(after)}"
        case _:
            tail = (
                f"{seeds} more would tell it to ± {figure(after)}"
                if option.action == "add_seeds"
                else (f"{seeds} with and without it would tell it to ± {figure(after)}")
            )
    return f"{option.told}; {tail}, for an expected gain of {figure(worth.gain)} at a cost of {cost}."

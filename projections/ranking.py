"""What to run next: the rows of `next_interventions`, the same ones for the same log.

Options come from board.py (our own platforms) and lineage_board.py (the records); here they get their score and
their place. Scores of one metric compare as they are; across metrics a score counts in smallest effects that matter
(its delta). An option that is blocked has its figures and no place. Places follow from the figures as the table shows
them, so that the view `next_interventions` gives the same ones.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from typing import Any

import pyarrow as pa

from projections import board, lineage_board
from projections.board import Option, Query, figure
from projections.statistics import value
from projections.statistics.numeric import digits

# 2: the noise of a run is that of the table noise. 3: what is decided goes by the decisions of the plan's own policy,
# and a transfer keeps the program of its arm.
PROCEDURE = "next/3"
PROCEDURES = ("next/2", PROCEDURE)  # by which a ranking can be made again
SINGLE = ("ablate", "add_seeds", "separate_aliases", "transfer_check")  # what the seed plan's rule knows of
SCHEMA = pa.schema(
    [
        ("part", pa.string()),
        ("id", pa.string()),
        ("source", pa.string()),
        ("about", pa.string()),
        ("candidate", pa.string()),
        ("action", pa.string()),
        ("k", pa.int64()),
        *[(name, pa.float64()) for name in ("cost", "m", "sd", "gain", "score")],
        ("uncertain", pa.bool_()),
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


def next_options(query: Query, parts: Collection[str] | None = None) -> pa.Table:
    """Rows of SCHEMA for everything that can be measured next, or of that some parts."""
    found = board.options(query, parts)
    if parts is None or lineage_board.PART in parts:
        found += lineage_board.options(query)
    return pa.Table.from_pylist([_row(option) for option in found], schema=SCHEMA)


def ranked(options: list[Option]) -> list[Row]:
    """Options as rows of `next_interventions`, those with a place first, in its order."""
    rows = sorted(
        map(_row, options), key=lambda row: (bool(row["blocked_by"]), -(row["score"] / row["delta"]), row["id"])
    )
    seeds = value.seed_rule(
        [
            (row["id"], (row["m"] if row["direction"] == "lower" else -row["m"]) / row["delta"], row["uncertain"])
            for row in rows
            if not row["blocked_by"]
        ]
    )
    return [
        {**row, "rank": None if row["blocked_by"] else number, "seed_rule_rank": seeds.get(row["id"])}
        for number, row in enumerate(rows, 1)
    ]


def _row(option: Option) -> Row:
    asked = value.Option(option.id, option.parts, option.costs, option.feasible, bool(option.blocked_by))
    worth = value.worth(asked, option.adopt)
    best = option.parts[0]
    if option.action in ("grow_bank", "factorial_screen"):  # of many effects that one most worth knowing is told
        best = max(option.parts, key=lambda part: (value.gain(part.mean, part.variance, option.adopt), -part.mean))
    row: Row = {
        "part": option.part,
        "id": option.id,
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
        "uncertain": option.uncertain and option.action in SINGLE,
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

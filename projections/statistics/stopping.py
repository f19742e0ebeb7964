"""When a series of cycles ends: rules that a plan fixes beforehand, as data, and their state as figures.

A rule is (name, limit). Each is evaluated on what the log shows, in a fixed order, and the first that holds
ends the series; the others are told beside it. A rule whose limit is 0 is off. Nothing here reads a clock: wall
time is what the runs themselves took.

    confirmed   effects that were found better
    nulls       findings of no effect that matters, in a row, up to the last verdict
    cycles      cycles that were carried out
    wall_clock  seconds that runs took, together with what the next cycle is expected to take
    runs        runs that were made, together with those of the next cycle
    price       the best score is below it: nothing is worth its cost any more (it holds at the limit 0, too,
                where every candidate is decided)
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from ledger.errors import UsageError

ORDER = ("confirmed", "nulls", "cycles", "wall_clock", "runs", "price")


class State(NamedTuple):
    """What a series has come to. `verdicts` in the order in which they were made, the newest of each finding."""

    verdicts: tuple[str, ...]
    cycles: int
    wall_s: float
    runs: int
    next_wall_s: float  # what the next cycle is expected to take
    next_runs: int
    best_score: float | None  # None: no candidate is left


class Rule(NamedTuple):
    """One rule, where it stands, and whether it ends the series."""

    name: str
    limit: float
    at: float
    holds: bool


def evaluate(limits: dict[str, float], state: State) -> tuple[Rule, ...]:
    """Every rule that is on, in ORDER. Raises UsageError for one that does not exist."""
    for name, limit in limits.items():
        if name not in ORDER:
            raise UsageError(f"no stop rule {name!r}; there are {', '.join(ORDER)}")
        if not 0 <= limit < math.inf:
            raise UsageError(f"stop rule {name} has the limit {limit}; expected a number from 0")
    in_a_row = 0
    for verdict in state.verdicts:
        in_a_row = in_a_row + 1 if verdict == "no_effect_that_matters" else 0
    at: dict[str, tuple[float, bool]] = {
        "confirmed": (float(state.verdicts.count("better")), False),
        "nulls": (float(in_a_row), False),
        "cycles": (float(state.cycles), False),
        "wall_clock": (state.wall_s + state.next_wall_s, True),
        "runs": (float(state.runs + state.next_runs), True),
    }
    found = [
        Rule(name, limits[name], value, value > limits[name] if beyond else value >= limits[name])
        for name, (value, beyond) in at.items()
        if limits.get(name)
    ]
    price, score = limits.get("price", 0.0), state.best_score
    found.append(Rule("price", price, 0.0 if score is None else score, score is None or score < price))
    return tuple(found)


def holding(rules: Sequence[Rule]) -> Rule | None:
    """The rule that ends the series: the first that holds."""
    return next((rule for rule in rules if rule.holds), None)


def sentence(rule: Rule) -> str:
    """Why the series ends, in one line whose numbers are the rule's."""
    limit, at = f"{rule.limit:g}", f"{rule.at:.4g}"
    return {
        "confirmed": f"{at} confirmed effects, and {limit} end the series",
        "nulls": f"{at} findings of no effect that matters in a row, and {limit} end the series",
        "cycles": f"{at} cycles, and {limit} end the series",
        "wall_clock": f"with the next cycle the runs would have taken {at} s, and {limit} s is the gate",
        "runs": f"with the next cycle there would be {at} runs, and {limit} are allowed",
        "price": f"the best score is {at}, and below {limit} nothing is worth its cost"
        if rule.limit
        else "no candidate is left whose measurement could change a choice",
    }[rule.name]

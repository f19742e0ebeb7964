"""When a series of cycles ends."""

import pytest

from ledger.errors import UsageError
from projections.statistics import stopping
from projections.statistics.stopping import State

GOING = State((), 1, 10.0, 8, 5.0, 4, 0.001)


def ended(limits, **state):
    rule = stopping.holding(stopping.evaluate(limits, GOING._replace(**state)))
    return rule.name if rule else None


def test_nothing_ends_a_series_whose_rules_are_far():
    assert ended({"confirmed": 1, "nulls": 3, "cycles": 4, "wall_clock": 100, "runs": 99, "price": 1e-6}) is None


def test_a_confirmed_effect_ends_it_and_a_harmful_one_does_not():
    assert ended({"confirmed": 1}, verdicts=("worse", "better")) == "confirmed"
    assert ended({"confirmed": 1}, verdicts=("worse", "undecided")) is None
    assert ended({"confirmed": 2}, verdicts=("better",)) is None


def test_nulls_count_in_a_row_up_to_the_last_verdict():
    null = "no_effect_that_matters"
    assert ended({"nulls": 3}, verdicts=("better", null, null, null)) == "nulls"
    assert ended({"nulls": 3}, verdicts=(null, null, "undecided", null)) is None
    assert ended({"nulls": 3}, verdicts=(null, null, null, "worse")) is None


def test_the_gates_hold_before_the_next_cycle_would_pass_them():
    assert ended({"wall_clock": 14.9}) == "wall_clock"
    assert ended({"wall_clock": 15.0}) is None
    assert ended({"runs": 11}) == "runs"
    assert ended({"runs": 12}) is None
    assert ended({"cycles": 1}) == "cycles"


def test_a_score_below_the_price_ends_it_and_so_does_having_nothing_left():
    assert ended({"price": 0.002}) == "price"
    assert ended({"price": 0.001}) is None
    assert ended({}, best_score=None) == "price"


def test_the_first_rule_that_holds_is_the_one_that_ends_it_and_all_are_told():
    rules = stopping.evaluate({"cycles": 1, "confirmed": 1}, GOING._replace(verdicts=("better",)))
    assert stopping.holding(rules).name == "confirmed"
    assert [(rule.name, rule.holds) for rule in rules] == [("confirmed", True), ("cycles", True), ("price", False)]
    assert stopping.sentence(rules[0]) == "1 confirmed effects, and 1 end the series"


def test_an_unknown_rule_or_a_limit_that_is_no_number_is_refused():
    with pytest.raises(UsageError, match="no stop rule 'bored'"):
        stopping.evaluate({"bored": 1}, GOING)
    with pytest.raises(UsageError, match="limit nan"):
        stopping.evaluate({"cycles": float("nan")}, GOING)

"""What a screen tells: exact where effects add up, untouched by interactions of two, and honest about its noise."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ledger.errors import UsageError
from projections.statistics import screen
from projections.statistics.variances import pool
from runners.screens import folded


def design(factors):
    return {f"s{i:02d}": levels for i, levels in enumerate(folded(factors))}


def outcome(levels, effects, pairs=()):
    """The value of a stack whose effects add up, with interactions of pairs (i, j, size)."""
    total = sum(x * e / 2 for x, e in zip(levels, effects, strict=True))
    return 1.2 + total + sum(levels[i] * levels[j] * size for i, j, size in pairs)


def names(count):
    return [f"f{i:02d}" for i in range(count)]


def found(factors, values, planned=None, elsewhere=((1e-6, 60.0),)):
    return screen.analyse(names(factors), design(factors), values, planned or len(design(factors)), elsewhere)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.floats(-0.01, 0.01), min_size=2, max_size=9), st.integers(1, 2))
def test_effects_that_add_up_come_out_exactly(effects, seeds):
    values = {
        (arm, seed): outcome(levels, effects) + 0.01 * seed
        for arm, levels in design(len(effects)).items()
        for seed in range(seeds)
    }
    told = found(len(effects), values).effects
    assert [one.effect for one in told] == pytest.approx(effects, abs=1e-12)


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.floats(-0.01, 0.01), min_size=3, max_size=8),
    st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2), st.floats(-0.05, 0.05)), max_size=4),
)
def test_no_interaction_of_two_factors_reaches_an_average_effect(effects, pairs):
    pairs = [(i, j, size) for i, j, size in pairs if i != j]
    values = {(arm, 0): outcome(levels, effects, pairs) for arm, levels in design(len(effects)).items()}
    told = found(len(effects), values)
    assert [one.effect for one in told.effects] == pytest.approx(effects, abs=1e-10)
    assert all(one.se == pytest.approx(told.effects[0].se) for one in told.effects)


def test_the_error_of_an_average_effect_is_that_of_two_halves():
    rng = np.random.default_rng(3)
    values = {(arm, 0): outcome(levels, [0.0] * 24) + rng.normal(0, 0.001) for arm, levels in design(24).items()}
    told = found(24, values)
    assert len(values) == 56 == screen.runs_of(24)
    assert told.effects[0].se == pytest.approx(told.sd * math.sqrt(4 / 56))


def test_interactions_are_noticed_and_do_not_swell_the_noise():
    rng = np.random.default_rng(4)
    pairs = [(0, 1, 0.01), (2, 3, 0.01)]
    values = {
        (arm, seed): outcome(levels, [0.002] * 6, pairs) + rng.normal(0, 0.001)
        for arm, levels in design(6).items()
        for seed in (0, 1)
    }
    told = found(6, values, elsewhere=())
    assert told.noise == "pure"
    assert told.sd < 0.002
    assert told.p_interactions < 1e-6
    still = {cell: value - outcome(design(6)[cell[0]], [0.0] * 6, pairs) for cell, value in values.items()}
    assert found(6, still, elsewhere=()).p_interactions > 0.01


def test_without_enough_that_interactions_cannot_reach_all_that_is_left_is_noise():
    rng = np.random.default_rng(5)
    values = {(arm, 0): outcome(levels, [0.0] * 3) + rng.normal(0, 0.001) for arm, levels in design(3).items()}
    told = found(3, values, elsewhere=())
    assert told.noise == "all"
    assert told.df == 8 - 1 - 3
    assert told.p_interactions is None


def test_noise_from_elsewhere_is_pooled_with_its_own():
    rng = np.random.default_rng(6)
    values = {(arm, 0): outcome(levels, [0.0] * 3) + rng.normal(0, 0.001) for arm, levels in design(3).items()}
    alone, told = found(3, values, elsewhere=()), found(3, values, elsewhere=[(4e-6, 50.0)])
    assert told.noise == "pure"
    assert told.df == 51  # one pair of mirrors more than factors
    assert alone.sd != told.sd == pytest.approx(math.sqrt(pool([told.sd**2], [1.0])[0]))
    assert 0.0018 < told.sd < 0.0021


def test_a_screen_with_runs_missing_still_tells_its_factors_apart():
    values = {(arm, 0): outcome(levels, [0.004, -0.002, 0.001]) for arm, levels in design(3).items()}
    del values["s03", 0]
    told = found(3, values)
    assert told.missing == 1
    assert [one.effect for one in told.effects] == pytest.approx([0.004, -0.002, 0.001], abs=1e-12)


def test_too_few_runs_or_none_are_refused():
    with pytest.raises(UsageError, match="no run of the screen"):
        found(3, {})
    with pytest.raises(UsageError, match="do not tell the 3 factors apart"):
        found(3, {("s00", 0): 1.0, ("s01", 0): 1.1, ("s02", 0): 1.2})


def test_runs_that_fit_exactly_tell_no_noise():
    values = {(arm, 0): outcome(levels, [0.004, -0.002, 0.001]) for arm, levels in design(3).items()}
    with pytest.raises(UsageError, match=r"fit exactly|tells the noise"):
        found(3, dict.fromkeys(values, 1.0), elsewhere=())


def test_the_order_of_values_changes_nothing():
    rng = np.random.default_rng(8)
    values = {(arm, 0): outcome(levels, [0.001] * 5) + rng.normal(0, 0.001) for arm, levels in design(5).items()}
    turned = dict(reversed(values.items()))
    assert found(5, values) == found(5, turned)


def test_false_discoveries_of_a_screen_of_nothing_are_few():
    rng = np.random.default_rng(9)
    hits = 0
    for _, seed in itertools.product(range(60), (0,)):
        values = {(arm, seed): 1.2 + rng.normal(0, 0.001) for arm in design(11)}
        hits += any(one.q <= 0.10 for one in found(11, values, elsewhere=[(1e-6, 60.0)]).effects)
    assert hits <= 14  # 6 are expected; 14 or more come once in a thousand

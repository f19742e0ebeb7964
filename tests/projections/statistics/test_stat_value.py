"""What a measurement is worth: the closed form against the integral that it stands for, and laws."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import integrate, stats

from ledger.errors import UsageError
from projections.statistics import value
from projections.statistics.value import Option, Part

MEAN = st.floats(-0.01, 0.01)
VARIANCE = st.floats(1e-8, 1e-4)


def option(name="a", mean=0.0, variance=4e-6, news=(1e-6,), costs=(1.0,), **more):
    return Option(name, (Part(mean, variance, news),), costs, **more)


def by_integral(mean, v_k, adopt):
    """E max(0, -(M + a)) - max(0, -(m + a)) with M ~ N(m, v_k): what choosing after the runs is expected to add."""
    sd = math.sqrt(v_k)

    def improvement(z):
        return max(0.0, -(mean + sd * z + adopt)) * stats.norm.pdf(z)

    edge = (-adopt - mean) / sd
    points = [edge] if -9 < edge < 9 else None
    return integrate.quad(improvement, -9, 9, points=points, epsabs=1e-16, limit=200)[0] - max(0.0, -(mean + adopt))


@settings(max_examples=60, deadline=None)
@given(MEAN, VARIANCE)
def test_the_gain_is_the_expected_improvement_of_the_choice(mean, v_k):
    assert value.gain(mean, v_k, 0.001) == pytest.approx(by_integral(mean, v_k, 0.001), abs=1e-9)


def test_a_gain_by_hand():
    # m + a = 0: sqrt(v_k) phi(0)
    assert value.gain(-0.001, 4e-6, 0.001) == pytest.approx(0.002 / math.sqrt(2 * math.pi), rel=1e-14)
    # z = -1: sd (phi(1) - Phi(-1))
    assert value.gain(0.001, 4e-6, 0.001) == pytest.approx(0.002 * (0.24197072451914337 - 0.15865525393145707))


@given(VARIANCE, st.floats(1e-8, 1e-4))
def test_the_variance_of_the_mean_and_what_remains_add_up_to_the_prior(v, u):
    _, after = value.posterior(0.0, v, 0.003, u)
    assert value.mean_variance(v, u) + after == pytest.approx(v)
    assert value.more_news(math.inf, u) == pytest.approx(u)


@given(st.integers(1, 20), st.integers(1, 20), st.integers(0, 1), st.floats(1e-8, 1e-5))
def test_further_seeds_tell_what_the_larger_estimate_tells(n_t, n_c, shares, variance):
    before = variance * (1 / n_t + 1 / n_c)
    for k, u in enumerate(value.contrast_news(variance, n_t, n_c, before, shares), 1):
        after = variance * (1 / (n_t + k) + 1 / (n_c + k * shares))
        assert 1 / (1 / before + 1 / u) == pytest.approx(after)


@given(MEAN, VARIANCE, st.floats(1.01, 50))
def test_more_certain_news_and_lower_costs_are_worth_more(mean, variance, factor):
    one = value.worth(option(mean=mean, variance=variance, news=(1e-6,)), 0.001)
    surer = value.worth(option(mean=mean, variance=variance, news=(1e-6 / factor,)), 0.001)
    dearer = value.worth(option(mean=mean, variance=variance, costs=(factor,)), 0.001)
    assert surer.gain >= one.gain
    assert dearer.score == pytest.approx(one.score / factor)


def test_the_best_number_of_steps_is_the_one_with_the_largest_gain_for_its_cost():
    # The first step tells next to nothing, the second nearly all: two steps at twice the cost are worth it.
    two = option(news=(1.0, 1e-9, 1e-9), costs=(1.0, 2.0, 3.0))
    assert value.worth(two, 0.001).k == 2
    assert value.worth(option(news=(1e-9,) * 9, costs=tuple(range(1, 10))), 0.001).k == 1


def test_what_tells_about_two_effects_is_worth_both_gains():
    part = Part(0.0, 4e-6, (1e-6,))
    both = Option("class", (part, part), (1.0,))
    assert value.worth(both, 0.001).gain == pytest.approx(2 * value.worth(option(), 0.001).gain)


def test_what_can_hardly_be_run_is_worth_less():
    assert value.worth(option(feasible=0.25), 0.001).score == pytest.approx(value.worth(option(), 0.001).score / 4)
    assert value.feasible(1.0, 0, 2) == 0.5
    assert value.feasible(1.0, 5, 5) == 1.0
    assert value.feasible(0.5, 0, 0) == 0.5


def test_equal_scores_are_in_the_order_of_their_ids_and_blocked_ones_come_last():
    options = [option("c"), option("b"), option("a", blocked=True), option("d", variance=9e-6)]
    assert [one.id for one, _ in value.ranked(options, 0.001)] == ["d", "b", "c", "a"]


def test_the_seed_rule_takes_the_largest_improvement_among_what_is_uncertain():
    assert value.seed_rule([("a", -0.001, True), ("b", -0.009, False), ("c", -0.002, True)]) == {"c": 1, "a": 2}


def test_what_is_known_for_certain_is_worth_nothing():
    assert value.gain(0.0, 0.0, 0.0) == 0.0
    assert value.worth(option(variance=0.0), 0.001).score == 0.0
    assert value.worth(option(news=(math.inf,)), 0.001).score == 0.0


@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        (option(costs=(0.0,)), "a cost above 0"),
        (option(mean=math.nan), "expected a finite number"),
        (option(feasible=1.5), "expected 0 to 1"),
        (Option("x", (), (1.0,)), "an effect"),
    ],
)
def test_what_cannot_be_ranked_is_refused_by_its_name(wrong, why):
    with pytest.raises(UsageError, match=why):
        value.worth(wrong, 0.001)

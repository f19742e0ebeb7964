"""Laws of single functions: monotone where more must not be less, equivariant, and strict about their input."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ledger.errors import UsageError
from projections.statistics import (
    anytime,
    classical,
    drift,
    effects,
    failures,
    multiplicity,
    power,
    selection,
    sequential,
    shrinkage,
    transfer,
    variances,
)
from projections.statistics.effects import Counts

P = st.floats(1e-9, 1.0)
SAMPLE = st.lists(st.floats(-1, 1), min_size=2, max_size=8)
NAN, INF = math.nan, math.inf


@given(st.lists(P, min_size=1, max_size=12), st.randoms(use_true_random=False))
def test_corrections_follow_their_hypotheses_in_any_order(p, shuffled):
    order = list(range(len(p)))
    shuffled.shuffle(order)
    for method in (multiplicity.holm, multiplicity.benjamini_hochberg, multiplicity.benjamini_yekutieli):
        assert method([p[i] for i in order]) == [method(p)[i] for i in order]


@given(st.lists(P, min_size=1, max_size=12), st.integers(0, 11), st.floats(0, 1))
def test_a_smaller_p_never_has_a_larger_correction(p, index, factor):
    smaller = list(p)
    smaller[index % len(p)] *= factor
    for method in (multiplicity.holm, multiplicity.benjamini_hochberg, multiplicity.benjamini_yekutieli):
        assert all(b <= a + 1e-15 for a, b in zip(method(p), method(smaller), strict=True))
    assert all(
        bh <= h + 1e-15 for bh, h in zip(multiplicity.benjamini_hochberg(p), multiplicity.holm(p), strict=True)
    )


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=12))
def test_e_bh_is_benjamini_hochberg_on_inverted_e_values(e):
    p = [min(1.0, 1 / x) if x > 0 else 1.0 for x in e]
    near = [abs(q - 0.05) < 1e-9 for q in multiplicity.benjamini_hochberg(p)]
    if not any(near):
        assert multiplicity.e_bh(e, 0.05) == [q <= 0.05 for q in multiplicity.benjamini_hochberg(p)]


@given(st.floats(0, 12), st.floats(0, 3), st.sampled_from([1, 2, 9, 22, INF]), st.sampled_from([0.05, 0.05 / 24]))
def test_power_grows_with_the_effect_the_seeds_and_alpha(theta, more, df, alpha):
    assert power.power(theta + more, df, alpha) >= power.power(theta, df, alpha) - 1e-12
    assert power.power(theta, 2 * df, alpha) >= power.power(theta, df, alpha) - 1e-9
    assert power.power(theta, df, 2 * alpha) >= power.power(theta, df, alpha)
    assert power.power(-theta, df, alpha) == pytest.approx(power.power(theta, df, alpha), rel=1e-12)
    assert power.power(0.0, df, alpha) == pytest.approx(alpha, rel=1e-8)


@settings(deadline=None)
@given(st.lists(st.floats(0.05, 1.0), min_size=1, max_size=4, unique=True), st.sampled_from(["obf", "pocock"]))
def test_boundaries_rise_as_alpha_falls_and_never_undercut_the_fixed_test(times, kind):
    times = sorted(times)
    if any(b - a < 0.01 for a, b in itertools.pairwise(times)):
        return
    wide, narrow = sequential.boundaries(times, 0.05, kind), sequential.boundaries(times, 0.01, kind)
    assert all(n.bound > w.bound for w, n in zip(wide, narrow, strict=True))
    assert all(w.bound > 1.9599 for w in wide)
    assert [w.spent for w in wide] == sorted(w.spent for w in wide)
    assert wide[-1].spent <= 0.05 + 1e-12


@given(st.floats(0, 0.01), st.floats(0, 0.01), st.sampled_from([3.0, 22.0, INF]))
def test_e_values_grow_with_the_effect_and_know_no_sign(d, more, df):
    here = float(anytime.log_e(d, 0.0005, 0.002, df))
    assert float(anytime.log_e(d + more, 0.0005, 0.002, df)) >= here - 1e-12
    assert float(anytime.log_e(-d, 0.0005, 0.002, df)) == here


@given(st.lists(st.floats(-3, 3), min_size=1, max_size=6), st.floats(0.1, 10), st.floats(0.1, 100))
def test_the_scale_free_e_value_is_free_of_scale(d, g, scale):
    if max(abs(x) for x in d) > 1e-3:
        scaled = anytime.scale_free_e([x * scale for x in d], g)
        assert scaled == pytest.approx(anytime.scale_free_e(d, g), rel=1e-8)


def test_an_e_value_has_mean_one_without_effect():
    """And its running maximum exceeds 1 / alpha in at most alpha of the runs, looked at after every seed."""
    rng = np.random.default_rng(8)
    d = np.cumsum(rng.normal(0, 0.001, (4000, 30)), axis=1) / np.arange(1, 31)
    e = anytime.e_value(d, 0.001 / np.sqrt(np.arange(1, 31)), 0.001)
    assert np.mean(e[:, 0]) == pytest.approx(1.0, abs=0.1)
    assert np.mean(e.max(axis=1) >= 20) <= 0.05


@given(SAMPLE, SAMPLE, st.floats(0.01, 100), st.floats(-5, 5))
def test_welch_is_equivariant(a, b, scale, shift):
    here = classical.welch(a, b)
    if here.se < 1e-6:
        return
    there = classical.welch([scale * x + shift for x in a], [scale * x + shift for x in b])
    assert there.t == pytest.approx(here.t, rel=1e-5, abs=1e-7)
    assert there.effect == pytest.approx(scale * here.effect, rel=1e-6, abs=1e-8)
    assert classical.welch(b, a).p == pytest.approx(here.p, rel=1e-9)


@given(st.integers(1, 6), st.integers(0, 6), st.integers(0, 12), st.floats(0, 0.99))
def test_more_seeds_never_widen_and_weights_add_up(same, only, other, rho):
    counts = Counts(same, only, other)
    w = effects.weights(counts, rho)
    assert same * w.t_same + only * w.t_only == pytest.approx(1.0, rel=1e-9)
    assert same * w.c_same + other * w.c_only == pytest.approx(-1.0, rel=1e-9)
    here = effects.contrast_variance(counts, rho, 1.0, 1.0)
    for more in (Counts(same + 1, only, other), Counts(same, only + 1, other), Counts(same, only, other + 1)):
        assert effects.contrast_variance(more, rho, 1.0, 1.0) <= here + 1e-12
    assert effects.contrast_variance(counts, min(0.999, rho + 0.1), 1.0, 1.0) <= here + 1e-9


@given(st.lists(st.tuples(st.floats(1e-8, 1e-2), st.integers(1, 9)), min_size=5, max_size=30), st.floats(0.1, 1e4))
def test_the_prior_scales_and_keeps_its_cap(arms, scale):
    values, df = [v for v, _ in arms], [float(k) for _, k in arms]
    here, there = variances.fit_prior(values, df), variances.fit_prior([v * scale for v in values], df)
    assert 0 < here.d0 <= variances.CAP
    assert there.s0_squared == pytest.approx(here.s0_squared * scale, rel=1e-6)
    for value, k in arms:
        found = variances.squeeze(value, k, here)
        assert min(value, here.s0_squared) * (1 - 1e-9) <= found.variance <= max(value, here.s0_squared) * (1 + 1e-9)
        assert found.df <= here.df


@given(st.lists(st.floats(-0.01, 0.01), min_size=1, max_size=20))
def test_shrinkage_pulls_towards_zero_and_keeps_the_sign(d):
    found = shrinkage.shrink(d, [0.0005] * len(d), [22.0] * len(d), 0.002)
    assert np.all(np.abs(found.mean) <= np.abs(d) + 1e-15)
    assert np.all(found.mean * np.array(d) >= 0)
    assert np.all((found.lfsr >= 0) & (found.lfsr <= 1 + 1e-12))


def test_the_largest_of_many_nulls_is_shrunk_most():
    d = np.random.default_rng(0).normal(0, 0.00044, 24)
    found = shrinkage.shrink(d, [0.00044] * 24, [22.0] * 24, 0.002)
    assert np.max(np.abs(found.mean)) < 0.5 * np.max(np.abs(d))


@given(st.integers(0, 6), st.integers(0, 6), st.integers(0, 6), st.integers(0, 6))
def test_fisher_does_not_care_which_side_is_called_treatment(a, b, c, d):
    here, there = failures.fisher(a, a + b, c, c + d), failures.fisher(c, c + d, a, a + b)
    assert (here.p, here.mid_p) == pytest.approx((there.p, there.mid_p), rel=1e-9)
    assert here.mid_p <= here.p


@pytest.mark.parametrize(
    ("planned", "survived", "name"),
    [
        (3, 3, "complete"),
        (3, 2, "reduced_power"),
        (3, 1, "failed"),
        (1, 0, "failed"),
        (8, 4, "reduced_power"),
        (8, 3, "failed"),
    ],
)
def test_conditions_by_what_survived(planned, survived, name):
    assert failures.condition(planned, survived) == name


# ── degenerate and refused ──


def test_without_spread_tests_have_defined_results():
    assert classical.one_sample([1.0, 1.0], 1.0).p == 1.0
    assert classical.one_sample([1.0, 1.0], 0.5).p == 0.0
    assert classical.one_sample([1.0, 1.0], 0.5, "less").p == 1.0
    assert classical.one_sample([1.0]) is None
    assert classical.welch([1.0], [1.0, 2.0]) is None
    assert classical.equivalence(0.0, 0.0, 0.0, 0.1).p == 0.0
    assert classical.equivalence(0.2, 0.0, 0.0, 0.1).p == 1.0
    assert float(anytime.e_value(0.0, 0.0, 1.0)) == 1.0
    assert float(anytime.e_value(0.1, 0.0, 1.0)) == pytest.approx(1e300)
    assert drift.drift([1.0, 1.0, 1.0], [0, 1, 2], ["a", "a", "b"]).flagged is False
    assert drift.drift([], [], []).p_slope is None
    assert variances.fit_prior([0.0] * 6, [2.0] * 6) is None
    assert variances.fit_prior([1.0] * 4, [2.0] * 4) is None
    assert variances.fit_prior([0.0, 1.0, 1.1, 0.9, 1.2, 1.0], [2.0] * 6).floored == 1
    assert power.power(3.0, 0, 0.05) == 0.0
    assert power.smallest_effect(0, 0.05) == INF
    assert multiplicity.holm([]) == []
    assert effects.same_seed_correlation([]).rho == 0.0
    assert effects.same_seed_correlation([[{0: 1.0, 1: 2.0}, {0: 1.5, 1: 2.5}]]).low == 0.0


def test_a_floor_keeps_rounded_scores_from_pretending_to_be_exact():
    floor = variances.rounding_variance(1e-4)
    prior = variances.fit_prior([0.0, 1e-9, 2e-9, 1.5e-9, 1e-9], [2.0] * 5, floor=floor)
    assert prior.floored == 1
    assert floor == pytest.approx(1e-8 / 12, rel=1e-12)


@pytest.mark.parametrize("bad", [NAN, INF, -INF])
@pytest.mark.parametrize(
    "call",
    [
        lambda x: classical.paired([1.0, x], [1.0, 2.0]),
        lambda x: classical.welch([1.0, x], [1.0, 2.0]),
        lambda x: classical.one_sample([1.0, x]),
        lambda x: classical.known_sd([1.0, x], 3.28, 0.1),
        lambda x: classical.bootstrap_mean([1.0, x], 1),
        lambda x: classical.equivalence(x, 1.0, 3.0, 0.1),
        lambda x: anytime.e_value(x, 1.0, 1.0),
        lambda x: anytime.half_width(x, 1.0, 0.05),
        lambda x: anytime.scale_free_e([1.0, x]),
        lambda x: shrinkage.shrink([x], [1.0], [9.0], 1.0),
        lambda x: variances.fit_prior([x, 1.0, 1.0, 1.0, 1.0], [2.0] * 5),
        lambda x: multiplicity.holm([0.1, x]),
        lambda x: multiplicity.lord([0.1, x]),
        lambda x: power.power(x, 3, 0.05),
        lambda x: sequential.boundaries([0.5, x], 0.05),
        lambda x: sequential.spent("pocock", 0.05, x),
        lambda x: transfer.transfer([1.0, 2.0, x], [1.0] * 3, [1.0] * 3, [1.0] * 3),
        lambda x: drift.drift([1.0, x], [0, 1], ["a", "a"]),
        lambda x: multiplicity.cycle_alpha(x, 1),
    ],
)
def test_what_is_no_number_is_refused_in_one_line(call, bad):
    with pytest.raises(UsageError) as caught:
        call(bad)
    assert "\n" not in str(caught.value)


def test_independent_e_values_multiply_and_dependent_ones_average():
    assert anytime.multiply([4.0, 5.0]) == pytest.approx(20.0, rel=1e-12)
    assert anytime.multiply([4.0, 0.0]) == 0.0
    assert anytime.multiply([1e300, 1e300]) == pytest.approx(1e300)
    assert anytime.average([4.0, 0.5]) == 2.25


def test_the_proxy_predicts_what_the_target_has_not_seen():
    x = [-0.004, -0.002, 0.001, 0.003, 0.005, -0.001, 0.002, -0.003]
    exact, blurred = (0.004, 1e-5), (0.004, 0.004)
    found = transfer.transfer(x, [1e-5] * 8, [0.6 * v for v in x], [1e-5] * 8, new=[exact, blurred])
    assert found.b == pytest.approx(0.6, abs=0.05)
    assert found.low < 0.6 < found.high
    assert found.signs.share == 1.0
    assert found.predictions[0].mean == pytest.approx(0.0024, rel=0.05)
    assert 0 < found.predictions[1].mean < found.predictions[0].mean  # a noisy proxy tells less
    assert found.predictions[1].sd > found.predictions[0].sd


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: transfer.transfer([1.0, 2.0], [1.0] * 2, [1.0] * 2, [1.0] * 2), "transfer needs 3 interventions"),
        (lambda: transfer.transfer([1.0] * 3, [0.0] * 3, [1.0] * 3, [1.0] * 3), "a standard error is 0 or negative"),
        (lambda: transfer.deming([1.0], [1.0], 1.0), "two points or more"),
        (lambda: transfer.deming([1.0, 1.0], [1.0, 2.0], 1.0), "no slope is defined"),
        (lambda: sequential.boundaries([0.5, 0.5], 0.05), "expected rising shares"),
        (lambda: sequential.boundaries([0.5, 1.5], 0.05), "expected rising shares"),
        (lambda: sequential.spent("haybittle", 0.05, 0.5), "no spending function haybittle"),
        (lambda: failures.fisher(3, 2, 0, 1), "expected 0 to all of the runs"),
        (lambda: multiplicity.lord([0.1, 0.2], gamma=[0.5]), "gamma has 1 values"),
        (lambda: multiplicity.e_bh([-1.0], 0.05), "an e-value is negative"),
        (lambda: variances.fit_prior([-1.0] * 5, [2.0] * 5), "variances must not be negative"),
        (lambda: classical.paired([1.0], [1.0, 2.0]), "found 1 and 2"),
        (lambda: anytime.e_value(0.1, -1.0, 1.0), "standard errors of 0 or more"),
        (lambda: drift.drift([1.0], [], []), "a run chart needs a place"),
        (lambda: classical.bootstrap_mean([], 1), "at least one value"),
        (lambda: selection.best_of(3, 2), "the best 3 of 2 seeds"),
    ],
)
def test_a_refusal_says_what_was_expected(call, words):
    with pytest.raises(UsageError, match=words):
        call()


def test_nothing_spent_bounds_nothing():
    first, last = sequential.boundaries([0.0005, 1.0], 1e-6, "obf")
    assert first.bound == INF
    assert first.nominal_p == 0.0
    assert sequential.multiplier(first.bound, 9) == INF
    assert last.nominal_p == pytest.approx(1e-6, rel=1e-6)


@given(
    st.floats(1e-5, 1e-1),
    st.floats(1e-5, 1e-1),
    st.floats(1e-6, 0.5),
    st.one_of(st.just(math.inf), st.floats(0.5, 500)),
)
def test_the_bound_of_one_t_is_that_of_the_confidence_sequence(se, tau, alpha, df):
    one, many = anytime.t_bound(se, tau, alpha, df), float(anytime.half_width(se, tau, alpha, df)) / se
    assert one == pytest.approx(many, rel=1e-9)
    if math.isfinite(one):
        assert float(anytime.e_value(one * se, se, tau, df)) == pytest.approx(1 / alpha, rel=1e-6)

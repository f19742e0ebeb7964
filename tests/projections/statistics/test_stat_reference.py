"""The statistics against scipy, statsmodels, other implementations and published tables.

Relative 1e-8 unless a source prints fewer digits.
"""

import itertools
import math

import numpy as np
import pytest
import statsmodels.api as sm
from scipy import integrate, optimize, special
from scipy import stats as reference
from statsmodels.stats import multitest, proportion, weightstats

from projections.statistics import (
    anytime,
    classical,
    distributions,
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
from projections.statistics.variances import own_spread

exactly = {"rel": 1e-8, "abs": 1e-300}

# Student's sleep data, as R ships it: extra hours of sleep with two drugs on the same ten people.
SLEEP = ([0.7, -1.6, -0.2, -1.2, -0.1, 3.4, 3.7, 0.8, 0.0, 2.0], [1.9, 0.8, 1.1, 0.1, -0.1, 4.4, 5.5, 1.6, 4.6, 3.4])
SAMPLES = [np.random.default_rng(seed).normal(1.08, 0.0007, (2, n)) for seed, n in enumerate((2, 3, 5, 8, 20))]
SIDES = ("two-sided", "greater", "less")


# ── classical tests ──


def test_the_paired_t_test_of_r_on_sleep():
    test = classical.paired(*SLEEP)
    assert (test.t, test.p) == pytest.approx((-4.062127683, 0.002832890), rel=1e-7)
    assert test.df == 9
    assert (test.low, test.high) == pytest.approx((-2.459885763, -0.700114237), rel=1e-8)


def test_two_one_sided_tests_on_sleep():
    test = classical.paired(*SLEEP)
    found = classical.equivalence(test.effect, test.se, test.df, 3.0)
    assert (found.t_low, found.p_low) == pytest.approx((3.650772981, 0.002655570), rel=1e-6)
    assert (found.t_high, found.p_high) == pytest.approx((-11.77502835, 4.52269e-7), rel=1e-6)
    assert found.p == found.p_low
    narrow = classical.t_test(test.effect, test.se, test.df, level=0.9)
    assert (narrow.low, narrow.high) == pytest.approx((-2.293005, -0.866995), rel=1e-6)


@pytest.mark.parametrize(("sample", "side"), list(itertools.product(SAMPLES, SIDES)))
def test_classical_tests_are_scipys(sample, side):
    a, b = sample
    for mine, theirs in (
        (classical.paired(a, b, side), reference.ttest_rel(a, b, alternative=side)),
        (classical.welch(a, b, side), reference.ttest_ind(a, b, equal_var=False, alternative=side)),
        (classical.one_sample(a, 1.0805, side), reference.ttest_1samp(a, 1.0805, alternative=side)),
    ):
        assert (mine.t, mine.df, mine.p) == pytest.approx((theirs.statistic, theirs.df, theirs.pvalue), **exactly)
        if side == "two-sided":
            interval = theirs.confidence_interval()
            target = 1.0805 if math.isclose(mine.effect, np.mean(a) - 1.0805) else 0.0
            assert (mine.low, mine.high) == pytest.approx((interval.low - target, interval.high - target), rel=1e-7)


@pytest.mark.parametrize("sample", SAMPLES)
def test_equivalence_is_statsmodels(sample):
    a, b = sample
    test = classical.paired(a, b)
    found = classical.equivalence(test.effect, test.se, test.df, 0.001)
    p, low, high = weightstats.ttost_paired(a, b, -0.001, 0.001)
    assert (found.p, found.p_low, found.p_high) == pytest.approx((p, low[1], high[1]), **exactly)


def test_welch_with_a_margin_is_welch_of_shifted_values():
    a, b = SAMPLES[2]
    found = classical.welch(a, b, "less", -0.0005)
    theirs = reference.ttest_ind(a + 0.0005, b, equal_var=False, alternative="less")
    assert found.p == pytest.approx(theirs.pvalue, rel=1e-8)


def test_known_sd_is_the_z_test():
    found = classical.known_sd([3.2785, 3.2790, 3.2772, 3.2781], 3.28, 0.0013)
    assert found.statistic == pytest.approx((3.28 - 3.2782) * 2, rel=1e-8)
    assert found.p == pytest.approx(reference.norm.sf(0.0036 / 0.0013), rel=1e-8)


@pytest.mark.parametrize("n", [1, 2, 3, 5, 7, 13])
def test_the_bootstrap_draws_what_numpy_draws(n):
    values = np.random.default_rng(n).normal(size=n)
    drawn = values[np.random.default_rng(42).integers(0, n, (10_000, n))].mean(axis=1)
    assert classical.bootstrap_mean(values, 42) == pytest.approx(tuple(np.percentile(drawn, [2.5, 97.5])), **exactly)


@pytest.mark.parametrize(
    ("tail", "df"), [(1e-12, 2), (0.05 / 48, 2), (0.001, 4.7), (0.025, 1), (0.2, 30), (1e-6, math.inf), (0.05, 22)]
)
def test_t_bounds_are_scipys_quantiles(tail, df):
    assert float(distributions.t_bound(tail, df)) == pytest.approx(reference.t.isf(tail, df), rel=1e-8)
    assert float(distributions.t_upper(distributions.t_bound(tail, df), df)) == pytest.approx(tail, rel=1e-8)


# ── power ──

# by mpmath: the same expectation over the chi density, adaptive quadrature with 25 digits
POWERS = [
    (2, 2, 0.05, 2, 0.218307074846783),
    (5.5, 2, 0.05 / 24, 2, 0.0629706680482624),
    (27.8, 2, 0.05 / 24, 2, 0.800210640448832),
    (3, 4, 0.05, 2, 0.61926145940233),
    (3.5, 9, 0.05, 2, 0.874760914740945),
    (4, 22, 0.05 / 24, 2, 0.688153058954055),
    (4.5, 60, 0.05 / 24, 2, 0.89304987194708),
    (1.5, 3, 0.05, 1, 0.318089871414964),
    (13, 3, 0.01, 2, 0.996850872384054),
    (2.8, 40, 0.05, 1, 0.865914108737538),
    (23.16 * math.sqrt(3), 2, 0.001, 2, 0.799982961174134),
    (0.5, 7, 0.1, 2, 0.134591996391996),
]


@pytest.mark.parametrize(("theta", "df", "alpha", "sides", "expected"), POWERS)
def test_power_is_the_noncentral_t(theta, df, alpha, sides, expected):
    assert power.power(theta, df, alpha, sides) == pytest.approx(expected, rel=1e-8)


def test_power_with_known_variance_is_normal():
    assert power.power(2.5, math.inf, 0.05) == pytest.approx(special.ndtr(2.5 - 1.959963984540054) + 4e-6, abs=4e-6)


@pytest.mark.parametrize(
    ("n", "alpha", "unit"), [(3, 0.05, 3.26404839), (5, 0.05, 1.68199904), (3, 0.05 / 24, 16.0451)]
)
def test_smallest_effects_of_the_design(n, alpha, unit):
    """The design's figures carry the tolerance of R's root finder; the power at ours is 80 % to 1e-9."""
    found = power.smallest_effect(n - 1, alpha)
    assert found / math.sqrt(n) == pytest.approx(unit, rel=1e-5)
    assert power.power(found, n - 1, alpha) == pytest.approx(0.8, rel=1e-9)


@pytest.mark.parametrize(
    ("n", "own", "pooled"),
    [(2, 0.2520, 0.0026), (3, 0.0146, 0.0021), (4, 0.0057, 0.0019), (5, 0.0036, 0.0017), (8, 0.0019, 0.0013)],
)
def test_the_designs_table_of_smallest_effects(n, own, pooled):
    sd = 0.0007 * math.sqrt(2 * (1 - 0.15))
    assert sd / math.sqrt(n) * power.smallest_effect(n - 1, 0.05 / 24) == pytest.approx(own, rel=0.015)
    assert sd / math.sqrt(n) * power.smallest_effect(60, 0.05 / 24) == pytest.approx(pooled, rel=0.03)


def test_pairs_needed():
    needed = power.paired_seeds(1.0, 1.0, 0.05)
    assert needed == 10  # R: power.t.test(delta = 1, power = .8, type = "paired") gives n = 9.94
    assert power.paired_seeds(1e-9, 1.0, 0.05) is None


# ── variances ──


def test_limmas_prior_when_variances_agree():
    prior = variances.fit_prior([1.44, 0.09, 0.64, 0.25, 2.56, 0.49, 0.16, 0.81], [2] * 8, cap=math.inf)
    assert prior.d0 == math.inf
    assert variances.squeeze(0.09, 2, prior).variance == pytest.approx(0.805, rel=1e-12)
    capped = variances.fit_prior([1.44, 0.09, 0.64, 0.25, 2.56, 0.49, 0.16, 0.81], [2] * 8)
    assert (capped.d0, capped.capped) == (20.0, True)
    squeezed = variances.squeeze(0.09, 2, capped)
    assert squeezed.variance == pytest.approx((20 * 0.805 + 2 * 0.09) / 22, rel=1e-12)
    assert squeezed.df == 16  # never more than all variances have together, as in limma's eBayes


@pytest.mark.parametrize("seed", range(4))
def test_limmas_prior_solved_another_way(seed):
    rng = np.random.default_rng(seed)
    df = rng.integers(2, 9, 40)
    s2 = 0.3 * 4 / rng.chisquare(4, 40) * rng.chisquare(df) / df
    prior = variances.fit_prior(s2.tolist(), df.tolist(), cap=math.inf)
    e = np.log(s2) - special.digamma(df / 2) + np.log(df / 2)
    excess = np.var(e, ddof=1) - np.mean(special.polygamma(1, df / 2))
    d0 = 2 * optimize.brentq(lambda y: special.polygamma(1, y) - excess, 1e-3, 1e4, xtol=1e-14, rtol=1e-14)
    assert prior.d0 == pytest.approx(d0, rel=1e-8)
    assert prior.s0_squared == pytest.approx(
        math.exp(np.mean(e) + special.digamma(d0 / 2) - math.log(d0 / 2)), rel=1e-8
    )


@pytest.mark.parametrize("x", [1e-8, 1e-5, 0.01, 0.5, 1.0, 4.934802200544679, 100.0, 1e5, 1e8])
def test_trigamma_inverse(x):
    assert float(special.polygamma(1, variances.trigamma_inverse(x))) == pytest.approx(
        x, rel=1e-3 if x > 1e7 else 1e-5
    )
    if 1e-6 <= x <= 1e7:
        assert float(special.polygamma(1, variances.trigamma_inverse(x))) == pytest.approx(x, rel=1e-9)


# ── effects ──


def test_the_designs_weights():
    counts = Counts(3, 0, 12)
    assert -effects.weights(counts, 0.15).c_same * 3 == pytest.approx(0.32, rel=1e-12)
    assert effects.contrast_variance(counts, 0.15, 1.0, 1.0) == pytest.approx(0.374, rel=1e-12)


@pytest.mark.parametrize("rho", [0.0, 0.15, 0.5, 0.94])
@pytest.mark.parametrize(
    ("t_seeds", "c_seeds"), [(range(3), range(15)), (range(2, 7), range(4)), ([1, 5], [5, 8, 9])]
)
def test_effects_are_statsmodels_generalised_least_squares(rho, t_seeds, c_seeds):
    rng = np.random.default_rng(7)
    treatment = {s: float(rng.normal()) for s in t_seeds}
    control = {s: float(rng.normal()) for s in c_seeds}
    cells = [("t", s) for s in treatment] + [("c", s) for s in control]
    sigma = [[1.0 if a == b else rho if a[1] == b[1] else 0.0 for b in cells] for a in cells]
    design = [[1.0, float(arm == "t")] for arm, _ in cells]
    fit = sm.GLS([*treatment.values(), *control.values()], design, sigma=np.array(sigma)).fit(cov_type="fixed scale")
    found = effects.estimate(treatment, control, rho, own_spread(1.0, 9), own_spread(1.0, 9))
    assert (found.d, found.se) == pytest.approx((fit.params[1], fit.bse[1]), rel=1e-8)


def test_without_correlation_and_prior_it_is_welch():
    a, b = SAMPLES[3]
    spreads = [own_spread(*effects.own_variance(list(y))) for y in (a, b)]
    found = effects.estimate(dict(enumerate(a)), dict(enumerate(b)), 0.0, *spreads)
    theirs = reference.ttest_ind(a, b, equal_var=False)
    assert (found.d / found.se, found.df) == pytest.approx((theirs.statistic, theirs.df), rel=1e-8)


def test_full_correlation_is_the_paired_estimate():
    treatment, control = {0: 1.0, 1: 2.0, 7: 50.0}, {0: 0.5, 1: 1.1, 2: 9.0}
    found = effects.estimate(treatment, control, 1.0, own_spread(1.0, 9), own_spread(1.0, 9))
    assert found.d == pytest.approx(np.mean([0.5, 0.9]), rel=1e-12)
    assert found.b == pytest.approx(1.0)


def test_covariance_of_effects_is_that_of_their_contrasts():
    rng = np.random.default_rng(3)
    arms, control, rho = [range(3), range(1, 4), range(6)], range(8), 0.4
    v = [1.3, 0.7, 2.0]
    index = {(a, s): i for i, (a, s) in enumerate([(a, s) for a, ss in enumerate([*arms, control]) for s in ss])}
    scale = np.sqrt([*v, 0.9])
    sigma = np.array(
        [
            [scale[a] * scale[b] * (1.0 if (a, s) == (b, u) else rho if s == u else 0.0) for b, u in index]
            for a, s in index
        ]
    )
    contrasts = np.zeros((3, len(index)))
    for a, seeds in enumerate(arms):
        w = effects.weights(effects.count(dict.fromkeys(seeds, 0.0), dict.fromkeys(control, 0.0)), rho)
        for s in seeds:
            contrasts[a, index[a, s]] = w.t_same if s in control else w.t_only
        for s in control:
            contrasts[a, index[3, s]] = w.c_same if s in seeds else w.c_only
    found = effects.covariance(
        [dict.fromkeys(seeds, rng.normal()) for seeds in arms], dict.fromkeys(control, 0.0), rho, v, 0.9
    )
    assert found == pytest.approx(contrasts @ sigma @ contrasts.T, rel=1e-10)


def test_two_sizes_of_one_comparison_have_the_canonical_covariance():
    """Cov(d_m, d_n) = Var(d_n): what lets sequential boundaries apply to estimates with a bank."""
    for rho in (0.0, 0.15, 0.9):
        small, large = Counts(3, 0, 9), Counts(6, 0, 6)
        w, v = effects.weights(small, rho), effects.weights(large, rho)
        t = [(w.t_same if s < 3 else 0.0, v.t_same if s < 6 else 0.0) for s in range(12)]
        c = [(w.c_same if s < 3 else w.c_only, v.c_same if s < 6 else v.c_only) for s in range(12)]
        both = sum(a[0] * b[1] for a, b in zip(t, t, strict=True)) + sum(a[0] * a[1] for a in c)
        both += rho * sum(x[0] * y[1] + y[0] * x[1] for x, y in zip(t, c, strict=True))
        assert both == pytest.approx(effects.contrast_variance(large, rho, 1.0, 1.0), rel=1e-10)


def test_same_seed_correlation_is_the_intraclass_correlation():
    """Shrout and Fleiss 1979: six targets, four judges, ICC(3,1) = .71."""
    ratings = [[9, 2, 5, 8], [6, 1, 3, 2], [8, 4, 6, 8], [7, 1, 2, 6], [10, 5, 6, 9], [6, 2, 4, 7]]
    judges = [{target: float(row[j]) for target, row in enumerate(ratings)} for j in range(4)]
    found = effects.same_seed_correlation([judges], level=0.975)
    assert found.rho == pytest.approx(0.7148407148407148, rel=1e-8)
    assert found.low == pytest.approx(0.3424648, rel=1e-6)  # R psych::ICC, lower bound of the 95 % interval


# ── multiplicity ──

P_LISTS = [
    [0.01, 0.04, 0.03, 0.005],
    [0.001, 0.001, 0.2, 0.9, 0.04],
    [0.5],
    sorted(np.random.default_rng(1).uniform(0, 0.2, 24).tolist()),
    np.random.default_rng(2).uniform(0, 1, 60).tolist(),
]


@pytest.mark.parametrize("p", P_LISTS, ids=len)
def test_corrections_are_statsmodels(p):
    for mine, method in (
        (multiplicity.holm, "holm"),
        (multiplicity.benjamini_hochberg, "fdr_bh"),
        (multiplicity.benjamini_yekutieli, "fdr_by"),
    ):
        assert mine(p) == pytest.approx(multitest.multipletests(p, method=method)[1].tolist(), **exactly)


def test_corrections_of_r():
    p = [0.01, 0.04, 0.03, 0.005]
    assert multiplicity.holm(p) == pytest.approx([0.03, 0.06, 0.06, 0.02], rel=1e-12)
    assert multiplicity.benjamini_hochberg(p) == pytest.approx([0.02, 0.04, 0.04, 0.02], rel=1e-12)
    assert multiplicity.benjamini_yekutieli(p) == pytest.approx([1 / 24, 1 / 12, 1 / 12, 1 / 24], rel=1e-12)


def test_missing_hypotheses_count_as_p_one():
    p = [0.01, 0.04]
    for method in (multiplicity.holm, multiplicity.benjamini_hochberg, multiplicity.benjamini_yekutieli):
        assert method(p, 5) == pytest.approx(method([*p, 1.0, 1.0, 1.0])[:2], rel=1e-12)


def test_lord_by_hand():
    found = multiplicity.lord([0.001, 0.02, 0.004, 0.3], 0.1, 0.05, [0.5, 0.25, 0.125, 0.0625])
    assert [level for level, _ in found] == pytest.approx([0.025, 0.0375, 0.06875, 0.084375], rel=1e-12)
    assert [rejected for _, rejected in found] == [True, True, True, False]


def test_lord_is_online_fdrs():
    """online-fdr 1.0.0, LordPlusPlus(alpha=0.05, wealth=0.005), which equals R's onlineFDR."""
    p = [1e-5, 0.3, 0.0004, 0.02, 0.0009, 0.6, 0.00002, 0.04, 0.0002, 0.11]
    levels = [
        0.0002675838545630043, 0.0024664457199817477, 0.000573281754204682, 0.003163119021675612,
        0.000987816910347357, 0.0035161921239820625, 0.0012927533285633135, 0.0037840080878135487,
        0.001531325496658387, 0.003999013128909082,
    ]  # fmt: skip
    found = multiplicity.lord(p, 0.05)
    assert [level for level, _ in found] == pytest.approx(levels, rel=1e-10)
    assert [rejected for _, rejected in found] == [i % 2 == 0 for i in range(10)]


def test_e_bh_of_the_design():
    assert multiplicity.e_bh([120, 55, 40, 3, 0.2], 0.05) == [True, True, True, False, False]


def test_cycles_add_up_to_alpha():
    assert math.fsum(multiplicity.cycle_alpha(0.05, c) for c in range(1, 1001)) == pytest.approx(0.05 * 1000 / 1001)


# ── looks ──

# Lan and DeMets 1983, alpha .05 two-sided; Reboussin et al. 2000, gsDesign's manual
BOUNDS = [
    ("obf", [2.9626, 1.9686]),
    ("obf", [3.7103, 2.5114, 1.9930]),
    ("obf", [4.3326, 2.9631, 2.3590, 2.0141]),
    ("obf", [4.8769, 3.3570, 2.6803, 2.2898, 2.0310]),
    ("pocock", [2.1570, 2.2010]),
    ("pocock", [2.2792, 2.2947, 2.2958]),
    ("pocock", [2.3682, 2.3675, 2.3580, 2.3502]),
    ("pocock", [2.4380, 2.4268, 2.4101, 2.3966, 2.3859]),
]


@pytest.mark.parametrize(("kind", "bounds"), BOUNDS)
def test_published_boundaries(kind, bounds):
    looks = [k / len(bounds) for k in range(1, len(bounds) + 1)]
    assert [b.bound for b in sequential.boundaries(looks, 0.05, kind)] == pytest.approx(
        bounds, abs=3e-4 if kind == "pocock" else 6e-5
    )


@pytest.mark.parametrize("kind", ["obf", "pocock"])
@pytest.mark.parametrize("times", [[0.25, 1.0], [0.6, 0.9], [0.5, 0.75, 1.0]])
def test_boundaries_spend_what_they_should_by_another_integration(kind, times):
    """Inside all bounds: scipy's multivariate normal, or iterated adaptive quadrature."""
    found = sequential.boundaries(times, 0.05 / 8, kind)
    inside = _inside([b.bound for b in found], times)
    assert 1 - inside == pytest.approx(sequential.spent(kind, 0.05 / 8, times[-1]), rel=1e-7)


def _inside(bounds, times):
    """P(|Z_k| < c_k for all k) by nested adaptive quadrature over independent increments."""

    def from_look(k, at):
        step = math.sqrt(times[k] - (times[k - 1] if k else 0.0))
        edge = bounds[k] * math.sqrt(times[k])
        if k == len(times) - 1:
            return special.ndtr((edge - at) / step) - special.ndtr((-edge - at) / step)
        return integrate.quad(
            lambda x: math.exp(-0.5 * ((x - at) / step) ** 2) / step / math.sqrt(2 * math.pi) * from_look(k + 1, x),
            -edge, edge, epsabs=1e-11, epsrel=1e-10, limit=200,
        )[0]  # fmt: skip

    return from_look(0, 0.0)


def test_looks_that_lie_close_together_are_integrated_as_well():
    times = [0.5, 0.502, 1.0]
    found = sequential.boundaries(times, 0.05, "pocock")
    assert 1 - _inside([b.bound for b in found], times) == pytest.approx(0.05, rel=1e-6)


@pytest.mark.parametrize(
    ("kind", "t", "spent"), [("pocock", 0.5, 0.0310057), ("obf", 0.5, 0.00305), ("pocock", 1.0, 0.05)]
)
def test_spending_functions(kind, t, spent):
    assert sequential.spent(kind, 0.05, t) == pytest.approx(spent, rel=1e-3)


def test_one_look_is_the_fixed_test():
    (only,) = sequential.boundaries([1.0], 0.05, "obf")
    assert only.nominal_p == pytest.approx(0.05, rel=1e-10)
    assert sequential.multiplier(only.bound, 7) == pytest.approx(reference.t.isf(0.025, 7), rel=1e-8)


# ── anytime ──


def test_the_designs_e_values():
    assert float(anytime.e_value(-0.0025, 0.0005, 0.002)) == pytest.approx(31197.686, rel=1e-7)
    assert float(anytime.e_value(-0.0025, 0.0005, 0.002, 60)) == pytest.approx(4760.998, rel=1e-7)


@pytest.mark.parametrize(("d", "se", "tau"), [(0.001, 0.0005, 0.002), (-0.004, 0.0009, 0.001), (0.0, 0.1, 0.3)])
def test_an_e_value_is_the_mixed_likelihood_ratio(d, se, tau):
    ratio = integrate.quad(
        lambda x: reference.norm.pdf(x, 0, tau) * math.exp((x * d - x * x / 2) / se**2),
        -12 * tau, 12 * tau, epsabs=0, epsrel=1e-12, limit=400, points=[d],
    )[0]  # fmt: skip
    assert float(anytime.e_value(d, se, tau)) == pytest.approx(ratio, rel=1e-8)


@pytest.mark.parametrize(("n", "t"), [(3, 2.0), (6, -4.5), (12, 0.3)])
def test_the_t_version_is_the_ratio_of_t_densities_mixed_over_the_scale(n, t):
    """Under effect ~ N(0, r se^2 ratio) t is sqrt(1 + r) times a t variable with n - 1 degrees of freedom."""
    r, df = 16.0, n - 1
    ratio = reference.t.pdf(t, df, scale=math.sqrt(1 + r)) / reference.t.pdf(t, df)
    assert float(anytime.e_value(t, 1.0, 4.0, df)) == pytest.approx(ratio, rel=1e-8)


def test_confidence_sequence_of_confseq():
    """confseq's own test: v = 100, v_opt = 100: rho 12.60056, log mixture at s = 10, bound at .05."""
    tau = math.sqrt(1 / 12.60056)  # a sum of 100 unit-variance terms: d = s / v, se = 1 / sqrt(v)
    assert float(anytime.log_e(0.1, 0.1, tau)) == pytest.approx(-0.6510052, abs=1e-6)
    assert float(anytime.half_width(0.1, tau, 0.05)) * 100 == pytest.approx(30.35209, abs=1e-5)


@pytest.mark.parametrize("df", [4, 9, 60, math.inf])
@pytest.mark.parametrize("alpha", [0.05, 0.1, 0.05 / 24])
def test_a_confidence_sequence_ends_where_the_e_value_rejects(df, alpha):
    half = float(anytime.half_width(0.0004, 0.002, alpha, df))
    if math.isfinite(half):
        assert float(anytime.e_value(half, 0.0004, 0.002, df)) == pytest.approx(1 / alpha, rel=1e-8)
    else:
        assert float(anytime.e_value(1e6, 0.0004, 0.002, df)) < 1 / alpha


@pytest.mark.parametrize("d", [[0.1, 0.3], [-0.2, 0.1, 0.4, -0.3], [2.0, 2.1, 1.9, 2.2, 2.0]])
def test_the_scale_free_e_value_is_a_ratio_of_marginal_likelihoods(d):
    """d ~ N(mu, s^2), mu ~ N(0, g s^2), the right Haar prior on s, over the same with mu = 0."""
    g, n = 1.0, len(d)
    x = np.array(d)
    covariance = np.eye(n) + g
    quadratic = x @ np.linalg.solve(covariance, x)
    ratio = np.linalg.det(covariance) ** -0.5 * (quadratic / (x @ x)) ** (-n / 2)
    assert anytime.scale_free_e(d, g) == pytest.approx(ratio, rel=1e-8)


# ── shrinkage ──


def test_shrinkage_is_a_slow_em_over_the_same_mixture():
    rng = np.random.default_rng(11)
    d = np.concatenate([rng.normal(0, 0.0004, 14), rng.normal(0.0, 0.003, 6)])
    se, df, delta = rng.uniform(0.0003, 0.0005, 20), rng.choice([12.0, 22.0, 40.0], 20), 0.002
    sds = [0.0, *(0.0005 * math.sqrt(2) ** k for k in range(10))]
    wide = [s * reference.t.isf(0.025, v) / reference.norm.isf(0.025) for s, v in zip(se, df, strict=True)]
    like = [[reference.norm.pdf(x, 0, math.hypot(sd, w)) for sd in sds] for x, w in zip(d, wide, strict=True)]
    pi = [1 / 11] * 11
    for _ in range(200):
        post = [[p * x for p, x in zip(pi, row, strict=True)] for row in like]
        share = [[p / math.fsum(row) for p in row] for row in post]
        pi = [(math.fsum(r[k] for r in share) + (2 if k == 0 else 0)) / 22 for k in range(11)]
    found = shrinkage.shrink(d, se, df, delta)
    assert found.pi0[0] == pytest.approx(pi[0], rel=1e-8)
    for i, (x, w) in enumerate(zip(d, wide, strict=True)):
        share = np.array([p * y for p, y in zip(pi, like[i], strict=True)])
        share /= share.sum()
        gain = np.array([sd**2 / (sd**2 + w**2) for sd in sds])
        assert found.mean[i] == pytest.approx(float(share @ (gain * x)), rel=1e-8)
        negative = math.fsum(
            s * reference.norm.cdf(0, g * x, math.sqrt(g) * w) for s, g in zip(share[1:], gain[1:], strict=True)
        )
        assert found.p_negative[i] == pytest.approx(negative, rel=1e-8)
        positive = 1 - share[0] - negative
        assert found.lfsr[i] == pytest.approx(1 - max(negative, positive), rel=1e-8)


def test_families_are_shrunk_each_on_its_own():
    rng = np.random.default_rng(5)
    d, se = rng.normal(0, 0.002, 11), np.full(11, 0.0005)
    both = shrinkage.shrink_families(d, se, [22.0] * 11, [0.002] * 11, [4, 0, 7])
    for part, span in ((shrinkage.shrink(d[:4], se[:4], [22.0] * 4, 0.002), slice(0, 4)),
                       (shrinkage.shrink(d[4:], se[4:], [22.0] * 7, 0.002), slice(4, 11))):  # fmt: skip
        assert both.mean[span].tolist() == part.mean.tolist()
        assert both.lfsr[span].tolist() == part.lfsr.tolist()


# ── failures, drift, transfer ──


@pytest.mark.parametrize(
    "table", [(2, 3, 0, 3), (0, 8, 0, 8), (5, 8, 1, 15), (3, 3, 0, 12), (7, 20, 3, 25), (1, 2, 9, 9)]
)
def test_fisher_is_scipys(table):
    a, n, b, m = table
    rows = [[a, n - a], [b, m - b]]
    found = failures.fisher(a, n, b, m)
    assert found.p == pytest.approx(reference.fisher_exact(rows)[1], rel=1e-8)
    assert found.p_more == pytest.approx(reference.fisher_exact(rows, alternative="greater")[1], rel=1e-8)
    law = reference.hypergeom(n + m, a + b, n)
    mass = law.pmf(np.arange(0, n + 1))
    equal = np.isclose(mass, law.pmf(a), rtol=1e-7)
    assert found.mid_p == pytest.approx(mass[(mass < law.pmf(a)) & ~equal].sum() + 0.5 * mass[equal].sum(), rel=1e-8)


def test_fishers_tea():
    """Fisher 1935: three of four cups right, one-sided p = .2429."""
    assert failures.fisher(3, 4, 1, 4).p_more == pytest.approx(17 / 70, rel=1e-10)


@pytest.mark.parametrize("seed", range(3))
def test_drift_is_scipys_regression_and_anova(seed):
    rng = np.random.default_rng(seed)
    y, order = 1.08 + rng.normal(0, 0.001, 12) + 0.0001 * seed * np.arange(12), rng.permutation(12)
    blocks = [f"b{i // 4}" for i in order]
    found = drift.drift(y, order, blocks)
    line = reference.linregress(order, y)
    assert (found.slope, found.p_slope) == pytest.approx((line.slope, line.pvalue), rel=1e-7)
    groups = [[v for v, b in zip(y, blocks, strict=True) if b == name] for name in ("b0", "b1", "b2")]
    assert found.p_blocks == pytest.approx(reference.f_oneway(*groups).pvalue, rel=1e-7)


@pytest.mark.parametrize(("hits", "n"), [(0, 4), (3, 8), (8, 8), (17, 40)])
def test_wilson_is_statsmodels(hits, n):
    found = transfer.wilson(hits, n)
    low, high = proportion.proportion_confint(hits, n, method="wilson")
    assert (found.low, found.high) == pytest.approx((low, high), rel=1e-8, abs=1e-12)


def test_the_transfer_posterior_is_a_direct_sum_over_the_grid():
    rng = np.random.default_rng(2)
    x, y = rng.normal(0, 0.003, 4), rng.normal(0, 0.002, 4)
    sx, sy = [0.001] * 4, [0.0005] * 4
    found = transfer.transfer(x, sx, y, sy)
    total = b_sum = 0.0
    for b in np.arange(-60, 81) * 0.05:
        for step in np.arange(-4, 5) * 0.5:
            for k in range(8):
                tau2, omega2 = (0.002 * math.exp(step)) ** 2, (0.0005 * k) ** 2
                mass = math.exp(-0.5 * ((b - 0.5) ** 2 + step**2 + omega2 / 0.001**2))
                for i in range(4):
                    sigma = [[tau2 + sx[i] ** 2, b * tau2], [b * tau2, b * b * tau2 + omega2 + sy[i] ** 2]]
                    quadratic = np.array([x[i], y[i]]) @ np.linalg.inv(sigma) @ np.array([x[i], y[i]])
                    mass *= math.exp(-0.5 * quadratic) / math.sqrt(np.linalg.det(sigma)) * 1e-6
                total, b_sum = total + mass, b_sum + mass * b
    assert found.b == pytest.approx(b_sum / total, rel=1e-8)


def test_transfer_finds_the_slope_that_least_squares_attenuates():
    rng = np.random.default_rng(0)
    slopes, ols = [], []
    for _ in range(40):
        theta = rng.normal(0, 0.002, 8)
        x, y = theta + rng.normal(0, 0.00175, 8), 0.6 * theta + rng.normal(0, 0.0003, 8)
        found = transfer.transfer(x, [0.00175] * 8, y, [0.0003] * 8)
        slopes.append(found.low < 0.6 < found.high)
        ols.append(abs(found.b - 0.6) < abs(float(x @ y / (x @ x)) - 0.6))
    assert np.mean(slopes) > 0.85
    assert np.mean(ols) > 0.5


def test_deming_with_equal_errors_is_the_first_principal_axis():
    rng = np.random.default_rng(4)
    x = rng.normal(size=30)
    y = 0.7 * x + rng.normal(0, 0.3, 30)
    axis = np.linalg.eigh(np.cov(x, y))[1][:, -1]
    assert transfer.deming(x, y, 1.0) == pytest.approx(axis[1] / axis[0], rel=1e-8)


# ── selection ──


@pytest.mark.parametrize(("k", "n", "bias"), [(5, 7, -0.42), (3, 5, -0.55), (3, 10, -1.06), (1, 3, -0.85)])
def test_the_bias_of_reporting_the_best_seeds(k, n, bias):
    assert selection.best_of(k, n) == pytest.approx(bias, abs=0.006)


def test_expected_order_statistics_in_closed_form():
    assert selection.best_of(1, 2) == pytest.approx(-1 / math.sqrt(math.pi), rel=1e-10)
    assert selection.best_of(1, 3) == pytest.approx(-1.5 / math.sqrt(math.pi), rel=1e-10)
    assert selection.best_of(1, 5) == pytest.approx(-1.1629644736405197, rel=1e-8)  # Harter 1961
    assert selection.best_of(6, 6) == pytest.approx(0.0, abs=1e-12)

"""The statistics against independent implementations and published values."""

import itertools
import math
import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats as reference

from projections import estimates, stats

# Student's sleep data, as R ships it: extra hours of sleep with two drugs on the same ten people.
SLEEP = ([0.7, -1.6, -0.2, -1.2, -0.1, 3.4, 3.7, 0.8, 0.0, 2.0], [1.9, 0.8, 1.1, 0.1, -0.1, 4.4, 5.5, 1.6, 4.6, 3.4])


def plan(arms, delta=0.01, alpha=0.05):
    return {
        "experiment": "e",
        "control": "c",
        "hypothesis_count": arms,
        "alpha": alpha,
        "delta": delta,
        "look": 1,
        "seed_role": "confirm",
    }


def pairs(control, treatments):
    rows = []
    for name, values in sorted(treatments.items()):
        for seed, (t, c) in enumerate(zip(values, control, strict=True)):
            ok = t is not None and c is not None
            rows.append(
                {"experiment": "e", "intervention": name, "seed": seed, "y_t": t, "y_c": c,
                 "d": t - c if ok else None, "both_ok": ok,
                 "pending": False, "exploratory": False, "failures_t": int(t is None), "failures_c": int(c is None)}
            )  # fmt: skip
    return rows


def one(control, treatment, **options):
    return estimates.estimate_plan(plan(1, **options), pairs(control, {"t": treatment}))[0]


def test_one_treatment_is_the_paired_t_test_of_r():
    row = one(SLEEP[1], SLEEP[0], delta=3.0)
    assert row["t"] == pytest.approx(-4.062127683, rel=1e-9)
    assert row["df"] == 9
    assert row["p"] == pytest.approx(0.002832890, rel=1e-6)
    assert (row["ci95_lo"], row["ci95_hi"]) == pytest.approx((-2.459885763, -0.700114237), rel=1e-8)
    assert (row["ci90_lo"], row["ci90_hi"]) == pytest.approx((-2.293005, -0.866995), rel=1e-6)
    assert row["p_tost"] == pytest.approx(0.002655570, rel=1e-6)


@given(st.lists(st.tuples(st.floats(-1, 1), st.floats(-1, 1)), min_size=3, max_size=12))
def test_one_treatment_is_scipys_paired_t_test(values):
    treatment, control = zip(*values, strict=True)
    d = np.subtract(treatment, control)
    if np.std(d) < 1e-6 * (1 + np.max(np.abs(d))):
        return
    row = one(control, treatment)
    if row["defect"]:
        return
    expected = reference.ttest_rel(treatment, control)
    assert row["t"] == pytest.approx(expected.statistic, rel=1e-7, abs=1e-9)
    assert row["p"] == pytest.approx(expected.pvalue, rel=1e-6)


@pytest.mark.parametrize("seed", range(8))
def test_the_residual_is_that_of_the_two_way_layout_also_with_holes(seed):
    formula = pytest.importorskip("statsmodels.formula.api")
    frame = pytest.importorskip("pandas").DataFrame
    rng = random.Random(seed)
    cells = {(arm, s): rng.gauss(0, 1) for arm in "abcde" for s in range(4)}
    for key in rng.sample(sorted(cells), seed):
        del cells[key]
    counted = {s: sum(1 for _, t in cells if t == s) for s in range(4)}
    kept = {key: y for key, y in cells.items() if counted[key[1]] > 1}
    fit = formula.ols(
        "y ~ C(arm) + C(seed)", frame([(a, s, y) for (a, s), y in kept.items()], columns=["arm", "seed", "y"])
    ).fit()
    assert estimates.residual(cells) == (pytest.approx(fit.ssr, rel=1e-9), fit.df_resid)


def test_parts_that_no_seed_connects_are_fitted_apart():
    cells = {("a", 0): 1.0, ("b", 0): 2.0, ("a", 1): 1.0, ("b", 1): 3.0}
    apart = {("c", 5): 1.0, ("d", 5): 2.0, ("c", 6): 1.0, ("d", 6): 3.0}
    ss, df = estimates.residual(cells)
    assert estimates.residual({**cells, **apart}) == (pytest.approx(2 * ss), 2 * df)


@given(st.permutations(list(itertools.product("abc", range(3)))))
@settings(max_examples=20)
def test_the_order_of_arrival_changes_no_figure(order):
    rng = random.Random(1)
    values = {key: rng.gauss(1, 0.1) for key in itertools.product("abc", range(3))}
    assert estimates.residual({key: values[key] for key in order}) == estimates.residual(values)


def test_a_shared_control_is_counted_once():
    """Under no effect, 5 % of the unadjusted tests reject: averaging the arms' own variances would not hold that."""
    rng = np.random.default_rng(7)
    rejected = tested = 0
    for _ in range(2000):
        y = rng.normal(size=(5, 3)) + 3 * rng.normal(size=3)  # a control and four arms, with strong seed effects
        ss, df = estimates.residual({(str(arm), seed): y[arm, seed] for arm in range(5) for seed in range(3)})
        for arm in range(1, 5):
            effect = float(np.mean(y[arm] - y[0]))
            rejected += estimates.tests(effect, math.sqrt(2 * ss / df), 3, df, 0.01)["p"] < 0.05
            tested += 1
    assert abs(rejected / tested - 0.05) < 0.012


@given(st.lists(st.floats(0, 1), min_size=1, max_size=20))
def test_holm_is_statsmodels_holm(p):
    multitest = pytest.importorskip("statsmodels.stats.multitest")
    assert stats.holm(p) == pytest.approx(list(multitest.multipletests(p, method="holm")[1]), abs=1e-12)


def test_holm_gives_the_values_of_r():
    assert stats.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])


def test_hypotheses_without_a_p_value_still_count_in_the_family():
    assert stats.holm([0.01], family=5) == [0.05]


@pytest.mark.parametrize(
    ("theta", "n", "df", "alpha"), [(1, 3, 2, 0.05), (3, 3, 2, 0.05), (2, 5, 4, 0.01), (1, 10, 9, 0.05)]
)
def test_power_is_that_of_the_noncentral_t_where_scipy_can_compute_it(theta, n, df, alpha):
    t, shift = reference.t.ppf(1 - alpha / 2, df), theta * math.sqrt(n)
    expected = reference.nct.sf(t, df, shift) + reference.nct.cdf(-t, df, shift)
    assert stats.power(theta, n, 1.0, df, alpha) == pytest.approx(expected, rel=1e-9)


def test_power_is_right_where_other_solvers_are_wrong():
    """MDE at 80 % for n = 3 and alpha = .05/24: statsmodels answers 5.5, the truth is 16.045."""
    assert stats.smallest_effect(3, 1.0, 2, 0.05 / 24) == pytest.approx(16.0451, rel=1e-4)


@given(st.integers(2, 30), st.floats(0.1, 10), st.integers(2, 60))
@settings(max_examples=30, deadline=None)
def test_power_grows_with_the_effect_and_the_number_of_seeds(n, theta, df):
    assert stats.power(theta, n, 1.0, df, 0.05) <= stats.power(theta * 1.1, n, 1.0, df, 0.05) + 1e-12
    assert stats.power(theta, n, 1.0, df, 0.05) <= stats.power(theta, n + 1, 1.0, df, 0.05) + 1e-12


def test_seeds_still_needed_are_just_enough():
    k = estimates.more_seeds(3, 0.02, 2, 0.05, 0.01)
    assert stats.power(0.01, 3 + k, 0.02, 2 * (2 + k), 0.05) >= 0.8
    assert stats.power(0.01, 2 + k, 0.02, 2 * (1 + k), 0.05) < 0.8


def test_runs_that_ignore_their_seed_are_a_defect_and_not_a_proof():
    row = one([1.0, 1.0, 1.0], [1.1, 1.1, 1.1])
    assert "seed" in row["defect"]
    assert row["p"] is None


def test_a_constant_difference_is_a_defect():
    row = one([1.0, 2.0, 3.0], [1.5, 2.5, 3.5])
    assert "do not vary" in row["defect"]


def test_one_pair_gives_an_effect_and_no_test():
    row = one([1.0], [1.1])
    assert row["effect"] == pytest.approx(0.1)
    assert row["p"] is None
    assert row["n_pairs"] == 1


def test_a_crashed_seed_drops_its_pair_and_is_counted():
    row = one([1.0, 1.1, 1.05, None], [1.2, None, 1.3, 1.1])
    assert (row["n_pairs"], row["failed"], row["n_t"], row["n_c"]) == (2, 2, 3, 3)


def test_a_noisy_arm_does_not_borrow_the_quiet_of_the_others():
    rng = np.random.default_rng(3)
    quiet = {f"q{i}": list(1 + 0.001 * rng.normal(size=4)) for i in range(4)}
    noisy = [1.0, 1.3, 0.8, 1.1]
    rows = estimates.estimate_plan(plan(5), pairs(list(1 + 0.001 * rng.normal(size=4)), {**quiet, "noisy": noisy}))
    found = {row["intervention"]: row for row in rows}
    assert (found["noisy"]["variance"], found["noisy"]["df"]) == ("own", 3)


def test_one_pair_alone_is_never_tested():
    rows = estimates.estimate_plan(
        plan(2), pairs([1.0, 1.1, 1.05], {"a": [0.5, None, None], "b": [1.01, 1.12, 1.04]})
    )
    assert [row["p"] is None for row in rows] == [True, False]


def test_a_huge_value_is_a_defect_and_raises_nothing():
    row = one([12.0, 13.0], [3.2e217, 1e308])
    assert "beyond" in row["defect"]
    assert row["effect"] is None


def test_one_arm_that_repeats_itself_is_named():
    row = one([1.0, 1.1, 1.2], [0.9, 0.9, 0.9])
    assert "every seed of t gave the same value" in row["defect"]


def test_pairs_from_before_the_plan_cannot_confirm():
    rows = pairs([1.0, 1.1, 1.2], {"t": [0.9, 1.05, 1.1]})
    rows[0]["exploratory"] = True
    (found,) = estimates.estimate_plan(plan(1), rows)
    assert "before the plan" in found["defect"]


def test_looks_never_spend_more_than_alpha():
    spent = [estimates.look_alpha(0.05, look) for look in range(1, 2000)]
    assert math.fsum(spent) <= 0.05
    assert spent == sorted(spent, reverse=True)


def test_the_f_tail_is_that_of_scipy():
    assert stats.f_upper(3.2, 2, 6) == pytest.approx(reference.f.sf(3.2, 2, 6), rel=1e-10)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arms", "seeds", "missing", "noise"), [(4, 3, 0.0, 1), (4, 4, 0.3, 1), (4, 3, 0.0, 3), (8, 3, 0.0, 5)]
)
def test_the_family_wise_error_holds_also_with_holes_and_a_noisy_arm(arms, seeds, missing, noise):
    """The shipped estimator under no effect: any `better` or `worse` in a screen. Alpha .04 at the first look."""
    rng = np.random.default_rng(11)
    wrong, screens = 0, 1500
    for _ in range(screens):
        scale = np.ones((arms + 1, 1))
        scale[-1] = noise
        y = 0.003 * scale * rng.normal(size=(arms + 1, seeds)) + 0.01 * rng.normal(size=seeds)
        kept = rng.random(y.shape) >= missing
        values = [
            [float(v) if k else None for v, k in zip(r, ks, strict=True)] for r, ks in zip(y, kept, strict=True)
        ]
        rows = estimates.estimate_plan(plan(arms), pairs(values[0], {f"a{i}": values[i] for i in range(1, arms + 1)}))
        wrong += any(row["p_adj"] is not None and row["p_adj"] < estimates.look_alpha(0.05, 1) for row in rows)
    assert wrong / screens <= 0.05 + 2 * math.sqrt(0.05 * 0.95 / screens)

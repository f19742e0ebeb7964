"""Verdicts: what each kind of data leads to, what is refused, and laws that hold for all data."""

import math

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats as reference

from ledger.errors import UsageError
from projections.statistics import classical, judging, policies, study
from projections.statistics.inputs import ClassVariance, Inputs, Run
from projections.statistics.policies import Policy

OWN = policies.find("ledger")
BAD = ("better", "worse", "no_effect_that_matters")


def experiment(arms, control, **options):
    """Inputs from values by arm (None for a crash)."""
    runs = [Run("control", seed, y, "ok" if y is not None else "crash") for seed, y in enumerate(control)]
    for arm, values in arms.items():
        runs += [Run(arm, seed, y, "ok" if y is not None else "crash") for seed, y in enumerate(values)]
    seeds = max(len(values) for values in (control, *arms.values()))
    defaults = {
        "experiment": "e",
        "metric": "val_bpb",
        "direction": "lower",
        "control": "control",
        "arms": tuple(arms),
        "seeds": tuple(range(seeds)),
        "runs": tuple(runs),
        "delta": 0.002,
    }
    return Inputs(**(defaults | options))


def noisy(effects, n=3, seed=0, sd=0.0007, bank=0, **options):
    rng = np.random.default_rng(seed)
    arms = {f"arm{i:02d}": [float(y) for y in 1.08 + e + sd * rng.standard_normal(n)] for i, e in enumerate(effects)}
    found = experiment(arms, [float(y) for y in 1.08 + sd * rng.standard_normal(n)], **options)
    banked = tuple(Run("control", i, float(1.08 + sd * rng.standard_normal()), bank=True) for i in range(bank))
    return msgspec.structs.replace(found, runs=found.runs + banked)


def verdicts(inputs, policy=OWN):
    return [finding.verdict for finding in judging.judge(policy, inputs).findings]


def one(inputs, policy=OWN):
    return judging.judge(policy, inputs).findings[0]


def without(inputs, arm, seed):
    return msgspec.structs.replace(inputs, runs=tuple(r for r in inputs.runs if (r.arm, r.seed) != (arm, seed)))


# ── the five verdicts ──


def test_five_verdicts_of_one_screen():
    inputs = noisy([-0.006, 0.006, 0.0, -0.0018, 0.0, 0.0, 0.0, 0.0], n=5, bank=10, seed=1)
    found = judging.judge(OWN, inputs)
    assert [f.verdict for f in found.findings[:3]] == ["better", "worse", "no_effect_that_matters"]
    assert found.findings[0].beyond_delta
    assert not found.findings[0].small
    assert found.prior_arms == 9
    assert found.d0 <= 20


def test_higher_is_better_turns_the_words_around():
    inputs = noisy([-0.006, 0.006], n=8)
    assert verdicts(inputs) == ["better", "worse"]
    assert verdicts(msgspec.structs.replace(inputs, direction="higher")) == ["worse", "better"]


def test_a_real_effect_within_delta_is_called_small():
    finding = one(noisy([-0.003] + [0.0] * 5, n=8, bank=8, delta=0.01))
    assert (finding.verdict, finding.small, finding.beyond_delta) == ("better", True, False)
    assert "real but small (within 0.01)" in finding.why


def test_undecided_names_the_seeds_that_are_missing():
    finding = one(noisy([-0.001, 0.0, 0.0, 0.0, 0.0], n=2, sd=0.002))
    assert finding.verdict == "undecided"
    assert f"about {finding.k_more_seeds} more seeds would show an effect of 0.002" in finding.why
    spread = finding.sd_t**2 + finding.sd_c**2
    wanted = spread * (reference.norm.isf(0.05 / 5 / 2) + reference.norm.isf(0.2)) ** 2 / 0.002**2
    assert wanted < 2 + finding.k_more_seeds < wanted + 6  # a few more than with a known variance


def test_the_size_of_the_observed_effect_is_no_gate():
    """Effects a third of delta are found when there are seeds enough."""
    finding = one(noisy([-0.0007] + [0.0] * 5, n=40))
    assert finding.verdict == "better"
    assert abs(finding.effect) < 0.002


def test_every_number_of_the_sentence_is_a_field():
    finding = one(noisy([-0.006, 0.0, 0.0, 0.0, 0.0], n=4))
    for value in (
        f"{finding.effect:+.4g}",
        f"{finding.ci95_lo:+.4g}",
        f"{finding.ci95_hi:+.4g}",
        f"{finding.p_adj:.2g}",
    ):
        assert value in finding.why


# ── variances ──


def test_five_variances_are_moderated_three_pooled_and_two_kept_apart():
    assert one(noisy([0.0] * 4)).variance == "moderated"
    assert one(noisy([0.0] * 2)).variance == "pooled"
    assert one(noisy([0.0])).variance == "own"


def test_one_treatment_alone_is_welchs_test():
    inputs = noisy([-0.001], n=5)
    treatment = [r.value for r in inputs.runs if r.arm == "arm00"]
    control = [r.value for r in inputs.runs if r.arm == "control"]
    theirs = reference.ttest_ind(treatment, control, equal_var=False)
    finding = one(inputs)
    assert (finding.t, finding.df, finding.p) == pytest.approx((theirs.statistic, theirs.df, theirs.pvalue), rel=1e-8)
    assert (finding.ci95_lo, finding.ci95_hi) == pytest.approx(tuple(theirs.confidence_interval()), rel=1e-8)
    tost = classical.equivalence(finding.effect, finding.se, finding.df, 0.002)
    assert finding.p_tost == pytest.approx(tost.p, rel=1e-8)


def test_an_arm_that_is_noisier_than_the_pool_keeps_its_own_variance():
    arms = {"calm": [1.0801, 1.0799, 1.0803, 1.0797], "wild": [1.05, 1.12, 1.07, 1.10]}
    found = judging.judge(OWN, experiment(arms, [1.0802, 1.0798, 1.0800, 1.0801])).findings
    assert [f.variance for f in found] == ["own", "own"] or [f.variance for f in found] == ["pooled", "own"]
    assert found[1].verdict == "undecided"


def test_variances_from_elsewhere_in_the_log_sharpen_a_small_experiment():
    inputs = noisy([-0.003], n=3, seed=4)
    records = tuple(ClassVariance(f"r{i}", 0.0007**2, 2.0) for i in range(28))
    alone, informed = one(inputs), one(msgspec.structs.replace(inputs, class_variances=records))
    assert (alone.variance, informed.variance) == ("own", "moderated")
    assert informed.df > 20 > alone.df
    assert informed.verdict == "better"


def test_more_controls_narrow_the_interval():
    few, many = one(noisy([0.0] * 6, bank=0)), one(noisy([0.0] * 6, bank=12))
    assert (few.n_c, many.n_c) == (3, 15)
    assert many.se < few.se


def test_tiers_decide_whether_a_seed_pairs():
    """Runs of one seed go up and down together: only a tier that may use this sees the effect."""
    rng = np.random.default_rng(1)
    shared = 0.01 * rng.standard_normal(6)
    arms = {
        f"arm{i}": [float(1 + s + e + 0.0002 * rng.standard_normal()) for s in shared]
        for i, e in enumerate([0.003, 0, 0, 0])
    }
    control = [float(1 + s + 0.0002 * rng.standard_normal()) for s in shared]
    by_tier = {
        tier: judging.judge(OWN, experiment(arms, control, tier=tier)) for tier in ("fork", "rerun", "seed", "none")
    }
    assert [by_tier[t].findings[0].verdict for t in by_tier] == ["worse", "worse", "undecided", "undecided"]
    assert by_tier["seed"].rho == 0
    assert 0.9 < by_tier["rerun"].rho < by_tier["rerun"].rho_hat
    assert by_tier["fork"].findings[1].effect == pytest.approx(by_tier["seed"].findings[1].effect, rel=1e-6)


def test_forks_alone_are_the_paired_t_test():
    inputs = noisy([-0.001], n=5, tier="fork")
    values = {arm: [r.value for r in inputs.runs if r.arm == arm] for arm in ("arm00", "control")}
    theirs = reference.ttest_rel(values["arm00"], values["control"])
    assert (one(inputs).t, one(inputs).p) == pytest.approx((theirs.statistic, theirs.pvalue), rel=1e-8)


def test_one_seed_decides_nothing_but_for_forks_with_a_known_noise_class():
    noise = tuple(ClassVariance(f"v{i}", 0.00003**2, 3.0) for i in range(6))
    for tier, decided in (("seed", False), ("rerun", False), ("none", False), ("fork", True)):
        inputs = experiment({"a": [1.05]}, [1.08], tier=tier, class_variances=noise)
        assert (one(inputs).verdict in BAD) == decided


# ── what cannot carry a claim ──


def test_runs_that_ignore_their_seed_prove_nothing():
    finding = one(experiment({"a": [1.05, 1.05, 1.05]}, [1.08, 1.081, 1.082]))
    assert finding.verdict == "invalid"
    assert "do not seem to read their seed" in finding.why


def test_rounded_scores_may_repeat_where_the_resolution_is_known():
    finding = one(experiment({"a": [1.05, 1.05, 1.05]}, [1.08, 1.08, 1.09], resolution=0.01))
    assert finding.verdict in ("better", "undecided")
    assert finding.sd_t == pytest.approx(0.01 / math.sqrt(12), rel=1e-9)


def test_mixed_bases_and_selection_flags_are_invalid():
    inputs = noisy([-0.006], n=4)
    mixed = msgspec.structs.replace(inputs, runs=tuple(r._replace(base="b" if r.seed else "a") for r in inputs.runs))
    assert verdicts(mixed) == ["invalid"]
    flagged = msgspec.structs.replace(inputs, flags=("5 of 7 seeds are reported",))
    assert one(flagged).why == "arm00: selection: 5 of 7 seeds are reported."


@pytest.mark.parametrize(
    ("values", "condition", "verdict"),
    [
        ([1.07, 1.0701, None], "reduced_power", "better"),
        ([1.07, None, None], "failed", "invalid"),
        ([None, None, None], "failed", "invalid"),
    ],
)
def test_conditions_that_lost_seeds_are_named(values, condition, verdict):
    arms = {"a": values} | {f"b{i}": [1.08 + 0.0003 * i, 1.0805, 1.0795 + 0.0001 * i] for i in range(5)}
    finding = one(experiment(arms, [1.08, 1.0805, 1.0798]))
    assert (finding.condition, finding.verdict) == (condition, verdict)
    assert finding.failures_t == sum(v is None for v in values)
    assert finding.p_crash == pytest.approx(
        reference.fisher_exact([[finding.failures_t, 3 - finding.failures_t], [0, 3]])[1]
    )


def test_everything_crashed_is_an_outcome():
    found = judging.judge(OWN, experiment({"a": [None] * 3, "b": [None] * 3}, [None] * 3))
    assert [f.verdict for f in found.findings] == ["invalid", "invalid"]
    assert found.findings[0].p_crash == 1.0
    assert found.findings[0].effect is None


def test_a_failure_that_was_tried_again_stays_in_the_sentence():
    inputs = noisy([-0.006, 0, 0, 0, 0], n=4)
    again = msgspec.structs.replace(inputs, runs=(Run("arm00", 0, None, "crash", order=-1.0), *inputs.runs))
    assert one(again).verdict == "better"
    assert "1 of its 5 runs and 0 of the control's 4 failed" in one(again).why


def test_of_two_results_of_one_seed_the_first_counts():
    inputs = noisy([-0.001], n=3)
    retried = msgspec.structs.replace(inputs, runs=(*inputs.runs, Run("arm00", 0, 0.5, order=9.0)))
    assert one(retried).effect == one(inputs).effect


def test_while_planned_runs_are_missing_nothing_is_decided():
    inputs = without(noisy([-0.006, -0.006, 0, 0, 0], n=4), "arm00", 3)
    found = judging.judge(OWN, inputs).findings
    assert [f.verdict for f in found[:2]] == ["undecided", "better"]
    assert found[0].pending == 1
    assert "1 planned run has not run yet" in found[0].why


# ── tracks ──


def test_runs_from_before_the_plan_explore_for_ever():
    inputs = noisy([-0.006, 0.0, 0.0, 0.0, 0.0], n=4)
    early = msgspec.structs.replace(inputs, runs=tuple(r._replace(early=True) for r in inputs.runs))
    finding = one(early)
    assert (finding.track, finding.verdict, finding.candidate) == ("explore", "undecided", True)
    again = tuple(r._replace(order=5.0) for r in inputs.runs)  # the same seeds once more, after the plan
    assert one(msgspec.structs.replace(early, runs=early.runs + again)).track == "explore"


def test_fresh_seeds_confirm_what_early_ones_suggested():
    inputs = noisy([-0.006, 0.0, 0.0, 0.0, 0.0], n=6)
    mixed = msgspec.structs.replace(inputs, runs=tuple(r._replace(early=r.seed < 2) for r in inputs.runs))
    finding = one(mixed)
    assert (finding.track, finding.verdict) == ("confirm", "better")
    assert (finding.n_t, finding.n_c, finding.early) == (4, 4, 2)


def test_tuning_seeds_do_not_confirm():
    inputs = noisy([-0.006], n=4)
    tuned = msgspec.structs.replace(inputs, runs=tuple(r._replace(tuning=r.seed == 0) for r in inputs.runs))
    assert (one(tuned).n_t, one(tuned).tuning) == (3, 1)


@settings(max_examples=40, deadline=None)
@given(
    effect=st.floats(-0.05, 0.05),
    n=st.integers(2, 6),
    early=st.booleans(),
    policy=st.sampled_from([p for p in policies.POLICIES if p.metric is None]),
)
def test_the_explore_track_never_claims(effect, n, early, policy):
    inputs = noisy([effect] * 5, n=n, track="confirm" if early else "explore", nats_per_unit=1.68)
    if early:
        inputs = msgspec.structs.replace(inputs, runs=tuple(r._replace(early=True) for r in inputs.runs))
    for finding in judging.judge(policy, inputs).findings:
        assert finding.track == "explore"
        assert finding.verdict in ("undecided", "invalid")


# ── families, looks, peeks ──


def test_leaving_hypotheses_out_of_the_runs_does_not_shrink_the_family():
    inputs = noisy([-0.002, 0.0, 0.0, 0.0, 0.0], n=3)
    large = msgspec.structs.replace(inputs, family_size=100)
    assert one(large).p == one(inputs).p
    assert one(large).p_adj == pytest.approx(min(1.0, one(inputs).p * 100), rel=1e-9)


def test_cycles_share_alpha():
    inputs = noisy([-0.002, 0, 0, 0, 0])
    assert judging.judge(OWN, msgspec.structs.replace(inputs, cycle=3)).alpha == pytest.approx(0.05 / 12)


def test_planned_looks_ask_for_more_than_one_look():
    inputs = noisy([-0.003, 0, 0, 0, 0], n=3, bank=12)
    looked = msgspec.structs.replace(inputs, looks=(2, 3, 4, 6, 8), look=2)
    found = judging.judge(OWN, looked)
    finding = found.findings[0]
    assert found.mode == "looks"
    assert finding.p_bound < 0.05 / 5
    assert 0 < found.alpha_spent < 0.05 / 5
    assert finding.p == one(inputs).p
    assert finding.ci95_lo < one(inputs).ci95_lo  # repeated intervals are wider
    assert (finding.verdict == "better") == (finding.p <= finding.p_bound)


def test_an_unplanned_look_goes_by_its_e_value():
    inputs = msgspec.structs.replace(noisy([-0.004, 0, 0, 0, 0], n=4, bank=12), look=None)
    found = judging.judge(OWN, inputs)
    assert found.mode == "anytime"
    assert found.findings[0].verdict == "better"
    assert found.findings[0].e_value >= 5 / 0.05
    assert found.findings[0].p_adj == pytest.approx(min(1.0, 5 / found.findings[0].e_value), rel=1e-9)


# ── laws ──

VALUES = st.floats(-1.0, 1.0).map(lambda x: 1.08 + 0.003 * x)
TABLES = st.integers(2, 5).flatmap(
    lambda n: st.tuples(
        st.lists(VALUES, min_size=n, max_size=n),
        st.lists(st.lists(VALUES, min_size=n, max_size=n), min_size=1, max_size=6),
    )
)


@settings(max_examples=60, deadline=None)
@given(TABLES, st.randoms(use_true_random=False), st.sampled_from(["fork", "rerun", "seed"]))
def test_the_order_of_arrival_changes_nothing(table, shuffled, tier):
    control, arms = table
    inputs = experiment({f"a{i}": y for i, y in enumerate(arms)}, control, tier=tier)
    runs, names = list(inputs.runs), list(inputs.arms)
    shuffled.shuffle(runs)
    shuffled.shuffle(names)
    other = msgspec.structs.replace(inputs, runs=tuple(runs), arms=tuple(names))
    assert judging.judge(OWN, other) == judging.judge(OWN, inputs)


@settings(max_examples=60, deadline=None)
@given(TABLES)
def test_turning_signs_turns_better_into_worse(table):
    control, arms = table
    inputs = experiment({f"a{i}": y for i, y in enumerate(arms)}, control)
    turned = msgspec.structs.replace(
        inputs, runs=tuple(r._replace(value=2.16 - r.value) for r in inputs.runs), direction="higher"
    )
    for a, b in zip(judging.judge(OWN, inputs).findings, judging.judge(OWN, turned).findings, strict=True):
        if a.p is not None and b.p is not None and min(a.sd_t, a.sd_c) > 1e-9:
            assert b.effect == pytest.approx(-a.effect, rel=1e-6, abs=1e-15)
            assert b.p == pytest.approx(a.p, rel=1e-4)
            if abs(a.p_adj - 0.05) > 1e-4 and abs(a.p_tost - 0.05) > 1e-4:
                assert b.verdict == a.verdict


@settings(max_examples=60, deadline=None)
@given(TABLES, st.sampled_from([1e-3, 0.5, 1024.0]))
def test_units_do_not_matter(table, scale):
    control, arms = table
    inputs = experiment({f"a{i}": y for i, y in enumerate(arms)}, control)
    scaled = msgspec.structs.replace(
        inputs, runs=tuple(r._replace(value=r.value * scale) for r in inputs.runs), delta=inputs.delta * scale
    )
    for a, b in zip(judging.judge(OWN, inputs).findings, judging.judge(OWN, scaled).findings, strict=True):
        if a.p is not None and b.p is not None and min(a.sd_t, a.sd_c) > 1e-9:
            assert (b.p, b.e_value, b.lfsr) == pytest.approx((a.p, a.e_value, a.lfsr), rel=1e-4, abs=1e-12)
            assert b.mde80 == pytest.approx(a.mde80 * scale, rel=1e-4)


@settings(max_examples=40, deadline=None)
@given(TABLES)
def test_many_experiments_are_judged_as_if_alone(table):
    control, arms = table
    inputs = experiment({f"a{i}": y for i, y in enumerate(arms)}, control)
    other = noisy([0.001, -0.003], n=4, experiment="other")
    assert judging.judge_all(OWN, [other, inputs, other])[1] == judging.judge(OWN, inputs)


@settings(max_examples=60, deadline=None)
@given(TABLES)
def test_figures_are_consistent(table):
    control, arms = table
    for f in judging.judge(OWN, experiment({f"a{i}": y for i, y in enumerate(arms)}, control)).findings:
        if f.p is None:
            continue
        assert f.p <= f.p_adj <= 1
        assert f.ci95_lo <= f.ci90_lo <= f.effect <= f.ci90_hi <= f.ci95_hi
        assert f.e_value >= 0
        assert 0 <= f.lfsr <= 1
        assert not (f.small and f.beyond_delta)
        assert (f.verdict == "no_effect_that_matters") <= (f.p_tost < 0.05)
        if f.cs_lo is not None:
            assert f.cs_lo <= f.effect <= f.cs_hi


# ── refused ──


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 1e200, None])
def test_scores_that_are_no_numbers_are_refused(value):
    inputs = noisy([0.0])
    runs = (*inputs.runs[:-1], inputs.runs[-1]._replace(value=value))
    with pytest.raises(UsageError, match=r"arm arm00, seed 2: value 1 is .*expected a finite number"):
        judging.judge(OWN, msgspec.structs.replace(inputs, runs=runs))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"alpha": 1.0}, "alpha of e is 1.0; expected a number between 0 and 1"),
        ({"alpha": math.nan}, "alpha of e is nan"),
        ({"delta": 0.0}, "delta of e is 0.0; expected a finite number above 0"),
        ({"tau": -1.0}, "tau of e is -1.0"),
        ({"arms": ()}, "nothing to decide"),
        ({"arms": ("arm00", "arm00")}, "two arms with one name"),
        ({"control": "arm00"}, "two arms with one name"),
        ({"runs": ()}, "no run has ended yet"),
        ({"runs": (Run("ghost", 0, 1.0),)}, "a run of unknown arm ghost"),
        ({"look": 2}, "look 2 of 1 planned"),
        ({"looks": (3, 2)}, "expected a rising number of seeds"),
        ({"family_size": 0}, "a family of 0 hypotheses"),
        ({"resolution": math.nan}, "resolution of e is nan"),
        ({"class_variances": (ClassVariance("r", math.inf, 2.0),)}, "variances of the noise class"),
    ],
)
def test_what_no_rule_could_judge_is_refused_in_one_line(change, words):
    with pytest.raises(UsageError, match=words) as caught:
        judging.judge(OWN, msgspec.structs.replace(noisy([0.0]), **change))
    assert "\n" not in str(caught.value)


def test_ten_thousand_hypotheses_take_seconds():
    import time

    many = [noisy([0.0, -0.002, 0.001] * 8, n=8, seed=i, experiment=f"e{i}") for i in range(40)]
    start = time.process_time()
    judging.judge_all(OWN, many)
    assert (time.process_time() - start) * 10_000 / (40 * 24) < 5.0


def test_the_policy_decides_how_far_variances_are_trusted():
    careless = Policy(name="x", version=1, procedure="moderated", about="", d0_cap=math.inf)
    inputs = noisy([0.0] * 10, bank=6)
    assert judging.judge(careless, inputs).findings[0].df > judging.judge(OWN, inputs).findings[0].df
    assert study.study(careless, inputs).prior.d0_fitted == study.study(OWN, inputs).prior.d0_fitted


def test_obrien_fleming_spends_later_than_pocock():
    inputs = noisy([-0.002, 0, 0, 0, 0], n=3, bank=12, looks=(3, 6, 9), look=1)
    late = judging.judge(msgspec.structs.replace(OWN, spending="obf"), inputs)
    soon = judging.judge(OWN, inputs)
    assert late.findings[0].p_bound < soon.findings[0].p_bound
    assert late.findings[0].ci90_hi > soon.findings[0].ci90_hi
    assert late.information == soon.information


def test_controls_that_drift_are_flagged():
    inputs = noisy([0.0], n=8)
    drifting = [r._replace(value=r.value + 0.002 * r.seed, order=float(r.seed)) for r in inputs.runs]
    assert judging.judge(OWN, msgspec.structs.replace(inputs, runs=tuple(drifting))).drift_flagged
    assert not judging.judge(OWN, inputs).drift_flagged


def test_a_control_that_failed_is_a_failed_condition_unless_the_bank_stands_in():
    inputs = experiment({"a": [1.07, 1.0704, 1.0697]}, [1.08, None, None])
    assert one(inputs).condition == "failed"
    banked = tuple(Run("control", s, 1.08 + 0.0003 * s, bank=True) for s in range(4))
    assert one(msgspec.structs.replace(inputs, runs=inputs.runs + banked)).verdict == "better"

"""Rules of other projects as data: what they say, in their own words, and what they refuse."""

import msgspec
import numpy as np
import pytest
from scipy import stats as reference

from ledger.errors import UsageError
from projections.statistics import judging, policies
from projections.statistics.inputs import Inputs, Run


def pair(treatment, control, **options):
    runs = [Run("record", s, y, "ok" if y is not None else "crash") for s, y in enumerate(control)]
    runs += [Run("new", s, y, "ok" if y is not None else "crash") for s, y in enumerate(treatment)]
    defaults = {"experiment": "e", "metric": "val_loss", "direction": "lower", "control": "record", "arms": ("new",)}
    defaults |= {"seeds": tuple(range(max(len(treatment), len(control)))), "runs": tuple(runs), "delta": 0.002}
    return Inputs(**(defaults | options))


def say(name, inputs):
    return judging.judge(policies.find(name), inputs).findings[0]


@pytest.mark.parametrize(
    ("treatment", "control", "label", "verdict"),
    [
        ([1.000, 1.101, 1.199], [1.010, 1.111, 1.209], "confirmed", "better"),
        ([1.020, 1.1211, 1.219], [1.010, 1.111, 1.209], "confirmed", "worse"),
        ([1.000, 1.110, 1.199], [1.010, 1.111, 1.209], "suggestive", "undecided"),
        ([1.0100, 1.1112, 1.2089], [1.010, 1.111, 1.209], "null", "undecided"),
        ([1.01, 1.111, 1.209], [1.01, 1.111, 1.209], "null", "undecided"),
    ],
)
def test_the_seed_plan_in_its_words(treatment, control, label, verdict):
    finding = say("seed-plan", pair(treatment, control))
    assert (finding.label, finding.verdict) == (label, verdict)
    assert finding.n_pairs == 3


def test_the_seed_plans_figures():
    rng = np.random.default_rng(3)
    a, b = rng.normal(1, 0.01, (2, 5))
    finding = say("seed-plan", pair(a.tolist(), b.tolist()))
    theirs = reference.ttest_rel(a, b)
    assert (finding.t, finding.p, finding.p_adj) == pytest.approx(
        (theirs.statistic, theirs.pvalue, theirs.pvalue), rel=1e-8
    )
    drawn = (a - b)[np.random.default_rng(42).integers(0, 5, (10_000, 5))].mean(axis=1)
    assert (finding.boot_lo, finding.boot_hi) == pytest.approx(tuple(np.percentile(drawn, [2.5, 97.5])), rel=1e-8)


def test_the_seed_plan_names_conditions_that_lost_seeds():
    assert say("seed-plan", pair([1.0, 1.1, None], [1.2, 1.31, 1.4])).label.endswith("reduced power")
    failed = say("seed-plan", pair([1.0, None, None], [1.2, 1.31, 1.4]))
    assert (failed.label, failed.verdict) == ("failed", "invalid")


def test_the_readme_rule_tests_the_margin_and_not_zero():
    """A sure improvement of .004 nats is not enough; one of .008 is."""
    control = [3.3000, 3.3004, 3.2996, 3.3001]
    for gain, holds in ((0.004, "does not hold"), (0.008, "holds")):
        finding = say("parameter-golf-readme", pair([y - gain for y in control], control))
        assert finding.label == holds
        theirs = reference.ttest_ind(
            [y - gain + 0.005 for y in control], control, equal_var=False, alternative="less"
        )
        assert finding.p == pytest.approx(theirs.pvalue, rel=1e-8)
        assert finding.effect == pytest.approx(-gain, rel=1e-8)


def test_bits_per_byte_need_their_nats():
    inputs = pair([1.0, 1.001], [1.1, 1.101], metric="val_bpb")
    with pytest.raises(UsageError, match=r"asks for 0\.005 nats; how many nats val_bpb has is unknown"):
        say("parameter-golf-readme", inputs)
    finding = say("parameter-golf-readme", msgspec.structs.replace(inputs, nats_per_unit=1.6864))
    assert finding.reference == pytest.approx(-0.005 / 1.6864)


def test_the_leaderboards_later_rule_is_a_one_sided_welch_test():
    a, b = [1.0795, 1.0802, 1.0799], [1.0801, 1.0803, 1.0800]
    finding = say("parameter-golf-leaderboard", pair(a, b, metric="val_bpb"))
    theirs = reference.ttest_ind(a, b, equal_var=False, alternative="less").pvalue
    assert finding.p == pytest.approx(theirs, rel=1e-8)
    assert (finding.label == "holds") == (theirs < 0.25)


def test_track_one_tests_the_mean_against_its_target():
    values = [3.2791, 3.2785, 3.2788, 3.2795, 3.2781]
    finding = say("modded-nanogpt-track1", pair(values, [3.3, 3.31]))
    assert finding.p == pytest.approx(reference.ttest_1samp(values, 3.28, alternative="less").pvalue, rel=1e-8)
    assert (finding.label, finding.verdict) == ("holds", "better")


@pytest.mark.parametrize(
    ("mean", "n", "label"), [(3.278, 4, "holds"), (3.2781, 4, "does not hold"), (3.2781, 5, "holds")]
)
def test_track_three_knows_its_standard_deviation(mean, n, label):
    finding = say(
        "modded-nanogpt-track3", pair([mean + (-1) ** s * 0.0001 * (s < n - n % 2) for s in range(n)], [3.3] * n)
    )
    assert finding.statistic == pytest.approx((3.28 - mean) * n**0.5, rel=1e-6)
    assert finding.label == label


def test_targets_want_their_own_metric_and_direction():
    with pytest.raises(UsageError, match="its target is in val_loss; the runs have val_bpb"):
        say("modded-nanogpt-track1", pair([3.2, 3.21], [3.3, 3.31], metric="val_bpb"))
    with pytest.raises(UsageError, match="here higher is better"):
        say("modded-nanogpt-track3", pair([3.2, 3.21], [3.3, 3.31], direction="higher"))


def test_an_unknown_policy_is_answered_with_the_known_ones():
    with pytest.raises(UsageError, match="no policy 'zzz'; there are ledger/1, modded-nanogpt-track1/1"):
        policies.find("zzz")
    with pytest.raises(UsageError, match="did you mean 'seed-plan'"):
        policies.find("seedplan")


def test_a_digest_follows_everything_a_policy_says():
    digests = {policies.digest(policy) for policy in policies.POLICIES}
    assert len(digests) == len(policies.POLICIES)
    stricter = msgspec.structs.replace(policies.find("ledger"), d0_cap=10.0)
    assert policies.digest(stricter) not in digests


@pytest.mark.parametrize("policy", policies.POLICIES, ids=lambda policy: policy.id)
def test_every_policy_survives_what_is_degenerate(policy):
    for treatment, control in (
        ([3.2], [3.3]),
        ([None, None], [3.3, 3.31]),
        ([3.2, 3.2], [3.2, 3.2]),
        ([3.2, 3.21], [None, None]),
    ):
        found = judging.judge(policy, pair(treatment, control))
        assert found.findings[0].verdict in ("better", "undecided", "invalid")
        assert msgspec.json.decode(msgspec.json.encode(found), type=type(found)) == found

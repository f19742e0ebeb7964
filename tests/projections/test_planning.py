"""What a plan can see: the noise that the log knows, and power that agrees with simulated experiments."""

import random

import history
import msgspec
import numpy as np
import pytest

from ledger.errors import UsageError
from projections.engine import tables
from projections.estimates import look_alpha
from projections.planning import Noise, noise, policy_id, runs_on_record, sight, told_metrics
from projections.statistics.inputs import ClassVariance, Inputs, Run
from projections.statistics.judging import judge_all
from projections.statistics.policies import find
from projections.stats import t_quantile


def filled(log, experiment, *, sd, arms="ct", seeds=6, between_seeds=0.0, seed=0, **changes):
    rng = random.Random(seed)
    shared = {s: rng.gauss(0, between_seeds) for s in range(seeds)}
    values = {(a, s): 1.2 + shared[s] + rng.gauss(0, sd) for s in range(seeds) for a in arms}
    history.fill(log, history.registered(experiment, list(arms), list(range(seeds)), **changes), values)
    return values


def known(log):
    return noise(tables(log), history.NOISE, "paired-pooled/1")


def test_an_empty_log_knows_no_noise(log):
    assert known(log) is None


def test_what_seeds_share_is_no_noise_of_a_paired_plan(log):
    filled(log, "e", sd=0.001, arms="cabd", seeds=30, between_seeds=0.5)
    found = known(log)
    assert (found.kind, found.df, found.runs) == ("between arms of one seed", 3 * 29, 120)
    assert found.sd == pytest.approx(0.001, rel=0.25)


def test_experiments_of_one_noise_class_are_pooled_by_their_degrees_of_freedom(log):
    filled(log, "a", sd=0.001, seeds=3)
    first = known(log)
    filled(log, "b", sd=0.004, seeds=9, seed=1)
    both = known(log)
    assert both.df == first.df + 8
    assert both.runs == 24
    assert first.sd < both.sd < 0.006


def test_a_single_arm_over_seeds_tells_its_spread(log):
    values = filled(log, "e", sd=0.01, arms="c")
    found = known(log)
    assert (found.kind, found.df) == ("within arms", 5)
    assert found.sd == pytest.approx(np.std(list(values.values()), ddof=1))


def test_runs_that_ignore_their_seed_are_no_evidence_of_silence(log):
    filled(log, "e", sd=0.0)
    assert known(log) is None


def test_another_scale_is_another_noise(log):
    filled(log, "e", sd=0.001)
    assert noise(tables(log), msgspec.structs.replace(history.NOISE, scale="large"), "paired-pooled/1") is None


def test_the_power_told_is_the_share_of_simulated_experiments_that_reject():
    arms, seeds, sd = 4, 5, 0.002
    told = sight(policy="paired-pooled/1", arms=arms, seeds=seeds, family=3, alpha=0.05, look=1, delta=0.005, sd=sd)
    rng = np.random.default_rng(1)
    y = rng.normal(0, sd, (20_000, arms, seeds)) + rng.normal(0, 0.1, (20_000, 1, seeds))
    y[:, 1] += told.smallest
    rest = y - y.mean(2, keepdims=True) - y.mean(1, keepdims=True) + y.mean((1, 2), keepdims=True)
    df = (arms - 1) * (seeds - 1)
    sigma = np.sqrt((rest**2).sum((1, 2)) / df)
    t = (y[:, 1] - y[:, 0]).mean(1) / (sigma * np.sqrt(2 / seeds))
    share = np.mean(np.abs(t) > t_quantile(1 - look_alpha(0.05, 1) / 3 / 2, df))
    assert share == pytest.approx(0.8, abs=0.012)


def test_the_seeds_told_for_delta_are_the_fewest_that_reach_80_percent():
    plan = {
        "policy": "paired-pooled/1",
        "arms": 3,
        "family": 2,
        "alpha": 0.05,
        "look": 1,
        "delta": 0.001,
        "sd": 0.001,
    }
    need = sight(seeds=3, **plan).seeds_for_delta
    assert sight(seeds=need, **plan).at_delta >= 0.8
    assert sight(seeds=need - 1, **plan).at_delta < 0.8


@pytest.mark.parametrize(
    ("tier", "stopping", "looks", "history"),
    [("seed", "fixed", (), 0), ("seed", "fixed", (), 12), ("fork", "fixed", (), 12), ("seed", "looks", (3, 5), 12)],
)
def test_the_power_told_is_the_share_of_experiments_that_the_ledgers_rule_decides(tier, stopping, looks, history):
    n, sd, arms = 5, 0.002, ["c", "t", "u", "v"]
    known = Noise(sd, 2 * history, 3 * history, "within arms", history, None) if history else None
    plan = {"arms": 4, "family": 3, "alpha": 0.05, "look": 1, "delta": 0.005, "stopping": stopping, "looks": looks}
    told = sight(policy="ledger/1", tier=tier, seeds=n, sd=sd, known=known, **plan)
    rng = np.random.default_rng(1)
    many = []
    for _ in range(300):
        y = rng.normal(0, sd, (4, n)) + (rng.normal(0, 0.1, (1, n)) if tier == "fork" else 0.0)
        y[1] += told.smallest
        unit = sd * 2**0.5 if tier == "fork" else sd
        elsewhere = np.var(rng.normal(0, unit, (history, 3)), axis=1, ddof=1)
        many.append(
            Inputs(
                experiment="e", metric="m", direction="lower", control="c", arms=tuple(arms[1:]), delta=0.005,
                tier=tier,
                seeds=tuple(range(n)), looks=looks, look=len(looks) or 1,
                runs=tuple(Run(arm, s, float(y[i, s])) for i, arm in enumerate(arms) for s in range(n)),
                class_variances=tuple(ClassVariance(f"r{i}", float(v), 2.0) for i, v in enumerate(elsewhere)),
            )
        )  # fmt: skip
    share = np.mean([judged.findings[0].verdict == "worse" for judged in judge_all(find("ledger"), many)])
    # Without a history an arm that turns out noisier than the others keeps its own few degrees of freedom.
    assert share == pytest.approx(0.8, abs=0.08 if history else 0.14)


def test_a_policy_that_compares_with_a_target_tells_no_power():
    told = sight(policy="modded-nanogpt-track3/1", arms=2, seeds=3, family=1, alpha=0.05, look=1, delta=0.1, sd=0.1)
    assert (told.in_sd, told.smallest, told.at_delta) == (None, None, None)


def test_one_seed_shows_nothing():
    told = sight(policy="paired-pooled/1", arms=2, seeds=1, family=1, alpha=0.05, look=1, delta=0.1, sd=0.1)
    assert (told.in_sd, told.smallest) == (None, None)


def test_a_policy_is_named_with_its_version_and_must_judge_the_metric():
    assert policy_id("paired-pooled", "x") == "paired-pooled/1"
    assert policy_id("seed-plan", "x") == "seed-plan/1"
    with pytest.raises(UsageError, match="judges val_loss"):
        policy_id("modded-nanogpt-track1", "val_bpb")
    with pytest.raises(UsageError, match="did you mean 'paired-pooled/1'"):
        policy_id("paired-poled/1", "x")
    with pytest.raises(UsageError, match="there are ledger/1, "):
        policy_id("zzz", "x")


def test_cells_are_counted_once_and_only_with_an_outcome(log):
    history.fill(log, history.registered("e", ["c", "t"], [0, 1]), {("c", 0): 1.0, ("t", 0): None})
    assert runs_on_record(tables(log), "e") == 2
    assert runs_on_record(tables(log), "other") == 0


def test_metrics_told_are_those_of_the_same_command_and_code(log):
    from ledger import events
    from ledger.writer import Draft

    start = msgspec.structs.replace(
        history.started("r", None, "c", 0), command=("python", "train.py", "--x"), code="a"
    )
    end = msgspec.structs.replace(history.finished("r", 1.0), finals=(events.FinalMetric("val_bpb", 1.0, 1),))
    log.writer.append([Draft("run/r", start), Draft("run/r", end)])
    built = tables(log)
    assert told_metrics(built, ("python", "train.py"), "a") == ["val_bpb"]
    assert told_metrics(built, ("python", "train.py"), "b") == []
    assert told_metrics(built, ("python", "other.py"), "a") == []

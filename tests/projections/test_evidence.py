"""What a judgement looks at: planned runs and shared controls, and which of them may carry a claim."""

import random

import history
import msgspec
import pytest

from ledger import events
from ledger.errors import UsageError
from ledger.writer import Draft
from projections.decide import decide
from projections.engine import tables
from projections.evidence import gather
from projections.statistics.policies import find

SEEDS = [0, 1, 2, 3]


def planned(log, experiment, arms, seeds, sets=None, **changes):
    """Register a plan; `sets` gives what arms set (by name)."""
    plan = history.registered(experiment, arms, seeds, **{"policy": "ledger/1", **changes})
    if sets:
        env = {arm: (events.NameValue("LR", value),) for arm, value in sets.items()}
        changed = tuple(msgspec.structs.replace(arm, env=env.get(arm.name, ())) for arm in plan.arms)
        plan = msgspec.structs.replace(plan, arms=changed)
    return log.writer.append([Draft(f"experiment/{experiment}", plan)]).event_ids[0]


def ran(log, experiment, arm, seed, value, *, again="", **changes):
    """A run of one cell; its cell is the same measurement in every experiment on its base. The outcome's id."""
    run = f"{experiment}-{arm}-{seed}{again}"
    start = history.started(run, experiment, arm, seed, **{"cell": f"{changes.get('base')}-{arm}-{seed}", **changes})
    end = history.finished(run, value) if value is not None else history.finished(run, None, "crash")
    return log.writer.append([Draft(f"run/{run}", start), Draft(f"run/{run}", end)]).event_ids[1]


def filled(log, experiment="e", arms=("c", "t"), seeds=SEEDS, shift=-0.05, sd=0.001, seed=0, **changes):
    """A plan, and a run of every cell; the treatments differ from the control by `shift`."""
    planned(log, experiment, list(arms), list(seeds), **changes)
    rng = random.Random(seed)
    for s in seeds:
        for arm in arms:
            ran(log, experiment, arm, s, 1.2 + (0.0 if arm == arms[0] else shift) + rng.gauss(0, sd))


def effect(log, experiment="e", arm="t"):
    (row,) = tables(log).rows("SELECT * FROM effects WHERE experiment = $1 AND intervention = $2", (experiment, arm))
    return row


# ── the bank ──


def test_controls_of_another_plan_on_the_same_base_are_shared(log):
    filled(log, "e")
    filled(log, "f", arms=("c", "u"), seeds=[4, 5, 6], seed=1)
    assert (effect(log)["n_c"], effect(log)["n_bank"]) == (7, 3)
    assert (effect(log, "f", "u")["n_c"], effect(log, "f", "u")["n_bank"]) == (7, 4)


def test_the_same_measurement_is_not_counted_twice(log):
    filled(log, "e")
    filled(log, "f", arms=("c", "u"), seed=0)  # the same seeds of the same control
    assert effect(log)["n_bank"] == 0


def test_controls_of_another_base_or_with_other_settings_are_not_shared(log):
    filled(log, "e")
    planned(log, "f", ["c", "u"], [4, 5], base="other")
    planned(log, "g", ["c", "u"], [6, 7], sets={"c": "0.1"})
    for experiment, seeds, base in (("f", (4, 5), "other"), ("g", (6, 7), "base")):
        for s in seeds:
            ran(log, experiment, "c", s, 1.2 + s / 1000, base=base)
            ran(log, experiment, "u", s, 1.3 + s / 1000, base=base)
    assert effect(log)["n_bank"] == 0


def test_a_treatment_that_became_a_control_is_not_shared_for_it_was_chosen_for_its_values(log):
    filled(log, "e", arms=("c", "t"), sets={"t": "0.1"})
    filled(log, "f", arms=("t", "u"), seeds=[7, 8, 9], seed=1, sets={"t": "0.1"})
    assert effect(log, "f", "u")["n_bank"] == 0


def test_tuning_seeds_are_not_shared(log):
    filled(log, "e")
    planned(log, "f", ["c", "u"], [4, 5, 6], tuning_seeds=(4,))
    for s in (4, 5, 6):
        ran(log, "f", "c", s, 1.2 + s / 1000)
    assert effect(log)["n_bank"] == 2


# ── what may carry a claim ──


def test_a_run_from_before_its_plan_is_exploratory_for_ever_also_when_it_is_run_again(log):
    ran(log, "e", "t", 0, 1.1)
    filled(log, "e", shift=0.0)
    row = effect(log)
    assert (row["track"], row["early"], row["n_t"]) == ("confirm", 1, 3)


def test_an_arm_that_ran_before_its_plan_alone_is_explored_and_never_claimed(log):
    for s in SEEDS:
        ran(log, "e", "t", s, 1.0 + s / 10_000)
        ran(log, "e", "c", s, 1.2 + s / 9_000)
    planned(log, "e", ["c", "t"], SEEDS)
    row = effect(log)
    assert (row["track"], row["verdict"], row["candidate"]) == ("explore", "undecided", True)
    assert "confirm nothing" in row["why"]


def test_a_seed_that_chose_something_confirms_nothing(log):
    filled(log, "e", tuning_seeds=(0, 1))
    row = effect(log)
    assert (row["tuning"], row["n_t"]) == (2, 2)


@pytest.mark.parametrize(
    ("command", "sets", "verdict"),
    [
        (("python", "train.py"), {"t": "9"}, "invalid"),
        (("python", "train.py"), {"c": "9"}, "invalid"),  # what the control alone sets
        (("python", "train.py"), {}, "no_effect_that_matters"),  # two arms that set the same are compared on purpose
        ((), {"t": "9"}, "no_effect_that_matters"),  # the built-in trainer reads what it is told
    ],
)
def test_a_program_whose_arm_is_the_control_digit_for_digit_does_not_read_it(log, command, sets, verdict):
    planned(log, "e", ["c", "t"], SEEDS, command=command, sets=sets)
    for s in SEEDS:
        for arm in ("c", "t"):
            ran(log, "e", arm, s, 1.2 + s / 10_000)
    row = effect(log)
    assert row["verdict"] == verdict
    assert ("(LR)" in row["why"]) == (verdict == "invalid")


def test_one_seed_that_differs_shows_that_a_setting_is_read(log):
    planned(log, "e", ["c", "t"], SEEDS, command=("python", "train.py"), sets={"t": "9"})
    for s in SEEDS:
        ran(log, "e", "c", s, 1.2 + s / 10_000)
        ran(log, "e", "t", s, 1.2 + s / 10_000 + (1e-15 if s == 2 else 0.0))
    assert effect(log)["verdict"] == "no_effect_that_matters"


def test_a_late_seed_and_a_run_of_an_unplanned_seed(log):
    filled(log, "e")
    ran(log, "e", "t", 99, 5.0)
    assert effect(log)["n_t"] == 4


# ── failures ──


@pytest.mark.parametrize(
    ("failed", "condition", "verdict"),
    [(0, "complete", "better"), (1, "reduced_power", "better"), (2, "failed", "invalid")],
)
def test_one_of_three_failed_seeds_is_reduced_power_and_two_are_a_failed_condition(log, failed, condition, verdict):
    filled(log, "other", seeds=[10, 11, 12, 13], arms=("c", "x", "y", "z"), seed=3)
    planned(log, "e", ["c", "t"], [0, 1, 2])
    for s in (0, 1, 2):
        ran(log, "e", "c", s, 1.2 + s / 1000)
        ran(log, "e", "t", s, None if s < failed else 1.1 + s / 1100)
    row = effect(log)
    assert (row["condition"], row["verdict"], row["lost"]) == (condition, verdict, failed)
    if failed:
        assert condition.replace("_", " ") in row["why"]
    (crashes,) = tables(log).rows("SELECT * FROM failures WHERE experiment = 'e' AND arm = 't'")
    assert (crashes["attempts"], crashes["crash"], crashes["condition"]) == (3, failed, condition)


def test_a_failed_seed_that_was_run_again_counts_and_its_failure_is_told(log):
    filled(log, "e")
    ran(log, "e", "t", 0, None, again="-again")
    row = effect(log)
    assert (row["n_t"], row["failures_t"], row["attempts_t"]) == (4, 1, 5)
    assert "1 of its 5 runs" in row["why"]


# ── looks ──


def test_a_plan_with_looks_is_judged_at_the_last_look_that_is_complete_on_its_seeds_alone(log):
    planned(log, "e", ["c", "t"], [0, 1, 2, 3, 4], stopping="looks", looks=(2, 3, 5))
    for s in (0, 1, 2, 3):
        ran(log, "e", "c", s, 1.2 + s / 1000)
        ran(log, "e", "t", s, 1.1 + s / 1100)
    row = effect(log)
    assert (row["mode"], row["look"], row["n_t"]) == ("looks", 2, 3)


def test_before_the_first_look_is_complete_what_is_missing_is_pending(log):
    planned(log, "e", ["c", "t"], [0, 1, 2], stopping="looks", looks=(2, 3))
    ran(log, "e", "c", 0, 1.2)
    ran(log, "e", "t", 0, 1.1)
    row = effect(log)
    assert (row["verdict"], row["look"], row["pending"]) == ("undecided", 1, 2)


def test_an_arm_that_got_no_further_seeds_stays_at_its_own_last_look(log):
    looks = {"stopping": "looks", "looks": (2, 4)}
    planned(log, "e", ["c", "stays", "goes"], [0, 1], **looks)
    for s in (0, 1):
        for arm, y in (("c", 1.2), ("stays", 1.1), ("goes", 1.15)):
            ran(log, "e", arm, s, y + s / (1000 + len(arm)))
    planned(log, "e", ["c", "goes"], [0, 1, 2, 3], amends="x", **looks)
    for s in (2, 3):
        for arm, y in (("c", 1.2), ("goes", 1.15)):
            ran(log, "e", arm, s, y + s / (1000 + len(arm)))
    stays, goes = effect(log, arm="stays"), effect(log, arm="goes")
    assert (stays["look"], stays["n_t"], stays["pending"]) == (1, 2, 0)
    assert (goes["look"], goes["n_t"], goes["pending"]) == (2, 4, 0)
    assert stays["p_bound"] < 0.05


def test_seeds_that_are_added_to_a_plan_with_one_look_make_it_go_by_e_values(log):
    filled(log, "e")
    assert effect(log)["mode"] == "fixed"
    planned(log, "e", ["c", "t"], [*SEEDS, 9], amends="x")
    for arm, y in (("c", 1.2), ("t", 1.15)):
        ran(log, "e", arm, 9, y)
    row = effect(log)
    assert (row["mode"], row["look"], row["n_t"]) == ("anytime", None, 5)
    assert row["p_adj"] == pytest.approx(1 / row["e_value"])


# ── noise ──


def test_the_noise_of_the_class_is_borrowed_and_that_of_another_is_not(log):
    filled(log, "e", sd=0.001)
    alone = effect(log)
    assert alone["variance"] == "own"
    filled(log, "f", arms=("c", "u", "v", "w"), seeds=[10, 11, 12], sd=0.001, seed=5)
    assert (effect(log)["variance"], effect(log)["prior_arms"]) == ("moderated", 6)
    elsewhere = events.NoiseClass("test", "large", "val_bpb", "train")
    planned(log, "g", ["c", "u"], [0, 1], noise_class=elsewhere, base="g")
    for s in (0, 1):
        for arm in ("c", "u"):
            ran(log, "g", arm, s, 1.2 + 0.1 * s + len(arm), base="g", noise_class=elsewhere)
    assert effect(log)["prior_arms"] == 6
    assert {row["noise_class"]: row["arms"] for row in tables(log).rows("SELECT * FROM noise")} == {
        "test, small, val_bpb, train": 6,
        "test, large, val_bpb, train": 2,
    }


def test_forks_borrow_from_differences_of_forks_and_not_from_runs(log):
    filled(log, "e", sd=0.1, pair_tier="seed", arms=("c", "t", "u", "v", "w"))
    planned(log, "f", ["c", "a1", "a2", "a3", "a4", "a5"], SEEDS, pair_tier="fork")
    rng = random.Random(2)
    for s in SEEDS:
        checkpoint = rng.gauss(1.2, 0.1)
        ran(log, "f", "c", s, checkpoint)
        for arm in ("a1", "a2", "a3", "a4", "a5"):
            ran(log, "f", arm, s, checkpoint - 0.01 + rng.gauss(0, 0.0001))
    row = effect(log, "f", "a1")
    assert (row["rho"], row["variance"], row["verdict"]) == (1.0, "moderated", "better")
    assert row["sd"] < 0.001
    assert effect(log)["sd_t"] > 0.05


def test_a_cycle_spends_its_share_of_alpha(log):
    filled(log, "e", cycle=3, family="screen")
    row = effect(log)
    assert (row["cycle"], row["alpha_look"]) == (3, pytest.approx(0.05 / 12))
    (spent,) = tables(log).rows("SELECT * FROM alpha_ledger")
    assert (spent["alpha_granted"], spent["alpha_left"]) == (pytest.approx(0.05 / 12), 0.0)


def test_the_alpha_of_all_plans_adds_up_over_the_log(log):
    filled(log, "e", alpha=0.05)
    filled(log, "f", arms=("c", "u", "v"), seeds=[7, 8], alpha=0.01, seed=2)
    planned(log, "g", ["c", "x"], [20], track="explore")
    rows = tables(log).rows("SELECT experiment, intervention, granted_total FROM alpha_ledger")
    assert [(row["experiment"], row["intervention"], round(row["granted_total"], 9)) for row in rows] == [
        ("e", "t", 0.05),
        ("f", "u", 0.06),
        ("f", "v", 0.06),
    ]


# ── what cannot be decided ──


def test_an_experiment_without_a_finished_pair_is_refused(log):
    planned(log, "e", ["c", "t"], SEEDS)
    ran(log, "e", "t", 0, 1.1)
    with pytest.raises(UsageError, match="no finished pair yet"):
        decide(tables(log), "e")


def test_where_every_run_of_an_arm_failed_that_is_the_finding(log):
    planned(log, "e", ["c", "t"], [0, 1])
    for s in (0, 1):
        ran(log, "e", "c", s, 1.2 + s)
        ran(log, "e", "t", s, None)
    (made,) = decide(tables(log), "e")
    assert (made.verdict, made.condition) == ("invalid", "failed")


def test_a_policy_that_needs_what_the_runs_lack_is_refused(log):
    filled(log, "e")
    with pytest.raises(UsageError, match="how many nats val_bpb has is unknown"):
        decide(tables(log), "e", find("parameter-golf-readme"))
    with pytest.raises(UsageError, match="its target is in val_loss"):
        decide(tables(log), "e", find("modded-nanogpt-track1"))


def test_nats_are_known_where_runs_tell_their_loss_in_nats_too(log):
    filled(log, "e", shift=-0.05)
    planned(log, "f", ["c", "t"], SEEDS)
    for s in SEEDS:
        for arm, y in (("c", 1.2), ("t", 1.19)):
            value = y + s / 1000 + len(arm) / 10_000
            run = f"f-{arm}-{s}"
            finals = (events.FinalMetric("val_bpb", value, 1), events.FinalMetric("val_loss", 2.5 * value, 1))
            start = history.started(run, "f", arm, s, cell=run)
            end = msgspec.structs.replace(history.finished(run, value), finals=finals)
            log.writer.append([Draft(f"run/{run}", start), Draft(f"run/{run}", end)])
    (made,) = decide(tables(log), "f", find("parameter-golf-readme"))
    assert made.reference == pytest.approx(-0.005 / 2.5)
    assert made.label == "holds"


@pytest.mark.parametrize("value", ["NaN", "Infinity", 1e300])
def test_a_score_that_is_no_number_claims_nothing(log, value):
    filled(log, "e", seeds=[1, 2, 3])
    planned(log, "e", ["c", "t"], [0, 1, 2, 3], amends="x")
    ran(log, "e", "c", 0, 1.2)
    ran(log, "e", "t", 0, value)
    row = effect(log)
    if value == 1e300:
        assert (row["verdict"], "is beyond 1e+100" in row["why"]) == ("invalid", True)
    else:
        assert (row["n_t"], row["lost"], row["failures_t"]) == (3, 1, 1)


def test_every_number_of_the_sentence_is_in_the_row(log):
    filled(log, "e", sd=0.01, shift=-0.004)
    row = effect(log)
    for name, form in (("effect", "+.4g"), ("ci95_lo", "+.4g"), ("p_adj", ".2g"), ("k_more_seeds", "d")):
        assert format(row[name], form) in row["why"]


def test_gathering_some_experiments_gives_what_gathering_all_gives(log):
    filled(log, "e")
    filled(log, "f", arms=("c", "u"), seeds=[4, 5, 6], seed=1)
    built = tables(log)
    assert gather(built.rows, ["f"]) == [one for one in gather(built.rows) if one.plan["experiment"] == "f"]

"""Verdicts, and their replay."""

import random

import history
import msgspec
import pytest

from ledger import events
from ledger.errors import UsageError
from ledger.writer import Draft
from projections.decide import decide, replay
from projections.engine import each_head, tables

SEEDS = [0, 1, 2, 3]


def filled(log, shift, sd, *, direction="lower", delta=0.01, seed=0):
    """A ledger with one arm whose runs differ from the control's by `shift`, with noise `sd`."""
    rng = random.Random(seed)
    values = {(arm, s): 1.2 + (shift if arm == "t" else 0) + rng.gauss(0, sd) for s in SEEDS for arm in ("c", "t")}
    return history.fill(log, history.registered("e", ["c", "t"], SEEDS, direction=direction, delta=delta), values)


def only(log):
    (made,) = decide(tables(log), "e")
    return made


def test_a_lower_score_is_better(log):
    filled(log, -0.05, 0.001)
    made = only(log)
    assert (made.verdict, made.beyond_delta) == ("better", True)


def test_a_lower_score_is_worse_where_higher_is_better(log):
    filled(log, -0.05, 0.001, direction="higher")
    assert only(log).verdict == "worse"


def test_a_real_effect_below_delta_is_called_small(log):
    filled(log, -0.004, 0.0003)
    made = only(log)
    assert (made.verdict, made.small, made.beyond_delta) == ("better", True, False)


def test_an_interval_within_delta_is_no_effect_that_matters(log):
    filled(log, 0.0, 0.001, seed=3)
    assert only(log).verdict == "no_effect_that_matters"


def test_too_much_noise_is_undecided_with_seeds_still_needed(log):
    filled(log, 0.0, 0.05, seed=2)
    made = only(log)
    assert made.verdict == "undecided"
    assert made.k_more_seeds > 10


def test_identical_seeds_are_invalid(log):
    filled(log, 0.01, 0.0)
    made = only(log)
    assert made.verdict == "invalid"
    assert "seed" in made.why


def test_no_finished_pair_is_undecided_and_claims_nothing(log):
    history.fill(log, history.registered("e", ["c", "t"], SEEDS), {("c", 0): 1.0, ("t", 0): 1.1})
    made = only(log)
    assert (made.verdict, made.n_pairs, made.pending) == ("undecided", 1, 3)
    assert "3 of 4 planned pairs have not run yet" in made.why


def test_what_survived_failures_is_a_selection(log):
    values = {("c", s): 1.2 + s / 100 for s in SEEDS} | {("t", s): None for s in SEEDS[1:]} | {("t", 0): 1.0}
    history.fill(log, history.registered("e", ["c", "t"], SEEDS), values)
    made = only(log)
    assert (made.verdict, made.failures_t) == ("invalid", 3)
    assert "3 of 4 planned pairs failed" in made.why


def test_a_failure_that_was_run_again_stays_in_the_sentence(log):
    filled(log, -0.05, 0.001)
    start, end = history.started("bad", "e", "t", 0), history.finished("bad", None, "diverged")
    log.writer.append([Draft("run/bad", start), Draft("run/bad", end)])
    made = only(log)
    assert (made.verdict, made.failures_t) == ("better", 1)
    assert "1 of its runs" in made.why


def test_leaving_seeds_out_of_the_plan_afterwards_changes_no_verdict(log):
    filled(log, -0.01, 0.02, seed=5)
    before = only(log)
    fewer = history.registered("e", ["c", "t"], SEEDS[:2], alpha=0.9, delta=5.0, direction="higher", amends="x")
    log.writer.append([Draft("experiment/e", fewer)])
    after = only(log)
    same = msgspec.structs.replace(after, head=before.head)
    assert same == before


def test_dropping_arms_makes_the_family_no_smaller(log):
    values = {
        (arm, s): 1.0 + 0.01 * (3 * s + len(arm) + ord(arm[0])) % 7 / 100 + s / 50
        for arm in ("c", "a", "b")
        for s in SEEDS
    }
    history.fill(log, history.registered("e", ["c", "a", "b"], SEEDS), values)
    log.writer.append([Draft("experiment/e", history.registered("e", ["c", "a"], SEEDS, amends="x"))])
    assert {made.family_size for made in decide(tables(log), "e")} == {2}


def test_adding_seeds_is_another_look_and_spends_less(log):
    filled(log, -0.01, 0.02)
    log.writer.append([Draft("experiment/e", history.registered("e", ["c", "t"], [*SEEDS, 9], amends="x"))])
    made = only(log)
    assert (made.look, made.alpha_look) == (2, pytest.approx(0.005))


def test_runs_from_before_the_plan_are_invalid_evidence(log):
    for arm, value in (("c", 1.0), ("t", 1.1)):
        run = f"early-{arm}"
        log.writer.append(
            [
                Draft(f"run/{run}", history.started(run, "e", arm, 0)),
                Draft(f"run/{run}", history.finished(run, value)),
            ]
        )
    history.fill(log, history.registered("e", ["c", "t"], [0, 1]), {("c", 1): 1.0, ("t", 1): 1.2})
    made = only(log)
    assert made.verdict == "invalid"
    assert "before the plan" in made.why


def run_now(log, run, arm, seed, value):
    start, end = history.started(run, "e", arm, seed), history.finished(run, value)
    log.writer.append([Draft(f"run/{run}", start), Draft(f"run/{run}", end)])


def register_now(log, arms, seeds, **changes):
    plan = history.registered("e", arms, seeds, **changes)
    return log.writer.append([Draft("experiment/e", plan)]).event_ids[0]


def exploratory(log):
    rows = tables(log).rows("SELECT intervention, seed FROM paired_differences WHERE exploratory ORDER BY ALL")
    return [(row["intervention"], row["seed"]) for row in rows]


def test_a_run_from_before_its_plan_stays_exploratory_whatever_comes_later(log):
    run_now(log, "early", "t", 0, 1.1)
    register_now(log, ["c", "t"], [0, 1])
    for arm, seed in (("c", 0), ("c", 1), ("t", 1), ("t", 0)):
        run_now(log, f"{arm}{seed}", arm, seed, 1.0 + seed / 10 + (arm == "t"))
    assert exploratory(log) == [("t", 0)]
    register_now(log, ["c", "t"], [0, 1, 2], amends="x")
    assert exploratory(log) == [("t", 0)]
    assert only(log).verdict == "invalid"


def test_a_seed_that_ran_before_the_amendment_that_plans_it_is_exploratory(log):
    register_now(log, ["c", "t"], [0, 1])
    amendment = register_now(log, ["c", "t"], [0, 1, 2], amends="x")
    for arm in ("c", "t"):
        for seed in (0, 1, 2):
            run_now(log, f"{arm}{seed}", arm, seed, 1.0 + seed / 10 + (arm == "t"))
    assert exploratory(log) == []
    log.writer.append([Draft("event/x", events.EventRetracted(target=amendment, reason="too many"))])
    register_now(log, ["c", "t"], [0, 1, 2], amends="x")  # now that its result is known
    assert exploratory(log) == [("t", 2)]


def test_an_arm_that_is_added_meets_controls_from_before_its_amendment(log):
    register_now(log, ["c", "t"], [0, 1])
    for arm in ("c", "t"):
        for seed in (0, 1):
            run_now(log, f"{arm}{seed}", arm, seed, 1.0 + seed / 10 + (arm == "t"))
    register_now(log, ["c", "t", "new"], [0, 1], amends="x")
    for seed in (0, 1):
        run_now(log, f"new{seed}", "new", seed, 1.2 + seed / 7)
    assert exploratory(log) == []


def test_nothing_that_explores_is_claimed(log):
    filled(log, -0.05, 0.001)
    explored = history.registered("x", ["c", "t"], SEEDS, track="explore")
    rng = random.Random(0)
    history.fill(log, explored, {(a, s): 1.2 - 0.05 * (a == "t") + rng.gauss(0, 0.001) for s in SEEDS for a in "ct"})
    (made,) = decide(tables(log), "x")
    assert (only(log).verdict, made.verdict) == ("better", "invalid")
    assert "explores" in made.why


def test_the_sentence_uses_the_rows_numbers(log):
    filled(log, -0.05, 0.001)
    made = only(log)
    assert f"{made.effect:+.4g}" in made.why
    assert f"{made.ci95_lo:+.4g}" in made.why
    assert f"{made.delta:g}" in made.why


def test_the_evidence_is_the_outcomes_of_both_arms(log):
    ids = filled(log, 0.0, 0.01)
    assert set(only(log).used) == set(ids)


def test_an_unknown_experiment_is_refused(log):
    with pytest.raises(UsageError, match="no experiment"):
        decide(tables(log), "nothing")


def test_an_experiment_of_one_arm_has_nothing_to_decide(log):
    history.fill(log, history.registered("e", ["c"], [0]), {("c", 0): 1.0})
    with pytest.raises(UsageError, match="one arm"):
        decide(tables(log), "e")


def test_replay_is_exact_after_the_log_has_grown(log):
    filled(log, -0.05, 0.01)
    made = only(log)
    log.writer.append([Draft("experiment/e", made)])
    history.fill(log, history.registered("f", ["c", "t"], [0, 1]), {("c", 0): 1.0, ("t", 0): 1.1})
    heads = each_head(log, [made.head.position])
    assert replay(next(heads), made) == []


def test_replay_names_every_figure_that_differs(log):
    filled(log, -0.05, 0.01)
    made = only(log)
    forged = msgspec.structs.replace(made, effect=-0.06, engine="other/9")
    found = {difference.field for difference in replay(tables(log), forged)}
    assert found == {"effect", "engine"}


def test_a_retraction_changes_later_decisions_and_no_earlier_one(log):
    ids = filled(log, -0.02, 0.002)
    before = only(log)
    log.writer.append([Draft("experiment/e", before)])
    log.writer.append([Draft("run/x", events.EventRetracted(target=ids[0], reason="wrong data"))])
    after = only(log)
    assert (before.n_pairs, after.n_pairs) == (4, 3)
    heads = each_head(log, [before.head.position])
    assert replay(next(heads), before) == []


def test_of_two_ok_runs_of_a_cell_the_first_counts(log):
    filled(log, -0.02, 0.002)
    before = only(log)
    again = [
        Draft("run/late", history.started("late", "e", "t", 0)),
        Draft("run/late", history.finished("late", 0.5)),
    ]
    log.writer.append(again)
    after = only(log)
    assert after.effect == before.effect

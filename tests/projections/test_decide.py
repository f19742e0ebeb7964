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
    history.fill(log, history.registered("e", ["c", "t"], SEEDS), {("c", 0): 1.0, ("t", 0): None})
    made = only(log)
    assert (made.verdict, made.n_pairs, made.failed, made.effect) == ("undecided", 0, 4, None)


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
    (then,) = each_head(log, [made.head.position])
    assert replay(then, made) == []


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
    (then,) = each_head(log, [before.head.position])
    assert replay(then, before) == []


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

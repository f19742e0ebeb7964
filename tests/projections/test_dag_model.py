"""The model behind the DAG on data made by hand, and how well it recovers worlds whose truth is known."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks import dag_worlds
from projections.dag import measures, model
from projections.dag.contrasts import Contrast, Data
from projections.dag.difference import moved
from projections.statistics import lineage

DELTAS = {"val_bpb": 0.002}


def data_of(steps, noise=1e-8, stacks=None):
    """Data from (child, parent, techniques, value); every one primary and of a branch of its own."""
    contrasts = tuple(
        Contrast(
            "val_bpb", "here", child, parent, tuple((name, 1) for name in techniques), value,
            (f"{child} {number}", f"{parent} {number}"), child, True, "experiment", (),
        )
        for number, (child, parent, techniques, value) in enumerate(steps)
    )  # fmt: skip
    has = stacks or {}
    ends = {name for one in contrasts for name in (one.child, one.parent)}
    return Data(
        contrasts,
        (),
        {end: noise for one in contrasts for end in one.noise},
        {},
        {name: ("here", frozenset(has.get(name, ()))) for name in ends},
        {},
        {},
        0,
        (),
    )


def test_a_loop_is_what_was_measured_around_it_less_what_the_effects_imply():
    steps = [("b", "a", ["x"], -0.004), ("c", "b", ["y"], -0.003), ("c", "a", ["x", "y"], 0.02)]
    (fit,) = model.fits(data_of(steps), DELTAS, "0")
    (loop,) = fit.loops
    assert sorted(loop.stacks) == ["a", "b", "c"]
    assert loop.techniques == {"x", "y"}
    assert abs(loop.residual) == pytest.approx(0.027, abs=1e-9)  # x + y around it cancel exactly


def test_a_consistent_loop_closes():
    steps = [("b", "a", ["x"], -0.004), ("c", "b", ["y"], -0.003), ("c", "a", ["x", "y"], -0.007)]
    (fit,) = model.fits(data_of(steps), DELTAS, "0")
    assert [loop.residual for loop in fit.loops] == [pytest.approx(0, abs=1e-12)]


def test_the_same_comparison_made_twice_is_a_loop_of_two():
    steps = [("b", "a", ["x"], -0.004), ("b", "a", ["x"], -0.002), ("c", "a", ["y"], 0.001)]
    (fit,) = model.fits(data_of(steps), DELTAS, "0")
    assert [(sorted(loop.stacks), abs(loop.residual)) for loop in fit.loops] == [(["a", "b"], pytest.approx(0.002))]


def test_an_interaction_is_asked_for_only_where_the_techniques_cannot_tell_it():
    apart = [(f"w{n}", "a", ["x"], -0.004) for n in range(2)] + [(f"d{n}", "a", ["y"], -0.003) for n in range(2)]
    both = [(f"b{n}", "a", ["x", "y"], -0.012) for n in range(2)]
    has = {name: techniques for name, _, techniques, _ in apart + both}
    (fit,) = model.fits(data_of(apart + both, stacks=has), DELTAS, "0")
    (pair,) = fit.pairs
    assert (pair.a, pair.b, pair.contrasts) == ("x", "y", 2)
    assert pair.mean < -0.001
    (none,) = model.fits(data_of(apart, stacks=has), DELTAS, "0")
    assert none.pairs == ()


def test_leaving_a_branch_out_moves_the_effect_that_it_carried():
    steps = [(f"w{n}", "a", ["x"], -0.004) for n in range(4)] + [("odd", "a", ["x"], -0.009)]
    (fit,) = model.fits(data_of(steps), DELTAS, "0")
    ((low, high),) = fit.loo
    assert low < fit.effects.mean[0] < high
    assert high - low > 0.0005


def test_with_one_branch_nothing_can_be_left_out():
    (fit,) = model.fits(data_of([("b", "a", ["x"], -0.004)]), DELTAS, "0")
    assert fit.loo == (None,)


def test_an_outlier_counts_little():
    steps = [(f"w{n}", "a", ["x"], -0.004 + 0.0002 * n) for n in range(6)]
    (plain,) = model.fits(data_of(steps), DELTAS, "0")
    (with_it,) = model.fits(data_of([*steps, ("odd", "a", ["x"], -0.12)]), DELTAS, "0")
    assert with_it.effects.mean[0] == pytest.approx(plain.effects.mean[0], abs=0.0004)
    assert [extra > 0 for extra in with_it.effects.extra] == [False] * 6 + [True]


def test_left_out_residuals_are_those_of_the_others():
    """Closed form against leaving each out by hand."""
    rng = np.random.default_rng(0)
    root = rng.normal(size=(5, 5))
    total, dy = root @ root.T + np.eye(5), rng.normal(size=5)
    residual, variance = lineage.left_out(dy, total)
    for i in range(5):
        rest = [j for j in range(5) if j != i]
        weights = np.linalg.solve(total[np.ix_(rest, rest)], total[rest, i])
        assert residual[i] == pytest.approx(dy[i] - weights @ dy[rest])
        assert variance[i] == pytest.approx(total[i, i] - weights @ total[rest, i])


@settings(deadline=None, max_examples=20)
@given(st.permutations(range(6)))
def test_the_order_of_the_comparisons_does_not_matter(order):
    steps = [
        ("b", "a", ["x"], -0.004), ("c", "a", ["y"], 0.001), ("d", "b", ["y", "z"], 0.002), ("e", "a", ["z"], 0.0),
        ("f", "c", ["x"], -0.005), ("g", "a", ["x", "z"], -0.004),
    ]  # fmt: skip
    (one,) = model.fits(data_of(steps), DELTAS, "0")
    (other,) = model.fits(data_of([steps[i] for i in order]), DELTAS, "0")
    assert other.techniques == one.techniques
    assert other.effects.mean == pytest.approx(one.effects.mean, rel=1e-9, abs=1e-12)
    assert other.known == one.known


def test_always_together_are_the_pairs_that_no_record_has_apart():
    data = data_of([("b", "a", ["x"], 0.0)])._replace(
        named={"x": ["r1", "r2"], "y": ["r1", "r2"], "z": ["r1"], "u": ["r3"], "v": ["r3"], "w": ["r3"]}, records=3
    )
    pairs = [(a, b) for a, b in itertools.combinations(data.named, 2) if data.named[a] == data.named[b]]
    assert measures.always_together(data) == len(pairs) == 4


class Figures:
    """An edge as far as `moved` looks at it."""

    def __init__(self, effect, sd):
        self.effect, self.sd = effect, sd


def test_a_change_is_measured_in_what_the_new_events_could_move_the_effect_by():
    before, after = Figures(-0.002, 0.0010), Figures(-0.0026, 0.0008)
    assert moved(before, after) == pytest.approx(-0.0006 / 0.0006)
    assert moved(before, Figures(-0.003, 0.0010)) == pytest.approx(-0.001 / 0.0002)  # a fifth of the larger
    assert moved(before, None) is None
    assert moved(Figures(1.0, 0.0), Figures(1.0, 0.0)) is None


def test_simulated_worlds_are_recovered_in_the_short_run_of_the_benchmark():
    rows = dag_worlds.simulate(6, 0, seed=6)
    assert dag_worlds.broken(rows, full=False) == []
    assert [row["crashes"] for row in rows] == [0, 0, 0]


@pytest.mark.slow
def test_the_bounds_hold_on_two_hundred_worlds():
    assert dag_worlds.broken(dag_worlds.simulate(200, 0, seed=6), full=True) == []

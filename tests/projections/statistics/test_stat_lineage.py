"""Techniques from lineages: what can be told apart, and what the additive model says of it."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from projections.statistics import identifiability, lineage


def matrices():
    entries = st.sampled_from([-1, 0, 0, 1])
    return st.integers(1, 6).flatmap(
        lambda width: st.tuples(
            st.just(width), st.lists(st.lists(entries, min_size=width, max_size=width), max_size=7)
        )
    )


@settings(deadline=None)
@given(matrices())
def test_structure_is_the_hat_matrix(table):
    width, rows = table
    found = identifiability.identify(rows, width)
    d = np.array(rows, float).reshape(-1, width)
    hat = np.linalg.pinv(d) @ d
    assert list(found.structural) == [abs(value - 1) < 1e-9 for value in np.diag(hat)]
    assert found.rank == np.linalg.matrix_rank(d)
    null = np.eye(width) - hat
    for i in range(width):
        for j in range(width):
            if abs(null[i, j]) > 1e-9:
                assert found.alias_class[i] == found.alias_class[j] is not None


def test_techniques_that_always_came_together_are_aliases():
    found = identifiability.identify([[1, 1, 0, 0], [0, 0, 1, 0]], 4)
    assert found.structural == (False, False, True, False)
    assert found.alias_class == (0, 0, None, 1)


def test_the_cheapest_separating_experiment():
    rows = [[1, 1, 0], [0, 0, 1]]
    candidates = [([1, 1, 0], 1.0), ([0, 0, 1], 1.0), ([1, 0, 0], 6.0), ([0, 1, 0], 3.0)]
    found = identifiability.separate(rows, 3, candidates, among=[0, 1])
    assert (found.candidate, found.cost, found.rank) == (3, 3.0, 3)
    assert identifiability.separate(rows, 3, candidates[:2], among=[0, 1]) is None


def test_one_cell_of_the_grid_is_the_normal_posterior(monkeypatch):
    rng = np.random.default_rng(0)
    delta = 0.002
    monkeypatch.setattr(lineage, "TAUS", np.array([1.5]))
    monkeypatch.setattr(lineage, "OMEGAS", np.array([0.5]))
    design = np.array([[1, 0, 0], [0, 1, 0], [-1, 0, 1], [0, 1, 1], [1, 0, 0]])
    edges = [(1, 0), (2, 1), (3, 2), (4, 1), (5, 0)]
    v = rng.uniform(1e-7, 4e-7, 6)
    dy = rng.normal(0, 0.003, 5)
    found = lineage.lineage(dy, design, edges, v, delta)
    n = np.zeros((5, 6))
    for i, (child, parent) in enumerate(edges):
        n[i, child], n[i, parent] = 1, -1
    x = np.column_stack([design, np.ones(5)])
    prior = np.zeros((4, 4))
    prior[:3, :3] = (1.5 * delta) ** 2 * np.eye(3) + delta**2
    prior[3, 3] = delta**2
    noise = n @ np.diag(v) @ n.T + (0.5 * delta) ** 2 * np.eye(5)
    precision = np.linalg.inv(prior) + x.T @ np.linalg.solve(noise, x)
    expected = np.linalg.solve(precision, x.T @ np.linalg.solve(noise, dy))
    assert found.mean == pytest.approx(expected[:3], rel=1e-6)
    assert found.sd == pytest.approx(np.sqrt(np.diag(np.linalg.inv(precision)))[:3], rel=1e-6)
    assert found.c == pytest.approx(expected[3], rel=1e-6)


def test_lineages_recover_signs_that_publication_keeps():
    rng = np.random.default_rng(3)
    truth = np.array([-0.004, -0.002, 0.0, 0.003, -0.001, 0.0])
    design = (rng.random((40, 6)) < 0.3).astype(int)
    edges = [(i + 1, int(rng.integers(0, i + 1))) for i in range(40)]
    noise = rng.normal(0, 0.0004, 41)
    dy = design @ truth + np.array([noise[c] - noise[p] for c, p in edges]) + rng.normal(0, 0.0003, 40)
    found = lineage.lineage(dy, design.tolist(), edges, [0.0004**2] * 41)
    assert np.sqrt(np.mean((np.array(found.mean) - truth) ** 2)) < 0.0006
    assert found.p_negative[0] > 0.99
    assert found.p_negative[3] < 0.01
    assert all(found.practical)

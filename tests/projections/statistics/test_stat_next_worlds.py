"""The simulations of benchmarks/next_worlds.py and benchmarks/transfer_worlds.py, with few worlds."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))  # benchmarks is no installed package

from benchmarks import next_worlds, transfer_worlds


@pytest.fixture(scope="module")
def rows():
    rules = ("uniform", "voi")
    return [
        *next_worlds.simulate(worlds=80, seed=6, budgets=(45,), rules=rules),
        *next_worlds.simulate(worlds=10, seed=6, budgets=(75, 144), rules=rules),
    ]


def test_choosing_by_value_of_information_is_never_much_worse_than_taking_turns(rows):
    assert len(rows) == 9
    assert all(row["gap"] + 2 * row["gap_se"] >= -0.03 for row in rows), rows


def test_it_is_better_where_costs_differ_tenfold(rows):
    row = next(row for row in rows if row["world"] == next_worlds.TENFOLD and row["budget"] == 45)
    assert row["voi"] >= 1.10 * row["uniform"]


def test_a_broken_bound_is_named(rows):
    bad = [rows[0] | {"gap": -0.05}, rows[2] | {"voi": rows[2]["uniform"]}]
    assert len(next_worlds.broken(bad)) == 2


def test_the_slope_from_a_proxy_is_covered_and_near():
    found = transfer_worlds.simulate(worlds=60, seed=6)
    assert transfer_worlds.broken(found, sure=True) == []
    assert all(row["rmse"] < row["ratio_rmse"] for row in found)


def test_least_squares_would_not_cover_it():
    row = transfer_worlds.simulate(worlds=60, seed=7)[1]
    assert row["ols_coverage"] < 0.8 < row["coverage"]

"""The simulation of `python -m benchmarks.worlds` with few screens: the shipped rule in known worlds."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))  # benchmarks is no installed package

from benchmarks import worlds


@pytest.fixture(scope="module")
def rows():
    return worlds.simulate(screens=40, seed=5)


def test_no_bound_is_broken_beyond_chance(rows):
    assert len(rows) == 15
    assert [line for line in worlds.broken(rows, full=False) if "power" not in line] == []


def test_the_rule_finds_what_the_seed_plan_cannot(rows):
    """At leaderboard noise the seed plan shows .003 in 8 % of cases with 144 runs."""
    found = {(row["world"], row["way"]): row for row in rows}
    assert found["leaderboard", "3 seeds"]["power_003"] > 0.8
    assert found["leaderboard", "3 seeds"]["runs"] == 87
    assert found["leaderboard", "planned looks"]["runs"] < 85


def test_a_broken_bound_is_named(rows):
    careless = [rows[0] | {"fwer": 0.2, "fwer_lower": 0.1, "fwer_upper": 0.3}]
    assert worlds.broken(careless, full=False)[0] == "leaderboard, 3 seeds: family-wise error 0.200, bound 0.05"

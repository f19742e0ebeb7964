"""Discovery programs as witnesses: whatever they do is an outcome, and what they print stays with them."""

import importlib.util
import itertools
import random
import sys

import pytest

from runners import discovery
from runners.causal_child import answer, exact_p
from runners.discovery import discover

needs_causal = pytest.mark.skipif(
    importlib.util.find_spec("causallearn") is None, reason="causal-learn is not installed"
)


def world(rows=120, seed=1):
    """A and b act on y; c does not."""
    rng = random.Random(seed)
    table = []
    for _ in range(rows):
        a, b, c = (float(rng.random() < 0.5) for _ in range(3))
        table.append([a, b, c, 2 * a + b + rng.gauss(0, 0.3)])
    return ("a", "b", "c", "y"), table


def near(found):
    return {frozenset((edge.src, edge.dst)) for edge in found.proposed}


@needs_causal
@pytest.mark.parametrize("algorithm", ["fci", "pc", "ges"])
def test_a_program_finds_what_is_plain_to_see(algorithm, capfd):
    found = discover(algorithm, *world())
    assert (found.outcome, found.reason) == ("ok", "")
    assert near(found) == {frozenset("ay"), frozenset("by")}
    assert found.version.startswith("causal-learn ")
    assert capfd.readouterr() == ("", "")


@needs_causal
def test_the_exact_test_finds_it_too():
    found = discover("fci", *world(), test="exact")
    assert (found.outcome, found.test) == ("ok", "exact")
    assert frozenset("ay") in near(found)
    assert frozenset("cy") not in near(found)


@needs_causal
def test_equal_opposite_and_constant_columns_are_named_and_left_out():
    names, rows = world()
    more = [[*row[:3], row[0], 1 - row[1], 1.0, row[3]] for row in rows]
    found = discover("fci", ("a", "b", "c", "same", "other", "always", "y"), more)
    assert found.merged == ("a = same", "b = not other", "always = const")
    assert found.columns == 4
    assert near(found) == {frozenset("ay"), frozenset("by")}
    assert names[-1] == "y"


@needs_causal
def test_a_singular_matrix_is_an_outcome():
    rng = random.Random(0)
    rows = []
    for _ in range(rng.choice([12])):
        a = [float(rng.random() < 0.5) for _ in range(6)]
        rows.append([*a, a[0] + a[1], 1.2 - 0.01 * a[0]])  # the seventh is the sum of two others
    found = discover("fci", (*"abcdef", "both", "y"), rows, alpha=0.05)
    assert (found.outcome, found.proposed) == ("singular", ())
    assert "singular" in found.reason.lower()


def test_a_program_that_takes_too_long_is_stopped():
    found = discover("fci", *world(), limit=0.05)
    assert (found.outcome, found.reason) == ("timeout", "no answer within 0.05 s")


@pytest.mark.parametrize(
    ("names", "rows", "said"),
    [
        (("a", "y"), [[0.0, 1.0]] * 3, "3 stacks"),
        (("a", "y"), [[0.0, 1.0]] * 20, "no two columns vary"),
        (("y",), [], "0 stacks"),
    ],
)
def test_too_little_to_look_at_is_an_outcome(names, rows, said):
    found = discover("pc", names, rows)
    assert found.outcome == "degenerate"
    assert said in found.reason


def test_without_the_extra_the_outcome_says_how_to_get_it(tmp_path, monkeypatch):
    child = tmp_path / "causal_child.py"
    child.write_text(
        "import json, sys\njson.dump({'version': '', 'outcome': 'missing', 'reason': 'No module', "
        "'edges': []}, open(sys.argv[1], 'w'))\n"
    )
    monkeypatch.setattr(discovery, "CHILD", child)
    found = discover("fci", *world())
    assert found.outcome == "missing"
    assert 'pip install "experiment-ledger[causal]"' in found.reason


def test_a_module_that_is_missing_is_told_apart_from_one_that_fails(monkeypatch):
    monkeypatch.setitem(sys.modules, "causallearn", None)
    monkeypatch.setitem(sys.modules, "causallearn.search.ConstraintBased.FCI", None)
    asked = {"algorithm": "fci", "test": "fisherz", "alpha": 0.01, "names": ["a", "y"], "rows": [[0, 1], [1, 0]]}
    assert answer(asked)["outcome"] == "missing"


def test_a_process_that_dies_is_an_outcome(tmp_path, monkeypatch):
    child = tmp_path / "causal_child.py"
    child.write_text("import os, sys\nprint('noise')\nprint('boom', file=sys.stderr)\nos._exit(3)\n")
    monkeypatch.setattr(discovery, "CHILD", child)
    found = discover("ges", *world())
    assert (found.outcome, found.reason) == ("failed", "its process ended with 3: boom")


def test_the_exact_test_is_the_sum_over_all_tables_with_these_margins():
    """Against enumeration: every way to hand out the second column within its strata is equally likely."""
    import numpy as np

    a = np.array([1, 1, 0, 0, 1, 0, 1])
    strata = np.array([0, 0, 0, 0, 1, 1, 1])
    b = np.array([1, 1, 0, 0, 1, 0, 0])
    counts: dict[int, int] = {}
    for first in itertools.combinations(range(4), 2):
        for second in itertools.combinations(range(4, 7), 1):
            both = sum(a[i] for i in (*first, *second))
            counts[both] = counts.get(both, 0) + 1
    total, seen = sum(counts.values()), int((a * b).sum())
    wanted = sum(n for n in counts.values() if n <= counts[seen]) / total
    assert exact_p(a, b, strata) == pytest.approx(wanted)


def test_the_exact_test_without_strata_is_fishers():
    import numpy as np
    from scipy.stats import fisher_exact

    rng = np.random.default_rng(0)
    for _ in range(20):
        a, b = rng.integers(0, 2, 25), rng.integers(0, 2, 25)
        table = [[int(((a == i) & (b == j)).sum()) for j in (0, 1)] for i in (0, 1)]
        assert exact_p(a, b, np.zeros(25)) == pytest.approx(fisher_exact(table)[1])

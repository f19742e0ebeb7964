"""What records claim, recomputed: against values that were computed apart, and what must not be claimed."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from test_records import board, line, put, reading, retract

from ledger.records import ReadLineage, ReadSeed, ReadSelection, ReadTest
from projections.claims import same
from projections.engine import tables

OLD = (1.06610, 1.06473, 1.06563)
NEW = (1.06357, 1.06413, 1.06467, 1.06510, 1.06517)


def seeds(values, first=0, source="readme"):
    return tuple(
        ReadSeed(seed=first + n, val_bpb=value, source=source, evidence=f"README.md:{n}")
        for n, value in enumerate(values)
    )


def child(name="New", values=NEW, **more):
    parent = (ReadLineage(parent="Old", evidence="README.md:2"),)
    return reading(name, seeds=seeds(values, 10), lineage=parent, **more)


def old(values=OLD):
    return reading("Old", val_bpb=1.0, seeds=seeds(values))


def rows(log, kind, record="track/New"):
    return tables(log).rows("SELECT * FROM claim_audit WHERE kind = $1 AND record = $2", (kind, record))


def test_welch_of_a_step_is_scipys_and_so_is_the_printed_p(log):
    told = ReadTest(p="0.063", against=("#1736",), evidence="README.md:36")
    put(log, old(), child(), board(line(1, 1.0, "On PR #1736: x", record="track/Old"),
                                   line(2, 1.06, "On PR #1769", record="track/New", tests=(told,))))  # fmt: skip
    (step,) = rows(log, "step")
    welch = stats.ttest_ind(NEW, OLD, equal_var=False)
    assert step["welch_p"] == pytest.approx(welch.pvalue, rel=1e-9)
    assert step["welch_p1"] == pytest.approx(welch.pvalue / 2, rel=1e-9)
    (test,) = rows(log, "test")
    assert (test["match"], test["test"]) == ("reproduced", "Welch, one-sided, bpb")


def test_the_noise_of_all_records_of_the_track_tests_a_step(log):
    others = [reading(f"O{n}", seeds=seeds((1.1 + n, 1.1005 + n, 1.1010 + n))) for n in range(6)]
    put(log, old(), child(), *others)
    (step,) = rows(log, "step")
    assert step["prior_d0"] == 20
    assert 6 < step["df"] <= 18, "more than its own seeds have, never more than all have together"
    half = stats.t.ppf(0.975, step["df"]) * step["se"]
    assert step["ci95_hi"] == pytest.approx(step["effect"] + half, rel=1e-9)
    (elsewhere,) = put(log, child("Far", track="other"))
    assert elsewhere
    (far,) = rows(log, "step", "track/Far")
    assert far["prior_sd"] is None, "another track is another noise class"


def test_selected_seeds_make_a_step_invalid_and_say_what_shows_it(log):
    left = tuple(
        ReadSelection(kind="left_out", seed=seed, val_bpb=value, evidence=f"README.md:{seed}")
        for seed, value in ((50, 1.06534), (51, 1.06541))
    )
    put(log, old(), child(selections=left))
    (step,) = rows(log, "step")
    assert (step["verdict"], step["flags"]) == ("invalid", "seeds left out; best of those run")
    assert "5 of 7 seeds reported, not 50 (README.md:50), 51 (README.md:51)" in step["why"]
    put(log, child(source="b", selections=(ReadSelection(kind="tuned_on", seed=10, evidence="README.md:7"),)))
    (step,) = rows(log, "step")
    assert (step["verdict"], step["flags"]) == ("invalid", "tuning seed reported")
    put(log, child(source="c", selections=(ReadSelection(kind="tuned_on", seed=99, evidence="README.md:7"),)))
    assert rows(log, "step")[0]["flags"] == "", "a seed that is not reported may have tuned"


def test_one_seed_decides_nothing_however_large_the_difference(log):
    put(log, old((2.0,)), child())
    (step,) = rows(log, "step")
    assert (step["verdict"], step["p_holm"], step["flags"]) == ("undecided", None, "parent: one seed")


def test_a_score_that_is_the_best_seed_is_not_the_mean(log):
    put(log, child(val_bpb=1.06357), child("Mean", val_bpb=1.064528), reading("None", val_bpb=1.1))
    (best,) = rows(log, "claim")
    assert (best["match"], best["flags"]) == ("not reproduced", "best seed claimed")
    assert rows(log, "claim", "track/Mean")[0]["match"] == "reproduced"
    (bare,) = rows(log, "claim", "track/None")
    assert (bare["match"], bare["flags"], bare["n_t"]) == ("not computable", "no seeds", 0)


def test_what_is_no_measurement_is_counted_and_not_used(log):
    put(log, old(), child(values=(*NEW, 1e300), val_bpb=-1e300, base_val_bpb=1e300))
    (claim,) = rows(log, "claim")
    assert (claim["n_t"], claim["claimed"], claim["effect"]) == (5, None, None)
    assert "1 seed without a finite score" in claim["why"]
    assert rows(log, "step")[0]["n_t"] == 5


@pytest.mark.parametrize(
    ("against", "why"),
    [
        (("#99",), "pull request #99 is no record here"),
        (("77.5",), "no score like those of its seeds"),
        ((), "does not say what it is a test against"),
    ],
)
def test_a_test_that_cannot_be_made_again_says_why(log, against, why):
    put(log, reading("New", seeds=seeds(NEW), tests=(ReadTest(p="0.01", against=against, evidence="README.md:1"),)))
    (test,) = rows(log, "test")
    assert (test["match"], test["p_again"]) == ("not computable", None)
    assert why in test["why"]


def test_coarse_seeds_are_told_apart_from_a_wrong_p(log):
    values = (1.161, 1.1598, 1.1586)
    for p in ("0.0000578", "0.04"):
        told = ReadTest(p=p, against=("1.2244",), evidence=f"README.md:{p}")
        put(log, reading(f"P{len(p)}", seeds=seeds(values), tests=(told,)))
    assert rows(log, "test", "track/P9")[0]["match"] == "within rounding"
    assert rows(log, "test", "track/P4")[0]["match"] == "not reproduced"


def test_a_retracted_reading_takes_its_rows_along(log):
    put(log, old())
    (event,) = put(log, child())
    assert rows(log, "step")
    retract(log, event)
    assert rows(log, "step") == rows(log, "claim") == []
    assert tables(log).digests() == tables(log, fresh=True, threads=1).digests()


@settings(max_examples=200)
@given(value=st.floats(1e-6, 0.999), places=st.integers(1, 6))
def test_a_value_is_the_same_as_itself_printed_and_not_as_its_neighbour(value, places):
    text = f"{value:.{places}f}"
    assert same(text, value)
    assert not same(text, float(text) + 1.01 * 10.0**-places)

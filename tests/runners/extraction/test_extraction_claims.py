"""Printed tests and chosen seeds: the figures as written, with what they are against; and what is neither."""

import pytest

from ledger.records import ReadSeed
from runners.extraction import claims, markdown


def told(text):
    return [(one.p, one.relation, one.t, one.df, one.against) for one in claims.tests(markdown.parse(text), "R.md")]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("5-seed mean improves the frontier (p=0.063 vs #1736)", ("0.063", "=", None, None, ("#1736",))),
        ("3-seed sweep beats #1493 (p=0.020)", ("0.020", "=", None, None, ("#1493",))),
        ("On PR #7: stack of #9; 3-seed mean (p = 0.188 vs PR #18 rerun)", ("0.188", "=", None, None, ("#18",))),
        ("One-sided t-test against `1.2193`: `t=31.42` with `df=2`, `p=0.00051`",
         ("0.00051", "=", "31.42", "2", ("1.2193",))),
        ("- **t-statistic: 313.20** (df=2, p << 0.001)", ("0.001", "<", "313.20", "2", ())),
        ("From the PR #549 logs (`1.119`), Welch's t-test gives **t = \u221211.83**, **df ≈ 3.31**.",
         (None, "=", "-11.83", "3.31", ("#549",))),
        ("```\nmean: 1.1928\np-value < 1.195: 0.00234486\n```", ("0.00234486", "=", None, None, ("1.195",))),
        ("Improvement over SOTA (1.1748): **-0.0290 bpb** (p < .001).", (".001", "<", None, None, ("1.1748",))),
        ("Significance vs SOTA (1.2244 BPB):\n- t-statistic: -93.6, df=2, p < 0.01",
         ("0.01", "<", "-93.6", "2", ("1.2244",))),
    ],
)  # fmt: skip
def test_a_printed_test_is_read_as_it_is_written(text, expected):
    assert told(text) == [expected]


@pytest.mark.parametrize(
    "text",
    [
        "The challenge requires beating 1.2111 at p < 0.01 over three seeds.",
        "Attention dropout p = 0.1 helped the mean of the seeds.",
        "```\nx = dropout(x, p=0.1)  # mean\n```",
        "Sampling with T=0.90, mean of 3 seeds",
        "A p of 2.5 seeds is no p-value: p = 2.5",
        "GPU p=0.5 of the time",
    ],
)
def test_what_is_a_rule_or_another_p_is_no_test(text):
    assert told(text) == []


def test_a_test_has_the_line_of_its_sentence():
    text = "# Results\n\nThree seeds. The mean is\nbetter. It beats #12 with\np = 0.003 over all seeds.\n"
    (one,) = claims.tests(markdown.parse(text), "R.md")
    assert (one.p, one.against, one.evidence) == ("0.003", ("#12",), "R.md:4")


TABLES = """\
| Seed | val_bpb |
|---|---|
| 1 | 1.0631 |
| 2 | 1.0642 |

All runs:

| Seed | val_bpb |
|---|---|
| 1 | 1.0631 |
| 2 | {again} |
| 3 | 1.0653 |
"""


@pytest.mark.parametrize(("again", "left"), [("1.0642", [(3, 1.0653, "R.md:12")]), ("1.0699", [])])
def test_a_table_with_all_reported_seeds_and_more_shows_what_was_left_out(again, left):
    reported = [
        ReadSeed(seed=seed, val_bpb=value, source="readme", evidence="R.md:3")
        for seed, value in ((1, 1.0631), (2, 1.0642))
    ]
    found = claims.selections(markdown.parse(TABLES.format(again=again)), "R.md", reported, 1.06365)
    assert [(one.seed, one.val_bpb, one.evidence) for one in found if one.kind == "left_out"] == left


@pytest.mark.parametrize(
    ("text", "seeds"),
    [
        ("9 overrides by greedy forward-selection (`ITERATIONS=4950`), seed 42. Final runs used 7.", [42]),
        ("Hyperparameters were tuned on seed 7 and on SEED=8.", [7, 8]),
        ("Tuned on held-out seeds, never on seed 42.", []),
        ("The seed 42 run took 90 s.", []),
        ("Validated by a 3-seed sweep.", []),
    ],
)
def test_a_seed_that_served_to_choose_is_named(text, seeds):
    found = claims.selections(markdown.parse(text), "R.md", [], None)
    assert [one.seed for one in found if one.kind == "tuned_on"] == seeds

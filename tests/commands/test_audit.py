"""`ledger audit records`: printed p-values again, steps at another delta, and clear lines where there is nothing."""

from __future__ import annotations

import itertools
import json
import re
from pathlib import Path

import pytest

ROOT_FOLDER = Path(__file__).resolve().parents[2]
REAL = ROOT_FOLDER.parent / "shared" / "data" / "parameter-golf"
PARENT = """\
# Base

**val_bpb: 1.1000** (3-seed mean)

| Seed | val_bpb |
|---|---|
| 1 | 1.0990 |
| 2 | 1.1000 |
| 3 | 1.1010 |
"""
CHILD = """\
# Better

**val_bpb: 1.0900** (3-seed mean)

| Seed | val_bpb |
|---|---|
| 1 | 1.0890 |
| 2 | 1.0900 |
| 3 | 1.0910 |

One-sided one-sample t-test against `1.1000`: `t=17.32` with `df=2`, which gives `p=0.0017`
"""
ROOT = """\
# Golf

## Leaderboard

| Run | Score | Author | Summary | Date | Info |
|-----|------:|--------|---------|------|------|
| Better | 1.0900 | ann | On PR #20: on the #18 stack | 2026-03-20 | [info](records/track_a/2026-03-20_Better) |
| Base | 1.1000 | ann | On PR #18: first | 2026-03-18 | [info](records/track_a/2026-03-18_Base) |
"""


@pytest.fixture
def golf(home):
    """Two records, one built on the other, read into a ledger."""
    write(home, "2026-03-18_Base", PARENT, 1.1)
    write(home, "2026-03-20_Better", CHILD, 1.09)
    (home.folder / "golf" / "README.md").write_text(ROOT)
    assert home.call("extract", "golf").code == 0
    return home


def write(place, name, readme, score):
    folder = place.folder / "golf" / "records" / "track_a" / name
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "README.md").write_text(readme)
    (folder / "submission.json").write_text(json.dumps({"val_bpb": score, "author": "ann"}))


def audit(place, *options):
    return place.call("--json", "audit", "records", *options).rows


def test_a_step_a_score_and_a_printed_test_are_made_again(golf):
    rows = {(row["record"].split("_")[-1], row["kind"]): row for row in audit(golf)}
    assert rows.keys() == {("Base", "claim"), ("Better", "claim"), ("Better", "step"), ("Better", "test")}
    step = rows["Better", "step"]
    assert (step["verdict"], step["effect"], step["n_t"], step["n_c"], step["shared"]) == ("better", -0.01, 3, 3, 3)
    test = rows["Better", "test"]
    assert (test["p_printed"], test["match"]) == ("0.0017", "reproduced")
    assert test["p_again"] == pytest.approx(0.0016583, rel=1e-3)
    assert rows["Better", "claim"]["match"] == "reproduced"
    shown = golf.call("audit", "records")
    assert shown.code == 0
    assert max(map(len, shown.out.splitlines())) <= 80
    assert "Of 1 printed tests: 1 reproduced" in shown.out


def test_another_delta_changes_what_is_said_of_a_step(golf):
    (step,) = (row for row in audit(golf, "--delta", "0.05") if row["kind"] == "step")
    assert step["delta"] == 0.05
    assert "not shown to exceed 0.05" in step["why"]
    for wrong in ("0", "-1", "nan", "inf"):
        assert "expected a number above 0" in golf.call("audit", "records", "--delta", wrong).complaint


def test_a_ledger_without_records_says_how_to_get_some(home):
    home.call("init")
    done = home.call("audit", "records")
    assert (done.code, done.out) == (0, "")
    assert "ledger extract" in done.err


def test_a_record_without_seeds_is_told_in_its_row(home):
    write(home, "2026-03-18_Bare", "# Bare\n\nval_bpb: 1.2\n", 1.2)
    home.call("extract", "golf")
    (row,) = audit(home)
    assert (row["kind"], row["match"], row["flags"]) == ("claim", "not computable", "no seeds")
    assert "No record names a parent" in home.call("audit", "records").out


def test_what_was_read_later_is_not_in_the_past(golf):
    then = golf.size()
    write(golf, "2026-03-20_Better", CHILD.replace("0.0017", "0.0099"), 1.09)
    golf.call("extract", "golf")
    (test,) = (row for row in audit(golf) if row["kind"] == "test")
    assert test["match"] == "not reproduced", test["why"]
    earlier = audit(golf, "--as-of", str(then))
    assert [row["match"] for row in earlier if row["kind"] == "test"] == ["reproduced"]


def blocks(lines):
    """Lines in the groups that empty ones make."""
    return [list(group) for filled, group in itertools.groupby(lines, bool) if filled]


@pytest.mark.skipif(not REAL.is_dir(), reason="the leaderboard's records are not here")
def test_the_readme_shows_what_the_real_records_give(home):
    home.call("extract", str(REAL))
    readme = (ROOT_FOLDER / "README.md").read_text("utf-8")
    section = readme[readme.index("### What the records claim") :]
    shown = re.search(r"^```text\n(.*?)\n```", section, re.M | re.S)[1]
    lines = [line.rstrip() for line in home.call("audit", "records").out.rstrip().splitlines()]
    for told, all_of_it in zip(blocks(shown.splitlines()), blocks(lines), strict=True):
        left_out = re.fullmatch(r"…(?: (\d+) further \w+)?", told[-1])
        lines_of = told[:-1] if left_out else told
        rest = iter(all_of_it)
        assert all(line in rest for line in lines_of)  # the same lines in the same order
        missing = len(all_of_it) - len(lines_of)
        assert missing == int(left_out[1] or missing) > 0 if left_out else not missing
    rows = audit(home)
    printed = [row for row in rows if row["kind"] == "test"]
    assert {row["match"] for row in printed if row["p_again"] is not None} == {"reproduced"}
    for row in printed:
        assert row["p_again"] is not None or "not known" in row["why"] or "does not say" in row["why"]
    chosen = {row["record"].split("_")[3] for row in rows if "tuning seed reported" in row["flags"].split("; ")}
    assert len(chosen) == 1
    left = [row for row in rows if row["kind"] == "claim" and "best of those run" in row["flags"]]
    assert [row["flag_evidence"].count("README.md") for row in left] == [2]

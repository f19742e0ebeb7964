"""What to run next on the leaderboard's own records. Skipped where they are not there."""

from __future__ import annotations

from pathlib import Path

import pytest

from commands.dag import revise
from commands.extract import Scan
from commands.next import propose
from ledger.chain import Log
from projections.engine import tables
from runners.extraction.record import find_records
from runners.plan import parse

GOLF = Path(__file__).resolve().parents[2].parent / "shared" / "data" / "parameter-golf"

pytestmark = pytest.mark.skipif(not GOLF.is_dir(), reason="the records of the leaderboard are not on this machine")


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    log = Log.create(tmp_path_factory.mktemp("golf") / "ledger")
    Scan(log, False, None).read(GOLF, find_records(GOLF), None)
    revise(log)
    found = tables(log)
    yield found
    found.close()


@pytest.fixture(scope="module")
def rows(built):
    return built.rows("SELECT * FROM next_interventions ORDER BY rank NULLS LAST, id")


def test_there_is_a_next_intervention_and_its_reason_says_what_is_known_and_what_the_runs_would_tell(rows):
    first = rows[0]
    assert first["rank"] == 1
    assert first["gain"] > first["delta"] / 10
    known = f"{first['candidate']} has {first['m']:+.2g} ± {first['sd']:.2g} bpb from "
    assert first["reason"].startswith(known)
    assert "with and without it would tell it to ± " in first["reason"]


def test_what_the_records_settle_comes_last_and_what_they_leave_open_first(rows):
    order = {row["candidate"]: row["rank"] for row in rows}
    # A long step whose sign nobody doubts against techniques that only ever came together.
    assert order["sliding-window-eval"] > max(row["rank"] for row in rows if row["action"] == "separate_aliases")
    assert len(rows) >= 25


def test_the_seed_rule_would_measure_what_is_known_already(rows):
    chosen = next(row for row in rows if row["seed_rule_rank"] == 1)
    assert chosen["score"] < rows[0]["score"] / 1000


def test_every_line_has_a_plan_that_loads(built, rows):
    for row in rows[:20]:
        made = propose(built, row)
        plan = parse(made.text, "p")
        assert len(plan.arm) == 2
        assert (plan.script is None) == (made.fill_in == "")

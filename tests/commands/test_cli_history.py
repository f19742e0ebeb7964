"""Nothing that was recorded goes away: retractions, replays, the past, and tables rebuilt to the same digest."""

from __future__ import annotations

import os
import shutil

import pytest


def finished(place) -> list[int]:
    """Positions of the outcomes, in order."""
    return [event["position"] for event in place.events() if event["type"] == "run.finished"]


def decisions(place) -> list[dict]:
    return [event for event in place.events() if event["type"] == "decision.made"]


# ── decisions and replay ──


def test_a_decision_carries_the_head_that_it_read(study):
    made = decisions(study)
    heads = {(event["data"]["head"]["position"], event["data"]["head"]["root"]) for event in made}
    assert len(heads) == 1
    position, root = heads.pop()
    assert position == made[0]["position"]
    assert study.call("--json", "rebuild", "--as-of", str(position)).json["root"] == root


def test_a_decision_names_the_outcomes_that_it_used(study):
    used = decisions(study)[0]["data"]["used"]
    kinds = {event["event_id"]: event["type"] for event in study.events()}
    assert len(used) == 6
    assert {kinds[event_id] for event_id in used} == {"run.finished"}


def test_every_judgement_replays_exactly(study):
    done = study.call("replay", "--all")
    assert done.code == 0
    assert done.out == "3 of 3 judgements come out exactly\n"


def test_one_judgement_replays_by_position_and_by_id(study):
    event = decisions(study)[0]
    for name in (str(event["position"]), event["event_id"], event["event_id"][:20]):
        done = study.call("--json", "replay", name)
        assert (done.code, done.json["exact"]) == (0, True)


def test_a_judgement_that_does_not_come_out_the_same_is_code_1_figure_by_figure(study, monkeypatch):
    from projections.statistics import own_rule

    honest = own_rule._verdict
    monkeypatch.setattr(
        own_rule, "_verdict", lambda s, arm, row: honest(s, arm, {**row, "rejects": row["p_adj"] < 1e-12})
    )
    done = study.call("replay", "--all")
    assert done.code == 1
    assert "verdict: recorded 'better', now 'undecided'" in done.out
    assert "1 of 3 judgements come out exactly" in done.out


def test_deciding_again_on_the_same_runs_appends_nothing(study):
    before = study.size()
    done = study.call("decide")
    assert done.code == 0
    assert "decided before" in done.err
    assert study.size() == before


def test_a_dry_run_prints_the_verdicts_and_appends_nothing(study):
    study.call("retract", str(finished(study)[0]), "--reason", "wrong data")
    before = study.size()
    done = study.call("decide", "--dry-run")
    assert done.code == 0
    assert "EFFECT=0.02" in done.out
    assert study.size() == before


def test_replaying_when_nothing_was_decided_is_no_failure(home):
    done = home.call("replay", "--all")
    assert (done.code, done.out) == (0, "")
    assert "no judgement" in done.err


# ── retraction ──


def test_after_a_retraction_the_new_decision_differs_and_the_old_one_still_replays(study):
    old = decisions(study)[0]
    assert study.call("retract", str(finished(study)[0]), "--reason", "the disk was full").code == 0
    assert study.call("decide").code == 0
    new = decisions(study)[3]
    assert (old["data"]["n_pairs"], new["data"]["n_pairs"]) == (3, 2)
    assert old["data"]["effect"] != new["data"]["effect"]
    done = study.call("replay", "--all")
    assert done.code == 0
    assert done.out == "6 of 6 judgements come out exactly\n"


def test_before_the_retraction_the_past_still_shows_the_event(study):
    position = finished(study)[0]
    size = study.size()
    study.call("retract", str(position), "--reason", "wrong")
    query = f"SELECT count(*) AS n FROM runs WHERE finished_position = {position}"
    assert study.sql(query) == [{"n": 0}]
    assert study.sql(query, "--as-of", str(size)) == [{"n": 1}]


def test_a_retracted_run_is_run_again_by_the_same_command(study):
    study.call("retract", str(finished(study)[0]), "--reason", "wrong")
    arms = ["--arm", "EFFECT=-0.02", "--arm", "EFFECT=0.02", "--arm", "EFFECT=0.00001"]
    done = study.run("--name", "study", *arms)
    assert done.code == 0
    assert "11 of 12 runs are on record already" in done.err


def test_an_event_is_retracted_only_once(study):
    position = str(finished(study)[0])
    study.call("retract", position, "--reason", "wrong")
    before = study.size()
    done = study.call("retract", position, "--reason", "again")
    assert done.code == 2
    assert f"event {position} was retracted already, at position {before - 1}" in done.complaint
    assert study.size() == before


def test_a_retraction_is_not_retracted(study):
    study.call("retract", str(finished(study)[0]), "--reason", "wrong")
    before = study.size()
    done = study.call("retract", str(before - 1), "--reason", "it was right")
    assert done.code == 2
    assert "a retraction cannot be retracted" in done.complaint
    assert study.size() == before


def test_a_token_in_a_reason_is_refused(study):
    before = study.size()
    done = study.call("retract", "3", "--reason", "leaked ghp_" + "a1" * 20)
    assert done.code == 2
    assert "GitHub token" in done.complaint
    assert study.size() == before


# ── the past ──


def test_as_of_takes_a_position_an_id_and_a_time_alike(study):
    events = study.events()
    event = events[7]
    query = "SELECT count(*) AS n FROM events"
    later = events[8]["recorded_at"]
    assert study.sql(query, "--as-of", "8") == [{"n": 8}]
    assert study.sql(query, "--as-of", event["event_id"]) == [{"n": 8}]
    assert study.sql(query, "--as-of", event["recorded_at"] if event["recorded_at"] < later else "8") == [{"n": 8}]
    assert study.sql(query, "--as-of", "2001-01-01") == [{"n": 0}]
    assert study.sql(query, "--as-of", "2999-01-01T00:00") == [{"n": len(events)}]


@pytest.mark.parametrize(
    "arguments", [["log"], ["status"], ["sql", "SELECT 1"], ["show", "study"], ["rebuild"], ["report"], ["plot"]]
)
def test_every_reading_verb_takes_as_of(study, arguments):
    assert study.call(*arguments, "--as-of", str(study.size())).code == 0


def test_a_page_about_the_past_does_not_know_the_future(study):
    head = decisions(study)[0]["position"]
    done = study.call("report", "-o", "past", "--as-of", str(head))
    assert done.code == 0
    text = (study.folder / "past" / "report.md").read_text()
    assert "Nothing yet: no decision was made" in text
    assert f"first {head} events" in text


# ── verify and rebuild ──


def test_verify_holds_and_contains_every_head_that_was_kept(study):
    done = study.call("--json", "verify").json
    assert done["ok"] is True
    assert study.call("verify", "--expect-head", f"{done['size']}:{done['root'][:16]}").code == 0
    early = study.call("--json", "rebuild", "--as-of", "9").json
    assert study.call("verify", "--expect-head", f"9:{early['root']}").code == 0


def test_verify_refuses_a_head_of_another_history(study):
    done = study.call("verify", "--expect-head", "9:" + "0" * 64)
    assert done.code == 3
    assert done.out == ""


def test_verify_refuses_a_head_beyond_the_end(study):
    root = study.call("--json", "verify").json["root"]
    assert study.call("verify", "--expect-head", f"9999:{root}").code == 3


def test_tables_have_equal_digests_however_they_were_built(study):
    size = study.size()
    for position in (0, size // 3, size):
        found = set()
        for options in (["--threads", "1"], ["--threads", "2"], ["--threads", "8"], ["--incremental"]):
            done = study.call("--json", "rebuild", "--as-of", str(position), *options)
            assert done.code == 0
            found.add(str(done.json["tables"]))
        assert len(found) == 1


def test_tables_built_onwards_step_by_step_equal_those_built_at_once(study, tmp_path):
    """The cache of an earlier head put in the place of the newest: what follows is built onto it."""
    at_once = study.call("--json", "rebuild").json
    proj = study.folder / "warehouse" / "proj"
    for position in (1, study.size() - 2):
        study.call("rebuild", "--as-of", str(position))
        early = next(path for path in proj.iterdir() if path.name.startswith(f"tables-{position:016d}"))
        newest = max(path for path in proj.iterdir() if path.name.startswith("tables-"))
        shutil.copyfile(early, newest)
        assert study.call("--json", "rebuild", "--incremental").json == at_once


def test_deleting_the_derived_folder_changes_no_table(study):
    before = study.call("--json", "rebuild").json
    shutil.rmtree("warehouse/proj")
    assert study.call("--json", "rebuild", "--incremental").json == before


def test_a_damaged_cache_is_made_anew(study):
    before = study.sql("SELECT * FROM effects")
    for path in (study.folder / "warehouse" / "proj").iterdir():
        if path.name.endswith(".duckdb"):
            path.write_bytes(b"not a database")
    assert study.sql("SELECT * FROM effects") == before


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_ledger_that_may_not_be_written_can_be_read(study):
    shutil.rmtree("warehouse/proj")
    os.chmod("warehouse", 0o555)
    try:
        assert study.call("status").code == 0
    finally:
        os.chmod("warehouse", 0o755)

"""`ledger decide` and `ledger replay --against now`: several rules beside each other, and what is refused."""

from __future__ import annotations

import pytest

PLAN = """\
name = "first"
delta = 0.004
seeds = "0-2"
[script]
command = ["python", "train.py"]
[[arm]]
name = "control"
[[arm]]
name = "gain"
env = { EFFECT = "-0.015" }
"""


def decisions(place):
    return [event for event in place.events() if event["type"] == "decision.made"]


def test_two_policies_are_recorded_beside_the_plans_own_with_their_digests(study):
    before = len(decisions(study))
    done = study.call("decide", "--policy", "seed-plan", "--policy", "paired-pooled/1")
    assert done.code == 0
    assert "policy seed-plan/1" in done.out
    assert max(map(len, done.out.splitlines())) <= 80
    made = [event["data"] for event in decisions(study)[before:]]
    assert [one["policy"] for one in made] == ["seed-plan/1"] * 3 + ["paired-pooled/1"] * 3
    assert len({one["policy_digest"] for one in made}) == 2
    assert "confirmed" in done.out
    assert study.call("replay", "--all").code == 0


def test_the_same_policy_again_is_not_recorded_twice(study):
    study.call("decide", "--policy", "seed-plan")
    before = study.size()
    done = study.call("decide", "--policy", "seed-plan")
    assert "decided before on the same runs" in done.err
    assert study.size() == before


def test_other_policies_do_not_change_what_status_and_report_say(study):
    before = study.call("status").out.splitlines()[1:]
    study.call("decide", "--policy", "seed-plan")
    assert study.call("status").out.splitlines()[1:] == before


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--policy", "seed-plam"), "no policy 'seed-plam'; did you mean 'seed-plan'?"),
        (("--policy", "parameter-golf-readme"), "how many nats val_bpb has is unknown"),
        (("--policy", "seed-plan", "--policy", "modded-nanogpt-track1"), "its target is in val_loss"),
        (("nothing",), "no experiment 'nothing'"),
    ],
)
def test_what_cannot_be_decided_is_one_line_and_appends_nothing(study, options, said):
    before = study.size()
    done = study.call("decide", *options)
    assert done.code == 2
    assert said in done.complaint
    assert study.size() == before


def test_a_plan_without_a_finished_pair_is_not_decided(home):
    home.write("plan.toml", PLAN)
    assert home.call("plan", "plan.toml").code == 0
    before = home.size()
    done = home.call("decide")
    assert done.code == 2
    assert "experiment first has no finished pair yet" in done.complaint
    assert home.size() == before


def test_against_now_names_the_retraction_that_changed_a_decision(study):
    first = decisions(study)[0]
    outcome = first["data"]["used"][0]
    study.call("retract", outcome, "--reason", "the disk was full")
    done = study.call("replay", str(first["position"]), "--against", "now")
    assert done.code == 0
    assert "retraction:" in done.out
    assert "the disk was full" in done.out
    told = study.call("--json", "replay", str(first["position"]), "--against", "now").json
    assert [change["type"] for change in told["changed_by"]] == ["event.retracted"]
    assert study.call("replay", "--all").code == 0
    assert "judgements would be the same today" in study.call("replay", "--all", "--against", "now").out


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ("cycle = 2", "family and cycle go together"),
        ('family = "screen"', "family and cycle go together"),
        ('family = "screen"\ncycle = 0', "cycle must be 1 or more, not 0"),
        ('family = "screen"\ncycle = 1\npolicy = "seed-plan"', "only policy ledger splits alpha over cycles"),
    ],
)
def test_a_cycle_that_does_not_fit_is_refused(home, keys, said):
    home.write("plan.toml", f"{keys}\n{PLAN}")
    done = home.call("plan", "plan.toml")
    assert done.code == 2
    assert said in done.complaint
    assert home.size() == 0


def test_a_share_of_alpha_is_granted_once(home):
    home.write("one.toml", f'family = "screen"\ncycle = 1\n{PLAN}')
    assert home.call("plan", "one.toml").code == 0
    home.write("two.toml", f'family = "screen"\ncycle = 1\n{PLAN.replace("first", "second")}')
    done = home.call("plan", "two.toml")
    assert done.code == 2
    assert "cycle 1 of family 'screen' is plan 'first' (event 0)" in done.complaint
    home.write("two.toml", f'family = "screen"\ncycle = 2\nalpha = 0.1\n{PLAN.replace("first", "second")}')
    assert "its cycles share one" in home.call("plan", "two.toml").complaint
    home.write("two.toml", f'family = "screen"\ncycle = 2\n{PLAN.replace("first", "second")}')
    done = home.call("plan", "two.toml")
    assert done.code == 0
    assert "0.00833 in cycle 2" in done.out


def test_of_two_experiments_of_one_name_the_newest_is_meant_and_the_other_named_by_its_id(home):
    for code in ("one", "two"):
        home.write("named.py", f"# {code}\nimport os\nprint('val_bpb:', 1.2 + int(os.environ['SEED']) / 100)\n")
        done = home.run("--name", "twice", "--arm", "A=1", script="named.py", seeds="0-1")
    first, second = (row["experiment"] for row in home.sql("SELECT experiment FROM experiments ORDER BY ALL"))
    newest = home.sql("SELECT experiment FROM experiments ORDER BY registered_position DESC LIMIT 1")[0]["experiment"]
    other = second if newest == first else first
    assert f"ledger report {newest[:8]}" in done.err
    done = home.call("report", "twice")
    assert f"2 experiments are named twice: this is the newest, {newest[:8]}; {other[:8]} by id" in done.err
    assert (home.folder / "out" / f"twice-{newest[:8]}" / "report.md").exists()

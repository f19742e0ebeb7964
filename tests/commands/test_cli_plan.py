"""`ledger plan`: what is registered before any run, what it tells, and what it refuses."""

from __future__ import annotations

import sys

import pytest

PLAN = f"""name = "first"
delta = 0.004
seeds = "0-2"
[script]
command = ["{sys.executable}", "-I", "-S", "train.py"]
[[arm]]
name = "control"
[[arm]]
name = "gain"
env = {{ EFFECT = -0.02 }}
predict = "better"
[[arm]]
name = "loss"
env = {{ EFFECT = 0.02 }}
"""


@pytest.fixture
def planned(home):
    """A place with a registered plan and nothing run."""
    home.write("plan.toml", PLAN)
    assert home.call("plan", "plan.toml").code == 0
    return home


def kinds(place) -> list[str]:
    """The types of the events, but for the key that signs the head."""
    return [event["type"] for event in place.events() if event["type"] != "key.added"]


REGISTERED = ["experiment.registered"]


def asked(place, *options: str):
    done = place.call("--json", "plan", "plan.toml", *options)
    assert done.code == 0, done.err
    return done.json


# ── it registers ──


def test_a_plan_is_registered_before_any_run_with_all_that_it_says(home):
    keys = (
        'track = "explore"\ntuning_seeds = "100-101"\nlooks = [3, 5]\npair_tier = "rerun"\nestimand = "wallclock"\n'
        'platform = "8xH100"\npolicy = "paired-pooled"\ntau = 0.003\n'
    )
    home.write("plan.toml", keys + PLAN.replace('"better"', '"better"\neffect = -0.015'))
    assert home.call("plan", "plan.toml").code == 0
    assert kinds(home) == REGISTERED
    data = home.events()[0]["data"]
    assert (data["track"], data["tuning_seeds"], data["stopping"], data["looks"]) == (
        "explore",
        [100, 101],
        "looks",
        [3, 5],
    )
    assert (data["n_max"], data["tau"], data["policy"]) == (5, 0.003, "paired-pooled/1")
    assert (data["pair_tier"], data["estimand"], data["noise_class"]["platform"]) == ("rerun", "wallclock", "8xH100")
    assert home.sql("SELECT track, stopping, planned_looks, tau, tuning_seeds, n_max FROM experiments") == [
        {
            "track": "explore",
            "stopping": "looks",
            "planned_looks": "3, 5",
            "tau": 0.003,
            "tuning_seeds": "100, 101",
            "n_max": 5,
        }
    ]
    assert data["hypotheses"] == [
        {"arm": "gain", "predict": "better", "effect": -0.015},
        {"arm": "loss", "predict": "different", "effect": None},
    ]


def test_what_was_predicted_can_be_laid_beside_what_was_found(home):
    home.write("plan.toml", PLAN.replace('"better"', '"better"\neffect = -0.015'))
    assert home.call("run", "plan.toml").code == 0
    rows = home.sql(
        """SELECT intervention, predict, predicted_effect, verdict FROM hypotheses
        INNER JOIN decisions USING (experiment, intervention) ORDER BY intervention"""
    )
    assert [tuple(row.values()) for row in rows] == [
        ("gain", "better", -0.015, "better"),
        ("loss", "different", None, "worse"),
    ]


def test_a_dry_run_prints_the_same_and_writes_nothing(home):
    home.write("plan.toml", PLAN)
    dry = home.call("plan", "plan.toml", "--dry-run")
    assert (dry.code, home.size()) == (0, 0)
    assert "nothing was written" in dry.err
    assert home.call("plan", "plan.toml").out == dry.out
    assert kinds(home) == REGISTERED


def test_a_dry_run_makes_no_ledger_and_a_real_one_makes_the_default_one(place):
    place.write("plan.toml", PLAN)
    assert place.call("plan", "plan.toml", "--dry-run").code == 0
    assert not (place.folder / "warehouse").exists()
    assert place.call("plan", "plan.toml").code == 0
    assert kinds(place) == REGISTERED


def test_the_same_plan_again_says_so_and_appends_nothing(planned):
    planned.write("plan.toml", "# why\n" + PLAN.replace("0.004", "0.0040"))
    done = planned.call("plan", "plan.toml")
    assert (done.code, kinds(planned)) == (0, REGISTERED)
    assert "registered before" in done.err


def test_run_goes_on_with_a_planned_experiment(planned):
    assert planned.call("run", "plan.toml").code == 0
    assert kinds(planned).count("experiment.registered") == 1
    assert planned.sql("SELECT count(*) AS n FROM runs WHERE started_after_registration") == [{"n": 9}]
    assert {row["verdict"] for row in planned.sql("SELECT verdict FROM decisions")} == {"better", "worse"}


def test_other_code_is_another_plan_and_that_is_said(planned):
    with open("train.py", "a") as file:
        file.write("# changed\n")
    done = planned.call("plan", "plan.toml")
    assert done.code == 0
    assert "event 0 registers first for other code" in done.err
    assert kinds(planned) == 2 * REGISTERED


# ── what it tells ──


def test_every_line_fits_80_columns_and_says_what_is_planned(home):
    home.write("plan.toml", 'question = "' + "Does a long question wrap? " * 5 + '"\n' + PLAN)
    out = home.call("plan", "plan.toml").out
    assert max(map(len, out.splitlines())) < 80
    said = " ".join(out.split())
    for part in (
        "against control: gain better, loss different",
        "val_bpb, lower is better; an effect matters from 0.004",
        "0.05 for the family (two-sided)",
        "9 now, 9 at most",
        "not known: no runs of this noise class",
    ):
        assert part in said


def test_without_any_noise_the_power_is_told_in_standard_deviations(home):
    home.write("plan.toml", PLAN)
    (power,) = asked(home)["power"]
    assert (power["noise"], power["smallest"], power["at_delta"]) == ("unknown", None, None)
    assert 3 < power["in_sd"] < 5


def test_a_stated_noise_gives_the_smallest_effect_in_the_metrics_unit(home):
    home.write("plan.toml", PLAN)
    (power,) = asked(home, "--sd", "0.001")["power"]
    assert power["smallest"] == pytest.approx(0.001 * power["in_sd"])


def test_the_noise_of_earlier_runs_counts_and_is_that_of_the_table(study):
    (known,) = study.sql("SELECT sd, runs FROM noise")
    arms = "".join(f'[[arm]]\nname = "a{i}"\nenv = {{ EFFECT = 0.00{i} }}\n' for i in range(1, 4))
    study.write("plan.toml", PLAN[: PLAN.index('[[arm]]\nname = "gain"')] + arms)
    told = asked(study, "--dry-run", "--sd", "7")
    (log, stated) = told["power"]
    assert (told["noise"]["runs"], told["noise"]["sd"]) == (known["runs"], known["sd"]) == (12, known["sd"])
    assert log["smallest"] == pytest.approx(log["in_sd"] * known["sd"])
    assert (log["noise"], stated["noise"]) == ("log", "stated")
    assert stated["smallest"] == pytest.approx(7 * log["in_sd"])


def test_runs_of_another_noise_class_say_nothing_of_this_one(study):
    study.write("plan.toml", 'scale = "large"\n' + PLAN)
    assert asked(study, "--dry-run")["noise"] is None


def test_the_cost_is_what_is_missing_now_and_what_the_stopping_rule_allows(planned):
    planned.call("run", "plan.toml")
    assert asked(planned)["runs"] == {"on_record": 9, "now": 0, "at_most": 9}
    planned.write("looks.toml", PLAN.replace('"first"', '"looks"\nlooks = [3, 5, 8]'))
    told = planned.call("--json", "plan", "looks.toml").json
    assert told["runs"] == {"on_record": 0, "now": 9, "at_most": 24}
    assert [(row["when"], row["seeds"]) for row in told["power"]] == [("now", 3), ("end", 8)]
    planned.write("any.toml", PLAN.replace('"first"', '"any"\nstopping = "anytime"'))
    assert planned.call("--json", "plan", "any.toml").json["runs"]["at_most"] is None


# ── amendments ──


def test_a_changed_plan_needs_amend_and_a_reason(planned):
    planned.write("plan.toml", PLAN.replace("0-2", "0-4"))
    refused = planned.call("plan", "plan.toml")
    assert refused.code == 2
    assert "seeds 0-2 -> 0-4" in refused.complaint
    assert "--amend --reason" in refused.complaint
    for options in (["--amend"], ["--reason", "x"], ["--amend", "--reason", " "]):
        assert planned.call("plan", "plan.toml", *options).code == 2
    assert kinds(planned) == REGISTERED


def test_an_amendment_is_an_event_and_shows(planned):
    new = '[[arm]]\nname = "new"\nenv = { EFFECT = 0.001 }\n'
    planned.write("plan.toml", PLAN.replace("0-2", "0-2,7") + new)
    done = planned.call("plan", "plan.toml", "--amend", "--reason", "a second machine")
    assert done.code == 0, done.err
    assert kinds(planned) == ["experiment.registered", "experiment.registered", "plan.amended"]
    assert planned.sql("SELECT amendments, seed_count, arm_count, look FROM experiments") == [
        {"amendments": 1, "seed_count": 4, "arm_count": 4, "look": 2}
    ]
    assert planned.sql("SELECT key, before, after, reason FROM amendments") == [
        {
            "key": "arms",
            "before": "control, gain, loss",
            "after": "control, gain, loss, new",
            "reason": "a second machine",
        },
        {
            "key": "hypotheses",
            "before": "gain better, loss different",
            "after": "gain better, loss different, new different",
            "reason": "a second machine",
        },
        {"key": "seeds", "before": "0-2", "after": "0-2, 7", "reason": "a second machine"},
    ]
    assert "a second machine" in planned.call("show", "first").out
    assert planned.call("plan", "plan.toml").code == 0
    assert len(kinds(planned)) == 3


def test_seeds_that_run_adds_are_an_amendment_without_a_reason(planned):
    planned.write("plan.toml", PLAN.replace("0-2", "0-3"))
    assert planned.call("run", "plan.toml").code == 0
    assert planned.sql("SELECT key, reason FROM amendments") == [{"key": "seeds", "reason": ""}]


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        ("delta = 0.004", "delta = 0.1", "registered with delta 0.004, not 0.1"),
        ('"better"', '"worse"', "hypothesis that gain better, not gain worse"),
        ("delta", 'track = "explore"\ndelta', "registered with track 'confirm'"),
        ("delta", "tuning_seeds = [9]\ndelta", "registered with tuning_seeds none, not 9"),
        ("delta", "looks = [3, 6]\ndelta", "registered with stopping 'fixed', not 'looks'"),
        ("delta", 'scale = "large"\ndelta', "registered with noise_class"),
        ("EFFECT = 0.02", "EFFECT = 0.03", "registered with other settings"),
        ("0-2", "0-1", "registered with seeds 2"),
        ('[[arm]]\nname = "loss"\nenv = { EFFECT = 0.02 }\n', "", "registered with arms loss"),
    ],
)
def test_an_amendment_can_only_add_seeds_and_arms(planned, before, after, said):
    planned.write("plan.toml", PLAN.replace(before, after, 1))
    done = planned.call("plan", "plan.toml", "--amend", "--reason", "it would look better")
    assert done.code == 2
    assert said in done.complaint
    assert kinds(planned) == REGISTERED


def test_looks_are_fixed_beforehand(home):
    home.write("plan.toml", "looks = [3, 6]\n" + PLAN)
    assert home.call("plan", "plan.toml").code == 0
    home.write("plan.toml", "looks = [3, 9]\n" + PLAN)
    done = home.call("plan", "plan.toml", "--amend", "--reason", "x")
    assert "registered with looks 3, 6, not 3, 9" in done.complaint


def test_there_is_nothing_to_amend_before_a_plan_is_registered(home):
    home.write("plan.toml", PLAN)
    done = home.call("plan", "plan.toml", "--amend", "--reason", "x")
    assert done.code == 2
    assert "nothing to amend" in done.complaint
    assert home.size() == 0


# ── tracks and seeds ──


def test_what_explores_never_comes_out_better_and_fresh_seeds_confirm_it(home):
    home.write("plan.toml", 'track = "explore"\n' + PLAN)
    assert home.call("run", "plan.toml").code == 0
    assert {row["verdict"] for row in home.sql("SELECT verdict FROM decisions")} == {"undecided"}
    size = home.size()
    home.write("plan.toml", PLAN.replace('"first"', '"second"'))
    done = home.call("plan", "plan.toml")
    assert "seeds 0-2 chose something on this base already (plan 'first', event 0)" in done.complaint
    assert home.size() == size
    home.write("plan.toml", PLAN.replace('"first"', '"second"').replace("0-2", "10-12"))
    assert home.call("run", "plan.toml").code == 0
    second = "SELECT verdict FROM decisions INNER JOIN experiments USING (experiment) WHERE name = 'second'"
    assert {row["verdict"] for row in home.sql(second)} == {"better", "worse"}


def test_seeds_that_another_plan_tuned_with_cannot_confirm(home):
    home.write("plan.toml", "tuning_seeds = [7]\n" + PLAN)
    assert home.call("plan", "plan.toml").code == 0
    home.write("plan.toml", PLAN.replace('"first"', '"second"').replace("0-2", "5-8"))
    done = home.call("run", "plan.toml")
    assert done.code == 2
    assert "seeds 7 chose something" in done.complaint
    assert kinds(home) == REGISTERED


# ── what it refuses ──


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (PLAN.replace("delta", "detla"), "did you mean 'delta'?"),
        ('lokos = [2, 3]\n' + PLAN, "did you mean 'looks'?"),
        (PLAN.replace("predict", "predicts"), "[[arm]] number 2 has an unknown key 'predicts'; did you mean"),
        (PLAN.replace("0-2", "4"), "one seed cannot tell an effect from noise"),
        ("alpha = 0\n" + PLAN, "alpha must lie between 0 and 1"),
        ("alpha = 1.0\n" + PLAN, "alpha must lie between 0 and 1"),
        ("alpha = nan\n" + PLAN, "alpha must lie between 0 and 1"),
        (PLAN.replace("0.004", "nan"), "delta must be a number above 0"),
        ("tau = nan\n" + PLAN, "tau must be a number above 0"),
        (PLAN.replace("-0.02", "nan"), "'arm[1].env.EFFECT' is nan"),
        (PLAN.replace('"better"', '"better"\neffect = nan'), "effect must be a number other than 0"),
        (PLAN.replace('"loss"', '"gain"'), "two arms are called 'gain'"),
        (PLAN.replace("0.02", "-0.02").replace("--", "-"), "change the same"),
        ('tuning_seeds = "2-9"\n' + PLAN, "seed 2 is also a tuning seed"),
        ('tuning_seeds = "x"\n' + PLAN, "tuning_seeds: 'x' is not a seed"),
        ('direction = "higher"\n' + PLAN, "of val_bpb lower is better, so gain better would mean the opposite"),
        (PLAN.replace('"better"', '"better"\neffect = 0.01'), "contradicts effect = +0.01, which is worse"),
        (PLAN.replace('name = "control"', 'name = "control"\npredict = "better"'), "it has no hypothesis"),
        (PLAN[: PLAN.index('[[arm]]\nname = "gain"')], "one arm has no hypothesis"),
        ("looks = [3, 3]\n" + PLAN, "rising numbers of seeds"),
        ("looks = [2]\n" + PLAN, "at least two rising"),
        ("looks = [1, 2]\n" + PLAN, "from 2"),
        ("looks = [2.5, 4]\n" + PLAN, "looks"),
        ("looks = [2, 2.0]\n" + PLAN, "looks"),
        ("looks = [2, 4]\n" + PLAN.replace("0-2", "0-8"), "the last look is at 4 seeds, and the plan has 9"),
        ('stopping = "looks"\n' + PLAN, "looks must be"),
        ('stopping = "fixed"\nlooks = [2, 3]\n' + PLAN, 'looks are for stopping = "looks"'),
        ('stopping = "anytime"\nn_max = 10_001\n' + PLAN, "a plan has at most 10,000"),
        ("looks = [2, 99999999999999999999]\n" + PLAN, "a plan has at most 10,000"),
        ('stopping = "whenever"\n' + PLAN, "'whenever' is not one of fixed, looks, anytime"),
        ("n_max = 9\n" + PLAN, 'n_max is for stopping = "anytime"'),
        ('stopping = "anytime"\nn_max = 2\n' + PLAN, "n_max must be at least the plan's 3 seeds"),
        ('policy = "ledgr"\n' + PLAN, "no policy 'ledgr'; did you mean 'ledger'?"),
        ('policy = "modded-nanogpt-track1"\n' + PLAN, "judges val_loss, and the plan's metric is val_bpb"),
        ('platform = "a\\nb"\n' + PLAN, "platform"),
        ('track = "konfirm"\n' + PLAN, "'konfirm' is not one of confirm, explore"),
        ("name = [", "not TOML"),
    ],
)  # fmt: skip
def test_bad_input_is_one_line_and_code_2_and_appends_nothing(home, text, said):
    home.write("plan.toml", text)
    done = home.call("plan", "plan.toml")
    assert done.code == 2
    assert done.complaint.startswith("ledger: plan.toml: ")
    assert said in done.complaint
    assert home.size() == 0


def test_a_metric_that_the_trainer_does_not_tell_is_refused(home):
    head = PLAN[: PLAN.index("[script]")]
    home.write("plan.toml", 'metric = "val_bbp"\n' + head + '[trainer]\n[[arm]]\nname = "a"\n')
    assert (
        "the trainer tells no metric 'val_bbp'; did you mean 'val_bpb'?" in home.call("plan", "plan.toml").complaint
    )


def test_a_metric_that_this_very_program_never_told_is_refused(planned):
    assert planned.call("run", "plan.toml").code == 0
    size = planned.size()
    planned.write("plan.toml", 'metric = "val_bbp"\n' + PLAN.replace('"first"', '"second"'))
    done = planned.call("plan", "plan.toml")
    assert done.code == 2
    assert "told the metric 'val_bbp'; did you mean 'val_bpb'?" in done.complaint
    assert planned.size() == size


@pytest.mark.parametrize("sd", ["0", "-1", "nan", "inf"])
def test_a_stated_noise_must_be_a_number_above_0(home, sd):
    home.write("plan.toml", PLAN)
    done = home.call("plan", "plan.toml", "--sd", sd)
    assert (done.code, home.size()) == (2, 0)
    assert "--sd must be a number above 0" in done.complaint

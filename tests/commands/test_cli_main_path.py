"""From a training script to a verdict: what `ledger run` does, in which order, and what it says."""

from __future__ import annotations

import os
import re
import sys

import pytest

PLAN = """\
name = "study"
delta = 0.002
seeds = "0-2"
[script]
command = [{python}, "-I", "-S", "train.py"]
patterns = []
[[arm]]
name = "baseline"
[[arm]]
name = "EFFECT=-0.02"
env = {{ EFFECT = "-0.02" }}
[[arm]]
name = "EFFECT=0.02"
env = {{ EFFECT = "0.02" }}
[[arm]]
name = "EFFECT=0.00001"
env = {{ EFFECT = "0.00001" }}
"""


def verdicts(place) -> dict[str, str]:
    rows = place.sql("SELECT intervention, verdict FROM decisions WHERE latest")
    return {row["intervention"]: row["verdict"] for row in rows}


# ── verdicts ──


def test_a_real_gain_is_better_a_real_loss_is_worse_and_nothing_is_no_effect_that_matters(study):
    assert verdicts(study) == {
        "EFFECT=-0.02": "better",
        "EFFECT=0.02": "worse",
        "EFFECT=0.00001": "no_effect_that_matters",
    }


def test_where_higher_is_better_the_same_effects_turn_round(home):
    home.run("--arm", "EFFECT=-0.02", "--arm", "EFFECT=0.02", "--direction", "higher")
    assert verdicts(home) == {"EFFECT=-0.02": "worse", "EFFECT=0.02": "better"}


def test_a_noisy_comparison_is_undecided_and_says_how_many_more_seeds(home, monkeypatch):
    monkeypatch.setenv("NOISE", "0.02")
    done = home.run("--arm", "EFFECT=0.005")
    assert done.code == 0
    assert verdicts(home) == {"EFFECT=0.005": "undecided"}
    assert re.search(r"undecided, \d+ more seeds", done.out)


def test_two_arms_and_one_seed_are_undecided_not_an_error(home):
    done = home.run("--arm", "EFFECT=0.1", seeds="0")
    assert done.code == 0
    assert verdicts(home) == {"EFFECT=0.1": "undecided"}


def test_a_script_that_ignores_its_seed_is_invalid_with_the_reason(home):
    home.write("deaf.py", "import os\nprint('val_bpb:' + os.environ.get('VALUE', '1.25'))\n")
    done = home.run("--arm", "VALUE=1.5", script="deaf.py")
    assert verdicts(home) == {"VALUE=1.5": "invalid"}
    assert "do not seem to read their seed" in done.err
    assert done.code == 0


# ── what is said ──


def test_the_verdicts_go_to_stdout_and_the_progress_to_stderr(study):
    out, err = (study.folder / "run.out").read_text(), (study.folder / "run.err").read_text()
    assert "better by over 0.002" in out
    assert "worse by over 0.002" in out
    assert "no effect ±0.002" in out
    assert "[12/12]" in err
    assert "[" not in out


def test_the_next_commands_that_it_names_work(study):
    err = (study.folder / "run.err").read_text()
    named = [line.split(maxsplit=1)[1] for line in err.splitlines() if line.startswith("  ledger ")]
    assert len(named) == 3
    import shlex

    for line in named:
        assert study.call(*shlex.split(line)).code == 0


def test_the_next_commands_name_the_ledger_that_was_named(place):
    place.call("init", "elsewhere")
    done = place.call("--ledger", "elsewhere", "run", "--", sys.executable, "-I", "-S", "train.py")
    assert "ledger report --ledger elsewhere " in done.err


def test_an_ended_run_is_told_with_six_digits_of_the_metric_that_decides(home):
    home.write("late.py", "print('val_bpb:1.234567')\nprint('final_loss:9')\n")
    assert "val_bpb 1.23457 (" in home.run(script="late.py", seeds=None).err


def test_run_with_json_gives_one_object_with_everything(home):
    done = home.call(
        "--json", "run", "--arm", "EFFECT=0.02", "--seeds", "0-1", "--", sys.executable, "-S", "train.py"
    )
    said = done.json
    assert said["statuses"] == {"ok": 4}
    assert (said["ran"], said["before"], said["interrupted"]) == (4, 0, False)
    assert said["decisions"][0]["intervention"] == "EFFECT=0.02"
    assert home.call("replay", str(said["decision_position"])).code == 0


def test_json_may_be_asked_for_before_or_after_the_verb(study):
    assert study.call("--json", "status").json == study.call("status", "--json").json


def test_without_a_name_the_experiment_is_called_after_the_script(home):
    home.run(seeds=None)
    assert re.fullmatch(r"train\.py-[0-9a-f]{6}", home.sql("SELECT name FROM experiments")[0]["name"])


def test_the_first_run_makes_the_default_ledger(place):
    assert place.run(seeds=None).code == 0
    assert (place.folder / "warehouse" / "LEDGER.json").exists()


# ── plan and command line ──


def test_a_plan_and_the_command_line_are_the_same_experiment(study):
    study.write("plan.toml", PLAN.format(python=repr(sys.executable).replace("'", '"')))
    before = study.size()
    done = study.call("run", "plan.toml")
    assert done.code == 0
    assert "12 of 12 runs are on record already" in done.err
    assert study.size() == before


def test_arms_may_be_arguments_of_the_command(home):
    home.write(
        "args.py", "import os, sys\nprint('val_bpb:' + str(float(sys.argv[1]) + 0.001 * int(os.environ['SEED'])))\n"
    )
    home.write(
        "plan.toml",
        f"""name = "args"
delta = 0.01
seeds = "0-1"
[script]
command = ["{sys.executable}", "-I", "-S", "args.py"]
[[arm]]
name = "one"
args = ["1"]
[[arm]]
name = "two"
args = ["2"]
""",
    )
    assert home.call("run", "plan.toml").code == 0
    commands = {event["data"]["arm"]: event["data"]["command"][-1] for event in _of(home, "run.started")}
    assert commands == {"one": "1", "two": "2"}
    assert {row["arm"]: row["n"] for row in home.sql("SELECT arm, count(value) AS n FROM runs GROUP BY arm")} == {
        "one": 2,
        "two": 2,
    }


def test_seeds_on_the_command_line_stand_over_those_of_the_plan(home):
    home.write("plan.toml", PLAN.format(python=repr(sys.executable).replace("'", '"')))
    assert home.call("run", "plan.toml", "--seeds", "5").code == 0
    assert {row["seed"] for row in home.sql("SELECT seed FROM runs")} == {5}


@pytest.mark.parametrize("option", [["--arm", "A=1"], ["--delta", "0"], ["--name", ""], ["--metric", "x"]])
def test_an_option_that_belongs_to_a_command_is_refused_with_a_plan(home, option):
    home.write("plan.toml", PLAN.format(python='"python"'))
    done = home.call("run", "plan.toml", *option)
    assert done.code == 2
    assert f"{option[0]} goes with a command" in done.complaint


# ── order ──


def _of(place, kind: str) -> list:
    return [event for event in place.events() if event["type"] == kind]


def test_the_plan_is_registered_before_the_first_run(study):
    events = study.events()
    assert [event["type"] for event in events].index("experiment.registered") == 0
    assert study.sql("SELECT count(*) AS n FROM runs WHERE NOT started_after_registration") == [{"n": 0}]


def test_every_run_is_started_before_it_ends_and_ends_before_the_next(study):
    kinds = [event["type"] for event in study.events() if event["type"] in ("run.started", "run.finished")]
    assert kinds == ["run.started", "run.finished"] * 12


def test_cells_are_interleaved_by_seed_with_the_order_of_the_arms_turning(study):
    cells = [(event["data"]["seed"], event["data"]["arm"]) for event in _of(study, "run.started")]
    assert [seed for seed, _ in cells] == [0] * 4 + [1] * 4 + [2] * 4
    assert [cells[start][1] for start in (0, 4, 8)] == ["baseline", "EFFECT=-0.02", "EFFECT=0.02"]


# ── again, and more ──


def test_started_again_it_runs_and_appends_nothing(study):
    before = study.size()
    arms = ["--arm", "EFFECT=-0.02", "--arm", "EFFECT=0.02", "--arm", "EFFECT=0.00001"]
    done = study.run("--name", "study", *arms)
    assert done.code == 0
    assert "12 of 12 runs are on record already" in done.err
    assert "better by over 0.002" in done.out
    assert study.size() == before


def test_more_seeds_amend_the_registration_and_reuse_the_runs(home):
    home.run("--name", "grow", "--arm", "EFFECT=0.02", seeds="0-1")
    done = home.run("--name", "grow", "--arm", "EFFECT=0.02", seeds="0-2")
    assert "4 of 6 runs are on record already" in done.err
    plan = home.sql("SELECT amendments, seed_count FROM experiments")
    assert plan == [{"amendments": 1, "seed_count": 3}]
    assert home.sql("SELECT count(*) AS n FROM runs") == [{"n": 6}]
    pairs = [event["data"]["n_pairs"] for event in _of(home, "decision.made")]
    assert pairs == [2, 3]


def test_other_code_is_another_experiment_and_its_runs_are_not_mixed(home):
    home.run("--name", "same", "--arm", "EFFECT=0.02", seeds="0-1")
    with open("train.py", "a") as file:
        file.write("# changed\n")
    done = home.run("--name", "same", "--arm", "EFFECT=0.02", seeds="0-1")
    assert "on record already" not in done.err
    assert len(home.sql("SELECT DISTINCT base FROM experiments")) == 2


def test_failed_cells_are_not_run_again_unless_asked(home):
    home.write("flaky.py", "import os, sys\nif not os.path.exists('fixed'): sys.exit(3)\nprint('val_bpb:1.2')\n")
    assert home.run(script="flaky.py", seeds="0-1").code == 1
    home.write("fixed", "")
    again = home.run(script="flaky.py", seeds="0-1")
    assert again.code == 1
    assert "2 of 2 runs are on record already" in again.err
    retried = home.run("--retry-failed", script="flaky.py", seeds="0-1")
    assert retried.code == 0
    assert [row["status"] for row in home.sql("SELECT status FROM runs ORDER BY started_position")] == [
        "crash",
        "crash",
        "ok",
        "ok",
    ]


def test_a_cell_that_failed_once_and_then_succeeded_counts_once(home):
    home.write(
        "flaky.py",
        "import os, sys\ns = os.environ['SEED']\nif s == '1' and not os.path.exists('fixed'): sys.exit(3)\n"
        "print('val_bpb:%s' % (1.2 + float(os.environ.get('EFFECT', 0)) + 0.001 * (int(s) * 7 % 5)))\n",
    )
    home.run("--arm", "EFFECT=0.1001", script="flaky.py")
    assert home.sql("SELECT n_pairs, failed FROM effects") == [{"n_pairs": 2, "failed": 1}]
    home.write("fixed", "")
    home.run("--retry-failed", "--arm", "EFFECT=0.1001", script="flaky.py")
    assert home.sql("SELECT n_pairs, failed FROM effects") == [{"n_pairs": 3, "failed": 0}]


def test_arms_of_an_earlier_plan_do_not_count_into_this_ones_result(home):
    home.write(
        "some.py",
        "import os, sys\nif os.environ.get('BAD'): sys.exit(5)\n"
        "print('val_bpb:%s' % (1 + 0.01 * int(os.environ['SEED'])))\n",
    )
    assert home.run("--name", "two", "--arm", "BAD=1", script="some.py", seeds="0-1").code == 1
    done = home.run("--name", "two", "--arm", "GOOD=1", script="some.py", seeds="0-1")
    assert done.code == 0
    assert "runs: 4 ok" in done.out


# ── a program that logs by itself ──

LOGGING = """\
import os
import ledger

seed = int(os.environ["SEED"])
run = ledger.init(seed=99, arm="ignored")
for step in range(20):
    run.log({"train_loss": 3 / (step + 1)}, step=step)
print("val_bpb:9.9")
run.finish(val_bpb=1.2 + 0.01 * seed)
"""


def test_a_child_that_logs_joins_the_run_and_its_metric_wins_over_the_printed_one(home):
    home.write("logs.py", LOGGING)
    done = home.call("run", "--seeds", "0-1", "--", sys.executable, "logs.py")
    assert done.code == 0, done.err
    runs = home.sql("SELECT run, arm, seed, value FROM runs ORDER BY seed")
    assert [(row["arm"], row["seed"], row["value"]) for row in runs] == [("baseline", 0, 1.2), ("baseline", 1, 1.21)]
    sources = home.sql("SELECT source, name, count(*) AS n FROM metrics GROUP BY source, name ORDER BY source, name")
    assert sources == [
        {"source": "api", "name": "train_loss", "n": 40},
        {"source": "api", "name": "val_bpb", "n": 2},
        {"source": "stdout", "name": "val_bpb", "n": 2},
    ]


def test_a_child_that_logs_and_crashes_leaves_its_points_and_one_outcome(home):
    home.write("logs.py", LOGGING.replace('print("val_bpb:9.9")', "raise SystemExit(4)"))
    done = home.call("run", "--", sys.executable, "logs.py")
    assert done.code == 4
    assert home.sql("SELECT status FROM runs") == [{"status": "crash"}]
    assert len(_of(home, "run.finished")) == 1
    assert home.sql("SELECT count(*) AS n FROM metrics WHERE source = 'api'") == [{"n": 20}]


def test_a_run_outside_of_experiments_is_counted_by_status(home):
    home.write("alone.py", "import ledger\nrun = ledger.init(seed=1)\nrun.finish(val_bpb=1.5)\n")
    import subprocess

    subprocess.run([sys.executable, "alone.py"], check=True, env={**os.environ, "LEDGER_HOME": "warehouse"})
    assert "1 run outside of experiments" in home.call("status").out

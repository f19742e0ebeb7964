"""Driving a training script as the challenge's scripts are: by environment, with a log file, within a wall clock."""

from __future__ import annotations

import sys

import pytest

# Prints nothing that counts and writes logs/<RUN_ID>.txt, as the challenge's scripts do.
QUIET = """
import os, uuid
os.makedirs("logs", exist_ok=True)
name = f"logs/{os.environ.get('RUN_ID', uuid.uuid4())}.txt"
print(f"logs are in {name}")
seed = int(os.environ["SEED"])
with open(name, "w") as log:
    print("step:1/2 val_loss:3.1 val_bpb:1.9", file=log)
    print(f"final_int8_zlib_roundtrip_exact val_loss:2.1 val_bpb:{1.2 + seed / 100:.8f}", file=log)
"""


def plan(home, script: str, *, log: str = 'log = "logs/*.txt"', arms: str = "", **settings: object) -> None:
    home.write("quiet.py", script)
    said = "".join(f"{name} = {value}\n" for name, value in settings.items())
    home.write(
        "plan.toml",
        f"""name = "driven"
seeds = "0-1"
delta = 0.1
{said}
[script]
command = [{sys.executable!r}, "-I", "-S", "quiet.py"]
grace = 0.2
{log}
[[arm]]
name = "control"
{arms}
""",
    )


def runs(home):
    return home.sql("SELECT arm, seed, status, value, reason FROM runs ORDER BY started_position")


def test_a_metric_that_stands_only_in_the_log_file_is_read_there_and_the_file_is_kept(home):
    plan(home, QUIET)
    done = home.call("run", "plan.toml")
    assert done.code == 0, done.err
    assert [(run["seed"], run["value"]) for run in runs(home)] == [(0, 1.2), (1, 1.21)]
    assert "val_bpb was read from its log file logs/" in runs(home)[0]["reason"]
    kept = home.sql("SELECT name, bytes FROM artifacts WHERE kind = 'log'")
    assert len(kept) == 2
    assert kept[0]["bytes"] > 80


def test_what_the_output_tells_counts_before_the_log_file(home):
    plan(home, QUIET + "print('val_bpb:1.5')\n")
    assert home.call("run", "plan.toml").code == 0
    assert [run["value"] for run in runs(home)] == [1.5, 1.5]
    assert home.sql("SELECT 1 FROM artifacts WHERE kind = 'log'") == []


def test_an_earlier_runs_log_file_is_not_this_runs_result(home):
    plan(home, "print('nothing')")
    (home.folder / "logs").mkdir()
    home.write("logs/old.txt", "val_bpb:1.1\n")
    done = home.call("run", "plan.toml")
    assert done.code == 1
    assert runs(home)[0]["status"] == "no_metric"
    assert "no file logs/*.txt was written" in runs(home)[0]["reason"]


def test_of_several_files_the_one_that_was_written_last_counts(home):
    more = "import time; time.sleep(0.02)\nopen('logs/z.txt', 'w').write('val_bpb:1.7')\n"
    more += "time.sleep(0.02)\nopen('logs/a.txt', 'w').write('val_bpb:1.8')\n"
    plan(home, QUIET + more)
    home.call("run", "plan.toml")
    assert [run["value"] for run in runs(home)] == [1.8, 1.8]


def test_a_log_file_without_the_metric_is_told(home):
    plan(home, QUIET.replace("val_bpb", "val_bits"))
    assert home.call("run", "plan.toml").code == 1
    run = runs(home)[0]
    assert run["status"] == "no_metric"
    assert "nor does its log file logs/" in run["reason"]


def test_a_metric_that_is_no_number_in_the_log_file_is_divergence(home):
    plan(home, QUIET.replace("{1.2 + seed / 100:.8f}", "nan"))
    assert home.call("run", "plan.toml").code == 1
    assert [run["status"] for run in runs(home)] == ["diverged", "diverged"]


def test_the_log_file_is_an_option_of_a_command_too(home):
    home.write("quiet.py", QUIET)
    done = home.call("run", "--seeds", "0", "--log-file", "logs/*.txt", "--", sys.executable, "-I", "-S", "quiet.py")
    assert done.code == 0, done.err
    assert runs(home)[0]["value"] == 1.2


def test_without_being_told_no_file_is_read(home):
    plan(home, QUIET, log="")
    assert home.call("run", "plan.toml").code == 1
    assert runs(home)[0]["status"] == "no_metric"


def test_a_script_with_a_wall_clock_of_its_own_gets_two_minutes_beyond_it(monkeypatch):
    from runners import script

    assert script.beyond_wallclock({"MAX_WALLCLOCK_SECONDS": "600"}) == 720
    for value in ("", "0", "-1", "soon", "nan", "inf"):
        assert script.beyond_wallclock({"MAX_WALLCLOCK_SECONDS": value}) is None
    assert script.beyond_wallclock({}) is None


def test_a_script_that_hangs_past_its_wall_clock_is_ended_and_the_other_cells_go_on(home, monkeypatch):
    from runners import script

    monkeypatch.setattr(script, "BEYOND", 0.2)
    hang = "import os, time\nprint('val_bpb:1.2', flush=True)\nif os.environ['SEED'] == '0': time.sleep(60)\n"
    plan(home, hang, arms='env = { MAX_WALLCLOCK_SECONDS = "0.3" }')
    done = home.call("run", "plan.toml")
    assert done.code == 1
    assert [(run["status"], run["value"]) for run in runs(home)] == [("timeout", 1.2), ("ok", 1.2)]
    assert "still running after 0.5 s" in runs(home)[0]["reason"]


def test_a_plans_own_timeout_counts_before_the_scripts_wall_clock(home):
    plan(home, "import time; time.sleep(60)", arms='env = { MAX_WALLCLOCK_SECONDS = "600" }', timeout=0.3)
    home.call("run", "plan.toml")
    assert "still running after 0.3 s" in runs(home)[0]["reason"]


@pytest.mark.slow
def test_a_gigabyte_of_output_is_survived_and_its_last_metric_counts(home):
    home.write(
        "loud.py", "line = ('y' * 999 + '\\n') * 1048\nfor i in range(1000): print(line)\nprint('val_bpb:1.25')\n"
    )
    done = home.run(script="loud.py", seeds=None)
    assert done.code == 0, done.err
    assert runs(home)[0]["value"] == 1.25
    kept = home.sql("SELECT bytes, left_out FROM artifacts WHERE kind = 'stdout'")[0]
    assert kept["bytes"] < 17 << 20
    assert kept["bytes"] + kept["left_out"] > 1_000_000_000


# --- Two sizes ---------------------------------------------------------------------------------------------

TWO_SIZES = f"""name = "sized"
seeds = "0-2"
delta = 0.1
[script]
command = [{sys.executable!r}, "-I", "-S", "train.py"]
[[arm]]
name = "control"
[[arm]]
name = "better"
env = {{ EFFECT = "-0.3" }}
[small]
seeds = "0-1"
scale = "small"
"""


def test_a_plan_runs_at_its_small_size_as_an_experiment_of_its_own(home):
    home.write("plan.toml", TWO_SIZES)
    registered = home.call("plan", "--small", "plan.toml")
    assert registered.code == 0, registered.err
    assert registered.err.strip().endswith("ledger run plan.toml --small")
    assert home.call("run", "plan.toml", "--small").code == 0
    assert home.call("run", "plan.toml").code == 0
    found = home.sql("SELECT name, count(*) AS n FROM runs JOIN experiments USING (experiment) GROUP BY name")
    assert sorted((row["name"], row["n"]) for row in found) == [("sized", 6), ("sized-small", 4)]


def test_small_needs_a_table_in_a_plan(home):
    home.write("plan.toml", TWO_SIZES.partition("[small]")[0])
    assert "--small needs a [small] table" in home.call("run", "plan.toml", "--small").complaint
    done = home.call("run", "--small", "--", sys.executable, "train.py")
    assert (done.code, "--small goes with a plan" in done.err) == (2, True)

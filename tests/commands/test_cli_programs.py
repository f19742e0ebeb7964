"""Whatever a wrapped program does, it is told in one line, kept on record, and nothing else is harmed."""

from __future__ import annotations

import os
import sys

import pytest

TOKEN = "ghp_" + "abcdefghijklmnopqrstuvwxyz0123456789"


def last(place):
    """The newest run of the ledger."""
    return place.sql("SELECT * FROM runs ORDER BY started_position DESC LIMIT 1")[0]


def test_a_program_that_exits_with_a_code_passes_it_through(home):
    done = home.script("import sys; sys.stderr.write('no data at D\\n'); sys.exit(7)")
    assert done.code == 7
    assert "exit code 7: no data at D" in done.err
    run = last(home)
    assert (run["status"], run["exit_code"], run["value"]) == ("crash", 7, None)


def test_of_several_cells_a_failed_one_makes_the_code_1(home):
    home.write("odd.py", "import os, sys\nif os.environ['SEED'] == '1': sys.exit(9)\nprint('val_bpb:1.2')\n")
    done = home.run(script="odd.py", seeds="0-1")
    assert done.code == 1
    assert "1 crash, 1 ok" in done.out


def test_where_no_run_is_ok_the_next_commands_show_what_the_newest_said(home):
    done = home.script("import sys; print('hello'); sys.exit('no data at D')", "--arm", "A=1", "--seeds", "0-1")
    _, _, told = done.err.partition("next:\n")
    commands = [line.split()[1:] for line in told.splitlines()]
    run = last(home)["run"][:8]
    assert commands[:2] == [["show", run, "--text", "stderr"], ["show", run]]
    assert "paired_differences" not in told
    assert home.call(*commands[0]).out == "no data at D\n"


def test_where_they_said_nothing_on_stderr_it_is_stdout(home):
    done = home.script("import sys; print('no data at D'); sys.exit(3)")
    assert f"next:\n  ledger show {last(home)['run'][:8]} --text stdout\n" in done.err


def test_cells_that_all_failed_before_are_not_run_and_it_says_how_they_are(home):
    program = ("import sys; sys.exit(3)", "--arm", "A=1", "--seeds", "0-1")
    assert "--retry-failed" not in home.script(*program).err
    again = home.script(*program)
    assert again.code == 1
    assert "nothing was run: 4 runs failed before; --retry-failed runs them again\n" in again.err
    assert len(home.sql("SELECT 1 FROM runs")) == 4
    assert "nothing was run" not in home.script(program[0], "--retry-failed", *program[1:]).err
    assert len(home.sql("SELECT 1 FROM runs")) == 8


def test_a_run_is_shown_with_how_to_read_each_text_that_it_left(home):
    home.script("import sys; print('val_bpb:1.2'); print('careful', file=sys.stderr)")
    run = last(home)["run"]
    told = home.call("show", run).err.split("\n")
    commands = dict(line.removeprefix("its ").split(": ledger ", 1) for line in told if line.startswith("its "))
    assert {"stdout", "stderr", "environment"} <= set(commands)
    assert home.call(*commands["stderr"].split()).out == "careful\n"
    assert home.call(*commands["stdout"].split()).out == "val_bpb:1.2\n"


def test_a_program_that_prints_nothing_stops_the_rest_and_says_what_to_print(home):
    home.write("mute.py", "")
    done = home.run("--arm", "A=1", script="mute.py")
    assert done.code == 1
    assert "told no metric at all" in done.err
    assert "`val_bpb: <number>`" in done.err
    assert [row["status"] for row in home.sql("SELECT status FROM runs")] == ["no_metric"] * 2


def test_a_metric_that_no_run_printed_is_answered_with_those_that_it_printed(home):
    done = home.run("--arm", "EFFECT=1", "--metric", "val_bits")
    assert done.code == 1
    assert "step_avg, train_loss, val_bpb" in done.err
    assert "did you mean --metric val_bpb?" in done.err
    assert len(home.sql("SELECT 1 FROM runs")) == 2


def test_started_again_after_no_metric_it_stops_at_the_next_cell_instead_of_running_them_all(home):
    home.run("--arm", "EFFECT=1", "--metric", "val_bits")
    done = home.run("--arm", "EFFECT=1", "--metric", "val_bits")
    assert done.code == 1
    assert len(home.sql("SELECT 1 FROM runs")) == 3


@pytest.mark.parametrize(("value", "kept"), [("nan", "NaN"), ("inf", "Infinity"), ("-inf", "-Infinity")])
def test_a_metric_that_is_no_number_is_divergence_and_never_a_zero(home, value, kept):
    done = home.script(f"print('val_bpb:{value}')")
    assert done.code == 1
    run = last(home)
    assert (run["status"], run["value"]) == ("diverged", kept)


def test_a_program_killed_by_a_signal_is_a_crash_with_the_signals_name(home):
    done = home.script("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)")
    assert done.code == 128 + 11  # as a shell gives it
    run = last(home)
    assert (run["status"], run["signal"], run["exit_code"]) == ("crash", "SIGSEGV", None)


def test_a_kill_that_nobody_sent_is_told_as_likely_out_of_memory(home):
    done = home.script("import os, signal; os.kill(os.getpid(), signal.SIGKILL)")
    assert done.code == 128 + 9
    assert last(home)["status"] == "oom"


def test_a_program_that_ignores_the_term_signal_ends_at_its_timeout(home):
    home.write(
        "plan.toml",
        f"""name = "stubborn"
seeds = [0]
delta = 0.1
timeout = 0.5
[script]
command = [{sys.executable!r}, "-I", "-S", "stubborn.py"]
grace = 0.2
[[arm]]
name = "only"
""",
    )
    home.write(
        "stubborn.py",
        "import signal, time\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "print('loss:1', flush=True)\ntime.sleep(60)",
    )
    done = home.call("run", "plan.toml")
    assert done.code == 1
    run = last(home)
    assert run["status"] == "timeout"
    assert "still running after 0.5 s" in run["reason"]
    assert run["wall_s"] < 20
    assert home.sql("SELECT value FROM metrics WHERE name = 'loss'") == [{"value": 1.0}]


def test_sixty_megabytes_of_output_are_survived_bounded_and_counted(home):
    home.write(
        "loud.py", "for i in range(60):\n    print('x' * 999 + '\\n', end='') or print(('y' * 999 + '\\n') * 1048)\n"
    )
    with open("loud.py", "a") as file:
        file.write("print('val_bpb:1.25')\n")
    done = home.run(script="loud.py", seeds=None)
    assert done.code == 0, done.err
    kept = home.sql("SELECT bytes, left_out FROM artifacts WHERE kind = 'stdout'")[0]
    assert kept["bytes"] < 17 << 20
    assert kept["left_out"] > 40 << 20
    assert last(home)["value"] == 1.25


def test_three_thousand_metric_names_are_all_kept(home):
    done = home.script("for i in range(3000): print(f'grad_norm_of_the_block_{i}:{i}.5')\nprint('val_bpb:1.2')")
    assert done.code == 0, done.err
    assert home.sql("SELECT count(DISTINCT name) AS n FROM metrics")[0]["n"] == 3001
    assert last(home)["value"] == 1.2


def test_control_codes_of_a_program_do_not_reach_the_terminal(home):
    done = home.script("import sys; sys.stderr.write('\\x1b]0;owned\\x07 bad \\x1b[2J\\n'); sys.exit(1)")
    shown = home.call("show", last(home)["run"]).out
    assert "\x1b" not in done.out + done.err + shown
    assert "\x07" not in done.out + done.err + shown


# ── secrets ──


def test_a_token_in_an_arm_is_refused_before_anything_is_appended(home):
    done = home.run("--arm", f"KEY={TOKEN}")
    assert done.code == 2
    assert "GitHub token" in done.complaint
    assert TOKEN not in done.err
    assert home.size() == 0


def test_a_token_in_the_command_is_refused_before_anything_is_appended(home):
    done = home.call("run", "--", "true", f"--token={TOKEN}")
    assert done.code == 2
    assert "GitHub token" in done.complaint
    assert TOKEN not in done.err
    assert home.size() == 0


def test_a_token_in_a_variable_that_would_be_recorded_is_refused_by_the_variables_name(home, monkeypatch):
    monkeypatch.setenv("TORCH_HUB_AUTH", TOKEN)
    done = home.run()
    assert done.code == 2
    assert "TORCH_HUB_AUTH" in done.complaint
    assert TOKEN not in done.err
    assert home.size() == 0


def test_a_token_in_a_variable_that_is_not_recorded_is_nobodys_business(home, monkeypatch):
    monkeypatch.setenv("GITHUB_TOKEN", TOKEN)
    assert home.run(seeds=None).code == 0
    assert not _holds(home, TOKEN)


def test_a_token_that_a_program_prints_is_taken_out_of_what_is_kept_and_the_run_goes_on(home):
    done = home.script(
        f"import sys\nprint('using {TOKEN} now')\nprint('{TOKEN}:3.5')\n"
        f"print('step:1 {TOKEN}=2')\nprint('{{\"{TOKEN}\": 1}}')\n"
        f"print('val_bpb:1.25')\nsys.stderr.write('auth {TOKEN}\\n')"
    )
    assert done.code == 0, done.err
    assert last(home)["value"] == 1.25
    text = home.spawn("show", last(home)["run"], "--text", "stdout").out
    assert "using [redacted: GitHub token] now" in text
    assert not _holds(home, TOKEN)


def test_a_token_in_a_programs_last_words_is_not_in_the_reason(home):
    done = home.script(f"import sys; sys.exit('denied for {TOKEN}')")
    assert done.code == 1
    assert "denied for [redacted: GitHub token]" in done.err
    assert "denied for [redacted: GitHub token]" in last(home)["reason"]
    assert not _holds(home, TOKEN)


def _holds(place, token: str) -> bool:
    """Whether any file of the ledger holds the token, as plain bytes or in a table."""
    for folder, _, names in os.walk(place.folder / "warehouse"):
        for name in names:
            with open(os.path.join(folder, name), "rb") as file:
                if token.encode() in file.read():
                    return True
    return token in place.call("--json", "log").out


# ── bytes that are no text ──


def test_bytes_that_are_no_text_in_the_output_are_kept_as_they_were(home):
    done = home.script("import sys\nsys.stdout.buffer.write(b'caf\\xe9 loss:3\\n\\xff\\xfe\\x00\\nval_bpb:1.5\\n')")
    assert done.code == 0, done.err
    with home.start("show", last(home)["run"], "--text", "stdout") as shown:
        assert shown.communicate()[0] == b"caf\xe9 loss:3\n\xff\xfe\x00\nval_bpb:1.5\n"


def test_bytes_that_are_no_text_in_a_recorded_variable_are_escaped(home):
    env = {"TORCH_LOGS": os.fsdecode(b"a\xffb")}
    done = home.spawn("run", "--", sys.executable, "-I", "-S", "train.py", env=env)
    assert done.code == 0, done.err
    assert "a\\\\xffb" in home.spawn("show", last(home)["run"], "--text", "environment").out


def test_a_script_whose_name_is_no_text_is_refused_by_the_place_of_the_word(home):
    name = os.fsdecode(b"tr\xffin.py")
    (home.folder / name).write_text("print('val_bpb:1')")
    done = home.spawn("run", "--", sys.executable, os.fsencode(name))
    assert done.code == 2
    assert "word 2 of the command" in done.complaint


def test_files_beside_the_script_may_have_names_that_are_no_text(home):
    (home.folder / os.fsdecode(b"hel\xffper.py")).write_text("x = 1")
    assert home.run(seeds=None).code == 0


# ── the wrapped environment ──


def test_a_program_finds_its_seed_its_arm_and_its_run_in_the_environment(home):
    home.write(
        "env.py",
        "import os\nprint('val_bpb:' + os.environ['SEED'] + '.' + os.environ.get('DIGIT', '1'))\n"
        "assert len(os.environ['LEDGER_RUN_ID']) == 16\nassert os.path.isdir(os.environ['LEDGER_HOME'])\n",
    )
    assert home.run("--arm", "DIGIT=7", script="env.py", seeds="3").code == 0
    values = {row["arm"]: row["value"] for row in home.sql("SELECT arm, value FROM runs")}
    assert values == {"baseline": 3.1, "DIGIT=7": 3.7}


def test_a_user_pattern_reads_a_metric_that_would_not_be_read_otherwise(home):
    home.write("odd.py", "import os\nprint('FINAL <' + str(1 + 0.1 * int(os.environ['SEED'])) + '> bits')\n")
    done = home.run("--pattern", r"FINAL <(?P<val_bpb>[\d.]+)>", script="odd.py", seeds="0-1")
    assert done.code == 0, done.err
    assert [row["value"] for row in home.sql("SELECT value FROM runs ORDER BY seed")] == [1.0, 1.1]


def test_a_program_that_changes_the_ledgers_folder_name_in_its_own_environment_harms_nothing(home):
    assert home.script("import os; os.environ['LEDGER_HOME'] = '/'; print('val_bpb:1.0')").code == 0


def test_runs_at_once_are_spread_over_the_gpus_and_decided_as_ever(home):
    home.write(
        "apart.py",
        "import os, time\ntime.sleep(0.3)\nprint('gpu:', os.environ['CUDA_VISIBLE_DEVICES'])\nprint('val_bpb:1.2')\n",
    )
    done = home.call(
        "run", "--seeds", "0-1", "--arm", "A=1", "--gpus", "4,7", "--", sys.executable, "-I", "-S", "apart.py"
    )
    assert done.code == 0, done.err
    at = home.sql("SELECT name, value, count(*) AS n FROM metrics WHERE name = 'gpu' GROUP BY ALL ORDER BY value")
    assert [(row["value"], row["n"]) for row in at] == [(4.0, 2), (7.0, 2)]
    assert len(home.sql("SELECT 1 FROM decisions")) == 1


@pytest.mark.parametrize("gpus", ["x", "0-", "3-1", "0,,1", "1;2", "-1", "²-³", "٣", "0,00"])
def test_gpus_that_are_none_are_refused_in_one_line(home, gpus):
    done = home.call("run", "--gpus", gpus, "--", sys.executable, "-c", "pass")
    assert done.code == 2
    assert "--gpus" in done.err
    assert done.err.count("\n") == 1

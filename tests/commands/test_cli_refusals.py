"""Bad input gets one clear line and the right exit code, and nothing is lost or appended."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from commands.main import VERBS

WITHOUT_A_LEDGER = [
    ["log"],
    ["show", "0"],
    ["status"],
    ["sql", "SELECT 1"],
    ["matrix"],
    ["audit", "records"],
    ["decide"],
    ["reproduce", "0"],
    ["dag", "show"],
    ["next"],
    ["replay", "--all"],
    ["report"],
    ["plot"],
    ["verify"],
    ["rebuild"],
    ["retract", "0", "--reason", "x"],
    ["checkpoint"],
    ["prove", "0"],
    ["keys"],
    ["compact"],
    ["export", "delta"],
    ["repair"],
]
READING = [arguments for arguments in WITHOUT_A_LEDGER if arguments[0] not in ("verify", "retract", "repair")]


@pytest.mark.parametrize("arguments", WITHOUT_A_LEDGER, ids=lambda a: a[0])
def test_without_a_ledger_every_verb_says_how_to_make_one(place, arguments):
    done = place.call(*arguments)
    assert done.code == 2
    assert "no ledger at" in done.complaint
    assert "ledger init" in done.complaint
    assert not (place.folder / "warehouse").exists()


def test_the_list_above_has_every_verb_that_needs_a_ledger():
    making = {"init", "run", "plan", "extract", "import", "cycle", "doctor"}
    assert {arguments[0] for arguments in WITHOUT_A_LEDGER} | making >= set(VERBS)


def test_run_does_not_make_a_ledger_that_was_named_and_is_not_there(place):
    for option, env in (("--ledger", {}), (None, {"LEDGER_HOME": str(place.folder / "gone")})):
        os.environ.update(env)
        done = place.call(*([option, "gone"] if option else []), "run", "--", *_true())
        os.environ.pop("LEDGER_HOME", None)
        assert done.code == 2
        assert "ledger init" in done.complaint
        assert not (place.folder / "gone").exists()


def _true() -> tuple[str, ...]:
    return ("true",)


@pytest.mark.parametrize("arguments", [*WITHOUT_A_LEDGER, ["init"]], ids=lambda a: a[0])
def test_a_path_that_is_a_file_is_refused_and_left_alone(place, arguments):
    file = place.write("notes.txt", "mine")
    done = place.call("--ledger", "notes.txt", *arguments)
    assert done.code == 2
    assert "is a file; a ledger is a folder" in done.complaint
    assert file.read_text() == "mine"


@pytest.mark.parametrize("arguments", [*WITHOUT_A_LEDGER, ["init"]], ids=lambda a: a[0])
def test_a_ledger_of_a_newer_format_is_refused_by_name_of_the_formats(home, arguments):
    mark = home.folder / "warehouse" / "LEDGER.json"
    mark.write_text(json.dumps({**json.loads(mark.read_text()), "format": 9, "id": "f" * 32, "shards": 4}))
    done = home.call(*arguments)
    assert done.code == 2
    assert "format 9" in done.complaint
    assert "update" in done.complaint


def test_init_refuses_a_folder_that_holds_something_else(place):
    (place.folder / "full").mkdir()
    (place.folder / "full" / "thesis.tex").write_text("mine")
    done = place.call("init", "full")
    assert done.code == 2
    assert "thesis.tex" in done.complaint
    assert os.listdir(place.folder / "full") == ["thesis.tex"]


def test_init_twice_leaves_the_ledger_as_it_is(home):
    before = (home.folder / "warehouse" / "LEDGER.json").read_bytes()
    done = home.call("init")
    assert done.code == 0
    assert "already" in done.err
    assert (home.folder / "warehouse" / "LEDGER.json").read_bytes() == before


# ── broken integrity ──


@pytest.fixture
def mixed(study, tmp_path: Path) -> Path:
    """A ledger into which somebody else's segments were copied."""
    assert study.call("init", str(tmp_path / "mixed")).code == 0
    shutil.rmtree(tmp_path / "mixed" / "log")
    shutil.copytree("warehouse/log", tmp_path / "mixed" / "log")
    return tmp_path / "mixed"


@pytest.mark.parametrize("arguments", READING, ids=lambda a: a[0])
def test_a_segment_of_another_ledger_is_an_integrity_error(study, mixed, arguments):
    done = study.call("--ledger", str(mixed), *arguments)
    assert done.code == 3
    assert "belongs to another ledger" in done.complaint


def test_run_appends_nothing_to_a_ledger_with_somebody_elses_segment(study, mixed):
    before = sorted(path.name for path in (mixed / "log").rglob("*.parquet"))
    done = study.call("--ledger", str(mixed), "run", "--", "true")
    assert done.code == 3
    assert sorted(path.name for path in (mixed / "log").rglob("*.parquet")) == before


def test_verify_names_the_first_position_that_is_wrong(study):
    segments = sorted((study.folder / "warehouse" / "log").rglob("*.parquet"))
    data = bytearray(segments[5].read_bytes())
    data[40] ^= 1
    segments[5].write_bytes(data)
    done = study.call("verify")
    assert done.code == 3
    assert f"position {int(segments[5].stem)}" in done.err
    assert done.out == ""


def test_a_missing_segment_is_an_integrity_error_for_readers_and_for_run(study):
    shutil.rmtree(study.folder / "warehouse" / "state")
    segments = sorted((study.folder / "warehouse" / "log").rglob("*.parquet"))
    segments[2].unlink()
    for arguments in (["status"], ["log"], ["run", "--", "true"]):
        done = study.call(*arguments)
        assert done.code == 3
        assert "is missing" in done.complaint


# ── the command line ──


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nosuch"], "no command 'nosuch'"),
        (["rnu"], "did you mean `ledger run`?"),
        (["--lger", "x", "log"], "No such option"),
        (["log", "--lst", "3"], "--last"),
        (["log", "-n", "0"], "0 is not in the range"),
        (["log", "-n", "many"], "'many' is not a valid integer"),
        (["log", "--type", "run.finishd"], "did you mean run.finished?"),
        (["rebuild", "--threads", "0"], "0 is not in the range"),
        (["run"], "name a plan"),
        (["run", "--delta", "big", "--", "true"], "'big' is not a valid float"),
        (["run", "--direction", "up", "--", "true"], "'lower', 'higher'"),
        (["run", "--seeds", "2-0", "--", "true"], "write 0-2"),
        (["run", "--seeds", "0,1,0", "--", "true"], "seed 0 is given twice"),
        (["run", "--seeds", "", "--", "true"], "no seeds"),
        (["run", "--seeds", "x", "--", "true"], "write 0-2 or 0,1,2"),
        (["run", "--seeds", "0-9999999", "--", "true"], "at most 10,000"),
        (["run", "--seeds", "0-9999", "--", "true"], "have fewer"),
        (["run", "--arm", "A=1", "--", "true"], "--seeds 0-2"),
        (["run", "--arm", "A", "--seeds", "0-1", "--", "true"], "an arm is NAME=VALUE"),
        (["run", "--arm", "", "--seeds", "0-1", "--", "true"], "an arm is NAME=VALUE"),
        (["run", "--arm", "A=1,A=2", "--seeds", "0-1", "--", "true"], "A is set twice"),
        (["run", "--arm", "A=1", "--arm", "A=1", "--seeds", "0-1", "--", "true"], "two arms are called"),
        (["run", "--arm", "SEED=1", "--seeds", "0-1", "--", "true"], "SEED is set by ledger run"),
        (["run", "--arm", "LEDGER_HOME=x", "--seeds", "0-1", "--", "true"], "LEDGER_HOME is set by ledger run"),
        (["run", "--delta", "0", "--", "true"], "delta must be a number above 0"),
        (["run", "--delta", "nan", "--", "true"], "delta must be a number above 0"),
        (["run", "--timeout", "-1", "--", "true"], "timeout must be a number of seconds"),
        (["run", "--name", "", "--", "true"], "name ''"),
        (["run", "--name", "../../etc", "--", "true"], "name '../../etc'"),
        (["run", "--metric", "", "--", "true"], "metric must be a name"),
        (["run", "--pattern", "(", "--", "true"], "not a regular expression"),
        (["run", "--", ""], "first word of the command is empty"),
        (["run", "--", "nosuchprogram"], "in no folder of PATH"),
        (["run", "--", "./"], "it is a directory"),
        (["run", "--", "./train.py"], "write python ./train.py"),
        (["run", "--", "./nosuch"], "there is no file"),
        (["run", "python", "train.py", "--lr", "3"], "put -- before the program"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_wrong_usage_gets_one_line_and_code_2_and_appends_nothing(home, arguments, said):
    done = home.call(*arguments)
    assert done.code == 2
    assert said in done.complaint
    assert home.size() == 0


def test_ledger_alone_prints_its_help_in_lines(place):
    done = place.call()
    assert done.code == 2
    assert "Commands:" in done.err.splitlines()


def test_bytes_that_are_no_text_in_the_command_are_named(home):
    done = home.spawn("run", "--", "true", b"a\xffb")
    assert done.code == 2
    assert "word 2 of the command is not UTF-8" in done.complaint
    assert home.size() == 0


@pytest.mark.parametrize("name", ["--arm", "--name", "--metric", "--pattern"])
def test_bytes_that_are_no_text_in_an_option_are_refused_in_one_line(home, name):
    done = home.spawn("run", "--seeds", "0-1", name, b"A=a\xffb", "--", "true")
    assert done.code == 2
    assert "Traceback" not in done.err
    assert len(done.err.splitlines()) == 1
    assert home.size() == 0


def test_an_unexpected_error_shows_its_traceback_only_with_debug(home, monkeypatch):
    monkeypatch.setattr("commands.log.summary", lambda event: 1 / 0)
    home.run(seeds=None)
    plain = home.call("log")
    assert plain.code == 1
    assert "ZeroDivisionError" in plain.err
    assert "--debug" in plain.err
    assert len(plain.err.splitlines()) == 1
    assert "Traceback" in home.call("--debug", "log").err


# ── names of what is in the ledger ──


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["sql", "SELECT 1", "--as-of", "nonsense"], "is not an event id"),
        (["sql", "SELECT 1", "--as-of", ""], "is not an event id"),
        (["sql", "SELECT 1", "--as-of", "-1"], "is not an event id"),
        (["sql", "SELECT 1", "--as-of", "99999"], "is outside the log, which has"),
        (["log", "--as-of", "99999"], "is outside the log, which has"),
        (["status", "--as-of", "2026-13-45"], "2026-13-45"),
        (["show", ""], "name what to show"),
        (["show", "nosuch"], "'nosuch' is no position, event, run or experiment"),
        (["show", "99999"], "'99999' is no position"),
        (["show", "nosuch", "--text", "stdout"], "no run's id begins with nosuch"),
        (["decide", ""], "empty name"),
        (["decide", "studdy"], "did you mean study?"),
        (["report", "nothing-like-it"], "`ledger status` lists them"),
        (["plot", "--metric", "nosuch"], "no points of 'nosuch'"),
        (["replay"], "name one decision"),
        (["replay", "0", "--all"], "name one decision"),
        (["replay", "0"], "is experiment.registered, a fact"),
        (["replay", "99999"], "there is no event at position 99999"),
        (["retract", "3"], "--reason"),
        (["retract", "3", "--reason", "  "], "a retraction needs a reason"),
        (["retract", "99999", "--reason", "x"], "there is no event at position 99999"),
        (["verify", "--expect-head", "nonsense"], "a head is SIZE:ROOT"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_name_that_means_nothing_is_refused_with_a_way_out(study, arguments, said):
    before = study.size()
    done = study.call(*arguments)
    assert done.code == 2
    assert said in done.complaint
    assert study.size() == before


def test_an_ambiguous_event_id_is_refused_with_the_number_of_matches(study):
    shared = study.events()[0]["event_id"][:4]
    done = study.call("sql", "SELECT 1", "--as-of", shared)
    assert done.code == 2
    assert f"{study.size()} events' ids begin with {shared}; give more digits" in done.complaint


def test_text_that_a_run_did_not_leave_is_refused_with_what_it_left(study):
    run = study.sql("SELECT run FROM runs LIMIT 1")[0]["run"]
    done = study.call("show", run, "--text", "diff")
    assert done.code == 2
    assert "it left environment, stderr, stdout" in done.complaint


def test_a_report_that_cannot_be_written_is_refused_in_one_line(study):
    study.write("out", "a file")
    done = study.call("report")
    assert done.code == 2
    assert "cannot write" in done.err
    assert "Traceback" not in done.err


def test_a_ledger_without_experiments_says_how_to_get_one(home):
    for arguments in (["decide"], ["report"], ["plot"]):
        done = home.call(*arguments)
        assert done.code == 2
        assert "no experiment yet" in done.complaint


def test_an_experiment_of_one_arm_has_nothing_to_decide(home):
    home.run(seeds="0-1")
    done = home.call("decide")
    assert done.code == 2
    assert "has one arm only" in done.complaint

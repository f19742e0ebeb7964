"""What people read: reports, plots, show, status, log and doctor; and the same for programs with --json."""

from __future__ import annotations

import json
import os
import re
import struct
import subprocess
import sys
from xml.etree import ElementTree

import pytest

HOSTILE = ["<script>alert(1)</script>", "a|b`c", "[x](javascript:1)", "# head\n\n* item"]


# ── for programs ──


@pytest.mark.parametrize(
    "arguments",
    [
        ["status"], ["verify"], ["rebuild"], ["doctor"], ["init"], ["report"], ["plot"],
        ["show", "0"], ["show", "study"],
        ["retract", "2", "--reason", "x"],
    ],
    ids=lambda a: a[0],
)  # fmt: skip
def test_with_json_a_verb_gives_one_object(study, arguments):
    done = study.call("--json", *arguments)
    assert done.code == 0, done.err
    assert isinstance(done.json, (dict, list))


@pytest.mark.parametrize("arguments", [["log"], ["decide"], ["replay", "--all"], ["sql", "SELECT * FROM runs"]])
def test_with_json_a_verb_that_lists_gives_one_object_a_line(study, arguments):
    done = study.call("--json", *arguments)
    assert done.code == 0, done.err
    assert len(done.rows) >= 3
    assert all(isinstance(row, dict) for row in done.rows)


def test_with_json_log_gives_the_events_as_they_lie_in_the_log(study):
    row = study.events()[0]
    assert row["type"] == "experiment.registered"
    assert row["data"]["name"] == "study"


# ── report ──


def test_the_report_holds_the_sentences_that_it_prints(study):
    done = study.call("report")
    assert done.code == 0
    text = (study.folder / "out" / "study" / "report.md").read_text()
    sentences = [row["why"] for row in study.sql("SELECT why FROM decisions WHERE latest")]
    assert len(sentences) == 3
    for sentence in sentences:
        assert sentence in done.out
        assert sentence in text


def test_the_report_names_how_to_check_it_and_the_check_holds(study):
    study.call("report")
    text = (study.folder / "out" / "study" / "report.md").read_text()
    commands = [line.split("#")[0].split()[1:] for line in text.splitlines() if line.startswith("ledger ")]
    assert len(commands) == 4
    for command in commands:
        assert study.call(*command).code == 0


def test_the_report_lists_every_run_and_every_pair(study):
    study.call("report")
    text = (study.folder / "out" / "study" / "report.md").read_text()
    runs = study.sql("SELECT run FROM runs")
    assert all(f"`{row['run'][:8]}`" in text for row in runs)
    assert text.count("| EFFECT=0.02 | ") == 1 + 3 + 3


def test_the_pictures_that_the_report_shows_lie_beside_it(study):
    study.call("report", "-o", "page")
    text = (study.folder / "page" / "report.md").read_text()
    names = re.findall(r"\]\(([^)]+\.png)\)", text)
    assert len(names) == 3
    assert all((study.folder / "page" / name).is_file() for name in names)


def test_a_report_without_points_is_written_without_plots(home):
    home.write("bare.py", "import os\nprint('val_bpb:%s' % (1 + float(os.environ['SEED']) / 9))\n")
    home.run(script="bare.py", seeds="0")
    home.call("report", "-o", "page")
    assert (home.folder / "page" / "report.md").exists()


def hostile_plan(place) -> None:
    """A question and a program's last words that try to be markup."""
    question = json.dumps(" ".join(HOSTILE))
    place.write(
        "plan.toml",
        f"""name = "x /../^*, y"
question = {question}
delta = 0.01
seeds = "0-1"
[script]
command = ["{sys.executable}", "-I", "-S", "nasty.py"]
[[arm]]
name = "plain"
[[arm]]
name = "a/../../up"
env = {{ BAD = "1" }}
[[arm]]
name = "abs/^*"
env = {{ BAD = "2" }}
""",
    )
    place.write(
        "nasty.py",
        "import os, sys\nfor i in range(3): print(f'step:{i}/3 train_loss:{3 - i}')\n"
        "if os.environ.get('BAD') == '1' and os.environ['SEED'] == '1':\n"
        "    sys.exit('<script>alert(1)</script> | `tick` | [x](javascript:1)')\n"
        "print('val_bpb:%s' % (1 + 0.1 * int(os.environ['SEED']) + 0.01 * float(os.environ.get('BAD', 0))))\n",
    )


def test_text_that_tries_to_be_markup_is_harmless_in_the_report(home):
    hostile_plan(home)
    home.call("run", "plan.toml")
    done = home.call("report", "-o", "page")
    assert done.code == 0, done.err
    text = (home.folder / "page" / "report.md").read_text()
    assert "<script>" not in text
    assert "&lt;script&gt;" in text
    assert re.search(r"(?<!\\)\[x", text) is None
    assert re.search(r"(?<!\\)`tick", text) is None
    assert "\n# head" not in text
    table = [line for line in text.splitlines() if "exit code 1" in line and line.startswith("|")]
    assert len(table) == 1
    assert table[0].count("|") == 8


def test_names_that_look_like_paths_stay_in_the_folder(home):
    hostile_plan(home)
    home.call("run", "plan.toml")
    before = {path for path in home.folder.rglob("*") if "warehouse" not in path.parts}
    done = home.call("--json", "plot")
    made = {path for path in home.folder.rglob("*") if "warehouse" not in path.parts} - before
    folder = home.folder / "out"
    assert len(done.json["files"]) == 4
    assert all(folder in path.parents or path == folder for path in made)
    assert len([path for path in made if path.suffix == ".png"]) == 2


# ── plot ──


def test_plot_writes_one_png_an_arm(study):
    done = study.call("plot", "-o", "pictures", "--format", "png")
    assert done.out.split() == [f"pictures/EFFECT={value}.png" for value in ("-0.02", "0.00001", "0.02")]
    for name in done.out.split():
        data = (study.folder / name).read_bytes()
        assert data.startswith(b"\x89PNG")
        width, height = struct.unpack(">II", data[16:24])
        assert width > 800
        assert height > 400


def test_plot_writes_each_picture_as_svg_too_and_the_same_bytes_again(study):
    files = study.call("--json", "plot", "-o", "pictures").json["files"]
    assert [name.rsplit(".", 1)[1] for name in files] == ["png", "svg"] * 3
    first = [(study.folder / name).read_bytes() for name in files]
    for data in first[1::2]:
        assert ElementTree.fromstring(data).tag == "{http://www.w3.org/2000/svg}svg"
    study.call("plot", "-o", "pictures")
    assert [(study.folder / name).read_bytes() for name in files] == first


def test_a_plot_has_a_second_panel_of_paired_differences_where_seeds_are_shared(study):
    from matplotlib import image

    shared = study.call("--json", "plot", "-o", "pictures", "--format", "png").json["files"][0]
    tall = image.imread(study.folder / shared).shape[0]
    study.run("--name", "alone", seeds="0-1")  # a control and nothing else
    alone = study.call("--json", "plot", "alone", "-o", "alone", "--format", "png").json["files"][0]
    assert tall > image.imread(study.folder / alone).shape[0]


def test_a_metric_that_was_told_once_a_run_is_no_curve(study):
    assert "'val_bpb' was told at one step a run" in study.call("plot", "--metric", "val_bpb").complaint
    assert not (study.folder / "out").exists()


def test_a_script_that_told_a_final_figure_only_gets_no_curve_and_the_report_says_so(home):
    home.write("final.py", "import os\nprint('val_bpb:1.%s' % os.environ['SEED'])\n")
    home.run("--name", "once", "--arm", "A=1", script="final.py")
    assert "told a metric at two steps" in home.call("plot", "once").complaint
    made = home.call("--json", "report", "once").json
    assert made["plots"] == []
    page = (home.folder / made["report"]).read_text()
    assert "## Loss curves\n\nNone: no run of experiment once told a metric at two steps" in page
    assert "![" not in page


def test_two_arms_whose_names_give_one_file_name_get_two_pictures(home):
    home.write(
        "two.py",
        "import os\nfor i in range(3): print(f'step:{i} loss:{i}')\nprint('val_bpb:1.%s' % os.environ['SEED'])\n",
    )
    home.write(
        "plan.toml",
        f"""name = "twins"
delta = 0.01
seeds = "0-1"
[script]
command = ["{sys.executable}", "-I", "-S", "two.py"]
[[arm]]
name = "base"
[[arm]]
name = "a/b"
env = {{ A = "1" }}
[[arm]]
name = "a:b"
env = {{ A = "2" }}
""",
    )
    home.call("run", "plan.toml")
    files = home.call("--json", "plot").json["files"]
    assert len(set(files)) == 4


# ── show, status, log, doctor ──


def test_the_text_of_a_run_is_shown_byte_for_byte(study):
    for row in study.sql("SELECT run, seed FROM runs WHERE arm = 'baseline'"):
        env = {**os.environ, "SEED": str(row["seed"])}
        expected = subprocess.run([sys.executable, "-S", "train.py"], capture_output=True, env=env, check=True).stdout
        with study.start("show", row["run"], "--text", "stdout") as shown:
            assert shown.communicate()[0] == expected


def test_the_environment_of_a_run_is_shown_as_json(study):
    run = study.sql("SELECT run FROM runs LIMIT 1")[0]["run"]
    said = json.loads(study.spawn("show", run[:8], "--text", "environment").out)
    assert said["python"] == ".".join(map(str, sys.version_info[:3]))
    assert any(package["name"] == "duckdb" for package in said["packages"])


def test_show_takes_a_position_an_id_a_run_and_an_experiment(study):
    event = study.events()[1]
    for name in ("1", event["event_id"], event["data"]["run"], event["data"]["run"][:6], "study"):
        assert study.call("show", name).code == 0
        assert study.call("show", name, "--json").code == 0


def test_show_of_a_run_lists_what_happened_to_it(study):
    run = study.sql("SELECT run FROM runs LIMIT 1")[0]["run"]
    out = study.call("show", run).out
    assert "run.started" in out
    assert "run.finished" in out


def test_status_has_a_line_an_experiment_with_its_verdicts(study):
    study.run("--name", "second", seeds="0")
    out = study.call("status").out
    assert "EFFECT=-0.02 better" in out
    assert "not decided" in out
    said = study.call("--json", "status").json
    assert [row["ok"] for row in said["experiments"]] == [12, 1]
    assert said["events"] == study.size()


def test_log_takes_the_last_the_type_and_the_stream(study):
    assert [row["position"] for row in study.call("--json", "log", "-n", "2").rows] == [
        study.size() - 2,
        study.size() - 1,
    ]
    assert {row["type"] for row in study.call("--json", "log", "--type", "run.finished").rows} == {"run.finished"}
    stream = study.events()[1]["stream"]
    assert {row["stream"] for row in study.call("--json", "log", "--stream", stream).rows} == {stream}


def test_an_empty_log_says_how_to_fill_it(home):
    done = home.call("log")
    assert (done.code, done.out) == (0, "")
    assert "`ledger run` fills it" in done.err


def test_doctor_is_content_with_a_whole_ledger(study):
    done = study.call("doctor")
    assert done.code == 0
    assert "CARE" not in done.out


def test_doctor_says_what_is_wrong_and_exits_1(place):
    done = place.call("doctor")
    assert done.code == 1
    assert "no ledger at" in done.out
    said = place.call("--json", "doctor").json
    assert {"check", "ok", "found"} == set(said[0])


def test_doctor_tells_of_what_a_killed_writer_left(home):
    home.write("warehouse/tmp/123-abc", "half")
    done = home.call("doctor")
    assert done.code == 0
    assert "1 file" in done.out


# ── the terminal ──


def on_a_terminal(place, *arguments: str, **env: str) -> str:
    """What a terminal of 80 columns receives."""
    import pty

    main, other = pty.openpty()
    import fcntl
    import termios

    fcntl.ioctl(other, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    child = place.start(
        *arguments, stdout=other, stderr=other, env={"TERM": "xterm-256color", "COLUMNS": "80", **env}
    )
    os.close(other)
    received = b""
    while True:
        try:
            data = os.read(main, 65536)
        except OSError:
            break
        if not data:
            break
        received += data
    os.close(main)
    child.wait(timeout=60)
    return received.decode()


def test_on_a_terminal_tables_keep_to_its_width(study):
    plain = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", on_a_terminal(study, "log"))
    assert max(map(len, plain.splitlines())) <= 80
    assert "run.finished" in plain


def test_a_table_far_too_wide_for_the_terminal_comes_as_a_block_a_row(study):
    plain = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", on_a_terminal(study, "sql", "SELECT * FROM effects LIMIT 2"))
    assert re.search(r"^intervention +EFFECT=", plain, re.M)
    assert len(re.findall(r"^ci95_lo +[+-]?0\.\d+", plain, re.M)) == 2


def test_with_no_color_there_is_no_color(study):
    for verb in ("log", "status"):
        received = on_a_terminal(study, verb, NO_COLOR="1")
        assert not re.search(r"\x1b\[[0-9;]*(3[0-9]|4[0-9]|9[0-7])m", received)


def test_into_a_pipe_there_are_no_control_codes_and_nothing_is_cut(study):
    done = study.spawn("log")
    assert "\x1b" not in done.out
    assert "by more than 0.002: val_bpb changes by" in done.out


def test_a_plain_ascii_terminal_gets_ascii(study):
    done = study.spawn("status", env={"PYTHONIOENCODING": "ascii"})
    assert done.code == 0
    assert done.out.isascii()


def test_help_of_every_verb_is_quick_and_fits_80_columns(place):
    from commands.main import VERBS

    for verb in ("", *VERBS):
        done = place.call(*filter(None, [verb]), "--help")
        assert done.code == 0
        assert max(map(len, done.out.splitlines())) <= 80


def test_help_imports_neither_duckdb_nor_pyarrow_nor_rich():
    code = (
        "import sys\nfrom commands.main import run\nassert run(['--help']) == 0\n"
        "heavy = {'duckdb', 'pyarrow', 'rich', 'numpy', 'scipy', 'matplotlib', 'torch', 'msgspec'}\n"
        "heavy &= set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_version_is_the_packages(place):
    from importlib.metadata import version

    done = place.call("--version")
    assert (done.code, done.out) == (0, f"ledger {version('experiment-ledger')}\n")

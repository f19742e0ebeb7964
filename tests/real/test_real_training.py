"""The main job on real input: the built-in trainer through `ledger run`, small."""

import os
import signal
import subprocess
import sys
import time

import pytest

from commands.main import run
from ledger.chain import Log
from projections.engine import tables

pytest.importorskip("torch", reason="the built-in trainer needs torch")
pytest.importorskip("sentencepiece", reason="the built-in trainer needs sentencepiece")

PLAN = """
name = "small"
metric = "val_bpb_subset"
delta = 0.01
seeds = "0-1"

[trainer]
steps = {steps}
val_tokens = 2048

[[arm]]
name = "relu2"

[[arm]]
name = "gelu"
set = {{ activation = "gelu" }}
"""


@pytest.fixture
def plan(tmp_path):
    def write(steps=4, text=PLAN):
        path = tmp_path / "plan.toml"
        path.write_text(text.format(steps=steps))
        return str(path)

    return write


def test_real_models_are_trained_decided_and_replayed(plan, tmp_path, capsys):
    home = str(tmp_path / "ledger")
    assert run(["--ledger", home, "init"]) == 0
    assert run(["--ledger", home, "run", plan()]) == 0
    said = capsys.readouterr()
    assert "gelu" in said.out
    rows = tables(Log(home)).rows("SELECT arm, seed, status, value, steps FROM runs ORDER BY started_position")
    assert [(r["arm"], r["seed"]) for r in rows] == [("relu2", 0), ("gelu", 0), ("gelu", 1), ("relu2", 1)]
    assert all(r["status"] == "ok" and 2 < r["value"] < 8 and r["steps"] == 4 for r in rows)
    assert len({r["value"] for r in rows}) == 4
    assert run(["--ledger", home, "replay", "--all"]) == 0
    assert run(["--ledger", home, "verify"]) == 0


def test_the_same_cell_trained_again_gives_the_same_bits(plan, tmp_path):
    values = []
    for name in ("one", "two"):
        home = str(tmp_path / name)
        run(["--ledger", home, "init"])
        run(["--ledger", home, "run", plan()])
        values.append(tables(Log(home)).rows("SELECT arm, seed, value FROM runs ORDER BY arm, seed"))
    assert values[0] == values[1]


def test_killed_in_the_middle_it_trains_only_what_is_missing(plan, tmp_path):
    home = str(tmp_path / "ledger")
    run(["--ledger", home, "init"])
    path = plan(steps=60)
    child = subprocess.Popen(
        [sys.executable, "-m", "commands", "--ledger", home, "run", path], stderr=subprocess.DEVNULL
    )
    log = Log(home)
    end = time.monotonic() + 120
    while time.monotonic() < end and sum(1 for _ in log.events(types=("run.finished",))) < 2:
        time.sleep(0.05)
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    before = {e.data.run for e in log.events(types=("run.finished",)) if e.data.status == "ok"}
    assert 2 <= len(before) < 4
    assert run(["--ledger", home, "run", path]) == 0
    rows = tables(log).rows("SELECT run, status FROM runs")
    ok = {row["run"] for row in rows if row["status"] == "ok"}
    assert len(ok) == 4
    assert before < ok


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ('activation = "relu9"', "activation"),
        ("widht = 64", "did you mean"),
        ("heads = 5", "heads must divide width"),
    ],
)
def test_settings_that_make_no_model_are_refused_before_anything_is_recorded(plan, tmp_path, capsys, settings, said):
    home = str(tmp_path / "ledger")
    run(["--ledger", home, "init"])
    assert run(["--ledger", home, "run", plan(text=PLAN.replace("val_tokens = 2048", settings))]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert Log(home).head().position == 0

"""kill -9 in the middle of each step of a cycle: the same command goes on, and ends as an undisturbed one does."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys

import msgspec
import pytest

from ledger import canonical
from ledger.chain import Log

# Dies just before, or just after, the nth commit that holds an event of a kind.
KILLER = """
import os, signal, sys
from ledger.writer import Writer

kind, when, nth = sys.argv[1], sys.argv[2], int(sys.argv[3])
plain, seen = Writer.append, 0

def append(self, drafts, *more, **named):
    global seen
    hit = any(draft.data.TYPE == kind for draft in drafts)
    seen += hit
    if hit and seen == nth and when == "before":
        os.kill(os.getpid(), signal.SIGKILL)
    made = plain(self, drafts, *more, **named)
    if hit and seen == nth and when == "after":
        os.kill(os.getpid(), signal.SIGKILL)
    return made

Writer.append = append
from commands.main import main
sys.argv = ["ledger", *sys.argv[4:]]
main()
"""
RECORD = """\
# A record

val_bpb: 1.2000

| Seed | val_bpb |
|---|---|
| 1 | 1.2000 |
| 2 | 1.2004 |
"""
SUM = """\
import os
total = 1.2 + sum(float(os.environ.get(name, "0")) for name in "ABC")
x = 12345
for key in (int(os.environ["SEED"]) + 1, round(total * 1e7)) * 3:
    x = (x * 1103515245 + key * 2654435761 + 12345) % 2**31
    x ^= x >> 13
print(f"val_bpb:{total + 0.0005 * (x / 2**30 - 1):.8f}")
"""
SCRIPT = f"""\
name = "try"
delta = 0.01
seeds = 2
batch = 2
records = "records"
[script]
command = {json.dumps([sys.executable, "-I", "-S", "sum.py"])}
[control]
name = "base"
[[candidate]]
name = "a"
env = {{ A = "-0.03" }}
cost = 1
[[candidate]]
name = "b"
env = {{ B = "0.02" }}
cost = 1
[stop]
cycles = 1
"""
TRAINED = """\
name = "tiny"
delta = 0.05
seeds = 2
records = "records"
scale = "tiny"
[trainer]
steps = 3
depth = 1
width = 32
seq_len = 32
batch_tokens = 128
[control]
name = "relu2"
[[candidate]]
name = "gelu"
set = { activation = "gelu" }
cost = 1
[[candidate]]
name = "wide"
set = { mlp_mult = 4 }
cost = 1.5
[[candidate]]
name = "fast"
set = { matrix_lr = 0.2 }
cost = 1
[stop]
cycles = 2
"""

# Between two machine sessions, and in what is drawn or counted again with the head.
_DIFFERS = ("head", "code", "base", "plan", "amends", "used", "used_digest", "stability", "evidence")
_OF_THE_SESSION = ("drift_p_slope", "drift_p_blocks")


def place(folder, plan):
    folder.mkdir()
    (folder / "records" / "track" / "2026-01-01_A").mkdir(parents=True)
    (folder / "records" / "track" / "2026-01-01_A" / "README.md").write_text(RECORD)
    (folder / "sum.py").write_text(SUM)
    (folder / "plan.toml").write_text(plan)
    return folder


def cycle(folder, *kill):
    """Run the cycle; with `kill` = (kind, when, nth) it dies there."""
    program = [sys.executable, "-c", KILLER, *(map(str, kill) if kill else ("none", "after", "1"))]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    env.pop("LEDGER_HOME", None)
    done = subprocess.run(
        [*program, "--json", "cycle", "plan.toml"], cwd=folder, env=env, capture_output=True, timeout=600, check=False
    )
    if kill:
        assert done.returncode == -signal.SIGKILL, (kill, done.returncode, done.stderr.decode()[-2000:])
        return None
    assert done.returncode == 0, done.stderr.decode()[-2000:]
    return json.loads(done.stdout)


def content(folder):
    """Every event less times, ids, attempts that were lost, and what belongs to a session."""
    log = Log(str(folder / "warehouse"))
    events = list(log.events())
    lost = {
        event.data.run
        for event in events
        if event.type == "run.finished" and event.data.status in ("lost", "interrupted")
    }
    names: dict[str, str] = {}
    found = []
    for event in events:
        if event.type.startswith(("key.", "artifact.", "metrics.")):
            continue
        data = msgspec.json.decode(canonical.encode(event.data))
        if event.type == "run.started":
            names[data["run"]] = f"{data['arm']}/{data['seed']}"
            continue
        if event.type == "run.finished":
            if data["run"] in lost:
                continue
            told = [final for final in data["finals"] if final["name"].endswith(("loss", "bpb"))]  # the rest is speed
            data = {"cell": names[data["run"]], "status": data["status"], "value": data["value"], "finals": told}
        found.append((event.type, _less(data)))
    return found


def _is_time(value):
    """Effects on how long a step takes differ between two runs of the same."""
    return isinstance(value, dict) and "step_time" in (value.get("target"), value.get("src"), value.get("dst"))


def _less(data):
    """Without what differs between two runs of the same plan."""
    if isinstance(data, dict):
        if data.get("rule") == "wall_clock":
            return {}
        return {
            key: _less(value)
            for key, value in data.items()
            if key not in _DIFFERS and key not in _OF_THE_SESSION and not (key == "plan" and len(str(value)) == 36)
        }
    if isinstance(data, list):
        return [_less(value) for value in data if not _is_time(value)]
    return data


KILLS = (
    ("cycle.planned", "after", 1),
    ("record.extracted", "after", 1),
    ("cycle.ranked", "after", 1),
    ("experiment.registered", "after", 1),
    ("run.started", "after", 2),
    ("run.finished", "before", 2),
    ("decision.made", "before", 1),
    ("decision.made", "after", 1),
    ("dag.revised", "after", 1),
)


@pytest.mark.parametrize(
    "kills", [KILLS[2::3], pytest.param(KILLS, marks=pytest.mark.slow)], ids=["three steps", "each step"]
)
def test_a_cycle_that_dies_in_its_steps_ends_as_an_undisturbed_one(tmp_path, kills):
    cycle(place(tmp_path / "whole", SCRIPT))
    whole = content(tmp_path / "whole")
    kinds = [kind for kind, _ in whole]
    assert kinds.count("run.finished") == 6
    assert {kind for kind, _, _ in KILLS} - {"run.started"} <= {*kinds}
    assert kinds[-2:] == ["dag.revised", "cycle.ranked"]
    folder = place(tmp_path / "killed", SCRIPT)
    for kill in kills:
        cycle(folder, *kill)
    told = cycle(folder)
    assert content(folder) == whole
    assert (told["stopped"], told["runs"]) == ("cycles", 6)


@pytest.mark.slow
def test_a_series_of_real_training_survives_a_kill_before_and_after_every_kind_of_commit(tmp_path):
    cycle(place(tmp_path / "whole", TRAINED))
    folder = place(tmp_path / "killed", TRAINED)
    for kind in (
        "cycle.planned", "record.extracted", "cycle.ranked", "experiment.registered", "run.started", "run.finished",
        "decision.made", "dag.revised",
    ):  # fmt: skip
        for when in ("before", "after"):
            cycle(folder, kind, when, 1)  # the next one of its kind, wherever the series stands
    assert cycle(folder)["stopped"] == "cycles"
    assert content(folder) == content(tmp_path / "whole")

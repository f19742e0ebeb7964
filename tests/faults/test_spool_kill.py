"""kill -9 of a program that logs, at any moment: every point that it logged is there once, none is half."""

import mmap
import os
import random
import struct
import subprocess
import sys
import time

import numpy as np
import pytest

from ledger import points
from ledger.chain import Log
from ledger.verify import verify

# The last call that returned is in a file mapped into memory, which outlives the process as the spool does.
PROGRAM = """
import mmap, struct, sys
from ledger import tracking
from ledger.tracking import init
root, told, calls, tracking.FLUSH_POINTS, seconds = sys.argv[1], sys.argv[2], *map(eval, sys.argv[3:])
run = init(path=root, metric=None, flush_seconds=seconds)
with open(told, "r+b") as file:
    last = mmap.mmap(file.fileno(), 8)
for step in range(1, calls + 1):
    if step % 7:
        run.log({"a": step, "b": step + 0.25, "c": -step, "d": 0.5}, step=step)
    else:
        run.log({"a": step, "e": step + 0.5}, step=step)
    struct.pack_into("<q", last, 0, step)
print(run.dropped)
run.finish()
"""


def killed(root, told, after, calls, limit, seconds):
    """Run the program and kill it `after` seconds past its first call; the last step it was done with."""
    with open(told, "w+b") as file:
        file.write(bytes(8))
        file.flush()
        last = mmap.mmap(file.fileno(), 8)
    arguments = [sys.executable, "-c", PROGRAM, str(root), str(told), *map(str, (calls, limit, seconds))]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE) as process:
        until = time.monotonic() + 60
        while not last[0:8].strip(b"\0") and time.monotonic() < until:
            time.sleep(0.001)
        if after is None:
            assert process.communicate(timeout=300)[0] == b"0\n"
        else:
            time.sleep(after)
            process.kill()
    return struct.unpack("<q", last[0:8])[0]


def check(root, done):
    """The log holds exactly the calls 1 to `done` of each run, and at most one that was cut off after it."""
    found = {}
    for event in Log(root).events(types={"metrics.logged"}):
        batch = points.read_chunk(root, event.data)
        names, codes = np.unique(batch["name"].to_pylist(), return_inverse=True)
        found.setdefault(event.data.run, []).append(
            np.rec.fromarrays([batch["step"].to_numpy(), np.array(names)[codes], batch["value"].to_numpy()])
        )
    assert len(found) == len(done)
    for parts, last in zip(found.values(), done, strict=True):
        rows = np.concatenate(parts)
        steps = rows["f0"].astype(float)
        end = int(rows["f0"].max())
        assert last <= end <= last + 1
        fours = np.array([step for step in range(1, end + 1) if step % 7], float)
        sevens = np.arange(7, end + 1, 7, dtype=float)
        for name, expected in {
            "a": (np.arange(1, end + 1), np.arange(1.0, end + 1)),
            "b": (fours, fours + 0.25),
            "c": (fours, -fours),
            "d": (fours, fours * 0 + 0.5),
            "e": (sevens, sevens + 0.5),
        }.items():
            of = rows["f1"] == name
            assert np.array_equal(steps[of], expected[0]), name  # in order, none lost, none twice
            assert np.array_equal(rows["f2"][of], expected[1]), name
    assert verify(root).problems == ()
    assert os.listdir(os.path.join(root, "spool")) == []


def test_kills_at_random_moments_lose_and_double_no_point(fresh, tmp_path):
    """Spools of 512 points and a flush every 20 ms: many of the kills come in the middle of one."""
    chance, done = random.Random(3), []
    for _ in range(8):
        done.append(killed(fresh.root, tmp_path / "told", chance.uniform(0, 0.3), 10**9, 512, 0.02))
    assert Log(fresh.root).writer
    check(fresh.root, done)


@pytest.mark.slow
def test_a_million_points_are_all_there_after_a_kill(fresh, tmp_path):
    chance, done = random.Random(4), []
    for _ in range(25):
        done.append(killed(fresh.root, tmp_path / "told", chance.uniform(0, 1.5), 270_000, 65_536, 5))
    done.append(killed(fresh.root, tmp_path / "told", None, 270_000, 65_536, 5))
    assert Log(fresh.root).writer
    check(fresh.root, done)


def test_the_outcome_of_a_killed_program_has_what_it_logged_last(tmp_path):
    """`ledger run` brings its points in before it writes down how it ended."""
    script = tmp_path / "train.py"
    script.write_text(
        "import os, ledger\nrun = ledger.init()\n"
        "for step in range(5): run.log({'loss': 5.0 - step}, step=step)\nos.kill(os.getpid(), 9)\n"
    )
    root = Log.create(tmp_path / "book").root
    command = ["run", "--ledger", root, "--arm", "A=1", "--baseline", "A=0", "--metric", "loss", "--seeds", "0"]
    command += ["--delta", "0.1", "--", sys.executable, str(script)]
    subprocess.run([sys.executable, "-m", "commands", *command], capture_output=True, timeout=120, check=False)
    log = Log(root)
    ends = [event.data for event in log.events(types={"run.finished"})]
    assert [(end.status, end.signal, [final.value for final in end.finals]) for end in ends] == [
        ("oom", "SIGKILL", [1.0])
    ] * 2
    recovered = [event.data.recovered for event in log.events(types={"metrics.logged"})]
    assert recovered == [True, True]

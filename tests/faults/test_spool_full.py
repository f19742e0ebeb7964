"""A program that logs on a disk that is really full: nothing raises, nothing dies, and it says what was lost."""

import subprocess

import pytest

from ledger import points
from ledger.chain import Log

PROGRAM = """
import os, sys, ledger
from ledger import tracking
root, ballast, when = sys.argv[1:]
tracking.FLUSH_POINTS = 65_536

def fill():
    with open(ballast, "wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError:
            pass

# After the spool: no flush in the middle, which would need another spool, and there is no room for one.
run = ledger.init(path=root, flush_seconds=0.05 if when == "before the spool" else 600, metric=None)
if when == "before the spool":
    fill()
run.log({"a": 0.0, "b": 0.5}, step=0)
if when == "after the spool":
    fill()
for step in range(1, 20_000):  # more than half of the spool's pages are stored into for the first time
    run.log({"a": step, "b": step + 0.5}, step=step)
if when == "after the spool":
    run.finish()
    os.unlink(ballast)
else:
    os.unlink(ballast)
    run.finish()
print(run.dropped)
"""


@pytest.fixture
def small_disk(tmp_path):
    point = tmp_path / "small"
    point.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=8m", "none", str(point)], capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        pytest.skip(f"no small file system can be mounted here: {done.stderr.strip()}")
    yield point
    subprocess.run(["umount", str(point)], check=True)


@pytest.mark.parametrize("when", ["before the spool", "after the spool"])
def test_points_survive_a_full_disk(small_disk, script, when):
    root = Log.create(small_disk / "book").root
    done = script(f"import sys; sys.argv[1:] = [{root!r}, {str(small_disk / 'ballast')!r}, {when!r}]\n" + PROGRAM)
    assert (done.returncode, done.stdout) == (0, "0\n"), done.stderr
    assert "free some space" in done.stderr or "No space" in done.stderr
    log = Log(root)
    assert log.writer  # which takes in what is left in the spool
    found = []
    for event in log.events(types={"metrics.logged"}):
        batch = points.read_chunk(root, event.data)
        found += zip(batch["step"].to_pylist(), batch["name"].to_pylist(), batch["value"].to_pylist(), strict=True)
    assert found == [(step, name, step + more) for step in range(20_000) for name, more in (("a", 0), ("b", 0.5))]
    log.close()

"""A `ledger run` that is killed, interrupted or started twice loses no finished run and repeats none."""

from __future__ import annotations

import contextlib
import os
import signal
import sys

import pytest

from ledger.chain import Log

# Fast for seed 0; for others it waits until a file `go` is there, and says that it began.
GATED = """\
import os, signal, sys, time

def stop(number, frame):
    print("stopped politely", flush=True)
    sys.exit(0)

for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
    signal.signal(number, stop)
seed = int(os.environ["SEED"])
print(f"step:1/10 train_loss:{3.0 + seed}", flush=True)
open(f"began-{seed}-{os.getpid()}", "w").close()
while seed and not os.path.exists("go"):
    time.sleep(0.01)
print(f"val_bpb:{1.2 + 0.01 * seed}")
"""
COMMAND = ("run", "--name", "gated", "--seeds", "0-2", "--", sys.executable, "-I", "-S", "gated.py")


@pytest.fixture
def gated(home):
    home.write("gated.py", GATED)
    return home


@pytest.fixture
def in_the_middle(gated, eventually):
    """A `ledger run` whose first run is done and whose second is going on."""
    child = gated.start(*COMMAND)
    eventually(lambda: list(gated.folder.glob("began-1-*")))
    yield child
    if child.poll() is None:
        child.kill()
    child.communicate()
    for path in gated.folder.glob("began-*"):
        with contextlib.suppress(ProcessLookupError):
            os.kill(int(path.name.rsplit("-", 1)[1]), signal.SIGKILL)


def statuses(place) -> list[tuple[int, str]]:
    return [
        (row["seed"], row["status"]) for row in place.sql("SELECT seed, status FROM runs ORDER BY started_position")
    ]


def _goes_on(place) -> None:
    place.write("go", "")
    done = place.call(*COMMAND)
    assert done.code == 0, done.err
    assert "1 of 3 runs are on record already" in done.err


def _alive(place) -> bool:
    pid = int(next(place.folder.glob("began-1-*")).name.rsplit("-", 1)[1])
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_a_killed_session_is_gone_on_with_and_its_run_is_recorded_as_lost(gated, in_the_middle):
    in_the_middle.kill()
    in_the_middle.wait()
    assert statuses(gated) == [(0, "ok"), (1, "running")]
    _goes_on(gated)
    assert statuses(gated) == [(0, "ok"), (1, "lost"), (1, "ok"), (2, "ok")]
    assert gated.call("verify").code == 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP], ids=lambda n: n.name)
def test_a_signal_ends_the_child_politely_records_the_interruption_and_exits_130(gated, in_the_middle, number):
    in_the_middle.send_signal(number)
    _, err = in_the_middle.communicate(timeout=60)
    assert in_the_middle.returncode == 130
    assert b"interrupted in run 2 of 3" in err
    assert b"Traceback" not in err
    assert not _alive(gated)
    assert statuses(gated) == [(0, "ok"), (1, "interrupted")]
    run = gated.sql("SELECT run FROM runs WHERE status = 'interrupted'")[0]["run"]
    text = gated.spawn("show", run, "--text", "stdout").out
    assert text == "step:1/10 train_loss:4.0\nstopped politely\n"
    _goes_on(gated)
    assert statuses(gated) == [(0, "ok"), (1, "interrupted"), (1, "ok"), (2, "ok")]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda n: n.name)
def test_a_signal_reaches_all_that_run_at_once(gated, eventually, number):
    child = gated.start("run", "--jobs", "2", *COMMAND[1:])
    eventually(lambda: list(gated.folder.glob("began-1-*")) and list(gated.folder.glob("began-2-*")))
    child.send_signal(number)
    _, err = child.communicate(timeout=60)
    assert child.returncode == 130, err
    reason = f"stopped by {number.name}"
    rows = gated.sql("SELECT seed, status, reason FROM runs ORDER BY seed")
    assert [(row["seed"], row["status"], row["reason"]) for row in rows] == [
        (0, "ok", ""),
        (1, "interrupted", reason),
        (2, "interrupted", reason),
    ]
    _goes_on(gated)


def test_an_interrupted_session_makes_no_decision(gated, in_the_middle):
    in_the_middle.send_signal(signal.SIGINT)
    in_the_middle.communicate(timeout=60)
    assert "decision.made" not in {event["type"] for event in gated.events()}


def test_under_nohup_a_hangup_does_not_end_the_session(gated, eventually):
    child = gated.start(*COMMAND, preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN))
    eventually(lambda: list(gated.folder.glob("began-1-*")))
    child.send_signal(signal.SIGHUP)
    gated.write("go", "")
    child.communicate(timeout=60)
    assert child.returncode == 0
    assert statuses(gated) == [(0, "ok"), (1, "ok"), (2, "ok")]


def test_a_second_session_on_the_same_plan_exits_4_and_appends_nothing(gated, in_the_middle):
    before = gated.size()
    done = gated.call(*COMMAND)
    assert done.code == 4
    assert f"process {in_the_middle.pid}" in done.complaint
    assert gated.size() == before


def test_another_experiment_may_run_beside_it(gated, in_the_middle):
    done = gated.run(seeds=None)
    assert done.code == 0
    gated.write("go", "")
    in_the_middle.communicate(timeout=60)
    assert in_the_middle.returncode == 0
    assert gated.call("verify").code == 0


def test_while_a_session_runs_the_ledger_can_be_read_and_shows_it_running(gated, in_the_middle):
    assert statuses(gated) == [(0, "ok"), (1, "running")]
    assert gated.call("--json", "status").json["experiments"][0]["running"] == 1


def test_interrupted_with_json_it_still_gives_one_object(gated, eventually):
    child = gated.start("--json", *COMMAND)
    eventually(lambda: list(gated.folder.glob("began-1-*")))
    child.send_signal(signal.SIGINT)
    out, _ = child.communicate(timeout=60)
    import json

    assert json.loads(out)["interrupted"] is True


def test_a_ledger_whose_empty_tmp_folder_was_not_copied_works_all_the_same(gated):
    os.rmdir("warehouse/tmp")
    assert gated.call("doctor").code == 0
    assert gated.run(seeds=None).code == 0


def test_the_points_that_a_killed_session_had_read_are_at_most_five_seconds_old(home, eventually):
    home.write(
        "long.py",
        "import time\nfor step in range(1, 10_000):\n"
        "    print(f'step:{step} train_loss:1.5', flush=True)\n    time.sleep(0.01)\n",
    )
    child = home.start("run", "--", sys.executable, "-I", "-S", "long.py")
    log = Log("warehouse")
    try:
        eventually(lambda: any(log.events(types=("metrics.logged",))))
    finally:
        child.kill()
        child.communicate()
    chunks = [event for event in home.events() if event["type"] == "metrics.logged"]
    assert chunks[0]["data"]["rows"] > 100

"""`--as-of`: what every reading command says of an earlier head is what it says on a copy of the log made then."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import click
import pytest

from commands.main import cli
from ledger.chain import Log
from ledger.writer import Draft

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "projections"))  # lineages.py

import lineages

LEDGER = (sys.executable, "-P", "-m", "commands")
PYTHON = (sys.executable, "-I", "-S")  # a child that imports nothing starts in 20 ms

COMMANDS = [
    ("log",),
    ("log", "-n", "3"),
    ("log", "--type", "run.finished"),
    ("log", "--stream", "{stream}"),
    ("status",),
    ("show", "study"),
    ("show", "{run}"),
    ("show", "7"),
    ("show", "{event}"),
    ("show", "{run}", "--text", "stdout"),
    ("rebuild", "--incremental"),  # digests of every table
    ("report", "-o", "out"),
    ("plot", "-o", "out"),
    ("next",),
    ("next", "--blocked", "--top", "99"),
    ("matrix",),
    ("matrix", "--all", "--source", "record"),
    ("audit", "records"),
    ("audit", "records", "--delta", "0.01"),
    ("dag", "show"),
    ("dag", "show", "--all"),
    ("dag", "diff"),
    ("export", "csv", "runs", "-o", "made.csv"),
    ("export", "csv", "decisions", "-o", "made.csv"),
    ("sql", "SELECT * FROM runs ORDER BY run"),
]
LATER = [  # what was not there then, by what it is called now
    ("show", "{last}"),
    ("show", "{late_event}"),
    ("show", "{late_run}"),
    ("show", "late"),
    ("report", "late"),
    ("dag", "show", "{late_revision}"),
]


def _ledger(folder, *arguments):
    env = {name: value for name, value in os.environ.items() if name not in ("LEDGER_HOME", "LEDGER_RUN_ID")}
    done = subprocess.run([*LEDGER, *arguments], cwd=folder, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def _record(log, name, **more):
    made = lineages.record(name, [1.1, 1.1004, 1.1008], **more)
    return log.writer.append([Draft(f"record/{made.record.replace('/', '.')}", made)])


@pytest.fixture(scope="session")
def past_folder(dag_folder, tmp_path_factory):
    """`then`: a study, records and two revisions of the DAG. `now`: the same log with much more of everything."""
    folder = tmp_path_factory.mktemp("past")
    shutil.copytree(dag_folder / "revised", folder / "then")
    log = Log(str(folder / "then" / "warehouse"))
    _record(log, "2026-01-01_a", new=["xsa"])
    first = _record(log, "2026-01-02_b", new=["ema"], parents=["2026-01-01_a"])
    _ledger(folder / "then", "dag", "revise")
    shutil.copytree(folder / "then", folder / "now")
    arms = ["--arm", "EFFECT=-0.2", "--arm", "EFFECT=0.1", "--arm", "EFFECT=0.00001"]
    _ledger(folder / "now", "run", "--name", "study", *arms, "--seeds", "0-3", "--", *PYTHON, "train.py")
    _ledger(folder / "now", "run", "--name", "late", *arms[:2], "--seeds", "5-6", "--", *PYTHON, "train.py")
    _record(Log(str(folder / "now" / "warehouse")), "2026-01-03_c", new=["xsa"], parents=["2026-01-02_b"])
    _ledger(folder / "now", "retract", first.event_ids[0], "--reason", "read wrongly")
    _ledger(folder / "now", "dag", "revise")
    ended = next(log.events(types=["run.finished"]))
    _ledger(folder / "now", "retract", ended.event_id, "--reason", "a mistake")
    return folder


@pytest.fixture
def past(past_folder, place, monkeypatch):
    """Call a command in `then`, or in `now`. They only read, so that all share the two folders."""
    then, now = (Log(str(past_folder / name / "warehouse")) for name in ("then", "now"))
    size = then.head().position
    events, later = list(then.events()), list(now.events(start=size))
    names = {
        "stream": next(event.stream for event in events if event.type == "run.finished"),
        "run": next(event.data.run for event in events if event.type == "run.finished"),
        "event": events[9].event_id,
        "last": str(later[-1].position),
        "late_event": later[-1].event_id,
        "late_run": next(event.data.run for event in later if event.type == "run.started"),
        "late_revision": next(str(event.position) for event in later if event.type == "dag.revised"),
    }

    def call(name, arguments, *options):
        monkeypatch.chdir(past_folder / name)
        done = place.call(*options, *[part.format(**names) for part in arguments])
        written = [path for path in (Path("out/report.md"), Path("made.csv")) if path.exists()]
        made = {path: path.read_bytes() for path in written}
        for path in written:
            path.unlink()
        return done.code, done.out.replace(str(past_folder / name), ""), made

    return call, size


# The digests that `rebuild` prints are the same either way, and take a while.
ASKED = [(mode, one) for mode in (("--json",), ()) for one in COMMANDS if mode or "rebuild" not in one]


@pytest.mark.parametrize(("mode", "arguments"), ASKED, ids=lambda words: " ".join(words) or "words")
def test_as_of_an_earlier_head_a_command_says_what_it_said_then(past, arguments, mode):
    call, size = past
    before = call("then", arguments, *mode)
    after = call("now", (*arguments, "--as-of", str(size)), *mode)
    assert before[0] == 0
    assert after[0] == 0
    assert _told(arguments, before[1]) == _told(arguments, after[1])
    assert before[2] == after[2]


@pytest.mark.parametrize("arguments", LATER, ids=" ".join)
def test_as_of_an_earlier_head_what_came_later_is_not_there(past, arguments):
    call, size = past
    assert call("now", arguments)[0] == 0
    code, out, _ = call("now", (*arguments, "--as-of", str(size)))
    assert (code, out) == (2, "")


def test_every_command_that_takes_as_of_is_asked_here():
    def names(command, above=()):
        if isinstance(command, click.Group):
            for name in command.list_commands(click.Context(command)):
                yield from names(command.get_command(click.Context(command), name), (*above, name))
        elif any("--as-of" in option.opts for option in command.params):
            yield above

    assert set(names(cli)) <= {arguments[:length] for arguments in COMMANDS for length in (1, 2)}


def _told(arguments, out):
    """What was said, less what is only said of the present: the log's bytes on the disk, and typed files."""
    if arguments[0] == "status":
        return re.sub(r'"log_bytes": (null|[0-9]+)|, [0-9,]+ bytes of log', "", out)
    if arguments[0] == "rebuild":
        return re.sub(r'"typed": (null|{[^}]*})|(?m:^typed: .*$)', "", out).strip()
    return out

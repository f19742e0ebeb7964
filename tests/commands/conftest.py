"""A folder with a training script, and two ways to call `ledger` in it: in this process, or as a process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from commands.main import run as run_command_line

TRAIN = """\
import os

def draw(*keys):
    x = 12345
    for key in keys * 3:
        x = (x * 1103515245 + key * 2654435761 + 12345) % 2**31
        x ^= x >> 13
    return x / 2**30 - 1

seed = int(os.environ["SEED"])
effect = float(os.environ.get("EFFECT", "0"))
noise = float(os.environ.get("NOISE", "0.0005"))
base = 1.2 + 0.01 * draw(seed, 1)
for step in range(1, 11):
    print(f"step:{step}/10 train_loss:{base + effect + 2 / step:.4f} step_avg:1.00ms")
print(f"val_bpb:{base + effect + noise * draw(seed, round(effect * 1e6) + 7):.8f}")
"""

PYTHON = (sys.executable, "-I", "-S")  # a child that imports nothing starts in 20 ms


class Done(NamedTuple):
    """How a call ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """Standard output as one JSON value."""
        return json.loads(self.out)

    @property
    def rows(self) -> list[Any]:
        """Standard output as lines of JSON."""
        return [json.loads(line) for line in self.out.splitlines()]

    @property
    def complaint(self) -> str:
        """The one line on stderr of a call that was refused, with nothing on stdout."""
        assert self.out == ""
        lines = self.err.splitlines()
        assert len(lines) == 1, self.err
        assert lines[0].startswith("ledger")
        assert "Traceback" not in self.err
        assert "unexpected error" not in self.err
        return lines[0]


class Place:
    """A folder to work in. `call` runs the command line in this process, `start` and `spawn` as another."""

    def __init__(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.folder = folder
        self.capsys = capsys

    def write(self, name: str, text: str | bytes) -> Path:
        path = self.folder / name
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    def call(self, *arguments: str) -> Done:
        self.capsys.readouterr()
        code = run_command_line(list(arguments))
        out, err = self.capsys.readouterr()
        return Done(code, out, err)

    def start(self, *arguments: str | bytes, **options: Any) -> subprocess.Popen[bytes]:
        options.setdefault("stdout", subprocess.PIPE)
        options.setdefault("stderr", subprocess.PIPE)
        options.setdefault("stdin", subprocess.DEVNULL)
        env = {**os.environ, **options.pop("env", {})}
        return subprocess.Popen([*LEDGER, *arguments], cwd=self.folder, env=env, **options)

    def spawn(self, *arguments: str | bytes, **options: Any) -> Done:
        child = self.start(*arguments, **options)
        out, err = child.communicate(timeout=120)
        return Done(child.returncode, (out or b"").decode(errors="replace"), (err or b"").decode(errors="replace"))

    def run(self, *options: str, script: str = "train.py", seeds: str | None = "0-2") -> Done:
        """`ledger run` of a script with the given options."""
        chosen = () if seeds is None else ("--seeds", seeds)
        return self.call("run", *options, *chosen, "--", *PYTHON, script)

    def script(self, text: str, *options: str) -> Done:
        """`ledger run` of a program given as text, once."""
        self.write("program.py", text)
        return self.call("run", *options, "--", *PYTHON, "program.py")

    def sql(self, query: str, *options: str) -> list[Any]:
        done = self.call("--json", "sql", query, *options)
        assert done.code == 0, done.err
        return done.rows

    def events(self) -> list[Any]:
        done = self.call("--json", "log")
        assert done.code == 0, done.err
        return done.rows

    def size(self) -> int:
        """How many events the ledger holds."""
        return len(self.events())


LEDGER = (sys.executable, "-P", "-m", "commands")


def _clean(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (
        "LEDGER_HOME",
        "LEDGER_RUN_ID",
        "LEDGER_ACTOR",
        "NO_COLOR",
        "FORCE_COLOR",
        "SEED",
        "EFFECT",
        "NOISE",
    ):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Place:
    """An empty folder with train.py, which is the present one; no ledger yet."""
    _clean(monkeypatch)
    (tmp_path / "train.py").write_text(TRAIN)
    monkeypatch.chdir(tmp_path)
    return Place(tmp_path, capsys)


@pytest.fixture
def home(place: Place) -> Place:
    """A place with an empty ledger at ./warehouse."""
    assert place.call("init").code == 0
    return place


@pytest.fixture(scope="session")
def study_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished study of four arms and three seeds, made once."""
    folder = tmp_path_factory.mktemp("study")
    (folder / "train.py").write_text(TRAIN)
    arms = ["--arm", "EFFECT=-0.02", "--arm", "EFFECT=0.02", "--arm", "EFFECT=0.00001"]
    env = {name: value for name, value in os.environ.items() if name not in ("LEDGER_HOME", "LEDGER_RUN_ID")}
    done = subprocess.run(
        [*LEDGER, "run", "--name", "study", *arms, "--seeds", "0-2", "--", *PYTHON, "train.py"],
        cwd=folder, env=env, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    (folder / "run.out").write_text(done.stdout)
    (folder / "run.err").write_text(done.stderr)
    return folder


@pytest.fixture
def study(
    study_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Place:
    """A copy of the finished study, to do with as one likes."""
    import shutil

    _clean(monkeypatch)
    folder = tmp_path / "study"
    shutil.copytree(study_folder, folder)
    monkeypatch.chdir(folder)
    return Place(folder, capsys)


@pytest.fixture
def eventually() -> Callable[[Callable[[], Any]], Any]:
    """Wait until a question is answered with something true; it, or a failed test after 30 s."""
    import time

    def wait(question: Callable[[], Any]) -> Any:
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            if answer := question():
                return answer
            time.sleep(0.02)
        pytest.fail("waited for 30 s in vain")

    return wait


@pytest.fixture(scope="session")
def dag_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`plain` is a finished study of clear effects, `revised` the same with a revision of the DAG; made once."""
    import shutil

    folder = tmp_path_factory.mktemp("dag")
    env = {name: value for name, value in os.environ.items() if name not in ("LEDGER_HOME", "LEDGER_RUN_ID")}

    def ledger(where: Path, *arguments: str) -> None:
        done = subprocess.run([*LEDGER, *arguments], cwd=where, env=env, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr

    (folder / "plain").mkdir()
    (folder / "plain" / "train.py").write_text(TRAIN)
    arms = ["--arm", "EFFECT=-0.2", "--arm", "EFFECT=0.1", "--arm", "EFFECT=0.00001"]
    ledger(folder / "plain", "run", "--name", "study", *arms, "--seeds", "0-2", "--", *PYTHON, "train.py")
    shutil.copytree(folder / "plain", folder / "revised")
    ledger(folder / "revised", "dag", "revise")
    return folder

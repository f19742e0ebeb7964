"""The wheel works outside of the checkout, in a folder that holds folders called like ours.

It is built without isolation and installed without dependencies into a fresh environment that sees the
packages of this one, so nothing is downloaded.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parent.parent
TRAIN = """\
import os
seed = int(os.environ["SEED"])
for step in range(3):
    print(f"step:{step}/3 train_loss:{3 - step}")
print(f"val_bpb:{1.2 + float(os.environ.get('EFFECT', '0')) + 0.001 * (seed * 7 % 5)}")
"""


class Installed(NamedTuple):
    """An environment with the wheel in it, and a user's folder."""

    bin: Path
    folder: Path
    wheel: Path

    def run(self, program: str, *arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("LEDGER_", "PYTHON"))}
        return subprocess.run(
            [self.bin / program, *arguments],
            cwd=self.folder, env={**kept, **env}, stdin=subprocess.DEVNULL,
            capture_output=True, text=True, check=False,
        )  # fmt: skip


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Installed:
    base = tmp_path_factory.mktemp("wheel")
    source = base / "source"
    source.mkdir()
    for name in ("ledger", "projections", "runners", "commands"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "LICENSE", "README.md", "experiment_ledger.py"):
        shutil.copy(ROOT / name, source / name)
    subprocess.run(
        [
            sys.executable, "-c",
            "import sys, setuptools.build_meta as b; print(b.build_wheel(sys.argv[1]))", str(base),
        ],
        cwd=source, check=True, capture_output=True,
    )  # fmt: skip
    wheel = next(base.glob("*.whl"))
    home = base / "venv"
    venv.create(home, with_pip=False, symlinks=True)
    purelib = Path(sysconfig.get_path("purelib", "venv", {"base": str(home), "platbase": str(home)}))
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(purelib)
    # The packages of this environment, but not this checkout: an editable install must not be what is tested.
    (purelib / "theirs.pth").write_text(
        "".join(f"{path}\n" for path in sys.path if path.endswith("site-packages") and Path(path).is_dir())
    )
    (purelib / "zz_only_ours.pth").write_text(
        "import sys; sys.meta_path[:] = [f for f in sys.meta_path if 'editable' not in repr(f).lower()]; "
        f"sys.path[:] = [p for p in sys.path if p != {str(ROOT)!r}]\n"
    )
    script = home / "bin" / "ledger"
    script.write_text(
        f"#!{home / 'bin' / 'python'}\nfrom experiment_ledger import main\n\nif __name__ == '__main__':\n    main()\n"
    )
    script.chmod(0o755)
    folder = base / "user"
    for name in ("runners", "projections", "data", "commands"):
        (folder / name).mkdir(parents=True)
        (folder / name / "__init__.py").write_text(f"raise RuntimeError('the user\\'s own {name} was imported')\n")
    (folder / "train.py").write_text(TRAIN)
    return Installed(home / "bin", folder, wheel)


def test_the_wheel_holds_all_sources_and_queries_and_nothing_else(installed):
    names = {name for name in zipfile.ZipFile(installed.wheel).namelist() if ".dist-info/" not in name}
    wanted = {
        path.relative_to(ROOT).as_posix()
        for package in ("ledger", "projections", "runners", "commands")
        for path in (ROOT / package).rglob("*")
        if path.suffix in (".py", ".sql", ".toml") or path.name == "py.typed"
    }
    assert names == wanted | {"experiment_ledger.py"}


def test_the_wheel_declares_the_command(installed):
    with zipfile.ZipFile(installed.wheel) as archive:
        entry = next(name for name in archive.namelist() if name.endswith("entry_points.txt"))
        assert "ledger = experiment_ledger:main" in archive.read(entry).decode()


def test_what_is_imported_is_the_wheel_and_not_the_checkout(installed):
    done = installed.run("python", "-P", "-c", "import ledger, commands; print(ledger.__file__, commands.__file__)")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count(str(installed.bin.parent)) == 2


def test_it_says_its_version(installed):
    done = installed.run("ledger", "--version")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("ledger ")


def test_init_run_and_sql_work_in_a_folder_with_folders_called_like_ours(installed):
    for arguments in (
        ["init"],
        ["run", "--arm", "EFFECT=0.1003", "--seeds", "0-1", "--", "python", "train.py"],
        ["verify"],
        ["report"],
        ["replay", "--all"],
    ):
        done = installed.run("ledger", *arguments, PATH=f"{installed.bin}{os.pathsep}{os.environ['PATH']}")
        assert done.returncode == 0, (arguments, done.stderr)
    done = installed.run("ledger", "--json", "sql", "SELECT count(*) AS n FROM runs")
    assert done.stdout == '{"n": 4}\n', done.stderr


def test_the_python_api_reads_tables_in_that_folder(installed):
    installed.run("ledger", "init")
    code = "import ledger; print(len(ledger.open('warehouse').table('runs').rows()))"
    done = installed.run("python", "-c", code)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip().isdecimal()


def test_a_training_script_in_that_folder_records_a_run(installed):
    code = "import ledger; run = ledger.init(seed=1); run.log({'loss': 1.0}); run.finish(val_bpb=1.5)"
    done = installed.run("python", "-c", code)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_users_folder_on_pythonpath_does_not_shadow_ours(installed):
    done = installed.run("ledger", "status", PYTHONPATH=".")
    assert done.returncode == 0, done.stderr

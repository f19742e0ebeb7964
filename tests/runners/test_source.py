"""The code's fingerprint: the same for the same code anywhere, another one for any change of source."""

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from runners import source
from runners.source import capture_git, code_digest, code_files, file_digest

TOKEN = "hf_" + "a1B2" * 9
needs_git = pytest.mark.skipif(shutil.which("git") is None, reason="git is not on this machine")
RUN = ("python", "train.py")


def git(folder: Path, *arguments: str) -> None:
    clean = {k: v for k, v in os.environ.items() if not k.startswith("GIT_")}
    who = ("-c", "user.name=a", "-c", "user.email=a@b", "-c", "init.defaultBranch=main", "-c", "commit.gpgsign=false")
    subprocess.run(["git", "-C", str(folder), *who, *arguments], check=True, capture_output=True, env=clean)


def write(folder: Path, **files: str) -> None:
    for name, text in files.items():
        path = folder / name.replace("__", "/").replace("_dot_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


@pytest.fixture
def repo(tmp_path):
    folder = tmp_path / "repo"
    folder.mkdir()
    git(folder, "init", "-q")
    write(folder, train_dot_py="import model\n", model_dot_py="size = 1\n", README_dot_md="hello\n")
    git(folder, "add", ".")
    git(folder, "commit", "-qm", "first")
    return folder


# -- git state -------------------------------------------------------------------------------------------------


@needs_git
def test_a_clean_tree_gives_its_commit_and_branch(repo):
    found = capture_git(repo)
    assert found is not None
    assert len(found.commit or "") == 40
    assert (found.branch, found.dirty, found.diff, found.untracked, found.note) == ("main", False, b"", (), "")


@needs_git
def test_a_changed_tree_gives_its_diff_and_its_untracked_files(repo):
    write(repo, model_dot_py="size = 2\n", new_dot_py="x\n", out__a_dot_txt="y\n")
    found = capture_git(repo)
    assert found is not None
    assert found.dirty
    assert b"+size = 2" in found.diff
    assert found.untracked == ("new.py", "out/a.txt")


@needs_git
def test_the_diff_of_the_whole_tree_is_taken_from_a_folder_below(repo):
    write(repo, sub__x_dot_py="1\n", model_dot_py="size = 3\n")
    found = capture_git(repo / "sub")
    assert found is not None
    assert b"+size = 3" in found.diff
    assert found.untracked == ("sub/x.py",)


@needs_git
def test_a_token_in_the_diff_is_taken_out(repo):
    write(repo, model_dot_py=f"key = '{TOKEN}'\n")
    found = capture_git(repo)
    assert found is not None
    assert b"hf_a1" not in found.diff
    assert b"[redacted" in found.diff


@needs_git
def test_a_long_diff_is_bounded_and_says_so(repo, monkeypatch):
    monkeypatch.setattr(source, "MAX_DIFF", 1000)
    write(repo, model_dot_py="".join(f"line {i}\n" for i in range(10_000)))
    found = capture_git(repo)
    assert found is not None
    assert found.diff_left_out
    assert 0 < len(found.diff) <= 1000
    assert found.diff.endswith(b"\n")
    assert "cut" in found.note


@needs_git
def test_many_untracked_files_are_counted_and_not_all_listed(repo, monkeypatch):
    monkeypatch.setattr(source, "MAX_UNTRACKED", 3)
    for i in range(5):
        (repo / f"f{i}").touch()
    found = capture_git(repo)
    assert found is not None
    assert (found.untracked, found.untracked_left_out) == (("f0", "f1", "f2"), 2)


@needs_git
@pytest.mark.parametrize(
    ("url", "kept"),
    [
        ("https://me:secret@example.org/o/r.git?token=x", "https://example.org/o/r.git"),
        ("git@example.org:o/r.git", "git@example.org:o/r.git"),
        (f"https://{TOKEN}@example.org/o/r", "https://example.org/o/r"),
    ],
)
def test_the_remote_comes_without_who_may_enter(repo, url, kept):
    git(repo, "remote", "add", "origin", url)
    found = capture_git(repo)
    assert found is not None
    assert found.remote == kept


@needs_git
def test_a_repository_without_a_commit_gives_what_it_can(tmp_path):
    git(tmp_path, "init", "-q")
    (tmp_path / "a.py").touch()
    found = capture_git(tmp_path)
    assert found is not None
    assert (found.commit, found.branch, found.dirty, found.untracked) == (None, "main", True, ("a.py",))


@needs_git
def test_a_detached_head_has_no_branch(repo):
    git(repo, "checkout", "-q", "--detach")
    found = capture_git(repo)
    assert found is not None
    assert found.branch is None


def test_a_folder_without_a_repository_gives_none(tmp_path):
    assert capture_git(tmp_path) is None
    assert capture_git(tmp_path / "missing") is None


def test_a_machine_without_git_gives_none(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert capture_git(tmp_path) is None


@needs_git
def test_git_that_hangs_is_given_up(repo, tmp_path, monkeypatch):
    (tmp_path / "git").write_text("#!/bin/sh\nexec sleep 30\n")
    (tmp_path / "git").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setattr(source, "GIT_TIMEOUT", 0.3)
    found = capture_git(repo)
    assert found is not None
    assert (found.commit, "did not answer" in found.note) == (None, True)


@needs_git
def test_capturing_changes_nothing_in_the_repository(repo):
    os.utime(repo / "model.py", (1e9, 1e9))  # same content, another time: git would like to refresh its index
    before = {p: p.stat().st_mtime_ns for p in (repo / ".git").rglob("*")}
    capture_git(repo)
    code_digest(RUN, repo)
    assert {p: p.stat().st_mtime_ns for p in (repo / ".git").rglob("*")} == before


@needs_git
def test_a_file_that_was_only_touched_is_no_change(repo):
    before = code_digest(RUN, repo)
    os.utime(repo / "model.py", (1e9, 1e9))
    found = capture_git(repo)
    assert found is not None
    assert (found.dirty, found.diff, code_digest(RUN, repo)) == (False, b"", before)


# -- fingerprint -----------------------------------------------------------------------------------------------


@needs_git
def test_a_change_of_an_imported_module_changes_the_fingerprint(repo):
    before = code_digest(RUN, repo)
    write(repo, model_dot_py="size = 2\n")
    assert code_digest(RUN, repo) != before


@needs_git
def test_a_change_of_the_readme_does_not(repo):
    before = code_digest(RUN, repo)
    write(repo, README_dot_md="other\n", notes_dot_txt="x")
    assert code_digest(RUN, repo) == before


@needs_git
def test_it_is_the_same_before_and_after_a_commit_and_in_a_fresh_clone(repo, tmp_path):
    write(repo, model_dot_py="size = 2\n", pkg__new_dot_py="1\n")
    loose = code_digest(RUN, repo)
    git(repo, "add", ".")
    staged = code_digest(RUN, repo)
    git(repo, "commit", "-qm", "second")
    git(tmp_path, "clone", "-q", str(repo), "copy")
    assert loose == staged == code_digest(RUN, repo) == code_digest(RUN, tmp_path / "copy")


@needs_git
def test_it_is_the_same_from_a_folder_below(repo):
    write(repo, sub__x_dot_py="1\n")
    assert code_digest(RUN, repo) == code_digest(("python", "../train.py"), repo / "sub")


@needs_git
def test_line_ends_that_git_converts_do_not_count(repo):
    (repo / ".gitattributes").write_text("*.py text\n")
    git(repo, "add", ".")
    git(repo, "commit", "-qm", "attributes")
    before = code_digest(RUN, repo)
    (repo / "model.py").write_bytes(b"size = 1\r\n")
    assert code_digest(RUN, repo) == before


@needs_git
def test_a_deleted_a_new_and_a_renamed_module_change_it(repo):
    seen = {code_digest(RUN, repo)}
    write(repo, extra_dot_py="1\n")
    seen.add(code_digest(RUN, repo))
    (repo / "extra.py").rename(repo / "extra2.py")
    seen.add(code_digest(RUN, repo))
    (repo / "model.py").unlink()
    seen.add(code_digest(RUN, repo))
    assert len(seen) == 4


@needs_git
def test_ignored_files_do_not_count(repo):
    (repo / ".gitignore").write_text("out/\n")
    before = code_digest(RUN, repo)
    write(repo, out__config_dot_json="{}")
    assert code_digest(RUN, repo) == before


@needs_git
def test_a_ledger_inside_the_repository_is_neither_code_nor_a_change(repo):
    before = code_digest(RUN, repo)
    write(repo, warehouse__LEDGER_dot_json="{}", warehouse__state__x_dot_json="1")
    found = capture_git(repo)
    assert found is not None
    assert (code_digest(RUN, repo), found.dirty, found.untracked) == (before, False, ())


@needs_git
def test_a_file_that_the_command_names_counts_whatever_it_is(repo, tmp_path):
    (tmp_path / "prompt.txt").write_text("one")
    run = (*RUN, f"--prompt={tmp_path / 'prompt.txt'}")
    before = code_digest(run, repo)
    (tmp_path / "prompt.txt").write_text("two")
    assert code_digest(run, repo) != before
    assert "argv:prompt.txt" in dict(code_files(run, repo))


@needs_git
def test_a_file_that_the_command_writes_does_not_count(repo):
    run = (*RUN, "--log", "train.log")
    before = code_digest(run, repo)
    write(repo, train_dot_log="x")
    assert code_digest(run, repo) == before


@needs_git
def test_a_script_elsewhere_is_looked_for_where_it_lies(repo, tmp_path):
    assert code_digest(("python", str(repo / "train.py")), tmp_path) == code_digest(RUN, repo)


def test_outside_git_every_module_below_the_script_counts(tmp_path):
    write(tmp_path, train_dot_py="1\n", pkg__model_dot_py="1\n", notes_dot_md="1\n")
    write(tmp_path, venv__lib__x_dot_py="1\n", _dot_hidden__y_dot_py="1\n", a__site__z_dot_py="1\n")
    assert [name for name, _ in code_files(RUN, tmp_path)] == ["a/site/z.py", "pkg/model.py", "train.py"]


def test_outside_git_the_same_code_elsewhere_has_the_same_fingerprint(tmp_path):
    for place in ("one", "two/deeper"):
        write(tmp_path / place, train_dot_py="1\n", pkg__model_dot_py="2\n")
    first = code_digest(RUN, tmp_path / "one")
    assert first == code_digest(("python3", str(tmp_path / "two/deeper/train.py")), tmp_path)
    write(tmp_path / "one", pkg__model_dot_py="3\n")
    assert code_digest(RUN, tmp_path / "one") != first


def test_a_module_that_is_run_by_name_is_found(tmp_path):
    write(tmp_path, pkg__train_dot_py="1\n")
    assert [name for name, _ in code_files(("python", "-m", "pkg.train"), tmp_path)] == ["train.py"]


def test_code_in_the_command_line_counts(tmp_path):
    assert code_digest(("python", "-c", "print(1)"), tmp_path) != code_digest(("python", "-c", "print(2)"), tmp_path)


def test_the_interpreter_itself_does_not_count(tmp_path):
    write(tmp_path, train_dot_py="1\n")
    assert code_files((sys.executable, "train.py"), tmp_path) == code_files(RUN, tmp_path)


def test_a_program_of_the_users_own_counts(tmp_path):
    write(tmp_path, train_gpt="\x7fELF one")
    before = code_digest(("./train_gpt",), tmp_path)
    write(tmp_path, train_gpt="\x7fELF two")
    assert code_digest(("./train_gpt",), tmp_path) != before


def test_a_file_is_digested_with_its_size(tmp_path):
    (tmp_path / "f").write_bytes(b"abc" * 700_000)
    assert file_digest(tmp_path / "f") == (hashlib.sha256(b"abc" * 700_000).hexdigest(), 2_100_000)

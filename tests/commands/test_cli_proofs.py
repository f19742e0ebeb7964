"""Signed heads and proofs on the command line: made where the ledger is, checked where it is not."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys

import pytest

HEAD = re.compile(r"\d+:[0-9a-f]{64}")


@pytest.fixture
def proved(study, tmp_path, monkeypatch):
    """The study with a list of its keys and a proof of event 3; the present folder is another, without a ledger."""
    assert study.call("prove", "3", "--out", "three.tlog-proof").code == 0
    assert study.call("prove", "--from", "4", "--out", "growth.proof").code == 0
    (study.folder / "keys.txt").write_text(study.call("keys").out)
    for name in ("keys.txt", "three.tlog-proof", "growth.proof"):
        shutil.copy(study.folder / name, tmp_path / name)
    monkeypatch.chdir(tmp_path)
    return study


# ── signing ──


def test_a_run_ends_with_a_signed_head_and_nothing_more_to_sign(study):
    (note,) = (study.folder / "warehouse" / "checkpoint").iterdir()
    assert int(note.stem) == study.size()
    assert study.sql("SELECT type FROM events ORDER BY position DESC LIMIT 1") == [{"type": "key.added"}]
    assert study.call("decide").code == 0
    assert len(list((study.folder / "warehouse" / "checkpoint").iterdir())) == 1


def test_a_decision_is_signed_and_a_dry_run_is_not(home):
    home.run("--arm", "EFFECT=-0.02", "--name", "a")
    shutil.rmtree(home.folder / "warehouse" / "checkpoint")
    home.call("decide", "--dry-run")
    assert not (home.folder / "warehouse" / "checkpoint").exists()
    assert home.call("decide").code == 0
    assert len(list((home.folder / "warehouse" / "checkpoint").iterdir())) == 1


def test_checkpoint_prints_the_head_and_the_note_says_it(study):
    done = study.call("checkpoint")
    assert done.code == 0
    assert HEAD.fullmatch(done.out.strip())
    again = study.call("--json", "checkpoint").json
    assert done.out.strip() == f"{again['size']}:{again['root']}"
    assert study.call("verify", "--expect-head", done.out.strip()).code == 0


def test_a_run_goes_well_where_nothing_can_be_signed_and_says_so_in_one_line(home, monkeypatch):
    home.write("file", "")
    monkeypatch.setenv("LEDGER_CONFIG", str(home.folder / "file"))
    done = home.run("--arm", "EFFECT=-0.02")
    assert done.code == 0
    (line,) = (line for line in done.err.splitlines() if line.startswith("warning"))
    assert "no checkpoint was signed: cannot keep a signing key" in line
    asked = home.call("checkpoint")
    assert asked.code == 1
    assert "LEDGER_CONFIG" in asked.complaint


def test_without_the_package_for_signatures_a_run_goes_well_and_checkpoint_says_what_to_install(home, monkeypatch):
    monkeypatch.setitem(sys.modules, "cryptography.hazmat.primitives.asymmetric", None)
    done = home.run("--arm", "EFFECT=-0.02")
    assert done.code == 0
    assert "pip install cryptography" in done.err
    assert "pip install cryptography" in home.call("checkpoint").complaint


def test_tiles_are_written_when_asked_for_and_kept_up_afterwards(study):
    assert study.call("checkpoint").code == 0
    assert not (study.folder / "warehouse" / "tlog").exists()
    assert study.call("checkpoint", "--tiles").code == 0
    assert study.call("retract", "3", "--reason", "x").code == 0
    head = study.call("checkpoint").out.strip()
    lines = (study.folder / "warehouse" / "tlog" / "checkpoint").read_text().splitlines()
    assert lines[1] == head.split(":")[0]
    assert study.call("verify").code == 0


# ── copies elsewhere ──


def test_a_head_in_a_file_is_brought_forward_and_another_file_is_left_alone(study):
    assert study.call("checkpoint", "--to", "file", "head.note").code == 0
    first = (study.folder / "head.note").read_text()
    assert study.call("retract", "3", "--reason", "x").code == 0
    assert study.call("verify", "--expect-head", "head.note").code == 0
    assert study.call("checkpoint", "--to", "file", "head.note").code == 0
    assert (study.folder / "head.note").read_text() != first
    study.write("diary.txt", "mine")
    done = study.call("checkpoint", "--to", "file", "diary.txt")
    assert done.code == 2
    assert "diary.txt is not a signed note" in done.complaint
    assert (study.folder / "diary.txt").read_text() == "mine"


def test_a_head_that_the_log_contradicts_is_not_overwritten(study, tmp_path):
    study.call("init", str(tmp_path / "other"))
    study.call("--ledger", str(tmp_path / "other"), "checkpoint", "--to", "file", "head.note")
    kept = (study.folder / "head.note").read_text()
    done = study.call("checkpoint", "--to", "file", "head.note")
    assert done.code == 3
    assert "inconsistent checkpoint" in done.complaint
    assert (study.folder / "head.note").read_text() == kept


@pytest.mark.parametrize("arguments", [("--to", "file"), ("head.note",), ("--to", "git", "head.note")])
def test_a_path_goes_with_a_file(study, arguments):
    assert study.call("checkpoint", *arguments).code == 2


def git(place, *arguments):
    done = subprocess.run(["git", *arguments], cwd=place.folder, capture_output=True, text=True, check=True)
    return done.stdout


@pytest.fixture
def repository(study, monkeypatch):
    for name in ("GIT_AUTHOR_NAME", "GIT_COMMITTER_NAME"):
        monkeypatch.setenv(name, "Ada")
    for name in ("GIT_AUTHOR_EMAIL", "GIT_COMMITTER_EMAIL"):
        monkeypatch.setenv(name, "ada@example.com")
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", os.devnull)
    git(study, "init", "-q", "-b", "main")
    git(study, "add", "train.py")
    git(study, "commit", "-q", "-m", "one")
    git(study, "tag", "-a", "v1", "-m", "one")
    return study


def state(place):
    """All that a user sees of his repository."""
    look = (
        ("log", "--all", "--branches", "--tags", "--exclude=refs/notes/*", "--format=%H"),
        ("log", "--format=%H %N"),
        ("status", "--porcelain=v2", "--branch"),
        ("branch", "-a", "-v"),
        ("tag", "-l"),
        ("describe", "--always", "--dirty"),
        ("stash", "list"),
    )
    return [git(place, *one) for one in look if one[0] != "log" or one[1] != "--all"]


def test_git_holds_the_head_and_the_users_branch_index_and_tags_are_as_before(repository):
    (repository.folder / "train.py").write_text("print('half an edit')")
    before = state(repository)
    done = repository.call("--json", "checkpoint", "--to", "git")
    assert done.code == 0
    told = done.json
    assert state(repository) == before
    assert told["commit"] == git(repository, "rev-parse", "HEAD").strip()
    note = git(repository, "notes", f"--ref={told['ref']}", "show", "HEAD")
    assert note == (repository.folder / "warehouse" / told["note"]).read_text()
    repository.write("from-git.note", note)
    assert repository.call("verify", "--expect-head", "from-git.note").code == 0


def test_a_later_head_on_the_same_commit_takes_the_place_of_the_first_whose_text_stays_in_the_history(repository):
    first = repository.call("--json", "checkpoint", "--to", "git").json
    assert repository.call("retract", "3", "--reason", "x").code == 0
    second = repository.call("--json", "checkpoint", "--to", "git").json
    shown = git(repository, "notes", f"--ref={first['ref']}", "show", "HEAD")
    assert shown.splitlines()[1] == str(second["size"])
    assert str(first["size"]) in git(repository, "log", "-p", "--format=", first["ref"])


def test_a_note_that_the_log_contradicts_is_not_overwritten(repository):
    told = repository.call("--json", "checkpoint", "--to", "git").json
    assert repository.call("retract", "3", "--reason", "x").code == 0
    other = git(repository, "notes", f"--ref={told['ref']}", "show", "HEAD").replace("experiment", "exxperiment")
    subprocess.run(
        ["git", "notes", f"--ref={told['ref']}", "add", "-f", "-m", other, "HEAD"], check=True, capture_output=True
    )
    assert repository.call("checkpoint", "--to", "git").code == 3


def test_without_a_repository_a_commit_or_git_it_says_so_and_the_head_is_signed(study, monkeypatch):
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(study.folder.parent))
    done = study.call("checkpoint", "--to", "git")
    assert done.code == 1
    assert "not a git repository" in done.complaint
    git(study, "init", "-q")
    done = study.call("checkpoint", "--to", "git")
    assert done.code == 2
    assert "no commit yet" in done.complaint
    monkeypatch.setenv("PATH", str(study.folder))
    done = study.call("checkpoint", "--to", "git")
    assert done.code == 1
    assert "git cannot be run" in done.complaint


# ── proofs ──


def test_a_proof_holds_far_from_the_ledger_for_who_trusts_the_key(proved):
    for name, words in (
        ("three.tlog-proof", "is at position 3"),
        ("growth.proof", "the log begins with the head\n4:"),
    ):
        done = proved.call("verify", "--proof", name, "--trust", "keys.txt")
        assert (done.code, done.err) == (0, "")
        assert done.out.startswith("proved: ")
        assert words in done.out
        assert max(map(len, done.out.splitlines())) <= 82


def test_a_proof_holds_for_who_has_the_head_from_elsewhere(proved):
    head = proved.call("--json", "verify", "--proof", "three.tlog-proof").json
    kept = f"{head['size']}:{head['root']}"
    assert proved.call("verify", "--proof", "three.tlog-proof", "--expect-head", kept).code == 0
    done = proved.call("verify", "--proof", "three.tlog-proof", "--expect-head", kept[:-1] + "x")
    assert done.code == 2
    done = proved.call("verify", "--proof", "three.tlog-proof", "--expect-head", "12:" + "ab" * 32)
    assert done.code == 3
    assert "not about 12:abab" in done.complaint


def test_a_proof_of_growth_holds_for_who_kept_the_earlier_head(proved):
    done = proved.call("--json", "verify", "--proof", "growth.proof")
    kept = f"4:{done.json['from_root']}"
    done = proved.call("verify", "--proof", "growth.proof", "--expect-head", kept)
    assert done.code == 0
    assert "vouched for by the head that you kept" in done.out


def test_a_proof_for_which_nobody_vouches_is_not_said_to_be_proved(proved):
    done = proved.call("verify", "--proof", "three.tlog-proof")
    assert done.code == 1
    assert done.out.startswith("follows: ")
    assert "nothing vouches for that head" in done.err


def test_in_the_folder_of_the_ledger_its_own_keys_vouch(study):
    assert study.call("prove", "3", "--out", "p").code == 0
    done = study.call("verify", "--proof", "p")
    assert (done.code, done.err) == (0, "")
    assert "vouched for by key" in done.out


def test_a_changed_proof_is_refused_wherever_it_was_changed(proved):
    for name in ("three.tlog-proof", "growth.proof"):
        text = (proved.folder.parent / name).read_bytes()
        lines = text.splitlines(keepends=True)
        at = 0
        for line in lines:
            for place in {at + len(line) // 2, at + len(line) - 2}:
                if line.strip():
                    changed = bytearray(text)
                    changed[place] ^= 1
                    (proved.folder.parent / "changed").write_bytes(changed)
                    done = proved.call("verify", "--proof", "changed", "--trust", "keys.txt")
                    assert (done.code, bool(done.complaint)) == (3, True), f"{name}, byte {place}"
            at += len(line)


def test_a_proof_by_another_key_is_refused(proved, study):
    other = study.folder.parent / "other"
    study.call("init", str(other))
    study.call("--ledger", str(other), "checkpoint")
    study.write("others.txt", study.call("--ledger", str(other), "keys").out)
    done = proved.call("verify", "--proof", "three.tlog-proof", "--trust", str(study.folder / "others.txt"))
    assert done.code == 3
    assert "unknown key" in done.complaint


def test_the_body_in_a_proof_is_the_event(proved, study):
    import json

    done = proved.call("--json", "verify", "--proof", "three.tlog-proof", "--trust", "keys.txt")
    os.chdir(study.folder)
    assert json.loads(done.json["body"])["event_id"] == study.events()[3]["event_id"]


def test_a_position_beyond_the_newest_head_is_signed_first(study):
    assert study.call("retract", "3", "--reason", "x").code == 0
    last = study.size() - 1
    done = study.call("--json", "prove", str(last))
    assert done.code == 0
    assert done.json["size"] > last
    assert done.json["proof"].startswith("c2sp.org/tlog-proof@v1\nextra ")


def test_a_proof_may_be_asked_for_by_the_events_id(study):
    event = study.events()[5]
    assert study.call("--json", "prove", event["event_id"]).json["position"] == 5


@pytest.mark.parametrize(
    "arguments",
    [(), ("3", "--from", "2"), ("--from", "0"), ("--from", "99999"), ("99999",), ("--from", "-1"), ("zzzz",)],
)
def test_what_cannot_be_proved_is_refused(study, arguments):
    done = study.call("prove", *arguments)
    assert done.code == 2
    assert done.complaint


@pytest.mark.parametrize("text", [b"", b"\xff\x00", b"c2sp.org/tlog-proof@v1\n", b"hello\n\nworld\n"])
def test_what_is_no_proof_is_refused(place, text):
    place.write("p", text)
    assert place.call("verify", "--proof", "p").code == 3
    assert place.call("verify", "--proof", "none").code == 2


# ── keys ──


def test_keys_are_rotated_and_the_list_says_which_one_ended(study):
    before = study.call("--json", "keys").rows
    done = study.call("keys", "rotate", "--reason", "a new year")
    assert done.code == 0
    after = study.call("--json", "keys").rows
    assert [row["revoked"] is None for row in after] == [*(True for _ in before), True]
    assert study.call("keys", "rotate").code == 0
    rows = study.call("--json", "keys").rows
    assert rows[-2]["revoked"] is not None
    assert rows[-1]["revoked"] is None
    study.write("keys.txt", study.call("keys").out)
    assert study.call("verify", "--trust", "keys.txt").code == 0


def test_a_revoked_key_is_named_in_the_warning_of_the_next_run(home):
    assert home.run("--arm", "EFFECT=-0.02").code == 0
    (row,) = home.call("--json", "keys").rows
    assert home.call("keys", "revoke", row["id"], "--reason", "stolen").code == 0
    done = home.run("--arm", "EFFECT=-0.03", seeds="0-1")
    assert done.code == 0
    assert "was revoked at position" in done.err


@pytest.mark.parametrize(
    "arguments",
    [("revoke",), ("revoke", "abcdabcd"), ("revoke", "abcdabcd", "--reason", "x"), ("rotate", "abcdabcd"), ("burn",)],
)
def test_what_cannot_be_done_to_a_key_is_refused(study, arguments):
    assert study.call("keys", *arguments).code == 2


def test_a_list_of_keys_that_is_none_is_refused(study):
    study.write("keys.txt", "nobody\n")
    assert study.call("verify", "--trust", "keys.txt").code == 2
    assert study.call("verify", "--trust", "none.txt").code == 2


def test_rebuild_makes_the_tiles_again_that_were_there(study):
    assert study.call("checkpoint", "--tiles").code == 0
    tiles = study.folder / "warehouse" / "tlog"

    def held():
        return {path.relative_to(tiles): path.read_bytes() for path in tiles.rglob("*") if path.is_file()}

    before = held()
    shutil.rmtree(tiles / "tile")
    assert study.call("rebuild").code == 0
    assert held() == before

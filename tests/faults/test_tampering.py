"""Somebody with the disk in his hands changes history, seals and all. What finds him, and what does not.

The attacker here is good: he rewrites every file so that it is consistent in itself and with the
others, and removes the noted heads and the caches. He has not the signing key.
"""

import os
import shutil
from pathlib import Path

import pytest

from commands.main import run
from ledger import checkpoints, disk, keys, segment
from ledger.chain import Log
from ledger.merkle import Frontier


@pytest.fixture(autouse=True)
def _without_waiting_for_the_disk(monkeypatch):
    monkeypatch.setattr(disk, "_flush", lambda file: None)


@pytest.fixture
def log(tmp_path, remark):
    """Twelve remarks in a commit each, the head signed after the sixth and the last."""
    made = Log.create(tmp_path / "ledger")
    for number in range(12):
        made.writer.append([remark(f"result {number}")])
        if number in (5, 11):
            checkpoints.sign(made)
    assert [size for size, _ in checkpoints.listed(made.root)] == [7, 13]
    return made


@pytest.fixture
def verified(log, capsys, tmp_path):
    """verified(*options) is how `ledger verify` ends and what it says on stderr."""
    (tmp_path / "keys").write_text("".join(f"{one.key}\n" for one in keys.announced(log).values()))

    def verify(*options):
        capsys.readouterr()
        code = run(["--ledger", log.root, "verify", *options])
        return code, capsys.readouterr().err

    verify.trust = ("--trust", str(tmp_path / "keys"))
    verify.head = ("--expect-head", f"{log.head().position}:{log.head().root}")
    assert verify(*verify.trust, *verify.head)[0] == 0
    return verify


def rewrite(log, change):
    """Write the log anew: rows = change(rows of all commits), every hint, leaf and seal right again."""
    commits = []
    for _, path in Log.listed_in(log.root):
        _, batch = segment.decode(Path(path).read_bytes(), path)
        moments = batch.column("recorded_at").cast("int64").to_pylist()
        rows = [segment.Row(**row) for row in batch.to_pylist()]
        commits.append([row._replace(recorded_at=moment) for row, moment in zip(rows, moments, strict=True)])
        os.unlink(path)
    tree = Frontier()
    folder = os.path.join(log.root, "log", "00000000")
    for rows in change(commits):
        data, leaves = segment.encode(rows, log.identity.id, tree.size, tree.root().hex())
        Path(folder, f"{tree.size:016d}.parquet").write_bytes(data)
        tree.extend(leaves)
    for name in ("state", "proj"):
        shutil.rmtree(os.path.join(log.root, name))
    for name in os.listdir(os.path.join(log.root, "checkpoint")):
        if int(name[:16]) > tree.size:
            os.unlink(os.path.join(log.root, "checkpoint", name))


def edited(position):
    def change(commits):
        (row,) = commits[position]
        commits[position] = [row._replace(body=row.body.replace(b"result", b"RESULT"))]
        return commits

    return change


def swapped(commits):
    """The third and the fourth commit change places, and their writer's numbers with them."""
    (a,), (b,) = commits[2], commits[3]
    numbers = (b'"writer_seq":%d' % a.writer_seq, b'"writer_seq":%d' % b.writer_seq)
    commits[2] = [b._replace(writer_seq=a.writer_seq, body=b.body.replace(numbers[1], numbers[0]))]
    commits[3] = [a._replace(writer_seq=b.writer_seq, body=a.body.replace(*numbers))]
    return commits


@pytest.mark.parametrize(
    ("change", "position", "note"),
    [(edited(2), 0, 7), (edited(9), 7, 13), (swapped, 0, 7)],
    ids=["edited early", "edited late", "swapped"],
)
def test_changed_events_contradict_the_first_checkpoint_after_them(log, verified, change, position, note):
    rewrite(log, change)
    code, said = verified()
    assert code == 3
    assert "inconsistent checkpoint" in said
    found = checkpoints.problems(Log(log.root))
    assert found[0][0] == position
    assert f"{note:016d}.note names another root over the first {note} events" in found[0][1]


def test_an_edit_in_one_file_alone_contradicts_the_next_commit_too(log, verified, forge, files_of):
    forge(log, files_of(log)[2], lambda row: row._replace(body=row.body.replace(b"result", b"RESULT")))
    code, said = verified()
    assert code == 3
    assert "position 2" in said


def test_a_tail_that_was_deleted_is_missing_from_the_checkpoint(log, verified, files_of):
    for path in files_of(log)[10:]:
        path.unlink()
    shutil.rmtree(os.path.join(log.root, "state"))
    code, said = verified()
    assert code == 3
    assert "position 10" in said
    assert "was signed over 13 events, the log ends at 10" in said


def test_a_tail_that_was_deleted_with_its_checkpoint_is_only_known_to_who_kept_the_head(log, verified):
    rewrite(log, lambda commits: commits[:10])
    assert verified()[0] == 0
    assert verified(*verified.trust)[0] == 0
    code, said = verified(*verified.head)
    assert code == 3
    assert "ends at 10 events, the head that was kept has 13" in said


def test_checkpoints_signed_anew_with_another_key_are_signed_by_an_unknown_one(log, verified, monkeypatch, tmp_path):
    rewrite(log, edited(2))
    shutil.rmtree(os.path.join(log.root, "checkpoint"))
    monkeypatch.setenv("LEDGER_CONFIG", str(tmp_path / "attacker"))
    forged = Log(log.root)
    monkeypatch.setattr(keys, "announce", lambda *_: None)  # he would rather not be seen in the log
    checkpoints.sign(forged)
    code, said = verified()
    assert code == 3
    assert "unknown key" in said


def test_who_announces_his_own_key_as_well_is_found_by_who_trusts_another(log, verified, monkeypatch, tmp_path):
    rewrite(log, edited(2))
    shutil.rmtree(os.path.join(log.root, "checkpoint"))
    monkeypatch.setenv("LEDGER_CONFIG", str(tmp_path / "attacker"))
    checkpoints.sign(Log(log.root))
    assert verified()[0] == 0  # nothing in the folder contradicts him: this is why heads are given away
    code, said = verified(*verified.trust)
    assert code == 3
    assert "none of the trusted keys" in said
    code, said = verified(*verified.head)
    assert code == 3
    assert "has root" in said


def test_an_edit_after_the_last_checkpoint_that_was_left_lies_beyond_what_is_vouched_for(log, verified, capsys):
    os.unlink(checkpoints.path_of(log.root, 13))
    rewrite(log, edited(9))
    assert run(["--ledger", log.root, "verify", *verified.trust]) == 0
    assert "trusted keys vouch for the first 7 of 13 events" in capsys.readouterr().out
    assert verified(*verified.head)[0] == 3


def test_removing_every_checkpoint_is_found_by_who_trusts_a_key(log, verified):
    shutil.rmtree(os.path.join(log.root, "checkpoint"))
    assert verified()[0] == 0
    code, said = verified(*verified.trust)
    assert code == 3
    assert "no trusted key vouches" in said


def test_an_older_copy_of_everything_is_found_by_a_kept_head_in_every_form(log, verified, remark, tmp_path):
    shutil.copytree(log.root, tmp_path / "older")
    log.writer.append([remark("a result that somebody regrets")])
    kept = checkpoints.sign(log)
    shutil.copy(kept.path, tmp_path / "head.note")
    shutil.rmtree(log.root)
    shutil.copytree(tmp_path / "older", log.root)
    assert verified()[0] == 0
    for head in (f"{kept.size}:{kept.root}", f"{kept.size}:{kept.root[:16]}", str(tmp_path / "head.note")):
        code, said = verified("--expect-head", head)
        assert code == 3
        assert f"the head that was kept has {kept.size}" in said


def test_an_older_copy_is_not_signed_by_who_signed_more(log, verified, remark, tmp_path):
    shutil.copytree(log.root, tmp_path / "older")
    log.writer.append([remark("more")])
    checkpoints.sign(log)
    shutil.rmtree(log.root)
    shutil.copytree(tmp_path / "older", log.root)
    assert run(["--ledger", log.root, "checkpoint"]) == 3

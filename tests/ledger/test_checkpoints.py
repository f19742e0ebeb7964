"""Signed heads: what is signed, by whom, and what is refused."""

import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from ledger import checkpoints, keys, signing
from ledger.chain import Log
from ledger.errors import Corrupt, LedgerError, UsageError
from ledger.events import KeyAdded, KeyRevoked
from ledger.writer import Draft


@pytest.fixture
def log(fresh, remark):
    fresh.writer.append([remark("one"), remark("two")])
    return fresh


@pytest.fixture
def as_somebody_else(monkeypatch, tmp_path):
    def change(name="somebody"):
        monkeypatch.setenv("LEDGER_CONFIG", str(tmp_path / name))

    return change


def kinds(log):
    return [event.type for event in log.events()]


def test_a_checkpoint_is_the_present_head_in_the_standard_form_and_names_the_ledgers_origin(log):
    made = checkpoints.sign(log)
    head = log.head()
    assert (made.origin, made.size, made.root) == (log.identity.origin, head.position, head.root)
    with open(checkpoints.path_of(log.root, head.position), "rb") as file:
        assert checkpoints.parse(file.read(), made.path) == made
    assert checkpoints.newest(log.root) == made
    assert checkpoints.problems(log) == []


def test_the_key_is_announced_once_before_it_signs(log, remark):
    made = checkpoints.sign(log)
    assert kinds(log) == ["event.retracted", "event.retracted", "key.added"]
    assert made.size == 3
    assert checkpoints.sign(log) == made
    log.writer.append([remark()])
    assert checkpoints.sign(Log(log.root)).size == 4
    assert [size for size, _ in checkpoints.listed(log.root)] == [3, 4]


def test_the_private_key_is_for_its_owner_only_and_not_in_the_ledger(log):
    checkpoints.sign(log)
    path = keys.key_path(log.identity.id)
    assert path.startswith(os.environ["XDG_CONFIG_HOME"])
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o600
    assert stat.S_IMODE(os.stat(os.path.dirname(path)).st_mode) == 0o700
    secret = signing.from_pem(Path(path).read_bytes()).private_bytes_raw()
    for base, _, names in os.walk(log.root):
        for name in names:
            data = Path(os.path.join(base, name)).read_bytes()
            assert secret not in data
            assert secret.hex().encode() not in data


def test_a_key_that_others_may_read_is_not_used(log):
    checkpoints.sign(log)
    os.chmod(keys.key_path(log.identity.id), 0o644)
    with pytest.raises(UsageError, match="chmod 600"):
        checkpoints.sign(log)


@pytest.mark.parametrize("data", [b"", b"no key", b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"])
def test_a_damaged_key_is_told_in_a_line(log, data):
    checkpoints.sign(log)
    with open(keys.key_path(log.identity.id), "wb") as file:
        file.write(data)
    with pytest.raises(LedgerError, match="is not an Ed25519 private key"):
        checkpoints.sign(log)


def test_a_place_where_no_key_can_be_kept_is_told_in_a_line(log, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("LEDGER_CONFIG", str(tmp_path / "file"))
    with pytest.raises(LedgerError, match=r"cannot keep a signing key at .*LEDGER_CONFIG"):
        checkpoints.sign(log)
    assert kinds(log) == ["event.retracted"] * 2


@pytest.mark.parametrize(
    ("environment", "place"),
    [
        ({"LEDGER_CONFIG": "/a/b"}, "/a/b"),
        ({"XDG_CONFIG_HOME": "/x"}, "/x/experiment-ledger"),
        ({"HOME": "/h"}, "/h/.config/experiment-ledger"),
        ({"LEDGER_CONFIG": "/a", "XDG_CONFIG_HOME": "/x"}, "/a"),
    ],
)
def test_where_keys_lie(monkeypatch, environment, place):
    for name in ("LEDGER_CONFIG", "XDG_CONFIG_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert keys.folder() == place


def test_openssl_reads_the_private_key(log):
    if shutil.which("openssl") is None:
        pytest.skip("there is no openssl here")
    made = checkpoints.sign(log)
    path = keys.key_path(log.identity.id)
    done = subprocess.run(["openssl", "pkey", "-in", path, "-pubout", "-outform", "DER"], capture_output=True)
    (known,) = keys.announced(log).values()
    assert done.stdout[-32:] == known.key.public
    assert made.note.signatures[0].id == known.key.id


def test_two_users_sign_with_a_key_each(log, remark, as_somebody_else):
    checkpoints.sign(log)
    as_somebody_else()
    log.writer.append([remark()])
    made = checkpoints.sign(log)
    assert kinds(log).count("key.added") == 2
    assert checkpoints.problems(log) == []
    assert made.note.signatures[0].id != checkpoints.load(checkpoints.path_of(log.root, 3)).note.signatures[0].id


def test_processes_that_sign_for_the_first_time_at_once_have_one_key_and_agree(log, tmp_path):
    code = (
        "import sys; from ledger import checkpoints; from ledger.chain import Log; checkpoints.sign(Log(sys.argv[1]))"
    )
    children = [subprocess.Popen([sys.executable, "-c", code, log.root]) for _ in range(5)]
    assert [child.wait(timeout=60) for child in children] == [0] * 5
    assert kinds(log).count("key.added") == 1
    assert len(os.listdir(os.path.dirname(keys.key_path(log.identity.id)))) == 1
    assert checkpoints.problems(log) == []


# ── rotation and revocation ──


def test_after_a_rotation_the_new_key_signs_and_what_the_old_one_signed_stays_good(log, remark):
    first = checkpoints.sign(log)
    new, old = keys.rotate(log, "a new year")
    assert first.note.signatures[0].id == old.id != new.id
    assert kinds(log)[-2:] == ["key.added", "key.revoked"]
    assert checkpoints.sign(log).note.signatures[0].id == new.id
    assert checkpoints.problems(log) == []


def test_rotating_before_the_first_checkpoint_only_makes_a_key(log):
    assert keys.rotate(log, "why not")[1] is None
    assert kinds(log)[2:] == ["key.added"]
    checkpoints.sign(log)
    assert kinds(log)[2:] == ["key.added"]


def test_a_rotation_that_cannot_be_appended_leaves_the_old_key(log, monkeypatch):
    checkpoints.sign(log)
    path = keys.key_path(log.identity.id)
    before = Path(path).read_bytes()
    monkeypatch.setattr(log.writer, "append", lambda *_: (_ for _ in ()).throw(LedgerError("no")))
    with pytest.raises(LedgerError):
        keys.rotate(log, "x")
    assert Path(path).read_bytes() == before
    assert os.listdir(os.path.dirname(path)) == [os.path.basename(path)]


def test_a_revoked_key_signs_nothing_more(log, remark):
    made = checkpoints.sign(log)
    mine = made.note.signatures[0].id
    keys.revoke(log, mine, "the laptop was stolen")
    with pytest.raises(LedgerError, match="the laptop was stolen; `ledger keys rotate`"):
        checkpoints.sign(log)
    with pytest.raises(UsageError, match="revoked before"):
        keys.revoke(log, mine, "again")
    with pytest.raises(UsageError, match="no key 'abcdabcd'"):
        keys.revoke(log, "abcdabcd", "x")
    keys.rotate(log, "the laptop was stolen")
    checkpoints.sign(log)
    assert checkpoints.problems(log) == []


def test_a_head_that_a_thief_signs_with_a_revoked_key_is_found(log, remark):
    made = checkpoints.sign(log)
    key = keys.private(log.identity.id)
    keys.revoke(log, made.note.signatures[0].id, "stolen")
    head = log.head()
    put(log, head.position, head.root, key)
    ((position, text),) = checkpoints.problems(log)
    assert position is None
    assert text.startswith("unknown key: ")
    assert f"{head.position:016d}.note" in text


def put(log, size, root, key, origin=None):
    """A checkpoint as somebody else's program would write it."""
    import base64

    name = origin or log.identity.origin
    text = f"{name}\n{size}\n{base64.b64encode(bytes.fromhex(root)).decode()}\n"
    with open(checkpoints.path_of(log.root, size), "wb") as file:
        file.write(signing.sign(text, name, key).encode())


def test_an_id_stays_with_the_first_key_that_took_it_and_revoking_is_for_ever(log):
    made = checkpoints.sign(log)
    (mine,) = keys.announced(log).values()
    added = KeyAdded(key=mine.key.id, name=mine.key.name, algorithm="ed25519", public_key=mine.key.public.hex())
    forged = KeyAdded(key=mine.key.id, name=mine.key.name, algorithm="ed25519", public_key="ab" * 32)
    revoked = KeyRevoked(key=mine.key.id, reason="x")
    log.writer.append([Draft("key/x", one) for one in (forged, revoked, added)])
    assert keys.announced(log) == {mine.key.id: mine._replace(revoked=4)}
    assert checkpoints.problems(log) == []
    assert made.size == 3


@pytest.mark.parametrize("public", ["zz", "ab" * 31, ""])
def test_an_announcement_of_what_is_no_key_counts_for_nothing(log, public):
    data = KeyAdded(key="abcdabcd", name=log.identity.origin, algorithm="ed25519", public_key=public)
    log.writer.append([Draft("key/abcdabcd", data)])
    assert keys.announced(log) == {}


# ── a signer does not contradict itself ──


def test_a_log_whose_end_was_cut_off_is_not_signed(log, remark, tmp_path):
    shutil.copytree(log.root, tmp_path / "older")
    log.writer.append([remark("three")])
    made = checkpoints.sign(log)
    older = Log(tmp_path / "older")
    os.makedirs(os.path.join(older.root, "checkpoint"), exist_ok=True)
    shutil.copy(made.path, os.path.join(older.root, "checkpoint"))
    with pytest.raises(Corrupt, match="was signed over 4 events, but the log ends at 2"):
        checkpoints.sign(older)


def test_an_older_copy_of_the_whole_ledger_is_not_signed_and_nothing_is_appended_to_it(log, remark, tmp_path):
    checkpoints.sign(log)
    shutil.copytree(log.root, tmp_path / "older")
    log.writer.append([remark("three")])
    checkpoints.sign(log)
    older = Log(tmp_path / "older")
    older.writer.append([remark("another three")])
    with pytest.raises(Corrupt, match=r"names root .* over the first 4 events"):
        checkpoints.sign(older)
    assert older.head().position == 4


def test_who_went_back_on_purpose_goes_on_with_a_new_key(log, remark, tmp_path):
    checkpoints.sign(log)
    shutil.copytree(log.root, tmp_path / "older")
    log.writer.append([remark("three")])
    checkpoints.sign(log)
    older = Log(tmp_path / "older")
    keys.rotate(older, "restored from the backup of Monday")
    assert checkpoints.sign(older).size == 5
    assert checkpoints.problems(older) == []


def test_another_signers_wrong_head_keeps_one_from_signing(log, remark, as_somebody_else):
    as_somebody_else()
    put(log, 1, "ab" * 32, keys.private(log.identity.id))
    as_somebody_else("me")
    with pytest.raises(Corrupt, match="inconsistent checkpoint"):
        checkpoints.sign(log)


def test_a_note_that_is_there_already_with_a_bad_signature_is_not_taken_for_ones_own(log):
    made = checkpoints.sign(log)
    forged = made.note._replace(signatures=(made.note.signatures[0]._replace(value=bytes(64)),))
    with open(made.path, "wb") as file:
        file.write(forged.encode())
    with pytest.raises(Corrupt, match="bad signature"):
        checkpoints.sign(log)


# ── what is found afterwards ──


def test_every_changed_byte_of_a_checkpoint_is_found(log):
    made = checkpoints.sign(log)
    data = Path(made.path).read_bytes()
    for at in range(len(data)):
        changed = bytearray(data)
        changed[at] ^= 1 << at % 8
        with open(made.path, "wb") as file:
            file.write(changed)
        assert checkpoints.problems(log), f"byte {at}"


def test_a_checkpoint_under_another_name_and_a_file_that_is_none_are_found(log):
    made = checkpoints.sign(log)
    shutil.copy(made.path, checkpoints.path_of(log.root, 2))
    open(os.path.join(log.root, "checkpoint", "notes.txt"), "w").close()
    said = [text for _, text in checkpoints.problems(log)]
    assert len(said) == 2
    assert "it is a checkpoint of 3 events" in said[0]
    assert "notes.txt is not a signed note" in said[1]


def test_a_checkpoint_of_another_log_is_found(log, tmp_path, as_somebody_else):
    checkpoints.sign(log)
    other = Log.create(tmp_path / "other")
    shutil.copy(checkpoints.sign(other).path, os.path.join(log.root, "checkpoint"))
    said = [text for _, text in checkpoints.problems(log)]
    assert any(f"is of the log {other.identity.origin}" in text for text in said)


def test_the_first_position_in_doubt_lies_after_the_last_checkpoint_that_agrees(log, remark):
    key = keys.private(log.identity.id)
    first = checkpoints.sign(log)
    log.writer.append([remark("three")])
    put(log, 4, "ab" * 32, key)
    put(log, 9, "ab" * 32, key)
    found = checkpoints.problems(log)
    assert [position for position, _ in found] == [first.size, 4]
    assert "names another root over the first 4" in found[0][1]
    assert "was signed over 9 events, the log ends at 4" in found[1][1]


def test_a_key_that_nobody_announced_is_unknown_and_one_that_was_is_not_trusted_for_that(log, as_somebody_else):
    made = checkpoints.sign(log)
    (mine,) = keys.announced(log).values()
    assert checkpoints.untrusted(log.root, [mine.key]) == []
    as_somebody_else()
    stranger = signing.verifier(log.identity.origin, signing.public_of(keys.private(log.identity.id)))
    assert "none of the trusted keys" in checkpoints.untrusted(log.root, [stranger])[0][1]
    os.unlink(made.path)
    put(log, made.size, made.root, keys.private(log.identity.id))
    ((_, text),) = checkpoints.problems(log)
    assert text.startswith("unknown key")
    os.unlink(made.path)
    assert "holds no checkpoint" in checkpoints.untrusted(log.root, [mine.key])[0][1]


def test_checkpoints_in_the_middle_of_a_commit_are_checked_too(log, remark):
    checkpoints.sign(log)
    key = keys.private(log.identity.id)
    log.writer.append([remark(str(n)) for n in range(300)])
    for size in (4, 77, 300):
        put(log, size, log.head_at(size).root, key)
    assert checkpoints.problems(log) == []
    put(log, 78, log.head_at(77).root, key)
    assert [position for position, _ in checkpoints.problems(log)] == [77]

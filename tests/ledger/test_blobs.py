"""Payloads by content: written once, checked at every read."""

from hashlib import sha256
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ledger import disk
from ledger.errors import Corrupt, SecretRefused, Unknown, UsageError


def everything(log):
    return sorted(path for path in Path(log.root, "blob").rglob("*") if path.is_file())


@given(st.binary(max_size=300))
@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_what_was_put_is_got_under_its_sha256(fresh, data):
    digest = fresh.blobs.put(data)
    assert digest == sha256(data).hexdigest()
    assert fresh.blobs.get(digest) == data
    assert fresh.blobs.has(digest)


def test_the_same_bytes_are_stored_once(fresh):
    assert len({fresh.blobs.put(b"same") for _ in range(3)}) == 1
    assert len(everything(fresh)) == 1


def test_a_blob_that_is_there_already_is_made_durable_all_the_same(fresh, monkeypatch):
    digest = fresh.blobs.put(b"linked by a process that was cut off before it synced")
    synced = []
    monkeypatch.setattr(disk, "sync_folder", synced.append)
    fresh.blobs.put(fresh.blobs.get(digest))
    folder = fresh.blobs.path(digest).rsplit("/", 1)[0]
    assert folder in synced
    assert folder.rsplit("/", 1)[0] in synced


def test_a_blob_whose_sync_failed_is_not_promised_the_second_time_either(fresh, monkeypatch):
    real = disk.sync_folder

    def failing(path):
        if path.endswith(sha256(b"data").hexdigest()[:2]):
            raise OSError(5, "I/O error")
        real(path)

    monkeypatch.setattr(disk, "sync_folder", failing)
    for _ in range(2):
        with pytest.raises(Unknown):
            fresh.blobs.put(b"data")


@pytest.mark.parametrize(
    "digest", ["", "../../LEDGER.json", "ab/../../x", "A" * 64, "a" * 63, "a" * 65, "a" * 64 + "\n", "/etc/passwd"]
)
def test_what_is_no_digest_never_becomes_a_path(fresh, digest):
    for use in (fresh.blobs.get, fresh.blobs.has, fresh.blobs.path):
        with pytest.raises(UsageError, match="SHA-256"):
            use(digest)


def test_a_blob_that_is_not_there_is_a_usage_error(fresh):
    with pytest.raises(UsageError, match="no blob"):
        fresh.blobs.get("a" * 64)


@pytest.mark.parametrize("damage", [b"", b"other", b"data\n"])
def test_a_damaged_blob_is_never_returned(fresh, damage):
    digest = fresh.blobs.put(b"data")
    Path(fresh.blobs.path(digest)).write_bytes(damage)
    with pytest.raises(Corrupt, match="SHA-256"):
        fresh.blobs.get(digest)


def test_text_with_a_token_is_refused_and_not_stored(fresh):
    with pytest.raises(SecretRefused):
        fresh.blobs.put(b"export GH=ghp_" + b"a1B2" * 9)
    assert everything(fresh) == []

"""The disk refuses: what failed is told apart by when, the log stays readable, and appends go on afterwards."""

import errno
import os
import shutil
import stat
import subprocess
from pathlib import Path

import pytest

from ledger import checkpoints, tiles
from ledger.chain import Log
from ledger.errors import NotAppended, Unknown, Unsupported
from ledger.verify import verify

NUMBERS = [errno.ENOSPC, errno.EIO, errno.EROFS, errno.EDQUOT]
BEFORE = ["open", "write", "fsync file", "link"]


@pytest.fixture
def log(fresh, remark):
    fresh.writer.append([remark("before")])
    return fresh


def reasons(log):
    return [event.data.reason for event in log.events()]


def litter(log):
    return os.listdir(os.path.join(log.root, "tmp"))


def commit(path):
    """Whether a call is about the commit itself: its temporary file or its name in log/."""
    return path.endswith(("ledger/tmp", ".parquet")) or "/tmp/" in path.rsplit("ledger", 1)[-1]


def shard(path):
    return path.endswith("log/00000000")


@pytest.mark.parametrize("number", NUMBERS)
@pytest.mark.parametrize("name", BEFORE)
def test_a_refusal_before_the_link_appends_nothing_and_can_be_repeated(
    log, remark, on_disk, refusing_disk, name, number
):
    draft = remark("repeated")
    with on_disk(refusing_disk(name, number, commit)), pytest.raises(NotAppended, match="nothing was appended"):
        log.writer.append([draft])
    assert reasons(Log(log.root)) == ["before"]
    assert litter(log) == []
    log.writer.append([draft])
    assert reasons(Log(log.root)) == ["before", "repeated"]
    assert verify(log.root).problems == ()


@pytest.mark.parametrize("number", NUMBERS)
def test_a_refusal_after_the_link_is_unknown_and_is_looked_up_by_id(log, remark, on_disk, refusing_disk, number):
    wanted = "01999999-0000-7000-8000-000000000000"
    with on_disk(refusing_disk("fsync folder", number, shard)), pytest.raises(Unknown, match="may not survive"):
        log.writer.append([remark("published", event_id=wanted)])
    with pytest.raises(Unknown, match=wanted):
        log.writer.append([remark("not before somebody looked")])
    again = Log(log.root)
    assert again.find(wanted).data.reason == "published"
    again.writer.append([remark("after")])
    assert reasons(again) == ["before", "published", "after"]
    assert verify(log.root).problems == ()


@pytest.mark.parametrize("number", NUMBERS)
def test_a_folder_that_cannot_be_opened_is_noticed_before_the_link(log, remark, on_disk, refusing_disk, number):
    again = Log(log.root)
    with on_disk(refusing_disk("open", number, shard)), pytest.raises(NotAppended):
        again.writer.append([remark("lost")])
    again.writer.append([remark("kept")])
    assert reasons(again) == ["before", "kept"]


def test_a_file_whose_sync_failed_is_never_synced_again(log, remark, on_disk, refusing_disk):
    standing_in = refusing_disk("fsync file", errno.EIO, commit)
    with on_disk(standing_in):
        with pytest.raises(NotAppended):
            log.writer.append([remark("lost")])
        failed = standing_in.synced[-1]
        log.writer.append([remark("another file")])
    assert standing_in.synced.count(failed) == 1


@pytest.mark.parametrize("name", ["mkdir", "fsync folder"])
def test_a_refused_new_shard_appends_nothing(fresh, remark, on_disk, refusing_disk, name):
    writer = fresh.writer
    with on_disk(refusing_disk(name, errno.ENOSPC, lambda path: path.rstrip("/0").endswith("log"))):
        with pytest.raises(NotAppended):
            writer.append([remark("lost")])
        writer.append([remark("kept")])
    assert reasons(Log(fresh.root)) == ["kept"]
    assert verify(fresh.root).problems == ()


@pytest.mark.parametrize("name", ["open", "write", "fsync file", "link", "mkdir", "fsync folder"])
def test_a_refused_blob_is_not_promised_and_can_be_stored_later(log, on_disk, refusing_disk, name):
    with on_disk(refusing_disk(name, errno.ENOSPC)), pytest.raises((NotAppended, Unknown)):
        log.blobs.put(b"payload")
    digest = log.blobs.put(b"payload")
    assert log.blobs.get(digest) == b"payload"
    assert verify(log.root).problems == ()


@pytest.mark.parametrize("name", ["open", "write", "fsync file", "mkdir"])
def test_a_ledger_that_cannot_be_made_can_be_made_later(tmp_path, on_disk, refusing_disk, name):
    from ledger.errors import LedgerError

    with on_disk(refusing_disk(name, errno.ENOSPC)), pytest.raises(LedgerError):
        Log.create(tmp_path / "ledger")
    assert Log.create(tmp_path / "ledger").head().position == 0


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_refused_tiles_leave_the_log_as_it_is_and_are_made_later(log, remark, on_disk, refusing_disk, number):
    made = checkpoints.sign(log)
    with on_disk(refusing_disk("write", number)), pytest.raises(NotAppended, match="free some"):
        tiles.write(log, made)
    assert litter(log) == []
    assert verify(log.root).problems == ()
    ((_, said),) = tiles.problems(log)  # half of what is derived is there: a line that says what to do
    assert "checkpoint: No such file or directory; delete tlog/ and make it again" in said
    tiles.write(log, made)
    assert tiles.problems(log) == []
    log.writer.append([remark("goes on")])
    later = checkpoints.sign(log)
    with on_disk(refusing_disk("write", number)), pytest.raises(NotAppended, match="free some"):
        tiles.write(log, later)
    assert tiles.problems(log) == []  # those of the head before
    tiles.write(log, later)
    assert verify(log.root, level="derived").problems == ()


@pytest.mark.parametrize("number", [errno.EPERM, errno.ENOTSUP])
def test_a_file_system_without_hard_links_is_refused_at_once(tmp_path, on_disk, refusing_disk, number):
    with on_disk(refusing_disk("link", number)), pytest.raises(Unsupported, match="hard links"):
        Log.create(tmp_path / "ledger")


def test_a_folder_whose_names_cannot_be_synced_is_refused_at_once(log, on_disk, refusing_disk):
    with on_disk(refusing_disk("fsync folder", errno.EINVAL)), pytest.raises(Unsupported, match="folder sync"):
        Log(log.root).writer  # noqa: B018


def everything_is_refused(patch):
    """As on a file system that is mounted read-only (root would not mind the permissions)."""
    real = os.open

    def opening(path, flags, mode=0o777, **more):
        if flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
            raise OSError(errno.EROFS, os.strerror(errno.EROFS))
        return real(path, flags, mode, **more)

    def refused(*_, **__):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    patch.setattr(os, "open", opening)
    for name in ("link", "mkdir", "unlink", "replace", "rename"):
        patch.setattr(os, name, refused)


def test_a_read_only_ledger_can_be_read_and_verified_but_not_written(log, remark, monkeypatch):
    log.close()
    folders = [log.root, *(str(path) for path in Path(log.root).rglob("*") if path.is_dir())]
    for folder in folders:
        os.chmod(folder, stat.S_IRUSR | stat.S_IXUSR)
    try:
        with monkeypatch.context() as patch:
            everything_is_refused(patch)
            with Log(log.root) as opened:
                assert reasons(opened) == ["before"]
                assert opened.head() == log.head()
                assert verify(log.root).problems == ()
                with pytest.raises(NotAppended, match="can be read but not written"):
                    opened.writer.append([remark("refused")])
    finally:
        for folder in folders:
            os.chmod(folder, 0o755)
    assert reasons(Log(log.root)) == ["before"]


@pytest.fixture
def small_disk(tmp_path):
    """A real file system of 512 KiB."""
    point = tmp_path / "small"
    point.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=512k", "tmpfs", str(point)]
    if shutil.which("mount") is None:
        pytest.skip("there is no mount command to make a small file system with")
    done = subprocess.run(mount, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"no small file system can be mounted here: {done.stderr.strip()}")
    yield point
    subprocess.run(["umount", str(point)], check=True)


def test_a_disk_that_is_really_full_loses_nothing_and_goes_on_when_there_is_room(small_disk, remark):
    ballast = small_disk / "ballast"
    ballast.write_bytes(b"x" * 200_000)
    log = Log.create(small_disk / "ledger")
    kept = []

    def fill():
        for number in range(1000):
            log.writer.append([remark(f"{number} " + "x" * 4000)])
            kept.append(number)

    with pytest.raises(NotAppended, match="free some space"):
        fill()
    assert kept
    for _ in range(3):
        with pytest.raises(NotAppended):
            log.writer.append([remark("x" * 40_000)])
    assert [int(text.split()[0]) for text in reasons(Log(log.root))] == kept
    ballast.unlink()
    log.writer.append([remark("room again")])
    assert reasons(Log(log.root))[-1] == "room again"
    assert verify(log.root).problems == ()
    assert litter(log) == []
    log.close()  # or the file system could not be unmounted


CROWDED = """
import os, sys
from ledger.chain import Log
from ledger.errors import NotAppended
from ledger.events import EventRetracted
from ledger.writer import Draft

log, ballast = Log(sys.argv[1]), sys.argv[2]
assert log.writer
with open(ballast, "wb", buffering=0) as file:
    try:
        while True:
            file.write(bytes(4096))
    except OSError:
        pass
try:
    log.writer.append([Draft("event/x", EventRetracted(target="0" * 36, reason="no room"))])
except NotAppended as error:
    print("refused")
"""


def test_who_waits_for_another_writer_on_a_full_disk_is_refused_and_not_killed(small_disk, script):
    log = Log.create(small_disk / "ledger")
    turn = log.writer._joint
    assert turn.enter()
    try:
        done = script(f"import sys; sys.argv[1:] = [{log.root!r}, {str(small_disk / 'ballast')!r}]\n" + CROWDED)
        assert (done.returncode, done.stdout) == (0, "refused\n"), done.stderr
    finally:
        turn.leave()
        log.close()

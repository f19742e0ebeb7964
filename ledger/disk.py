"""What the log asks of a POSIX file system, and nothing else touches the disk to write.

Taken from the file system: `link` is atomic and fails when the name exists; a file's bytes are
durable after fsync of the file; a name is durable after fsync of its folder. Given: a name under
the ledger is there whole or not at all, and once `publish` has returned it survives a power cut.

Every failure is told apart by when it came: before the link nothing was published (NotAppended),
after it the outcome must be looked up (Unknown). An fsync that failed is never tried again on the
same file: the kernel may have dropped the pages and would report success.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import sys

from ledger.errors import NotAppended, Unknown, Unsupported

if sys.platform == "darwin":
    import fcntl

    def _flush(file: int) -> None:
        fcntl.fcntl(file, fcntl.F_FULLFSYNC)  # plain fsync leaves the bytes in the drive's cache
else:

    def _flush(file: int) -> None:
        os.fsync(file)


def sync_file(file: int) -> None:
    """Make the bytes of an open file durable."""
    _flush(file)


def sync_names(folder: int) -> None:
    """Make the names in an open folder durable."""
    _flush(folder)


def sync_folder(path: str) -> None:
    """Make the names in a folder durable."""
    file = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        sync_names(file)
    finally:
        os.close(file)


def make_folder(path: str) -> None:
    """Create a folder, durably; it may exist. Parents are created too.

    One that exists is made durable as well: whoever made it may have been cut off before that.
    """
    parent = os.path.dirname(path)
    try:
        with contextlib.suppress(FileExistsError):
            os.mkdir(path)
    except FileNotFoundError:
        make_folder(parent)
        with contextlib.suppress(FileExistsError):
            os.mkdir(path)
    sync_folder(parent)


class Temporary:
    """A new file, whole and synced, that has no name in the log yet. Discard it when done."""

    __slots__ = ("_file", "path")

    def __init__(self, path: str, file: int = -1) -> None:
        self.path = path  # "" for a file that has no name at all
        self._file = file

    def link(self, target: str) -> bool:
        """Give it its name. False when the name is taken. Raises NotAppended on other errors."""
        try:
            if self.path:
                os.link(self.path, target)
            else:  # linkat(2) with AT_SYMLINK_FOLLOW, which Python calls only when it is given a folder
                os.link(f"/proc/self/fd/{self._file}", target, src_dir_fd=self._file, follow_symlinks=True)
        except FileExistsError:
            # A network file system may have lost the answer to a link that succeeded (open(2)).
            return self.path != "" and os.stat(self.path).st_nlink == 2 and os.path.samefile(self.path, target)
        except OSError as error:
            raise NotAppended(f"nothing was appended: {target}: {plain(error)}") from error
        return True

    def discard(self) -> None:
        """Let go of it; under the names that it was given it stays."""
        if self.path:
            remove(self.path)
        elif self._file >= 0:
            os.close(self._file)
            self._file = -1


def write_temporary(folder: str, data: bytes, nameless: bool = False) -> Temporary:
    """Write and sync a new file in `folder`. Raises NotAppended, leaving nothing behind.

    `nameless` (where `probe` found that it works) spares the file system a name that is removed at
    once: a third of the time of an append on ext4. A process that is killed leaves no litter then.
    """
    path = "" if nameless else os.path.join(folder, f"{os.getpid()}-{secrets.token_hex(8)}")
    made, file = Temporary(path), -1
    try:
        if nameless:
            file = made._file = os.open(folder, os.O_WRONLY | os.O_TMPFILE | os.O_CLOEXEC, 0o644)
        else:
            file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
        try:
            view = memoryview(data)
            while view:
                view = view[os.write(file, view) :]
            sync_file(file)
        finally:
            if path:
                os.close(file)
    except OSError as error:
        made.discard()
        raise NotAppended(f"nothing was appended: {path or folder}: {plain(error)}") from error
    except BaseException:  # Ctrl-C between two calls: leave no litter
        made.discard()
        raise
    return made


class Folder:
    """A folder whose names are made durable again and again. Kept open, so that no error of a write
    that the kernel finishes later is lost between two syncs."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._file = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)

    def confirm(self, what: str) -> None:
        """Make a link that was just made durable. Raises Unknown: the name is there, its future is not."""
        try:
            sync_names(self._file)
        except OSError as error:
            raise Unknown(f"{what} was published but may not survive a power cut: {plain(error)}") from error

    def __del__(self) -> None:
        with contextlib.suppress(OSError, AttributeError, TypeError):
            os.close(self._file)


def confirm(folder: str, what: str) -> None:
    """Make a link that was just made durable. Raises Unknown: the name is there, its future is not."""
    try:
        sync_folder(folder)
    except OSError as error:
        raise Unknown(f"{what} was published but may not survive a power cut: {plain(error)}") from error


def publish(temporary_folder: str, target: str, data: bytes) -> bool:
    """Create `target` with `data`, whole and durable. False when it exists already."""
    need_folder(temporary_folder)
    temporary = write_temporary(temporary_folder, data)
    try:
        made = temporary.link(target)
        confirm(os.path.dirname(target), target)
    finally:
        temporary.discard()
    return made


def replace(temporary_folder: str, target: str, data: bytes) -> None:
    """Write `target` anew, whole but not durably: for what may be lost. Raises NotAppended."""
    need_folder(temporary_folder)
    temporary = write_temporary(temporary_folder, data)
    try:
        os.replace(temporary.path, target)
    except OSError as error:
        temporary.discard()
        raise NotAppended(f"{target}: {plain(error)}") from error


def need_folder(path: str) -> None:
    """An empty folder does not survive every copy of a ledger."""
    if not os.path.isdir(path):
        try:
            make_folder(path)
        except OSError as error:
            raise NotAppended(f"nothing was appended: {path}: {plain(error)}") from error


def remove(path: str) -> None:
    with contextlib.suppress(OSError):
        os.unlink(path)


def probe(folder: str) -> bool:
    """Refuse a file system without exclusive links or folder sync. Raises Unsupported or NotAppended.

    True where files can be made without a name and get it later (O_TMPFILE: Linux, most local file
    systems, with /proc).
    """
    first = write_temporary(folder, b"probe")
    second = first.path + "-link"
    try:
        os.link(first.path, second)
        try:
            os.link(first.path, second)
        except FileExistsError:
            pass
        else:
            raise Unsupported(f"{folder}: this file system lets one name be linked twice")
        sync_folder(folder)
        return _nameless(folder, second)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise NotAppended(f"nothing was appended: {folder}: {plain(error)}") from error
        raise Unsupported(
            f"{folder}: this file system cannot hold a ledger (hard links and folder sync are needed): {plain(error)}"
        ) from error
    finally:
        first.discard()
        remove(second)


def _nameless(folder: str, taken: str) -> bool:
    """Whether a file without a name can be linked, and cannot be over a name that is taken."""
    if not hasattr(os, "O_TMPFILE"):
        return False
    name = taken + "-nameless"
    try:
        temporary = write_temporary(folder, b"probe", nameless=True)
        try:
            return temporary.link(name) and not temporary.link(taken)
        finally:
            temporary.discard()
            remove(name)
    except NotAppended:
        return False


def plain(error: OSError) -> str:
    """An operating system error as a person reads it."""
    hint = {
        errno.ENOSPC: "; free some space and try again",
        errno.EDQUOT: "; free some of your quota and try again",
        errno.EROFS: "; the ledger can be read but not written here",
        errno.EACCES: "; check the permissions",
        errno.EMFILE: "; too many open files",
    }.get(error.errno or 0, "")
    return f"{os.strerror(error.errno)}{hint}" if error.errno else str(error)

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


def sync_folder(path: str) -> None:
    """Make the names in a folder durable."""
    file = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        _flush(file)
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


def write_temporary(folder: str, data: bytes) -> str:
    """Write and sync a new file in `folder`; its path. Raises NotAppended, leaving nothing behind."""
    path = os.path.join(folder, f"{os.getpid()}-{secrets.token_hex(8)}")
    try:
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
        try:
            view = memoryview(data)
            while view:
                view = view[os.write(file, view) :]
            sync_file(file)
        finally:
            os.close(file)
    except OSError as error:
        remove(path)
        raise NotAppended(f"nothing was appended: {path}: {plain(error)}") from error
    except BaseException:  # Ctrl-C between two calls: leave no litter
        remove(path)
        raise
    return path


def link(temporary: str, target: str) -> bool:
    """Give a synced file its name. False when the name is taken. Raises NotAppended on other errors."""
    try:
        os.link(temporary, target)
    except FileExistsError:
        # A network file system may have lost the answer to a link that succeeded (open(2)).
        return os.stat(temporary).st_nlink == 2 and os.path.samefile(temporary, target)
    except OSError as error:
        raise NotAppended(f"nothing was appended: {target}: {plain(error)}") from error
    return True


def confirm(folder: str, what: str) -> None:
    """Make a link that was just made durable. Raises Unknown: the name is there, its future is not."""
    try:
        sync_folder(folder)
    except OSError as error:
        raise Unknown(f"{what} was published but may not survive a power cut: {plain(error)}") from error


def publish(temporary_folder: str, target: str, data: bytes) -> bool:
    """Create `target` with `data`, whole and durable. False when it exists already."""
    temporary = write_temporary(temporary_folder, data)
    try:
        made = link(temporary, target)
        confirm(os.path.dirname(target), target)
    finally:
        remove(temporary)
    return made


def replace(temporary_folder: str, target: str, data: bytes) -> None:
    """Write `target` anew, whole but not durably: for what may be lost. Raises NotAppended."""
    temporary = write_temporary(temporary_folder, data)
    try:
        os.replace(temporary, target)
    except OSError as error:
        remove(temporary)
        raise NotAppended(f"{target}: {plain(error)}") from error


def remove(path: str) -> None:
    with contextlib.suppress(OSError):
        os.unlink(path)


def probe(folder: str) -> None:
    """Refuse a file system without exclusive links or folder sync. Raises Unsupported or NotAppended."""
    name = write_temporary(folder, b"probe")
    second = name + "-link"
    try:
        os.link(name, second)
        try:
            os.link(name, second)
        except FileExistsError:
            pass
        else:
            raise Unsupported(f"{folder}: this file system lets one name be linked twice")
        sync_folder(folder)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise NotAppended(f"nothing was appended: {folder}: {plain(error)}") from error
        raise Unsupported(
            f"{folder}: this file system cannot hold a ledger (hard links and folder sync are needed): {plain(error)}"
        ) from error
    finally:
        remove(name)
        remove(second)


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

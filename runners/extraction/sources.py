"""The files of a record: found without leaving the tree, read up to a limit, each with its digest.

Nothing here understands what it reads. A link that leaves the tree is not followed; of a file longer than the
limit only the beginning is read, and the reader is told; bytes that are not UTF-8 are a reason, not text.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from ledger.records import SourceFile

LIMIT = 4 << 20  # bytes of one file that are read; the digest is of all
README_LIMIT = 256 << 10  # a README is read by many rules; six times the longest that is known
MAX_FILES = 200  # of one record
README = "README.md"


class Unreadable(Exception):
    """A file or folder that cannot be read as a record: `path`, and `reason` in one line."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(f"{path}: {reason}")
        self.path = path
        self.reason = reason


class Source(NamedTuple):
    """A file that was read. `reason` says why `text` is short or empty, None where it is whole."""

    path: str  # below the folder, with forward slashes
    text: str
    file: SourceFile
    reason: str | None = None


def read_source(folder: Path, path: Path, limit: int = LIMIT) -> Source:
    """One file below `folder`. Raises Unreadable where the system refuses."""
    name = path.relative_to(folder).as_posix()
    digest, size, kept = hashlib.sha256(), 0, bytearray()
    try:
        with path.open("rb") as stream:
            while chunk := stream.read(1 << 20):
                digest.update(chunk)
                size += len(chunk)
                kept += chunk[: max(0, limit - len(kept))]
    except OSError as error:
        raise Unreadable(path, f"cannot be read: {error.strerror or error}") from None
    file = SourceFile(path=name, sha256=digest.hexdigest(), bytes=size)
    reason = None
    if size > limit:
        cut = kept.rfind(b"\n")
        kept = kept[: cut + 1 if cut >= 0 else limit]
        reason = f"only the first {len(kept)} of {size} bytes were read"
    try:
        text = kept.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        if size > limit and error.start > len(kept) - 4:
            text = kept[: error.start].decode("utf-8-sig")
        else:
            return Source(name, "", file, f"not UTF-8: byte {error.start} is 0x{kept[error.start]:02x}")
    return Source(name, text.replace("\r\n", "\n").replace("\r", "\n").replace("\0", "\ufffd"), file, reason)


def inside(path: Path, root: Path) -> bool:
    """Whether `path`, links resolved, lies below `root`, links resolved."""
    try:
        return path.resolve().is_relative_to(root.resolve())
    except (OSError, RuntimeError):
        return False


def files(folder: Path, root: Path) -> Iterator[Path]:
    """The regular files that are read: at most two folders deep, none through a link out of `root`, in order."""
    count = 0
    for here, folders, names in os.walk(folder):
        depth = len(Path(here).relative_to(folder).parts)
        folders[:] = [] if depth >= 2 else sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            path = Path(here) / name
            if not wanted(name) or not path.is_file() or not inside(path, root):
                continue
            count += 1
            if count > MAX_FILES:
                return
            yield path


def refused(folder: Path, root: Path) -> list[tuple[str, str]]:
    """What lies in `folder` under the name of a file that is read and is not read, and why."""
    found = []
    for name in sorted(os.listdir(folder)):
        path = folder / name
        if not wanted(name) or (path.is_file() and inside(path, root)):
            continue
        if path.is_symlink():
            why = "a link out of the tree is not followed" if path.exists() else "a link that leads nowhere"
        else:
            why = "not a regular file"
        found.append((name, why))
    return found


def wanted(name: str) -> bool:
    """The README, submission files and training logs; programs, models and other texts are not read."""
    lower = name.lower()
    if lower.endswith(".txt"):
        return not lower.startswith("requirements")
    return (
        lower == README.lower()
        or lower.endswith(".log")
        or (lower.startswith("submission") and lower.endswith(".json"))
    )


def digest(sources: list[SourceFile]) -> str:
    """One digest over the paths and the digests, so that the same bytes are the same reading."""
    lines = "".join(f"{source.sha256} {source.path}\n" for source in sorted(sources, key=lambda each: each.path))
    return hashlib.sha256(lines.encode("utf-8", "surrogateescape")).hexdigest()

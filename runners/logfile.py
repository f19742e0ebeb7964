"""The log file of a program that prints nothing: which of them it wrote, and the metrics in it.

Only asked where the program's own output did not tell the metric. A file counts if it matches the pattern that the
plan gives and was made or changed while the program ran; of several, the one that changed last. What it must never
do: take a figure out of an earlier run's file.
"""

from __future__ import annotations

import glob
import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from runners.readout import EXTRACTOR, Point, Readout

KEEP_BYTES = 16 << 20  # from its end: results stand last
Seen = dict[str, tuple[int, int]]  # file -> (time of change in ns, size)


class LogFile(NamedTuple):
    """What a log file told."""

    path: str  # as matched, below the folder where the program ran
    data: bytes  # its end
    left_out: int  # bytes before that
    last: dict[str, Point]


def look(pattern: str, folder: Path) -> Seen:
    """The files that match, as they are now."""
    seen: Seen = {}
    for name in glob.glob(pattern, root_dir=folder, recursive=True):
        path = folder / name
        try:
            if path.is_file():
                found = path.stat()
                seen[name] = (found.st_mtime_ns, found.st_size)
        except OSError:
            continue
    return seen


def written(pattern: str, folder: Path, before: Seen) -> str | None:
    """The file that changed last since `before`; None where none did."""
    now = look(pattern, folder)
    changed = [(stamp, name) for name, stamp in now.items() if before.get(name) != stamp]
    return max(changed)[1] if changed else None


def read(name: str, folder: Path, patterns: Sequence[str]) -> LogFile:
    """The metrics in the end of a file. Raises OSError."""
    with (folder / name).open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - KEEP_BYTES))
        data = file.read(KEEP_BYTES)
    reader = Readout(patterns)
    for line in data.splitlines():
        reader.feed(line.decode("utf-8", "backslashreplace"))
    return LogFile(name, data, max(0, size - len(data)), dict(reader.last))


READER = f"{EXTRACTOR} of a log file"

"""The spool: a run's points on their way into a chunk, in a file that outlives a killed process.

One spool is one chunk and one event to be: its label names both beforehand, so whoever publishes it
(the run itself, or after a kill -9 the next opener of the ledger) makes the same file and the same
event id, and looks for that id first. No point is lost or doubled, whoever dies at whatever moment.

A spool is a file of fixed size, mapped into memory; to log is two stores into it. After the label
come the shapes (which names one call gives), the calls, and the values:

    shapes   uint32 length, names in UTF-8 with \\n between them, a byte 1
    calls    int64 step, int64 time in ns, uint32 index of the first value, uint16 shape, 0, a byte 1
    values   float64

The byte 1 is stored last and alone: what lacks it is not there. A spool belongs to who holds the
lock (flock) on it, never to a process id. It promises nothing after a power cut: then a page may be
missing, and a value whose bits are all zero is left out rather than believed.
"""

from __future__ import annotations

import contextlib
import fcntl
import mmap
import os
import struct
import uuid
import weakref
from time import time_ns
from typing import TYPE_CHECKING, Any

import msgspec

from ledger import canonical, disk, points
from ledger.errors import Corrupt, LedgerError, UsageError
from ledger.events import MetricsLogged
from ledger.writer import Draft

if TYPE_CHECKING:
    from ledger.chain import Log

NAMES_BYTES = 32_768  # of all names in one event, which holds 48 KiB
_LABEL = 4096
_SHAPES = 4 * NAMES_BYTES
_CALL = struct.Struct("<qqIHxB")
_BATCH = 64  # spools that are recovered together: each is an open file


class Label(msgspec.Struct, frozen=True):
    """What a spool will be: the run that its points belong to, its chunk, and the id of its event."""

    ledger: str
    run: str
    source: str
    chunk: str
    event_id: str
    limit: int  # points
    boot: str  # of the machine: a spool of an earlier one may have lost pages


class Spool:
    """Points of one run, at most `label.limit`. Its caller holds a lock around `add` and `define`."""

    __slots__ = (
        "__weakref__", "_lock", "_memory", "_names", "_room", "_texts", "calls", "label", "path", "points", "shapes",
    )  # fmt: skip

    def __init__(self, label: Label, memory: Any, path: str = "", lock: int = -1) -> None:
        self.label = label
        self.path = path  # "" when it is in memory only
        self.points = self.calls = 0
        self.shapes: dict[tuple[str, ...], tuple[Any, int, int]] = {}
        self._names: set[str] = set()
        self._room = NAMES_BYTES
        self._texts = _LABEL  # where the next shape goes
        self._memory = memory
        self._lock = lock

    def add(self, names: tuple[str, ...], step: int, values: Any) -> bool:
        """Take the values of these names. False where the names are unknown here or the spool is full.

        Raises struct.error for a value that is no number; nothing was taken then.
        """
        found = self.shapes.get(names)
        if found is None:
            return False
        pack, width, number = found
        at, call = self.points, self.calls
        if at + width > self.label.limit:
            return False
        # Places are taken before they are filled: a signal handler may log between any two of these lines.
        self.points, self.calls = at + width, call + 1
        pack(self._memory, _LABEL + _SHAPES + _CALL.size * self.label.limit + 8 * at, *values)
        _CALL.pack_into(self._memory, _LABEL + _SHAPES + _CALL.size * call, step, time_ns(), at, number, 1)
        return True

    def define(self, names: tuple[str, ...]) -> bool:
        """Make names known as one shape. False where they do not fit: they need a spool of their own."""
        room = self._room - sum(cost(name) for name in names if name not in self._names)
        text = "\n".join(names).encode()
        at, number = self._texts, len(self.shapes)
        end = at + 5 + len(text)
        if room < 0 or end > _LABEL + _SHAPES or number > 65_535 or len(names) > self.label.limit:
            return False
        self._room, self._texts = room, end
        self._names.update(names)
        struct.pack_into("<I", self._memory, at, len(text))
        self._memory[at + 4 : end - 1] = text
        self._memory[end - 1] = 1
        self.shapes[names] = (struct.Struct(f"<{len(names)}d").pack_into, len(names), number)
        return True

    def columns(self) -> points.Columns | None:
        """The points so far, in the order in which they were logged; None when there are none."""
        return read(self._memory, self.label.limit, self.calls)

    def discard(self) -> None:
        """Its points are in the log, or nobody will want them: take it away."""
        if self.path:
            disk.remove(self.path)
        self.release()

    def release(self) -> None:
        """Leave the file to whoever opens the ledger next."""
        lock, self._lock = self._lock, -1
        if lock >= 0:
            os.close(lock)


def cost(name: str) -> int:
    """The bytes that a name takes in an event."""
    return len(canonical.text(name)) + 1


_open: weakref.WeakSet[Spool] = weakref.WeakSet()  # of this process


def create(root: str, label: Label) -> Spool:
    """A spool in the folder spool/. Raises OSError where the disk has no room or no locks."""
    folder, making = os.path.join(root, "spool"), os.path.join(root, "tmp", f"{label.event_id}.ring")
    path = os.path.join(folder, f"{label.event_id}.ring")
    os.makedirs(folder, exist_ok=True)
    os.makedirs(os.path.dirname(making), exist_ok=True)
    head, size = canonical.encode(label) + b"\n", _size(label.limit)
    if len(head) > _LABEL:
        raise OSError(f"the label of {path} is too long")
    lock = -1
    file = os.open(making, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
    try:
        _reserve(file, size)
        memory = mmap.mmap(file, size)
        memory[: len(head)] = head
        # A file that is opened anew: the map holds on to the other one, and a forked child to the map.
        lock = os.open(making, os.O_RDONLY | os.O_CLOEXEC)
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.rename(making, path)  # seen only now that it is locked
    except BaseException:
        disk.remove(making)
        if lock >= 0:
            os.close(lock)
        raise
    finally:
        os.close(file)
    made = Spool(label, memory, path, lock)
    _open.add(made)
    return made


def in_memory(label: Label) -> Spool:
    """A spool where no file can be made: its points do not outlive the process."""
    return Spool(label, bytearray(_size(label.limit)))


def _in_child() -> None:
    """A forked child keeps no lock of its parent's: else a dead parent would look alive."""
    for spool in list(_open):
        spool.shapes = {}
        spool.release()
    _open.clear()


os.register_at_fork(after_in_child=_in_child)


def _size(limit: int) -> int:
    return _LABEL + _SHAPES + (_CALL.size + 8) * limit


def _reserve(file: int, size: int) -> None:
    """Have the disk's space before it is mapped: a store into a page that has none kills the process."""
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(file, 0, size)
    else:
        left = size
        while left:
            left -= os.write(file, bytes(min(left, 1 << 20)))


def boot() -> str:
    """What tells one start of this machine from another, "" where the system does not say."""
    with contextlib.suppress(OSError), open("/proc/sys/kernel/random/boot_id") as file:
        return file.read().strip()
    return ""


def read(memory: Any, limit: int, calls: int, *, torn: bool = False) -> points.Columns | None:
    """The points among the first `calls` places, in order; None when there are none.

    `torn`: pages may be missing, leave out what may be one of them. Raises IndexError, ValueError for
    bytes that no spool holds.
    """
    import numpy as np

    shapes = _shapes(memory)
    kinds = np.dtype(
        {
            "names": ["step", "time", "at", "shape", "whole"],
            "formats": ["<i8", "<i8", "<u4", "<u2", "u1"],
            "offsets": [0, 8, 16, 20, 23],
            "itemsize": _CALL.size,
        }
    )
    taken = np.frombuffer(memory, kinds, calls, _LABEL + _SHAPES)
    there = (taken["whole"] == 1) & (taken["shape"] < len(shapes))
    if not there.all():
        taken = taken[there]
    if not len(taken):
        return None
    values = np.frombuffer(memory, np.float64, limit, _LABEL + _SHAPES + _CALL.size * limit)
    widths = np.array([len(names) for names in shapes], np.int64)
    used = np.flatnonzero(np.bincount(taken["shape"], minlength=len(shapes)))
    texts = list(dict.fromkeys(name for one in used for name in shapes[one]))
    known = {name: code for code, name in enumerate(texts)}
    flat = np.array([known.get(name, 0) for names in shapes for name in names], np.int32)
    first = np.cumsum(widths) - widths  # of each shape in `flat`
    width = widths[taken["shape"]]
    starts = np.cumsum(width) - width  # of each call in what is made here
    total = int(width.sum())
    if len(used) == 1:  # nearly always, and quicker
        (one,) = used
        codes = np.tile(flat[first[one] : first[one] + widths[one]], len(taken))
        width = widths[one]
    else:
        codes = flat[np.repeat(first[taken["shape"]] - starts, width) + np.arange(total)]
    if np.array_equal(taken["at"], starts):
        values = values[:total].copy()
    else:  # between them lie places that were taken and never filled
        values = values[np.repeat(taken["at"] - starts, width) + np.arange(total)]
    steps, times = np.repeat(taken["step"], width), np.repeat(taken["time"] // 1000, width)
    if torn and not (kept := (values.view(np.int64) != 0) & (times > 0)).all():
        steps, codes, values, times = steps[kept], codes[kept], values[kept], times[kept]
        left = np.unique(codes)
        texts, codes = [texts[code] for code in left], np.searchsorted(left, codes).astype(np.int32)
    return points.Columns(steps, codes, values, times, texts) if len(steps) else None


def _shapes(memory: Any) -> list[list[str]]:
    shapes: list[list[str]] = []
    at = _LABEL
    while at + 5 <= _LABEL + _SHAPES:
        (length,) = struct.unpack_from("<I", memory, at)
        end = at + 5 + length
        if not length or end > _LABEL + _SHAPES or memory[end - 1] != 1:
            break
        shapes.append(bytes(memory[at + 4 : end - 1]).decode().split("\n"))
        at = end
    return shapes


# ── what a dead process left ──


def recover(log: Log) -> list[MetricsLogged]:
    """Publish the points of spools whose owner is gone, as events that say `recovered`.

    Raises nothing: what cannot be recovered now (a full disk) is left to the next opener, what is no
    spool is put into quarantine/. Of two who try at once one has the lock. Who comes after one that
    died half-way finds the event, and only removes the file, or makes the same chunk and event again.
    """
    found: list[MetricsLogged] = []
    folder = os.path.join(log.root, "spool")
    try:
        paths = [os.path.join(folder, name) for name in sorted(os.listdir(folder)) if name.endswith(".ring")]
    except OSError:
        return found
    for start in range(0, len(paths), _BATCH):
        with contextlib.ExitStack() as locks, contextlib.suppress(OSError, LedgerError):
            dead = [one for path in paths[start : start + _BATCH] if (one := _claim(log, path, locks))]
            there = _event_ids(log, [label for _, _, label in dead])
            for path, file, label in dead:
                with contextlib.suppress(OSError, LedgerError):
                    if label.event_id not in there:
                        found += _recover(log, path, file, label)
                    disk.remove(path)
    return found


def _claim(log: Log, path: str, locks: contextlib.ExitStack) -> tuple[str, int, Label] | None:
    """A spool that nobody else holds, locked until `locks` ends; None when somebody does or it is none."""
    with contextlib.suppress(OSError):
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        locks.callback(os.close, file)
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        there = os.fstat(file)
        if there.st_nlink == 0:  # another process has just recovered it
            return None
        with contextlib.suppress(msgspec.DecodeError, UnicodeDecodeError, ValueError):
            label = msgspec.json.decode(os.pread(file, _LABEL, 0).rstrip(b"\x00"), type=Label)
            uuid.UUID(label.event_id)
            if label.ledger == log.identity.id and there.st_size == _size(label.limit):
                return path, file, label
        _quarantine(log, path)
    return None


def _event_ids(log: Log, labels: list[Label]) -> set[str]:
    """Ids of the chunks' events in the log since the oldest of these spools began."""
    if not labels:
        return set()
    began = min(uuid.UUID(label.event_id).int >> 80 for label in labels) * 1000
    events = log.events(start=log.position_before(began), types=(MetricsLogged.TYPE,))
    return {event.event_id for event in events}


def _recover(log: Log, path: str, file: int, label: Label) -> list[MetricsLogged]:
    """Chunk and event of a spool, if it holds points. Raises OSError, LedgerError."""
    torn = not label.boot or label.boot != boot()
    try:
        with open(file, "rb", closefd=False) as opened:
            columns = read(opened.read(), label.limit, label.limit, torn=torn)
        if columns is None:
            return []
        what = (label.run, label.source, columns)
        try:
            event = points.publish(log.root, label.chunk, *what, recovered=True)
        except Corrupt:  # its owner was cut off in the middle of a call, after it had published the others
            other = label.chunk.replace(".parquet", "-recovered.parquet")
            event = points.publish(log.root, other, *what, recovered=True)
        log.writer.append([Draft(f"run/{label.run}", event, event_id=label.event_id)])
    except (UsageError, ValueError, IndexError):
        _quarantine(log, path)
        return []
    return [event]


def _quarantine(log: Log, path: str) -> None:
    kept = os.path.join(log.root, "quarantine")
    os.makedirs(kept, exist_ok=True)
    os.replace(path, os.path.join(kept, os.path.basename(path)))

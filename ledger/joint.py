"""Several processes of one machine, one commit: who is publishing takes along what others have ready.

A commit costs two syncs of the disk and some 0.3 ms of processor time, for one event as for fifty.
So a writer that finds another one publishing leaves its rows in its *box*, a small file in tmp/ that
is mapped into memory, and whoever has the *turn* (a lock on that folder) publishes the rows of all
boxes with its own as one segment.

This is a way to be fast and nothing rests on it. Order, exclusivity and "exactly once" come from the
exclusive link alone: before each attempt to link, a writer has read every segment below that
position, and takes out of its commit what it finds there (`Writer`). So a turn that never ends, an
answer that is lost or false, a box of a process that died, all cost time and nothing else; where a
file system has no locks or no shared memory, every writer publishes for itself.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import select
import time
from collections.abc import Sequence
from struct import Struct
from typing import NamedTuple
from zlib import crc32

import msgspec

from ledger.segment import Row

try:
    import fcntl
except ImportError:  # no such locks: nobody ever has the turn
    fcntl = None  # type: ignore[assignment]

MAX_ROWS = 16  # of one request; a large commit is worth its own syncs
_SIZE = 1 << 16
# Boot, number of the request, number of the one answered, bytes, their CRC-32, size of the log that the writer knew.
_HEAD = Struct("<16sIIIIQ")
_NUMBER = Struct("<I")
_POSTED, _ANSWERED = 16, 20  # where these numbers lie
_PATIENCE = 0.25  # seconds that a writer waits for one that has the turn
_AVOID = 5.0  # seconds for which it then publishes for itself
_POLL = 0.00005
_LOOK = 0.005
_BELL = ".bell"  # after the name of the box
_LINGER = 0.001  # seconds at most, for those that are about to leave something
_ROWS = msgspec.msgpack.Decoder(list[Row])


class Box(NamedTuple):
    """Another writer's: the file it holds a lock on, its memory, and the pipe that wakes it."""

    file: int
    memory: mmap.mmap
    bell: int

    def ring(self) -> None:
        if self.bell >= 0:
            with contextlib.suppress(OSError):  # nobody listens, or it is full of rings
                os.write(self.bell, b".")


class Request(NamedTuple):
    """Rows that another writer left in its box."""

    box: Box
    number: int
    since: int  # these rows are not in the log below this position
    rows: list[Row]

    def answer(self) -> None:
        """Say that these rows are in the log, durably."""
        with contextlib.suppress(ValueError):  # closed meanwhile
            _NUMBER.pack_into(self.box.memory, _ANSWERED, self.number)
            self.box.ring()


class Joint:
    """One writer's place at the table. Not for threads: the writer sees to that."""

    def __init__(self, tmp: str, writer: bytes) -> None:
        self._folder = tmp
        self._name = f"{writer.hex()}.box"
        self._turn = -1
        self._box: mmap.mmap | None = None
        self._file = -1
        self._bell = -1
        self._ear = select.poll()  # not `select`, which takes no file number beyond 1023
        self._boxes: dict[str, Box] = {}
        self._moved: dict[str, int] = {}  # the newest number that was seen in each
        self._entered = self._lasted = 0.0  # when the turn was taken, and how long it was held of late
        self._number = 0
        self._avoid_until = 0.0
        self._boot = _boot()
        self._pid = os.getpid()

    def enter(self) -> bool:
        """Take the turn if nobody has it."""
        if fcntl is None:
            return False
        try:
            if self._turn < 0:
                self._turn = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            fcntl.flock(self._turn, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return False
        self._entered = time.monotonic()
        return True

    def leave(self) -> None:
        """Let others have the turn; one that waits is woken for it."""
        self._lasted += (time.monotonic() - self._entered - self._lasted) / 4
        with contextlib.suppress(OSError):
            fcntl.flock(self._turn, fcntl.LOCK_UN)
        for box in self._boxes.values():
            _, number, answered, *_ = _HEAD.unpack_from(box.memory)
            if number not in (0, answered):
                box.ring()
                return

    def wait(self, rows: Sequence[Row], since: int) -> str:
        """Leave `rows`, which are not in the log below `since`, for whoever has the turn.

        "answered": somebody says that they are published. "turn": the turn is ours now, they may be
        published or not. "alone": nobody came by in time, they may be published still. "": they were
        left for nobody.
        """
        if self._turn < 0 or time.monotonic() < self._avoid_until or not self._post(rows, since):
            return ""
        box, until = self._box, time.monotonic() + _PATIENCE
        assert box is not None
        try:
            while (left := until - time.monotonic()) > 0:
                # Who has the turn rings. Should that process die instead, a look now and then is enough.
                if self._bell >= 0 and self._ear.poll(min(left, _LOOK) * 1000):
                    os.read(self._bell, 4096)
                elif self._bell < 0:
                    time.sleep(_POLL)
                if _NUMBER.unpack_from(box, _ANSWERED)[0] == self._number:
                    return "answered"
                if self.enter():
                    return "turn"
            self._avoid_until = time.monotonic() + _AVOID
            return "alone"
        finally:
            _NUMBER.pack_into(box, _POSTED, 0)

    def others(self, limit: int) -> list[Request]:
        """What lies in the boxes of living writers, at most `limit` rows. Only for who has the turn.

        Writers that left something lately are given a moment to do so again: those whose rows were
        just published are about to come with the next, and they would else always miss the bus.
        """
        found: list[Request] = []
        boxes = self._living()
        active = 0
        for name, box in boxes.items():
            _, number, answered, *_ = _HEAD.unpack_from(box.memory)
            if (newest := number or answered) != self._moved.get(name):
                self._moved[name] = newest
                active += 1
        until = time.monotonic() + min(self._lasted / 3, _LINGER)
        while True:
            for name in list(boxes):
                request = self._read(boxes[name])
                if request is not None:
                    del boxes[name]
                    if len(request.rows) <= limit:
                        limit -= len(request.rows)
                        found.append(request)
            if len(found) >= active or time.monotonic() > until:
                return found
            time.sleep(_POLL / 2)

    def _living(self) -> dict[str, Box]:
        """The boxes of the other writers, by name."""
        try:
            names = [name for name in os.listdir(self._folder) if name.endswith(".box") and name != self._name]
        except OSError:
            return {}
        for name in self._boxes.keys() - names:
            self._forget(name)
        return {name: box for name in sorted(names) if (box := self._open(name)) is not None}

    def _read(self, box: Box) -> Request | None:
        boot, number, answered, length, crc, since = _HEAD.unpack_from(box.memory)
        if number in (0, answered) or boot != self._boot or length > _SIZE - _HEAD.size:
            return None
        data = box.memory[_HEAD.size : _HEAD.size + length]
        if crc32(data) != crc:
            return None  # still being written
        try:
            rows = _ROWS.decode(data)
        except msgspec.MsgspecError:
            return None
        return Request(box, number, since, rows) if rows else None

    def _open(self, name: str) -> Box | None:
        """The box of another writer, if that is alive: it holds a lock on its box for as long as it lives."""
        path = os.path.join(self._folder, name)
        known = self._boxes.get(name)
        try:
            file = known.file if known else os.open(path, os.O_RDWR | os.O_CLOEXEC)
        except OSError:
            return None
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError:  # alive
            if known is None:
                bell = -1
                with contextlib.suppress(OSError):
                    bell = os.open(path + _BELL, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
                try:
                    known = self._boxes[name] = Box(file, mmap.mmap(file, _SIZE), bell)
                except (OSError, ValueError):
                    _close(file, bell)
                    return None
            return known
        if known is not None:
            self._forget(name)
            return self._open(name)  # its writer may have closed it and come back with another one
        os.close(file)
        _unlink(path, path + _BELL)
        return None

    def _forget(self, name: str) -> None:
        box = self._boxes.pop(name)
        self._moved.pop(name, None)
        box.memory.close()
        _close(box.file, box.bell)

    def _post(self, rows: Sequence[Row], since: int) -> bool:
        data = msgspec.msgpack.encode(rows)
        if len(rows) > MAX_ROWS or len(data) > _SIZE - _HEAD.size or not self._own_box():
            return False
        box = self._box
        assert box is not None
        self._number = self._number % 0x7FFFFFFF + 1
        box[_HEAD.size : _HEAD.size + len(data)] = data
        # The number of the request comes last: with it the request is there.
        _HEAD.pack_into(box, 0, self._boot, 0, 0, len(data), crc32(data), since)
        _NUMBER.pack_into(box, _POSTED, self._number)
        return True

    def _own_box(self) -> bool:
        path = os.path.join(self._folder, self._name)
        if self._box is not None:
            if os.path.exists(path):
                return True
            self.close()  # somebody emptied tmp/: nobody would find it
        try:
            with contextlib.suppress(OSError, AttributeError):  # without a bell we look now and then
                os.mkfifo(path + _BELL, 0o666)
                self._bell = os.open(path + _BELL, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
                self._ear = select.poll()
                self._ear.register(self._bell, select.POLLIN)
            # Under another name first: a box without its lock would be taken for a dead writer's.
            self._file = os.open(path + ".new", os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
            os.write(self._file, bytes(_SIZE))  # a store into a page without space on the disk kills the process
            fcntl.flock(self._file, fcntl.LOCK_EX)
            self._box = mmap.mmap(self._file, _SIZE)
            os.rename(path + ".new", path)
        except (OSError, ValueError):
            self.close()
            self._avoid_until = float("inf")
            return False
        return True

    def close(self) -> None:
        """Leave the table; one may come back. The box goes, if this process made it."""
        if self._file >= 0 and os.getpid() == self._pid:
            path = os.path.join(self._folder, self._name)
            _unlink(path, path + ".new", path + _BELL)
        if self._box is not None:
            self._box.close()
            self._box = None
        for name in list(self._boxes):
            self._forget(name)
        _close(self._file, self._turn, self._bell)
        self._file = self._turn = self._bell = -1

    def __del__(self) -> None:
        with contextlib.suppress(Exception):
            self.close()


def _close(*files: int) -> None:
    for file in files:
        if file >= 0:
            with contextlib.suppress(OSError):
                os.close(file)


def _unlink(*paths: str) -> None:
    for path in paths:
        with contextlib.suppress(OSError):
            os.unlink(path)


def _boot() -> bytes:
    """16 bytes that are the same for all processes that share this machine's memory, until it restarts."""
    try:
        with open("/proc/sys/kernel/random/boot_id", "rb") as file:
            return bytes.fromhex(file.read().strip().decode().replace("-", ""))[:16].ljust(16, b"\0")
    except (OSError, ValueError):
        return b"\0" * 16

"""A program's output as it arrives: split into bounded lines, and kept on disk with a bound.

``Lines`` cuts bytes into lines; ``Kept`` writes them to a file that holds both ends of a long stream. What they
must never do: hold more in memory than their bounds, whatever the program prints, or depend on how the bytes
were chopped on their way (the same bytes give the same lines, so that a reading can be replayed from the file).
"""

import os
import re
from collections import deque
from contextlib import suppress
from pathlib import Path

from ledger.secrets import redact

MAX_LINE = 64 << 10  # bytes of a line that are passed on; the rest of a longer one is counted and kept, not read

_FREE_UPDATES = 128
_BREAK = re.compile(rb"[\r\n]")


class Lines:
    r"""Bytes to text lines. ``\n`` ends a line; each ``\r`` makes a progress update, passed on as a line of its own.

    Updates are thinned by their count alone: all of a line's first 128, then every second for 128 more, every
    fourth, and so on; the last one before ``\n`` or the end always comes. So a bar that redraws for a day costs a
    few thousand calls, and the same bytes always give the same lines. Bytes that are no UTF-8 come as ``\xff``.
    """

    def __init__(self, limit: int = MAX_LINE) -> None:
        self._limit = limit
        self._line = bytearray()  # what the line being built holds so far
        self._held: bytes | None = None  # an update that was thinned out and may yet be the last
        self._updates = 0  # of the present line
        self._in_update = False  # inside a line that already had a \r

    def feed(self, data: bytes) -> list[str]:
        """The lines that ``data`` completes."""
        out: list[str] = []
        start = 0
        for match in _BREAK.finditer(data):
            end = match.start()
            self._grow(data, start, end)
            start = end + 1
            if data[end] == 10:
                self._newline(out)
            else:
                self._return(out)
        self._grow(data, start, len(data))
        return out

    def close(self) -> list[str]:
        """What was left without a line end."""
        out: list[str] = []
        if self._line or self._in_update:
            self._newline(out)
        return out

    def _grow(self, data: bytes, start: int, end: int) -> None:
        if end > start:
            room = self._limit - len(self._line)
            if room > 0:
                self._line += data[start : min(end, start + room)]

    def _newline(self, out: list[str]) -> None:
        if self._line or not self._in_update:
            # An update thinned out before text that follows it was overwritten: nothing is owed for it.
            out.append(self._text(bytes(self._line)))
        elif self._held is not None:
            out.append(self._text(self._held))
        self._line.clear()
        self._held, self._updates, self._in_update = None, 0, False

    def _return(self, out: list[str]) -> None:
        self._in_update = True
        if not self._line:
            return
        self._updates += 1
        stride, left = 1, self._updates
        while left > _FREE_UPDATES * stride:
            left -= _FREE_UPDATES * stride
            stride *= 2
        if left % stride == 0:
            out.append(self._text(bytes(self._line)))
            self._held = None
        else:
            self._held = bytes(self._line)
        self._line.clear()

    @staticmethod
    def _text(line: bytes) -> str:
        return line.decode("utf-8", "backslashreplace")


_CHUNK = 64 << 10
_EDGE = 64 << 10  # how far an end is moved back to fall between two lines


class Kept:
    """A stream in a file, whole up to ``keep`` bytes; of a longer one its first and last halves, and a line between.

    The file is private (0600) until ``close`` has taken the tokens out of it. A full disk ends the keeping and is
    told in ``failed``; it does not reach the program that prints.
    """

    def __init__(self, path: Path, keep: int) -> None:
        self.total = 0
        self.left_out = 0  # bytes that the stream had and the file has not
        self.failed = ""
        self._path = path
        self._keep = max(keep, 2)
        self._half = self._keep // 2
        self._tail: deque[bytearray] = deque()  # the stream's last half, as chunks; only bytes after the first half
        self._tail_bytes = 0
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        self._file = os.fdopen(descriptor, "r+b", buffering=0)

    def write(self, data: bytes) -> None:
        before, self.total = self.total, self.total + len(data)
        if before < self._keep and not self.failed:
            try:
                self._put(data[: self._keep - before])
            except OSError as why:
                self.failed = f"{self._path.name} was not kept whole: {why.strerror or why}"
        if self.total > self._half:
            part = data[max(0, self._half - before) :]
            if self._tail and len(self._tail[-1]) < _CHUNK:
                self._tail[-1] += part  # a program that prints byte by byte must not cost a list of bytes
            else:
                self._tail.append(bytearray(part))
            self._tail_bytes += len(part)
            while self._tail_bytes - len(self._tail[0]) >= self._half:
                self._tail_bytes -= len(self._tail.popleft())

    def last(self, size: int) -> bytes:
        """The stream's last bytes, for a reason or a message; from the file when the stream was short."""
        tail = b"".join(self._tail)
        if len(tail) < size and self.total > len(tail):
            head = min(self.total, self._half)
            want = min(size - len(tail), head)
            with suppress(OSError):
                tail = os.pread(self._file.fileno(), want, head - want) + tail
        return tail[-size:]

    def close(self) -> int:
        """Finish the file: drop the middle of a long stream, take tokens out. Returns how many were taken out."""
        try:
            if self.failed:
                self.left_out = self.total - os.fstat(self._file.fileno()).st_size
            elif self.total > self._keep:
                self._join_ends()
            taken = self._redact()
            self._file.close()
            return taken
        except OSError as why:
            self.failed = self.failed or f"{self._path.name} was not finished: {why.strerror or why}"
            self._file.close()
            # Unredacted text must not stay behind: better no file than a token in it.
            self._path.unlink(missing_ok=True)
            return 0

    def _put(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            view = view[self._file.write(view) or 0 :]

    def _join_ends(self) -> None:
        tail = b"".join(self._tail)[-self._half :]
        # Both ends are cut between lines: half a token at a cut would no longer look like one.
        if (at := tail.find(b"\n", 0, _EDGE)) >= 0:
            tail = tail[at + 1 :]
        head = self._half
        near = os.pread(self._file.fileno(), min(_EDGE, head), head - min(_EDGE, head))
        between = b"\n"
        if (at := near.rfind(b"\n")) >= 0:
            head -= len(near) - at - 1
            between = b""
        self.left_out = self.total - head - len(tail)
        self._file.truncate(head)
        self._file.seek(head)
        self._put(between + b"[... %d bytes left out here ...]\n" % self.left_out + tail)

    def _redact(self) -> int:
        clean: list[bytes] = []
        taken = 0
        for block in _blocks(self._file.fileno()):
            text, count = redact(block)
            clean.append(text)
            taken += count
        if taken:
            self._file.seek(0)
            self._file.truncate(0)
            for text in clean:
                self._put(text)
        return taken


_BLOCK = 32 << 20


def _blocks(descriptor: int) -> list[bytes]:
    """The file in blocks that end between lines, so that no token lies across two."""
    blocks: list[bytes] = []
    carry = b""
    offset, end = 0, os.fstat(descriptor).st_size
    while offset < end and (data := os.pread(descriptor, min(_BLOCK, end - offset), offset)):
        offset += len(data)
        data = carry + data
        cut = data.rfind(b"\n") + 1 or len(data)
        blocks.append(data[:cut])
        carry = data[cut:]
    if carry:
        blocks.append(carry)
    return blocks

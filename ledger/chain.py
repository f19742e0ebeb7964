"""Reading the log: segments in the order of their positions, verified as they are read.

The chain is inductive: the segment at position 0 tells by its row count where the next one begins,
and so on; the first name that does not exist is the end. So there is no index that can be wrong,
and no moment at which a reader sees position P+1 but not P. A *head* is a size of the log and the
Merkle root over that many events; `as_of=N` reads exactly the first N.

What is read is checked against its seal, so damaged bytes raise Corrupt and never become rows.
"""

from __future__ import annotations

import bisect
import contextlib
import itertools
import os
import threading
import uuid
from collections.abc import Collection, Iterator
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import msgspec

from ledger import canonical, disk, layout, segment
from ledger.blobs import Blobs
from ledger.errors import Corrupt, LedgerError, UsageError
from ledger.events import Event, Head
from ledger.merkle import Frontier
from ledger.segment import Footer

if TYPE_CHECKING:
    import pyarrow as pa

    from ledger.writer import Writer

AsOf = int | str | datetime | None


class Note(msgspec.Struct, frozen=True):
    """state/<size>.json: a head that a writer saw durable. It spares a cold open the walk from 0, and
    it remembers the end of the log, so that a log that lost its last segments is not taken for a
    shorter one."""

    size: int
    last_base: int
    last_seal: str
    peaks: tuple[str, ...]
    root: str
    segments: int = 0  # how many there are below `size`; 0 in notes that did not count


class Log:
    """An open ledger. Not bound to a moment: `head()` looks how far the log has come.

    Threads may share it, and a forked child may go on with it.
    """

    def __init__(self, path: str | os.PathLike[str] | None = None) -> None:
        """Open the ledger at `path` (see layout.home). Raises NotALedger, Unsupported, Corrupt."""
        self.root = layout.home(path)
        self.identity = layout.identity(self.root)
        self.blobs = Blobs(self.root)
        self._start()

    def _start(self) -> None:
        self._pid = os.getpid()
        self._lock = threading.RLock()
        self._tree = Frontier()
        self._bases: list[int] = []  # of every segment below the end, ascending
        self._last_seal = ""
        self._torn = False  # an interrupt came while these three were being changed
        self._writer: Writer | None = None
        self._start_from_note()

    def _mine(self) -> threading.RLock:
        """The lock of this process: a fork may have come in the middle of another thread's step."""
        if self._pid != os.getpid():
            self._start()
        return self._lock

    @classmethod
    def create(cls, path: str | os.PathLike[str] | None = None) -> Log:
        """Make the folder a ledger if it is none, and open it."""
        layout.create(layout.home(path))
        return cls(path)

    @property
    def writer(self) -> Writer:
        """The one writer of this process on this ledger, opened at first use."""
        from ledger.writer import Writer

        with self._mine():
            if self._writer is None:
                self._writer = Writer(self)
            return self._writer

    def close(self) -> None:
        """Note the head, if this process wrote. Reading or appending afterwards is allowed."""
        if self._writer is not None and self._pid == os.getpid():
            self._writer.close()

    def __enter__(self) -> Log:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # ── the end of the log ──

    @property
    def size(self) -> int:
        """How many events this object has seen so far; `head()` looks for more."""
        return self._tree.size

    @property
    def last_base(self) -> int | None:
        """Where the last segment seen so far begins."""
        return self._bases[-1] if self._bases else None

    def advance(self) -> int:
        """Walk to the present end of the log; its size. 6 µs for a segment of another writer."""
        with self._mine():
            if self._torn:
                self._tree, self._bases, self._torn = Frontier(), [], False
                self._start_from_note()
            while (said := segment.peek(layout.segment_path(self.root, self.size))) is not None:
                if said.ledger_id != self.identity.id:
                    raise Corrupt(
                        f"{layout.segment_path(self.root, self.size)} belongs to another ledger ({said.ledger_id})",
                        self.size,
                    )
                leaves = list(said.leaves) if said.leaves is not None else self._leaves(self.size)
                self.step(self.size, said.seal, leaves)
            return self.size

    def step(self, base: int, seal: str, leaves: list[bytes]) -> None:
        """Take the segment at `base` into the tree, unless another thread has done so already."""
        with self._mine():
            if base == self.size and not self._torn:
                self._torn = True
                self._bases.append(base)
                self._last_seal = seal
                self._tree.extend(leaves)
                self._torn = False

    def seen(self) -> Head:
        """The present end of the log, without a look for segments beyond it."""
        with self._mine():
            return Head(self.advance(), self.root_hex())

    def root_hex(self) -> str:
        """The Merkle root over the events seen so far."""
        return self._tree.root().hex()

    def head(self) -> Head:
        """The present end of the log. Raises Corrupt when segments are missing before others."""
        self.advance()
        self._refuse_a_gap()
        return self.seen()

    def head_at(self, position: int) -> Head:
        """The head after the first `position` events. Raises UsageError when there are not so many."""
        seen = self.seen()
        if position == seen.position:
            return seen
        if not 0 <= position < seen.position:
            raise UsageError(f"position {position} is outside the log, which has {seen.position} events")
        tree = Frontier()
        for base in self._bases[: bisect.bisect_left(self._bases, position)]:
            said = segment.peek(layout.segment_path(self.root, base))
            leaves = said.leaves if said and said.leaves else self._leaves(base)
            tree.extend(leaves[: position - base])
        return Head(tree.size, tree.root().hex())

    def _refuse_a_gap(self) -> None:
        """A segment beyond the end means that one in between is gone: never read on, never write there."""
        for _ in range(2):
            last = self._last_listed()
            if last is None or last < self.advance():
                return
        raise Corrupt(
            f"the segment at position {self.size} is missing: {layout.segment_path(self.root, self.size)} "
            f"is not there, but a later one ({last}) is; restore it from a copy",
            self.size,
        )

    def _last_listed(self) -> int | None:
        folder = os.path.join(self.root, "log")
        for shard in sorted(_names(folder), reverse=True):
            bases = (_base(self.root, shard, name) for name in _names(os.path.join(folder, shard)))
            if (last := max(bases, default=-1)) >= 0:
                return last
        return None

    @staticmethod
    def listed_in(root: str) -> Iterator[tuple[int, str]]:
        """Every file in log/ as (base, path), in order of the base; base -1 for what is no segment's name."""
        folder = os.path.join(root, "log")
        for shard in sorted(_names(folder)):
            inside = os.path.join(folder, shard)
            if not os.path.isdir(inside):
                yield -1, inside
            for name in sorted(_names(inside)):
                yield _base(root, shard, name), os.path.join(inside, name)

    # ── notes of heads ──

    def _start_from_note(self) -> None:
        for note in self.notes_in(self.root):
            path = layout.segment_path(self.root, note.last_base)
            said = segment.peek(path)
            if said is None or said.seal != note.last_seal or note.last_base + said.n != note.size:
                raise Corrupt(
                    f"the log does not reach the head that was noted at {note.size} events "
                    f"(state/{note.size:016d}.json): {path} is missing or another file; restore it from a copy",
                    note.last_base,
                )
            self._tree = Frontier(note.size, (bytes.fromhex(peak) for peak in note.peaks))
            self._bases = [base for base, _ in self.listed_in(self.root) if 0 <= base < note.size]
            self._last_seal = note.last_seal
            if self._bases[0] != 0 or (note.segments and note.segments != len(self._bases)):
                raise self._first_gap(note.size)
            return

    def _first_gap(self, size: int) -> Corrupt:
        """What to say when the segments below a noted head are not as many as were noted."""
        end = 0
        for base in self._bases:
            if base != end:
                break
            said = segment.peek(layout.segment_path(self.root, base))
            end += said.n if said else 0
        what = "is missing, but later ones are there" if base > end else "lies inside the one before it"
        at = min(base, end)
        path = layout.segment_path(self.root, at)
        return Corrupt(f"the segment at position {at} {what}: {path}; restore it from a copy", at)

    @staticmethod
    def notes_in(root: str) -> Iterator[Note]:
        """Noted heads, newest first; damaged notes are passed over (they are only a memory)."""
        folder = os.path.join(root, "state")
        for name in sorted(_names(folder), reverse=True):
            with contextlib.suppress(OSError, msgspec.DecodeError, msgspec.ValidationError, ValueError):
                with open(os.path.join(folder, name), "rb") as file:
                    note = msgspec.json.decode(file.read(), type=Note)
                tree = Frontier(note.size, (bytes.fromhex(peak) for peak in note.peaks))
                if name == f"{note.size:016d}.json" and tree.root().hex() == note.root:
                    yield note

    def note_head(self) -> None:
        """Remember the present end. Raises nothing: without a note the next open is only slower."""
        with self._mine():
            if not self._bases or self._torn:
                return
            note = Note(
                size=self.size,
                last_base=self._bases[-1],
                last_seal=self._last_seal,
                peaks=tuple(peak.hex() for peak in self._tree.peaks),
                root=self._tree.root().hex(),
                segments=len(self._bases),
            )
        folder = os.path.join(self.root, "state")
        with contextlib.suppress(OSError, LedgerError):
            # Others' commits may have been seen before they were durable; a note must not outlive them.
            disk.sync_folder(layout.shard_path(self.root, note.last_base))
            disk.replace(
                os.path.join(self.root, "tmp"),
                os.path.join(folder, f"{note.size:016d}.json"),
                canonical.encode(note),
            )
            for old in sorted(_names(folder))[:-2]:
                disk.remove(os.path.join(folder, old))

    # ── reading ──

    def batches(self, start: int = 0, stop: int | None = None) -> Iterator[tuple[int, Footer, pa.RecordBatch]]:
        """Rows [start, stop) in order, as (position of the first row, footer, Arrow batch).

        Columns as segment.schema(). Raises Corrupt with the first position that cannot be trusted.
        """
        with self._mine():
            size = self.advance()
            index = max(0, bisect.bisect_right(self._bases, start) - 1)
            bounds = [*self._bases[index:], size]
        stop = size if stop is None else min(stop, size)
        for base, end in itertools.pairwise(bounds):
            if base >= stop:
                return
            said, batch = self._load(base)
            if base + said.n != end:
                raise Corrupt(
                    f"{layout.segment_path(self.root, base)} holds {said.n} events, but the next segment "
                    f"begins at {end}",
                    base,
                )
            low, high = max(start, base), min(stop, end)
            if low < high:
                yield low, said, batch.slice(low - base, high - low)

    def _load(self, base: int) -> tuple[Footer, pa.RecordBatch]:
        path = layout.segment_path(self.root, base)
        try:
            with open(path, "rb") as file:
                data = file.read()
        except FileNotFoundError:
            raise Corrupt(f"the segment at position {base} is missing: {path}", base) from None
        try:
            return segment.decode(data, path, self.identity.id)
        except Corrupt as error:
            error.position = base
            raise

    def _leaves(self, base: int) -> list[bytes]:
        return segment.leaves_of(self._load(base)[1])

    def events(
        self,
        *,
        as_of: AsOf = None,
        start: int = 0,
        stream: str | None = None,
        types: Collection[str] | None = None,
    ) -> Iterator[Event]:
        """Events in order of position, filtered by stream and type. Raises UsageError, Corrupt."""
        stop = None if as_of is None else self.position(as_of)
        for base, _, batch in self.batches(start, stop):
            columns = batch.to_pydict()
            for index, (kind, flow) in enumerate(zip(columns["type"], columns["stream"], strict=True)):
                if (stream is None or flow == stream) and (types is None or kind in types):
                    yield to_event(base + index, {name: values[index] for name, values in columns.items()})

    def position(self, as_of: AsOf) -> int:
        """How many events `as_of` means: a count, an event id or its beginning (up to and with that
        event), or a time (all before the first event that was recorded later).

        Text that begins with a zero is an id: ids do until the year 2527, counts and years do not.
        """
        size = self.advance()
        if as_of is None:
            return size
        if isinstance(as_of, str) and len(as_of) > 1 and as_of[0] == "0":
            return self.find(as_of).position + 1
        if isinstance(as_of, str) and as_of.isdecimal():
            as_of = int(as_of)
        if isinstance(as_of, int):
            if not 0 <= as_of <= size:
                raise UsageError(f"position {as_of} is outside the log, which has {size} events (0 to {size})")
            return as_of
        if isinstance(as_of, str):
            try:
                as_of = datetime.fromisoformat(as_of)
            except ValueError:
                return self.find(str(as_of)).position + 1
        moment = as_of if as_of.tzinfo else as_of.replace(tzinfo=UTC)
        for base, _, batch in self.batches():
            for index, recorded in enumerate(batch.column("recorded_at").to_pylist()):
                if recorded > moment:
                    return base + index
        return size

    def find(self, prefix: str) -> Event:
        """The one event whose id begins with `prefix`. Raises UsageError when none or several do."""
        wanted = prefix.replace("-", "").lower()
        if len(wanted) < 4 or any(digit not in "0123456789abcdef" for digit in wanted):
            raise UsageError(f"{prefix!r} is not an event id (at least 4 hex digits), a position or a time")
        found: list[Event] = []
        for base, _, batch in self.batches():
            for index, raw in enumerate(batch.column("event_id").to_pylist()):
                if raw.hex().startswith(wanted):
                    found.append(
                        to_event(base + index, {k: v[0] for k, v in batch.slice(index, 1).to_pydict().items()})
                    )
        if not found:
            raise UsageError(f"no event's id begins with {prefix}; `ledger log` lists them")
        if len(found) > 1:
            raise UsageError(f"{len(found)} events' ids begin with {prefix}; give more digits")
        return found[0]


def to_event(position: int, row: dict[str, object]) -> Event:
    def text(value: object) -> str | None:
        return str(uuid.UUID(bytes=value)) if isinstance(value, bytes) else None

    recorded = row["recorded_at"]
    assert isinstance(recorded, datetime)
    return Event(
        position=position,
        event_id=text(row["event_id"]) or "",
        type=str(row["type"]),
        version=int(str(row["type_version"])),
        stream=str(row["stream"]),
        recorded_at=f"{recorded:%Y-%m-%dT%H:%M:%S.%f}Z",
        actor=None if row["actor"] is None else str(row["actor"]),
        correlation_id=text(row["correlation_id"]),
        causation_id=text(row["causation_id"]),
        body=bytes(row["body"]),  # type: ignore[call-overload]
    )


def _base(root: str, shard: str, name: str) -> int:
    """The position in a segment's file name, -1 for any other file."""
    base = int(name[:-8]) if name.endswith(".parquet") and name[:-8].isdecimal() else -1
    is_segment = base >= 0 and layout.segment_path(root, base) == os.path.join(root, "log", shard, name)
    return base if is_segment else -1


def _names(folder: str) -> list[str]:
    try:
        return os.listdir(folder)
    except (FileNotFoundError, NotADirectoryError):
        return []

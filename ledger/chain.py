"""Reading the log: packs and segments in the order of their positions, verified as they are read.

The chain is inductive: the segment at position 0 tells by its row count where the next one begins,
and so on; the first name that does not exist is the end. So there is no index that can be wrong,
and no moment at which a reader sees position P+1 but not P. A *head* is a size of the log and the
Merkle root over that many events; `as_of=N` reads exactly the first N.

Segments below the end of the packs do not count: their events are read from the packs, and a name
there may be a freed one that a stalled writer took again. So whatever was found in log/ is believed
only after a look into pack/ that came later: a name is freed only after a pack that covers it.

What is read is checked against its seal, so damaged bytes raise Corrupt and never become rows.
"""

from __future__ import annotations

import bisect
import contextlib
import errno
import functools
import os
import threading
import uuid
from collections import deque
from collections.abc import Callable, Collection, Iterator, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from ledger import canonical, disk, layout, pack, segment
from ledger.blobs import Blobs
from ledger.errors import Corrupt, LedgerError, UsageError
from ledger.events import Event, Head
from ledger.merkle import Frontier
from ledger.segment import Footer

if TYPE_CHECKING:
    import pyarrow as pa

    from ledger.writer import Writer

AsOf = int | str | datetime | None
_STRIDE = 1000  # segments that are taken in between two looks into pack/


class Note(msgspec.Struct, frozen=True):
    """state/<size>.json: a head that a writer saw durable. It spares a cold open the walk from 0, and
    it remembers the end of the log, so that a log that lost its last segments is not taken for a
    shorter one."""

    size: int
    last_base: int
    last_seal: str
    peaks: tuple[str, ...]
    root: str
    segments: int = 0  # how many commits there are below `size`; 0 in notes that did not count


class _Piece(NamedTuple):
    """Rows that lie in one file: the position of the first, their number, and how to read their columns."""

    position: int
    rows: int
    said: Footer | pack.Footer
    read: Callable[[Sequence[str] | None], pa.RecordBatch]  # at least the columns that are named; None: all


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
        self.watched: dict[bytes, int] = {}  # leaves that the writer looks out for, and where they came to lie
        self._recent: deque[tuple[int, list[bytes]]] = deque(maxlen=64)  # the newest small segments
        self._writer: Writer | None = None
        self._names: list[str] = []  # in pack/, as of the last look
        self._packs: list[pack.Place] = []  # that count, ascending
        self._packed = 0  # where they end
        self._begin()

    def _begin(self) -> None:
        self._tree = Frontier()
        self._bases: list[int] = []  # of the segments from `_before` commits on to the end, ascending
        self._before = 0  # commits that were only seen in packs
        self._last_seal = ""
        self._memo = Frontier()  # of the last head that was asked for in the middle of the log
        self._torn = False  # an interrupt came while these were being changed
        while True:
            self._look()
            if self._packed > self.size:
                self._leap()
            # While the writer looks out for leaves, each must pass by `step` again: so none from a note.
            if self.size >= self._packed and (self.watched or self._start_from_note()):
                return

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
        """The one writer of this process on this ledger, opened at first use: it first brings in the
        points that killed processes left in their spools."""
        from ledger import spool
        from ledger.writer import Writer

        with self._mine():
            if self._writer is not None:
                return self._writer
            writer = self._writer = Writer(self)
        spool.recover(self)
        return writer

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
                self._begin()
            while True:
                found = self._beyond()
                # Only now: what was found may have been a freed name, and what was not may have been packed.
                self._look()
                if self._packed > self.size:
                    self._leap()
                    continue
                for base, seal, leaves in found:
                    self.step(base, seal, leaves)
                if len(found) < _STRIDE:
                    return self.size

    def _beyond(self) -> list[tuple[int, str, list[bytes]]]:
        """The next segments in log/ as (base, seal, leaves), a thousand at most."""
        found: list[tuple[int, str, list[bytes]]] = []
        base = self.size
        while len(found) < _STRIDE:
            path = layout.segment_path(self.root, base)
            try:
                if (said := segment.peek(path)) is None:
                    break
                if said.ledger_id != self.identity.id:
                    raise Corrupt(f"{path} belongs to another ledger ({said.ledger_id})", base)
                leaves = list(said.leaves) if said.leaves is not None else self._leaves(base)
            except FileNotFoundError:  # packed and removed between two calls
                break
            except Corrupt:
                if self._look() <= base:
                    raise
                break
            found.append((base, said.seal, leaves))
            base += said.n
        return found

    def lately(self, since: int) -> set[bytes] | None:
        """The leaves from position `since` on, None where they are not all remembered."""
        with self._mine():
            found: set[bytes] = set()
            end = self.size
            for base, leaves in reversed(self._recent):
                if end <= since or base + len(leaves) != end:
                    break
                found.update(leaves)
                end = base
            return found if end <= since else None

    def packed_to(self) -> int:
        """Where the packs end now: one listing of a folder. It is the fence of a writer, which asks after its
        link: below this position its name may have been a freed one, which nobody will ever read. Or the
        commit was packed between the link and the look: then the next `advance` sees it pass by."""
        names = _names(f"{self.root}/pack")
        with self._mine():
            if names != self._names:
                places = pack.places(self.root, names)
                self._names, self._packs = names, pack.chain(places)
                self._packed = max((place.stop for place in places), default=0)
            return self._packed

    def _look(self) -> int:
        """`packed_to`, for who goes on to read. Raises Corrupt when packs are missing before others."""
        if self.packed_to() > (covered := self._packs[-1].stop if self._packs else 0):
            raise Corrupt(
                f"the pack that held position {covered} is missing, but a later one is there: {self.root}/pack; "
                "restore it from a copy",
                covered,
            )
        return self._packed

    def _leap(self) -> None:
        """Take over the tree as it stood at the end of the packs."""
        with contextlib.suppress(FileNotFoundError):  # merged into another one, see the next look
            said = pack.peek(self._packs[-1].path, self.identity.id)
            for piece in self._read(self.size, said.stop) if self.watched else ():
                self._watch(piece.position, segment.leaves_of(piece.read(("body",))))
            self._torn = True
            self._tree, self._bases, self._before, self._last_seal = said.tree(), [], said.commits, ""
            self._torn = False

    def loose(self) -> tuple[list[int], int]:
        """Where the commits beyond the packs begin, with the end of the log as the last; and how many
        commits come before them."""
        with self._mine():
            size = self.advance()
            first = bisect.bisect_left(self._bases, self._packed)
            return [*self._bases[first:], size], self._before + first

    def step(self, base: int, seal: str, leaves: list[bytes]) -> None:
        """Take the segment at `base` into the tree, unless another thread has done so already."""
        with self._mine():
            if base == self.size and not self._torn:
                self._torn = True
                self._bases.append(base)
                self._last_seal = seal
                self._tree.extend(leaves)
                self._recent.append((base, leaves if len(leaves) <= segment.LEAVES_MAX else []))
                self._watch(base, leaves)
                self._torn = False

    def _watch(self, base: int, leaves: list[bytes]) -> None:
        for index, leaf in enumerate(leaves) if self.watched else ():
            if leaf in self.watched:
                self.watched[leaf] = base + index

    def seen(self) -> Head:
        """The present end of the log, without a look for segments beyond it."""
        with self._mine():
            return Head(self.advance(), self.root_hex())

    def known(self) -> Head:
        """The head that was seen last, without a look for more: size and root of one moment, also when other
        threads read on, and when an interrupt came in the middle of a step."""
        with self._mine():
            if self._torn:
                self.advance()
            return Head(self.size, self.root_hex())

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
        tree = self.tree_at(position)
        return Head(tree.size, tree.root().hex())

    def tree_at(self, position: int) -> Frontier:
        """The Merkle tree over the first `position` events. Raises UsageError when there are not so many."""
        with self._mine():
            size = self.advance()
            if not 0 <= position <= size:
                raise UsageError(f"position {position} is outside the log, which has {size} events")
            if position == size:
                return self._tree.copy()
            while True:
                tree = self._nearest(position)
                looked = self._packs
                while tree.size < position:
                    said, stop = None, position
                    if place := self._covering(tree.size):
                        stop = min(stop, place.stop)
                    elif said := segment.peek(layout.segment_path(self.root, tree.size)):
                        stop = min(stop, tree.size + said.n)
                    if said and said.leaves:
                        tree.extend(said.leaves[: stop - tree.size])
                    else:
                        for piece in self._read(tree.size, stop):
                            tree.extend(segment.leaves_of(piece.read(("body",))))
                self._look()
                if self._packs == looked:  # else a footer may have been read under a freed name
                    self._memo = tree.copy()
                    return tree

    def _nearest(self, position: int) -> Frontier:
        """The largest tree that is known without reading rows and not beyond `position`."""
        best = self._memo if self._memo.size <= position else Frontier()
        for place in reversed(self._packs):
            if best.size < place.stop <= position:
                with contextlib.suppress(FileNotFoundError):
                    return pack.peek(place.path, self.identity.id).tree()
        return best.copy()

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

    def _start_from_note(self) -> bool:
        """Go on from the newest note, if it reaches beyond the packs. False when they have grown meanwhile."""
        note = next(self.notes_in(self.root), None)
        if note is None or note.size <= self.size:
            return True
        path = layout.segment_path(self.root, note.last_base)
        said = segment.peek(path)
        bases = [base for base, _ in self.listed_in(self.root) if self.size <= base < note.size]
        if self._look() > self.size:
            return False
        if said is None or said.seal != note.last_seal or note.last_base + said.n != note.size:
            raise Corrupt(
                f"the log does not reach the head that was noted at {note.size} events "
                f"(state/{note.size:016d}.json): {path} is missing or another file; restore it from a copy",
                note.last_base,
            )
        if bases[0] != self.size or (note.segments and note.segments != self._before + len(bases)):
            raise self._first_gap(bases)
        self._tree = Frontier(note.size, (bytes.fromhex(peak) for peak in note.peaks))
        self._bases = bases
        self._last_seal = note.last_seal
        return True

    def _first_gap(self, bases: list[int]) -> Corrupt:
        """What to say when the segments below a noted head are not as many as were noted."""
        end = self.size
        for base in bases:
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
                segments=self._before + len(self._bases),
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

    def batches(
        self, start: int = 0, stop: int | None = None
    ) -> Iterator[tuple[int, Footer | pack.Footer, pa.RecordBatch]]:
        """Rows [start, stop) in order, as (position of the first row, footer, Arrow batch).

        Columns as segment.schema(). Raises Corrupt with the first position that cannot be trusted.
        """
        for piece in self._pieces(start, stop):
            yield piece.position, piece.said, piece.read(None)

    def _pieces(self, start: int = 0, stop: int | None = None) -> Iterator[_Piece]:
        """[start, stop) file by file, row group by row group. Whatever is packed, merged and removed
        meanwhile, the next piece begins where the last one ended."""
        size = self.advance()
        return self._read(start, size if stop is None else min(stop, size))

    def _read(self, position: int, stop: int) -> Iterator[_Piece]:
        while position < stop:
            place = self._covering(position)
            try:
                if place is not None:
                    with pack.Pack(place.path, self.identity.id) as opened:
                        for number, first, end in opened.groups():
                            if first < stop and position < end:
                                low, high = position - first, min(stop, end) - first
                                yield _Piece(
                                    position,
                                    high - low,
                                    opened.footer,
                                    functools.partial(_cut, opened, number, low, high),
                                )
                                position = first + high
                else:
                    said, base, batch = self._loose(position)
                    low, high = position - base, min(stop - base, said.n)
                    rows = batch.slice(low, high - low)
                    yield _Piece(position, high - low, said, lambda _, rows=rows: rows)  # type: ignore[misc]
                    position = base + high
            except FileNotFoundError as error:
                self._look()
                if self._covering(position) == place:
                    what = "segment" if place is None else "pack"
                    raise Corrupt(
                        f"the {what} at position {position} is missing: {error.filename}", position
                    ) from None

    def _covering(self, position: int) -> pack.Place | None:
        """The pack that holds a position, as of the last look."""
        return next((place for place in self._packs if place.start <= position < place.stop), None)

    def _loose(self, position: int) -> tuple[Footer, int, pa.RecordBatch]:
        """The segment that holds a position beyond the packs. Raises FileNotFoundError, also when the
        position has been packed by now: the name may have been freed and taken again."""
        with self._mine():
            index = bisect.bisect_right(self._bases, position)
            base = self._bases[index - 1] if index else position
            end = self._bases[index] if index < len(self._bases) else self.size
        path = layout.segment_path(self.root, base)
        try:
            said, batch = self._load(base)
            if base + said.n != end:
                raise Corrupt(f"{path} holds {said.n} events, but the next segment begins at {end}", base)
        except Corrupt:
            if self._look() <= position:
                raise
        if self._look() > position:
            raise FileNotFoundError(errno.ENOENT, "packed", path)
        return said, base, batch

    def _load(self, base: int) -> tuple[Footer, pa.RecordBatch]:
        path = layout.segment_path(self.root, base)
        with open(path, "rb") as file:
            data = file.read()
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
        for piece in self._pieces(start, stop):
            wanted: Sequence[int] = range(piece.rows)
            if stream is not None or types is not None:
                light = piece.read(("type", "stream")).select(["type", "stream"]).to_pydict()
                wanted = [
                    index
                    for index, (kind, flow) in enumerate(zip(light["type"], light["stream"], strict=True))
                    if (stream is None or flow == stream) and (types is None or kind in types)
                ]
                if not wanted:
                    continue
            columns = piece.read(None).to_pydict()
            for index in wanted:
                yield to_event(piece.position + index, {name: values[index] for name, values in columns.items()})

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
        for piece in self._pieces():
            for index, recorded in enumerate(piece.read(("recorded_at",)).column("recorded_at").to_pylist()):
                if recorded > moment:
                    return piece.position + index
        return size

    def position_before(self, moment: int) -> int:
        """A position before which nothing was recorded later than `moment` (µs since 1970) by a clock
        that is at most a day off. Found in O(log n) reads."""
        low, high = 0, self.advance()
        while low < high:
            middle = (low + high) // 2
            recorded = next(self._pieces(middle, middle + 1)).read(("recorded_at",)).column("recorded_at")[0].value
            low, high = (middle + 1, high) if recorded < moment - 2 * 86_400_000_000 else (low, middle)
        return low

    def find(self, prefix: str, stop: int | None = None) -> Event:
        """The one event, of all or of the first `stop`, whose id begins with `prefix`. Raises UsageError when none or
        several do."""
        wanted = prefix.replace("-", "").lower()
        if len(wanted) < 4 or any(digit not in "0123456789abcdef" for digit in wanted):
            raise UsageError(f"{prefix!r} is not an event id (at least 4 hex digits), a position or a time")
        found: list[Event] = []
        for piece in self._pieces(0, stop):
            for index, raw in enumerate(piece.read(("event_id",)).column("event_id").to_pylist()):
                if raw.hex().startswith(wanted):
                    row = piece.read(None).slice(index, 1).to_pydict()
                    found.append(to_event(piece.position + index, {k: v[0] for k, v in row.items()}))
        if not found:
            raise UsageError(f"no event's id begins with {prefix}; `ledger log` lists them")
        if len(found) > 1:
            raise UsageError(f"{len(found)} events' ids begin with {prefix}; give more digits")
        return found[0]


def _cut(opened: pack.Pack, number: int, low: int, high: int, columns: Sequence[str] | None) -> pa.RecordBatch:
    return opened.read(number, columns).slice(low, high - low)


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

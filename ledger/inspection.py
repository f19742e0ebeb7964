"""What one file of the log says, found out without a look at any other: the part of `verify` that can be
done for many files at once, in as many processes as there are.

Nothing here judges the order of files, the tree over them or the numbers across them; that is verify.py.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterable
from hashlib import sha256
from operator import attrgetter
from typing import TYPE_CHECKING, Any, NamedTuple, get_type_hints

import msgspec

from ledger import canonical, disk, envelope, events, keys, pack, points, segment
from ledger.errors import Corrupt, Unsupported, UsageError
from ledger.events import (
    ArtifactStored,
    CycleRanked,
    DagRevised,
    DecisionMade,
    Event,
    Head,
    MetricsLogged,
    ProbeMeasured,
    RunStarted,
    ScreenJudged,
)
from ledger.merkle import HASH_BYTES

if TYPE_CHECKING:
    import pyarrow as pa

ROWS = 16384  # that are looked at together: few enough for the processor's cache
OTHER_BODIES = "its bodies are not the ones that its footer names"
DIFFER = "the columns of an event are not what its body says"
_NAMES = {  # fields that hold a blob's digest, or a head
    ArtifactStored.TYPE: ("sha256",),
    CycleRanked.TYPE: ("head",),
    DagRevised.TYPE: ("head",),
    DecisionMade.TYPE: ("head",),
    ProbeMeasured.TYPE: ("artifact",),
    RunStarted.TYPE: ("environment", "git_diff"),
    ScreenJudged.TYPE: ("head",),
}


class Task(NamedTuple):
    """A file to inspect, whose first event lies at `base`. `depth` is the number of the level: above 1 the rows
    are read, above 2 all of their data. Of the first `skip` rows only the leaves are made. Of a large pack it
    may be some row groups only, [first, last), and `base` is then that of the first of them."""

    root: str
    base: int
    path: str
    is_pack: bool
    depth: int
    ledger_id: str | None
    skip: int = 0
    groups: tuple[int, int] | None = None


class Numbers(NamedTuple):
    """One writer's events in a file: where the first lies, its number, and the number after the last."""

    writer: bytes
    position: int
    first: int
    after: int


class Inspected:
    """What was found. `footer` is None when the file is not one that can be used: `problems` says why."""

    def __init__(self, task: Task) -> None:
        self.task = task
        self.problems: list[tuple[int, str, str]] = []  # position, path, what
        self.warnings: list[str] = []
        self.footer: segment.Footer | pack.Footer | None = None
        self.stop = 0  # the position after the last event
        self.bytes = 0
        self.leaves = b""
        self.numbers: list[Numbers] = []
        self.blobs: list[tuple[int, str]] = []  # position of the event, digest
        self.heads: list[tuple[int, Head]] = []
        self.keys: list[Event] = []  # that announce or revoke one
        self.chunks: list[str] = []  # paths of those whose points are what their events say
        self.chunks_wrong: list[str] = []

    def wrong(self, position: int, what: str | Exception, path: str | None = None) -> None:
        path = path or self.task.path
        if isinstance(what, OSError):
            what = disk.plain(what)
        self.problems.append((position, path, str(what).removeprefix(f"{path} ")))


def inspect(task: Task) -> Inspected:
    """Raises Unsupported for a file of a newer format; all damage is in what it returns."""
    found = Inspected(task)
    base, path = task.base, task.path
    try:
        found.bytes = os.stat(path).st_size
        found.footer = _read_pack(found) if task.is_pack else _read_segment(found)
    except (Corrupt, OSError) as error:
        at = error.position if isinstance(error, Corrupt) and error.position is not None else base
        found.wrong(max(base, at), error)
    if (said := found.footer) is not None:
        found.stop = base + (len(found.leaves) // HASH_BYTES if task.groups else said.n)
        if isinstance(said, segment.Footer) and task.depth >= 2:
            told = b"".join(said.leaves or ())
            if sha256(found.leaves).hexdigest() != said.body_sha or (told and told != found.leaves):
                found.wrong(base, OTHER_BODIES)
    return found


def _read_segment(found: Inspected) -> segment.Footer | None:
    base, path = found.task.base, found.task.path
    if found.task.depth == 0:
        return segment.peek(path)
    with open(path, "rb") as file:
        data = file.read()
    if found.task.depth == 1:
        segment.check_seal(data, path)
        return segment.footer(data[-8192:], path)
    said, batch = segment.decode(data, path, found.task.ledger_id)
    _rows(found, ((base, batch),))
    return said


def _read_pack(found: Inspected) -> pack.Footer:
    path, ledger_id = found.task.path, found.task.ledger_id
    if found.task.depth == 0:
        return pack.peek(path, ledger_id)
    if found.task.groups is None or found.task.groups[0] == 0:  # the whole file's seal is checked once
        said, groups = pack.read(path, ledger_id)
        if found.task.groups is None:
            if found.task.depth >= 2:
                _rows(found, groups)
            return said
    with pack.Pack(path, ledger_id) as opened:
        wanted = range(*found.task.groups)
        _rows(found, ((start, opened.read(number)) for number, start, _ in opened.groups() if number in wanted))
        return opened.footer


def _rows(found: Inspected, batches: Iterable[tuple[int, pa.RecordBatch]]) -> None:
    leaves, numbers = bytearray(), dict[bytes, Numbers]()
    for start, batch in batches:
        for low in range(0, batch.num_rows, ROWS):
            rows = batch.slice(low, ROWS)
            leaves += b"".join(segment.leaves_of(rows))
            skip = max(0, found.task.base + found.task.skip - start - low)
            if skip < rows.num_rows:
                _data(found, start + low + skip, rows.slice(skip))
                _numbers(found, start + low + skip, rows.slice(skip), numbers)
    found.leaves, found.numbers = bytes(leaves), list(numbers.values())


def _numbers(found: Inspected, base: int, rows: pa.RecordBatch, known: dict[bytes, Numbers]) -> None:
    """Each writer numbers its events without a gap. Where one begins is for the whole log to tell."""
    import numpy as np

    column = rows.column("writer").dictionary_encode()
    writers, codes = column.dictionary.to_pylist(), column.indices.to_numpy()
    numbers = rows.column("writer_seq").to_numpy()
    counts = np.bincount(codes, minlength=len(writers))
    order = np.argsort(codes, kind="stable") if len(writers) > 1 else np.arange(len(codes))
    begins = np.cumsum(counts) - counts
    for writer, place in zip(writers, order[begins].tolist(), strict=True):
        if writer not in known:
            known[writer] = Numbers(writer, base + place, int(numbers[place]), int(numbers[place]))
    expected = np.empty(len(codes), np.int64)
    first = np.array([known[writer].after for writer in writers])
    expected[order] = np.arange(len(codes)) - np.repeat(begins - first, counts)
    for at in np.flatnonzero(numbers != expected).tolist()[:1]:
        found.wrong(base + at, jump(writers[codes[at]], expected[at], numbers[at]))
    after = (numbers[order[begins + counts - 1]] + 1).tolist()
    known.update({writer: known[writer]._replace(after=one) for writer, one in zip(writers, after, strict=True)})


def jump(writer: bytes, expected: int, number: int) -> str:
    return (
        f"writer {writer.hex()[:8]} jumps from event {expected} to {number}: events in between were removed or moved"
    )


def _data(found: Inspected, base: int, rows: pa.RecordBatch) -> None:
    """Each event's columns are what its body says, its data is one JSON value, and what it names is there."""
    import numpy as np

    data = envelope.data_of(rows)
    for index, text in enumerate(data) if None in data else ():
        if text is None:
            found.wrong(base + index, DIFFER)
    column = rows.column("type").dictionary_encode()
    codes, versions = column.indices.to_numpy(), rows.column("type_version").to_numpy()
    kinds = column.dictionary.to_pylist()
    if any(kind.startswith("key.") for kind in kinds):
        found.keys += keys.events_of(base, rows)
    for code, kind in enumerate(kinds):
        places = np.flatnonzero(codes == code).tolist()
        struct = events.TYPES.get(kind)
        today = struct is not None and bool((versions[places] == struct.VERSION).all())
        if today and (parsed := _parsed(kind, [data[at] for at in places], found.task.depth >= 3)) is not None:
            for get in _naming(kind):
                for at, named in zip(places, map(get, parsed), strict=True):
                    if named is not None:
                        _named(found, base + at, named)
            continue
        for at in places:
            if (text := data[at]) is not None:
                _one(found, base + at, kind, int(versions[at]), text)


def _parsed(kind: str, texts: list[bytes | None], whole: bool) -> list[Any] | None:
    """The data of events of one type, None unless each text is that, exactly one JSON value.

    Unless `whole`, only the fields that name something are looked at; the rest is valid JSON.
    """
    try:
        return list(map(_decoder(kind, whole), texts))
    except (msgspec.MsgspecError, UnicodeDecodeError, TypeError):
        return None


@functools.cache
def _decoder(kind: str, whole: bool) -> Callable[[Any], Any]:
    struct = events.TYPES[kind]
    if whole or kind == MetricsLogged.TYPE:
        return msgspec.json.Decoder(struct).decode
    hints = get_type_hints(struct)
    fields = [(name, hints[name]) for name in _NAMES.get(kind, ())]
    return msgspec.json.Decoder(msgspec.defstruct("Named", fields)).decode


def _naming(kind: str) -> list[Callable[[Any], Any]]:
    """From an event's data to what it names outside of itself."""
    if kind == MetricsLogged.TYPE:
        return [lambda data: data]
    return [attrgetter(name) for name in _NAMES.get(kind, ())]


def _one(found: Inspected, position: int, kind: str, version: int, text: bytes) -> None:
    """An event that is of another version, or wrong: what exactly."""
    try:
        data = events.parse(kind, version, canonical.decode(text))
    except Unsupported as error:
        found.warnings.append(f"position {position}: {error}")
    except UsageError as error:
        found.wrong(position, DIFFER if str(error).startswith("not JSON") else error)
    else:
        for get in _naming(kind):
            if (named := get(data)) is not None:
                _named(found, position, named)


def _named(found: Inspected, position: int, named: str | Head | MetricsLogged) -> None:
    """What an event names: a blob's digest, a head, or (its whole data) a chunk of points."""
    if isinstance(named, str):
        found.blobs.append((position, named))
    elif isinstance(named, Head):
        found.heads.append((position, named))
    else:
        path = os.path.normpath(os.path.join(found.task.root, named.chunk))
        try:
            points.read_chunk(found.task.root, named)
            found.chunks.append(path)
        except Corrupt as error:
            found.chunks_wrong.append(path)
            found.wrong(position, error, os.path.join(found.task.root, named.chunk))

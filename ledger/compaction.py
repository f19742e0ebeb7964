"""Compaction: many commits become few packs, and what lies there twice is removed.

Nothing that a reader sees changes. At any moment, beside writers, readers and other compactors, and
cut off after any call, the log is whole, because of this order:

1. A pack is written, synced, read again and compared with the log, leaf by leaf, before it gets its
   name by an exclusive link: so a pack that can be seen is right. From then on readers take its range
   from it, whatever lies in log/.
2. Commits and smaller packs are removed only when a pack that holds them is durable, has been read
   again, lies below a signed head, and is older than a grace, for who looks through a stale cache.

A removed name is free again for a writer that slept; its fence (Log.packed_to) is what makes that
safe, not the grace. A pack ends where a commit ends, or a reader would lose the rest of the commit.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import time
from collections.abc import Callable, Iterable, Iterator
from hashlib import sha256
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from ledger import disk, layout, pack, points, segment
from ledger.chain import Log
from ledger.errors import Corrupt, LedgerError, NotAppended

if TYPE_CHECKING:
    import pyarrow as pa

MAX_EVENTS = 4**10
MAX_BYTES = 128 << 20
SMALL = 1024  # events: packs below are always merged with what follows
GRACE = 3600.0  # seconds
_IN_MEMORY = 64 << 20

Progress = Callable[[str, int, int], None]  # what is being done, how far it is, and of how much


class Kept(msgspec.Struct, frozen=True):
    """Files that could have been removed, and why they were not."""

    files: int
    why: str


class Compacted(msgspec.Struct, frozen=True):
    """What was done. `packed` are (start, stop), chunks are of points; `freed` is in bytes."""

    packed: tuple[tuple[int, int], ...]
    removed_segments: int
    removed_packs: int
    freed: int
    kept: tuple[Kept, ...]
    packed_chunks: int
    removed_chunks: int


class _Source(NamedTuple):
    """A file whose events a pack holds as well."""

    start: int
    path: str
    is_pack: bool


def compact(
    log: Log,
    grace: float = GRACE,
    largest: int = MAX_EVENTS,
    commits: int | None = None,
    progress: Progress = lambda what, done, of: None,
) -> Compacted:
    """Pack what is loose, merge packs, remove what is superseded.

    No pack of more than `largest` events is made (but of one larger commit); where `commits` is given, no
    more than so many are packed, and no points: so the work has a bound. Raises Corrupt when the log is
    damaged, NotAppended when the disk refused; either leaves the log as it was.
    """
    log.head()
    log.note_head()
    published = []
    for start, stop, below in _plan(log, largest, commits):
        made = _publish(log, start, stop, below, progress)
        if made is None:
            break
        if made:
            published.append((start, stop))
    segments, packs, freed, kept = _remove(log, grace, progress)
    chunks = removed_chunks = 0
    if commits is None:
        progress("packing points", 0, 0)
        _, chunks, removed_chunks, freed_chunks = points.pack_chunks(log, grace)
        freed += freed_chunks
    return Compacted(tuple(published), segments, packs, freed, tuple(kept), chunks, removed_chunks)


# ── packing ──


def _plan(log: Log, largest: int, most: int | None) -> list[tuple[int, int, int]]:
    """The packs to make, as (start, stop, commits below the stop)."""
    bases, before = log.loose()
    bases = bases[: most + 1] if most else bases
    if len(bases) < 3:  # a pack instead of one commit would be no fewer files
        return []
    stack = [(place.start, place.stop, _size(place.path)) for place in pack.chain(pack.listed(log.root))]
    old = len(stack)
    begin, size = bases[0], 0
    for base, end in itertools.pairwise(bases):
        held = _size(layout.segment_path(log.root, base))
        if base > begin and (end - begin > largest or size + held > MAX_BYTES):
            old = min(old, _push(stack, (begin, base, size), largest))
            begin, size = base, 0
        size += held
    old = min(old, _push(stack, (begin, bases[-1], size), largest))
    commits = {base: before + index for index, base in enumerate(bases)}
    return [(start, stop, commits[stop]) for start, stop, _ in stack[old:]]


def _push(stack: list[tuple[int, int, int]], new: tuple[int, int, int], largest: int) -> int:
    """Put a range on the packs before it, merged with those that it makes one of the next power of 4
    with; how many stay as they are. So an event is packed again once for each power of 4."""
    stack.append(new)
    keep = len(stack) - 1
    events, held = new[1] - new[0], new[2]
    for index in range(len(stack) - 2, -1, -1):
        start, stop, size = stack[index]
        events, held = events + stop - start, held + size
        if events > largest or held > MAX_BYTES:
            break
        widest = max(one[1] - one[0] for one in stack[index:])
        if _level(events) > _level(widest) or (stop - start < SMALL and keep == index + 1):
            keep = index
    merged = (stack[keep][0], new[1], sum(one[2] for one in stack[keep:]))
    stack[keep:] = [merged]
    return keep


def _level(events: int) -> int:
    return (events.bit_length() - 1) // 2


def _publish(log: Log, start: int, stop: int, commits: int, progress: Progress) -> bool | None:
    """Make the pack [start, stop), durable and compared with the log. False when another compactor did,
    None when another one packs these events otherwise."""

    kept: list[pa.RecordBatch] = []
    held = 0

    def groups() -> Iterator[pa.RecordBatch]:
        nonlocal held
        done = start
        for group in _groups(log.batches(start, stop)):
            progress(f"packing events {start} to {stop - 1}", done - start, stop - start)
            done += group.num_rows
            held += group.nbytes
            if held <= _IN_MEMORY:
                kept.append(group)
            yield group

    data, said = pack.encode(groups(), log.identity.id, start, log.tree_at(start), commits)
    head = log.head_at(stop)
    if (said.stop, said.root) != (head.position, head.root):
        raise Corrupt(f"the events {start} to {stop} have another root than the log: nothing was packed", start)
    target = pack.path_of(log.root, start, stop)
    try:
        disk.make_folder(os.path.dirname(target))
        temporary = disk.write_temporary(os.path.join(log.root, "tmp"), data)
        try:
            # What was just read is held against the pack; if that is too much to keep, it is read again.
            _compare(temporary.path, said, iter(kept) if held <= _IN_MEMORY else _groups(log.batches(start, stop)))
            there = pack.listed(log.root)
            if any(place.start < end < place.stop for place in there for end in (start, stop)):
                return None  # packs that overlap would be right, but a waste
            if start > max((place.stop for place in pack.chain(there)), default=0):
                return None  # never a gap between packs
            made = temporary.link(target)
            disk.confirm(os.path.dirname(target), target)
        finally:
            temporary.discard()
    except NotAppended as error:
        raise NotAppended(str(error).replace("nothing was appended", "nothing was packed", 1)) from error
    except OSError as error:
        raise NotAppended(f"nothing was packed: {target}: {disk.plain(error)}") from error
    if not made:
        with contextlib.suppress(FileNotFoundError):  # the other one has merged it already
            _leaves(target, log.identity.id, said.body_sha)
    return made


def _groups(batches: Iterable[tuple[int, Any, pa.RecordBatch]]) -> Iterator[pa.RecordBatch]:
    """Rows as row groups, cut at the same places whatever files they come from."""
    import pyarrow as pa
    import pyarrow.compute as pc

    held: list[pa.RecordBatch] = []
    rows = size = 0
    for _, _, batch in batches:
        begin = 0
        for index, length in enumerate(pc.binary_length(batch.column("body")).to_pylist()):
            if rows == pack.GROUP_ROWS or (rows and size + length > pack.GROUP_BYTES):
                yield pa.concat_batches([*held, batch.slice(begin, index - begin)])
                held, rows, size, begin = [], 0, 0, index
            rows += 1
            size += length
        held.append(batch.slice(begin))
    if rows:
        yield pa.concat_batches(held)


def _compare(path: str, said: pack.Footer, groups: Iterator[pa.RecordBatch]) -> None:
    """Read a new pack again and hold every row, and the leaf of every body, against the log."""
    found, batches = pack.read(path, said.ledger_id)
    digest = sha256()
    for theirs, mine in itertools.zip_longest(batches, groups):
        if theirs is None or mine is None or not theirs[1].equals(mine):
            raise Corrupt(f"a pack did not come out as the log: {path}; nothing was packed", said.start)
        digest.update(_digests(theirs[1]))
    if found != said or digest.hexdigest() != said.body_sha:
        raise Corrupt(f"a pack did not come out as it was written: {path}; nothing was packed", said.start)


def _digests(batch: Any) -> bytes:
    return b"".join(segment.leaves_of(batch))


def _leaves(path: str, ledger_id: str, body_sha: str | None = None) -> bytes:
    """The leaves of a pack, hashed from its bodies, joined. Raises Corrupt unless they are what it says
    (and have this digest)."""
    said, batches = pack.read(path, ledger_id)
    leaves = b"".join(_digests(batch) for _, batch in batches)
    digest = sha256(leaves).hexdigest()
    if digest != said.body_sha or digest != (body_sha or digest):
        raise Corrupt(f"{path} holds other events than the log", said.start)
    return leaves


# ── removing ──


def _remove(log: Log, grace: float, progress: Progress) -> tuple[int, int, int, list[Kept]]:
    """Remove what is safe to remove: (segments, packs, bytes), and what was kept."""
    kept: dict[str, int] = {}
    ready: dict[pack.Place, list[_Source]] = {}
    for place, sources in _superseded(log.root).items():
        if (age := _age(place.path)) is None:
            continue  # merged by another compactor a moment ago
        if age < grace:
            why = f"packed less than {_words(grace)} ago"
            kept[why] = kept.get(why, 0) + len(sources)
        else:
            ready[place] = sources
    segments = packs = freed = 0
    if ready and (refused := _unsigned(log, max(place.stop for place in ready))):
        kept[refused] = sum(map(len, ready.values()))
    elif ready:
        disk.sync_folder(os.path.join(log.root, "pack"))
        for place, sources in ready.items():
            progress("removing what is packed", place.start, log.size)
            for source, same in _against(log, place, sources):
                size = _size(source.path)
                if same:
                    disk.remove(source.path)
                if not same or os.path.lexists(source.path):
                    why = "not removed by the file system" if same else "other events than the packs: `ledger verify`"
                    kept[why] = kept.get(why, 0) + 1
                else:
                    segments += not source.is_pack
                    packs += source.is_pack
                    freed += size
    return segments, packs, freed, [Kept(files, why) for why, files in kept.items()]


def _superseded(root: str) -> dict[pack.Place, list[_Source]]:
    """Files that a pack which counts covers, by that pack."""
    listed = pack.listed(root)
    chain = pack.chain(listed)
    found: dict[pack.Place, list[_Source]] = {}
    for place in listed:
        for one in chain:
            if one != place and one.start <= place.start and place.stop <= one.stop:
                found.setdefault(one, []).append(_Source(place.start, place.path, True))
                break
    for base, path in Log.listed_in(root):
        for one in chain:
            if one.start <= base < one.stop:
                found.setdefault(one, []).append(_Source(base, path, False))
                break
    return found


def _against(log: Log, place: pack.Place, sources: list[_Source]) -> Iterator[tuple[_Source, bool]]:
    """Each source, and whether the pack holds the very events that it names. Reads the whole pack."""
    try:
        leaves = _leaves(place.path, log.identity.id)
    except FileNotFoundError:  # merged and removed by another compactor
        return
    for source in sources:
        try:
            said = pack.peek(source.path) if source.is_pack else segment.peek(source.path)
        except FileNotFoundError:
            said = None
        except (Corrupt, LedgerError):
            yield source, False
            continue
        if said is not None:  # else another compactor removed it
            begin = (source.start - place.start) * 32
            yield source, sha256(leaves[begin : begin + said.n * 32]).hexdigest() == said.body_sha


def zombies(log: Log) -> list[tuple[int, str]]:
    """Segments below the end of the packs with other events than these, as (base, path): a writer that
    slept took a freed name and died before its fence. No reader sees them; `ledger repair` removes them."""
    return [
        (source.start, source.path)
        for place, sources in _superseded(log.root).items()
        if any(not source.is_pack for source in sources)
        for source, same in _against(log, place, [one for one in sources if not one.is_pack])
        if not same
    ]


def _unsigned(log: Log, stop: int) -> str:
    """Why no signed head covers the first `stop` events; empty when one does."""
    from ledger import checkpoints

    try:
        made = checkpoints.sign(log)
    except Corrupt:
        raise
    except LedgerError as error:
        return f"no signed head: {error}"
    return "" if made.size >= stop else "no signed head covers them"


def _size(path: str) -> int:
    try:
        return os.path.getsize(path)
    except OSError:
        return 0


def _age(path: str) -> float | None:
    """Seconds since the file got its name, or its last link; None when it is gone."""
    try:
        return time.time() - os.stat(path).st_ctime
    except FileNotFoundError:
        return None


def _words(seconds: float) -> str:
    return f"{seconds / 3600:g} h" if seconds >= 3600 else f"{seconds:g} s"

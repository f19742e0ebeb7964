"""Prove that the log is what was written, or name the first position that is not.

Four levels, each with all of those before it:

    structure  names, contiguity, overlaps, leftovers: the last bytes of each file, 10 µs a file
    bytes      the seal or digest of every segment, pack, chunk and blob
    tree       the leaves from the bodies, the tree from nothing, its root against all who named one
               (commits, packs, judgements, checkpoints, noted heads), each writer's numbers without a
               gap, the columns of every event against its body, what an event refers to
    derived    what was made from the log, in tlog/ (commands/verify.py adds the tables)

At level `tree` no note and no footer is trusted. Each commit names a size and a root that its writer
had seen, so a change that is consistent in itself is found by the commits after it; the last commits
are covered by the packs, checkpoints, noted heads and judgements, and by whatever copy of a head
somebody kept. It changes nothing.
"""

from __future__ import annotations

import bisect
import contextlib
import os
import re
import struct
import sys
from collections.abc import Callable, Generator, Iterator
from hashlib import file_digest, sha256
from typing import Literal, get_args

import msgspec

from ledger import checkpoints, disk, keys, layout, pack, segment, tiles
from ledger.chain import Log
from ledger.errors import Corrupt, LedgerError, UsageError
from ledger.events import Event, Head
from ledger.inspection import OTHER_BODIES, Inspected, Task, inspect, jump
from ledger.merkle import HASH_BYTES, Frontier

Level = Literal["structure", "bytes", "tree", "derived"]
LEVELS: tuple[Level, ...] = get_args(Level)
_EDGE = 4096  # events between two sizes at which the tree is remembered
_PART = 4  # row groups of a pack that are one task where there are several processes
_WORTH = 2 << 20  # bytes of segments and packs, below which other processes are not worth their start


class Problem(msgspec.Struct, frozen=True):
    """One thing that is wrong. `position` is the first event in doubt, None for what has no position."""

    position: int | None
    path: str
    what: str


class Report(msgspec.Struct, frozen=True):
    """What was checked, and what is wrong in order of position.

    `root` is of the events that hold, "" below level tree; `bytes` those of segments and packs;
    `confirmed` the largest size over which a later commit, a checkpoint or a note names this root.
    """

    path: str
    level: Level
    size: int
    root: str
    confirmed: int
    segments: int
    packs: int
    bytes: int
    chunks: int
    blobs: int
    problems: tuple[Problem, ...]
    warnings: tuple[str, ...]


def against(report: Report, head: str) -> list[Problem]:
    """Problems of a log whose report is `report` against a head that somebody kept, as SIZE:ROOT.

    Raises UsageError when `head` is not of that form.
    """
    size, _, root = head.partition(":")
    if not size.isdecimal() or not re.fullmatch(r"[0-9a-f]{8,64}", root):
        raise UsageError(f"a head is SIZE:ROOT, for example 63:8f3a…, not {head!r}")
    if int(size) > report.size:
        return [Problem(report.size, "log", f"ends at {report.size} events, the head that was kept has {size}")]
    found = Log(report.path).head_at(int(size)).root
    if not found.startswith(root):
        return [
            Problem(0, "log", f"has root {found} over its first {size} events, the head that was kept has {root}")
        ]
    return []


def verify(
    path: str, progress: Callable[[int], None] | None = None, level: Level = "tree", processes: int = 1
) -> Report:
    """Check everything under `path`. Raises NotALedger, Unsupported; damage is in the report.

    With `processes`, files are read and hashed by so many at once. Only for a program that may start
    processes: `ledger verify` is, a training script with threads is not.
    """
    root = layout.home(path)
    while True:
        before = pack.listed(root)
        report = _Verifier(root, progress or (lambda _: None), LEVELS.index(level), processes).report()
        # What is missing may have been packed and removed meanwhile, and then there is another pack.
        if not report.problems or pack.listed(root) == before:
            return report


class _Verifier:
    def __init__(self, root: str, progress: Callable[[int], None], depth: int, processes: int) -> None:
        self.root = root
        self.progress = progress
        self.depth = depth
        self.processes = processes
        self.problems: list[Problem] = []
        self.warnings: list[str] = []
        self.whole = True  # whether the tree still stands on an unbroken chain
        self.tree = Frontier()
        self.leaves = bytearray()  # of all events in the tree
        self.edges = [self.tree.copy()]  # the tree at some sizes, ascending
        self.roots = {0: self.tree.root().hex()}  # at the boundaries of files
        self.confirmed = 0  # largest size whose root somebody else has vouched for
        self.sequences: dict[bytes, int] = {}
        self.body_sha = sha256()  # of the leaves of the pack that is being taken in
        self.end = 0  # of the log as the names and footers say
        self.segments = self.packs = self.bytes = self.chunks = 0
        self.named: set[str] = set()  # chunks that were read for their events
        self.blobs: dict[str, int | None] = {}  # digest -> position of an event that needs it
        self.keys: list[Event] = []  # that announce or revoke one
        self.heads: list[tuple[int, str, Head]] = []  # position and path of the judgement, what it read

    def report(self) -> Report:
        try:
            self.ledger_id: str | None = layout.identity(self.root).id
        except Corrupt as error:
            self.wrong(None, os.path.join(self.root, layout.MARK), error)
            self.ledger_id = None
        # Before the walk: what is noted or signed from here on may speak of events that it does not see.
        self.notes = list(Log.notes_in(self.root))
        self.signed = max((size for size, _ in checkpoints.listed(self.root)), default=0)
        self.walk()
        self.check_notes()
        if self.depth >= 1:
            self.check_chunks()
            self.check_blobs()
        if self.depth >= 2:
            self.check_judgements()
        if self.depth >= 2 and self.ledger_id is not None:
            self.check_signed_and_derived()
        self.note_leftovers()
        self.problems.sort(key=lambda p: (p.position is None, p.position or 0))
        return Report(
            path=self.root,
            level=LEVELS[self.depth],
            size=self.tree.size if self.depth >= 2 else self.end,
            root=self.tree.root().hex() if self.depth >= 2 else "",
            confirmed=self.confirmed,
            segments=self.segments,
            packs=self.packs,
            bytes=self.bytes,
            chunks=self.chunks,
            blobs=len(self.blobs),
            problems=tuple(self.problems),
            warnings=tuple(self.warnings),
        )

    def wrong(self, position: int | None, path: str, what: str | Exception) -> None:
        if isinstance(what, OSError):
            what = disk.plain(what)
        self.problems.append(Problem(position, os.path.relpath(path, self.root), str(what).removeprefix(f"{path} ")))

    # ── the files in order ──

    def walk(self) -> None:
        """Packs, then the segments after them; after damage the rest is still checked, each by itself."""
        folder = os.path.join(self.root, "pack")
        places = pack.listed(self.root)
        known = {place.path for place in places}
        for name in sorted(os.listdir(folder)) if os.path.isdir(folder) else ():
            if f"{self.root}/pack/{name}" not in known:
                self.wrong(None, os.path.join(folder, name), "is not a pack's name: it is not of this program")
        listed = list(Log.listed_in(self.root))
        for base, path in listed:
            if base < 0:
                self.wrong(None, path, "is not a segment's name: it was not written by this program")
        counted = pack.chain(places)
        packed = counted[-1].stop if counted else 0
        tasks, done = [], 0
        for place in counted:  # two packs may hold some events both: then the earlier one counts
            tasks += [part._replace(skip=max(0, done - part.base)) for part in self.parts(place)]
            done = place.stop
        tasks += [self.task(base, path, False) for base, path in sorted(listed) if base >= packed]
        end: int | None = 0
        with contextlib.closing(self.inspected(tasks)) as results:
            for found in results:
                end = self.take(found, end)
                self.progress(found.task.base)
        copies = [self.task(place.start, place.path, True) for place in places if place not in counted]
        copies += [self.task(base, path, False) for base, path in sorted(listed) if 0 <= base < packed]
        with contextlib.closing(self.inspected(copies)) as results:
            for found in results:
                self.take_copy(found)

    def task(self, base: int, path: str, is_pack: bool) -> Task:
        return Task(self.root, base, path, is_pack, self.depth, self.ledger_id)

    def parts(self, place: pack.Place) -> list[Task]:
        """A pack as one task, or as several that can be done at once."""
        task = self.task(place.start, place.path, True)
        if self.processes > 1 and self.depth >= 2:
            with contextlib.suppress(LedgerError, OSError), pack.Pack(place.path, self.ledger_id) as opened:
                begins = [first for _, first, _ in opened.groups()]
                return [
                    task._replace(base=begins[low], groups=(low, min(low + _PART, len(begins))))
                    for low in range(0, len(begins), _PART)
                ]
        return [task]

    def inspected(self, tasks: list[Task]) -> Generator[Inspected, None, None]:
        """What is found in each file, in their order."""
        sizes = [os.path.getsize(task.path) for task in tasks if os.path.isfile(task.path)]
        if self.processes < 2 or len(tasks) < 2 or self.depth < 2 or sum(sizes) < _WORTH:
            yield from map(inspect, tasks)
            return
        import multiprocessing
        from concurrent.futures import ProcessPoolExecutor

        how = multiprocessing.get_context("fork" if sys.platform == "linux" else "spawn")
        with ProcessPoolExecutor(self.processes, how) as workers:
            yield from workers.map(inspect, tasks, chunksize=max(1, min(64, len(tasks) // self.processes // 4)))

    def take(self, found: Inspected, end: int | None) -> int | None:
        """The next file, which should begin at `end`; where the one after it has to, None when it cannot tell."""
        base, path, said = found.task.base + found.task.skip, found.task.path, found.footer
        if end is not None and base != end:
            what = "is missing" if base > end else "lies inside the segment before it"
            at = min(end, base)
            self.wrong(at, path if base < end else layout.segment_path(self.root, at), what)
            self.whole = False
        if found.task.groups is None or found.task.groups[0] == 0:
            self.bytes += found.bytes
            self.segments += not found.task.is_pack
            self.packs += found.task.is_pack
            self.body_sha = sha256()
        if isinstance(said, segment.Footer):
            self.check_hint(base, path, said)
        self.problems += [Problem(at, os.path.relpath(where, self.root), what) for at, where, what in found.problems]
        self.warnings += found.warnings
        self.chunks += len(found.chunks)
        self.named.update(found.chunks, found.chunks_wrong)
        self.keys += found.keys
        self.heads += [(position, path, head) for position, head in found.heads]
        for position, digest in found.blobs:
            self.blobs.setdefault(digest, position)
        if said is None:
            self.whole = False
            return None
        self.check_numbers(found)
        self.grow(found.leaves[found.task.skip * HASH_BYTES :])
        if isinstance(said, pack.Footer):
            self.body_sha.update(found.leaves)
            if found.stop == said.stop:
                self.check_pack(path, said)
        self.end = max(self.end, found.stop)
        return max(end or 0, found.stop)

    def take_copy(self, found: Inspected) -> None:
        """A file whose events a pack holds as well. Nobody reads it, and it will be removed."""
        base, path = found.task.base, found.task.path
        if not os.path.lexists(path):
            return  # removed in this moment
        self.bytes += found.bytes
        for at, where, what in found.problems:
            if where == path:
                self.wrong(at, path, f"{what} (a pack holds its events too: `ledger repair` removes it)")
        there = self.leaves[base * HASH_BYTES : base * HASH_BYTES + len(found.leaves)]
        if found.footer is not None and self.depth >= 2 and self.whole and there != found.leaves:
            self.warnings.append(
                f"{os.path.relpath(path, self.root)} is a leftover of a writer that stood still while the log was "
                "packed; it counts nowhere, and `ledger repair` removes it"
            )

    # ── the tree, and what goes over the bounds of files ──

    def check_numbers(self, found: Inspected) -> None:
        for one in found.numbers:
            expected = self.sequences.get(one.writer, 0)
            if one.first != expected and self.whole:
                self.wrong(one.position, found.task.path, jump(one.writer, expected, one.first))
                self.whole = False
            self.sequences[one.writer] = one.after

    def grow(self, leaves: bytes) -> None:
        if self.whole:
            for low in range(0, len(leaves), _EDGE * HASH_BYTES):
                part = leaves[low : low + _EDGE * HASH_BYTES]
                self.tree.extend(leaf for (leaf,) in struct.iter_unpack(f"{HASH_BYTES}s", part))
                if self.tree.size - self.edges[-1].size >= _EDGE:
                    self.edges.append(self.tree.copy())
            self.leaves += leaves
            self.roots[self.tree.size] = self.tree.root().hex()

    def check_pack(self, path: str, said: pack.Footer) -> None:
        """The root that a pack names at its end, and the digest of its leaves."""
        start = said.start
        if self.depth >= 2 and self.body_sha.hexdigest() != said.body_sha:
            self.wrong(start, path, OTHER_BODIES)
        if self.whole and self.depth >= 2:
            if self.tree.root().hex() != said.root:
                at = min(self.confirmed, start)
                self.wrong(at, path, f"names another root over the first {said.stop} events than they have now")
                self.whole = False
            else:  # it vouches for what is before it, and not for itself: whoever forges rows can forge a footer
                self.confirmed = max(self.confirmed, start)

    def root_at(self, size: int) -> str:
        """The root over the first `size` events of the tree."""
        if size not in self.roots:
            edge = self.edges[bisect.bisect_right(self.edges, size, key=lambda edge: edge.size) - 1]
            rest = self.leaves[edge.size * HASH_BYTES : size * HASH_BYTES]
            tree = edge.copy()
            tree.extend(bytes(rest[at : at + HASH_BYTES]) for at in range(0, len(rest), HASH_BYTES))
            return tree.root().hex()
        return self.roots[size]

    def check_hint(self, base: int, path: str, said: segment.Footer) -> None:
        """The size and root that the writer of this segment had seen before it."""
        if said.base_hint > base:
            self.wrong(base, path, f"was written after {said.base_hint} events, but lies at position {base}")
            self.whole = False
        elif self.whole and self.depth >= 2:
            if self.root_at(said.base_hint) == said.root_hint:
                self.confirmed = max(self.confirmed, said.base_hint)
            else:
                last = max(self.confirmed, said.base_hint - 1)
                self.wrong(
                    min(self.confirmed, said.base_hint),
                    path,
                    f"saw another root over the first {said.base_hint} events than they have now: "
                    f"something in positions {self.confirmed} to {last} was changed",
                )
                self.whole = False

    # ── what lies beside the log ──

    def check_judgements(self) -> None:
        for position, path, head in self.heads:
            says = f"the judgement at position {position}"
            if head.position > position:
                what = f"{says} says that it read {head.position} events: there were not so many"
                self.wrong(position, path, what)
            elif head.position <= self.tree.size and self.root_at(head.position) != head.root:
                what = f"{says} read {head.position} events with another root than they have now"
                self.wrong(min(self.confirmed, head.position), path, what)

    def check_chunks(self) -> None:
        """The seal of every file of points that no event has led to."""
        for name in ("chunk", "chunkpack"):
            for path in _below(os.path.join(self.root, name)):
                if path not in self.named:
                    try:
                        with open(path, "rb") as file:
                            if not segment.seal_holds(file.read()):
                                self.wrong(None, path, "is not what was written: its seal does not hold")
                        self.chunks += self.depth == 1
                    except FileNotFoundError:
                        pass  # packed and removed in this moment; those that events name are read for them
                    except OSError as error:
                        self.wrong(None, path, error)

    def check_blobs(self) -> None:
        folder = os.path.join(self.root, "blob", "sha256")
        for path in _below(folder):
            self.blobs.setdefault("".join(os.path.split(os.path.relpath(path, folder))), None)
        for digest, position in self.blobs.items():
            path = os.path.join(folder, digest[:2], digest[2:])
            if not re.fullmatch(r"[0-9a-f]{64}", digest):
                self.wrong(position, folder, f"{digest[:80]!r} is not the SHA-256 of a blob")
                continue
            try:
                with open(path, "rb") as file:
                    if file_digest(file, "sha256").hexdigest() != digest:
                        self.wrong(position, path, "is not what was stored: its SHA-256 differs from its name")
            except FileNotFoundError:
                self.wrong(position, path, "is missing")
            except OSError as error:
                self.wrong(position, path, error)

    def check_notes(self) -> None:
        """Heads that a writer saw durable: they reach to the end, where no later commit vouches."""
        reached = self.tree.size if self.depth >= 2 else self.end
        for note in self.notes:
            path = os.path.join(self.root, "state", f"{note.size:016d}.json")
            if note.size > reached:
                if self.whole:
                    self.wrong(reached, path, f"{note.size} events were noted here, the log now ends at {reached}")
            elif self.depth >= 2 and self.whole and self.root_at(note.size) != note.root:
                self.wrong(
                    min(self.confirmed, note.size),
                    path,
                    f"another root was noted over the first {note.size} events than they have now",
                )
            elif self.depth >= 2 and self.whole:
                self.confirmed = max(self.confirmed, note.size)

    def check_signed_and_derived(self) -> None:
        try:
            log = Log(self.root)
            log.advance()
            found = [("checkpoint", *each) for each in checkpoints.problems(log, self.walked, self.signed)]
            if self.depth >= 3:
                found += [("tlog", *each) for each in tiles.problems(log)]
        except LedgerError as error:
            if not self.problems:  # what keeps the log from being opened should have been found above
                self.wrong(getattr(error, "position", None), os.path.join(self.root, "log"), error)
            return
        for folder, position, what in found:
            path = next((word.rstrip(":") for word in what.split() if word.startswith(f"{self.root}/")), folder)
            self.wrong(position, os.path.join(self.root, path), what.replace(f"{path} ", "", 1))
        if not any(folder == "checkpoint" for folder, _, _ in found):
            self.confirmed = max(self.confirmed, self.signed)

    def walked(self, sizes: list[int]) -> tuple[dict[int, str], dict[str, keys.Announced], bool]:
        """As checkpoints._walk, from what was found."""
        roots = {size: self.root_at(size) for size in sizes if size <= self.tree.size}
        return roots, keys.fold(self.keys, layout.identity(self.root).origin), self.whole

    def note_leftovers(self) -> None:
        folder = os.path.join(self.root, "tmp")
        names = os.listdir(folder) if os.path.isdir(folder) else []
        lasting = (".lock", ".box")  # of programs that meet there
        if left := [n for n in names if not n.endswith(lasting) and os.path.isfile(os.path.join(folder, n))]:
            what = "file in tmp/ belongs" if len(left) == 1 else "files in tmp/ belong"
            self.warnings.append(f"{len(left)} {what} to writers that run now or were killed")


def _below(folder: str) -> Iterator[str]:
    for base, folders, names in os.walk(folder):
        folders.sort()
        yield from (os.path.join(base, name) for name in sorted(names))

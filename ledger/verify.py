"""Prove that the log is what was written, or name the first position that is not.

It trusts no note and no footer: every file is read whole, its seal checked, the leaves hashed from
the bodies, the tree built from nothing. Each commit names a size and a root that its writer had
seen, so a change that is consistent in itself is found by the commits after it; the last commits
are covered by the noted heads, by the heads in judgements, and by whatever copy of a head somebody
kept. It changes nothing.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from hashlib import sha256

import msgspec

from ledger import layout, points, segment
from ledger.chain import Log, to_event
from ledger.errors import Corrupt, LedgerError, Unsupported, UsageError
from ledger.events import ArtifactStored, DecisionMade, Event, MetricsLogged, ProbeMeasured, RunStarted
from ledger.merkle import Frontier


class Problem(msgspec.Struct, frozen=True):
    """One thing that is wrong. `position` is the first event in doubt, None for what has no position."""

    position: int | None
    path: str
    what: str


class Report(msgspec.Struct, frozen=True):
    """What was checked, and what is wrong in order of position. `root` is of the events that hold."""

    path: str
    size: int
    root: str
    segments: int
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


def verify(path: str, progress: Callable[[int], None] | None = None) -> Report:
    """Check everything under `path`. Raises NotALedger, Unsupported; damage is in the report."""
    return _Verifier(layout.home(path), progress or (lambda _: None)).report()


class _Verifier:
    def __init__(self, root: str, progress: Callable[[int], None]) -> None:
        self.root = root
        self.progress = progress
        self.problems: list[Problem] = []
        self.warnings: list[str] = []
        self.tree = Frontier()
        self.whole = True  # whether the tree still stands on an unbroken chain
        self.roots: dict[int, str] = {0: self.tree.root().hex()}  # at every boundary of segments
        self.confirmed = 0  # largest size whose root a later writer has vouched for
        self.sequences: dict[bytes, int] = {}
        self.segments = self.bytes = self.chunks = 0
        self.blobs: dict[str, int | None] = {}  # digest -> position of an event that needs it
        self.heads: list[tuple[int, str, int, str]] = []  # (position and path of the judgement, size, root)

    def report(self) -> Report:
        try:
            self.ledger_id: str | None = layout.identity(self.root).id
        except Corrupt as error:
            path = os.path.join(self.root, layout.MARK)
            self.wrong(None, path, str(error).removeprefix(f"{path} "))
            self.ledger_id = None
        self.walk()
        self.check_judgements()
        self.check_blobs()
        self.check_notes()
        self.problems.sort(key=lambda p: (p.position is None, p.position or 0))
        return Report(
            path=self.root,
            size=self.tree.size,
            root=self.tree.root().hex(),
            segments=self.segments,
            bytes=self.bytes,
            chunks=self.chunks,
            blobs=len(self.blobs),
            problems=tuple(self.problems),
            warnings=tuple(self.warnings),
        )

    def wrong(self, position: int | None, path: str, what: str) -> None:
        self.problems.append(Problem(position, os.path.relpath(path, self.root), what))

    def walk(self) -> None:
        """Every segment in order; after damage the rest is still checked, each file by itself."""
        listed: dict[int, str] = {}
        for base, path in Log.listed_in(self.root):
            if base < 0:
                self.wrong(None, path, "is not a segment's name: it was not written by this program")
            else:
                listed[base] = path
        end: int | None = 0
        for base in sorted(listed):
            if end is not None and base != end:
                what = "is missing" if base > end else "lies inside the segment before it"
                self.wrong(min(end, base), layout.segment_path(self.root, min(end, base)), what)
                self.whole = False
            end = self.check_segment(base, listed[base])
            self.segments += 1
            self.progress(base)

    def check_segment(self, base: int, path: str) -> int | None:
        """Check one segment; where the next one has to begin, None when this one cannot tell."""
        try:
            with open(path, "rb") as file:
                data = file.read()
            self.bytes += len(data)
            said, batch = segment.decode(data, path, self.ledger_id)
        except (Corrupt, OSError) as error:
            self.wrong(base, path, str(error).removeprefix(f"{path} ") if isinstance(error, Corrupt) else str(error))
            self.whole = False
            return None
        leaves = segment.leaves_of(batch)
        joined = b"".join(leaves)
        if sha256(joined).hexdigest() != said.body_sha or (said.leaves is not None and list(said.leaves) != leaves):
            self.wrong(base, path, "its bodies are not the ones that its footer names")
        self.check_hint(base, path, said)
        for index, event in self.rows(base, batch, path):
            self.check_event(base + index, event, path)
        if self.whole:
            self.tree.extend(leaves)
            self.roots[self.tree.size] = self.tree.root().hex()
        return base + said.n

    def check_hint(self, base: int, path: str, said: segment.Footer) -> None:
        """The size and root that the writer of this segment had seen before it."""
        if said.base_hint > base:
            self.wrong(base, path, f"was written after {said.base_hint} events, but lies at position {base}")
            self.whole = False
        elif self.whole:
            if self.roots.get(said.base_hint) == said.root_hint:
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

    def rows(self, base: int, batch: object, path: str) -> Iterator[tuple[int, Event]]:
        """Events of a batch whose envelope columns are what their bodies say, with dense writer sequences."""
        columns = batch.to_pydict()  # type: ignore[attr-defined]
        for index in range(len(columns["body"])):
            row = {name: values[index] for name, values in columns.items()}
            event = to_event(base + index, row)
            try:
                body = msgspec.json.decode(event.body)
                same = (
                    body["event_id"] == event.event_id
                    and body["type"] == event.type
                    and body["type_version"] == event.version
                    and body["stream"] == event.stream
                    and body["writer"] == row["writer"].hex()
                    and body["writer_seq"] == row["writer_seq"]
                    and body["recorded_at"] == event.recorded_at
                    and body["actor"] == event.actor
                    and body["correlation_id"] == event.correlation_id
                    and body["causation_id"] == event.causation_id
                )
            except (msgspec.DecodeError, KeyError, TypeError, UnicodeDecodeError):
                same = False
            if not same:
                self.wrong(base + index, path, "the columns of an event are not what its body says")
                continue
            expected = self.sequences.get(row["writer"], 0)
            if row["writer_seq"] != expected and self.whole:
                self.wrong(
                    base + index,
                    path,
                    f"writer {row['writer'].hex()[:8]} jumps from event {expected} to {row['writer_seq']}: "
                    "events in between were removed or moved",
                )
                self.whole = False
            self.sequences[row["writer"]] = row["writer_seq"] + 1
            yield index, event

    def check_event(self, position: int, event: Event, path: str) -> None:
        """What an event refers to."""
        try:
            data = event.data
        except Unsupported as error:
            self.warnings.append(f"position {position}: {error}")
            return
        except LedgerError as error:
            self.wrong(position, path, str(error))
            return
        if isinstance(data, MetricsLogged):
            try:
                points.read_chunk(self.root, data)
                self.chunks += 1
            except Corrupt as error:
                self.wrong(position, os.path.join(self.root, data.chunk), str(error))
        elif isinstance(data, DecisionMade):
            self.heads.append((position, path, data.head.position, data.head.root))
        for digest in _blobs(data):
            self.blobs.setdefault(digest, position)

    def check_judgements(self) -> None:
        for position, path, size, root in self.heads:
            if size > position:
                self.wrong(
                    position,
                    path,
                    f"the judgement at position {position} says that it read {size} events: there were not so many",
                )
            elif self.whole and self.roots.get(size, root) != root:
                self.wrong(
                    min(self.confirmed, size),
                    path,
                    f"the judgement at position {position} read {size} events with another root than they have now",
                )

    def check_blobs(self) -> None:
        folder = os.path.join(self.root, "blob", "sha256")
        for base, _, names in os.walk(folder):
            for name in names:
                self.blobs.setdefault(os.path.basename(base) + name, None)
        for digest, position in self.blobs.items():
            path = os.path.join(folder, digest[:2], digest[2:])
            if not re.fullmatch(r"[0-9a-f]{64}", digest):
                self.wrong(position, folder, f"{digest[:80]!r} is not the SHA-256 of a blob")
                continue
            try:
                with open(path, "rb") as file:
                    if sha256(file.read()).hexdigest() != digest:
                        self.wrong(position, path, "is not what was stored: its SHA-256 differs from its name")
            except OSError:
                self.wrong(position, path, "is missing" if position is not None else "cannot be read")

    def check_notes(self) -> None:
        """Heads that a writer saw durable: they reach to the end, where no later commit vouches."""
        for note in Log.notes_in(self.root):
            path = os.path.join(self.root, "state", f"{note.size:016d}.json")
            if note.size > self.tree.size:
                if self.whole:
                    self.wrong(
                        self.tree.size,
                        path,
                        f"{note.size} events were noted here, the log now ends at {self.tree.size}",
                    )
            elif self.whole and self.roots.get(note.size) != note.root:
                self.wrong(
                    min(self.confirmed, note.size),
                    path,
                    f"another root was noted over the first {note.size} events than they have now",
                )


def _blobs(data: object) -> list[str]:
    """Digests of the blobs that an event refers to."""
    if isinstance(data, ArtifactStored):
        return [data.sha256]
    if isinstance(data, RunStarted):
        return [digest for digest in (data.environment, data.git_diff) if digest]
    if isinstance(data, ProbeMeasured):
        return [data.artifact] if data.artifact else []
    return []

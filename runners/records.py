"""Readings on their way into the log: one commit a record, nothing twice.

What may be appended depends on what the log holds of the same record, so every append is conditional: of two
processes that read the same folder one appends and the other finds it done. Nothing here reads a record.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal

import msgspec

from ledger import canonical
from ledger.chain import Log
from ledger.errors import Conflict
from ledger.events import EventRetracted
from ledger.records import ExtractionFailed, LeaderboardExtracted, RecordExtracted
from ledger.writer import Draft, Expect

Kept = RecordExtracted | LeaderboardExtracted | ExtractionFailed
Verdict = Literal["new", "changed", "reread", "same", "older"]  # older: the same bytes, read by an earlier parser

_PART = 40 * 1024  # bytes of a part: an event holds 48 KiB
_KINDS = tuple(kind.TYPE for kind in (RecordExtracted, LeaderboardExtracted, ExtractionFailed, EventRetracted))


def stream(kind: str, name: str) -> str:
    """The stream of a record or leaderboard: its name where a stream may be called so, else with a digest."""
    plain = name.replace("/", ":")
    if ":" not in name and re.fullmatch(r"[A-Za-z0-9._:-]{1,128}", plain):
        return f"{kind}/{plain}"
    safe = re.sub(r"[^A-Za-z0-9._-]+", "-", plain)[:100]
    return f"{kind}/{safe}-{sha256(name.encode('utf-8', 'surrogatepass')).hexdigest()[:16]}"


class Known:
    """What the log says last of each record and leaderboard. Follows the log as it grows, in one pass."""

    def __init__(self, log: Log) -> None:
        """Raises Corrupt for a log with a gap."""
        log.head()
        self.log = log
        self.size = 0
        self._last: dict[str, list[tuple[str, Kept]]] = {}  # stream -> ids and events of its last reading
        self._retracted: set[str] = set()

    def follow(self) -> int:
        """Take in what was appended since; how many events that is in all."""
        size = self.log.advance()
        for event in self.log.events(start=self.size, as_of=size, types=_KINDS) if size > self.size else ():
            data = event.data
            if isinstance(data, EventRetracted):
                self._retracted.add(data.target)
                continue
            assert isinstance(data, Kept)
            before = self._last.setdefault(event.stream, [])
            if not (before and _continues(before[-1][1], data)):
                before.clear()
            before.append((event.event_id, data))
        self.size = size
        return size

    def last(self, name: str) -> list[Kept]:
        """The events of the last reading or failure in a stream, retracted or not."""
        return [data for _, data in self._last.get(name, ())]

    def stands(self, name: str) -> bool:
        """Whether none of them was retracted."""
        return not any(event_id in self._retracted for event_id, _ in self._last.get(name, ()))


def _continues(before: Kept, data: Kept) -> bool:
    """Whether `data` is a further part of what `before` belongs to."""
    if isinstance(data, RecordExtracted):
        return isinstance(before, RecordExtracted) and data.part == before.part + 1
    if isinstance(data, LeaderboardExtracted) and isinstance(before, LeaderboardExtracted):
        # The parts of a long table follow one another in its README.
        same = (data.parser, data.source_digest) == (before.parser, before.source_digest)
        return same and bool(before.rows and data.rows) and _line(before) < _line(data)
    return False


def _line(page: LeaderboardExtracted) -> int:
    found = re.search(r":(\d+)", page.rows[0].evidence)
    return int(found[1]) if found else 0


def append_record(known: Known, parts: Sequence[RecordExtracted], again: bool = False) -> Verdict:
    """Append a reading unless the log ends with one of the same bytes; with `again`, unless it is the same whole.

    Raises UsageError and SecretRefused for what may not enter the log, Conflict when others keep appending.
    """
    return _append(known, stream("record", parts[0].record), list(parts), again)


def append_leaderboard(known: Known, page: LeaderboardExtracted, again: bool = False) -> Verdict:
    """The same for the leaderboard of a repository, in as many events as its rows need."""
    pages, size = [msgspec.structs.replace(page, rows=())], 0
    for row in page.rows:
        size += len(canonical.encode(row))
        if size > _PART:
            pages.append(msgspec.structs.replace(page, rows=()))
            size = 0
        pages[-1] = msgspec.structs.replace(page, rows=(*pages[-1].rows, row))
    return _append(known, stream("leaderboard", page.repository or "unnamed"), list(pages), again)


def append_failure(known: Known, failed: ExtractionFailed) -> Verdict:
    """Append a failure unless the log ends with the same one of the same bytes."""
    return _append(known, stream("record", failed.record), [failed], True)


def _append(known: Known, name: str, wanted: Sequence[Kept], again: bool) -> Verdict:
    for _ in range(5):
        size = known.follow()
        before = known.last(name)
        verdict = _verdict(before, wanted, again, known.stands(name))
        if verdict in ("same", "older"):
            return verdict
        try:
            known.log.writer.append([Draft(name, data) for data in wanted], Expect(name, size))
        except Conflict:
            continue  # somebody appended to this stream at this moment: look again, it may be the same reading
        return verdict
    raise Conflict(f"{name} is being appended to by several processes at once; try again")


def _verdict(before: list[Kept], wanted: Sequence[Kept], again: bool, stands: bool) -> Verdict:
    if not before or type(before[0]) is not type(wanted[0]):
        return "new"
    if before == list(wanted) and (stands or not again):
        return "same"
    old, new = before[0], wanted[0]
    if old.source_digest != new.source_digest:
        return "changed"
    if again:
        return "reread"
    return "same" if old.parser == new.parser else "older"


def grown(parts: Sequence[RecordExtracted], **more: tuple[Any, ...]) -> list[RecordExtracted]:
    """A reading with more rows (interventions=…, seeds=…), in further parts where they need room."""
    rows = [(field, row) for field, values in more.items() for row in values]
    made = list(parts)
    while rows:
        empty: dict[str, Any] = dict.fromkeys(("interventions", "seeds", "ablations", "lineage", "flags"), ())
        size = len(canonical.encode(msgspec.structs.replace(made[0], **empty)))
        lists: dict[str, list[Any]] = {}
        while rows and ((size := size + len(canonical.encode(rows[0][1])) + 1) <= _PART or not lists):
            field, row = rows.pop(0)
            lists.setdefault(field, []).append(row)
        taken = {field: tuple(values) for field, values in lists.items()}
        made.append(msgspec.structs.replace(made[0], **{**empty, **taken}))
    return [msgspec.structs.replace(part, part=n, parts=len(made)) for n, part in enumerate(made, 1)]


def repository_of(folder: Path) -> str | None:
    """Where the clone at `folder` came from, as owner/name or an address without credentials; None elsewhere."""
    try:
        top = Path(_git(folder, "rev-parse", "--show-toplevel"))
        inside = folder.resolve().relative_to(top.resolve()).parts
        if inside and inside[0] != "records":
            return None  # a folder somewhere in another project
        address = _git(folder, "config", "--get", "remote.origin.url")
    except (OSError, ValueError, subprocess.SubprocessError):
        return None
    if found := re.search(r"github\.com[:/]+([\w.-]+/[\w.-]+?)(?:\.git)?/?$", address):
        return found[1]
    return re.sub(r"(//)[^/@]*@", r"\1", address).split("?")[0] or None


def _git(folder: Path, *words: str) -> str:
    done = subprocess.run(
        ["git", "-C", str(folder), *words], capture_output=True, text=True, timeout=10, check=True, errors="replace"
    )
    return done.stdout.strip()

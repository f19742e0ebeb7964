"""The one way into the log: encode, sync, link under the next free position, sync the folder.

Order and exclusivity come from one thing, the exclusive link of the name `log/…/<position>`: of any
number of processes exactly one gets it, the others take the next one. There is no lock, no daemon
and no reservation, so there is no gap. An append returns when it survives a power cut, and so then
does everything before it (the folder that was synced holds the earlier names too).
"""

from __future__ import annotations

import getpass
import os
import secrets as random
import threading
import uuid
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from ledger import canonical, disk, layout, secrets, segment
from ledger.errors import Conflict, LedgerError, NotAppended, SecretRefused, Unknown, UsageError
from ledger.events import STREAM_PATTERN, EventData, check

if TYPE_CHECKING:
    from ledger.chain import Log

_NOTE_EVERY = 256  # appends between two notes of the head


class Expect(NamedTuple):
    """A condition of an append: no event has entered `stream` since the first `size` were read."""

    stream: str
    size: int


class Draft(NamedTuple):
    """An event to append. `event_id` (UUID text) may be given, to make a retry recognisable."""

    stream: str
    data: EventData
    event_id: str | None = None
    causation_id: str | None = None
    correlation_id: str | None = None


class Appended(NamedTuple):
    """Where a commit's events lie (first position) and their ids, in order. They are durable."""

    position: int
    event_ids: tuple[str, ...]


class Writer:
    """Appends for one process. Threads may share it; a forked child gets a writer of its own."""

    def __init__(self, log: Log) -> None:
        """Raises Unsupported where the file system lacks what disk.py needs, Corrupt for a log with a gap."""
        self.log = log
        self.pid = os.getpid()
        self.id = random.token_bytes(16)
        self.actor = _actor()
        self._tmp = os.path.join(log.root, "tmp")
        self._sequence = 0
        self._since_note = 0
        self._broken: str | None = None
        self._lock = threading.Lock()
        self._synced_shard = -1
        if not os.path.isdir(self._tmp):  # an empty folder does not survive every copy of a ledger
            try:
                disk.make_folder(self._tmp)
            except OSError as error:
                raise NotAppended(f"nothing was appended: {self._tmp}: {disk.plain(error)}") from error
        disk.probe(self._tmp)
        try:
            disk.sync_folder(log.root)  # LEDGER.json may be another process's, seen before it was durable
        except OSError as error:
            raise NotAppended(f"nothing was appended: {log.root}: {disk.plain(error)}") from error
        log.head()

    def append(self, drafts: Sequence[Draft], expect: Expect | None = None) -> Appended:
        """Append the drafts as one commit: all or none, at consecutive positions.

        Raises UsageError and SecretRefused for what may not enter the log, Conflict when `expect`
        does not hold, NotAppended when the disk refused (safe to repeat), Unknown when the commit was
        published but not confirmed (look it up by id before repeating).
        """
        if not drafts:
            raise UsageError("an append needs at least one event")
        if self.pid != os.getpid():  # this process was forked from the writer's
            self.pid, self._lock = os.getpid(), threading.Lock()
            self._renew()
        with self._lock:
            if self._broken:
                raise Unknown(self._broken)
            rows = [self._row(draft, index) for index, draft in enumerate(drafts)]
            return self._publish(rows, expect)

    def _renew(self) -> None:
        """Go on under another id: the sequence of numbers under one id must have no gap and no double."""
        self.id, self._sequence = random.token_bytes(16), 0

    def _row(self, draft: Draft, index: int) -> segment.Row:
        data = draft.data
        plain = check(data)
        if not STREAM_PATTERN.fullmatch(draft.stream):
            raise UsageError(f"stream {draft.stream!r} is not of the form kind/name")
        recorded = layout.now_us()
        event_id = _uuid(draft.event_id) or uuid7(recorded)
        causation_id, correlation_id = _uuid(draft.causation_id), _uuid(draft.correlation_id)
        body = canonical.text(
            {
                "actor": self.actor,
                "causation_id": str(causation_id) if causation_id else None,
                "correlation_id": str(correlation_id) if correlation_id else None,
                "data": plain,
                "event_id": str(event_id),
                "recorded_at": layout.time_text(recorded),
                "stream": draft.stream,
                "type": data.TYPE,
                "type_version": data.VERSION,
                "writer": self.id.hex(),
                "writer_seq": self._sequence + index,
            }
        )
        if len(body) > segment.MAX_BODY:
            raise UsageError(
                f"{data.TYPE} is {len(body)} bytes, an event holds at most {segment.MAX_BODY}; "
                "store the payload as an artifact and refer to it"
            )
        if kind := secrets.find(body):
            raise SecretRefused(
                f"{data.TYPE} holds what looks like a {kind}; it would stay in the log for ever. "
                "Take it out of the command, the configuration or the captured variables"
            )
        return segment.Row(
            event_id=event_id.bytes,
            type=data.TYPE,
            type_version=data.VERSION,
            stream=draft.stream,
            writer=self.id,
            writer_seq=self._sequence + index,
            recorded_at=recorded,
            correlation_id=correlation_id.bytes if correlation_id else None,
            causation_id=causation_id.bytes if causation_id else None,
            actor=self.actor,
            body=body,
        )

    def _publish(self, rows: list[segment.Row], expect: Expect | None) -> Appended:
        log = self.log
        seen = log.seen()
        data, leaves = segment.encode(rows, log.identity.id, seen.position, seen.root)
        checked = expect.size if expect else 0
        temporary = disk.write_temporary(self._tmp, data)
        try:
            while True:
                position = log.advance()
                if expect:
                    self._refuse_conflict(expect, checked)
                    checked = position
                self._prepare_shard(position)
                if disk.link(temporary, layout.segment_path(log.root, position)):
                    break
            try:
                disk.confirm(layout.shard_path(log.root, position), f"commit {position}")
            except Unknown as error:
                self._broken = (
                    f"{error}; open the ledger again and look for event {uuid.UUID(bytes=rows[0].event_id)}"
                )
                raise
            self._sequence += len(rows)
        except LedgerError:
            raise
        except BaseException:  # Ctrl-C may have come after the link: the next number is not known
            self._renew()
            raise
        finally:
            disk.remove(temporary)
        log.step(position, segment.seal_of(data), leaves)
        self._since_note += 1
        if self._since_note >= _NOTE_EVERY:
            self._note()
        return Appended(position, tuple(str(uuid.UUID(bytes=row.event_id)) for row in rows))

    def _refuse_conflict(self, expect: Expect, start: int) -> None:
        for event in self.log.events(start=start, stream=expect.stream):
            raise Conflict(
                f"{expect.stream} has moved on: event {event.event_id} ({event.type}) at position "
                f"{event.position} came first; read it and decide again"
            )

    def _prepare_shard(self, position: int) -> None:
        shard = position >> layout.SHARD_BITS
        if shard == self._synced_shard:
            return
        folder = layout.shard_path(self.log.root, position)
        try:
            disk.make_folder(folder)
            # The names before this one must be durable before anything follows them. The last of them
            # need not lie in the shard before: a large commit may reach over several.
            if (last := self.log.last_base) is not None and last >> layout.SHARD_BITS != shard:
                disk.sync_folder(layout.shard_path(self.log.root, last))
        except OSError as error:
            raise NotAppended(f"nothing was appended: {folder}: {disk.plain(error)}") from error
        self._synced_shard = shard

    def close(self) -> None:
        """Note the head for the next open. The writer stays usable."""
        with self._lock:
            self._note()

    def _note(self) -> None:
        if self._sequence and not self._broken:
            self.log.note_head()
            self._since_note = 0


def _uuid(text: str | None) -> uuid.UUID | None:
    try:
        return uuid.UUID(text) if text else None
    except (ValueError, AttributeError, TypeError):
        raise UsageError(f"{text!r} is not the id of an event (a UUID)") from None


def uuid7(microseconds: int) -> uuid.UUID:
    """A UUID version 7 (RFC 9562): 48 bits of milliseconds, 12 bits of the fraction, 62 random bits."""
    milliseconds, rest = divmod(microseconds, 1000)
    value = (milliseconds & (1 << 48) - 1) << 80 | 0x7 << 76 | (rest * 4096 // 1000) << 64
    return uuid.UUID(int=value | 0b10 << 62 | random.randbits(62))


def _actor() -> str | None:
    if name := os.environ.get("LEDGER_ACTOR"):
        return name
    try:
        return getpass.getuser()
    except (KeyError, OSError, ImportError):  # a container without a passwd entry
        return None


__all__ = ["Appended", "Draft", "Expect", "Writer", "uuid7"]

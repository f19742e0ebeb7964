"""The one way into the log: encode, sync, link under the next free position, sync the folder.

Order and exclusivity come from one thing, the exclusive link of the name `log/…/<position>`: of any
number of processes exactly one gets it, the others take the next one. There is no daemon and no
reservation, so there is no gap. An append returns when it survives a power cut, and so then does
everything before it (the folder that was synced holds the earlier names too).

Appends that come while another one waits for the disk are published together: those of the threads of
one process always, those of several processes where joint.py can. Each is still whole or not there.
"""

from __future__ import annotations

import copy
import functools
import getpass
import itertools
import os
import secrets as random
import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from ledger import canonical, disk, ids, layout, secrets, segment
from ledger.errors import Conflict, LedgerError, NotAppended, SecretRefused, Unknown, UsageError
from ledger.event_text import texts
from ledger.events import STREAM_PATTERN, EventData
from ledger.ids import uuid7
from ledger.joint import MAX_ROWS, Joint, Request
from ledger.merkle import leaf_hash, leaf_hashes

if TYPE_CHECKING:
    from ledger.chain import Log

_NOTE_EVERY = 256  # appends between two notes of the head
_GROUP_ROWS = 512  # of all threads in one commit
_TAILS = 1024  # ends of bodies that are remembered


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
    """Where a commit's events lie (first position) and their ids, in order.

    `acknowledged` is "ordered": they are durable and have their positions. A store that takes events
    before it orders them would say "durable", with position -1; on a file system there is none.
    """

    position: int
    event_ids: tuple[str, ...]
    acknowledged: str = "ordered"


class _Commit:
    """What one caller of `append` waits for: its drafts, checked, column by column, but for the writer's number."""

    __slots__ = (
        "again", "batch", "causes", "correlations", "data", "done", "error", "expect", "given", "ids", "kinds",
        "leads", "looked", "names", "position", "recorded", "rows", "streams", "wake",
    )  # fmt: skip

    def __init__(self, drafts: Sequence[Draft], expect: Expect | None, again: bool) -> None:
        """Raises UsageError and SecretRefused for what may not enter the log."""
        count = len(drafts)
        self.recorded = layout.now_us()
        self.streams, events, given, causes, correlations = zip(*drafts, strict=True)
        self.data = texts(events)  # canonical JSON
        self.kinds = [type(one) for one in events]
        for stream in self.streams if count == 1 else set(self.streams):
            if not _stream_is_right(stream):
                raise UsageError(f"stream {stream!r} is not of the form kind/name")
        many = count >= segment.MANY  # then what it takes to be fast is loaded anyway
        self.ids = (ids.new_many if many else ids.new)(self.recorded, count)
        self.given = any(given)
        if self.given:
            self.ids = [ids.parse(told) or made for told, made in zip(given, self.ids, strict=True)]
        self.names = ids.texts_many(self.ids) if many else [ids.text(one) for one in self.ids]
        self.causes = [ids.parse(one) if one else None for one in causes]
        self.correlations = [ids.parse(one) if one else None for one in correlations]
        self.expect, self.again = expect, again
        self.rows: list[segment.Row] = []
        self.position = -1
        self.looked = 0  # below this position its ids are not in the log
        self.error: BaseException | None = None
        self.done = self.leads = False
        self.batch: list[_Commit] = []  # what is published with it, if it leads
        self.wake: threading.Lock | None = None


class Writer:
    """Appends for one process. Threads may share it; a forked child gets a writer of its own."""

    def __init__(self, log: Log) -> None:
        """Raises Unsupported where the file system lacks what disk.py needs, Corrupt for a log with a gap."""
        self.log = log
        self.actor = _actor()
        self._actor_text = canonical.encode(self.actor).decode()
        self._free_head = f'{{"actor":{self._actor_text},"causation_id":null,"correlation_id":null,"data":'.encode()
        self._actor_suspicious = secrets.find(self._actor_text) is not None
        self._tmp = os.path.join(log.root, "tmp")
        self._since_note = 0
        self._broken: str | None = None
        self._shard = -1
        self._folder: disk.Folder | None = None  # of that shard
        disk.need_folder(self._tmp)
        self._nameless = disk.probe(self._tmp)
        try:
            disk.sync_folder(log.root)  # LEDGER.json may be another process's, seen before it was durable
        except OSError as error:
            raise NotAppended(f"nothing was appended: {log.root}: {disk.plain(error)}") from error
        self._begin()
        log.head()

    def _begin(self) -> None:
        """Nobody waits, and this process has appended nothing."""
        self.pid = os.getpid()
        self._mutex = threading.Lock()  # of the queue
        self._queue: list[_Commit] = []
        self._leading = False  # one thread publishes
        self._renew()

    def _renew(self) -> None:
        """Go on under another id: the sequence of numbers under one id must have no gap and no double."""
        self.id, self._sequence = random.token_bytes(16), 0
        self._tails: dict[tuple[str, type], bytes] = {}  # of bodies, see _tail
        self._joint = Joint(self._tmp, self.id)

    def append(self, drafts: Sequence[Draft], expect: Expect | None = None, again: bool = False) -> Appended:
        """Append the drafts as one commit: all or none, at consecutive positions.

        `again` is for a retry after Unknown, by whatever process: the drafts carry the event ids of
        the first attempt, and if these events are in the log already, nothing is appended and their
        position is returned.

        Raises UsageError and SecretRefused for what may not enter the log, Conflict when `expect`
        does not hold, NotAppended when the disk refused (safe to repeat), Unknown when the commit was
        published but not confirmed (repeat it with `again`, in a ledger that was opened anew).
        """
        if not drafts:
            raise UsageError("an append needs at least one event")
        if again and any(draft.event_id is None for draft in drafts):
            raise UsageError("a repeated append needs the event ids of the first attempt")
        commit = _Commit(drafts, expect, again)
        if self.pid != os.getpid():  # this process was forked from the writer's
            self.log.advance()  # it too begins anew, and must not do so between two steps of an append
            self._begin()
        try:
            with self._mutex:
                self._queue.append(commit)
                if self._leading:
                    commit.wake = threading.Lock()
                    commit.wake.acquire()
                else:
                    self._leading = commit.leads = True
            if commit.wake is not None:
                commit.wake.acquire()  # until it is done, or ours to do
            if not commit.done:
                self._lead(commit)
        except BaseException:
            self._settle(commit)  # if another thread is publishing it already, that goes on
            raise
        if (error := commit.error) is not None:
            commit.error = None  # or the traceback would hold on to itself
            try:
                raise error
            finally:
                del error
        return Appended(commit.position, tuple(commit.names))

    def _settle(self, commit: _Commit) -> None:
        """Take `commit` out of the queue. If it led, tell the threads of its batch, and the first in the
        queue has the lead. A Ctrl-C in the middle of this would leave them waiting for ever: so it goes on.
        """
        interrupt, settled = None, False
        while not settled:
            try:
                with self._mutex:
                    if commit in self._queue:
                        self._queue.remove(commit)
                    for one in commit.batch:
                        if not one.done:
                            if one.position < 0 and one.error is None:
                                one.error = _for_another(interrupt or KeyboardInterrupt())
                            one.done = True
                            if one.wake is not None and one is not commit:
                                one.wake.release()
                    heir = self._queue[0] if self._queue else None
                    settled = True  # no call comes between this and the release: nor can an interrupt
                    if commit.leads:
                        commit.leads = False
                        self._leading = heir is not None
                        if heir is not None:
                            heir.leads = True
                            if heir.wake is not None:  # else it was interrupted as it came, and passes the lead on
                                heir.wake.release()
            except KeyboardInterrupt as error:
                interrupt = error
        commit.batch = []
        if interrupt is not None:
            raise interrupt

    def _lead(self, first: _Commit) -> None:
        """Publish `first` and what else is ready, tell their threads, and pass the lead on."""
        batch = first.batch = [first]
        try:
            with self._mutex:
                self._queue.remove(first)  # it is the first there
                rows = len(first.ids)
                while self._queue and _joins(first) and _joins(self._queue[0]):
                    rows += len(self._queue[0].ids)
                    if rows > _GROUP_ROWS:
                        break
                    batch.append(self._queue.pop(0))
            if self._broken:
                raise Unknown(self._broken)
            self._write(batch)
        except BaseException as error:
            for commit in batch:
                if commit.position < 0 and commit.error is None:
                    commit.error = error if commit is first else _for_another(error)
            if not isinstance(error, (Conflict, NotAppended, Unknown)):
                self._renew()  # it may have come after the link: the next number is not known
        finally:
            self._settle(first)

    # ── one commit ──

    def _write(self, batch: list[_Commit]) -> None:
        """Make the rows and bring them into the log. Sets each commit's position or error."""
        disk.need_folder(self._tmp)
        before = self._sequence
        # One search through all that is new: a token is rare, and to search each event costs eight times as much.
        new = b"\n".join([data for commit in batch for data in commit.data])
        suspicious = secrets.suspected(new) if len(batch[0].ids) >= segment.MANY else secrets.find(new)
        for commit in batch:
            try:
                if suspicious or self._actor_suspicious:
                    _refuse_secrets(commit, self._actor_text.encode())
                commit.rows = self._rows(commit)
                self._sequence += len(commit.rows)
            except LedgerError as error:
                commit.error = error
        mine = [commit for commit in batch if commit.rows]
        if not mine:
            return
        first = mine[0]
        first.looked = self.log.size
        if first.again and (found := self._already(first, None)) is not None:
            first.position, self._sequence = found, before
            return
        rows = [row for commit in mine for row in commit.rows] if len(mine) > 1 else first.rows
        leaves = leaf_hashes([row.body for row in rows])
        # A commit is in the log whole or not at all: where its first event lies, it lies.
        starts = itertools.accumulate((len(commit.rows) for commit in mine[:-1]), initial=0)
        marks = [leaves[at] for at in starts]
        places = self.log.watched = dict.fromkeys(marks, -1)
        try:
            self._bring(mine, rows, leaves, places)
        except (Conflict, NotAppended):
            self._sequence = before
            raise
        finally:
            self.log.watched = {}
        for commit, mark in zip(mine, marks, strict=True):
            commit.position = places[mark]
        self._since_note += 1
        if self._since_note >= _NOTE_EVERY:
            self._note()

    def _bring(
        self, mine: list[_Commit], rows: list[segment.Row], leaves: list[bytes], places: dict[bytes, int]
    ) -> None:
        """The rows are in the log, durably, when this returns: by our own hand or by that of another
        process that was publishing. `places` then holds the position of each commit's first leaf."""
        # Rows with ids that the caller knows are not left to others: a repetition by another process must find
        # them as soon as this one is dead.
        given = any(commit.given for commit in mine)
        joint, joins = self._joint, _joins(mine[0]) and len(rows) <= MAX_ROWS and not given
        since = self.log.size
        turn, said = joint.enter(), ""
        if not turn and joins and (said := joint.wait(rows, since)):
            turn = said == "turn"
            self.log.advance()
            if (position := places[leaves[0]]) >= 0:
                if said != "answered":  # who published may have died before the folder was synced
                    self._confirm(position)
                if turn:
                    joint.leave()
                return
        try:
            others = joint.others(segment.LEAVES_MAX - len(rows)) if turn and len(rows) <= MAX_ROWS else []
            self._publish(mine[0], rows, leaves, others, places)
        except NotAppended as error:
            if said and not turn:  # who took them from our box may still bring them in
                raise self._break(f"{error}; another process may append it yet", rows[0]) from error
            raise
        finally:
            if turn:
                joint.leave()

    def _publish(
        self,
        first: _Commit,
        rows: list[segment.Row],
        leaves: list[bytes],
        others: list[Request],
        places: dict[bytes, int],
    ) -> None:
        """Link one segment of our `rows` and those of `others`. Each round takes in what was published
        meanwhile, so that nothing that is in the log enters it again."""
        log, root = self.log, self.log.root
        own = leaves[0]
        marks = [leaf_hash(request.rows[0].body) for request in others]
        for request, mark in zip(others, marks, strict=True):
            places[mark] = -1
            # From here on `advance` tells of it; before, who published it may have died without an answer.
            if (lately := log.lately(request.since)) is None or mark in lately:
                places[mark] = 0
        checked = first.expect.size if first.expect else 0
        temporary, together = None, list(others)
        try:
            while True:
                if temporary is None:
                    together = [one for one, mark in zip(others, marks, strict=True) if places[mark] < 0]
                    foreign = [row for request in together for row in request.rows]
                    every = leaves + leaf_hashes([row.body for row in foreign])
                    known = log.known()
                    data, _ = segment.encode(rows + foreign, log.identity.id, known.position, known.root, every)
                    temporary = disk.write_temporary(self._tmp, data, self._nameless)
                position = log.advance()
                if places[own] >= 0:
                    self._confirm(places[own])
                    return
                if len(together) != sum(1 for mark in marks if places[mark] < 0):
                    temporary.discard()
                    temporary = None
                    continue
                if first.again and (found := self._already(first, first.looked)) is not None:
                    places[own] = found
                    return
                if first.expect:
                    self._refuse_conflict(first.expect, checked)
                checked = first.looked = position
                folder = self._prepare_shard(position)
                path = layout.segment_path(root, position)
                if temporary.link(path):
                    try:
                        folder.confirm(f"commit {position}")
                    except Unknown as error:
                        raise self._break(str(error), rows[0]) from error
                    # A name below the end of a pack was free because its file was packed and removed.
                    # No reader would see what is published there, so it is taken back before it is acknowledged.
                    if log.packed_to() <= position:
                        break
                    # If it was packed just now instead, that pack must be durable before the name is not.
                    self._sync(os.path.join(root, "pack"), position)
                    disk.remove(path)
                    temporary.discard()  # a file that lost its only name can get no other
                    temporary = None
            log.step(position, segment.seal_of(data), every)
            if places[own] < 0:  # an interrupt came while another thread took a step: it all has to be read again
                log.advance()
            for request in together:
                request.answer()
        finally:
            if temporary is not None:
                temporary.discard()

    def _confirm(self, position: int) -> None:
        """Make durable what another process has published at `position`, in whichever folder it lies."""
        first = max(0, position - _GROUP_ROWS)  # a commit that holds more rows holds those of one caller
        for base in {first >> layout.SHARD_BITS, position >> layout.SHARD_BITS}:
            path = layout.shard_path(self.log.root, base << layout.SHARD_BITS)
            if os.path.isdir(path):
                self._sync(path, position)

    def _sync(self, folder: str, position: int) -> None:
        """Make the names in a folder durable that the commit at `position` needs. Raises Unknown."""
        try:
            disk.sync_folder(folder)
        except OSError as error:
            said = f"commit {position} was published but may not survive a power cut: {disk.plain(error)}"
            self._broken = said
            raise Unknown(said) from error

    def _break(self, said: str, row: segment.Row) -> Unknown:
        """Append no more: what is in the log is not known until it is opened anew."""
        self._broken = f"{said}; open the ledger again and look for event {ids.text(row.event_id)}"
        return Unknown(self._broken)

    def _already(self, commit: _Commit, start: int | None) -> int | None:
        """Where the events of a repeated commit lie, if they are in the log from `start` on."""
        wanted = commit.ids
        if start is None:
            start = self.log.position_before(ids.made_at(wanted[0]))
        for position, _, batch in self.log.batches(start):
            there = batch.column("event_id").to_pylist()
            if wanted[0] in there:
                at: int = there.index(wanted[0])
                if there[at : at + len(wanted)] != wanted:
                    raise UsageError(f"event {ids.text(wanted[0])} is in the log, but with other events")
                self._confirm(position + at)  # who published it may have died before that
                return position + at
        return None

    def _rows(self, commit: _Commit) -> list[segment.Row]:
        """The commit's events, numbered from where this writer stands."""
        count, moment = len(commit.ids), layout.time_text(commit.recorded).encode()
        numbers = range(self._sequence, self._sequence + count)
        # What canonical.text makes of each event as a dict; put together here, because it is done for every event.
        bodies = [
            b'%b%b,"event_id":"%b","recorded_at":"%b","stream":"%b%d}'
            % (self._head(cause, correlation), data, name.encode(), moment, self._tail(stream, kind), number)
            for cause, correlation, data, name, stream, kind, number in zip(
                commit.causes,
                commit.correlations,
                commit.data,
                commit.names,
                commit.streams,
                commit.kinds,
                numbers,
                strict=True,
            )
        ]
        if (size := max(map(len, bodies))) > segment.MAX_BODY:
            kind = next(one.TYPE for one, body in zip(commit.kinds, bodies, strict=True) if len(body) == size)
            raise UsageError(
                f"{kind} is {size} bytes, an event holds at most {segment.MAX_BODY}; "
                "store the payload as an artifact and refer to it"
            )
        kinds = [kind.TYPE for kind in commit.kinds]
        versions = [kind.VERSION for kind in commit.kinds]
        same = ([self.id] * count, numbers, [commit.recorded] * count)
        more = (commit.correlations, commit.causes, [self.actor] * count, bodies)
        return list(map(segment.Row, commit.ids, kinds, versions, commit.streams, *same, *more))

    def _head(self, cause: bytes | None, correlation: bytes | None) -> bytes:
        """A body as far as its data."""
        if cause is None is correlation:
            return self._free_head
        return (
            f'{{"actor":{self._actor_text},"causation_id":{_quoted(cause)},'
            f'"correlation_id":{_quoted(correlation)},"data":'
        ).encode()

    def _tail(self, stream: str, kind: type[EventData]) -> bytes:
        """A body from its stream's name to its number."""
        if (tail := self._tails.get((stream, kind))) is None:
            if len(self._tails) >= _TAILS:
                self._tails.clear()
            tail = self._tails[stream, kind] = (
                f'{stream}","type":"{kind.TYPE}","type_version":{kind.VERSION},"writer":"{self.id.hex()}","writer_seq":'
            ).encode()
        return tail

    def _refuse_conflict(self, expect: Expect, start: int) -> None:
        for event in self.log.events(start=start, stream=expect.stream):
            raise Conflict(
                f"{expect.stream} has moved on: event {event.event_id} ({event.type}) at position "
                f"{event.position} came first; read it and decide again"
            )

    def _prepare_shard(self, position: int) -> disk.Folder:
        """The folder for a segment at `position`; all names before it are durable then."""
        shard = position >> layout.SHARD_BITS
        if self._folder is not None and shard == self._shard:
            return self._folder
        path = layout.shard_path(self.log.root, position)
        try:
            disk.make_folder(path)
            # The names before this one must be durable before anything follows them. The last of them
            # need not lie in the shard before: a large commit may reach over several.
            if (last := self.log.last_base) is None and position:
                disk.sync_folder(os.path.join(self.log.root, "pack"))  # it begins where the packs end
            elif last is not None and last >> layout.SHARD_BITS != shard:
                disk.sync_folder(layout.shard_path(self.log.root, last))
            self._folder = disk.Folder(path)
        except OSError as error:
            raise NotAppended(f"nothing was appended: {path}: {disk.plain(error)}") from error
        self._shard = shard
        return self._folder

    def close(self) -> None:
        """Note the head for the next open, and let go of open files. The writer stays usable."""
        self._note()
        with self._mutex:
            if not self._leading:
                self._folder = None
                self._joint.close()

    def _note(self) -> None:
        if self._sequence and not self._broken:
            self.log.note_head()
            self._since_note = 0


@functools.lru_cache(1024)
def _stream_is_right(stream: str) -> bool:
    if secrets.find(stream):
        raise SecretRefused(
            "the stream's name holds what looks like an access token; it would stay in the log for ever"
        )
    return STREAM_PATTERN.fullmatch(stream) is not None


def _refuse_secrets(commit: _Commit, actor: bytes) -> None:
    for event, data in zip(commit.kinds, commit.data, strict=True):
        if kind := secrets.find(data) or secrets.find(actor):
            raise SecretRefused(
                f"{event.TYPE} holds what looks like a {kind}; it would stay in the log for ever. "
                "Take it out of the command, the configuration or the captured variables"
            )


def _joins(commit: _Commit) -> bool:
    """Whether it may be published together with others: it has nothing to look up first."""
    return commit.expect is None and not commit.again


def _for_another(error: BaseException) -> BaseException:
    """What a thread hears whose commit another thread was publishing when this came."""
    if isinstance(error, LedgerError):
        return copy.copy(error)
    return Unknown(f"the thread that was publishing this was stopped by {type(error).__name__}; look for its events")


def _quoted(event_id: bytes | None) -> str:
    return f'"{ids.text(event_id)}"' if event_id else "null"


def _actor() -> str | None:
    if name := os.environ.get("LEDGER_ACTOR"):
        return name
    try:
        return getpass.getuser()
    except (KeyError, OSError, ImportError):  # a container without a passwd entry
        return None


__all__ = ["Appended", "Draft", "Expect", "Writer", "uuid7"]

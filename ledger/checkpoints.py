"""Signed heads: checkpoint/<size>.note says, signed, which root the log had over its first `size` events.

The form is c2sp.org/tlog-checkpoint: origin, size and root, signed as a note. A signer first holds
what was signed before against the log: the newest note, and the one that it remembers outside of
the ledger. So one key never signs two histories. What this cannot do: whoever has the disk and the
key can sign another history from the start. Only a copy of a checkpoint in other hands shows that.
"""

from __future__ import annotations

import base64
import contextlib
import os
import re
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, NamedTuple

from ledger import disk, keys, layout, segment, signing
from ledger.errors import Corrupt, NotAppended
from ledger.events import Event
from ledger.merkle import Frontier
from ledger.signing import Note, UnknownKey, Verifier

if TYPE_CHECKING:
    from ledger.chain import Log


# From sizes of the log to the roots there, the keys that it announces, and whether all of it could be read.
Walk = Callable[[list[int]], tuple[dict[int, str], dict[str, keys.Announced], bool]]


class Checkpoint(NamedTuple):
    """A signed head. `root` is hex; `path` is where it was read from or lies."""

    origin: str
    size: int
    root: str
    note: Note
    path: str


# ── reading ──


def path_of(root: str, size: int) -> str:
    return os.path.join(root, "checkpoint", f"{size:016d}.note")


def listed(root: str) -> Iterator[tuple[int, str]]:
    """Every file in checkpoint/ as (size, path), ascending; size -1 for what is no checkpoint's name."""
    folder = os.path.join(root, "checkpoint")
    names = os.listdir(folder) if os.path.isdir(folder) else []
    for name in sorted(names):
        yield int(name[:16]) if re.fullmatch(r"[0-9]{16}\.note", name) else -1, os.path.join(folder, name)


def parse(data: bytes, path: str) -> Checkpoint:
    """A checkpoint from a note's bytes, its signature unchecked. Raises Corrupt, naming `path`."""
    note = signing.parse(data, path)
    found = re.fullmatch(r"([^\n]+)\n(0|[1-9][0-9]{0,15})\n([A-Za-z0-9+/=]+)\n", note.text)
    try:
        root = signing.strict_base64(found[3]) if found else b""
    except ValueError:
        root = b""
    if found is None or len(root) != 32:
        raise Corrupt(f"{path} is not a checkpoint: its text is not an origin, a size and a root")
    return Checkpoint(found[1], int(found[2]), root.hex(), note, path)


def load(path: str) -> Checkpoint:
    """Raises Corrupt for what is no checkpoint, OSError for what cannot be read."""
    with open(path, "rb") as file:
        return parse(file.read(), path)


def newest(root: str) -> Checkpoint | None:
    """The newest checkpoint of the ledger at `root`. Raises Corrupt when its file is damaged."""
    found = [(size, path) for size, path in listed(root) if size >= 0]
    if not found:
        return None
    size, path = found[-1]
    made = load(path)
    if made.size != size:
        raise Corrupt(f"{path} is not what was written: it is a checkpoint of {made.size} events")
    return made


# ── signing ──


def sign(log: Log) -> Checkpoint:
    """Sign the present head with this user's key and publish it; the checkpoint.

    The key is made and announced at first need. Raises Corrupt when the log does not contain what was
    signed before, LedgerError and NotAppended when nothing could be signed or written.
    """
    key = keys.private(log.identity.id)
    mine = signing.verifier(log.identity.origin, signing.public_of(key))
    known_at = 0
    for before in _before(log, mine):
        refuse_inconsistent(log, before)
        if _is_signed_by(before, mine):
            known_at = max(known_at, before.size)
    keys.announce(log, mine, known_at)
    head = log.head()
    _make_durable(log)
    root = base64.b64encode(bytes.fromhex(head.root)).decode()
    note = signing.sign(f"{mine.name}\n{head.position}\n{root}\n", mine.name, key)
    made = Checkpoint(mine.name, head.position, head.root, note, path_of(log.root, head.position))
    if not disk.publish(os.path.join(log.root, "tmp"), made.path, note.encode()):
        made = _of_another(log, load(made.path), mine)
    _remember(log, note)
    log.close()
    return made


def refuse_inconsistent(log: Log, before: Checkpoint) -> None:
    """Raises Corrupt unless the log begins with the events of a checkpoint."""
    if before.origin != log.identity.origin:
        raise Corrupt(f"inconsistent checkpoint: {before.path} is of the log {before.origin}, not of this one")
    size = log.head().position
    on_purpose = "" if before.path.startswith(log.root) else "; who went back on purpose says `ledger keys rotate`"
    if before.size > size:
        raise Corrupt(
            f"inconsistent checkpoint: {before.path} was signed over {before.size} events, but the log ends at "
            f"{size}: it is an older copy, or its end was cut off. Restore it{on_purpose}",
            size,
        )
    if (root := log.head_at(before.size).root) != before.root:
        raise Corrupt(
            f"inconsistent checkpoint: {before.path} names root {before.root} over the first {before.size} events, "
            f"they now have {root}: something in them was changed. `ledger verify` tells more{on_purpose}",
            0,
        )


def _before(log: Log, mine: Verifier) -> Iterator[Checkpoint]:
    """The newest checkpoint in the ledger, and what this key signed last as its owner remembers it."""
    if (last := newest(log.root)) is not None:
        yield last
    with contextlib.suppress(OSError):
        remembered = load(keys.memory_path(log.identity.id))
        if _is_signed_by(remembered, mine) and (last is None or remembered.note.text != last.note.text):
            yield remembered


def _remember(log: Log, note: Note) -> None:
    """Keep the note outside of the ledger. Where that cannot be written, only this check is missing later."""
    path = keys.memory_path(log.identity.id)
    with contextlib.suppress(OSError, NotAppended):
        os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
        disk.replace(os.path.dirname(path), path, note.encode())


def _make_durable(log: Log) -> None:
    """Others' commits may have been seen before they were durable, and a signed head must not outlive them."""
    try:
        if log.last_base is not None:
            with contextlib.suppress(FileNotFoundError):  # packed in the meantime, and packs are durable
                disk.sync_folder(layout.shard_path(log.root, log.last_base))
        for name in ("checkpoint", "tmp"):  # empty folders do not survive every copy of a ledger
            disk.make_folder(os.path.join(log.root, name))
    except OSError as error:
        raise NotAppended(f"no checkpoint was written in {log.root}: {disk.plain(error)}") from None


def _of_another(log: Log, there: Checkpoint, mine: Verifier) -> Checkpoint:
    """The checkpoint that is there already for this size, if it is as good as ours."""
    refuse_inconsistent(log, there)
    if not _is_signed_by(there, mine):
        signing.check(there.note, _keys_at(keys.announced(log), there.size), there.path)
    return there


def _is_signed_by(checkpoint: Checkpoint, key: Verifier) -> bool:
    try:
        return bool(signing.check(checkpoint.note, [key], checkpoint.path))
    except Corrupt:
        return False


def _keys_at(known: dict[str, keys.Announced], size: int) -> list[Verifier]:
    return [one.key for one in known.values() if one.signs(size)]


# ── checking ──


def problems(log: Log, walk: Walk | None = None, newest: int | None = None) -> list[tuple[int | None, str]]:
    """What is wrong with the checkpoints, each with the first position that it puts in doubt, if any.

    Every note must be whole, say what the log says, and be signed by a key that the log announced
    before and had not revoked. One pass over the log, which ends where the log is
    damaged; `walk` spares it for who has been there already (see _walk), and then checkpoints over
    more than `newest` events, which were signed since, are left to the next time.
    """
    found: list[tuple[int | None, str]] = []
    notes = []
    for size, path in listed(log.root):
        if newest is not None and size > newest:
            continue
        try:
            note = load(path)
            if note.size != size:
                raise Corrupt(f"{path} is not what was written: it is a checkpoint of {note.size} events")
            notes.append(note)
        except Corrupt as error:
            found.append((None, str(error)))
        except OSError as error:
            found.append((None, f"{path}: {disk.plain(error)}"))
    if not notes:
        return found
    sizes = [note.size for note in notes]
    roots, known, whole = walk(sizes) if walk is not None else _walk(log, sizes)
    agreed = 0  # up to where checkpoints and log agree
    for note in notes:
        says = f"inconsistent checkpoint: {note.path}"
        if note.origin != log.identity.origin:
            found.append((None, f"{says} is of the log {note.origin}, not of this one"))
        elif note.size in roots and roots[note.size] != note.root:
            found.append((agreed, f"{says} names another root over the first {note.size} events than they have now"))
        elif whole and note.size not in roots:
            found.append((log.size, f"{says} was signed over {note.size} events, the log ends at {log.size}"))
        elif note.size in roots:
            agreed = note.size
        try:
            signing.check(note.note, _keys_at(known, note.size), note.path)
        except UnknownKey as error:
            if whole:
                found.append((None, f"{error}, which the log did not announce before, or had revoked"))
        except Corrupt as error:
            found.append((None, str(error)))
    return found


def untrusted(root: str, trusted: Iterable[Verifier]) -> list[tuple[int | None, str]]:
    """Checkpoints that none of the trusted keys signed; also when there is no checkpoint at all."""
    trusted = list(trusted)
    found: list[tuple[int | None, str]] = []
    notes = list(listed(root))
    for _, path in notes:
        try:
            signing.check(load(path).note, trusted, path)
        except UnknownKey as error:
            found.append((None, f"{error}, none of the trusted keys"))
        except (Corrupt, OSError) as error:
            found.append((None, str(error)))
    if not notes:
        found.append((None, "checkpoint/ holds no checkpoint: no trusted key vouches for this log"))
    return found


def _walk(log: Log, sizes: list[int]) -> tuple[dict[int, str], dict[str, keys.Announced], bool]:
    """Roots at the given sizes and the keys of the log, in one pass; False when damage cut it short."""
    tree = Frontier()
    roots = {0: tree.root().hex()}
    events: list[Event] = []
    cuts = sorted(set(sizes))
    whole = True
    try:
        for base, _, batch in log.batches():
            events += keys.events_of(base, batch)
            leaves = segment.leaves_of(batch)
            done = 0
            while cuts and cuts[0] <= base + len(leaves):
                tree.extend(leaves[done : cuts[0] - base])
                done = max(done, cuts[0] - base)
                roots[cuts.pop(0)] = tree.root().hex()
            tree.extend(leaves[done:])
    except Corrupt:
        whole = False
    return roots, keys.fold(events, log.identity.origin), whole

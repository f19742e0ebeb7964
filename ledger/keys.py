"""Whose signature counts: private keys in the user's configuration folder, public ones in the log.

A ledger's key lies in `keys/<ledger id>.pem` below LEDGER_CONFIG, else $XDG_CONFIG_HOME/experiment-ledger,
else ~/.config/experiment-ledger; only its owner may read it, and it never enters the ledger. Its public
half is announced by `key.added` and ended by `key.revoked`. An announcement says which key the
writers of a log use; it does not say who they are: for that, compare vkeys (`ledger keys`).

`signed/<ledger id>.note` is the last head that was signed from here: a signer must remember it
outside of the ledger, or it would sign a ledger that was put back to an older copy.
"""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, NamedTuple

from ledger import disk, signing
from ledger.errors import Conflict, LedgerError, UsageError
from ledger.events import Event, KeyAdded, KeyRevoked
from ledger.signing import Verifier
from ledger.writer import Draft, Expect

if TYPE_CHECKING:
    import pyarrow as pa
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    from ledger.chain import Log


class Announced(NamedTuple):
    """A key of a log: the positions of the events that added and revoked it, and who added it."""

    key: Verifier
    added: int
    revoked: int | None
    actor: str | None

    def signs(self, size: int) -> bool:
        """Whether its signature counts over the first `size` events."""
        return self.added < size and (self.revoked is None or self.revoked >= size)


# ── private keys ──


def folder() -> str:
    """The user's configuration folder of this program."""
    if chosen := os.environ.get("LEDGER_CONFIG"):
        return os.path.abspath(chosen)
    base = os.environ.get("XDG_CONFIG_HOME") or os.path.join(os.path.expanduser("~"), ".config")
    return os.path.join(os.path.abspath(base), "experiment-ledger")


def key_path(ledger_id: str) -> str:
    return os.path.join(folder(), "keys", f"{ledger_id}.pem")


def memory_path(ledger_id: str) -> str:
    return os.path.join(folder(), "signed", f"{ledger_id}.note")


def private(ledger_id: str) -> Ed25519PrivateKey:
    """This user's key for a ledger, made at first need. Raises LedgerError when it cannot be kept or read."""
    path = key_path(ledger_id)
    if not os.path.exists(path):
        temporary = _keep(path, signing.to_pem(signing.new_key()))
        try:
            with contextlib.suppress(FileExistsError):  # another process of this user was first
                os.link(temporary, path)
            disk.sync_folder(os.path.dirname(path))
        except OSError as error:
            raise _cannot_keep(path, error) from None
        finally:
            disk.remove(temporary)
    return _read(path)


def _read(path: str) -> Ed25519PrivateKey:
    try:
        with open(path, "rb") as file:
            if (mode := os.fstat(file.fileno()).st_mode & 0o777) & 0o077:
                raise UsageError(f"others may read the signing key {path} (mode {mode:o}): chmod 600, or rotate it")
            return signing.from_pem(file.read(65536))
    except OSError as error:
        raise LedgerError(f"cannot read the signing key {path}: {disk.plain(error)}") from None
    except ValueError as error:
        raise LedgerError(
            f"{path} is not an Ed25519 private key in PEM: {error}; restore it or move it away"
        ) from None


def _keep(path: str, data: bytes) -> str:
    """Write a new private file beside `path`, durable and for its owner only; its path."""
    temporary = f"{path}.{secrets.token_hex(8)}"
    try:
        os.makedirs(os.path.dirname(os.path.dirname(path)), mode=0o700, exist_ok=True)
        os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
        file = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            os.write(file, data)
            os.fsync(file)
        finally:
            os.close(file)
    except OSError as error:
        raise _cannot_keep(path, error) from None
    return temporary


def _cannot_keep(path: str, error: OSError) -> LedgerError:
    return LedgerError(
        f"cannot keep a signing key at {path}: {disk.plain(error)}; "
        "name a folder of yours that can be written in LEDGER_CONFIG"
    )


# ── announcements ──


def events_of(position: int, batch: pa.RecordBatch) -> Iterator[Event]:
    """The events about keys in a batch of the log that begins at `position`."""
    import pyarrow.compute as pc

    from ledger.chain import to_event

    for index in pc.indices_nonzero(pc.starts_with(batch.column("type"), "key.")).to_pylist():
        yield to_event(position + index, {name: v[0] for name, v in batch.slice(index, 1).to_pydict().items()})


def fold(events: Iterable[Event], origin: str) -> dict[str, Announced]:
    """Keys by id, from the events about them in order. An id stays with the first key that took it."""
    found: dict[str, Announced] = {}
    for event in events:
        try:
            data = event.data
        except LedgerError:  # of a later program, or malformed: no key that this one knows
            continue
        if isinstance(data, KeyAdded) and data.key not in found:
            with contextlib.suppress(ValueError, UsageError):
                key = signing.verifier(data.name, bytes.fromhex(data.public_key))
                if key.name == origin and key.id == data.key:
                    found[key.id] = Announced(key, event.position, None, event.actor)
        elif isinstance(data, KeyRevoked) and data.key in found and found[data.key].revoked is None:
            found[data.key] = found[data.key]._replace(revoked=event.position)
    return found


def announced(log: Log) -> dict[str, Announced]:
    """Every key of a log by its id; reads the whole log."""
    events = (event for base, _, batch in log.batches() for event in events_of(base, batch))
    return fold(events, log.identity.origin)


def announce(log: Log, key: Verifier, known_at: int = 0) -> None:
    """Append `key.added` if the log lacks it. `known_at`: a size at which the key was known not to be revoked.

    Raises LedgerError when the key was revoked.
    """
    size = log.advance()
    there = known_at > 0
    for event in (event for base, _, batch in log.batches(known_at, size) for event in events_of(base, batch)):
        data = event.data
        if isinstance(data, KeyRevoked) and data.key == key.id:
            raise LedgerError(
                f"this key ({key.id}) was revoked at position {event.position}: {data.reason}; "
                "`ledger keys rotate` makes a new one"
            )
        there = there or (isinstance(data, KeyAdded) and data.key == key.id and data.public_key == key.public.hex())
    if not there:
        with contextlib.suppress(Conflict):  # another process of this user was first
            log.writer.append([_added(key)], Expect(_stream(key.id), size))


def rotate(log: Log, reason: str) -> tuple[Verifier, Verifier | None]:
    """Make a new key and revoke this user's old one, in one commit; the new and the old key.

    The new key is kept before it is announced and takes its place afterwards: cut off in between,
    the old key is revoked, and rotating again makes another one.
    """
    path = key_path(log.identity.id)
    made = signing.new_key()
    key = signing.verifier(log.identity.origin, signing.public_of(made))
    drafts, old = [_added(key)], None
    if os.path.exists(path):
        old = signing.verifier(log.identity.origin, signing.public_of(_read(path)))
        there = announced(log).get(old.id)
        if there is not None and there.revoked is None:
            drafts.append(Draft(_stream(old.id), KeyRevoked(key=old.id, reason=reason)))
    temporary = _keep(path, signing.to_pem(made))
    try:
        log.writer.append(drafts)
        os.replace(temporary, path)
        disk.sync_folder(os.path.dirname(path))
    except OSError as error:
        raise _cannot_keep(path, error) from None
    finally:
        disk.remove(temporary)
    return key, old


def revoke(log: Log, key_id: str, reason: str) -> None:
    """End a key for ever. Raises UsageError when the log has no such key or it has ended."""
    there = announced(log).get(key_id)
    if there is None:
        raise UsageError(f"this log has no key {key_id!r}; `ledger keys` lists them")
    if there.revoked is not None:
        raise UsageError(f"key {key_id} was revoked before, at position {there.revoked}")
    log.writer.append([Draft(_stream(key_id), KeyRevoked(key=key_id, reason=reason))])


def _added(key: Verifier) -> Draft:
    return Draft(
        _stream(key.id), KeyAdded(key=key.id, name=key.name, algorithm="ed25519", public_key=key.public.hex())
    )


def _stream(key_id: str) -> str:
    return f"key/{key_id}"

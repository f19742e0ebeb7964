"""Signed notes with Ed25519, as c2sp.org/signed-note defines them: a text, an empty line, signatures.

A signature line is `— NAME BASE64(key id, signature)`; the key id is the beginning of the SHA-256
of the name, a newline, the algorithm's byte and the public key. A public key as text (a *vkey*) is
`NAME+ID+BASE64(algorithm, public key)`. What is read is taken only in its one right spelling, so
that no byte of a note can change unseen. No key is kept here, and no key is trusted here.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterable
from hashlib import sha256
from typing import TYPE_CHECKING, Any, NamedTuple

from ledger.errors import Corrupt, Unsupported, UsageError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric import ed25519

ED25519 = b"\x01"
_DASH = "\N{EM DASH} "
_MAX_NOTE = 1 << 20


class UnknownKey(Corrupt):
    """None of the keys that count signed a note."""


class Verifier(NamedTuple):
    """A public key under a name. `str()` gives the vkey."""

    name: str
    id: str  # 8 hex digits
    public: bytes  # 32 bytes

    def __str__(self) -> str:
        return f"{self.name}+{self.id}+{base64.b64encode(ED25519 + self.public).decode()}"


class Signature(NamedTuple):
    name: str
    id: str
    value: bytes


class Note(NamedTuple):
    """`text` ends with its newline; it is what the signatures sign."""

    text: str
    signatures: tuple[Signature, ...]

    def encode(self) -> bytes:
        lines = (
            f"{_DASH}{one.name} {base64.b64encode(bytes.fromhex(one.id) + one.value).decode()}\n"
            for one in self.signatures
        )
        return f"{self.text}\n{''.join(lines)}".encode()


def verifier(name: str, public: bytes) -> Verifier:
    """The key of 32 bytes under a name. Raises UsageError for a name that a note cannot carry."""
    if not name or "+" in name or name.split() != [name] or not name.isprintable():
        raise UsageError(f"{name!r} cannot be the name of a key: it is empty or holds a space or a plus")
    if len(public) != 32:
        raise UsageError(f"an Ed25519 public key has 32 bytes, not {len(public)}")
    return Verifier(name, sha256(name.encode() + b"\n" + ED25519 + public).hexdigest()[:8], public)


def parse_vkey(text: str) -> Verifier:
    """A public key from `NAME+ID+BASE64`. Raises UsageError."""
    parts = text.split("+", 2)
    try:
        key = strict_base64(parts[2])
        made = verifier(parts[0], key[1:])
    except (IndexError, ValueError):
        raise UsageError(f"{text[:80]!r} is not a public key NAME+ID+BASE64") from None
    if key[:1] != ED25519:
        raise UsageError(f"{text[:80]!r} is not an Ed25519 key: its algorithm is {key[0]}, not 1")
    if made.id != parts[1]:
        raise UsageError(f"{text[:80]!r} is mistyped: the id of this key is {made.id}, not {parts[1]}")
    return made


def read_vkeys(path: str) -> list[Verifier]:
    """The keys in a file, one a line; lines that begin with # are remarks. Raises UsageError."""
    try:
        with open(path, encoding="utf-8") as file:
            lines = [line.strip() for line in file.read(_MAX_NOTE).splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"cannot read the keys in {path}: {getattr(error, 'strerror', None) or error}") from None
    found = [parse_vkey(line) for line in lines if line and not line.startswith("#")]
    if not found:
        raise UsageError(f"{path} holds no key; write one a line, as `ledger keys` prints them")
    return found


def parse(data: bytes, path: str) -> Note:
    """The note in `data`. Raises Corrupt, naming `path`, when it is none or not spelled as `encode` does."""
    try:
        if len(data) > _MAX_NOTE:
            raise ValueError("it is too long")
        whole = data.decode()
        if any(sign < " " and sign != "\n" for sign in whole):
            raise ValueError("it holds a control character")
        end = whole.rfind("\n\n")
        if end < 0 or not whole.endswith("\n"):
            raise ValueError("it has no signature")
        lines = whole[end + 2 : -1].split("\n")
        return Note(whole[: end + 1], tuple(map(_signature, lines)))
    except ValueError as error:
        raise Corrupt(f"{path} is not a signed note: {error}") from None


def _signature(line: str) -> Signature:
    name, _, value = line.removeprefix(_DASH).partition(" ")
    raw = strict_base64(value)
    if not line.startswith(_DASH) or not name or "+" in name or name.split() != [name] or len(raw) < 5:
        raise ValueError("a signature line is malformed")
    return Signature(name, raw[:4].hex(), raw[4:])


def strict_base64(text: str) -> bytes:
    """Bytes from their one base64 spelling. Raises ValueError for any other (unused bits included)."""
    try:
        raw = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise ValueError("its base64 is malformed") from None
    if base64.b64encode(raw).decode() != text:
        raise ValueError("its base64 is malformed")
    return raw


def sign(text: str, name: str, key: ed25519.Ed25519PrivateKey) -> Note:
    """A note signed by one key. Raises UsageError for text that a note cannot hold."""
    if not text.endswith("\n") or any(sign < " " and sign != "\n" for sign in text):
        raise UsageError("the text of a note ends with a newline and holds no control characters")
    said = verifier(name, public_of(key))
    return Note(text, (Signature(name, said.id, key.sign(text.encode())),))


def check(note: Note, known: Iterable[Verifier], path: str) -> list[Verifier]:
    """Those of the known keys that signed the note, at least one.

    Raises UnknownKey when none of them did, Corrupt when one of them seems to have but did not.
    Signatures of other keys are passed over, as the specification asks.
    """
    by_name = {(key.name, key.id): key for key in known}
    found = []
    for one in note.signatures:
        if key := by_name.get((one.name, one.id)):
            if not holds(note.text, one.value, key.public):
                raise Corrupt(f"bad signature: {path} was not signed like this by {one.name}+{one.id}")
            found.append(key)
    if not found:
        signers = ", ".join(f"{one.name}+{one.id}" for one in note.signatures)
        raise UnknownKey(f"unknown key: {path} is signed by {signers}")
    return found


def holds(text: str, value: bytes, public: bytes) -> bool:
    """Whether `value` is the Ed25519 signature of the text under the public key."""
    module = _ed25519()
    from cryptography.exceptions import InvalidSignature

    try:
        module.Ed25519PublicKey.from_public_bytes(public).verify(value, text.encode())
    except (InvalidSignature, ValueError):
        return False
    return True


def new_key() -> ed25519.Ed25519PrivateKey:
    made: ed25519.Ed25519PrivateKey = _ed25519().Ed25519PrivateKey.generate()
    return made


def to_pem(key: ed25519.Ed25519PrivateKey) -> bytes:
    """The private key as PKCS #8 PEM, which openssl reads too."""
    from cryptography.hazmat.primitives import serialization as form

    return key.private_bytes(form.Encoding.PEM, form.PrivateFormat.PKCS8, form.NoEncryption())


def from_pem(data: bytes) -> ed25519.Ed25519PrivateKey:
    """Raises ValueError when it is not an Ed25519 private key without a password."""
    module = _ed25519()
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        key = load_pem_private_key(data, None)
    except (TypeError, UnsupportedAlgorithm) as error:
        raise ValueError(str(error)) from None
    if not isinstance(key, module.Ed25519PrivateKey):
        raise ValueError("it is a key of another kind")
    found: ed25519.Ed25519PrivateKey = key
    return found


def public_of(key: ed25519.Ed25519PrivateKey) -> bytes:
    return key.public_key().public_bytes_raw()


def _ed25519() -> Any:
    try:
        from cryptography.hazmat.primitives.asymmetric import ed25519 as module
    except ImportError:
        raise Unsupported(
            "signatures need the Python package cryptography, which is not installed: pip install cryptography"
        ) from None
    return module

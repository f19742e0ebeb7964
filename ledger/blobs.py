"""Payloads by content: blob/sha256/ab/cdef…, written once, checked at every read.

The name is the digest, so the same bytes are stored once and a changed byte is seen.
"""

from __future__ import annotations

import os
import re
from hashlib import sha256

from ledger import disk, secrets
from ledger.errors import Corrupt, NotAppended, SecretRefused, UsageError

_DIGEST = re.compile(r"[0-9a-f]{64}")


class Blobs:
    def __init__(self, root: str) -> None:
        self.root = root

    def path(self, digest: str) -> str:
        """Where a blob lies. Raises UsageError for anything but 64 hex digits (a path cannot leave its folder)."""
        if not _DIGEST.fullmatch(digest):
            raise UsageError(f"{digest!r} is not a SHA-256 digest of 64 hex digits")
        return os.path.join(self.root, "blob", "sha256", digest[:2], digest[2:])

    def put(self, data: bytes) -> str:
        """Store bytes durably; their SHA-256 in hex.

        Raises SecretRefused for text that holds a token, NotAppended and Unknown as disk.publish does.
        """
        if b"\x00" not in data[:8192] and (kind := secrets.find(data)):
            raise SecretRefused(f"this text holds what looks like a {kind}; remove it before storing it")
        digest = sha256(data).hexdigest()
        path = self.path(digest)
        folder = os.path.dirname(path)
        try:
            disk.make_folder(folder)
        except OSError as error:
            raise NotAppended(f"nothing was stored: {folder}: {disk.plain(error)}") from error
        if os.path.exists(path):  # linked, but maybe not durable yet by whoever did it
            disk.confirm(folder, path)
        else:
            disk.publish(os.path.join(self.root, "tmp"), path, data)
        return digest

    def get(self, digest: str) -> bytes:
        """The bytes. Raises UsageError when there are none, Corrupt when they are others."""
        path = self.path(digest)
        try:
            with open(path, "rb") as file:
                data = file.read()
        except FileNotFoundError:
            raise UsageError(f"no blob {digest} in this ledger") from None
        if sha256(data).hexdigest() != digest:
            raise Corrupt(f"{path} is not what was stored: its SHA-256 differs from its name")
        return data

    def has(self, digest: str) -> bool:
        return os.path.exists(self.path(digest))

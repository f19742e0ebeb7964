"""What can go wrong, each with the exit code that the command line gives it.

Exit codes: 1 a check did not hold, 2 wrong usage, 3 integrity broken, 4 conflict. A message is one
line that says what was expected, what was found, where, and what to do; it never holds a secret.
"""

from __future__ import annotations


class LedgerError(Exception):
    """Any failure that a user can act on."""

    exit_code = 1


class UsageError(LedgerError):
    """The request itself is wrong: an unknown name, a bad value, a path that is not a ledger."""

    exit_code = 2


class NotALedger(UsageError):
    """There is no ledger at the path that was given."""


class Unsupported(UsageError):
    """A newer format, a newer event version, or a file system without the guarantees the log needs."""


class SecretRefused(UsageError):
    """A value has the shape of a known access token; it would stay in the log for ever."""


class NotAppended(LedgerError):
    """Nothing was appended: the disk refused before the commit was published. Safe to try again."""


class Unknown(LedgerError):
    """The commit was published but its durability could not be confirmed; resolve it by event id."""


class Conflict(LedgerError):
    """A conditional append lost: somebody else appended to the stream first."""

    exit_code = 4


class Corrupt(LedgerError):
    """The bytes on disk are not what the log wrote.

    `position` is the first position that is wrong, where it is known.
    """

    exit_code = 3

    def __init__(self, message: str, position: int | None = None) -> None:
        super().__init__(message)
        self.position = position


class CacheDamaged(Corrupt):
    """A file of tables is not what was written. The log is not concerned, and the tables are made again from it."""

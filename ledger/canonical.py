"""Canonical JSON: the one text of an event, made once at write and hashed verbatim for ever.

The rules are those of RFC 8785 (no white space, keys sorted, shortest round-trip floats) with this
profile: integers are exact over the whole of int64; a float keeps its point (1.0, not 1), so that
integers and floats stay apart; keys sort by code point, which is RFC 8785's order for every key
that the schema has (ASCII). JSON has no NaN and no infinity: they are written as the strings "NaN",
"Infinity" and "-Infinity". Strings are not normalised; lone surrogates are refused.

Verification never comes back here: it hashes the stored bytes, so a later change of this encoder
cannot break an old proof.
"""

from __future__ import annotations

import math
from typing import Any, Literal

import msgspec

from ledger.errors import UsageError

Real = float | Literal["NaN", "Infinity", "-Infinity"]  # a float as a body holds it

INT64_MIN, INT64_MAX = -(2**63), 2**63 - 1


def encode(value: Any) -> bytes:
    """Canonical UTF-8 JSON of `value` (msgspec structs, dicts, lists, strings, numbers, None).

    Raises UsageError for an integer outside int64, a lone surrogate, or a type JSON has not.
    """
    return text(plain(value))


def plain(value: Any) -> Any:
    """`value` as dicts, lists, text, finite numbers and None. Raises UsageError as `encode`.

    Sets come out in one order: what is hashed may not depend on the hash seed of a process.
    """
    try:
        return _plain(msgspec.to_builtins(value, order="deterministic"))
    except TypeError as error:
        raise UsageError(f"a value that JSON cannot hold: {error}") from None


def text(value: Any) -> bytes:
    """Canonical JSON of what `plain` made. Raises UsageError for a lone surrogate."""
    try:
        return msgspec.json.encode(value, order="sorted")
    except UnicodeEncodeError as error:
        raise UsageError(f"text that is not valid Unicode cannot be logged: {error.reason}") from None
    except TypeError as error:
        raise UsageError(f"a value that JSON cannot hold: {error}") from None


def _plain(value: Any) -> Any:
    kind = type(value)
    if kind is str or value is None or kind is bool:
        return value
    if kind is int:
        if not INT64_MIN <= value <= INT64_MAX:
            raise UsageError(f"integer {value} does not fit into 64 bits")
        return value
    if kind is float:
        return value if math.isfinite(value) else tag(value)
    if kind is dict:
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value]


def tag(value: float) -> Real:
    """A float as JSON can hold it: itself, or "NaN", "Infinity", "-Infinity"."""
    if math.isfinite(value):
        return value
    if math.isnan(value):
        return "NaN"
    return "Infinity" if value > 0 else "-Infinity"


def decode(body: bytes) -> Any:
    """Plain dicts and lists of a stored body. Raises UsageError when it is not JSON."""
    try:
        return msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"not JSON: {error}") from None

"""A plan as TOML text: for plans that a program writes and a person reads, runs and keeps.

It writes what a plan may hold (texts, numbers, truth values, lists, tables, lists of tables) and reads nothing.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

_BARE = re.compile(r"[A-Za-z0-9_-]+")


def dumps(plan: Mapping[str, Any], comments: Sequence[str] = ()) -> str:
    """TOML text of a plan; `comments` are lines above it. Empty tables and None are left out."""
    lines = [f"# {line}".rstrip() for line in comments]
    if comments:
        lines.append("")
    plain = {key: value for key, value in plan.items() if value is not None and not _is_table(value)}
    lines += [f"{_key(key)} = {_value(value)}" for key, value in plain.items()]
    for key, value in plan.items():
        if isinstance(value, Mapping):
            lines += ["", f"[{_key(key)}]", *_lines(value)]
        elif _is_table(value):
            for item in value:
                lines += ["", f"[[{_key(key)}]]", *_lines(item)]
    return "\n".join(lines) + "\n"


def _is_table(value: Any) -> bool:
    if isinstance(value, (list, tuple)):
        return bool(value) and isinstance(value[0], Mapping)
    return isinstance(value, Mapping)


def _lines(table: Mapping[str, Any]) -> list[str]:
    return [f"{_key(key)} = {_value(value)}" for key, value in table.items() if value not in (None, {}, [], ())]


def _key(key: str) -> str:
    return key if _BARE.fullmatch(key) else json.dumps(key)


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    if isinstance(value, (int, float)):
        return repr(value)
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{_key(key)} = {_value(item)}" for key, item in value.items()) + " }"
    return "[" + ", ".join(_value(item) for item in value) + "]"

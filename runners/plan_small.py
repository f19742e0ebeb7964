"""The small size of a plan: its `[small]` table, laid over the rest, so that one file asks one question at two sizes.

    [small]                           # ledger run PLAN.toml --small
    seeds = "0-1"                     # any setting of the plan itself: seeds, delta, scale, timeout, …
    leave_out = ["11 layers"]         # arms
    [small.trainer]                   # laid over [trainer]; for a script: [small.script]
    depth = 2
    [small.arms."8 layers, 5x MLP"]   # laid over what that arm sets
    depth = 1

The small plan is a plan of its own (its name ends in `-small` unless the table names it), so its runs never mix with
those of the full size. It must not change what an arm is called or which is the control.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any

from ledger.errors import UsageError

NOT_HERE = ("small", "arm", "factor", "kind")  # what makes a plan the plan that it is


def smaller(raw: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The plan at its small size, as plain data still to be checked. Raises UsageError."""
    if "small" not in raw:
        raise UsageError(f"{where}: --small needs a [small] table in the plan, which says what is smaller")
    small = raw["small"]
    if not isinstance(small, dict):
        raise UsageError(f"{where}: small must be a table, [small]")
    for key in small:
        if key in NOT_HERE:
            raise UsageError(f"{where}: [small] cannot change {key!r}")
    made = {key: value for key, value in raw.items() if key != "small"}
    made["name"] = f"{raw.get('name', 'plan')}-small"
    for key, value in small.items():
        if key in ("trainer", "script"):
            if not isinstance(value, dict) or not isinstance(raw.get(key), dict):
                raise UsageError(f"{where}: [small.{key}] is laid over [{key}], which must be a table, too")
            made[key] = {**raw[key], **value}
        elif key not in ("arms", "leave_out"):
            made[key] = value
    if "arm" in raw:
        made["arm"] = _arms(raw, small, where)
    return made


def _arms(raw: Mapping[str, Any], small: Mapping[str, Any], where: str) -> list[Any]:
    arms = raw["arm"]
    if not isinstance(arms, list) or not all(isinstance(arm, dict) for arm in arms):
        return arms  # type: ignore[no-any-return]  # told by the checks that follow
    names = [arm.get("name") for arm in arms]
    left_out, changed = small.get("leave_out", []), small.get("arms", {})
    if not isinstance(left_out, list) or not isinstance(changed, dict):
        raise UsageError(f"{where}: [small] takes leave_out = [names of arms] and tables [small.arms.NAME]")
    for name in (*left_out, *changed):
        if name not in names:
            close = difflib.get_close_matches(str(name), [str(n) for n in names], 1)
            hint = f"; did you mean {close[0]!r}?" if close else ""
            raise UsageError(f"{where}: [small] speaks of an arm {name!r} that the plan has not{hint}")
    if names[0] in left_out:
        raise UsageError(f"{where}: [small] cannot leave out the control, {names[0]!r}")
    key = "env" if "script" in raw else "set"
    made = []
    for arm in arms:
        if arm.get("name") in left_out:
            continue
        over = changed.get(arm.get("name"), {})
        if not isinstance(over, dict):
            raise UsageError(f"{where}: [small.arms.{arm.get('name')}] must be a table of what the arm sets")
        made.append({**arm, key: {**arm.get(key, {}), **over}} if over else arm)
    return made

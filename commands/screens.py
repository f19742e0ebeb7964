"""Screens for `ledger decide`, `ledger run` and `ledger report`: judged, appended, printed.

Every line says that these are average effects over stacks: they suggest, and one change at a time confirms.
"""

from __future__ import annotations

import textwrap
from typing import Any

from commands.common import cell, find_experiment, print_json, say, table
from ledger import canonical
from ledger.chain import Log
from ledger.events import ScreenJudged
from ledger.writer import Draft, Expect


def decide_screen(log: Log, wanted: str | None, append: bool = True) -> tuple[ScreenJudged, int | None] | None:
    """Judge a screen at the present head and append it, unless the same stands there; None for what is no screen.

    Raises Conflict when the screen moved on while it was judged.
    """
    import msgspec

    from projections.engine import tables
    from projections.screening import is_screen, judge

    built = tables(log)
    plan = find_experiment(built, wanted)
    if not is_screen(built, plan["experiment"]):
        return None
    made = judge(built, plan["experiment"])
    if not append:
        return made, None
    stream = f"experiment/{plan['experiment']}"
    rows = built.rows(
        """SELECT position, body FROM events
        WHERE stream = $1 AND type = 'screen.judged' AND retracted_by IS NULL ORDER BY position DESC LIMIT 1""",
        (stream,),
    )
    if rows:
        before = msgspec.json.decode(rows[0]["body"])["data"]
        now = msgspec.json.decode(canonical.encode(made))
        for data in (before, now):
            data.pop("head")
            data.pop("code")
        if before == now:
            return made, int(rows[0]["position"])
    position = log.writer.append([Draft(stream, made)], Expect(stream, built.head.position)).position
    log.close()
    return made, position


def print_screen(made: ScreenJudged) -> None:
    """Average effects, the largest improvement first."""
    lines = [["factor", "average effect", "95 % interval", "q", ""]]
    sign = 1 if made.direction == "lower" else -1
    for one in sorted(made.effects, key=lambda one: (sign * float(one.effect), one.factor)):
        good = (float(one.effect) < 0) == (made.direction == "lower")
        told = ("confirm it by itself" if good else "seems to harm") if one.candidate else ""
        interval = f"{float(one.ci95_lo):+.4f} to {float(one.ci95_hi):+.4f}"
        lines.append([cell(one.factor), f"{float(one.effect):+.4f}", interval, f"{float(one.q):.2g}", told])
    if made.effects:
        table(lines, numeric={1, 2, 3})
    print(textwrap.fill(cell(made.why), 79))


def tell_screen(made: ScreenJudged, position: int | None, as_json: bool) -> None:
    """What `ledger decide` prints of a screen."""
    import msgspec

    if as_json:
        at = {} if position is None else {"position": position}
        print_json({**at, **msgspec.to_builtins(made)})
        return
    print_screen(made)
    if position is not None:
        head = made.head.position
        say(f"judged at head {head}: event {position}" if position >= head else f"judged before: event {position}")


def page(tables: Any, plan: dict[str, Any], text: Any) -> list[str]:
    """A screen's part of the report, as lines of Markdown; empty for what is no screen. `text` escapes."""
    rows = tables.rows("SELECT * FROM screen_effects WHERE experiment = $1 ORDER BY number", (plan["experiment"],))
    if not rows:
        return []
    lines = [
        "## What the screen suggests",
        "",
        f"Average effects over {rows[0]['runs']} stacks of {len(rows)} factors: not the effect of one change on the "
        "base, where changes interact. They suggest; one change at a time confirms.",
        "",
    ]
    if rows[0]["defect"]:
        return [*lines, f"Nothing yet: {text(rows[0]['defect'])}.", ""]
    lines += ["| factor | average effect | 95 % interval | q | |", "|---|--:|--:|--:|---|"]
    for row in rows:
        good = (row["effect"] < 0) == (plan["direction"] == "lower")
        told = ("confirm it by itself" if good else "seems to harm") if row["candidate"] else ""
        interval = f"{row['ci95_lo']:+.4f} to {row['ci95_hi']:+.4f}"
        lines.append(f"| {text(row['factor'])} | {row['effect']:+.4f} | {interval} | {row['q']:.2g} | {told} |")
    if rows[0]["p_interactions"] is not None:
        lines += ["", f"That no two factors interact: p {rows[0]['p_interactions']:.2g}."]
    return [*lines, ""]

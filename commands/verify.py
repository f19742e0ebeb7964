"""`ledger verify`: prove that the log is what was written, or name the first position that is not."""

from __future__ import annotations

import sys
from collections.abc import Callable

import click
import msgspec

from commands.common import Asked, print_json, say, shared
from ledger import verify


@click.command("verify")
@click.option("--expect-head", metavar="SIZE:ROOT", help="A head that you kept: the log must still contain it.")
@shared()
def command(asked: Asked, expect_head: str | None) -> int:
    """Read every file, hash every event, build the tree from nothing. Exit code 3 when something is wrong."""
    bar = _bar() if sys.stderr.isatty() else None
    report = verify.verify(asked.ledger or "", bar)
    problems = list(report.problems)
    if expect_head is not None:
        problems += verify.against(report, expect_head)
    if bar:
        print("\r\033[K", end="", file=sys.stderr)
    if asked.json:
        print_json({**msgspec.to_builtins(report), "problems": msgspec.to_builtins(problems), "ok": not problems})
    else:
        for problem in problems[:20]:
            where = f"position {problem.position}: " if problem.position is not None else ""
            say(f"{where}{problem.path} {problem.what}")
        if len(problems) > 20:
            say(f"and {len(problems) - 20} more")
        for warning in report.warnings[:10]:
            say(f"note: {warning}")
        what = (
            f"{report.size} events in {report.segments} segments, {report.chunks} chunks, {report.blobs} blobs; "
            f"root {report.root}"
        )
        if problems:
            first = problems[0]
            at = f"the first wrong position is {first.position}" if first.position is not None else first.path
            say(f"NOT what was written: {at} ({len(problems)} findings). Whole up to there: {what}")
        else:
            print(f"verified: {what}")
    return 3 if problems else 0


def _bar() -> Callable[[int], None]:
    def show(position: int) -> None:
        if position % 64 == 0:
            print(f"\rchecking position {position}", end="", file=sys.stderr)

    return show

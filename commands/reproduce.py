"""`ledger reproduce`: train a run again from what the log holds, and compare."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import click

from commands.common import Asked, print_json, say, shared
from ledger.errors import UsageError

if TYPE_CHECKING:
    from runners.reproduce import Reproduced


@click.command("reproduce")
@click.argument("run", required=False, metavar="RUN")
@click.option(
    "--tolerance",
    type=click.FloatRange(min=0),
    default=None,
    help="Relative, where the same bits cannot be expected (default: 0.001).",
)
@click.option("--record", is_flag=True, help="Append what came out as a measurement of the run.")
@shared()
def command(asked: Asked, run: str | None, tolerance: float | None, record: bool) -> int:
    """Train RUN (an id or its beginning) again and compare every loss and final figure.

    Exit code 0 when it came out: the same bits on a CPU, within the tolerance elsewhere; 1 when it did not.
    """
    if run is None:
        raise click.UsageError(
            "name a run by its id or its beginning; `ledger log` shows them, "
            '`ledger sql "SELECT run, arm, seed FROM runs"` lists them'
        )
    log = asked.open()
    rows = asked.tables(log).rows(
        "SELECT run, arm, seed FROM runs WHERE starts_with(run, $1) ORDER BY started_position", (run,)
    )
    if not run or not rows:
        raise UsageError(
            f'no run\'s id begins with {run!r}; `ledger sql "SELECT run, arm, seed FROM runs"` lists them'
        )
    if len(rows) > 1:
        raise UsageError(f"{len(rows)} runs' ids begin with {run}; give more of it")
    from runners.reproduce import reproduce

    found = reproduce(log, rows[0]["run"], _progress(), tolerance)
    if sys.stderr.isatty():
        print(file=sys.stderr)
    if record:
        _record(log, found)
    if asked.json:
        print_json(_plain(found))
    else:
        print("\n".join(lines(found)))
    return 0 if found.holds else 1


def _progress() -> Any:
    """A line on a terminal that tells the step; nothing into a file."""

    def tell(step: int, steps: int, loss: float) -> None:
        if sys.stderr.isatty():
            print(f"\r  step {step} of {steps}, train_loss {loss:.4f}", end="", file=sys.stderr, flush=True)

    return tell


def lines(found: Reproduced) -> list[str]:
    """What came out, for a person: the verdict first."""
    if found.holds:
        said = "comes out with the same bits" if found.exact else f"comes out within {found.tolerance:g}"
    else:
        said = "does not come out"
    told = [f"{found.arm} seed {found.seed} ({found.run[:8]}) {said}"]
    if found.status != found.status_then:
        told.append(f"it ended as {found.status_then} and now as {found.status}")
    told += [f"{one.what}: it was {one.then}, it is {one.now}" for one in found.differs]
    if found.expected == "tolerance":
        told.append(f"the same bits are not expected: {'; '.join(found.why)}")
    told.append(f"losses of {found.points_equal} of {found.points} steps are equal bit by bit")
    if found.worst and found.worst.deviation:
        worst = found.worst
        told.append(
            f"the furthest, step {worst.step}: {worst.then!r}, now {worst.now!r} (relative {worst.deviation:.2g})"
        )
    for figure in found.figures:
        same = "the same" if figure.deviation == 0 else f"now {figure.now!r} (relative {figure.deviation:.2g})"
        told.append(f"{figure.name} {figure.then!r}, {same}")
    return told


def _plain(found: Reproduced) -> dict[str, Any]:
    return {
        **found._asdict(),
        "holds": found.holds,
        "exact": found.exact,
        "differs": [one._asdict() for one in found.differs],
        "worst": found.worst._asdict() if found.worst else None,
        "figures": [one._asdict() for one in found.figures],
    }


def _record(log: Any, found: Reproduced) -> None:
    from ledger import canonical, events
    from ledger.writer import Draft

    values = [
        ("holds", float(found.holds), "bool"),
        ("exact", float(found.exact), "bool"),
        ("points", float(found.points), "steps"),
        ("points_equal", float(found.points_equal), "steps"),
        ("worst_deviation", found.worst.deviation if found.worst else 0.0, "relative"),
        *((f"deviation.{figure.name}", figure.deviation, "relative") for figure in found.figures),
    ]
    event = events.ProbeMeasured(
        run=found.run,
        probe="reproduction",
        subject=f"run/{found.run}",
        method="reproduce/1",
        params=events.named({"tolerance": found.tolerance, "expected": found.expected, "why": "; ".join(found.why)}),
        values=tuple(events.Probed(name, canonical.tag(value), unit) for name, value, unit in values),
        artifact=None,
    )
    made = log.writer.append([Draft(f"run/{found.run}", event)])
    log.close()
    say(f"recorded as event {made.position}")

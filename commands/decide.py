"""`ledger decide`: judge an experiment on the runs that are there, and append the judgement."""

from __future__ import annotations

import uuid
from typing import Any

import click
import msgspec

from commands.checkpoint import sign_or_warn
from commands.common import Asked, find_experiment, print_json, say, shared, table
from commands.compact import compact_or_warn
from ledger import canonical
from ledger.chain import Log
from ledger.events import DecisionMade
from ledger.writer import Draft, Expect


@click.command("decide")
@click.argument("experiment", required=False)
@click.option("--dry-run", is_flag=True, help="Print the verdicts without appending them.")
@shared()
def command(asked: Asked, experiment: str | None, dry_run: bool) -> None:
    """Decide EXPERIMENT (name or id; default: the newest) and append one decision for each hypothesis."""
    log = asked.open()
    decisions, position = decide(log, experiment, append=not dry_run)
    if position is not None:
        sign_or_warn(log)
        compact_or_warn(log)
    if asked.json:
        for index, made in enumerate(decisions):
            at = {} if position is None else {"position": position + index}
            print_json({**at, **msgspec.to_builtins(made)})
        return
    print_verdicts(decisions)
    if position is not None:
        events = (
            f"event {position}" if len(decisions) == 1 else f"events {position} to {position + len(decisions) - 1}"
        )
        head = decisions[0].head.position
        say(f"decided at head {head}: {events}" if position == head else f"decided before on the same runs: {events}")


def decide(log: Log, wanted: str | None, append: bool = True) -> tuple[list[DecisionMade], int | None]:
    """Judge an experiment at the present head; the decisions and the position of the first.

    An equal judgement that was made already, on the same runs, is not made again: its position is
    returned. Raises Conflict when the experiment moved on while it was judged.
    """
    from projections.decide import decide as judge
    from projections.engine import tables

    built = tables(log)
    plan = find_experiment(built, wanted)
    made = judge(built, plan["experiment"])
    if not append:
        return made, None
    if (position := _made_before(built, made)) is not None:
        return made, position
    stream = f"experiment/{plan['experiment']}"
    together = str(uuid.uuid4())
    drafts = [Draft(stream, decision, correlation_id=together) for decision in made]
    position = log.writer.append(drafts, Expect(stream, built.head.position)).position
    log.close()
    return made, position


def _made_before(built: Any, made: list[DecisionMade]) -> int | None:
    """Position of the newest judgement of this experiment if it says the same of the same evidence."""
    rows = built.rows(
        """SELECT position, body FROM events
        WHERE stream = $1 AND type = 'decision.made' AND retracted_by IS NULL ORDER BY position DESC LIMIT $2""",
        (f"experiment/{made[0].experiment}", len(made)),
    )
    before = [msgspec.json.decode(row["body"])["data"] for row in reversed(rows)]
    now = [msgspec.json.decode(canonical.encode(decision)) for decision in made]  # as it would lie in the log
    for data in (*before, *now):
        data.pop("head")  # other experiments may have gone on in between
        data.pop("code")
    return rows[-1]["position"] if rows and before == now else None


WORDS = {"no_effect_that_matters": "no effect that matters"}


def words(made: DecisionMade) -> str:
    """The verdict as a person says it."""
    if made.verdict == "undecided" and made.k_more_seeds:
        return f"undecided, {made.k_more_seeds} more seed{'' if made.k_more_seeds == 1 else 's'}"
    if made.small:
        return f"{made.verdict} by under {made.delta:g}"
    if made.beyond_delta:
        return f"{made.verdict} by over {made.delta:g}"
    return WORDS.get(made.verdict, made.verdict)


def print_verdicts(decisions: list[DecisionMade]) -> None:
    lines = [["arm", "effect", "95 % interval", "Holm p", "pairs", "verdict"]]
    for made in sorted(decisions, key=lambda d: (d.effect if isinstance(d.effect, float) else 1e9, d.intervention)):
        interval = ""
        if isinstance(made.ci95_lo, float) and isinstance(made.ci95_hi, float):
            interval = f"{made.ci95_lo:+.4f} to {made.ci95_hi:+.4f}"
        effect = f"{made.effect:+.4f}" if isinstance(made.effect, float) else ""
        p = f"{made.p_adj:.2g}" if isinstance(made.p_adj, float) else ""
        lines.append([made.intervention, effect, interval, p, str(made.n_pairs), words(made)])
    table(lines, numeric={1, 2, 3, 4})
    for made in decisions:
        if made.verdict == "invalid":
            say(made.why)

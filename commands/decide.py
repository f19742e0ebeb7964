"""`ledger decide`: judge an experiment on the runs that are there, and append the judgement."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click
import msgspec

from commands.checkpoint import sign_or_warn
from commands.common import Asked, find_experiment, print_json, say, shared, table
from commands.compact import compact_or_warn
from commands.screens import decide_screen, tell_screen
from ledger import canonical
from ledger.chain import Log
from ledger.errors import UsageError
from ledger.events import DecisionMade
from ledger.writer import Draft, Expect

if TYPE_CHECKING:
    from projections.statistics.policies import Policy


@click.command("decide")
@click.argument("experiment", required=False)
@click.option(
    "--policy", "names", multiple=True, metavar="NAME", help="Judge by this policy; several beside each other."
)
@click.option("--dry-run", is_flag=True, help="Print the verdicts without appending them.")
@shared()
def command(asked: Asked, experiment: str | None, names: tuple[str, ...], dry_run: bool) -> None:
    """Decide EXPERIMENT (name or id; default: the newest) and append one decision for each hypothesis.

    It is decided by the policy that its plan registered. Each --policy is another rule; what it says is
    recorded beside, with its name and digest.
    """
    from projections.statistics.policies import find

    policies: list[Policy | None] = [find(name) for name in dict.fromkeys(names)] or [None]
    log = asked.open()
    if screen := decide_screen(log, experiment, append=not dry_run and not names):
        if names:
            raise UsageError(
                "a screen is judged by its average effects alone; --policy is for plans that compare arms"
            )
        if screen[1] is not None:
            sign_or_warn(log)
            compact_or_warn(log)
        tell_screen(*screen, asked.json)
        return
    decided = decide(log, experiment, policies, append=not dry_run)
    if any(position is not None for _, position in decided):
        sign_or_warn(log)
        compact_or_warn(log)
    for index, (decisions, position) in enumerate(decided):
        if asked.json:
            for number, made in enumerate(decisions):
                at = {} if position is None else {"position": position + number}
                print_json({**at, **msgspec.to_builtins(made)})
            continue
        if names:
            print(f"{'' if index == 0 else chr(10)}policy {decisions[0].policy}")
        print_verdicts(decisions)
        if position is not None:
            last = position + len(decisions) - 1
            events = f"event {position}" if len(decisions) == 1 else f"events {position} to {last}"
            head = decisions[0].head.position
            say(
                f"decided at head {head}: {events}"
                if position >= head
                else f"decided before on the same runs: {events}"
            )


def decide(
    log: Log, wanted: str | None, policies: Sequence[Policy | None] = (None,), append: bool = True
) -> list[tuple[list[DecisionMade], int | None]]:
    """Judge an experiment at the present head by each policy (None: the plan's); the decisions and the position of
    the first of each.

    An equal judgement that was made already, on the same runs, is not made again: its position is
    returned. Nothing is appended unless all of them can judge. Raises Conflict when the experiment
    moved on while it was judged.
    """
    from projections.decide import decide as judge
    from projections.engine import tables

    built = tables(log)
    plan = find_experiment(built, wanted)
    made = [judge(built, plan["experiment"], policy) for policy in policies]
    if not append:
        return [(one, None) for one in made]
    places = [_made_before(built, one) for one in made]
    stream = f"experiment/{plan['experiment']}"
    drafts: list[Draft] = []
    for one, place in zip(made, places, strict=True):
        if place is None:
            together = str(uuid.uuid4())
            drafts += [Draft(stream, decision, correlation_id=together) for decision in one]
    if drafts:
        at = log.writer.append(drafts, Expect(stream, built.head.position)).position
        for number, place in enumerate(places):
            if place is None:
                places[number] = at
                at += len(made[number])
    log.close()
    return list(zip(made, places, strict=True))


def _made_before(built: Any, made: list[DecisionMade]) -> int | None:
    """Position of the newest judgement of this experiment by this policy if it says the same of the same evidence."""
    from projections.decide import compared

    rows = built.rows(
        """SELECT max(position) AS position FROM decisions
        WHERE experiment = $1 AND policy = $2 GROUP BY intervention ORDER BY position""",
        (made[0].experiment, made[0].policy),
    )
    places = [row["position"] for row in rows]
    if len(places) != len(made) or places != list(range(places[0], places[0] + len(made))):
        return None
    before = [_recorded(built, place) for place in places]
    # As it would lie in the log; other experiments may have gone on in between, so heads are not compared.
    now = [msgspec.convert(msgspec.json.decode(canonical.encode(decision)), DecisionMade) for decision in made]
    same = all(
        one.intervention == other.intervention and not compared(one, other)
        for one, other in zip(before, now, strict=True)
    )
    return places[0] if same else None


def _recorded(built: Any, position: int) -> DecisionMade:
    from ledger import events

    (row,) = built.rows("SELECT version, body FROM events WHERE position = $1", (position,))
    data = events.parse(DecisionMade.TYPE, row["version"], msgspec.json.decode(row["body"])["data"])
    if not isinstance(data, DecisionMade):
        raise UsageError(f"event {position} is no decision")
    return data


WORDS = {"no_effect_that_matters": "no effect that matters"}


def words(made: Any) -> str:
    """The verdict as a person says it, of a DecisionMade or a row of `decisions`."""
    if made.verdict == "undecided":
        if made.track == "explore":
            return "worth confirming" if made.candidate else "explored"
        if made.k_more_seeds:
            return f"undecided, {made.k_more_seeds} more seed{'' if made.k_more_seeds == 1 else 's'}"
        return f"undecided, {made.pending} to run" if made.pending else "undecided"
    said: str = WORDS.get(made.verdict, made.verdict)
    if made.small:
        said = f"{said} by under {made.delta:g}"
    elif made.beyond_delta:
        said = f"{said} by over {made.delta:g}"
    return said


def print_verdicts(decisions: list[DecisionMade]) -> None:
    """A table that fits into 80 columns; of other rules than the ledger's own their word stands beside."""
    one = decisions[0]
    own = one.engine != "paired-pooled/1" and one.p_adj is None and one.mode == "fixed"
    evidence = {"anytime": "e-value", "looks": "p"}.get(one.mode, "p" if own else "Holm p")
    lines = [["arm", "effect", "95 % interval", evidence, "seeds", "verdict"]]
    for made in sorted(decisions, key=lambda d: (d.effect if isinstance(d.effect, float) else 1e9, d.intervention)):
        interval = ""
        if isinstance(made.ci95_lo, float) and isinstance(made.ci95_hi, float):
            interval = f"{made.ci95_lo:+.4f} to {made.ci95_hi:+.4f}"
        effect = f"{made.effect:+.4f}" if isinstance(made.effect, float) else ""
        told = made.e_value if made.mode == "anytime" else made.p_adj if evidence == "Holm p" else made.p
        lines.append(
            [
                made.intervention,
                effect,
                interval,
                "" if not isinstance(told, float) else f"{told:.2g}" if told >= 0.001 else f"{told:.0e}",
                f"{made.n_t}:{made.n_c}",
                verdict(made),
            ]
        )
    if sum(max(map(len, column)) + 2 for column in zip(*lines, strict=True)) - 2 > 80:  # long names of arms
        lines = [
            [*line[:-1], line[-1].replace(WORDS["no_effect_that_matters"], f"no effect ±{one.delta:g}")]
            for line in lines
        ]
    table(lines, numeric={1, 2, 3, 4})
    for made in decisions:
        if made.verdict == "invalid":
            say(made.why)


def verdict(made: Any) -> str:
    """The verdict, and the word of a rule that has its own."""
    theirs = made.label not in ("", "confirmed", "suggestive", "null") or made.boot_lo is not None
    said = made.label if theirs else words(made)
    if made.condition == "reduced_power" and "reduced power" not in said:
        said += ", reduced power"
    return said

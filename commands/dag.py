"""`ledger dag`: revise the causal DAG, show it, compare two revisions of it."""

from __future__ import annotations

import os
import uuid
from collections.abc import Sequence
from typing import Any, NamedTuple

import click
import msgspec

from commands.common import Asked, find_event, print_json, say, shared, table
from ledger import canonical
from ledger.chain import Log
from ledger.dag import DagEdge
from ledger.errors import UsageError
from ledger.events import DagRevised, Event
from ledger.writer import Draft, Expect

STREAM = "dag/main"
PROGRAMS = ("fci", "pc", "ges")


@click.group("dag")
def command() -> None:
    """The causal DAG: what acts on what, by experiments first, by the records' lineage second."""


# ── revise ──


class Revised(NamedTuple):
    """A whole revision, the position of its first event (None when it was not appended), and whether it is new."""

    made: DagRevised
    position: int | None
    new: bool


@command.command("revise")
@click.option("--skeleton", metavar="FILE", help="The expert's nodes and edges (default: the built-in ones).")
@click.option("--print-skeleton", is_flag=True, help="Print the built-in skeleton, to be edited.")
@click.option(
    "--discover", multiple=True, type=click.Choice(PROGRAMS), help="Ask causal-learn too; it may only propose."
)
@click.option("--test", type=click.Choice(["fisherz", "exact"]), default="fisherz", help="Test of fci and pc.")
@click.option("--limit", type=click.FloatRange(0.1, 86400), default=60.0, help="Seconds for each (default: 60).")
@click.option("--dry-run", is_flag=True, help="Print the revision without appending it.")
@shared()
def revise_command(
    asked: Asked,
    skeleton: str | None,
    print_skeleton: bool,
    discover: tuple[str, ...],
    test: str,
    limit: float,
    dry_run: bool,
) -> None:
    """Judge every edge again on the events that are there, and append the revision."""
    if print_skeleton:
        from projections.dag.skeleton import default_text

        print(default_text(), end="")
        return
    log = asked.open()
    made, position, new = revise(log, skeleton, discover, test, limit, append=not dry_run)
    if new:
        from commands.checkpoint import sign_or_warn
        from commands.compact import compact_or_warn

        sign_or_warn(log)
        compact_or_warn(log)
    if asked.json:
        at = {} if position is None else {"position": position}
        print_json({**at, **msgspec.to_builtins(made)})
        return
    print_summary(made)
    if position is not None:
        say(f"revised at head {made.head.position}: event {position}" if new else f"as before: event {position}")


def revise(
    log: Log,
    skeleton: str | None = None,
    discover: Sequence[str] = (),
    test: str = "fisherz",
    limit: float = 60.0,
    append: bool = True,
) -> Revised:
    """Revise at the present head and append it.

    `skeleton` is a file's path. A revision that would say the same as the newest one is not made again:
    that one is returned. Raises Conflict when somebody else revised meanwhile.
    """
    from projections.dag import parts
    from projections.dag import revise as dag
    from projections.dag.skeleton import parse
    from projections.engine import tables

    told = parse(*_read(skeleton))
    built = tables(log)
    found = tuple(_ask(built, told.outcome.id, name, test, limit) for name in dict.fromkeys(discover))
    made = dag.revise(built, told, found)
    if not append:
        return Revised(made, None, False)
    newest = revisions(built)[-1:]
    if newest and _says(newest[0][1]) == _says(made):
        return Revised(newest[0][1], newest[0][0], False)
    together = str(uuid.uuid4())
    drafts = [Draft(STREAM, part, correlation_id=together) for part in parts.split(made)]
    position = log.writer.append(drafts, Expect(STREAM, built.head.position)).position
    log.close()
    return Revised(made, position, True)


def _read(path: str | None) -> tuple[str, str]:
    """Text and name of the skeleton."""
    from projections.dag.skeleton import default_text

    if path is None:
        return default_text(), "the built-in skeleton"
    try:
        with open(path, encoding="utf-8") as file:
            return file.read(), path
    except UnicodeDecodeError:
        raise UsageError(f"{path} is not UTF-8 text") from None
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}") from None


def _ask(built: Any, outcome: str, algorithm: str, test: str, limit: float) -> Any:
    from projections.dag.stacks import stacks
    from runners.discovery import discover

    names, rows = stacks(built, outcome)
    return discover(algorithm, names, rows, limit, test)


def _says(made: DagRevised) -> Any:
    """What a revision says, without the state that it was read at and what is drawn again with it."""
    told = msgspec.json.decode(canonical.encode(made))
    for name in ("head", "code", "base"):
        told.pop(name)
    for entry in (*told["edges"], *told["lineage"]):
        entry.pop("stability")
    return told


def revisions(built: Any) -> list[tuple[int, DagRevised]]:
    """(position, whole revision) of all that stand in these tables, in log order."""
    from projections.dag import parts

    return list(parts.revisions(built))


# ── show ──


@command.command("show")
@click.argument("revision", required=False)
@click.option(
    "--format",
    "form",
    type=click.Choice(["table", "dot", "svg", "png"]),
    default="table",
    help="How (default: table).",
)
@click.option("-o", "--output", metavar="FILE", help="Write there instead of to standard output.")
@click.option("--all", "everything", is_flag=True, help="All nodes and edges, also those that nothing speaks of.")
@click.option("-n", "--techniques", type=click.IntRange(1), default=30, help="Techniques to draw (default: 30).")
@shared(as_of=True)
def show_command(
    asked: Asked, revision: str | None, form: str, output: str | None, everything: bool, techniques: int
) -> None:
    """Show the newest revision, or REVISION (position or event id): as a table, or drawn."""
    log = asked.open()
    built = asked.tables(log)
    position, made = _revision(log, built, revision)
    _warn_of_base(built, position)
    if asked.json and form == "table":
        print_json({"position": position, **msgspec.to_builtins(made)})
        return
    if form == "table":
        if output:
            raise click.UsageError("-o goes with --format dot, svg or png")
        print_table(position, made, everything)
        return
    from commands import drawing

    data = drawing.draw(made, form, None if everything else techniques)
    _write(data, output, form)
    if asked.json:
        print_json({"position": position, "file": output, "bytes": len(data)})


def _revision(log: Log, built: Any, wanted: str | None) -> tuple[int, DagRevised]:
    """The revision that is meant, of those that stand. Raises UsageError with what is there."""
    there = revisions(built)
    if wanted is None:
        if not there:
            gone = built.rows("SELECT position FROM events WHERE type = 'dag.revised' ORDER BY position DESC LIMIT 1")
            if gone:
                raise UsageError(
                    f"every revision was taken back (the last was #{gone[0]['position']}); `ledger dag revise`"
                )
            raise UsageError("the DAG has no revision yet; `ledger dag revise` makes one")
        return there[-1]
    event: Event = find_event(log, wanted)
    lengths = {row["position"]: row["parts"] for row in built.rows("SELECT position, parts FROM dag_revisions")}
    for position, made in there:
        if position <= event.position < position + lengths[position]:
            return position, made
    if event.type != DagRevised.TYPE:
        known = ", ".join(f"#{position}" for position, _ in there[-5:]) or "none"
        raise UsageError(f"event {event.position} is {event.type}, no revision of the DAG; the last are {known}")
    rows = built.rows(
        """SELECT took.position, took.reason FROM staged.event_retracted AS took
        INNER JOIN events ON events.id = took.target
        WHERE events.correlation_id = $1 ORDER BY took.position LIMIT 1""",
        (event.correlation_id,),
    )
    if rows:
        raise UsageError(f"revision #{event.position} was taken back at #{rows[0]['position']}: {rows[0]['reason']}")
    raise UsageError(f"revision #{event.position} came later than these tables are as of")


def _warn_of_base(built: Any, position: int) -> None:
    rows = built.rows("SELECT base FROM dag_revisions WHERE position = $1 AND base_retracted", (position,))
    if rows:
        (event,) = built.rows("SELECT position FROM events WHERE id = $1", (rows[0]["base"],))
        say(f"revision #{position} followed #{event['position']}, which was taken back since; its own figures stand")


def _write(data: bytes, output: str | None, form: str) -> None:
    if output is None:
        import sys

        if form == "png" and sys.stdout.isatty():
            raise click.UsageError("a PNG is no text for a terminal; give -o FILE")
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()
        return
    try:
        if folder := os.path.dirname(output):
            os.makedirs(folder, exist_ok=True)
        with open(output, "wb") as file:
            file.write(data)
    except OSError as error:
        raise UsageError(f"{output} cannot be written: {error.strerror}") from None
    say(f"wrote {output}")


STATUS = {"no_effect_that_matters": "no effect", "imposed": "expert only"}


def print_summary(made: DagRevised) -> None:
    """What a revision holds, and what to look at."""
    status: list[str] = [edge.status for edge in made.edges if edge.kind not in ("proposed", "accounting")]
    techniques = len([node for node in made.nodes if node.kind == "intervention"])
    print(
        f"{techniques} techniques and settings, {len(made.nodes) - techniques} other nodes, {len(made.edges)} edges"
    )
    words = {
        "supported": "supported",
        "contradicted": "contradicted",
        "no_effect_that_matters": "without an effect that matters",
        "undecided": "undecided",
        "imposed": "held by the expert only",
    }
    print(", ".join(f"{status.count(name)} {text}" for name, text in words.items() if status.count(name)))
    measures = {one.name: one.value for one in made.measures}
    print(
        f"{measures['comparisons']:.0f} comparisons: {measures['single']:.0f} change one thing, "
        f"{measures['many']:.0f} change three or more ({measures['many_share']:.0%}: {made.recommendation})"
    )
    for one in made.discovery:
        what = f"{len(one.proposed)} edges proposed" if one.outcome == "ok" else one.outcome
        what += f" ({one.reason})" if one.reason else ""
        print(f"{one.algorithm} on {one.rows} x {one.columns}: {what}")
    for apart in [one for one in made.separations if one.ablate][:2]:
        many = len(apart.techniques)
        print(f"to tell {many} techniques apart, first {apart.experiment} ({apart.cost_runs} runs)")
    for note in made.notes:
        say(note)


def print_table(position: int, made: DagRevised, everything: bool) -> None:
    """The edges, a block for each node that they lead into, the outcome first."""
    from commands.drawing import amount, unit_of

    print(f"revision #{position}, head {made.head.position}: {len(made.nodes)} nodes, {len(made.edges)} edges")
    nodes = sorted((node for node in made.nodes if node.kind != "intervention"), key=lambda n: n.kind != "outcome")
    hidden = 0
    for node in nodes:
        into = [edge for edge in made.edges if edge.dst == node.id]
        shown = [edge for edge in into if everything or _worth(edge, node.kind == "outcome")]
        hidden += len(into) - len(shown)
        if not shown:
            continue
        print(f"\ninto {node.id}: {node.label}, in {unit_of(node)}, delta {float(amount(node.delta or 0, node)):g}")
        lines = [["from", "lineage", "own", "90 % interval", "stable", "status"]]
        for edge in sorted(shown, key=_order):
            interval = ""
            if edge.lo90 is not None and edge.hi90 is not None and edge.kind != "accounting":
                interval = f"{amount(edge.lo90, node)} {amount(edge.hi90, node)}"
            status = STATUS.get(edge.status, edge.status)
            if edge.kind in ("accounting", "proposed"):
                status = "by definition" if edge.kind == "accounting" else f"only {', '.join(edge.proposed_by)}"
            lines.append(
                [
                    edge.src if len(edge.src) <= 26 else f"{edge.src[:25]}…",
                    "" if edge.lineage_effect is None else amount(edge.lineage_effect, node),
                    "" if edge.experiment_effect is None else amount(edge.experiment_effect, node),
                    interval,
                    "" if edge.stability is None or edge.kind != "lineage" else f"{edge.stability:.2f}",
                    status,
                ]
            )
        table(lines, numeric={1, 2, 3, 4})
    if hidden:
        say(f"{hidden} edges that nothing decides yet are not shown; --all shows them")


def _worth(edge: DagEdge, outcome: bool) -> bool:
    return (
        edge.status not in ("imposed", "undecided")
        or edge.kind == "accounting"
        or (outcome and edge.effect is not None)
    )


_RANK = ("supported", "contradicted", "no_effect_that_matters", "undecided", "imposed")


def _order(edge: DagEdge) -> tuple[int, float, str]:
    return _RANK.index(edge.status), -abs(edge.effect / edge.sd) if edge.effect and edge.sd else 0.0, edge.src


# ── diff ──


@command.command("diff")
@click.argument("before", metavar="A", required=False)
@click.argument("after", metavar="B", required=False)
@click.option(
    "--all", "everything", is_flag=True, help="Also edges that moved by less than half a standard deviation."
)
@shared(as_of=True)
def diff_command(asked: Asked, before: str | None, after: str | None, everything: bool) -> None:
    """What changed from revision A to revision B (default: the last two), how far, and by which events."""
    from projections.dag.difference import difference

    log = asked.open()
    built = asked.tables(log)
    if (before is None) != (after is None):
        raise click.UsageError("name two revisions, or none for the last two")
    if before is None:
        there = revisions(built)
        if len(there) < 2:
            raise UsageError(f"the DAG has {len(there)} revision{'s' * (len(there) != 1)}; two are needed to compare")
        a, b = there[-2:]
    else:
        a, b = _revision(log, built, before), _revision(log, built, after)
    for position, _ in (a, b):
        _warn_of_base(built, position)
    changes = difference(a[1], b[1])
    if asked.json:
        for one in changes:
            print_json({"from": a[0], "to": b[0], **msgspec.to_builtins(one._asdict())})
        return
    print_changes(a, b, changes, everything, {row["id"]: row for row in _cited(built, changes)})


def _cited(built: Any, changes: Sequence[Any]) -> list[dict[str, Any]]:
    """Position and type of the events that the changes name, with what each was."""
    ids = sorted({one for change in changes for one in change.event_ids})
    rows: list[dict[str, Any]] = built.rows(
        """SELECT events.id, events.position, events.type, runs.arm, runs.seed, records.record
        FROM events
        LEFT JOIN runs ON runs.finished_id = events.id
        LEFT JOIN records ON records.event_id = events.id
        WHERE list_contains($1, events.id) ORDER BY events.position""",
        (ids,),
    )
    return rows


def print_changes(
    a: tuple[int, DagRevised],
    b: tuple[int, DagRevised],
    changes: Sequence[Any],
    everything: bool,
    cited: dict[str, Any],
) -> None:
    from commands.drawing import amount
    from projections.dag.difference import evidence

    nodes = {node.id: node for node in (*a[1].nodes, *b[1].nodes)}
    big = [
        one
        for one in changes
        if everything or one.cause != "model" or one.change != "effect" or abs(one.z or 0) >= 0.5
    ]
    heads = f"from revision #{a[0]} (head {a[1].head.position}) to #{b[0]} (head {b[1].head.position})"
    print(f"{heads}: {len(changes)} edge{'s' * (len(changes) != 1)} changed")
    for one in sorted(big, key=lambda one: (one.change == "effect", -abs(one.z or 0), one.src, one.dst)):
        told = []
        for edge in (one.before, one.after):
            status = "not there" if edge is None else STATUS.get(edge.status, edge.status)
            effect = "" if edge is None or edge.effect is None else f" {amount(edge.effect, nodes[one.dst])}"
            told.append(f"{status}{effect}")
        z = "" if one.z is None else f", z {one.z:+.1f}"
        print(f"\n{one.src} -> {one.dst}: {one.change}, {told[0]} -> {told[1]}{z}")
        print(f"  {_because(one, cited, frozenset(evidence(b[1], one.after)))}")
    if len(big) < len(changes):
        few = f"{len(changes) - len(big)} edges moved by less than half a standard deviation with the shared model"
        say(f"{few}; --all shows them")


def _because(one: Any, cited: dict[str, Any], there: frozenset[str]) -> str:
    if one.cause == "skeleton":
        return "the expert's skeleton is another one"
    if one.cause == "procedure":
        return "the procedure is another one; the events are the same"
    named = []
    for event in one.event_ids:
        row = cited.get(event)
        gone = "no longer " if one.cause == "evidence" and event not in there else ""
        if row is None:
            named.append(f"{gone}{event[:13]}")
        elif row["arm"] is not None:
            named.append(f"{gone}#{row['position']} {row['arm']} seed {row['seed']}")
        else:
            named.append(f"{gone}#{row['position']} {row['record'] or row['type']}")
    lead = "by" if one.cause == "evidence" else "through the shared model, by"
    more = f" and {len(named) - 8} more (--json names all)" if len(named) > 8 else ""
    return f"{lead} {', '.join(named[:8])}{more}"

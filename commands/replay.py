"""`ledger replay`: make a judgement again from the events that it read, and compare every figure.

Judgements are decisions, what screens say, rankings of cycles, and revisions of the causal DAG, whose parts are one
judgement.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import click

from commands.common import Asked, find_event, print_json, say, shared
from ledger.chain import Log
from ledger.errors import UsageError
from ledger.events import CycleRanked, DagRevised, DecisionMade, Event, ScreenJudged

if TYPE_CHECKING:
    from projections.decide import Difference

Judged = DecisionMade | ScreenJudged | CycleRanked | DagRevised
KINDS = (DecisionMade, ScreenJudged, CycleRanked, DagRevised)


@click.command("replay")
@click.argument("what", required=False)
@click.option("--all", "every", is_flag=True, help="Replay every judgement in the log.")
@shared()
def command(asked: Asked, what: str | None, every: bool) -> int:
    """Replay WHAT (position or event id of a decision or a revision), or --all. Exit code 1 when a figure differs."""
    if (what is None) == (not every):
        raise click.UsageError("name one decision or revision (position or id), or give --all")
    log = asked.open()
    log.head()
    judgements = _all(log) if every else [_judgement(log, str(what))]
    if not judgements:
        say("no judgement in this ledger yet; `ledger decide` and `ledger dag revise` make them")
        return 0
    different = 0
    for event, differences in replay(log, judgements):
        different += bool(differences)
        if asked.json:
            print_json(
                {
                    "position": event.position,
                    "event_id": event.event_id,
                    "exact": not differences,
                    "differences": [d._asdict() for d in differences],
                }
            )
        else:
            for d in differences:
                print(f"#{event.position} {d.field}: recorded {d.recorded!r}, now {d.now!r}")
            if not differences and not every:
                print(f"#{event.position} comes out exactly, as of {_said(event)}")
    if not asked.json and every:
        print(f"{len(judgements) - different} of {len(judgements)} judgements come out exactly")
    return 1 if different else 0


def replay(log: Log, judgements: list[Event]) -> Iterator[tuple[Event, list[Difference]]]:
    """Yield (event, differences) for each judgement, in order of the heads that they read."""
    from projections.decide import Difference
    from projections.engine import each_head

    parsed = [(event, event.data) for event in judgements]
    by_head = [(event, data) for event, data in parsed if isinstance(data, KINDS)]
    heads = sorted({data.head.position for _, data in by_head})
    for tables in each_head(log, heads):
        for event, data in by_head:
            if data.head.position == tables.head.position:
                try:
                    yield event, _again(log, tables, event, data)
                except UsageError as error:  # one judgement that cannot be made again must not hide the others
                    yield event, [Difference(_of(data), _name(data), str(error))]


def _again(log: Log, tables: Any, event: Event, data: Judged) -> list[Difference]:
    """The differences of one judgement, by the procedure of its type."""
    from projections.decide import Difference

    if isinstance(data, DecisionMade):
        from projections.decide import replay

        return replay(tables, data)
    if isinstance(data, ScreenJudged):
        from projections import screening

        return screening.replay(tables, data)
    if isinstance(data, CycleRanked):
        from projections import cycling

        return cycling.replay(tables, data)
    from projections.dag import parts
    from projections.dag import revise as dag

    found = log.events(start=event.position, as_of=event.position + data.parts)
    whole = parts.join([part.data for part in found if isinstance(part.data, DagRevised)])
    return [Difference(*one) for one in dag.replay(tables, whole)]


def _of(data: Judged) -> str:
    return "procedure" if isinstance(data, DagRevised) else "cycle" if isinstance(data, CycleRanked) else "experiment"


def _name(data: Judged) -> str:
    return str(getattr(data, _of(data)))


def _said(event: Event) -> str:
    """Head and gist of a judgement."""
    data = event.data
    if isinstance(data, (DecisionMade, ScreenJudged, CycleRanked)):
        return f"{data.head.position} events: {data.why}"
    assert isinstance(data, DagRevised)
    return f"{data.head.position} events: a revision of the DAG"


def _all(log: Log) -> list[Event]:
    """Every judgement; of a revision in parts the first, which stands for all."""
    found = log.events(types=tuple(kind.TYPE for kind in KINDS))
    return [event for event in found if not (isinstance(data := event.data, DagRevised) and data.part > 1)]


def _judgement(log: Log, what: str) -> Event:
    event = find_event(log, what)
    if event.type not in {kind.TYPE for kind in KINDS}:
        raise UsageError(
            f"event {event.position} is {event.type}, a fact; only judgements "
            f"({', '.join(kind.TYPE for kind in KINDS)}) can be replayed"
        )
    data = event.data
    if isinstance(data, DagRevised) and data.part > 1:
        return find_event(log, str(event.position - data.part + 1))
    return event

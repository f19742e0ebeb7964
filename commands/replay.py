"""`ledger replay`: make a judgement again from the events that it read, and compare every figure."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import click

from commands.common import Asked, find_event, print_json, say, shared
from ledger.chain import Log
from ledger.errors import UsageError
from ledger.events import DecisionMade, Event

if TYPE_CHECKING:
    from projections.decide import Difference


@click.command("replay")
@click.argument("what", required=False)
@click.option("--all", "every", is_flag=True, help="Replay every judgement in the log.")
@shared()
def command(asked: Asked, what: str | None, every: bool) -> int:
    """Replay WHAT (position or event id of a decision), or --all. Exit code 1 when a figure differs."""
    if (what is None) == (not every):
        raise click.UsageError("name one decision (position or id), or give --all")
    log = asked.open()
    log.head()
    judgements = list(log.events(types=(DecisionMade.TYPE,))) if every else [_decision(log, str(what))]
    if not judgements:
        say("no judgement in this ledger yet; `ledger decide` makes one")
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
                data = event.data
                assert isinstance(data, DecisionMade)
                print(f"#{event.position} comes out exactly, as of {data.head.position} events: {data.why}")
    if not asked.json and every:
        print(f"{len(judgements) - different} of {len(judgements)} judgements come out exactly")
    return 1 if different else 0


def replay(log: Log, judgements: list[Event]) -> Iterator[tuple[Event, list[Difference]]]:
    """Yield (event, differences) for each judgement, in order of the heads that they read."""
    from projections.decide import Difference
    from projections.decide import replay as again
    from projections.engine import each_head

    parsed = [(event, event.data) for event in judgements]
    by_head = [(event, data) for event, data in parsed if isinstance(data, DecisionMade)]
    heads = sorted({data.head.position for _, data in by_head})
    for tables in each_head(log, heads):
        for event, data in by_head:
            if data.head.position == tables.head.position:
                try:
                    yield event, again(tables, data)
                except UsageError as error:  # one judgement that cannot be made again must not hide the others
                    yield event, [Difference("experiment", data.experiment, str(error))]


def _decision(log: Log, what: str) -> Event:
    event = find_event(log, what)
    if event.type != DecisionMade.TYPE:
        raise UsageError(
            f"event {event.position} is {event.type}, a fact; only judgements (decision.made) can be replayed"
        )
    return event

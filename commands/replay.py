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
    from projections.against import Against
    from projections.decide import Difference


@click.command("replay")
@click.argument("what", required=False)
@click.option("--all", "every", is_flag=True, help="Replay every judgement in the log.")
@click.option(
    "--against", type=click.Choice(["now"]), help="Decide again on the events of now, and name those that changed it."
)
@shared()
def command(asked: Asked, what: str | None, every: bool, against: str | None) -> int:
    """Replay WHAT (position or event id of a decision), or --all. Exit code 1 when a figure differs.

    --against now shows what the same decision would be today; that it is another one is no failure.
    """
    if (what is None) == (not every):
        raise click.UsageError("name one decision (position or id), or give --all")
    log = asked.open()
    log.head()
    judgements = list(log.events(types=(DecisionMade.TYPE,))) if every else [_decision(log, str(what))]
    if not judgements:
        say("no judgement in this ledger yet; `ledger decide` makes one")
        return 0
    if against:
        return _against(asked, log, judgements)
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
    from projections.decide import replay_many
    from projections.engine import each_head

    parsed = [(event, event.data) for event in judgements]
    by_head = [(event, data) for event, data in parsed if isinstance(data, DecisionMade)]
    heads = sorted({data.head.position for _, data in by_head})
    for tables in each_head(log, heads):
        mine = [(event, data) for event, data in by_head if data.head.position == tables.head.position]
        found = replay_many(tables, [data for _, data in mine])
        yield from zip([event for event, _ in mine], found, strict=True)


def _against(asked: Asked, log: Log, judgements: list[Event]) -> int:
    """Each judgement beside the same one on the events of now."""
    from projections.against import against
    from projections.engine import each_head, tables

    today = tables(log)
    parsed = [(event, event.data) for event in judgements]
    changed = 0
    by_head = [(event, data) for event, data in parsed if isinstance(data, DecisionMade)]
    for then in each_head(log, sorted({data.head.position for _, data in by_head})):
        for event, data in by_head:
            if data.head.position == then.head.position:
                try:
                    found = against(then, today, data)
                except UsageError as error:
                    changed += 1
                    _refused(asked, event, str(error))
                    continue
                changed += bool(found.differences or found.refused)
                _tell(asked, event, found, today.head.position, short=len(by_head) > 1)
    if not asked.json and len(by_head) > 1:
        print(f"{len(by_head) - changed} of {len(by_head)} judgements would be the same today")
    return 0


def _refused(asked: Asked, event: Event, why: str) -> None:
    if asked.json:
        print_json({"position": event.position, "event_id": event.event_id, "refused": why})
    else:
        print(f"#{event.position} cannot be made again: {why}")


def _tell(asked: Asked, event: Event, found: Against, size: int, short: bool) -> None:
    then, now = found.recorded, found.now
    if asked.json:
        print_json(
            {
                "position": event.position,
                "event_id": event.event_id,
                "then": {"head": then.head.position, "verdict": then.verdict, "why": then.why},
                "now": None if now is None else {"head": size, "verdict": now.verdict, "why": now.why},
                "refused": found.refused,
                "differences": [d._asdict() for d in found.differences],
                "program": [d._asdict() for d in found.program],
                "changed_by": [c._asdict() for c in found.changes],
            }
        )
        return
    if now is not None and not found.differences and not found.program:
        print(f"#{event.position} would be the same today, as of {size} events: {then.why}")
        return
    if short and now is not None:
        print(f"#{event.position} {then.intervention}: {then.verdict}, today {now.verdict}")
        return
    print(f"#{event.position}, as of {then.head.position} events: {then.why}")
    print(f"today, as of {size} events: {found.refused if now is None else now.why}")
    for name in ("effect", "se", "df", "p", "p_adj", "e_value", "s0", "n_t", "n_c"):
        for d in found.differences:
            if d.field == name:
                print(f"  {name}: {_figure(d.recorded)} -> {_figure(d.now)}")
    for d in found.program:
        print(f"  this program differs on the events of then: {d.field} {_figure(d.recorded)} -> {_figure(d.now)}")
    for change in found.changes:
        at = "" if change.position is None else f"#{change.position} "
        print(f"  {at}{change.type} {(change.event_id or '')[:13]}: {change.why}")
    if not found.changes and found.differences and not found.program:
        print("  no event of this experiment, its base or its noise class came since")


def _figure(value: object) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _decision(log: Log, what: str) -> Event:
    event = find_event(log, what)
    if event.type != DecisionMade.TYPE:
        raise UsageError(
            f"event {event.position} is {event.type}, a fact; only judgements (decision.made) can be replayed"
        )
    return event

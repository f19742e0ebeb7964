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
    from projections.against import Against
    from projections.decide import Difference

KINDS = (DecisionMade, ScreenJudged, CycleRanked, DagRevised)


@click.command("replay")
@click.argument("what", required=False)
@click.option("--all", "every", is_flag=True, help="Replay every judgement in the log.")
@click.option(
    "--against", type=click.Choice(["now"]), help="Decide again on the events of now, and name those that changed it."
)
@shared()
def command(asked: Asked, what: str | None, every: bool, against: str | None) -> int:
    """Replay WHAT (position or event id of a judgement), or --all. Exit code 1 when a figure differs.

    --against now shows what the same decision would be today; that it is another one is no failure.
    """
    if (what is None) == (not every):
        raise click.UsageError("name one decision or revision (position or id), or give --all")
    log = asked.open()
    log.head()
    judgements = _all(log) if every else [_judgement(log, str(what))]
    if not judgements:
        say("no judgement in this ledger yet; `ledger decide` and `ledger dag revise` make them")
        return 0
    if against:
        if not every and not isinstance(judgements[0].data, DecisionMade):
            raise UsageError(f"event {judgements[0].position} is {judgements[0].type}; --against is for decisions")
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
                print(f"#{event.position} comes out exactly, as of {_said(event)}")
    if not asked.json and every:
        print(f"{len(judgements) - different} of {len(judgements)} judgements come out exactly")
    return 1 if different else 0


def replay(log: Log, judgements: list[Event]) -> Iterator[tuple[Event, list[Difference]]]:
    """Yield (event, differences) for each judgement, in order of the heads that they read."""
    from projections.decide import Difference, replay_many
    from projections.engine import each_head

    parsed = [(event, event.data) for event in judgements]
    by_head = [(event, data) for event, data in parsed if isinstance(data, KINDS)]
    heads = sorted({data.head.position for _, data in by_head})
    for tables in each_head(log, heads):
        mine = [(event, data) for event, data in by_head if data.head.position == tables.head.position]
        decisions = [(event, data) for event, data in mine if isinstance(data, DecisionMade)]
        found = replay_many(tables, [data for _, data in decisions])
        yield from zip([event for event, _ in decisions], found, strict=True)
        for event, data in mine:
            if not isinstance(data, DecisionMade):
                try:
                    yield event, _again(log, tables, event, data)
                except UsageError as error:  # one judgement that cannot be made again must not hide the others
                    yield event, [Difference(_of(data), _name(data), str(error))]


def _again(log: Log, tables: Any, event: Event, data: ScreenJudged | CycleRanked | DagRevised) -> list[Difference]:
    """The differences of one judgement that is no decision, by the procedure of its type."""
    from projections.decide import Difference

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


def _of(data: ScreenJudged | CycleRanked | DagRevised) -> str:
    return "procedure" if isinstance(data, DagRevised) else "cycle" if isinstance(data, CycleRanked) else "experiment"


def _name(data: ScreenJudged | CycleRanked | DagRevised) -> str:
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

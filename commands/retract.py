"""`ledger retract`: take an event back. It stays in the log; tables leave it out from here on."""

from __future__ import annotations

import click

from commands.common import Asked, find_event, print_json, say, shared
from commands.compact import compact_or_warn
from ledger.errors import UsageError
from ledger.events import EventRetracted
from ledger.writer import Draft, Expect


@click.command("retract")
@click.argument("what")
@click.option("--reason", required=True, help="Why, in a line; it stays in the log.")
@shared()
def command(asked: Asked, what: str, reason: str) -> None:
    """Retract the event WHAT (position or id). `--as-of` before the retraction still shows it."""
    log = asked.open()
    if not reason.strip():
        raise UsageError("a retraction needs a reason")
    head = log.head()
    event = find_event(log, what)
    if event.type == EventRetracted.TYPE:
        raise UsageError("a retraction cannot be retracted; record again what was taken back")
    for earlier in log.events(types=(EventRetracted.TYPE,)):
        data = earlier.data
        if isinstance(data, EventRetracted) and data.target == event.event_id:
            raise UsageError(f"event {event.position} was retracted already, at position {earlier.position}")
    made = log.writer.append(
        [Draft(event.stream, EventRetracted(target=event.event_id, reason=reason), causation_id=event.event_id)],
        Expect(event.stream, head.position),
    )
    log.close()
    if asked.json:
        print_json({"position": made.position, "event_id": made.event_ids[0], "target": event.event_id})
    else:
        say(f"event {event.position} ({event.type}) is retracted by event {made.position}")
    compact_or_warn(log)

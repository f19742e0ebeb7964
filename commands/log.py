"""`ledger log`: the events, newest last."""

from __future__ import annotations

from collections import deque
from typing import Any

import click
import msgspec

from commands.common import Asked, cell, count, print_json, say, shared, table
from ledger.errors import LedgerError
from ledger.events import TYPES, Event


@click.command("log")
@click.option("-n", "--last", type=click.IntRange(1), help="Only the last N events (default: 40 on a terminal).")
@click.option("--type", "kind", metavar="TYPE", help="Only events of this type, for example run.finished.")
@click.option("--stream", metavar="KIND/NAME", help="Only events of this stream.")
@shared(as_of=True)
def command(asked: Asked, last: int | None, kind: str | None, stream: str | None) -> None:
    """List events in order: position, time, type, and what it says in a few words."""
    if kind is not None and kind not in TYPES:
        import difflib

        close = difflib.get_close_matches(kind, TYPES, 1)
        hint = f"did you mean {close[0]}?" if close else f"there are {', '.join(TYPES)}"
        raise click.UsageError(f"no event type {kind!r}; {hint}")
    log = asked.open()
    log.head()
    found = log.events(as_of=asked.as_of, stream=stream, types=[kind] if kind else None)
    import sys

    keep = last or (40 if sys.stdout.isatty() and not asked.json else None)
    events = deque(found, maxlen=keep)
    if asked.json:
        for event in events:
            print_json(as_json(event))
        return
    if not events:
        say("no events" if kind or stream else "the ledger is empty; `ledger run` fills it")
        return
    lines = [["#", "time", "type", "what"]]
    lines += [[str(e.position), e.recorded_at[:19].replace("T", " "), e.type, cell(summary(e))] for e in events]
    table(lines, numeric={0})


def as_json(event: Event) -> dict[str, Any]:
    """An event for programs: the body as it lies in the log, and the position."""
    return {"position": event.position, **msgspec.json.decode(event.body)}


def summary(event: Event) -> str:
    """An event's content in a few words."""
    try:
        data: Any = event.data
    except LedgerError as error:
        return str(error)
    match event.type:
        case "experiment.registered":
            cells = f"{count(len(data.arms), 'arm')} x {count(len(data.seeds), 'seed')}"
            return f"{data.name}: {cells} on {data.metric}, delta {data.delta:g}"
        case "plan.amended":
            changed = ", ".join(f"{one.key} {one.before} -> {one.after}" for one in data.changes)
            return f"{changed}: {data.reason}" if data.reason else changed
        case "run.started":
            return f"{data.run[:8]} {data.arm}, seed {data.seed}"
        case "run.finished":
            value = f"{data.metric} {data.value:.6g}" if isinstance(data.value, float) else data.reason
            return f"{data.run[:8]} {data.status}: {value}" if value else f"{data.run[:8]} {data.status}"
        case "metrics.logged":
            one = data.first_step == data.last_step
            steps = f"step {data.first_step}" if one else f"steps {data.first_step} to {data.last_step}"
            return f"{data.run[:8]} {count(data.rows, 'point')} of {count(len(data.names), 'metric')}, {steps}"
        case "artifact.stored":
            return f"{(data.run or data.experiment or '')[:8]} {data.name}, {count(data.bytes, 'byte')}"
        case "decision.made" | "cycle.ranked" | "screen.judged":
            return str(data.why)
        case "screen.planned":
            return f"{count(len(data.factors), 'factor')} in {count(len(data.stacks), 'stack')}, for average effects"
        case "cycle.planned":
            candidates, seeds = count(len(data.candidates), "candidate"), count(data.seeds, "seed")
            return f"{data.name}: {candidates}, {seeds} each, delta {data.delta:g}"
        case "dag.revised":
            if data.part > 1:
                return f"part {data.part} of {data.parts} of the revision at {event.position - data.part + 1}"
            parts = f", in {data.parts} parts" if data.parts > 1 else ""
            return f"the DAG as of {count(data.head.position, 'event')}{parts}; {data.recommendation}"
        case "probe.measured":
            return f"{data.probe}: {count(len(data.values), 'value')}"
        case "record.extracted":
            part = f", part {data.part} of {data.parts}" if data.parts > 1 else ""
            techniques, seeds = count(len(data.interventions), "technique"), count(len(data.seeds), "seed")
            return f"{data.record}: {techniques}, {seeds}{part}"
        case "leaderboard.extracted":
            return f"{count(len(data.rows), 'row')}{f' of {data.repository}' if data.repository else ''}"
        case "extraction.failed":
            return f"{data.path}: {data.reason}"
        case "key.added":
            return f"key {data.key} signs from here on"
        case "key.revoked":
            return f"key {data.key} signs no more: {data.reason}"
        case "ledger.recovered":
            return f"{data.path} {data.action}: {data.reason}"
        case "event.retracted":
            return f"takes back {data.target[:13]}: {data.reason}"
    return ""

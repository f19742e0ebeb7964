"""`ledger show`: one event, run or experiment, whole."""

from __future__ import annotations

import shlex
import sys
from typing import Any

import click
import msgspec

from commands.common import Asked, cell, find_event, find_experiment, print_json, say, shared, table
from commands.log import as_json, summary
from ledger.chain import Log
from ledger.errors import UsageError


@click.command("show")
@click.argument("what")
@click.option("--text", metavar="KIND", help="Print an artifact of a run: stdout, stderr, diff or environment.")
@shared(as_of=True)
def command(asked: Asked, what: str, text: str | None) -> None:
    """Show WHAT: a position, an event id, a run's id, or an experiment's name or id (beginnings will do)."""
    log = asked.open()
    log.head()
    if not what:
        raise UsageError("name what to show: a position, or the beginning of an id; `ledger log` lists them")
    if text is not None:
        show_text(log, asked, what, text)
        return
    then = asked.position(log)
    if what.isdecimal() and int(what) < (log.size if then is None else then):
        show_event(log, asked, what)
        return
    tables = asked.tables(log)
    runs = tables.rows("SELECT * FROM runs WHERE starts_with(run, $1) ORDER BY started_position", (what,))
    if len(runs) == 1:
        show_row(runs[0], asked)
        if not asked.json:
            print()
            show_stream(log, f"run/{runs[0]['run']}", then)
            tell_texts(tables, asked, runs[0])
        return
    if len(runs) > 1:
        raise UsageError(f"{len(runs)} runs' ids begin with {what}; give more of it")
    try:
        experiment = find_experiment(tables, what)
    except UsageError:
        try:
            show_event(log, asked, what)
        except UsageError:
            raise UsageError(
                f"{what!r} is no position, event, run or experiment here; `ledger log` lists them"
            ) from None
        return
    show_row(experiment, asked)
    if not asked.json:
        print()
        show_stream(log, f"experiment/{experiment['experiment']}", then)


def show_event(log: Log, asked: Asked, what: str) -> None:
    """The envelope and the data of one event."""
    event = find_event(log, what, asked.position(log))
    if asked.json:
        print_json(as_json(event))
        return
    rows: list[tuple[str, str]] = [("position", str(event.position))]
    body = msgspec.json.decode(event.body)
    rows += [(name, cell(body[name])) for name in ("type", "event_id", "recorded_at", "actor", "stream")]
    rows += [(name, _readable(value)) for name, value in body["data"].items()]
    print_pairs(rows)


def show_row(row: dict[str, Any], asked: Asked) -> None:
    if asked.json:
        print_json(row)
    else:
        print_pairs([(name, cell(value)) for name, value in row.items() if value not in (None, "")])


def show_stream(log: Log, stream: str, as_of: int | None) -> None:
    lines = [["#", "type", "what"]]
    lines += [[str(e.position), e.type, cell(summary(e))] for e in log.events(as_of=as_of, stream=stream)]
    table(lines, numeric={0})


_TEXTS = ("stdout", "stderr", "log", "diff")  # kinds of artifacts that are read; a checkpoint is not


def tell_texts(tables: Any, asked: Asked, run: dict[str, Any]) -> None:
    """How to read what a run left."""
    rows = tables.rows("SELECT DISTINCT kind FROM artifacts WHERE run = $1", (run["run"],))
    kinds = [kind for kind in _TEXTS if kind in {row["kind"] for row in rows}]
    kinds += ["environment"] if run["environment"] else []
    where = f" --ledger {shlex.quote(asked.ledger)}" if asked.ledger else ""
    for number, kind in enumerate(kinds):
        say(f"{'' if number else chr(10)}its {kind}: ledger show{where} {run['run'][:8]} --text {kind}")


def show_text(log: Log, asked: Asked, what: str, kind: str) -> None:
    """The stored text of a run, as bytes on stdout."""
    tables = asked.tables(log)
    rows = tables.rows(
        """SELECT run, kind, sha256 FROM artifacts WHERE starts_with(run, $1)
        UNION ALL SELECT run, 'environment', environment FROM runs
        WHERE starts_with(run, $1) AND environment IS NOT NULL""",
        (what,),
    )
    if not rows:
        raise UsageError(f"no run's id begins with {what}, or it left nothing")
    if len({row["run"] for row in rows}) > 1:
        raise UsageError(f"several runs' ids begin with {what}; give more of it")
    found = {row["kind"]: row["sha256"] for row in rows}
    if kind not in found:
        raise UsageError(f"run {rows[0]['run'][:8]} left no {kind}; it left {', '.join(sorted(found))}")
    sys.stdout.buffer.write(log.blobs.get(found[kind]))
    sys.stdout.buffer.flush()


def print_pairs(pairs: list[tuple[str, str]]) -> None:
    width = max(len(name) for name, _ in pairs)
    for name, value in pairs:
        print(f"{name.ljust(width)}  {value}")


_LONG = 4000  # characters of one field that a person may want to see


def _readable(value: Any) -> str:
    if isinstance(value, (dict, list)):
        text = msgspec.json.encode(value).decode()
        return text if len(text) <= _LONG else f"{len(value)} entries, {len(text)} characters; --json prints them"
    return cell(value)

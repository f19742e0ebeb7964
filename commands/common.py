"""What the verbs share: the options that every one of them has, opening the ledger, printing rows.

Data goes to stdout, words for people to stderr. A table is for eyes; `--json` is for programs.
"""

from __future__ import annotations

import json
import math
import os
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, TypeVar

import click

from ledger.chain import Log
from ledger.errors import UsageError
from ledger.events import Event

F = TypeVar("F", bound=Callable[..., Any])


class Asked:
    """The shared options of one call."""

    def __init__(self, ledger: str | None, as_json: bool, as_of: str | None) -> None:
        self.ledger = ledger
        self.json = as_json
        self.as_of = as_of

    def open(self) -> Log:
        """The ledger that is meant. Raises NotALedger and what else Log raises."""
        return Log(self.ledger)

    def position(self, log: Log) -> int | None:
        """The number of events that --as-of means, None for all."""
        return None if self.as_of is None else log.position(self.as_of)

    def tables(self, log: Log) -> Any:
        """The projections as of --as-of (a projections.engine.Tables)."""
        from projections.engine import tables

        if self.as_of is not None:
            position = log.position(self.as_of)
            if not self.as_of.isdecimal():
                say(f"as of position {position}")
            return tables(log, position)
        return tables(log)


def shared(as_of: bool = False) -> Callable[[F], F]:
    """Decorator: --ledger, --json and, where it makes sense, --as-of; the function gets `asked` first."""

    def decorate(function: F) -> F:
        import functools

        @functools.wraps(function)
        def call(*args: Any, ledger: str | None, as_json: bool, as_of: str | None = None, **kwargs: Any) -> Any:
            above = click.get_current_context().obj or {}
            asked = Asked(ledger or above.get("ledger"), as_json or above.get("json", False), as_of)
            return function(asked, *args, **kwargs)

        wrapped: Any = call
        if as_of:
            wrapped = click.option(
                "--as-of", metavar="WHEN", help="As it was: a position, an event id, or a time (2026-11-20T14:00)."
            )(wrapped)
        wrapped = click.option("--debug", is_flag=True, expose_value=False, hidden=True)(wrapped)
        wrapped = click.option("--json", "as_json", is_flag=True, help="Print data as JSON.")(wrapped)
        return click.option("--ledger", metavar="PATH", help="The ledger's folder.")(wrapped)  # type: ignore[no-any-return]

    return decorate


def count(number: int, thing: str, many: str = "") -> str:
    """A number of things, in the singular for one: 1 arm, 2 arms."""
    return f"{number} {thing if number == 1 else many or thing + 's'}"


def say(message: str) -> None:
    """A line for a person."""
    print(message, file=sys.stderr)


def print_json(value: Any) -> None:
    """One line of JSON. NaN and infinities become the strings that the log uses for them."""
    print(json.dumps(as_plain(value), ensure_ascii=False, default=str))


def as_plain(value: Any) -> Any:
    """A value of the tables as JSON can hold it."""
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    if isinstance(value, datetime):
        return value.isoformat().replace("+00:00", "Z")
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, Mapping):
        return {key: as_plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [as_plain(item) for item in value]
    return value


def print_rows(rows: Iterable[Mapping[str, Any]], asked: Asked, columns: Sequence[str] | None = None) -> None:
    """Rows as a table, or as lines of JSON."""
    if asked.json:
        for row in rows:
            print_json(row)
        return
    rows = list(rows)
    names = list(columns or (rows[0] if rows else ()))
    if names:
        table([names, *([cell(row.get(name)) for name in names] for row in rows)], numeric=_numeric(rows, names))


def _numeric(rows: Sequence[Mapping[str, Any]], names: Sequence[str]) -> set[int]:
    return {
        index
        for index, name in enumerate(names)
        if any(isinstance(row.get(name), (int, float)) and not isinstance(row.get(name), bool) for row in rows)
    }


def cell(value: Any) -> str:
    """A value as a person reads it in a table."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, datetime):
        return f"{value:%Y-%m-%d %H:%M:%S}"
    if isinstance(value, bytes):
        return value.hex()
    # Terminal control codes in logged text must not reach the terminal.
    return "".join(c if c.isprintable() else " " if c.isspace() else "\N{REPLACEMENT CHARACTER}" for c in str(value))


def table(lines: Sequence[Sequence[str]], numeric: set[int] = frozenset()) -> None:  # type: ignore[assignment]
    """Aligned columns, the first line being the head. On a terminal long cells wrap; what is far too wide for
    it comes as one block a row."""
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    natural = [max(map(len, column)) for column in zip(*lines, strict=True)]
    if sys.stdout.isatty() and wide([min(n, _NARROW) for n in natural]) > Console().width:
        _blocks(lines)
        return
    shown = Table(box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True, show_edge=False, header_style="bold")
    for index, name in enumerate(lines[0]):
        shown.add_column(Text(name), justify="right" if index in numeric else "left", overflow="fold")
    for line in lines[1:]:
        shown.add_row(*map(Text, line))
    # Into a pipe a table is as wide as its content: nothing may be cut.
    width = None if sys.stdout.isatty() else max(80, wide(natural))
    Console(width=width, highlight=False, no_color=True if os.environ.get("NO_COLOR") else None).print(shown)


_NARROW = 12  # characters in which a cell can still be read when it wraps
_GAP = 2  # characters between two columns, as rich draws them here


def wide(columns: Sequence[int]) -> int:
    """The width of a table with columns of these widths."""
    return sum(columns) + _GAP * (len(columns) - 1)


def _blocks(lines: Sequence[Sequence[str]]) -> None:
    """Each row as lines of name and value, an empty line between two rows."""
    width = max(map(len, lines[0]))
    for number, line in enumerate(lines[1:]):
        if number:
            print()
        for name, value in zip(lines[0], line, strict=True):
            print(f"{name.ljust(width)}  {value}".rstrip())


def find_experiment(tables: Any, wanted: str | None) -> dict[str, Any]:
    """The experiment with that name or beginning of an id; the newest when none is named. Raises UsageError."""
    rows = tables.rows("SELECT * FROM experiments ORDER BY registered_position")
    if not rows:
        raise UsageError("this ledger has no experiment yet; `ledger run PLAN.toml` makes one")
    if wanted is None:
        return dict(rows[-1])
    if not wanted:
        raise UsageError("an empty name is no experiment; `ledger status` lists them")
    named = [row for row in rows if row["name"] == wanted]
    if len(named) > 1:
        others = ", ".join(row["experiment"][:8] for row in named[-2::-1][:5])
        newest = named[-1]["experiment"][:8]
        say(f"{len(named)} experiments are named {wanted}: this is the newest, {newest}; {others} by id")
    if named:
        return dict(named[-1])
    begun = [row for row in rows if row["experiment"].startswith(wanted)]
    if len(begun) == 1:
        return dict(begun[0])
    if len(begun) > 1:
        raise UsageError(f"{len(begun)} experiments' ids begin with {wanted!r}; give more of it")
    import difflib

    close = difflib.get_close_matches(wanted, [row["name"] for row in rows], 1)
    hint = f"did you mean {close[0]}?" if close else "`ledger status` lists them"
    raise UsageError(f"no experiment {wanted!r}; {hint}")


def find_event(log: Log, wanted: str, as_of: int | None = None) -> Event:
    """The event at a position or with an id that begins so, of all or of the first `as_of`. Raises UsageError."""
    if wanted.isdecimal():
        size = log.head().position if as_of is None else as_of
        if int(wanted) >= size:
            had = "has" if as_of is None else "had"
            there = f"the log {had} {size} (0 to {size - 1})" if size else "the log is empty"
            raise UsageError(f"there is no event at position {wanted}; {there}")
        return next(log.events(start=int(wanted), as_of=int(wanted) + 1))
    return log.find(wanted, as_of)

"""`ledger compact`: many small files become few, and nothing else changes.

It also runs by itself, within bounds, when a command that wrote ends and much lies loose.
"""

from __future__ import annotations

import os
import sys

import click
import msgspec

from commands.common import Asked, count, print_json, say, shared
from ledger import compaction, layout
from ledger.chain import Log

LOOSE_FILES = 256
LOOSE_BYTES = 64 << 20
AT_ONCE = 2048  # commits that are packed by the way, in about a second
LARGEST = 4**8  # events of a pack that is made by the way


@click.command("compact")
@click.option(
    "--grace",
    type=click.FloatRange(0),
    default=compaction.GRACE,
    metavar="SECONDS",
    help="Keep what was packed less than so long ago (default 3600).",
)
@shared()
def command(asked: Asked, grace: float) -> None:
    """Pack the commits, and remove what is packed and below a signed head.

    Positions, digests, roots and results stay. It may run at any time, beside writers and readers.
    """
    log = asked.open()
    with _Bar() as bar:
        done = compaction.compact(log, grace, progress=bar.show)
    if asked.json:
        print_json(
            {
                "packed": [{"start": start, "stop": stop} for start, stop in done.packed],
                **{name: value for name, value in msgspec.to_builtins(done).items() if name != "packed"},
            }
        )
        return
    for start, stop in done.packed:
        print(f"packed events {start} to {stop - 1}")
    removed = [
        count(number, name)
        for number, name in (
            (done.removed_segments, "segment"),
            (done.removed_packs, "smaller pack"),
            (done.removed_chunks, "chunk"),
        )
        if number
    ]
    if done.packed_chunks:
        print(f"packed {count(done.packed_chunks, 'chunk')} of points")
    if removed:
        print(f"removed {', '.join(removed)}: {done.freed:,} bytes")
    for kept in done.kept:
        print(f"kept {kept.files} file{'' if kept.files == 1 else 's'}: {kept.why}")
    if not (done.packed or done.packed_chunks or removed or done.kept):
        print("nothing to pack, nothing to remove")


def compact_or_warn(log: Log) -> None:
    """Compact when much lies loose, a bounded part of it. Never fails the command that just ended."""
    try:
        bases, _ = log.loose()
        if len(bases) - 1 > LOOSE_FILES or _bytes(log, bases[:-1]) > LOOSE_BYTES:
            compaction.compact(log, largest=LARGEST, commits=AT_ONCE)
    except Exception as error:  # whatever it is, the command before did what it says
        say(f"the log was not compacted: {error}")


def _bytes(log: Log, bases: list[int]) -> int:
    return sum(os.path.getsize(layout.segment_path(log.root, base)) for base in bases)


class _Bar:
    """What is being done, on a terminal."""

    def __enter__(self) -> _Bar:
        return self

    def __exit__(self, *_: object) -> None:
        if sys.stderr.isatty():
            print("\r\033[K", end="", file=sys.stderr)

    def show(self, what: str, done: int, of: int) -> None:
        if sys.stderr.isatty():
            share = f" {done * 100 // of:3d} %" if of else ""
            print(f"\r\033[K{what}{share}", end="", flush=True, file=sys.stderr)

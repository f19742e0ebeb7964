"""An outside program that proposes techniques of a record: a person's script, or a language model's client.

It gets one JSON object on stdin and writes one JSON object a line on stdout. It is not believed: a row is kept
only if its evidence names a line of the text that holds the row's figures and a word of its label. What is kept
is marked with the program's name and digest. A program that fails, hangs or floods costs its rows and no more.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import threading
from collections.abc import Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Literal, NamedTuple

import msgspec

from ledger.errors import UsageError
from ledger.records import ReadIntervention

TIMEOUT = 120.0  # seconds for one record
MAX_OUTPUT = 1 << 20  # bytes
MAX_ROWS = 200

NUMBER = re.compile(r"\d*\.?\d+")


class Proposed(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A row as the program writes it. `evidence` is "file:line", as in the text that it was given."""

    label: str
    evidence: str
    kind: str = "unknown"
    status: Literal["new", "carried"] = "new"
    before: str | None = None
    after: str | None = None
    level: str | None = None
    delta_bpb: float | None = None
    delta_nats: float | None = None
    removed: bool = False


class Program(NamedTuple):
    """The command, and how its rows are marked: its name, and a digest of it and of the files that it names."""

    argv: tuple[str, ...]
    mark: str


class Answer(NamedTuple):
    """The rows that hold, how many did not, and what went wrong with the program (empty when nothing did)."""

    rows: tuple[Proposed, ...]
    dropped: int
    trouble: str


def program(argv: Sequence[str]) -> Program:
    """Raises UsageError where there is no such program."""
    found = shutil.which(argv[0]) if argv else None
    if found is None:
        raise UsageError(f"--assist: there is no program {argv[0] if argv else ''!r}")
    total = sha256("\0".join(argv).encode("utf-8", "surrogateescape"))
    for word in (found, *argv[1:]):
        if os.path.isfile(word):
            total.update(sha256(Path(word).read_bytes()).digest())
    named = [os.path.basename(word) for word in argv if os.path.isfile(word)] or [os.path.basename(argv[0])]
    return Program((found, *argv[1:]), f"{named[-1]} {total.hexdigest()}")


def ask(asked: Program, record: str, texts: Mapping[str, str], timeout: float = TIMEOUT) -> Answer:
    """Have the program propose rows for one record, whose files' texts are `texts`."""
    question = {
        "record": record,
        "task": "Write one JSON object a line, each a technique of this record, as `schema` says. "
        "`evidence` is file:line; a row is kept only if that line holds its figures and a word of its label.",
        "schema": msgspec.json.schema(Proposed),
        "text": {name: text.split("\n") for name, text in sorted(texts.items())},
    }
    output, trouble = _run(asked.argv, msgspec.json.encode(question), timeout)
    rows: list[Proposed] = []
    dropped = 0
    for line in output.splitlines():
        if not line.strip():
            continue
        try:
            row = msgspec.json.decode(line, type=Proposed)
        except (msgspec.MsgspecError, UnicodeDecodeError):
            dropped += 1
            continue
        if holds(row, texts) and len(rows) < MAX_ROWS:
            rows.append(row)
        else:
            dropped += 1
    return Answer(tuple(rows), dropped, trouble)


def holds(row: Proposed, texts: Mapping[str, str]) -> bool:
    """Whether the evidence exists and says what the row says: every figure of it, and a word of the label."""
    name, _, number = row.evidence.rpartition(":")
    lines = texts.get(name, "").split("\n")
    if not number.isdecimal() or not 1 <= int(number) <= len(lines):
        return False
    line = lines[int(number) - 1]
    there = {float(figure) for figure in NUMBER.findall(line.replace(",", ""))}
    told = " ".join(filter(None, (row.before, row.after, row.level))).replace(",", "")
    wanted = {float(figure) for figure in NUMBER.findall(told)}
    wanted |= {abs(delta) for delta in (row.delta_bpb, row.delta_nats) if delta is not None}
    words = re.findall(r"[a-z0-9]{3,}", row.label.lower())
    return wanted <= there and any(word in line.lower() for word in words)


def interventions(asked: Program, rows: Sequence[Proposed], ids: Mapping[str, tuple[str, bool, str]]) -> list[object]:
    """Rows as a reading has them; `ids` gives id, known and kind of a label."""
    return [
        ReadIntervention(
            intervention=ids[row.label][0],
            known=ids[row.label][1],
            label=row.label,
            kind=ids[row.label][2] if ids[row.label][1] else row.kind,
            status=row.status,
            before=row.before,
            after=row.after,
            level=row.level,
            delta_bpb=row.delta_bpb,
            delta_source=None if row.delta_bpb is None else "stated",
            delta_nats=row.delta_nats,
            removed=row.removed,
            evidence=(row.evidence,),
            assisted=asked.mark,
        )
        for row in rows
    ]


def _run(argv: Sequence[str], question: bytes, timeout: float) -> tuple[bytes, str]:
    """What the program wrote, at most MAX_OUTPUT bytes in whole lines, and what went wrong."""
    try:
        child = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True)
    except OSError as error:
        return b"", f"it cannot be started: {error.strerror}"
    assert child.stdin is not None
    assert child.stdout is not None
    stdin, stdout = child.stdin, child.stdout
    trouble: list[str] = []

    def stop(why: str) -> None:
        trouble.append(why)
        _kill(child.pid)

    def feed() -> None:
        with contextlib.suppress(OSError), stdin:  # it need not read to the end
            stdin.write(question)

    timer = threading.Timer(timeout, stop, (f"it took longer than {timeout:g} s",))
    feeder = threading.Thread(target=feed, daemon=True)
    timer.start()
    feeder.start()
    try:
        output = stdout.read(MAX_OUTPUT + 1)
        if len(output) > MAX_OUTPUT:
            stop(f"it wrote more than {MAX_OUTPUT} bytes")
            output = output[: output.rfind(b"\n", 0, MAX_OUTPUT) + 1]
        code = child.wait()
    finally:
        timer.cancel()
        _kill(child.pid)  # what it left behind; also on Ctrl-C
        child.wait()
        stdout.close()
        feeder.join(1)
    if code and not trouble:
        trouble.append(f"it ended with {code}" if code > 0 else f"it was ended by signal {-code}")
    return output, "; ".join(trouble)


def _kill(group: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, signal.SIGKILL)

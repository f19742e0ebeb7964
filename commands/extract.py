"""`ledger extract`: read leaderboard records into the log."""

from __future__ import annotations

import os
import shlex
import sys
from collections import Counter
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from commands.common import Asked, cell, count, print_json, say, shared
from ledger.chain import Log
from ledger.errors import LedgerError, NotAppended, Unknown, UsageError

if TYPE_CHECKING:
    from ledger.records import RecordExtracted
    from runners.assist import Program
    from runners.records import Known


@click.command("extract")
@click.argument("folder", metavar="[DIR]", required=False)
@click.option("--repository", metavar="NAME", help="Where the records come from (default: what git knows).")
@click.option("--reread", is_flag=True, help="Read again what was read by an earlier parser.")
@click.option("--unknown", is_flag=True, help="List the techniques that the vocabulary does not know.")
@click.option("--assist", metavar="CMD", help="A program that proposes rows; they are kept if the text has them.")
@shared()
def command(
    asked: Asked, folder: str | None, repository: str | None, reread: bool, unknown: bool, assist: str | None
) -> int:
    """Read the records in DIR: a clone with a records folder, that folder, or one record.

    Every record becomes one reading, every value with its file and line. The same bytes are read
    once; --unknown alone lists from what was read.
    """
    if folder is None:
        if not unknown:
            raise click.UsageError("name a folder: ledger extract DIR")
        _print_unknown(asked, asked.open())
        return 0
    root = Path(folder)
    if not root.is_dir():
        raise UsageError(f"{folder} is not a folder; name a clone with a records folder, or one record")
    from runners.extraction.record import find_records
    from runners.extraction.sources import README
    from runners.records import repository_of

    nothing = UsageError(
        f"there is nothing to read in {folder}: no folder with a README.md, submission.json or log, and no "
        "README.md with a leaderboard"
    )
    folders = find_records(root)
    if not folders and not (root / README).is_file():
        raise nothing
    program = _program(assist)
    log = ledger_of(asked)
    scan = Scan(log, reread, program)
    scan.read(root, folders, repository if repository is not None else repository_of(root))
    if not (scan.verdicts or scan.failed or scan.rows):
        raise nothing
    if scan.appended:
        from commands.checkpoint import sign_or_warn
        from commands.compact import compact_or_warn

        sign_or_warn(log)
        compact_or_warn(log)
    _tell(asked, scan)
    if unknown:
        _print_unknown(asked, log)
    return 1 if scan.failed or scan.partly else 0


def ledger_of(asked: Asked) -> Log:
    """The ledger that is meant; the default one is made where there is none, as `ledger run` does."""
    return Log.create() if asked.ledger is None and not os.environ.get("LEDGER_HOME") else asked.open()


class Scan:
    """One pass over a folder: what became of each record."""

    def __init__(self, log: Log, reread: bool, assist: Program | None) -> None:
        from runners.records import Known

        self.known: Known = Known(log)
        self.reread = reread
        self.assist = assist
        self.verdicts: Counter[str] = Counter()
        self.rows = 0  # of the leaderboard
        self.leaderboard: str | None = None
        self.failed: list[dict[str, str]] = []
        self.partly: list[dict[str, str]] = []  # what could not be used of records that were read
        self.notes: list[str] = []
        self.appended = 0

    def read(self, root: Path, folders: list[Path], repository: str | None) -> None:
        from runners.extraction.record import PARSER, links_out

        for link in links_out(root):
            name = f"{link.parent.name}/{link.name}"
            self._fail(name, link, link, "a link out of the tree is not followed", PARSER, root)
        with progress(len(folders), "records") as step:
            for folder in folders:
                self._one(folder, repository, root)
                if step is not None:
                    step()
        if (root / "README.md").is_file() and folders != [root]:
            self._leaderboard(root / "README.md", repository)

    def _one(self, folder: Path, repository: str | None, root: Path) -> None:
        from runners.extraction.record import PARSER, Unreadable, read_record
        from runners.records import append_record

        inside = folder.resolve()
        name = f"{inside.parent.name}/{inside.name}"
        try:
            parts = read_record(folder, repository=repository)
            name = parts[0].record
            if self.assist is not None:
                parts = self._assisted(folder, parts)
            self._note_unusable(folder, parts, root)
            again = self.reread or (self.assist is not None)
            self._count(append_record(self.known, parts, again))
        except Unreadable as error:
            self._fail(name, error.path, folder, error.reason, PARSER, root)
        except (NotAppended, Unknown):
            raise  # the disk, not the record
        except UsageError as error:  # a token in the text, a row that no event can hold
            self._fail(name, folder, folder, str(error), PARSER, root)
        except LedgerError:
            raise
        except Exception as error:  # a text that the rules did not foresee must not cost the other records
            reason = f"the parser failed on it: {type(error).__name__}: {error}"
            self._fail(name, folder, folder, reason, PARSER, root)

    def _note_unusable(self, folder: Path, parts: list[RecordExtracted], root: Path) -> None:
        from runners.extraction.record import unusable
        from runners.recording import one_line

        for flag in unusable(parts):
            said = "; ".join(flag.said)
            whole = flag.field in ("source", "submission")  # said is the file's name then
            path = Path(os.path.relpath(folder, root)) / (said if whole else "")
            reason = flag.reason if whole else f"{flag.field} is {said}: {flag.reason}"
            shown = one_line(path.as_posix().encode("utf-8", "replace").decode())
            self.partly.append({"record": parts[0].record, "path": shown, "reason": one_line(reason)})

    def _leaderboard(self, readme: Path, repository: str | None) -> None:
        from runners.extraction.leaderboard import read_leaderboard
        from runners.extraction.record import PARSER, Unreadable
        from runners.records import append_leaderboard

        try:
            page = read_leaderboard(readme, repository=repository)
            if page.rows:
                self.rows = len(page.rows)
                self.leaderboard = append_leaderboard(self.known, page, self.reread)
                self.appended += self.leaderboard not in ("same", "older")
        except Unreadable as error:
            self._fail("leaderboard", error.path, readme, error.reason, PARSER, readme.parent)

    def _count(self, verdict: str) -> None:
        self.verdicts[verdict] += 1
        self.appended += verdict not in ("same", "older")

    def _fail(self, name: str, path: Path, folder: Path, reason: str, parser: str, root: Path) -> None:
        from ledger.records import ExtractionFailed
        from runners.extraction.sources import inside
        from runners.recording import one_line
        from runners.records import append_failure
        from runners.source import file_digest

        try:
            digest = file_digest(path)[0] if path.is_file() and inside(path, root) else None
        except OSError:
            digest = None
        try:
            shown = Path(os.path.abspath(path)).relative_to(os.path.abspath(root)).as_posix()
        except ValueError:
            shown = path.name
        shown = one_line(shown.encode("utf-8", "replace").decode())
        name = one_line(name.encode("utf-8", "replace").decode())
        made = ExtractionFailed(record=name, path=shown, reason=one_line(reason), parser=parser, source_digest=digest)
        self.failed.append({"record": name, "path": shown, "reason": made.reason})
        self.appended += append_failure(self.known, made) != "same"

    def _assisted(self, folder: Path, parts: list[RecordExtracted]) -> list[RecordExtracted]:
        """The reading with the program's rows; the one in the log where the program was asked already."""
        import msgspec

        from ledger.records import RecordExtracted
        from runners import assist
        from runners.extraction import sources
        from runners.records import grown, stream

        assert self.assist is not None
        plain, parser = parts, f"{parts[0].parser} with {self.assist.mark}"
        parts = [msgspec.structs.replace(part, parser=parser) for part in parts]
        self.known.follow()
        before = [
            one for one in self.known.last(stream("record", parts[0].record)) if isinstance(one, RecordExtracted)
        ]
        if before and not self.reread and _key(before[0]) == _key(parts[0]):
            return before
        found = [sources.read_source(folder, path) for path in sources.files(folder, folder.parent)]
        texts = {source.path: source.text for source in found if source.path.endswith(".md")}
        answer = assist.ask(self.assist, parts[0].record, texts)
        if answer.trouble:
            self.notes.append(f"{parts[0].record}: --assist: {answer.trouble}")
            if not answer.rows:  # to be asked again, beside what there is already
                return before if before and before[0].source_digest == plain[0].source_digest else plain
        if answer.dropped:
            self.notes.append(f"{parts[0].record}: --assist: {answer.dropped} rows that the text does not hold")
        there = {row.intervention for part in parts for row in part.interventions}
        ids = {row.label: _identify(row.label) for row in answer.rows}
        fresh: dict[str, Any] = {}
        for row in answer.rows:
            if ids[row.label][0] not in there:
                fresh.setdefault(ids[row.label][0], row)
        return grown(parts, interventions=tuple(assist.interventions(self.assist, list(fresh.values()), ids)))


def _key(part: RecordExtracted) -> tuple[str, str, str]:
    return (part.source_digest, part.parser, part.vocabulary)


def _identify(label: str) -> tuple[str, bool, str]:
    """Id of a label, whether the vocabulary has it, and its kind."""
    from runners.extraction.vocabulary import load

    vocabulary = load()
    found = vocabulary.find(label)
    if found is None:
        return vocabulary.unknown_label(label), False, ""
    return found.technique.id, True, found.technique.kind


def _program(assist: str | None) -> Program | None:
    if assist is None:
        return None
    from runners.assist import program

    try:
        return program(shlex.split(assist))
    except ValueError as error:
        raise UsageError(f"--assist {assist!r} cannot be split into words: {error}") from None


def progress(total: int, things: str) -> Any:
    """A progress bar on a terminal: a context that gives the function to call for each thing done, or None."""
    if not sys.stderr.isatty() or total < 10:
        return nullcontext(None)
    from contextlib import contextmanager

    @contextmanager
    def shown() -> Any:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (
            TextColumn(f"{{task.completed:.0f}}/{{task.total:.0f}} {things}"),
            BarColumn(None),
            TimeRemainingColumn(),
        )
        with Progress(*columns, console=Console(stderr=True), transient=True, expand=True) as bar:
            task = bar.add_task("", total=total)
            yield lambda: bar.advance(task)

    return shown()


def _tell(asked: Asked, scan: Scan) -> None:
    for failure in (*scan.failed, *scan.partly):
        say(f"{cell(failure['path'])}: {cell(failure['reason'])}")
    for note in scan.notes:
        say(cell(note))
    if asked.json:
        print_json(
            {
                "records": scan.verdicts.total(),
                **{verdict: scan.verdicts[verdict] for verdict in ("new", "changed", "reread", "same", "older")},
                "failed": scan.failed,
                "in_part": scan.partly,
                "leaderboard": scan.leaderboard,
                "leaderboard_rows": scan.rows,
            }
        )
        return
    words = {
        "new": "new",
        "changed": "changed",
        "reread": "read again",
        "same": "as before",
        "older": "as before, by an earlier parser",
    }
    told = ", ".join(f"{scan.verdicts[name]} {text}" for name, text in words.items() if scan.verdicts[name])
    print(f"{count(scan.verdicts.total(), 'record')}{f': {told}' if told else ''}")
    if scan.leaderboard:
        print(f"leaderboard of {count(scan.rows, 'row')}: {words[scan.leaderboard]}")
    if scan.failed:
        print(f"{len(scan.failed)} could not be read")
    if scan.partly:
        print(f"{len({each['record'] for each in scan.partly})} read only in part")
    if scan.verdicts["older"] and not scan.reread:
        say("next: --reread reads them with the present parser")


def _print_unknown(asked: Asked, log: Log) -> None:
    rows = asked.tables(log).rows(
        """SELECT intervention, labels, records, new, removed, evidence FROM techniques
        WHERE NOT known ORDER BY records DESC, new DESC, intervention"""
    )
    if asked.json:
        for row in rows:
            print_json(row)
        return
    for row in rows:
        print(f"{row['records']:4}  {cell(row['labels'])[:72]}")
        print(f"      {cell(row['evidence']).split(', ')[0]}")
    print(f"{len(rows)} techniques are not in the vocabulary")

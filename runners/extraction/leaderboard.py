"""The leaderboard tables of a repository's README, a row a line, as they stand. It judges nothing."""

from __future__ import annotations

import re
from pathlib import Path

from ledger.records import LeaderboardExtracted, LeaderboardRow
from runners.extraction import claims, markdown, numbers, roles, sources
from runners.extraction.markdown import Row, Section, Table, plain
from runners.extraction.sources import Unreadable

_FOLDER = re.compile(r"(?<![\w-])records/([\w.-]{1,100})/([\w.+@=,-]{1,200})")
_COLUMNS = {
    "run": r"run|name|submission|entry|record|title|#?\s?description",
    "score": r"score|val_?bpb|bpb|val_?loss|loss|record time|time",
    "author": r"authors?|contributors?|by|submitter",
    "summary": r"summary|notes?|changes|details|techniques?|description",
    "date": r"date|when|submitted",
    "info": r"info|log|link|pr|source|readme|script",
}


def read_leaderboard(readme: Path, repository: str | None = None) -> LeaderboardExtracted:
    """The rows of every table below a heading "Leaderboard" or with its columns. Raises Unreadable."""
    from runners.extraction.record import PARSER

    readme = Path(readme)
    source = sources.read_source(readme.parent, readme)
    if source.reason is not None:  # half a table would be told as the whole
        raise Unreadable(readme, source.reason)
    rows: list[LeaderboardRow] = []
    for section in markdown.parse(source.text).sections:
        for block in section.blocks:
            if block.table is not None:
                rows += _rows(block.table, section, source.path)
    return LeaderboardExtracted(
        repository=repository,
        parser=PARSER,
        source_digest=sources.digest([source.file]),
        sources=(source.file,),
        rows=tuple(rows),
    )


def _rows(table: Table, section: Section, path: str) -> list[LeaderboardRow]:
    columns: dict[str, int] = {}
    for index, cell in enumerate(table.header):
        name = plain(cell).strip(" *").lower()
        for column, pattern in _COLUMNS.items():
            if column not in columns and re.fullmatch(pattern, name) and index not in columns.values():
                columns[column] = index
                break
    if not {"run", "score"} <= set(columns) or not {"author", "info", "date"} & set(columns):
        return []
    found = [_row(row, columns, roles.heading(section), path) for row in table.rows]
    return [row for row in found if row is not None]


def _row(row: Row, columns: dict[str, int], heading: str, path: str) -> LeaderboardRow | None:
    def cell(column: str) -> str | None:
        return plain(row.cells[columns[column]])[:500] or None if column in columns else None

    run = cell("run")
    if run is None:
        return None
    links = " ".join(row.cells)
    folder = _FOLDER.search(links)
    score = [figure.value for figure in numbers.figures(cell("score") or "")]
    return LeaderboardRow(
        track=folder[1] if folder is not None else heading,
        run=run,
        score=score[0] if score else None,
        author=cell("author"),
        summary=cell("summary"),
        date=cell("date"),
        record=f"{folder[1]}/{folder[2]}" if folder is not None else None,
        evidence=f"{path}:{row.line}",
        tests=tuple(claims.printed(cell("summary") or "", f"{path}:{row.line}")),
    )

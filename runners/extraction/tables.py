"""Tables that tell changes: base | this, value | default, change | effect, rows "+ X" of an ablation, the stack."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Literal, NamedTuple

from runners.extraction import items, numbers, roles, techniques
from runners.extraction.candidates import Candidate, Status, tell
from runners.extraction.markdown import Table, plain
from runners.extraction.numbers import Delta
from runners.extraction.vocabulary import Technique, Vocabulary

Kind = Literal["compared", "effect", "stack", "none"]


class Read(NamedTuple):
    kind: Kind
    candidates: list[Candidate]


_SAME = re.compile(
    r"^\W*(same|unchanged|identical|kept|no change|as base|ditto|inherited)\b|^\W*$|\((same|kept|unchanged)\)\W*$",
    re.I,
)
_ABSENT = re.compile(r"^\W*(none|no|off|n/?a|not used|disabled|without|0)?\W*$", re.I)
_METRIC = re.compile(
    r"\bval[_ ]?(bpb|loss)\b|\bbp[bp]\b|\bnats?\b|\bartifact\b|\b(model|code|file|total|submission"
    r"|compressed)\s(\w+\s)?size\b"
    r"|^(training |train |total )?steps?\b|\bms/step\b|\b(train|training|eval|evaluation|step|wall|ttt)[- ]time\b"
    r"|^(model |total )?param(eter)?s?\b|\bmemory\b|^seeds?\b|\btokens seen\b|\bwall-?clock\b|\bthroughput\b"
    r"|\bimprovement\b"
    r"|\bgap\b|\bpenalty\b|\bspeed\b|^Δ|^delta\b|^everything else|^net\b|^total\b|^size\b",
    re.I,
)
_FIGURE = re.compile(r"\W{0,3}(?:[~≈+−-]?\.?\d|$|n/?a\b|none\b)", re.I)  # what a metric's cell holds
_OWN = re.compile(r"\b(this (work|pr|submission|record|run)|novel|ours|new)\b", re.I)
_OWN_FIRST = re.compile(r"\W*(novel\W*)?this (work|pr|submission|record|run)|\W*novel", re.I)
_DISCARDED = re.compile(r"\b(discard(ed)?|rejected|reverted|failed|crash(ed)?|no\b|worse)\b", re.I)
_CHANGE_COLUMN = re.compile(
    r"changes?|conditions?|configs?|configuration|descriptions?|techniques?|variants?|components?|setups?|settings?"
    r"|ablations?|experiments?|interventions?|additions?|models?"
)
_LIST_OF_CHANGES = re.compile(
    r"changes?|techniques?|components?|additions?|modifications?|what|improvements?|features?|innovations?|methods?"
    r"|optimi[sz]ations?|tricks?|ingredients?|interventions?|contributions?|ideas?"
)


def read(table: Table, role: roles.Role, vocabulary: Vocabulary, new: Callable[[], set[str]]) -> Read:
    """The candidates of one table; `new` gives the ids that the text before it calls new."""
    columns = roles.base_and_this(table) or roles.value_and_default(table)
    if columns is not None:
        return Read("compared", _compared(table, *columns, vocabulary))
    if role != "results" and _tells_effects(table):
        return Read("effect", _effects(table, vocabulary))
    if role == "changes" and _lists_changes(table):
        return Read("none", _listed(table, vocabulary))
    added = _added(table, vocabulary)
    if added:
        return Read("effect" if _delta_column(table) is not None and len(table.rows) > 2 else "none", added)
    if roles.is_components(table) or (roles.source_column(table) is not None and len(table.header) <= 4):
        return Read("stack", _components(table, vocabulary, new))
    return Read("none", [])


def change_column(table: Table) -> int:
    """The column that says what was changed."""
    for index, cell in enumerate(table.header):
        if _CHANGE_COLUMN.fullmatch(plain(cell).lower()):
            return index
    return 0


def _delta_column(table: Table, but: tuple[int, ...] = (0,)) -> int | None:
    return next((i for i, cell in enumerate(table.header) if i not in but and roles.is_delta(cell)), None)


def _delta(table: Table, cells: tuple[str, ...], column: int | None) -> Delta | None:
    return (
        None if column is None else numbers.delta_cell(plain(cells[column]), roles.delta_unit(table.header[column]))
    )


def _compared(table: Table, base: int, this: int, vocabulary: Vocabulary) -> list[Candidate]:
    """Rows of a comparison: new where the two cells differ, carried where they do not, metrics left out."""
    effect = _delta_column(table, (base, this))
    name = next((i for i in range(len(table.header)) if i not in (base, this, effect)), None)
    found: list[Candidate] = []
    for row in table.rows if name is not None else ():
        label, before, after = (plain(row.cells[i]) for i in (name or 0, base, this))
        metric = _METRIC.search(label) is not None and _FIGURE.match(after) is not None
        if not label or metric or techniques.is_none(techniques.clean(label)):
            continue
        same = _SAME.search(after) is not None or after == before
        inside = re.match(r"^same,? (?:but|plus|except)\b[ :]*(.+)$", after, re.I)
        if inside is not None:
            same, after = False, inside[1]
        if same:
            found += _carried(label, before, row.line, vocabulary)
            continue
        technique = _of_row(label, before, after, vocabulary)
        found.append(
            Candidate(
                label=techniques.clean(label),
                technique=technique,
                status="new",
                rank=2,
                line=row.line,
                text=after,
                before=before[:80] or None,
                after=after[:80],
                delta=_delta(table, row.cells, effect),
                removed=_ABSENT.match(after) is not None and not _ABSENT.match(before),
            )
        )
    return found


def _carried(label: str, cell: str, line: int, vocabulary: Vocabulary) -> list[Candidate]:
    """A row that both sides share: what its label names, and every known part of the stack in its cell."""
    pieces = [piece for piece in items.stack(cell) if techniques.naming(piece, vocabulary) is not None]
    if techniques.naming(label, vocabulary) is not None:
        pieces = [label, *pieces]
    return [
        Candidate(techniques.clean(piece), techniques.naming(piece, vocabulary), "carried", 8, line, cell)
        for piece in pieces
    ]


def _of_row(label: str, before: str, after: str, vocabulary: Vocabulary) -> Technique | None:
    """What a row is about: what its cell begins with, or names now and did not before, else what its label names."""
    was = {each.technique.id for each in vocabulary.mentions(before)}
    now = [each for each in vocabulary.mentions(after) if each.technique.id not in was]
    own = techniques.naming(label, vocabulary)
    leading = [each for each in now if each.start <= 2 and not each.technique.weak]
    if leading:
        return leading[0].technique
    general = own is None or own.id in ("muon", "ttt", "rope") or any(each.technique.id == own.id for each in now)
    if general and now:
        return max(now, key=lambda each: each.end - each.start).technique
    return own


def _tells_effects(table: Table) -> bool:
    first = plain(table.header[0]).lower()
    return (
        _delta_column(table) is not None
        and roles.seed_column(table) is None
        and _LIST_OF_CHANGES.fullmatch(first) is not None
        and not any(roles.is_bpb(cell) for cell in table.header[1:])
    )


def _lists_changes(table: Table) -> bool:
    """# | Change | …: numbered changes without scores."""
    cells = [plain(cell).lower() for cell in table.header]
    return len(cells) > 1 and cells[0] in ("#", "no", "no.", "nr") and cells[1] in ("change", "changes")


def _listed(table: Table, vocabulary: Vocabulary) -> list[Candidate]:
    found: list[Candidate] = []
    for row in table.rows:
        if not techniques.is_none(techniques.clean(row.cells[1])):
            found += tell(vocabulary, row.cells[1], "new", 2, row.line, "")
    return found


def _effects(table: Table, vocabulary: Vocabulary) -> list[Candidate]:
    """Change | Effect: a row is a change, its cell says what it did."""
    column = _delta_column(table)
    found: list[Candidate] = []
    for row in table.rows:
        text = plain(row.cells[column or 0])
        if not techniques.is_none(techniques.clean(row.cells[0])) and not (text and _SAME.search(text)):
            found += tell(vocabulary, row.cells[0], "new", 1, row.line, text, _delta(table, row.cells, column))
    return found


def _added(table: Table, vocabulary: Vocabulary) -> list[Candidate]:
    """A table of scores whose rows add changes to a base: a row "+ X" that was kept is a change."""
    if not any(roles.is_bpb(cell) for cell in table.header) or roles.seed_column(table) is not None:
        return []
    name, column = change_column(table), _delta_column(table)
    names = [plain(cell).lower() for cell in table.header]
    status = next((i for i, cell in enumerate(names) if re.fullmatch(r"status|kept\??|verdict|decision", cell)), None)
    found: list[Candidate] = []
    for row in table.rows:
        if not plain(row.cells[name]).startswith("+"):
            continue
        delta = _delta(table, row.cells, column)
        dropped = status is not None and _DISCARDED.search(plain(row.cells[status])) is not None
        worse = delta is not None and delta.bpb is not None and delta.bpb > 0.0005
        if not dropped and not worse:
            found += tell(vocabulary, row.cells[name], "new", 7, row.line, "")
    return found


def _components(table: Table, vocabulary: Vocabulary, new: Callable[[], set[str]]) -> list[Candidate]:
    """Component | Setting | Source: carried, but for what the source calls this work's own."""
    source = roles.source_column(table)
    setting = next((i for i in range(1, len(table.header)) if i != source), None)
    known = new()
    found: list[Candidate] = []
    for row in table.rows:
        label = techniques.clean(row.cells[0])
        if techniques.is_none(label):
            continue
        origin = plain(row.cells[source]) if source is not None else ""
        after = plain(row.cells[setting]) if setting is not None else ""
        bundle = "+" in row.cells[0]
        own = _OWN.search(origin) is not None and (_OWN_FIRST.match(origin) is not None or not bundle)
        status: Status = "new" if own else "carried"
        rank = 5 if own else 8
        again = [each.technique for each in vocabulary.mentions(after) if own and each.technique.id in known]
        technique = again[0] if again else _of_row(label, "", after, vocabulary)
        if bundle:
            parts = techniques.parts(row.cells[0], vocabulary)
            if own or any(part.technique is not None for part in parts):
                found += tell(vocabulary, row.cells[0], status, rank, row.line, after, after=after or None)
        elif technique is not None:
            value = after[:80] or None if own else None
            found.append(Candidate(label, technique, status, rank, row.line, after, None, value))
        elif own and not techniques.is_category(label):
            found.append(Candidate(label, None, status, rank, row.line, after, None, after[:80] or None))
    return found

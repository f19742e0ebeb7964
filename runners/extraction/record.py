"""One folder of a leaderboard into one reading: every source read, every rule asked, contradictions flagged.

It returns events and appends none. A folder that is not a record is Unreadable, with one line; a source that cannot
be used is a flag beside what the others gave. The clock, the network and chance have no part in it: the same bytes
are the same reading.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

import msgspec

from ledger import canonical
from ledger.records import ReadFlag, ReadSeed, RecordExtracted
from runners.extraction import (
    ablations,
    base,
    candidates,
    changes,
    claims,
    effects,
    headline,
    logs,
    markdown,
    numbers,
    roles,
    seeds,
    sources,
    submission,
    vocabulary,
)
from runners.extraction.markdown import Document
from runners.extraction.sources import README, Source, Unreadable
from runners.extraction.submission import NOT_FINITE
from runners.extraction.vocabulary import Vocabulary

__all__ = ["PARSER", "Unreadable", "find_records", "links_out", "read_record", "unusable"]

PARSER = "rules/2"
PART = 40 << 10  # bytes of canonical JSON of one part
LISTS = ("interventions", "seeds", "ablations", "lineage", "flags", "tests", "selections")


class Sources(NamedTuple):
    readme: Source | None
    submissions: list[Source]
    logs: list[Source]


def read_record(
    folder: Path, track: str | None = None, repository: str | None = None, names: Vocabulary | None = None
) -> list[RecordExtracted]:
    """The reading of one record, in as many parts as its size needs. Raises Unreadable."""
    folder = Path(folder)
    if not folder.is_dir():
        raise Unreadable(folder, "is not a folder")
    found = [
        sources.read_source(folder, path, sources.README_LIMIT if path.suffix.lower() == ".md" else sources.LIMIT)
        for path in sources.files(folder, folder.parent)
    ]
    names = names or vocabulary.load()
    chosen = _chosen(found)
    readme = chosen.readme
    if readme is None:
        why = dict(sources.refused(folder, folder.parent)).get(README)
        raise Unreadable(
            folder / README, why or "there is none: a record without its README says nothing that can be quoted"
        )
    if not readme.text.strip():
        raise Unreadable(folder / readme.path, readme.reason or "is empty")
    whole = folder.resolve()
    track = track or whole.parent.name
    used = [each.file for each in (readme, *chosen.submissions, *chosen.logs)]
    reading = RecordExtracted(
        record=f"{track}/{whole.name}",
        track=track,
        repository=repository,
        parser=PARSER,
        vocabulary=names.digest,
        source_digest=sources.digest(used),
        sources=tuple(used),
        part=1,
        parts=1,
    )
    reading = _read(reading, readme, chosen, names)
    refused = tuple(
        ReadFlag(field="source", said=(name,), reason=why) for name, why in sources.refused(folder, folder.parent)
    )
    return _parts(msgspec.structs.replace(reading, flags=(*reading.flags, *refused)))


def unusable(parts: list[RecordExtracted]) -> list[ReadFlag]:
    """The flags of sources that could not be used, or not whole, and of values that are no numbers."""
    flags = [flag for part in parts for flag in part.flags]
    return [flag for flag in flags if flag.field in ("source", "submission") or flag.reason == NOT_FINITE]


def _chosen(found: list[Source]) -> Sources:
    """The files that speak for a record: its README, its submission files, its logs."""
    readmes = sorted(
        (each for each in found if each.path.lower() == README.lower()), key=lambda each: each.path != README
    )
    submissions = [
        each
        for each in found
        if "/" not in each.path and each.path.lower().startswith("submission") and each.path.endswith(".json")
    ]
    told = [each for each in found if each.path.endswith((".log", ".txt"))]
    return Sources(readmes[0] if readmes else None, submissions, told)


def _read(reading: RecordExtracted, readme: Source, chosen: Sources, names: Vocabulary) -> RecordExtracted:
    told = submission.read(chosen.submissions)
    flags = list(told.flags)
    flags += [
        ReadFlag(field="source", said=(each.path,), reason=each.reason)
        for each in (readme, *chosen.logs)
        if each.reason is not None
    ]
    logged = [row for each in chosen.logs if each.reason is None and (row := logs.read(each)) is not None]
    flags += [
        ReadFlag(field="val_bpb", said=(f"{value} ({where})",), reason=NOT_FINITE)
        for value, where in (headline.no_number(readme), *map(logs.no_number, chosen.logs))
        if value
    ]
    where = readme.path
    document = markdown.parse(readme.text)
    found = roles.roles(document)
    claim = headline.read(document, found, where)
    listed = seeds.read(document, found, where, claim.value if claim is not None else told.val_bpb)
    if claim is None and told.val_bpb is None:
        claim = headline.metrics(document, found, where)
        if claim is None and listed.mean is not None and listed.mean_evidence is not None:
            claim = headline.Score(listed.mean, 4, listed.mean_evidence)
        if claim is None and logged:
            flags.append(
                ReadFlag(
                    field="val_bpb", said=(), reason="no claim in README or submission.json; the logs have scores"
                )
            )
    readme_seeds = listed.seeds or (
        seeds.of_headline(document, where, claim.evidence, claim.value) if claim is not None else []
    )
    value, evidence = _claim(claim, told, flags)
    parent = base.read(document, found, where, told.base, told.evidence("base"), value)
    stack = changes.read(document, found, names, parent.named)
    tried = ablations.read(document, found, where)
    rows = candidates.merged(stack.candidates, names, where)
    rows = effects.attach(rows, stack.candidates, tried, parent, names)
    all_seeds = (*readme_seeds, *told.seeds, *logged)
    flags += _disagreements(all_seeds) + _printed_seeds(chosen.logs, logged)
    title = roles.title(document)
    effects_told = (
        stack.effects or sum(each.row.delta_bpb is not None and not _is_sweep(each.label) for each in tried) >= 2
    )
    return msgspec.structs.replace(
        reading,
        name=told.name or (title[0][:300] if title is not None else None) or _called(document),
        author=told.author or _author(document),
        github_id=told.github_id,
        date=told.date or _date(reading.record),
        format="A" if effects_told else "B" if stack.compared else "C",
        val_bpb=value,
        val_bpb_evidence=evidence,
        base_ref=parent.ref,
        base_val_bpb=parent.val_bpb,
        base_evidence=parent.evidence,
        delta_bpb_stated=parent.delta_bpb,
        delta_nats_stated=parent.delta_nats,
        bytes_total=told.bytes_total if told.bytes_total is not None else _size(document, all_seeds, value),
        interventions=tuple(rows),
        seeds=all_seeds,
        ablations=tuple(each.row for each in tried),
        lineage=tuple(base.lineage(document, found, where, parent)),
        flags=tuple(flags),
        tests=tuple(claims.tests(document, where)),
        selections=tuple(claims.selections(document, where, readme_seeds, value)),
    )


def _is_sweep(label: str) -> bool:
    return "=" in label and not label.startswith("+")


def _claim(
    claim: headline.Score | None, told: submission.Told, flags: list[ReadFlag]
) -> tuple[float | None, str | None]:
    """What the README claims; submission.json where it claims nothing, or says the same with more digits."""
    if claim is None:
        return told.val_bpb, told.evidence("val_bpb")
    if told.val_bpb is None:
        return claim.value, claim.evidence
    rounding = 0.5 * 10**-claim.decimals
    if abs(told.val_bpb - claim.value) <= rounding + 1e-9:
        return told.val_bpb, told.evidence("val_bpb")
    said = (f"{claim.value} ({claim.evidence})", f"{told.val_bpb} ({told.evidence('val_bpb')})")
    flags.append(ReadFlag(field="val_bpb", said=said, reason="README and submission.json claim different scores"))
    return claim.value, claim.evidence


def _disagreements(told: tuple[ReadSeed, ...]) -> list[ReadFlag]:
    """Sources that give one seed different scores, beyond the digits that they print."""
    flags = []
    by_seed: dict[int, list[ReadSeed]] = {}
    for each in told:
        if each.seed is not None and each.val_bpb is not None:
            by_seed.setdefault(each.seed, []).append(each)
    for seed, rows in sorted(by_seed.items()):
        first = rows[0]
        others = [row for row in rows[1:] if row.source != first.source and not _agree(first.val_bpb, row.val_bpb)]
        if others:
            said = tuple(f"{row.val_bpb} ({row.evidence})" for row in (first, *others))[:8]
            flags.append(
                ReadFlag(field=f"seed {seed}", said=said, reason="sources give different scores for one seed")
            )
    return flags


def _agree(one: float | None, other: float | None) -> bool:
    if one is None or other is None:
        return True
    digits = min(len(repr(one).partition(".")[2]), len(repr(other).partition(".")[2]))
    return abs(one - other) <= float(0.51 * 10.0 ** -max(digits, 4)) + 1e-9


def _printed_seeds(told: list[Source], logged: list[ReadSeed]) -> list[ReadFlag]:
    """Logs whose name and text tell different seeds."""
    flags = []
    named = {row.evidence.rpartition(":")[0]: row.seed for row in logged}
    for source in told:
        printed = logs.printed_seed(source)
        seed = named.get(source.path)
        if seed is not None and printed is not None and printed != seed:
            said = (f"{seed} ({source.path}, its name)", f"{printed} ({source.path}, its text)")
            flags.append(ReadFlag(field="seed", said=said, reason="a log's name and text tell different seeds"))
    return flags


def _called(document: Document) -> str | None:
    """The name that the first sentence gives: this record captures `X`."""
    for block in document.sections[0].blocks[:2]:
        ticks = block.text.split("`")
        if (len(ticks) >= 3 and 2 < len(ticks[1]) < 100 and "called" in ticks[0]) or (
            len(ticks) >= 3 and "captures" in ticks[0]
        ):
            return ticks[1]
    return None


_AUTHOR = re.compile(r"^\W{0,4}authors?\W{1,6}(\w[^|(\n]{1,80}?)(?:\s--.*|\s—.*|\s\(.*|\W*\|.*)?$", re.I)
_SIZE = re.compile(r"\W*(?:artifact|submission|total)?\W?size\b", re.I)


def _author(document: Document) -> str | None:
    """The author that the first lines name."""
    for block in document.sections[0].blocks[:4]:
        for line in block.text.split("\n") if block.kind == "paragraph" else ():
            found = _AUTHOR.match(markdown.plain(line))
            if found is not None:
                return found[1].strip()
    return None


def _date(record: str) -> str | None:
    """The day that the folder's name begins with."""
    day = record.rpartition("/")[2][:10]
    return day if len(day) == 10 and day[4] == day[7] == "-" and day.replace("-", "").isdecimal() else None


def _size(document: Document, told: tuple[ReadSeed, ...], claim: float | None) -> int | None:
    """The artifact's size from the text, else the largest of its seeds: that one has to fit."""
    for section in document.sections:
        for block in section.blocks:
            if block.table is not None:
                column = next((i for i, cell in enumerate(block.table.header) if _SIZE.match(cell)), None)
                for row in block.table.rows:
                    scores = [numbers.score(markdown.plain(cell)) for cell in row.cells] if column is not None else []
                    if column is not None and claim is not None and claim in scores:
                        size = numbers.byte_count(markdown.plain(row.cells[column]))
                        if size is not None:
                            return size
                    name = markdown.plain(row.cells[0]).lower()
                    if len(row.cells) == 2 and (
                        "submission size" in name or "artifact" in name or "model size" in name
                    ):
                        size = numbers.byte_count(markdown.plain(row.cells[1]))
                        if size is not None:
                            return size
            elif block.kind in ("item", "paragraph"):
                text = markdown.plain(block.text)
                at = max(text.lower().find("submission size"), text.lower().find("artifact:"))
                if at >= 0 and (size := numbers.byte_count(text[at:])) is not None:
                    return size
    sizes = [each.bytes_total for each in told if each.bytes_total is not None]
    return max(sizes, default=None)


# ── parts ──


def _parts(reading: RecordExtracted) -> list[RecordExtracted]:
    """The reading cut so that each part's canonical JSON stays below the limit; the first holds the single values."""
    if len(canonical.encode(reading)) <= PART:
        return [reading]
    empty = msgspec.structs.replace(reading, **dict.fromkeys(LISTS, ()))
    bare = RecordExtracted(
        record=reading.record,
        track=reading.track,
        repository=reading.repository,
        parser=reading.parser,
        vocabulary=reading.vocabulary,
        source_digest=reading.source_digest,
        sources=(),
        part=1,
        parts=1,
    )
    parts, room = [empty], PART - len(canonical.encode(empty)) - 64
    for name in LISTS:
        for row in getattr(reading, name):
            size = len(canonical.encode(row)) + 1
            if size > room:
                parts.append(bare)
                room = PART - len(canonical.encode(bare)) - 64
            parts[-1] = msgspec.structs.replace(parts[-1], **{name: (*getattr(parts[-1], name), row)})
            room -= size
    return [msgspec.structs.replace(part, part=number, parts=len(parts)) for number, part in enumerate(parts, 1)]


# ── finding ──


def find_records(root: Path) -> list[Path]:
    """The record folders below `root`: a clone, its records/ folder, a track, or one record itself."""
    root = Path(root)
    start = root / "records" if (root / "records").is_dir() else root
    if not start.is_dir():
        return []
    if start is root and _stands_alone(root):
        return [root]
    return _below(start) or ([start] if _is_record(start) else [])


def links_out(root: Path) -> list[Path]:
    """The folders among those of the records that are links out of the tree: not followed."""
    start = root / "records" if (root / "records").is_dir() else root
    if start is root and _stands_alone(root):
        return []
    shelves = [start, *(each for each in _folders(start, start) if not _is_record(each))]
    found = [each for shelf in shelves for each in shelf.iterdir() if each.is_symlink() and each.is_dir()]
    return sorted(each for each in found if not sources.inside(each, start))


def _below(start: Path) -> list[Path]:
    found: list[Path] = []
    for folder in _folders(start, start):
        if _is_record(folder):
            found.append(folder)
        else:
            found += [each for each in _folders(folder, start) if _is_record(each)]
    return sorted(found)


def _folders(folder: Path, root: Path) -> list[Path]:
    """The folders in one, but for hidden ones and links that leave the tree."""
    try:
        entries = sorted(each for each in folder.iterdir() if not each.name.startswith("."))
        return [each for each in entries if each.is_dir() and sources.inside(each, root)]
    except OSError:
        return []


def _stands_alone(folder: Path) -> bool:
    """Whether a folder is one record itself, whatever folders it holds."""
    names = _names(folder)
    told = any((name.startswith("submission") and name.endswith(".json")) or name.endswith(".log") for name in names)
    return told and (README.lower() in names or not any(_is_record(each) for each in _folders(folder, folder)))


def _is_record(folder: Path) -> bool:
    """Something of a record lies in it: a README, a submission, a training log."""
    return any(
        name == README.lower() or name.startswith("submission") or name.endswith(".log") for name in _names(folder)
    )


def _names(folder: Path) -> list[str]:
    try:
        return [each.name.lower() for each in folder.iterdir() if each.is_symlink() or not each.is_dir()]
    except OSError:
        return []

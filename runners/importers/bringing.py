"""Append what an importer found, each thing once: whatever is in the log under its name stays as it is."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

from ledger.chain import Log
from ledger.errors import Conflict, NotAppended, Unknown, UsageError
from ledger.events import ArtifactStored, ProbeMeasured, RunStarted
from ledger.writer import Draft, Expect
from runners.importers import autoresearch, first_pipeline, modded_nanogpt
from runners.importers.items import Found, Item
from runners.records import Known, append_record

KINDS: dict[str, Callable[[Path], Found]] = {
    "first-pipeline": first_pipeline.read,
    "autoresearch": autoresearch.read,
    "modded-nanogpt": modded_nanogpt.read,
}
_TYPES = (RunStarted.TYPE, ProbeMeasured.TYPE, ArtifactStored.TYPE)


def bring(log: Log, found: Found, step: Callable[[], None] | None = None) -> Counter[str]:
    """Append; how many runs, claims, records and files are new, and how many things were there ("same").

    What may not enter the log (a token in a text) is added to `found.failed`. Raises as an append does.
    """
    made: Counter[str] = Counter()
    items = [*found.items, *_files(log, found)]
    there: set[str] = set()
    size = 0
    log.head()  # refuses a log with a gap; `advance` alone does not look that far
    for item in items:
        kind = {RunStarted: "runs", ArtifactStored: "files"}.get(type(item.events[0]), "claims")
        for _ in range(5):
            head = log.advance()
            if head > size:
                there.update(event.stream for event in log.events(start=size, as_of=head, types=_TYPES))
                size = head
            if item.stream in there:
                made["same"] += 1
                break
            try:
                log.writer.append([Draft(item.stream, event) for event in item.events], Expect(item.stream, size))
            except Conflict:
                continue
            except (NotAppended, Unknown):
                raise
            except UsageError as error:
                found.failed.append((item.stream, str(error)))
                break
            made[kind] += 1
            break
        if step is not None:
            step()
    known = Known(log)
    for parts in found.readings:
        try:
            verdict = append_record(known, parts)
            made["same" if verdict in ("same", "older") else "records"] += 1
        except (NotAppended, Unknown, Conflict):
            raise
        except UsageError as error:
            found.failed.append((parts[0].record, str(error)))
        if step is not None:
            step()
    return made


def _files(log: Log, found: Found) -> list[Item]:
    """The files themselves, so that every claim can be looked up in what it was read from."""
    items = []
    for name, data in found.kept:
        try:
            digest = log.blobs.put(data)
        except (NotAppended, Unknown):
            raise
        except UsageError as error:
            found.failed.append((name, str(error)))
            continue
        stored = ArtifactStored(
            run=None,
            experiment=None,
            name=name,
            kind="import",
            sha256=digest,
            bytes=len(data),
            left_out=0,
            media_type="application/json" if name.endswith(".json") else "text/plain",
        )
        items.append(Item(f"import/{digest}", (stored,)))
    return items

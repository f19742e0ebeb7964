"""Records for tests of the DAG: what each brings, on which parent, with which scores. And own experiments."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
from history import registered

from ledger import events, records
from ledger.chain import Log
from ledger.writer import Draft

TRACK = "track_a"
_HEX = "ab" * 32


def record(
    name: str,
    scores: Sequence[float],
    parents: Sequence[str] = (),
    new: Sequence[str] = (),
    carried: Sequence[str] = (),
    removed: Sequence[str] = (),
    kind: str = "architecture",
    track: str = TRACK,
    date: str | None = None,
) -> records.RecordExtracted:
    """A record as the parser would have read it."""

    def row(technique: str, status: str, gone: bool = False) -> records.ReadIntervention:
        return records.ReadIntervention(
            intervention=technique,
            known=True,
            label=technique,
            kind=kind,
            status="new" if status == "new" else "carried",
            removed=gone,
            evidence=("README.md:3",),
        )

    return records.RecordExtracted(
        record=f"{track}/{name}",
        track=track,
        repository=None,
        parser="rules/1",
        vocabulary=_HEX,
        source_digest=_HEX,
        sources=(records.SourceFile("README.md", _HEX, 12),),
        part=1,
        parts=1,
        name=name,
        author="somebody",
        date=date or name[:10],
        format="C",
        val_bpb=sum(scores) / len(scores),
        val_bpb_evidence="README.md:1",
        interventions=(
            *(row(one, "new") for one in new),
            *(row(one, "carried") for one in carried),
            *(row(one, "new", True) for one in removed),
        ),
        seeds=tuple(
            records.ReadSeed(seed=number, val_bpb=score, source="readme", evidence="README.md:9")
            for number, score in enumerate(scores)
        ),
        lineage=tuple(records.ReadLineage(parent=parent, evidence="README.md:2") for parent in parents),
    )


def add(log: Log, *made: records.RecordExtracted) -> list[str]:
    """Append records; ids of their events."""
    ids: list[str] = []
    for one in made:
        ids += log.writer.append([Draft(f"record/{one.record.replace('/', '.')}", one)]).event_ids
    return ids


def plan(
    experiment: str, techniques: Sequence[str], seeds: Sequence[int], **changes: object
) -> events.ExperimentRegistered:
    """A plan with one arm for each technique, which switches that one setting on."""
    arms = (
        events.Arm("control", "control"),
        *(events.Arm(one, "treatment", env=(events.NameValue(one.upper(), "1"),)) for one in techniques),
    )
    made = registered(experiment, ["control", *techniques], list(seeds), delta=0.002)
    return msgspec.structs.replace(made, arms=arms, **changes)

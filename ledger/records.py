"""The events of reading other people's records: leaderboard entries, imported results.

A reading is a fact about a text, not about the world: this parser, in this version, found these
values in these bytes, each at this place. A better parser reads the same bytes again and appends
another reading; the tables show the newest, and both stay.

Evidence is "file:line" (from 1) or "file:first-last", relative to the record's folder. A value that
the text does not state is None; nothing here was divided, guessed or completed. Signs: a delta is
score after minus score before, so for bits per byte a negative one is an improvement, whatever the
text prints.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import msgspec

Source = Literal["readme", "json", "log", "leaderboard"]


class SourceFile(msgspec.Struct, frozen=True):
    """A file that was read: `path` below the record's folder, `sha256` of its bytes."""

    path: str
    sha256: str
    bytes: int


class ReadIntervention(msgspec.Struct, frozen=True, kw_only=True):
    """One technique of a record; told several times in the text, it is one row."""

    intervention: str  # canonical id from the vocabulary, or "unknown:<slug of the label>"
    known: bool  # whether the vocabulary has it
    label: str  # as the text writes it, without mark-up
    kind: str  # architecture, optimizer, quantization, data, evaluation, test_time_training, schedule, …
    status: Literal["new", "carried"]
    before: str | None = None
    after: str | None = None
    level: str | None = None  # parameter values as written ("last 4 layers", "10240"), None where it has none
    delta_bpb: float | None = None
    delta_source: Literal["stated", "derived"] | None = None  # derived: two scores of one table, subtracted
    delta_nats: float | None = None
    delta_joint: bool = False  # the figure is stated for several changes together
    removed: bool = False  # the change takes the technique out
    evidence: tuple[str, ...] = ()
    assisted: str | None = None  # "<program> <sha256 of it>" where a program proposed the row


class ReadSeed(msgspec.Struct, frozen=True, kw_only=True):
    """The score of one seed as one source tells it. `seed` is None where runs are listed without numbers."""

    seed: int | None
    val_bpb: float | None
    val_loss: float | None = None
    pre_quant_bpb: float | None = None
    bytes_total: int | None = None
    steps: int | None = None
    wall_s: float | None = None
    step_ms: float | None = None
    peak_memory_bytes: int | None = None
    source: Source
    evidence: str


class ReadAblation(msgspec.Struct, frozen=True, kw_only=True):
    """A row of an ablation, sweep or negative-result table, or a sentence that tells one."""

    change: str
    val_bpb: float | None = None
    delta_bpb: float | None = None
    meaning: Literal["incremental", "cumulative", "versus_base"] | None = None  # of delta_bpb
    negative: bool = False  # told as something that did not help
    heading: str | None = None
    evidence: str


class ReadLineage(msgspec.Struct, frozen=True, kw_only=True):
    """A parent that the text declares, as written; the projection resolves it to a record."""

    parent: str
    val_bpb: float | None = None
    evidence: str


class ReadFlag(msgspec.Struct, frozen=True, kw_only=True):
    """Two sources of one record that disagree, or a value that could not be believed."""

    field: str
    said: tuple[str, ...]  # "value (evidence)" of each
    reason: str


class ReadTest(msgspec.Struct, frozen=True, kw_only=True):
    """A significance test as the text prints it, its figures as written, so that their digits are known."""

    p: str | None = None
    relation: Literal["=", "<"] = "="  # of p
    t: str | None = None
    df: str | None = None
    against: tuple[str, ...] = ()  # what is tested against: "#1736" (a pull request) or numbers ("1.195")
    evidence: str


class ReadSelection(msgspec.Struct, frozen=True, kw_only=True):
    """A seed that served to choose something, or that ran and is not among the reported ones."""

    kind: Literal["tuned_on", "left_out"]
    seed: int
    val_bpb: float | None = None
    evidence: str


class RecordExtracted(msgspec.Struct, frozen=True, kw_only=True):
    """One reading of one record. A long one comes in parts, in one commit; the lists of the parts belong together."""

    TYPE: ClassVar[str] = "record.extracted"
    VERSION: ClassVar[int] = 1

    record: str  # "<track>/<folder>"
    track: str
    repository: str | None  # as the scan was told or git knows, without credentials
    parser: str  # name/version of the rules
    vocabulary: str  # sha256 of the vocabulary that named the techniques
    source_digest: str  # sha256 over the sources' paths and digests: the same bytes are the same reading
    sources: tuple[SourceFile, ...]
    part: int
    parts: int
    name: str | None = None
    author: str | None = None
    github_id: str | None = None
    date: str | None = None
    format: Literal["A", "B", "C"] | None = None
    val_bpb: float | None = None
    val_bpb_evidence: str | None = None
    base_ref: str | None = None
    base_val_bpb: float | None = None
    base_evidence: str | None = None
    delta_bpb_stated: float | None = None
    delta_nats_stated: float | None = None
    bytes_total: int | None = None
    interventions: tuple[ReadIntervention, ...] = ()
    seeds: tuple[ReadSeed, ...] = ()
    ablations: tuple[ReadAblation, ...] = ()
    lineage: tuple[ReadLineage, ...] = ()
    flags: tuple[ReadFlag, ...] = ()
    tests: tuple[ReadTest, ...] = ()
    selections: tuple[ReadSelection, ...] = ()


class LeaderboardRow(msgspec.Struct, frozen=True, kw_only=True):
    """A row of the leaderboard table in the repository's README, as written."""

    track: str
    run: str
    score: float | None
    author: str | None
    summary: str | None
    date: str | None
    record: str | None  # the folder that its link names
    evidence: str
    tests: tuple[ReadTest, ...] = ()


class LeaderboardExtracted(msgspec.Struct, frozen=True, kw_only=True):
    """The leaderboard tables of a repository's README."""

    TYPE: ClassVar[str] = "leaderboard.extracted"
    VERSION: ClassVar[int] = 1

    repository: str | None
    parser: str
    source_digest: str
    sources: tuple[SourceFile, ...]
    rows: tuple[LeaderboardRow, ...]


class ExtractionFailed(msgspec.Struct, frozen=True, kw_only=True):
    """A file or record that could not be read, and why; the others were."""

    TYPE: ClassVar[str] = "extraction.failed"
    VERSION: ClassVar[int] = 1

    record: str
    path: str
    reason: str
    parser: str
    source_digest: str | None

"""The events: what can happen to an experiment, one frozen struct each.

Facts come from the world (a run's outcome, a record's text). Judgements are computed from facts and
carry the head that they read, so that they can be replayed. An event is never changed: a new shape
is a new version with an upcaster, a mistake is corrected by `event.retracted`.

Fields are the statistics' vocabulary from the first day, because a field cannot be added to the
past. Free maps (configuration, environment) are lists of name and value sorted by name, so that
every key in a body is ASCII and every body has one schema.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, ClassVar, Literal

import msgspec

from ledger import canonical
from ledger.canonical import Real
from ledger.cycles import AverageEffect, Candidate, Factor, RankedOption, Stack, StopRule, StopState
from ledger.dag import (
    DagEdge,
    DagNode,
    Discovery,
    Interaction,
    LineageEffect,
    Loop,
    Measure,
    Separation,
    Unexplored,
)
from ledger.errors import Unsupported, UsageError
from ledger.records import ExtractionFailed, LeaderboardExtracted, RecordExtracted
from ledger.upcasters import decision_1

Status = Literal["ok", "crash", "diverged", "timeout", "oom", "no_metric", "interrupted", "lost"]
Stage = Literal["data", "train", "late", "quant", "eval"]
PairTier = Literal["fork", "rerun", "seed", "none"]
Role = Literal["control", "treatment", "single"]
SeedRole = Literal["tuning", "confirm"]


class NameValue(msgspec.Struct, frozen=True):
    """One entry of a free map; `value` is text (JSON text where the source was not a string)."""

    name: str
    value: str


class NoiseClass(msgspec.Struct, frozen=True):
    """The unit within which run-to-run variance may be pooled."""

    platform: str
    scale: str
    metric: str
    stage: Stage


class Digest(msgspec.Struct, frozen=True):
    """A file or data set by content: `sha256` is 64 hex digits, `bytes` its size."""

    name: str
    sha256: str
    bytes: int


class Head(msgspec.Struct, frozen=True):
    """A state of the log: the first `position` events (0 .. position-1) and their Merkle root (hex)."""

    position: int
    root: str


class Arm(msgspec.Struct, frozen=True):
    """One condition: what it changes against the base (environment, arguments, trainer settings)."""

    name: str
    role: Role
    env: tuple[NameValue, ...] = ()
    args: tuple[str, ...] = ()
    config: tuple[NameValue, ...] = ()


class Hypothesis(msgspec.Struct, frozen=True):
    """What the plan says of one arm before any run: better, worse, or only different."""

    arm: str
    predict: Literal["better", "worse", "different"]
    effect: float | None = None  # its size as the plan foresees it: treatment minus control, in the metric's unit


class ExperimentRegistered(msgspec.Struct, frozen=True, kw_only=True):
    """A plan, fixed before its runs. `experiment` is the digest of base, name and metric."""

    TYPE: ClassVar[str] = "experiment.registered"
    VERSION: ClassVar[int] = 1

    experiment: str
    name: str
    family: str  # hypotheses that share one multiplicity correction
    question: str
    runner: str
    command: tuple[str, ...]
    plan: str  # the plan's text as the user wrote it
    plan_digest: str
    base: str  # fingerprint of code, configuration, data, tokenizer, hardware class, metric
    metric: str
    direction: Literal["lower", "higher"]
    delta: float  # smallest effect that matters, in the metric's unit
    alpha: float
    estimand: Literal["wallclock", "fixed_step"]
    seeds: tuple[int, ...]
    seed_role: SeedRole
    control: str
    arms: tuple[Arm, ...]
    hypotheses: tuple[Hypothesis, ...]
    pair_tier: PairTier
    noise_class: NoiseClass
    stopping: str  # "fixed": every cell runs before the decision; "looks": as planned below; "anytime": e-values
    looks: tuple[int, ...]  # seeds per arm at each planned look
    tau: float | None  # prior sd of effects for e-values, fixed before data
    n_max: int | None
    policy: str
    timeout: float | None  # seconds per run
    amends: str | None  # event id of the registration that this one replaces
    track: Literal["confirm", "explore"] = "confirm"  # what explores suggests; only fresh seeds confirm it
    tuning_seeds: tuple[int, ...] = ()  # used to choose something, so they never confirm
    cycle: int | None = None  # its number among the plans of one family that share alpha: it may spend alpha/(c(c+1))


class PlanChange(msgspec.Struct, frozen=True):
    """One key of a plan, as it was and as it is from here on: short text, the registrations hold all of it."""

    key: str
    before: str
    after: str


class PlanAmended(msgspec.Struct, frozen=True, kw_only=True):
    """Why a plan was registered again. It stands in one commit with the registration that it explains."""

    TYPE: ClassVar[str] = "plan.amended"
    VERSION: ClassVar[int] = 1

    experiment: str
    amends: str  # event id of the registration that was replaced
    changes: tuple[PlanChange, ...]
    reason: str  # empty where `ledger run` was given more seeds or arms, which asks for none


class RunStarted(msgspec.Struct, frozen=True, kw_only=True):
    """One seed of one arm begins."""

    TYPE: ClassVar[str] = "run.started"
    VERSION: ClassVar[int] = 1

    run: str
    experiment: str | None
    arm: str
    role: Role
    seed: int | None
    seed_role: SeedRole
    base: str
    cell: str  # fingerprint of base, arm and seed: equal cells are the same measurement
    noise_class: NoiseClass
    pair_tier: PairTier
    block: str  # one machine session: runs in a block share drift
    stage: Stage
    fork_of: str | None  # run whose checkpoint this one continues
    runner: str
    command: tuple[str, ...]
    config: tuple[NameValue, ...]
    env: tuple[NameValue, ...]  # the overrides that were set, seed included
    environment: str | None  # blob: packages, hardware, drivers, allowed variables
    python: str
    platform: str
    hardware_class: str
    code: str | None  # digest of the code that the command runs
    git_commit: str | None
    git_dirty: bool | None
    git_diff: str | None  # blob: the work tree against the commit
    data: tuple[Digest, ...]
    host: str  # digest of the host's name
    boot: str
    pid: int


class FinalMetric(msgspec.Struct, frozen=True):
    """The last value of one metric in a run."""

    name: str
    value: Real
    step: int | None


class RunFinished(msgspec.Struct, frozen=True, kw_only=True):
    """The outcome of a run: a failure is a fact with a status, never a missing row and never a zero."""

    TYPE: ClassVar[str] = "run.finished"
    VERSION: ClassVar[int] = 1

    run: str
    status: Status
    reason: str  # one line; empty when ok
    exit_code: int | None
    signal: str | None
    metric: str | None
    value: Real | None
    pre_value: Real | None  # the same metric before quantization, where the run tells it
    finals: tuple[FinalMetric, ...]
    steps: int | None
    tokens: int | None
    wall_s: float | None
    cpu_s: float | None
    peak_memory_bytes: int | None
    artifact_bytes: int | None
    cost: float | None  # device-seconds
    extractor: str | None  # what read the metrics from the text, so that it can be replayed
    started_at: str
    ended_at: str


class Column(msgspec.Struct, frozen=True):
    name: str
    type: Literal["int64", "float64", "string", "timestamp_us"]


class MetricsLogged(msgspec.Struct, frozen=True, kw_only=True):
    """A chunk of points of one run. The points are in a Parquet file, their digest is here.

    `sha256` is over the columns in order: fixed-width values little-endian, strings as a uint32
    length and UTF-8 bytes, row by row within the column.
    """

    TYPE: ClassVar[str] = "metrics.logged"
    VERSION: ClassVar[int] = 1

    run: str
    chunk: str  # path below the ledger, chunk/<writer>/<n>.parquet
    rows: int
    columns: tuple[Column, ...]
    sha256: str
    source: str  # "api", "stdout", "trainer"
    names: tuple[str, ...]
    first_step: int
    last_step: int
    recovered: bool = False


class ArtifactStored(msgspec.Struct, frozen=True, kw_only=True):
    """Bytes kept by content under blob/sha256/."""

    TYPE: ClassVar[str] = "artifact.stored"
    VERSION: ClassVar[int] = 1

    run: str | None
    experiment: str | None
    name: str
    kind: str
    sha256: str
    bytes: int
    left_out: int  # bytes that the source had and the bounded copy has not
    media_type: str


class DecisionMade(msgspec.Struct, frozen=True, kw_only=True):
    """A judgement on one hypothesis by one policy, with every figure that its sentence uses.

    A figure is None where it does not exist for these runs or this policy, or is unbounded. Version 1 had the
    founding rule alone; its upcaster leaves empty what that rule did not say.
    """

    TYPE: ClassVar[str] = "decision.made"
    VERSION: ClassVar[int] = 2

    experiment: str
    intervention: str
    policy: str  # name and version
    policy_digest: str  # of all that the policy says; empty in version 1
    engine: str  # name and version of the procedure
    code: str  # digest of the code that judged: other code may judge otherwise, and replay says so
    head: Head
    track: Literal["confirm", "explore"]
    mode: Literal["fixed", "looks", "anytime"]  # the test: one look, a planned look, or e-values
    alpha: float  # family-wise error rate of the plan
    cycle: int | None  # number of the plan among those that share alpha
    look: (
        int | None
    )  # by the founding rule 1 and one more for every time seeds were added; None for a look not planned
    alpha_look: float  # what this look may spend of alpha
    alpha_spent: float | None  # of one hypothesis' share, up to this planned look
    information: float | None  # share of the final information at this planned look
    delta: float
    direction: Literal["lower", "higher"]
    family_size: int
    used: tuple[str, ...]  # ids of the run.finished events behind the figures, in log order; at most MOST_USED
    used_count: int  # how many there are
    used_digest: str  # SHA-256 of all of them, a line each
    # what there was
    n_t: int
    n_c: int
    n_pairs: int
    n_bank: int  # of the control's runs those of other experiments on the same base
    planned: int  # seeds of the treatment that were planned and have an outcome
    lost: int  # of them those whose every try failed
    failed: int  # planned pairs that do not count
    pending: int  # planned runs (by the founding rule: pairs) that have not run yet
    failures_t: int  # runs of the treatment that failed, retried ones included
    failures_c: int
    attempts_t: int
    attempts_c: int
    early: int  # seeds of the treatment that ran before their plan
    tuning: int  # seeds of the treatment that served to choose something
    condition: Literal["complete", "reduced_power", "failed"]
    # the estimate
    variance: Literal["moderated", "pooled", "own"] | None
    d0: float | None  # degrees of freedom of the noise class that each variance borrows
    d0_fitted: float | None  # before the cap; None beside a d0: infinite, the arms' variances do not differ
    s0: float | None  # standard deviation of one run as the noise class has it
    prior_arms: int  # variances behind it
    rho: float | None  # same-seed correlation that was used
    rho_hat: float | None  # as estimated
    b: Real | None  # weight of the controls that share seeds
    sd_t: Real | None  # of one run
    sd_c: Real | None
    effect: Real | None
    sd: Real | None  # of the difference of two runs of one seed
    se: Real | None
    df: Real | None
    ci95_lo: Real | None
    ci95_hi: Real | None
    ci90_lo: Real | None
    ci90_hi: Real | None
    boot_lo: Real | None  # bootstrap interval, where a policy asks for one
    boot_hi: Real | None
    # tests
    t: Real | None
    p: Real | None
    p_adj: Real | None
    p_bound: Real | None  # nominal p that this planned look has to undercut
    p_tost: Real | None
    p_beyond: Real | None  # one-sided, that the effect is larger than delta
    e_value: Real | None
    cs_lo: Real | None
    cs_hi: Real | None
    statistic: Real | None  # of a policy that compares one with a threshold
    threshold: Real | None
    reference: Real | None  # value, margin or gate that a policy compares with
    p_crash: Real | None  # Fisher's exact test of the arms' crash rates
    p_crash_mid: Real | None
    drift_p_slope: Real | None  # of the controls over time
    drift_p_blocks: Real | None
    # planning and ranking
    mde80: Real | None
    k_more_seeds: int | None
    post_mean: Real | None
    post_sd: Real | None
    lfsr: Real | None
    p_negative: Real | None
    p_in_rope: Real | None
    # what is said
    verdict: Literal["better", "worse", "no_effect_that_matters", "undecided", "invalid"]
    label: str  # the policy's own word; for the ledger's rule the seed plan's: confirmed, suggestive or null
    candidate: bool  # the explore track suggests to confirm it with fresh seeds
    beyond_delta: bool
    small: bool
    defect: str  # why these runs can carry no claim, empty when they can
    why: str


class ScreenPlanned(msgspec.Struct, frozen=True, kw_only=True):
    """The factors and stacks of a screen. It stands in one commit with the registration of its arms."""

    TYPE: ClassVar[str] = "screen.planned"
    VERSION: ClassVar[int] = 1

    experiment: str
    factors: tuple[Factor, ...]
    stacks: tuple[Stack, ...]  # the first is the control: every factor low


class ScreenJudged(msgspec.Struct, frozen=True, kw_only=True):
    """What a screen says of its factors: average effects, which suggest and never confirm."""

    TYPE: ClassVar[str] = "screen.judged"
    VERSION: ClassVar[int] = 1

    experiment: str
    engine: str  # name and version of the procedure
    code: str  # digest of the code that judged
    head: Head
    metric: str
    direction: Literal["lower", "higher"]
    delta: float
    used: tuple[str, ...]  # ids of the run.finished events behind the figures, in log order
    runs: int  # that ended with a value
    missing: int  # that were planned and did not
    sd: Real | None  # of one run, as the errors use it; None where nothing could be estimated
    df: Real | None
    noise: str  # pure (no interaction of two factors reaches it), all, or empty
    p_interactions: Real | None  # are there interactions of two factors?
    effects: tuple[AverageEffect, ...]
    why: str


class CyclePlanned(msgspec.Struct, frozen=True, kw_only=True):
    """A series of cycles, fixed before its first. `cycle` is the digest of name, base and metric.

    Planned again it may have more candidates and other stop rules, nothing else.
    """

    TYPE: ClassVar[str] = "cycle.planned"
    VERSION: ClassVar[int] = 1

    cycle: str
    name: str
    question: str
    plan: str  # its text as the user wrote it
    plan_digest: str
    base: str
    runner: str
    metric: str
    direction: Literal["lower", "higher"]
    delta: float
    alpha: float  # for all cycles together: cycle c may spend alpha / (c (c + 1))
    seeds: int  # of every arm in each cycle, fresh ones every time
    first_seed: int
    batch: int  # candidates in one cycle
    adopt: float  # an effect larger than this would be adopted
    noise_class: NoiseClass
    control: Arm
    arms: tuple[Arm, ...]  # of the candidates, in their order
    candidates: tuple[Candidate, ...]
    stop: tuple[StopRule, ...]
    amends: str | None  # event id of the plan that this one replaces


class CycleRanked(msgspec.Struct, frozen=True, kw_only=True):
    """The beginning of a cycle: what is worth measuring, and what is chosen; or why the series ends."""

    TYPE: ClassVar[str] = "cycle.ranked"
    VERSION: ClassVar[int] = 1

    cycle: str
    number: int  # from 1
    procedure: str  # its name and version
    code: str  # digest of the code that judged
    head: Head
    plan: str  # event id of the cycle plan
    alpha: float  # that this cycle may spend
    ranking: tuple[RankedOption, ...]
    chosen: tuple[str, ...]  # candidates that this cycle measures; none when the series ends
    experiment: str  # name of the plan that measures them; empty when the series ends
    seeds: tuple[int, ...]
    rules: tuple[StopState, ...]
    stopped: str  # the rule that ends the series, empty when it goes on
    why: str


class DagRevised(msgspec.Struct, frozen=True, kw_only=True):
    """The causal DAG as judged at one head. What is too long for one event follows in further parts of the same
    commit: their lists go on from one to the next, the texts stand in the first."""

    TYPE: ClassVar[str] = "dag.revised"
    VERSION: ClassVar[int] = 1

    procedure: str  # its name and version
    code: str  # digest of the code that judged
    part: int  # from 1
    parts: int
    head: Head
    base: str | None  # event id of the revision before it (of its first part)
    params: tuple[NameValue, ...]
    skeleton: str  # the expert's file, as it was
    skeleton_digest: str  # SHA-256 of that text
    used: tuple[str, ...]  # ids of the events behind any figure, in log order
    nodes: tuple[DagNode, ...]
    edges: tuple[DagEdge, ...]
    lineage: tuple[LineageEffect, ...]
    interactions: tuple[Interaction, ...]
    loops: tuple[Loop, ...]
    separations: tuple[Separation, ...]
    measures: tuple[Measure, ...]
    unexplored: tuple[Unexplored, ...]
    discovery: tuple[Discovery, ...]
    recommendation: Literal["proceed", "skip"]  # by the share of comparisons with many changes
    notes: tuple[str, ...]  # what was left out, one line each


class Probed(msgspec.Struct, frozen=True):
    name: str
    value: Real
    unit: str


class ProbeMeasured(msgspec.Struct, frozen=True, kw_only=True):
    """A diagnostic measured on a run, a checkpoint or a data set."""

    TYPE: ClassVar[str] = "probe.measured"
    VERSION: ClassVar[int] = 1

    run: str | None
    probe: str
    subject: str
    method: str  # name and version of the procedure
    params: tuple[NameValue, ...]
    values: tuple[Probed, ...]
    artifact: str | None


class EventRetracted(msgspec.Struct, frozen=True, kw_only=True):
    """From here on projections leave the event `target` out; as of an earlier position it still counts."""

    TYPE: ClassVar[str] = "event.retracted"
    VERSION: ClassVar[int] = 1

    target: str
    reason: str


class KeyAdded(msgspec.Struct, frozen=True, kw_only=True):
    """From here on heads of this log may be signed with this key. It says who signs, not who may."""

    TYPE: ClassVar[str] = "key.added"
    VERSION: ClassVar[int] = 1

    key: str  # key id: 8 hex digits of SHA-256 over name, algorithm and public key, as C2SP signed-note has it
    name: str  # the name in signature lines: the log's origin
    algorithm: Literal["ed25519"]
    public_key: str  # 32 bytes as hex


class KeyRevoked(msgspec.Struct, frozen=True, kw_only=True):
    """From here on the key signs nothing more; what it signed of the log before stays good. For ever."""

    TYPE: ClassVar[str] = "key.revoked"
    VERSION: ClassVar[int] = 1

    key: str
    reason: str


class LedgerRecovered(msgspec.Struct, frozen=True, kw_only=True):
    """`ledger repair` moved a damaged file aside, or put a copy of it in its place."""

    TYPE: ClassVar[str] = "ledger.recovered"
    VERSION: ClassVar[int] = 1

    action: Literal["quarantined", "restored"]
    path: str  # below the ledger
    position: int | None  # of the first event that it held
    sha256: str | None  # of the bytes that lay there; None where there was no file
    bytes: int | None
    kept: str | None  # where these bytes are now, below the ledger
    reason: str


EventData = (
    ExperimentRegistered
    | PlanAmended
    | RunStarted
    | RunFinished
    | MetricsLogged
    | ArtifactStored
    | DecisionMade
    | ScreenPlanned
    | ScreenJudged
    | CyclePlanned
    | CycleRanked
    | DagRevised
    | ProbeMeasured
    | EventRetracted
    | KeyAdded
    | KeyRevoked
    | LedgerRecovered
    | RecordExtracted
    | LeaderboardExtracted
    | ExtractionFailed
)

TYPES: dict[str, type[EventData]] = {
    struct.TYPE: struct
    for struct in (
        ExperimentRegistered,
        PlanAmended,
        RunStarted,
        RunFinished,
        MetricsLogged,
        ArtifactStored,
        DecisionMade,
        ScreenPlanned,
        ScreenJudged,
        CyclePlanned,
        CycleRanked,
        DagRevised,
        ProbeMeasured,
        EventRetracted,
        KeyAdded,
        KeyRevoked,
        LedgerRecovered,
        RecordExtracted,
        LeaderboardExtracted,
        ExtractionFailed,
    )
}

# (type, version) -> function from a body's data of that version to data of the next one. Pure, and
# chained, so that an event of version 1 is read by the structs of today.
Upcaster = Callable[[dict[str, Any]], dict[str, Any]]
UPCASTERS: dict[tuple[str, int], Upcaster] = {("decision.made", 1): decision_1}

STREAM_PATTERN = re.compile(r"[a-z][a-z_]{0,31}/[A-Za-z0-9._:-]{1,128}")


class Event(msgspec.Struct, frozen=True, kw_only=True):
    """An event as it lies in the log: the envelope, its position, and its verbatim body."""

    position: int
    event_id: str
    type: str
    version: int
    stream: str
    recorded_at: str
    actor: str | None
    correlation_id: str | None
    causation_id: str | None
    body: bytes

    @property
    def data(self) -> EventData:
        """The typed data, upcast to today's version. Raises Unsupported for an unknown type."""
        try:
            data = msgspec.json.decode(self.body)["data"]
        except (msgspec.DecodeError, UnicodeDecodeError, KeyError, TypeError):
            raise UsageError(f"malformed {self.type}: its body holds no data") from None
        return parse(self.type, self.version, data)


def upcast(kind: str, version: int, data: dict[str, Any]) -> dict[str, Any]:
    """`data` of an older version as today's version would have written it.

    Raises Unsupported for a type or a version that this program does not know: a projection must
    stop there, not skip it.
    """
    struct = TYPES.get(kind)
    if struct is None:
        raise Unsupported(f"event type {kind!r} is unknown to this version of ledger; update it")
    if version > struct.VERSION:
        raise Unsupported(f"event {kind} has version {version}, this program knows up to {struct.VERSION}; update it")
    while version < struct.VERSION:
        if (kind, version) not in UPCASTERS:
            raise Unsupported(f"event {kind} has version {version}, which no version of this program wrote")
        data = UPCASTERS[kind, version](data)
        version += 1
    return data


def parse(kind: str, version: int, data: dict[str, Any]) -> EventData:
    """A typed struct from a body's data. Raises Unsupported as `upcast`, UsageError when it is malformed."""
    try:
        return msgspec.convert(upcast(kind, version, data), TYPES[kind])
    except msgspec.ValidationError as error:
        raise UsageError(f"malformed {kind}: {error}") from None


def named(mapping: dict[str, Any]) -> tuple[NameValue, ...]:
    """A free map as it stands in an event: sorted by name, non-strings as JSON text.

    What JSON has not (a path, a dtype, `vars(args)` of all kinds) is recorded as its `str`.
    """

    def text(value: Any) -> str:
        if isinstance(value, str):
            return value
        try:
            return canonical.encode(value).decode()
        except UsageError:
            return str(value)

    return tuple(
        NameValue(str(name), text(value)) for name, value in sorted(mapping.items(), key=lambda x: str(x[0]))
    )

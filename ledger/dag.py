"""What a revision of the causal DAG consists of; the event itself, `dag.revised`, stands with the others.

A revision is a judgement: it carries the head that it read, the procedure, its parameters, the
expert skeleton as text, and what causal discovery returned (which is a fact of the world, because
another run of such a program may differ). From these and the log's first `head.position` events it
can be made again; nothing else may enter it.

Effects are child minus parent or treatment minus control, in the unit of the node that the edge
leads into; negative is better where the outcome is bits per byte.
"""

from __future__ import annotations

from typing import Literal

import msgspec

NodeKind = Literal["intervention", "mediator", "outcome"]
EdgeKind = Literal["imposed", "accounting", "lineage", "experiment", "proposed"]
EdgeStatus = Literal["imposed", "supported", "contradicted", "undecided", "no_effect_that_matters"]
Tag = Literal["expert_imposed", "data_confirmed", "data_contradicted", "uncertain"]
Outcome = Literal["ok", "degenerate", "singular", "timeout", "missing", "failed"]


class DagNode(msgspec.Struct, frozen=True, kw_only=True):
    """One node. `group` is the technique's kind (architecture, quantization …), empty for the others."""

    id: str
    kind: NodeKind
    label: str
    group: str
    unit: str  # of a mediator or the outcome; "log" before it where the effect is a relative change
    delta: float | None  # smallest change of it that matters


class DagEdge(msgspec.Struct, frozen=True, kw_only=True):
    """One edge, judged by the best evidence there is: `kind` says which, `effect` to `hi90` are its figures."""

    src: str
    dst: str
    kind: EdgeKind
    status: EdgeStatus
    tag: Tag  # the status in four words: what an expert said, and whether data agree
    imposed: bool  # whether the skeleton has it
    expect: Literal["lower", "higher", "any"]  # what the skeleton says of its sign
    effect: float | None
    sd: float | None
    lo90: float | None
    hi90: float | None
    lineage_effect: float | None
    lineage_sd: float | None
    experiment_effect: float | None
    experiment_sd: float | None
    p_negative: float | None
    stability: float | None  # share of branch bootstraps with this sign at P > .9
    loo_min: float | None  # over leaving out one branch of the lineage at a time
    loo_max: float | None
    where: str  # the noise class of the figures
    proposed_by: tuple[str, ...]  # programs of discovery that found it too; that decides nothing
    evidence: tuple[int, ...]  # the events behind the figures: their places in the revision's `used`, from 0


class LineageEffect(msgspec.Struct, frozen=True, kw_only=True):
    """Posterior of one technique's effect on one node within one noise class: a prior, never confirmed."""

    technique: str
    target: str
    where: str
    contrasts: int
    mean: float
    sd: float
    lo90: float
    hi90: float
    p_negative: float
    shrink: float
    stability: float
    loo_min: float | None
    loo_max: float | None
    structural: bool  # its unit vector lies in the row space of the comparisons
    practical: bool  # its posterior sd is below .7 of the prior's
    alias_class: int | None
    loop_z: float | None  # the largest |z| of a loop that it takes part in


class Interaction(msgspec.Struct, frozen=True, kw_only=True):
    """How much more two techniques do together, where each entered apart from the other twice or more."""

    a: str
    b: str
    target: str
    where: str
    contrasts: int
    mean: float
    sd: float
    p_negative: float


class Loop(msgspec.Struct, frozen=True, kw_only=True):
    """A closed way along comparisons: what was observed around it less what the effects imply."""

    loop: int
    target: str
    where: str
    stacks: tuple[str, ...]
    residual: float
    sd: float
    z: float
    flagged: bool  # |z| > 3: a parent that was declared wrongly, or an interaction


class Separation(msgspec.Struct, frozen=True, kw_only=True):
    """Techniques that the comparisons cannot tell apart, and the cheapest experiment that would."""

    alias_class: int
    where: str
    techniques: tuple[str, ...]
    experiment: str
    ablate: str | None  # the technique to take out, None where nothing feasible separates
    cost_runs: int | None
    rank: int  # of all comparisons, with it


class Proposed(msgspec.Struct, frozen=True):
    """An edge as a discovery program returned it; the marks are those of a partial ancestral graph."""

    src: str
    dst: str
    mark: str  # "-->", "o->", "o-o", "<->" or "---"


class Discovery(msgspec.Struct, frozen=True, kw_only=True):
    """What a program of causal discovery returned, or why it returned nothing. It may only propose."""

    algorithm: str
    version: str
    test: str
    alpha: float
    input_digest: str
    rows: int
    columns: int
    merged: tuple[str, ...]  # columns that were one, "a = b", and those left out as constant, "c = const"
    limit_s: float
    outcome: Outcome
    reason: str
    proposed: tuple[Proposed, ...] = ()


class Measure(msgspec.Struct, frozen=True):
    """One figure about the data as a whole; `note` says what it counts."""

    name: str
    value: float
    note: str


class Unexplored(msgspec.Struct, frozen=True, kw_only=True):
    """Two techniques that no stack has together: what both would give if they simply added up."""

    a: str
    b: str
    expected: float
    sd: float  # with the interaction's prior
    prior_sd: float  # of the interaction alone

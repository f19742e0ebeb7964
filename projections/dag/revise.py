"""A revision of the causal DAG: a pure function of the tables, the expert's text, and what discovery returned.

    study(tables, skeleton)                    comparisons and fits: what a planner needs, covariances included
    revise(tables, skeleton, discovery=())     the event `dag.revised`, to be appended by who asked
    replay(tables, recorded)                   every figure that does not come out again

Figures are rounded to 9 significant digits: they come from matrix inversions, whose last bits differ between
machines. The revision before it, `base`, is the newest one in the tables that was not taken back.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import msgspec

from ledger.dag import DagNode, Discovery, Interaction, LineageEffect, Loop
from ledger.errors import UsageError
from ledger.events import DagRevised, named
from projections import catalog
from projections.dag import contrasts, judging, measures, model
from projections.dag.contrasts import Data
from projections.dag.edges import Edges
from projections.dag.model import Fit
from projections.dag.skeleton import Skeleton, parse
from projections.engine import Tables
from projections.statistics.numeric import digits

PROCEDURE = "lineage-dag/1"
DIGITS = 9


class Study(NamedTuple):
    """What a revision is judged from. `fits` hold means and covariances for planners."""

    data: Data
    fits: tuple[Fit, ...]


def study(tables: Tables, skeleton: Skeleton) -> Study:
    """Comparisons and fits. Raises UsageError where there is nothing to compare."""
    data = contrasts.read(tables, skeleton.outcome.id)
    if not data.contrasts:
        raise UsageError(_nothing(tables, skeleton.outcome.id))
    deltas = {node.id: node.delta for node in skeleton.nodes.values() if node.delta is not None}
    return Study(data, tuple(model.fits(data, deltas, tables.head.root)))


def _nothing(tables: Tables, outcome: str) -> str:
    (count,) = tables.rows(
        "SELECT (SELECT count(*) FROM records) AS records, (SELECT count(*) FROM experiments) AS experiments"
    )
    if count["records"]:
        return (
            f"none of {count['records']} records declares a parent among them on its own track, and no experiment "
            f"measured {outcome}: there is nothing to compare"
        )
    if count["experiments"]:
        return f"no experiment has two finished pairs on {outcome} yet: run its seeds, then revise"
    return "there is no record and no experiment: `ledger extract DIR` reads records, `ledger run` experiments"


def revise(tables: Tables, skeleton: Skeleton, discovery: Sequence[Discovery] = ()) -> DagRevised:
    """The DAG as these tables have it. Raises UsageError where there is nothing to compare."""
    data, fits = study(tables, skeleton)
    edges = Edges(skeleton, data, fits, discovery).edges
    used = judging.in_order([one for _, ids in edges for one in ids], data)
    place = {one: at for at, one in enumerate(used)}
    outcome = skeleton.outcome
    told = measures.measures(outcome.id, data, fits)
    share = next(one.value for one in told if one.name == "many_share")
    made = DagRevised(
        procedure=PROCEDURE,
        code=catalog.code_digest(),
        part=1,
        parts=1,
        head=tables.head,
        base=_base(tables),
        params=named(
            {
                "apart": model.APART,
                "draws": model.DRAWS,
                "firm": model.FIRM,
                "loop_z": model.LOOP_Z,
                "many": measures.MANY,
                "seeds": measures.SEEDS,
                "too_many": measures.TOO_MANY,
            }
        ),
        skeleton=skeleton.text,
        skeleton_digest=skeleton.digest,
        used=used,
        nodes=tuple(_nodes(skeleton, data)),
        edges=tuple(msgspec.structs.replace(edge, evidence=tuple(place[one] for one in ids)) for edge, ids in edges),
        lineage=tuple(_lineage(fits)),
        interactions=tuple(
            Interaction(
                a=pair.a,
                b=pair.b,
                target=fit.target,
                where=fit.where,
                contrasts=pair.contrasts,
                mean=pair.mean,
                sd=pair.sd,
                p_negative=_p_negative(pair.mean, pair.sd),
            )
            for fit in fits
            for pair in fit.pairs
        ),
        loops=tuple(_loops(fits)),
        separations=tuple(measures.separations(data, fits, outcome.id)),
        measures=tuple(told),
        unexplored=tuple(measures.unexplored(outcome.id, True, data, fits)),
        discovery=tuple(discovery),
        recommendation="skip" if share > measures.TOO_MANY else "proceed",
        notes=tuple(_notes(skeleton, data, fits)),
    )
    return msgspec.convert(_rounded(msgspec.to_builtins(made)), DagRevised)


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return digits(value, DIGITS) + 0.0  # no negative zero
    if isinstance(value, dict):
        return {key: item if key in ("discovery", "head") else _rounded(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_rounded(item) for item in value]
    return value


def _base(tables: Tables) -> str | None:
    rows = tables.rows("SELECT event_id FROM dag_revisions ORDER BY position DESC LIMIT 1")
    return rows[0]["event_id"] if rows else None


def _p_negative(mean: float, sd: float) -> float:
    return 0.5 * math.erfc(mean / sd / math.sqrt(2.0))


# ── nodes ──


def _nodes(skeleton: Skeleton, data: Data) -> list[DagNode]:
    """Techniques by name, then the skeleton's nodes in its order."""
    found = [
        DagNode(id=name, kind="intervention", label=name, group=group, unit="", delta=None)
        for name, group in sorted(data.interventions().items())
        if name not in skeleton.nodes
    ]
    for node in skeleton.nodes.values():
        group = data.groups.get(node.id, "") if node.kind == "intervention" else ""
        unit = f"log {node.unit}".rstrip() if node.log else node.unit
        found.append(DagNode(id=node.id, kind=node.kind, label=node.label, group=group, unit=unit, delta=node.delta))
    return found


# ── the other parts ──


def _lineage(fits: Sequence[Fit]) -> list[LineageEffect]:
    found = []
    for fit in fits:
        effects, known = fit.effects, fit.known
        for j, name in enumerate(fit.techniques):
            low, high = fit.interval(j)
            loo = fit.loo[j]
            found.append(
                LineageEffect(
                    technique=name,
                    target=fit.target,
                    where=fit.where,
                    contrasts=fit.counts[j],
                    mean=effects.mean[j],
                    sd=effects.sd[j],
                    lo90=low,
                    hi90=high,
                    p_negative=effects.p_negative[j],
                    shrink=effects.shrink[j],
                    stability=fit.stability[j],
                    loo_min=loo[0] if loo else None,
                    loo_max=loo[1] if loo else None,
                    structural=known.structural[j],
                    practical=effects.practical[j],
                    alias_class=known.alias_class[j],
                    loop_z=max(
                        (abs(one.residual) / one.sd for one in fit.loops if name in one.techniques), default=None
                    ),
                )
            )
    return found


def _loops(fits: Sequence[Fit]) -> list[Loop]:
    found: list[Loop] = []
    for fit in fits:
        for one in fit.loops:
            z = one.residual / one.sd
            found.append(
                Loop(
                    loop=len(found), target=fit.target, where=fit.where, stacks=one.stacks, residual=one.residual,
                    sd=one.sd, z=z, flagged=abs(z) > model.LOOP_Z,
                )
            )  # fmt: skip
    return found


def _notes(skeleton: Skeleton, data: Data, fits: Sequence[Fit]) -> list[str]:
    """What was left out and what to look at, one line each."""
    found = list(data.notes)
    for fit in fits:
        if fit.target != skeleton.outcome.id:
            continue
        n, k = len(fit.contrasts), len(fit.techniques)
        if n < k:
            found.append(
                f"{fit.where}: {n} comparisons of {k} techniques: not all can be told apart, see separations"
            )
        for one, extra in zip(fit.contrasts, fit.effects.extra, strict=True):
            if extra > 0:
                found.append(
                    f"{one.child}: {one.value:+.4g} against {one.parent} is not what the others foresee; it counts "
                    "little (is that its parent?)"
                )
    changed = data.interventions()
    still = sorted(
        name for name, records in data.named.items() if len(records) == data.records > 1 and name not in changed
    )
    if still:
        found.append(f"in every record, so that no comparison changes it: {', '.join(still)}")
    measured = {fit.target for fit in fits}
    unmeasured = [node.id for node in skeleton.nodes.values() if node.kind == "mediator" and node.id not in measured]
    if unmeasured:
        found.append(f"no comparison measures {', '.join(unmeasured)}")
    return found


# ── replay ──


class Difference(NamedTuple):
    """A figure of a revision that did not come out the same: recorded, and computed now."""

    field: str
    recorded: Any
    now: Any


def replay(tables: Tables, recorded: DagRevised) -> list[Difference]:
    """Revise again on `tables` (as of the revision's head), from its own skeleton and discovery; what differs.

    `recorded` is the whole revision, see parts.py.
    """
    found: list[Difference] = []
    if tables.head != recorded.head:
        found.append(Difference("head.root", recorded.head.root, tables.head.root))
    now = revise(tables, parse(recorded.skeleton), recorded.discovery)
    before, after = msgspec.to_builtins(recorded), msgspec.to_builtins(now)
    for field in before:
        if field not in ("head", "code", "part", "parts"):
            found += _differences(field, before[field], after[field])
    if found and recorded.code != now.code:  # other code that finds the same is no difference
        found.insert(0, Difference("code", recorded.code, now.code))
    return found


def _differences(field: str, before: Any, after: Any) -> list[Difference]:
    """Entry by entry where both are lists of entries, else as a whole."""
    if before == after:
        return []
    if isinstance(before, (list, tuple)) and isinstance(after, (list, tuple)) and len(before) == len(after):
        found: list[Difference] = []
        for number, (one, other) in enumerate(zip(before, after, strict=True)):
            if isinstance(one, dict) and isinstance(other, dict):
                name = " -> ".join(
                    str(one[key]) for key in ("src", "dst", "technique", "target", "name") if key in one
                )
                where = f"{field}[{name or number}]"
                found += [Difference(f"{where}.{key}", one[key], other[key]) for key in one if one[key] != other[key]]
            elif one != other:
                found.append(Difference(f"{field}[{number}]", one, other))
        return found
    return [Difference(field, before, after)]

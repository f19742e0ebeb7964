"""The edges of a revision, each with the ids of the events behind it: from techniques, then between the skeleton's
own nodes.

A technique has an edge where the expert drew one, by itself or by the rule of its kind, and where data show an
effect that nobody drew. What only a discovery program found is an edge of kind `proposed`, into a mediator or
the outcome; beside an edge that is there it is a remark.
"""

from __future__ import annotations

from collections.abc import Sequence

from ledger.dag import DagEdge, Discovery, EdgeKind, EdgeStatus
from projections.dag import judging
from projections.dag.contrasts import Data
from projections.dag.model import Fit
from projections.dag.skeleton import Expect, Skeleton


class Edges:
    """All edges: techniques into nodes, by name, then the skeleton's between its own nodes."""

    def __init__(self, skeleton: Skeleton, data: Data, fits: Sequence[Fit], discovery: Sequence[Discovery]) -> None:
        self.skeleton, self.data, self.fits = skeleton, data, fits
        self.found_too = _found_too(discovery)
        self.edges: list[tuple[DagEdge, tuple[str, ...]]] = []  # with the ids of the events behind each
        drawn = {(edge.src, edge.dst): edge for edge in skeleton.edges}
        techniques = data.interventions()
        named_too = {node.id for node in skeleton.nodes.values() if node.kind == "intervention"}
        targets = [node.id for node in skeleton.nodes.values() if node.kind != "intervention"]
        for name in sorted({*techniques, *named_too}):
            by_rule = skeleton.into(techniques.get(name, ""))
            for target in targets:
                edge = drawn.get((name, target))
                imposed = edge is not None or target in by_rule
                self._technique(name, target, imposed, edge.expect if edge is not None else "any")
        for edge in skeleton.edges:
            if edge.src not in named_too:
                self._given(edge.src, edge.dst, edge.kind == "accounting", edge.expect, edge.effect)

    def _technique(self, name: str, target: str, imposed: bool, expect: Expect) -> None:
        delta = self.skeleton.nodes[target].delta or 0.0
        judged = judging.judge(name, target, expect, delta, self.data, self.fits, imposed)
        programs = self.found_too.get((name, target), ())
        if judged is not None and not imposed and judged.status in ("undecided", "no_effect_that_matters"):
            judged = None  # nobody drew it and nothing shows it
        if judged is None:
            if programs:
                self._proposed(name, target, programs)
            return
        best, fit = judged.best, judged.fit
        j = fit.of(name) if fit is not None else None
        loo = fit.loo[j] if fit is not None and j is not None else None
        made = DagEdge(
            src=name,
            dst=target,
            kind=judged.kind,
            status=judged.status,
            tag=judging.TAGS[judged.status],
            imposed=imposed,
            expect=expect,
            effect=best.effect if best else None,
            sd=best.sd if best else None,
            lo90=best.lo90 if best else None,
            hi90=best.hi90 if best else None,
            lineage_effect=judged.lineage.effect if judged.lineage else None,
            lineage_sd=judged.lineage.sd if judged.lineage else None,
            experiment_effect=judged.experiment.effect if judged.experiment else None,
            experiment_sd=judged.experiment.sd if judged.experiment else None,
            p_negative=best.p_negative if best else None,
            stability=fit.stability[j] if fit is not None and j is not None else None,
            loo_min=loo[0] if loo else None,
            loo_max=loo[1] if loo else None,
            where=best.where if best else "",
            proposed_by=programs,
            evidence=(),
        )
        self.edges.append((made, judged.evidence))

    def _given(self, src: str, dst: str, accounting: bool, expect: Expect, effect: float | None) -> None:
        kind: EdgeKind = "accounting" if accounting else "imposed"
        found_too = self.found_too.get((src, dst), ())
        self.edges.append((_bare(src, dst, kind, "imposed", True, expect, effect, found_too), ()))

    def _proposed(self, src: str, dst: str, programs: tuple[str, ...]) -> None:
        self.edges.append((_bare(src, dst, "proposed", "undecided", False, "any", None, programs), ()))


def _bare(
    src: str, dst: str, kind: EdgeKind, status: EdgeStatus, imposed: bool, expect: Expect, effect: float | None,
    programs: tuple[str, ...],
) -> DagEdge:  # fmt: skip
    """An edge that no comparison says anything of; one that holds by definition has its effect exactly."""
    return DagEdge(
        src=src, dst=dst, kind=kind, status=status, tag=judging.TAGS[status], imposed=imposed, expect=expect,
        effect=effect, sd=None if effect is None else 0.0, lo90=effect, hi90=effect, lineage_effect=None,
        lineage_sd=None, experiment_effect=None, experiment_sd=None, p_negative=None, stability=None, loo_min=None,
        loo_max=None, where="", proposed_by=programs, evidence=(),
    )  # fmt: skip


def _found_too(discovery: Sequence[Discovery]) -> dict[tuple[str, str], tuple[str, ...]]:
    """(src, dst) -> the programs that found the two adjacent. Of a merged column each member counts."""
    found: dict[tuple[str, str], list[str]] = {}
    for one in discovery:
        told = [text.split(" = ") for text in one.merged if not text.endswith(" = const")]
        members = {names[0]: [name.removeprefix("not ") for name in names] for names in told}
        for edge in one.proposed:
            for a in members.get(edge.src, [edge.src]):
                for b in members.get(edge.dst, [edge.dst]):
                    for pair in ((a, b), (b, a)):
                        if one.algorithm not in found.setdefault(pair, []):
                            found[pair].append(one.algorithm)
    return {pair: tuple(programs) for pair, programs in found.items()}

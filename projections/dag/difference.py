"""What changed from one revision of the DAG to another, how far, and which events made it change.

The same as the table dag_diffs, for any two revisions. An edge that was added, removed, judged otherwise
or whose effect is another one has changed; stability is drawn again for every revision and is no change.
"""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

from ledger.dag import DagEdge
from ledger.events import DagRevised
from projections.statistics.numeric import digits

Cause = Literal["evidence", "model", "skeleton", "procedure"]


class Change(NamedTuple):
    """One edge that changed. `z` is in standard deviations of what the new events could move the effect by."""

    src: str
    dst: str
    change: Literal["added", "removed", "status", "kind", "effect"]
    before: DagEdge | None
    after: DagEdge | None
    z: float | None
    cause: Cause
    event_ids: tuple[str, ...]


def difference(before: DagRevised, after: DagRevised) -> list[Change]:
    """The edges that changed, in order of their ends."""
    old = {(edge.src, edge.dst): edge for edge in before.edges}
    new = {(edge.src, edge.dst): edge for edge in after.edges}
    found = []
    for ends in sorted({*old, *new}):
        a, b = old.get(ends), new.get(ends)
        if (change := _change(a, b)) is not None:
            cause, ids = _cause(a, b, before, after)
            found.append(Change(*ends, change, a, b, moved(a, b), cause, ids))
    return found


def _change(a: DagEdge | None, b: DagEdge | None) -> Literal["added", "removed", "status", "kind", "effect"] | None:
    if a is None:
        return "added"
    if b is None:
        return "removed"
    if a.status != b.status:
        return "status"
    if a.kind != b.kind:
        return "kind"
    return "effect" if a.effect != b.effect else None


def moved(a: DagEdge | None, b: DagEdge | None) -> float | None:
    """The change of the effect in standard deviations of what the new events could move it by.

    Of two posteriors, the second from more data, the difference has variance sd_a^2 - sd_b^2; it counts
    as at least a fifth of the larger standard deviation, so that equal ones do not divide by nothing.
    """
    if a is None or b is None or a.effect is None or b.effect is None or a.sd is None or b.sd is None:
        return None
    larger = max(a.sd, b.sd)
    if larger <= 0:
        return None
    return digits((b.effect - a.effect) / math.sqrt(max(abs(a.sd**2 - b.sd**2), 0.04 * larger**2)), 9)


def _cause(
    a: DagEdge | None, b: DagEdge | None, before: DagRevised, after: DagRevised
) -> tuple[Cause, tuple[str, ...]]:
    own = _other(evidence(before, a), evidence(after, b))
    if own:
        return "evidence", own
    if before.skeleton_digest != after.skeleton_digest:
        return "skeleton", ()
    others = _other(before.used, after.used)
    return ("model", others) if others else ("procedure", ())


def evidence(made: DagRevised, edge: DagEdge | None) -> tuple[str, ...]:
    """Ids of the events behind an edge."""
    return tuple(made.used[at] for at in edge.evidence) if edge else ()


def _other(before: tuple[str, ...], after: tuple[str, ...]) -> tuple[str, ...]:
    """Events that entered, then those that left."""
    old, new = frozenset(before), frozenset(after)
    return (*(one for one in after if one not in old), *(one for one in before if one not in new))

"""A revision of the causal DAG as a drawing: DOT by the graphviz package, SVG and PNG by pygraphviz.

Left to right: interventions in a box for each kind of technique, mediators, the outcome. An edge's colour
and line both say its status, its label the effect. What the expert holds of all techniques of a kind is
one dashed edge from that kind's box. Of many techniques those are drawn of which the data say most.

pygraphviz carries Graphviz itself; what its font library says on stderr is nobody's concern.
"""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
import textwrap
import warnings
from collections.abc import Iterator
from typing import Any, NamedTuple

from ledger.dag import DagEdge, DagNode
from ledger.errors import LedgerError, UsageError
from ledger.events import DagRevised

MISSING = 'drawing needs two more packages: pip install "experiment-ledger[graph]"'


class Look(NamedTuple):
    """How an edge of one status is drawn, and what the legend calls it."""

    words: str
    colour: str
    style: str
    width: float


LOOKS = {
    "supported": Look("supported", "#15803d", "solid", 2.2),
    "contradicted": Look("contradicted", "#b91c1c", "bold", 2.2),
    "no_effect_that_matters": Look("no effect that matters", "#1d4ed8", "solid", 0.9),
    "undecided": Look("undecided", "#b45309", "dashed", 1.0),
    "imposed": Look("held by the expert only", "#6b7280", "dotted", 1.2),
    "accounting": Look("by definition", "#111827", "solid", 1.4),
    "proposed": Look("proposed by discovery", "#7c3aed", "dotted", 1.6),
}


def draw(made: DagRevised, form: str, techniques: int | None) -> bytes:
    """The drawing as dot, svg or png. Raises UsageError where a package is missing."""
    text = source(made, techniques)
    return text.encode() if form == "dot" else render(text, form)


def unit_of(node: DagNode) -> str:
    """The unit in which `amount` prints effects on a node."""
    if node.unit.startswith("log"):
        return "%"
    return "mbpb" if node.unit == "bpb" else node.unit or "its unit"


def amount(value: float, node: DagNode) -> str:
    """An effect on a node with its sign: thousandths of a bit per byte, per cent, or the node's unit."""
    if node.unit.startswith("log"):
        value *= 100.0
    elif node.unit == "bpb":
        value *= 1000.0
    else:
        return f"{value:+.3g}"
    return f"{value:+.0f}" if abs(value) >= 99.5 else f"{value:+.1f}" if abs(value) >= 9.95 else f"{value:+.2f}"


# ── what is drawn ──


def chosen(made: DagRevised, techniques: int | None) -> list[str]:
    """The interventions to draw: those with a decided edge first, then those of which the data say most."""
    outcome = next(node.id for node in made.nodes if node.kind == "outcome")
    ranks: dict[str, tuple[bool, bool, float, str]] = {}
    for node in made.nodes:
        if node.kind == "intervention":
            mine = [edge for edge in made.edges if edge.src == node.id]
            decided = any(edge.status not in ("undecided", "imposed") for edge in mine)
            main = [edge for edge in mine if edge.dst == outcome]
            firm = max((abs(edge.effect / edge.sd) for edge in main if edge.effect and edge.sd), default=0.0)
            ranks[node.id] = (not decided, not any(edge.kind == "experiment" for edge in mine), -firm, node.id)
    return sorted(ranks, key=lambda name: ranks[name])[:techniques]


def source(made: DagRevised, techniques: int | None = None) -> str:
    """The DOT text. Raises UsageError without the graphviz package."""
    try:
        import graphviz
    except ImportError:
        raise UsageError(MISSING) from None
    names = chosen(made, techniques)
    nodes = {node.id: node for node in made.nodes}
    keys = {name: f"n{number}" for number, name in enumerate(sorted(nodes))}  # ids of our own: nothing to escape
    outcome = next(node for node in made.nodes if node.kind == "outcome")
    hidden = len([node for node in made.nodes if node.kind == "intervention"]) - len(names)
    graph = graphviz.Digraph("dag")
    drawn = [edge for edge in made.edges if nodes[edge.src].kind != "intervention" or edge.src in names]
    graph.attr(rankdir="LR", nodesep="0.07", ranksep="0.28", compound="true", newrank="true", fontname="Helvetica")
    graph.attr(label=_caption(made, outcome, hidden, drawn), labelloc="b", fontsize="12", pad="0.15")
    graph.attr(
        "node", shape="box", style="filled,rounded", fillcolor="#ffffff", color="#9ca3af", fontname="Helvetica"
    )
    graph.attr("node", fontsize="13", height="0.26", margin="0.09,0.03")
    graph.attr("edge", fontname="Helvetica", fontsize="12", arrowsize="0.6")

    groups: dict[str, list[str]] = {}
    for name in names:
        groups.setdefault(nodes[name].group or "settings", []).append(name)
    boxes = {}
    for number, (group, members) in enumerate(sorted(groups.items())):
        boxes[group] = (f"cluster_{number}", sorted(members))
        with graph.subgraph(name=f"cluster_{number}") as box:
            words = graphviz.escape(group.replace("_", " "))
            box.attr(label=words, style="rounded,filled", fillcolor="#f3f4f6", color="#d1d5db", fontsize="11")
            box.attr(labeljust="l", margin="6")
            for name in sorted(members):
                box.node(keys[name], label=_label(graphviz, nodes[name], 26))
    with graph.subgraph() as column:  # interventions are set, not caused: all of them stand at the left
        column.attr(rank="min")
        for name in names:
            column.node(keys[name])
    for node in made.nodes:
        if node.kind == "mediator" and any(node.id in (edge.src, edge.dst) for edge in drawn):
            graph.node(keys[node.id], label=_label(graphviz, node, 18), fillcolor="#e0e7ff", color="#6366f1")
    graph.node(
        keys[outcome.id], label=_label(graphviz, outcome, 14), fillcolor="#fef3c7", color="#d97706", fontsize="14",
        penwidth="2", margin="0.2,0.15",
    )  # fmt: skip

    told = _told_by_kind(drawn, nodes, groups, made)
    for edge in drawn:
        if (edge.src, edge.dst) not in told:
            _edge(graph, keys, edge, nodes[edge.dst])
    for group, target in sorted(dict.fromkeys(told.values())):
        box, members = boxes[group]
        look = LOOKS["imposed"]
        graph.edge(
            keys[members[len(members) // 2]], keys[target], ltail=box, color=look.colour, style=look.style,
            penwidth=str(look.width), weight="1",
        )  # fmt: skip
    return str(graph.source)


def _caption(made: DagRevised, outcome: DagNode, hidden: int, drawn: list[DagEdge]) -> str:
    """What is drawn, and below it what each kind of edge means: only of those that are drawn."""
    import html

    words = f"Effects in {unit_of(outcome)} (in per cent where marked) as of {made.head.position} events"
    if hidden:
        words += f"; {hidden} techniques left out, of which the data say least"
    looks = [LOOKS[_kind(edge)] for edge in drawn]
    told = [
        f'<FONT COLOR="{look.colour}">{_dash(look)}</FONT> {look.words}' for look in LOOKS.values() if look in looks
    ]
    told.append("◆ judged by own experiments")
    lines = [
        html.escape(words),
        *("    ".join(told[at : at + 4]) for at in range(0, len(told), 4)),
    ]
    rows = "".join(f"<TR><TD>{line}</TD></TR>" for line in lines)
    return f'<<TABLE BORDER="0" CELLSPACING="0" CELLPADDING="3">{rows}</TABLE>>'


def _label(graphviz: Any, node: DagNode, width: int) -> str:
    lines = textwrap.wrap(node.label, width) or [node.id]
    if len(lines) > 3:
        lines = [*lines[:2], f"{lines[2][: width - 1]}…"]
    return "\\n".join(graphviz.escape("".join(c if c.isprintable() else " " for c in line)) for line in lines)


def _kind(edge: DagEdge) -> str:
    return edge.kind if edge.kind in ("accounting", "proposed") else edge.status


def _told_by_kind(
    drawn: list[DagEdge], nodes: dict[str, DagNode], groups: dict[str, list[str]], made: DagRevised
) -> dict[tuple[str, str], tuple[str, str]]:
    """Edges into mediators that nothing decides: (src, dst) -> (kind, dst), drawn as one edge of the kind's box."""
    found = {}
    for edge in drawn:
        open_still = edge.status in ("imposed", "undecided") and edge.kind not in ("accounting", "proposed")
        if nodes[edge.src].kind == "intervention" and nodes[edge.dst].kind == "mediator" and open_still:
            found[edge.src, edge.dst] = (nodes[edge.src].group or "settings", edge.dst)
    return found


def _edge(graph: Any, keys: dict[str, str], edge: DagEdge, target: DagNode) -> None:
    look = LOOKS[_kind(edge)]
    more = {}
    if edge.kind == "accounting":
        more["label"] = "+" if (edge.effect or 0) > 0 else "−"
    elif edge.effect is not None:
        mark = "◆ " if edge.kind == "experiment" else ""
        more["label"] = f" {mark}{amount(edge.effect, target)}{'%' if target.unit.startswith('log') else ''} "
        more["fontcolor"] = look.colour
    graph.edge(keys[edge.src], keys[edge.dst], color=look.colour, style=look.style, penwidth=str(look.width), **more)


def _dash(look: Look) -> str:
    line = {"solid": "———", "bold": "<B>———</B>", "dashed": "– – –", "dotted": "· · · ·"}[look.style]
    return f"<B>{line}</B>" if look.width > 2 and look.style == "solid" else line


# ── rendering ──


def render(text: str, form: str) -> bytes:
    """DOT text as svg or png, by the Graphviz inside pygraphviz. Raises UsageError where it is missing."""
    try:
        with _quiet():
            import pygraphviz
    except ImportError:
        raise UsageError(MISSING) from None
    try:
        with _quiet(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            args = "-Gdpi=110" if form == "png" else ""
            data = pygraphviz.AGraph(string=text).draw(format=form, prog="dot", args=args)
    except (OSError, ValueError) as error:
        said = " ".join(str(error).split())[:200] or type(error).__name__
        raise LedgerError(f"Graphviz could not draw it: {said}; `--format dot` writes the source") from None
    return bytes(data)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """C libraries write to descriptor 2 themselves; it points into a file meanwhile."""
    sys.stderr.flush()
    with tempfile.TemporaryFile() as sink:
        kept = os.dup(2)
        try:
            os.dup2(sink.fileno(), 2)
            yield
        finally:
            os.dup2(kept, 2)
            os.close(kept)

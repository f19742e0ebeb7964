"""The expert skeleton: a text that a user can edit, read and checked; never a file, for this is pure.

What is wrong with it is one line that names the place: a node that an edge names and nobody declares,
a circle, an edge that leads into an intervention (what one sets is caused by nobody), a delta that is
no positive number. The default is skeleton.toml beside this file.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterable
from difflib import get_close_matches
from functools import cache
from graphlib import CycleError, TopologicalSorter
from hashlib import sha256
from importlib import resources
from typing import Any, Literal, NamedTuple

from ledger.errors import UsageError

Expect = Literal["lower", "higher", "any"]


class Node(NamedTuple):
    """A mediator or the outcome, or an intervention that the file names."""

    id: str
    kind: Literal["intervention", "mediator", "outcome"]
    label: str
    unit: str
    log: bool
    delta: float | None


class Edge(NamedTuple):
    """An edge that the expert draws. An accounting edge has its effect by definition."""

    src: str
    dst: str
    kind: Literal["imposed", "accounting"]
    expect: Expect
    effect: float | None


class Skeleton(NamedTuple):
    """A file's content; `rules` gives for a kind of technique the nodes that it acts on."""

    text: str
    digest: str
    outcome: Node
    nodes: dict[str, Node]
    edges: tuple[Edge, ...]
    rules: dict[str, tuple[str, ...]]

    def into(self, kind: str) -> tuple[str, ...]:
        """Where an intervention of that kind has edges by rule, the outcome last."""
        return (*(name for name in self.rules.get(kind, ()) if name != self.outcome.id), self.outcome.id)


@cache
def default_text() -> str:
    """The skeleton that is used where no other is given."""
    return resources.files("projections").joinpath("dag/skeleton.toml").read_text(encoding="utf-8")


_KEYS = {
    "node": {"id", "kind", "label", "unit", "scale", "delta"},
    "edge": {"src", "dst", "kind", "expect", "effect"},
    "rule": {"kind", "into"},
}


def parse(text: str, name: str = "skeleton") -> Skeleton:
    """The skeleton in `text`. Raises UsageError with one line; `name` is what to call the file in it."""
    try:
        told = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"{name} is not TOML: {error}") from None
    for key in told:
        if key not in _KEYS:
            raise UsageError(f"{name}: there is no table [[{key}]]{_near(key, _KEYS)}; it has node, edge and rule")
    entries = {kind: list(_entries(told, kind, name)) for kind in _KEYS}
    nodes: dict[str, Node] = {}
    for where, entry in entries["node"]:
        node = _node(entry, where)
        if node.id in nodes:
            raise UsageError(f"{where}: node {node.id!r} is declared twice")
        nodes[node.id] = node
    outcomes = [node for node in nodes.values() if node.kind == "outcome"]
    if len(outcomes) != 1:
        found = ", ".join(node.id for node in outcomes) or "none"
        raise UsageError(f"{name}: expected one node of kind outcome, found {found}")
    edges = [_edge(entry, where, nodes) for where, entry in entries["edge"]]
    pairs = [(edge.src, edge.dst) for edge in edges]
    for pair in pairs:
        if pairs.count(pair) > 1:
            raise UsageError(f"{name}: the edge {pair[0]} -> {pair[1]} is drawn twice")
    rules: dict[str, tuple[str, ...]] = {}
    for where, entry in entries["rule"]:
        kind = _text(entry, "kind", where)
        into = entry.get("into")
        if not isinstance(into, list) or not all(isinstance(one, str) for one in into):
            raise UsageError(f'{where}: expected into = ["node", …]')
        if kind in rules:
            raise UsageError(f"{where}: there are two rules for {kind!r}")
        for one in into:
            _known(one, nodes, where)
            if nodes[one].kind == "intervention":
                raise UsageError(f"{where}: an edge into the intervention {one!r}: what one sets has no cause here")
        rules[kind] = tuple(into)
    _no_circle(pairs, name)
    return Skeleton(text, sha256(text.encode()).hexdigest(), outcomes[0], nodes, tuple(edges), rules)


def _entries(told: dict[str, Any], kind: str, name: str) -> Iterable[tuple[str, dict[str, Any]]]:
    listed = told.get(kind, [])
    if not isinstance(listed, list):
        raise UsageError(f"{name}: write [[{kind}]], not [{kind}]")
    for number, entry in enumerate(listed, 1):
        where = f"{name}, {kind} {number}"
        if not isinstance(entry, dict):
            raise UsageError(f"{where}: expected a table")
        for key in entry:
            if key not in _KEYS[kind]:
                raise UsageError(f"{where}: there is no key {key!r}{_near(key, _KEYS[kind])}")
        yield where, entry


def _node(entry: dict[str, Any], where: str) -> Node:
    kind = entry.get("kind", "mediator")
    if kind not in ("intervention", "mediator", "outcome"):
        raise UsageError(f"{where}: kind is {kind!r}; expected intervention, mediator or outcome")
    scale = entry.get("scale", "linear")
    if scale not in ("linear", "log"):
        raise UsageError(f"{where}: scale is {scale!r}; expected linear or log")
    delta = entry.get("delta")
    if delta is not None and (type(delta) not in (int, float) or not 0 < delta < 1e100):
        raise UsageError(f"{where}: delta is {delta!r}; expected a number above 0")
    if delta is None and kind != "intervention":
        raise UsageError(f"{where}: a {kind} needs delta, the smallest change of it that matters")
    made = _text(entry, "id", where)
    label, unit = entry.get("label", made), entry.get("unit", "")
    if not isinstance(label, str) or not isinstance(unit, str):
        raise UsageError(f"{where}: label and unit are texts")
    return Node(made, kind, label, unit, scale == "log", None if delta is None else float(delta))


def _edge(entry: dict[str, Any], where: str, nodes: dict[str, Node]) -> Edge:
    src, dst = _text(entry, "src", where), _text(entry, "dst", where)
    for one in (src, dst):
        _known(one, nodes, where)
    if nodes[dst].kind == "intervention":
        raise UsageError(f"{where}: an edge into the intervention {dst!r}: what one sets has no cause here")
    kind = entry.get("kind", "imposed")
    if kind not in ("imposed", "accounting"):
        raise UsageError(f"{where}: kind is {kind!r}; expected imposed or accounting (the others come from data)")
    expect = entry.get("expect", "any")
    if expect not in ("lower", "higher", "any"):
        raise UsageError(f"{where}: expect is {expect!r}; expected lower, higher or any")
    effect = entry.get("effect")
    if (effect is not None) != (kind == "accounting"):
        raise UsageError(f"{where}: an accounting edge has an effect, by definition; an imposed one has none")
    if effect is not None and (type(effect) not in (int, float) or not abs(effect) < 1e100):
        raise UsageError(f"{where}: effect is {effect!r}; expected a number")
    return Edge(src, dst, kind, expect, None if effect is None else float(effect))


def _text(entry: dict[str, Any], key: str, where: str) -> str:
    value = entry.get(key)
    if not isinstance(value, str) or not value or len(value) > 128 or not value.isprintable():
        raise UsageError(f"{where}: {key} is {value!r}; expected a text of 1 to 128 printable characters")
    return value


def _known(one: str, nodes: dict[str, Node], where: str) -> None:
    if one not in nodes:
        raise UsageError(f"{where}: no node {one!r} is declared{_near(one, nodes)}")


def _near(wrong: str, known: Iterable[str]) -> str:
    close = get_close_matches(wrong, sorted(known), 1)
    return f"; did you mean {close[0]!r}?" if close else ""


def _no_circle(pairs: list[tuple[str, str]], name: str) -> None:
    before: dict[str, list[str]] = {}
    for src, dst in sorted(pairs):
        before.setdefault(dst, []).append(src)
    try:
        tuple(TopologicalSorter(before).static_order())
    except CycleError as error:
        way = " -> ".join(error.args[1])
        raise UsageError(f"{name}: its edges run in a circle: {way}") from None

"""The additive model of one noise class on one target, and how firm its figures are.

On top of the posterior (projections/statistics/lineage.py): how stable each sign is when whole branches
of the lineage are drawn again (B = 200, keyed by the log's root), how far an effect moves when one branch
is left out, which loops of comparisons do not close, and which pairs of techniques do more or less
together. These take the posterior's scales (tau, omega, outliers) as given, so that each is one solve.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction
from typing import NamedTuple

import numpy as np

from projections.dag.contrasts import Contrast, Data
from projections.statistics import identifiability, lineage
from projections.statistics.distributions import floats, normal_lower, t_bound
from projections.statistics.numeric import Array, ordered_sum

DRAWS = 200
FIRM = 0.9  # probability of a sign that counts as having it
LOOP_Z = 3.0
APART = 2  # comparisons in which each of two techniques enters without the other
INTERACTIONS = 40  # pairs that are reported at most
FEWEST_DF = 3.0


class Loop(NamedTuple):
    """A closed way along comparisons, the stacks in order."""

    stacks: tuple[str, ...]
    techniques: frozenset[str]
    residual: float
    sd: float


class Pair(NamedTuple):
    """What two techniques do together besides what each does."""

    a: str
    b: str
    contrasts: int
    mean: float
    sd: float


class Fit(NamedTuple):
    """Effects of the techniques of one noise class on one target; one entry a technique where not said otherwise."""

    where: str
    target: str
    techniques: tuple[str, ...]
    contrasts: tuple[Contrast, ...]  # that entered
    effects: lineage.LineageEffects  # its covariance is what a planner needs
    df: float  # of the t intervals: the comparisons less the parameters that they paid for
    stability: tuple[float, ...]
    loo: tuple[tuple[float, float] | None, ...]
    counts: tuple[int, ...]
    known: identifiability.Identifiability
    interaction_sd: float  # prior of one interaction
    pairs: tuple[Pair, ...]
    loops: tuple[Loop, ...]

    def of(self, technique: str) -> int | None:
        """Its index, None where no comparison changes it."""
        return self.techniques.index(technique) if technique in self.techniques else None

    def interval(self, j: int, tail: float = 0.05) -> tuple[float, float]:
        """The interval of effect j with `tail` on either side: of 90 %, where not said otherwise."""
        half = float(t_bound(tail, self.df)) * self.effects.sd[j]
        return self.effects.mean[j] - half, self.effects.mean[j] + half


def fits(data: Data, deltas: dict[str, float], root: str) -> list[Fit]:
    """One fit for every noise class and target with comparisons, in order of their names."""
    keys = sorted({(one.where, one.target) for one in data.contrasts if one.target in deltas})
    found = []
    for where, target in keys:
        mine = [one for one in data.contrasts if (one.where, one.target) == (where, target)]
        if any(one.primary and one.row for one in mine):
            found.append(fit(mine, data, deltas[target], root))
    return found


def fit(mine: Sequence[Contrast], data: Data, delta: float, root: str) -> Fit:
    """The fit of one noise class and target."""
    used = [one for one in mine if one.primary]
    techniques = tuple(sorted({name for one in used for name, _ in one.row}))
    rows = [_row(one, techniques) for one in used]
    ends = sorted({end for one in used for end in one.noise})
    edges = [(ends.index(one.noise[0]), ends.index(one.noise[1])) for one in used]
    values = [one.value for one in used]
    variances = [data.noise[end] for end in ends]
    effects = lineage.lineage(values, rows, edges, variances, delta, robust=True)
    d, dy = floats(rows), floats(values)
    steps = lineage.steps_of(d)
    own = lineage.noise_of(edges, variances) + np.diag(effects.omega**2 * steps + floats(effects.extra))
    own = own + 1e-12 * delta**2 * np.eye(len(dy))
    paid = math.fsum(min(max(share, 0.0), 1.0) for share in effects.shrink)
    branches = _branches(used, d, dy, own, effects.tau, delta)
    interaction_sd = effects.tau / 2
    return Fit(
        used[0].where,
        used[0].target,
        techniques,
        tuple(used),
        effects,
        max(FEWEST_DF, len(used) - 1 - paid),
        _stability(branches, effects, used, root),
        _leave_one_out(branches, effects, d, used),
        tuple(len([row for row in rows if row[j]]) for j in range(len(techniques))),
        identifiability.identify(rows, len(techniques)),
        interaction_sd,
        _pairs(used, techniques, d, dy, own, data, effects.tau, delta, interaction_sd),
        tuple(_loops(mine, techniques, data, effects)),
    )


def _row(one: Contrast, techniques: Sequence[str]) -> list[int]:
    told = dict(one.row)
    return [told.get(name, 0) for name in techniques]


# ── branches ──


class _Branches(NamedTuple):
    """What each branch of the lineage says: its share of the precision, and of the weighted differences."""

    names: tuple[str, ...]
    prior: Array
    precision: Array  # branches by coefficients by coefficients
    pull: Array  # branches by coefficients


def _branches(used: Sequence[Contrast], d: Array, dy: Array, own: Array, tau: float, delta: float) -> _Branches:
    names = tuple(sorted({one.branch for one in used}))
    wide = lineage.wide_of(d)
    precision, pull = [], []
    for name in names:
        at = [i for i, one in enumerate(used) if one.branch == name]
        mine = wide[at]
        solved = np.linalg.solve(own[np.ix_(at, at)], np.concatenate([mine, dy[at][:, None]], axis=1))
        found = mine.T @ solved
        precision.append(found[:, :-1])
        pull.append(found[:, -1])
    prior = 1.0 / lineage.prior_of(d.shape[1], tau, delta)
    return _Branches(names, prior, floats(precision), floats(pull))


def _effects(branches: _Branches, times: Array) -> tuple[Array, Array]:
    """Means and standard deviations of the effects when branch b counts times[., b] times, a row for each case."""
    k = branches.prior.shape[0] - 2
    total = np.diag(branches.prior) + np.einsum("rb,bij->rij", times, branches.precision)
    pull = np.einsum("rb,bi->ri", times, branches.pull)
    covariance = np.linalg.inv(total)
    mean = np.einsum("rij,rj->ri", covariance, pull)
    variance = np.diagonal(covariance, axis1=1, axis2=2)
    spread = variance[:, :k] + variance[:, k : k + 1] + 2 * covariance[:, :k, k]
    return mean[:, :k] + mean[:, k : k + 1], np.sqrt(np.maximum(spread, 1e-300))


def _stability(
    branches: _Branches, effects: lineage.LineageEffects, used: Sequence[Contrast], root: str
) -> tuple[float, ...]:
    """Share of the draws in which an effect has the sign that it has, with probability above FIRM."""
    count = len(branches.names)
    seed = np.random.SeedSequence([int(root or "0", 16), *f"{used[0].where} {used[0].target}".encode()])
    state = seed.generate_state(DRAWS * count, np.uint64) >> np.uint64(11)
    drawn = np.floor(state.astype(np.float64) * 2.0**-53 * count).astype(np.int64).reshape(DRAWS, count)
    times = np.stack([np.bincount(one, minlength=count) for one in drawn]).astype(np.float64)
    mean, sd = _effects(branches, times)
    signs = np.where(floats(effects.mean) < 0, -1.0, 1.0)
    firm = normal_lower(signs * mean / sd) > FIRM
    return tuple((np.count_nonzero(firm, axis=0) / DRAWS).tolist())


def _leave_one_out(
    branches: _Branches, effects: lineage.LineageEffects, d: Array, used: Sequence[Contrast]
) -> tuple[tuple[float, float] | None, ...]:
    """Smallest and largest effect when a branch that changes the technique is left out; None with one branch.

    Of the effect at fixed scales the shift is taken, and added to the effect that the grid gave.
    """
    count, k = len(branches.names), d.shape[1]
    if count < 2:
        return tuple([None] * k)
    mean, _ = _effects(branches, np.concatenate([np.ones((1, count)), 1.0 - np.eye(count)]))
    found: list[tuple[float, float] | None] = []
    for j in range(k):
        at = {one.branch for i, one in enumerate(used) if d[i, j]}
        shift = [float(mean[b, j] - mean[0, j]) for b, name in enumerate(branches.names, 1) if name in at]
        found.append((effects.mean[j] + min(shift), effects.mean[j] + max(shift)))
    return tuple(found)


# ── interactions ──


def _pairs(
    used: Sequence[Contrast],
    techniques: Sequence[str],
    d: Array,
    dy: Array,
    own: Array,
    data: Data,
    tau: float,
    delta: float,
    prior_sd: float,
) -> tuple[Pair, ...]:
    """Posteriors of the interactions that the comparisons identify, each added alone to the model."""
    changed = d != 0
    has = {one: data.stacks[one][1] for c in used for one in (c.child, c.parent)}
    columns: list[tuple[str, str, Array]] = []
    often = [j for j in range(len(techniques)) if np.count_nonzero(changed[:, j]) >= APART]
    for number, i in enumerate(often):
        for j in often[number + 1 :]:
            if (
                min(
                    np.count_nonzero(changed[:, i] & ~changed[:, j]), np.count_nonzero(changed[:, j] & ~changed[:, i])
                )
                < APART
            ):
                continue
            a, b = techniques[i], techniques[j]
            both = [({a, b} <= has[c.child]) - ({a, b} <= has[c.parent]) for c in used]
            if len([one for one in both if one]) >= APART:
                columns.append((a, b, floats(both)))
    if not columns:
        return ()
    turned = identifiability.reduced([[int(value) for value in row] for row in d.T], len(used))
    inverse = np.linalg.inv(own + _explained(d, tau, delta))
    found = []
    for a, b, column in columns:
        if not any(identifiability.without(turned, [Fraction(int(value)) for value in column])):
            continue  # what both do together, the techniques can tell as well
        weighted = inverse @ column
        precision = 1 / prior_sd**2 + float(ordered_sum(weighted * column))
        mean = float(ordered_sum(weighted * dy)) / precision
        found.append(Pair(a, b, int(np.count_nonzero(column)), mean, precision**-0.5))
    found.sort(key=lambda one: (-abs(one.mean) / one.sd, one.a, one.b))
    return tuple(found[:INTERACTIONS])


def _explained(d: Array, tau: float, delta: float) -> Array:
    wide = lineage.wide_of(d)
    found: Array = (wide * lineage.prior_of(d.shape[1], tau, delta)) @ wide.T
    return found


# ── loops ──


def _loops(
    mine: Sequence[Contrast], techniques: Sequence[str], data: Data, effects: lineage.LineageEffects
) -> list[Loop]:
    """Every comparison that closes a way along those before it: its loop, with what is left of it."""
    ordered = [one for one in mine if one.primary] + [one for one in mine if not one.primary]
    above: dict[str, tuple[str, int, int] | None] = {}  # stack -> (the stack above it, comparison, sign upwards)
    near: dict[str, list[tuple[str, int, int]]] = {}
    tops: dict[str, str] = {}

    def top(one: str) -> str:
        while tops.setdefault(one, one) != one:
            one = tops[one]
        return one

    closing = []
    for index, one in enumerate(ordered):
        a, b = top(one.child), top(one.parent)
        if a == b:
            closing.append(index)
            continue
        tops[max(a, b)] = min(a, b)
        near.setdefault(one.child, []).append((one.parent, index, 1))
        near.setdefault(one.parent, []).append((one.child, index, -1))
    for start in sorted(near):
        if start in above:
            continue
        above[start] = None
        queue = [start]
        for at in queue:
            for other, index, sign in near[at]:
                if other not in above:
                    above[other] = (at, index, -sign)
                    queue.append(other)
    extra = {id_of(one): value for one, value in zip((c for c in mine if c.primary), effects.extra, strict=True)}
    return [_loop(ordered, index, above, techniques, data, effects, extra) for index in closing]


def id_of(one: Contrast) -> tuple[str, str, tuple[str, str]]:
    """What tells a comparison from the others of its noise class and target."""
    return one.child, one.parent, one.noise


def _loop(
    ordered: Sequence[Contrast],
    closing: int,
    above: dict[str, tuple[str, int, int] | None],
    techniques: Sequence[str],
    data: Data,
    effects: lineage.LineageEffects,
    extra: dict[tuple[str, str, tuple[str, str]], float],
) -> Loop:
    last = ordered[closing]
    signs = {closing: 1}
    stacks = _way(above, last.child, last.parent, signs)
    row = [0] * len(techniques)
    nodes: dict[str, int] = {}
    residual, hidden = [], []
    for index, sign in sorted(signs.items()):
        one = ordered[index]
        residual.append(sign * one.value)
        for name, d in one.row:
            if name in techniques:
                row[techniques.index(name)] += sign * d
        nodes[one.noise[0]] = nodes.get(one.noise[0], 0) + sign
        nodes[one.noise[1]] = nodes.get(one.noise[1], 0) - sign
        hidden.append(effects.omega**2 * (0.5 + 0.5 * max(1, len(one.row))) + extra.get(id_of(one), 0.0))
    implied = [d * effects.mean[j] for j, d in enumerate(row) if d]
    at = [j for j, d in enumerate(row) if d]
    weights = floats([row[j] for j in at])
    known = (
        float(ordered_sum(ordered_sum(weights[:, None] * effects.covariance[np.ix_(at, at)] * weights)))
        if at
        else 0.0
    )
    noise = math.fsum(n * n * data.noise[key] for key, n in sorted(nodes.items()))
    sd = math.sqrt(max(known + noise + math.fsum(hidden), 1e-300))
    touched = frozenset(name for index in signs for name, _ in ordered[index].row)
    return Loop(tuple(stacks), touched, math.fsum(residual) - math.fsum(implied), sd)


def _way(above: dict[str, tuple[str, int, int] | None], child: str, parent: str, signs: dict[int, int]) -> list[str]:
    """From the child through the tree to the parent; `signs` gets the comparisons that close the loop."""

    def upwards(one: str) -> list[str]:
        found = [one]
        while (step := above[found[-1]]) is not None:
            found.append(step[0])
        return found

    left, right = upwards(child), upwards(parent)
    while len(left) > 1 and len(right) > 1 and left[-2] == right[-2]:
        left.pop()
        right.pop()
    # Round the loop: parent to child by the comparison itself, then child up to where both meet, and down again.
    for way, direction in ((left, -1), (right, 1)):
        for one in way[:-1]:
            step = above[one]
            assert step is not None
            signs[step[1]] = signs.get(step[1], 0) + direction * step[2]
    return [parent, *left, *reversed(right[1:-1])] if len(right) > 1 else [parent, *left[:-1]]

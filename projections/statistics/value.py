"""What a further measurement is worth for its cost: value of information about adopting a change.

A candidate has the posterior N(m, v) of its effect on the platform that counts; negative is better, and a
change is adopted when its effect is thought to be below -a (a is delta / 2 unless said otherwise). k further
runs give an estimate with variance u_k, which moves the posterior mean by a normal with variance

    v_k = v - 1 / (1/v + 1/u_k) = v^2 / (v + u_k),

so that the expected improvement of the decision is

    gain(k) = sqrt(v_k) (phi(z) + z Phi(z)),  z = -|m + a| / sqrt(v_k),

and the score is max over k of gain(k) / cost(k), times the probability that the runs can be made at all.
Several effects that one measurement tells about add their gains. (Raiffa and Schlaifer 1961: expected value
of sample information of a two-action problem with a normal prior.) The seed plan's rule, the largest expected
improvement among what is uncertain, stands beside it for comparison. Nothing here claims anything: what is
worth measuring is not what is true.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from ledger.errors import UsageError
from projections.statistics.numeric import between, finite

STEPS = 4  # k runs ahead, at most


class Part(NamedTuple):
    """One effect that a measurement tells about: its posterior, and u_k of k = 1, 2, … further steps."""

    mean: float
    variance: float
    news: tuple[float, ...]


class Option(NamedTuple):
    """Something that may be measured. `costs` are those of k = 1, 2, … steps."""

    id: str
    parts: tuple[Part, ...]
    costs: tuple[float, ...]
    feasible: float = 1.0  # probability that the runs can be made
    blocked: bool = False  # it may not be chosen; its figures are told all the same


class Worth(NamedTuple):
    """The best number of steps, what they are expected to gain, and that for their cost."""

    k: int
    cost: float
    gain: float
    score: float


def mean_variance(v: float, u: float) -> float:
    """v_k: the variance of the posterior mean after an estimate with variance u."""
    if v <= 0 or math.isinf(u):
        return 0.0
    return v * v / (v + u)


def more_news(before: float, after: float) -> float:
    """u of the runs that bring the variance of an estimate from `before` to `after` (1/after = 1/before + 1/u)."""
    gained = 1.0 / after - (0.0 if math.isinf(before) else 1.0 / before)
    return 1.0 / gained if gained > 0 else math.inf


def posterior(mean: float, variance: float, effect: float, error: float) -> tuple[float, float]:
    """Normal prior N(mean, variance) and an estimate with error variance `error`: (mean, variance) after it."""
    weight = variance / (variance + error)
    return mean + weight * (effect - mean), variance * error / (variance + error)


def gain(mean: float, v_k: float, adopt: float) -> float:
    """Expected improvement of the decision, in the unit of the effect."""
    if v_k <= 0:
        return 0.0
    sd = math.sqrt(v_k)
    z = -abs(mean + adopt) / sd
    density = math.exp(-0.5 * z * z) / math.sqrt(2 * math.pi)
    return max(0.0, sd * (density + z * 0.5 * math.erfc(-z / math.sqrt(2))))


def worth(option: Option, adopt: float) -> Worth:
    """The score of an option: its best k of at most STEPS; the smallest k of equal ones.

    Raises UsageError for costs that are not positive, or fewer than the option's estimates have.
    """
    steps = min(STEPS, len(option.costs), *(len(part.news) for part in option.parts)) if option.parts else 0
    if not steps or any(not 0 < cost < math.inf for cost in option.costs):
        raise UsageError(f"{option.id}: expected an effect and a cost above 0 for one step or more")
    finite([part.mean for part in option.parts], f"means of {option.id}")
    if not 0 <= option.feasible <= 1:
        raise UsageError(f"{option.id} is feasible with probability {option.feasible}; expected 0 to 1")
    best = Worth(1, option.costs[0], 0.0, 0.0)
    for k in range(1, steps + 1):
        gained = math.fsum(
            [gain(part.mean, mean_variance(part.variance, part.news[k - 1]), adopt) for part in option.parts]
        )
        score = gained / option.costs[k - 1] * option.feasible
        if k == 1 or score > best.score:
            best = Worth(k, option.costs[k - 1], gained, score)
    return best


def ranked(options: Sequence[Option], adopt: float) -> list[tuple[Option, Worth]]:
    """Options by score, the largest first; those that are blocked come last; ties by id."""
    found = [(option, worth(option, adopt)) for option in options]
    return sorted(found, key=lambda pair: (pair[0].blocked, -pair[1].score, pair[0].id))


def seed_rule(options: Sequence[tuple[str, float, bool]]) -> dict[str, int]:
    """Ranks by the seed plan's rule: the largest expected improvement (-mean) among (id, mean, uncertain)."""
    order = sorted((mean, name) for name, mean, uncertain in options if uncertain)
    return {name: rank for rank, (_, name) in enumerate(order, 1)}


def feasible(prior: float, ok: int, attempts: int) -> float:
    """Probability that a run succeeds: `prior` counts as two attempts."""
    between(prior, -1e-300, 1 + 1e-12, "the probability that it can be run")
    return (2 * prior + ok) / (2 + attempts)


def contrast_news(variance: float, n_t: int, n_c: int, before: float, shares: int) -> tuple[float, ...]:
    """u_k of k = 1..STEPS further seeds of a treatment and, where `shares` is 1, of its control too.

    `variance` is that of one run; the estimate has n_t and n_c seeds now and variance `before` (inf for none).
    """
    found = []
    for k in range(1, STEPS + 1):
        controls = n_c + k * shares
        after = variance * (1.0 / (n_t + k) + (1.0 / controls if controls else math.inf))
        found.append(more_news(before, after) if after < before else math.inf)
    return tuple(found)

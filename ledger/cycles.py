"""What cycles and screens consist of; the events themselves (`cycle.planned`, `cycle.ranked`, `screen.planned`,
`screen.judged`) stand with the others.

A cycle plan is fixed before its first cycle: what may be tried, on which control, what is worth measuring, and when
to stop. Each cycle begins with a ranking, a judgement that carries the head that it read; the ranking that finds a
stop rule to hold is the last. A screen runs many two-level factors at once and tells their average effects, which
may suggest and never confirm.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from ledger.canonical import Real

Action = Literal[
    "ablate", "add_seeds", "separate_aliases", "grow_bank", "transfer_check", "factorial_screen"
]  # what a measurement is: see projections/statistics/value.py


class Candidate(msgspec.Struct, frozen=True, kw_only=True):
    """Something that a series of cycles may try. Its settings are the arm of its name in the event."""

    name: str
    cost: float | None  # of one run, in runs of the control; None: what the runs' wall time says, else 1
    mean: float  # prior mean of its effect, in the metric's unit
    sd: float  # prior standard deviation of its effect
    feasible: float  # probability that it can be run, before it was tried
    technique: str  # its id in the vocabulary, whose lineage effect is then its prior; empty for none
    excludes: str  # candidates with one word here exclude each other; empty for none


class StopRule(msgspec.Struct, frozen=True):
    """A rule and its limit, as projections/statistics/stopping.py has them."""

    rule: str
    limit: float


class StopState(msgspec.Struct, frozen=True):
    """Where a rule stands, and whether it ends the series."""

    rule: str
    limit: float
    at: float
    holds: bool


class RankedOption(msgspec.Struct, frozen=True, kw_only=True):
    """One line of a ranking; the figures are those of the table next_interventions."""

    candidate: str
    action: Action
    k: int
    cost: float
    m: Real
    sd: Real
    gain: Real
    score: Real
    seed_rule_rank: int | None
    blocked_by: str
    reason: str


class Factor(msgspec.Struct, frozen=True):
    """One factor of a screen: what its two levels are, as JSON text of their settings."""

    name: str
    low: str
    high: str


class Stack(msgspec.Struct, frozen=True):
    """One run of a screen: the levels (-1 low, 1 high) of the factors in their order."""

    arm: str
    levels: tuple[int, ...]


class AverageEffect(msgspec.Struct, frozen=True, kw_only=True):
    """High minus low of one factor, averaged over the stacks of the screen: not its effect on the base."""

    factor: str
    effect: Real
    se: Real
    df: Real
    t: Real
    p: Real
    q: Real  # after Benjamini and Hochberg over the screen's factors
    ci95_lo: Real
    ci95_hi: Real
    candidate: bool  # worth confirming, one at a time, with fresh seeds
    why: str

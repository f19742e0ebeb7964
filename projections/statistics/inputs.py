"""What a rule may look at: the runs of one experiment and what its plan fixed beforehand.

The tables are turned into this; the rules read nothing else. It is checked here once, so that a rule
need not wonder about NaN or unknown arms. The order of runs carries no meaning.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Literal, NamedTuple

import msgspec

from ledger.errors import UsageError
from projections.statistics.numeric import between, finite, positive

Tier = Literal["fork", "rerun", "seed", "none"]
Track = Literal["confirm", "explore"]
OK = "ok"


class Run(NamedTuple):
    """One attempt at one seed of one arm. Failures are attempts without a value."""

    arm: str
    seed: int
    value: float | None
    status: str = OK
    tuning: bool = False  # its seed was used to choose something
    early: bool = False  # it began before its plan
    order: float = 0.0  # its place in time
    block: str = ""  # machine session
    base: str = ""
    bank: bool = False  # a control of another experiment on the same base


class ClassVariance(NamedTuple):
    """A within-arm variance of the same noise class from elsewhere in the log."""

    source: str
    variance: float
    df: float


class Inputs(msgspec.Struct, frozen=True, kw_only=True):
    """One experiment as a rule sees it."""

    experiment: str
    metric: str
    direction: Literal["lower", "higher"]
    control: str
    arms: tuple[str, ...]  # treatments, as registered
    seeds: tuple[int, ...]  # planned for every arm up to now
    stopped: dict[str, tuple[int, ...]] = {}  # seeds of treatments that got no further ones
    runs: tuple[Run, ...]
    delta: float  # smallest effect that matters
    alpha: float = 0.05
    family_size: int | None = None  # hypotheses registered; the arms when None
    track: Track = "confirm"
    tier: Tier = "seed"
    tau: float | None = None  # prior sd of effects for e-values; delta when None
    looks: tuple[int, ...] = ()  # seeds per arm at each planned look; one look when empty
    look: int | None = 1  # which of them this is; None when it was not planned
    cycle: int | None = None  # its number among cycles that share alpha
    class_variances: tuple[ClassVariance, ...] = ()
    resolution: float = 0.0  # step in which the metric is printed
    flags: tuple[str, ...] = ()  # reasons of selection that an audit found
    defects: tuple[str, ...] = ()  # other reasons why nothing may be claimed
    nats_per_unit: float | None = None  # of the metric, where that is known
    sets: dict[str, str] = {}  # of a program's treatments what they set otherwise than the control, in words

    def planned(self, arm: str) -> set[int]:
        """Seeds that were planned for an arm up to now."""
        return {*self.stopped.get(arm, self.seeds)}


class Cells(NamedTuple):
    """Runs sorted out: values by arm and seed, and what is not among them."""

    values: dict[str, dict[int, float]]
    early_values: dict[str, dict[int, float]]  # of runs before their plan and of tuning seeds
    failures: dict[str, int]  # attempts that failed, later tries that succeeded included
    attempts: dict[str, int]
    pending: dict[str, int]  # planned seeds without any run
    lost: dict[str, int]  # planned seeds whose every try failed
    early: dict[str, int]
    tuning: dict[str, int]
    bank: dict[int, float]  # control runs of other experiments, by made-up seeds below every real one
    bases: int


def check(inputs: Inputs) -> Inputs:
    """The inputs. Raises UsageError with one line for what no rule could judge."""
    name = inputs.experiment
    between(inputs.alpha, 0, 1, f"alpha of {name}")
    positive(inputs.delta, f"delta of {name}")
    if inputs.tau is not None:
        positive(inputs.tau, f"tau of {name}")
    if not 0 <= inputs.resolution < float("inf"):
        raise UsageError(f"resolution of {name} is {inputs.resolution}; expected 0 or more")
    if not inputs.arms:
        raise UsageError(f"experiment {name} has one arm only: there is nothing to decide")
    if len(set(inputs.arms)) < len(inputs.arms) or inputs.control in inputs.arms:
        raise UsageError(f"experiment {name} has two arms with one name")
    known = {inputs.control, *inputs.arms}
    for run in inputs.runs:
        if run.arm not in known:
            raise UsageError(
                f"experiment {name}: a run of unknown arm {run.arm}; its arms are {', '.join(sorted(known))}"
            )
        if run.status == OK:
            finite([run.value if run.value is not None else float("nan")], f"{name}, arm {run.arm}, seed {run.seed}")
    finite([part.variance for part in inputs.class_variances], f"variances of the noise class of {name}")
    if inputs.look is not None and not 1 <= inputs.look <= max(1, len(inputs.looks)):
        raise UsageError(
            f"{name}: look {inputs.look} of {max(1, len(inputs.looks))} planned; a further look has none"
        )
    if any(b <= a for a, b in pairwise(inputs.looks)):
        raise UsageError(f"{name}: looks {inputs.looks}; expected a rising number of seeds")
    if inputs.cycle is not None and inputs.cycle < 1:
        raise UsageError(f"{name}: cycle {inputs.cycle}; expected 1 or more")
    if inputs.family_size is not None and inputs.family_size < 1:
        raise UsageError(f"{name}: a family of {inputs.family_size} hypotheses; expected 1 or more")
    return inputs


def sort_out(inputs: Inputs) -> Cells:
    """One value per arm and seed: the first success in time counts, so no retry can be chosen for its result.

    A seed that an arm ran before its plan, or that was used for tuning, is exploratory for ever: also
    when the same seed ran again after the plan. Controls in the bank need no plan of their own.
    """
    arms = (inputs.control, *inputs.arms)
    values: dict[str, dict[int, float]] = {arm: {} for arm in arms}
    early_values: dict[str, dict[int, float]] = {arm: {} for arm in arms}
    failures, attempts = dict.fromkeys(arms, 0), dict.fromkeys(arms, 0)
    bank: dict[int, float] = {}
    ran: dict[str, set[int]] = {arm: set() for arm in arms}
    spoiled = {(run.arm, run.seed): run.tuning for run in inputs.runs if (run.early or run.tuning) and not run.bank}
    for run in sorted(inputs.runs, key=_place):
        ok = run.status == OK and run.value is not None
        if run.bank:
            if ok and not run.tuning and run.arm == inputs.control and run.value is not None:
                bank[_BANK - len(bank)] = run.value
            continue
        ran[run.arm].add(run.seed)
        attempts[run.arm] += 1
        failures[run.arm] += not ok
        if ok and run.value is not None:
            where = early_values if (run.arm, run.seed) in spoiled else values
            where[run.arm].setdefault(run.seed, run.value)
    early, tuning = dict.fromkeys(arms, 0), dict.fromkeys(arms, 0)
    for (arm, _), tuned in spoiled.items():
        (tuning if tuned else early)[arm] += 1
    pending, lost = dict.fromkeys(arms, 0), dict.fromkeys(arms, 0)
    for arm in arms:
        for seed in inputs.planned(arm):
            pending[arm] += seed not in ran[arm]
            lost[arm] += seed in ran[arm] and seed not in values[arm] and seed not in early_values[arm]
    bases = len({run.base for run in inputs.runs})
    return Cells(values, early_values, failures, attempts, pending, lost, early, tuning, bank, bases)


def unread(inputs: Inputs, name: str, values: dict[int, float], control: dict[int, float]) -> str:
    """Why a treatment is no treatment: its runs are the control's, digit for digit, though it sets something else.

    Empty where that cannot be said: for arms that set nothing of their own, for settings that are known to be read,
    with one shared seed, with values that do not depend on the seed, and where the metric is known to be rounded.
    """
    shared = values.keys() & control.keys()
    if name not in inputs.sets or inputs.resolution > 0 or len(shared) < 2:
        return ""
    if any(values[seed] != control[seed] for seed in shared) or len({values[seed] for seed in shared}) == 1:
        return ""
    return (
        "its runs are the control's, digit for digit: the program does not seem to read what the arm sets "
        f"({inputs.sets[name]})"
    )


_BANK = -(2**40)  # seeds of banked controls, which pair with nothing


def _place(run: Run) -> tuple[str, int, float, str, float]:
    return run.arm, run.seed, run.order, run.status, run.value if run.value is not None else 0.0

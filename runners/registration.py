"""Put a plan into the log before its first run, and name what it compares.

Two fingerprints decide what may be compared and what need not be run again: the *base* is all that
the arms have in common, the *cell* is one measurement within it. A changed plan under the same name
and base is an amendment of the same experiment: it is registered again, together with `plan.amended`,
which says what changed and why.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from hashlib import sha256
from typing import Any, NamedTuple

import msgspec

from ledger import canonical, events
from ledger.chain import Log
from ledger.errors import Conflict, UsageError
from ledger.writer import Draft, Expect
from runners import screens
from runners.cells import Runner, Surroundings
from runners.plan import Plan, PlanArm

PAIR_TIER: events.PairTier = "rerun"  # of a plan that names none: its arms are one code, each with its change
POLICY = "ledger/1"  # the decision rule of a plan that names none
MAX_PLAN_EVENT = 47 * 1024  # an event holds 48 KiB, its envelope takes less than one


class Registered(NamedTuple):
    event: events.ExperimentRegistered
    event_id: str


def arm_event(plan: Plan, runner: Runner, arm: PlanArm) -> events.Arm:
    role: events.Role = "single" if len(plan.arm) == 1 else "control" if arm is plan.control else "treatment"
    return events.Arm(
        name=arm.name, role=role, env=events.named(arm.env), args=arm.args, config=events.named(arm.set)
    )


def base_fingerprint(plan: Plan, runner: Runner, around: Surroundings) -> str:
    """Fingerprint of all that the arms have in common: runs of two bases are never compared."""
    shared = {
        "code": around.code,
        "data": [msgspec.to_builtins(digest) for digest in around.data],
        "hardware_class": around.hardware_class,
        "metric": plan.metric,
        "runner": runner.name,
        "settings": plan.trainer,
        "command": plan.script.command if plan.script else None,
        "env": plan.script.env if plan.script else None,
        "patterns": plan.script.patterns if plan.script else None,
    }
    if plan.script is not None and plan.script.log:
        shared["log"] = plan.script.log
    return sha256(canonical.encode(shared)).hexdigest()[:16]


def cell_fingerprint(base: str, arm: PlanArm, seed: int) -> str:
    return sha256(canonical.encode([base, arm.changes().decode(), seed])).hexdigest()[:16]


def noise_class(plan: Plan, around: Surroundings, base: str) -> events.NoiseClass:
    """Where runs are equally noisy. A plan that does not say its scale shares its noise with its own base alone: two
    programs on one machine have nothing in common by that."""
    return events.NoiseClass(
        platform=plan.platform or around.hardware_class,
        scale=plan.scale or f"unstated {base[:8]}",
        metric=plan.metric,
        stage=plan.stage,
    )


def _as_before(found: events.NoiseClass, earlier: Registered | None) -> events.NoiseClass:
    """The class whose scale stays what an earlier registration called unstated; it was one for all once."""
    before = earlier.event.noise_class.scale if earlier else ""
    both = before.startswith("unstated") and found.scale.startswith("unstated")
    return msgspec.structs.replace(found, scale=before) if both else found


def experiment_id(plan: Plan, base: str) -> str:
    """Plans of one name, base and metric are one experiment."""
    return sha256(canonical.encode([plan.name, base, plan.metric])).hexdigest()[:16]


class Standing(NamedTuple):
    """What registering a plan would do at a head of `position` events."""

    position: int
    wanted: events.ExperimentRegistered
    known: list[Registered]  # registrations so far
    changes: tuple[events.PlanChange, ...]  # against the newest of them; none where it says the same

    @property
    def added(self) -> tuple[set[int], set[str]]:
        """Seeds and arms that no registration had before."""
        seeds, arms = self._before
        return {*self.wanted.seeds} - seeds, {arm.name for arm in self.wanted.arms} - arms

    @property
    def left_out(self) -> tuple[set[int], set[str]]:
        """Seeds and arms that a registration had and this plan has not. They stay in the pairs and the family."""
        seeds, arms = self._before
        return seeds - {*self.wanted.seeds}, arms - {arm.name for arm in self.wanted.arms}

    @property
    def look(self) -> int:
        """1, and one more for every time that seeds were added, this time included."""
        seen: set[int] = set()
        looks = 0
        for event in (*(registered.event for registered in self.known), self.wanted):
            looks += not seen.issuperset(event.seeds)
            seen.update(event.seeds)
        return looks

    @property
    def _before(self) -> tuple[set[int], set[str]]:
        return (
            {seed for registered in self.known for seed in registered.event.seeds},
            {arm.name for registered in self.known for arm in registered.event.arms},
        )


def standing(log: Log, plan: Plan, runner: Runner, base: str, experiment: str, around: Surroundings) -> Standing:
    """Compare a plan with what is registered; appends nothing.

    Raises UsageError for a change that no amendment may make, and for seeds that chose something before.
    """
    position = log.head().position
    known = _registrations(log, position, f"experiment/{experiment}")
    wanted = _event(plan, runner, base, experiment, around, known[-1] if known else None)
    if (size := len(canonical.encode(wanted))) > MAX_PLAN_EVENT:
        raise UsageError(
            f"the plan takes {size} bytes as an event, at most {MAX_PLAN_EVENT} are possible: it has "
            f"{len(plan.seeds)} seeds and {len(plan.arm)} arms; have fewer, or shorter commands and settings"
        )
    _refuse_change([registered.event for registered in known], wanted)
    found = Standing(position, wanted, known, _changes(known[-1].event, wanted) if known else ())
    if fresh := found.added[0]:
        _refuse_used(log, position, wanted, fresh)
    if wanted.cycle is not None and not known:
        _refuse_cycle(log, position, wanted)
    return found


def register(
    log: Log, plan: Plan, runner: Runner, base: str, experiment: str, around: Surroundings, reason: str = ""
) -> Registered:
    """Append the registration unless it is there, and with it, for an amendment, `reason` and what changed.

    Raises UsageError as `standing`.
    """
    stream = f"experiment/{experiment}"
    for _ in range(5):
        found = standing(log, plan, runner, base, experiment, around)
        drafts = [Draft(stream, found.wanted)]
        if plan.kind == "screen" and not found.known:
            factors, stacks = screens.described(plan.factor)
            screen = events.ScreenPlanned(experiment=experiment, factors=factors, stacks=stacks)
            drafts.append(Draft(stream, screen))
        if found.known:
            earlier = found.known[-1]
            if not found.changes:
                return earlier
            amended = events.PlanAmended(
                experiment=experiment, amends=earlier.event_id, changes=found.changes, reason=reason
            )
            drafts.append(Draft(stream, amended))
        try:
            made = log.writer.append(drafts, Expect(stream, found.position))
        except Conflict:
            continue  # somebody registered at this moment: look again, it may be the same plan
        return Registered(found.wanted, made.event_ids[0])
    raise Conflict(f"experiment {plan.name} is being registered by several processes at once; try again")


def _event(
    plan: Plan, runner: Runner, base: str, experiment: str, around: Surroundings, earlier: Registered | None
) -> events.ExperimentRegistered:
    """The plan as its registration has it. What it does not say of its rule stays as it was registered."""
    return events.ExperimentRegistered(
        experiment=experiment,
        name=plan.name,
        family=plan.family or f"{plan.name}/{experiment[:8]}",
        question=plan.question,
        runner=runner.name,
        command=plan.script.command if plan.script else (),
        plan=plan.text,
        plan_digest=sha256(plan.text.encode()).hexdigest(),
        base=base,
        metric=plan.metric,
        direction=plan.direction,
        delta=plan.delta,
        alpha=plan.alpha,
        estimand=plan.estimand,
        seeds=plan.seeds,
        seed_role=plan.seed_role,
        control=plan.control.name,
        arms=tuple(arm_event(plan, runner, arm) for arm in plan.arm),
        # A screen asks about its factors (screen.planned), not about one stack against another.
        hypotheses=()
        if plan.kind == "screen"
        else tuple(events.Hypothesis(arm.name, arm.predict, arm.effect) for arm in plan.arm[1:]),
        pair_tier=plan.pair_tier or (earlier.event.pair_tier if earlier else PAIR_TIER),
        noise_class=_as_before(noise_class(plan, around, base), earlier),
        stopping=plan.stopping,
        looks=(len(plan.seeds),) if plan.stopping == "fixed" else plan.looks,
        tau=plan.tau,
        n_max=plan.most_seeds,
        policy=plan.policy or (earlier.event.policy if earlier else POLICY),
        timeout=plan.timeout,
        amends=earlier.event_id if earlier else None,
        track=plan.track,
        tuning_seeds=plan.tuning_seeds,
        cycle=plan.cycle,
    )


def _registrations(log: Log, position: int, stream: str) -> list[Registered]:
    """The registrations of an experiment so far, retracted ones left out."""
    found: list[Registered] = []
    for event in log.events(as_of=position, stream=stream, types=("experiment.registered", "event.retracted")):
        data = event.data
        if isinstance(data, events.ExperimentRegistered):
            found.append(Registered(data, event.event_id))
        elif isinstance(data, events.EventRetracted):
            found = [registered for registered in found if registered.event_id != data.target]
    return found


FIXED = (
    "control",
    "delta",
    "alpha",
    "direction",
    "estimand",
    "seed_role",
    "pair_tier",
    "noise_class",
    "track",
    "tuning_seeds",
    "stopping",
    "tau",
    "policy",
    "family",
    "cycle",
)
FOLLOW = ("looks", "n_max")  # of a plan with one look they follow from its seeds


def _refuse_change(known: list[events.ExperimentRegistered], wanted: events.ExperimentRegistered) -> None:
    """Seeds and arms may be added to a plan; what judges it, and what an arm is, may not change after the fact.

    Leaving arms or seeds out is allowed and changes nothing: they stay in the family and in the pairs.
    """
    if not known:
        return
    for field in (*FIXED, *(() if wanted.stopping == "fixed" else FOLLOW)):
        before, now = getattr(known[0], field), getattr(wanted, field)
        if before != now:
            raise UsageError(
                f"plan {wanted.name!r} is registered with {field} {_told(before)}, not {_told(now)}; results may "
                "have been seen since, so a changed plan needs a new name"
            )
    arms = {arm.name: arm for event in known for arm in event.arms}
    for arm in wanted.arms:
        before = arms.get(arm.name, arm)
        if (before.env, before.args, before.config) != (arm.env, arm.args, arm.config):
            raise UsageError(
                f"arm {arm.name!r} of plan {wanted.name!r} is registered with other settings, and what it measured "
                "stays under that name; give the changed arm a new one"
            )
    claims = {claim.arm: claim for event in reversed(known) for claim in event.hypotheses}
    for claim in wanted.hypotheses:
        if claim.arm in claims and claims[claim.arm] != claim:
            raise UsageError(
                f"plan {wanted.name!r} is registered with the hypothesis that {_claim(claims[claim.arm])}, not "
                f"{_claim(claim)}; results may have been seen since, so a changed plan needs a new name"
            )


def _standing_plans(log: Log, position: int) -> Iterator[tuple[int, events.ExperimentRegistered]]:
    """Every registration in the log that was not retracted, with its position."""
    gone = {
        event.data.target
        for event in log.events(as_of=position, types=("event.retracted",))
        if isinstance(event.data, events.EventRetracted)
    }
    for event in log.events(as_of=position, types=("experiment.registered",)):
        if isinstance(event.data, events.ExperimentRegistered) and event.event_id not in gone:
            yield event.position, event.data


def _refuse_cycle(log: Log, position: int, wanted: events.ExperimentRegistered) -> None:
    """A share of alpha is granted once, and the shares add up only where all are of one alpha."""
    for at, other in _standing_plans(log, position):
        if other.family != wanted.family or other.experiment == wanted.experiment:
            continue
        if other.cycle == wanted.cycle:
            raise UsageError(
                f"cycle {wanted.cycle} of family {wanted.family!r} is plan {other.name!r} (event {at}); "
                "its share of alpha is granted once, so this plan is another cycle"
            )
        if other.alpha != wanted.alpha:
            raise UsageError(
                f"family {wanted.family!r} has alpha {other.alpha:g} (plan {other.name!r}, event {at}), not "
                f"{wanted.alpha:g}: its cycles share one"
            )


def _refuse_used(log: Log, position: int, wanted: events.ExperimentRegistered, fresh: set[int]) -> None:
    """A seed that chose something on this base, in a plan that tuned or explored, confirms nothing on it."""
    if wanted.track != "confirm" or wanted.seed_role != "confirm":
        return
    for at, other in _standing_plans(log, position):
        if other.base != wanted.base:
            continue
        chose = other.seed_role == "tuning" or other.track == "explore"
        used = {*other.tuning_seeds, *(other.seeds if chose else ())} & fresh
        if used and other.experiment != wanted.experiment:
            raise UsageError(
                f"seeds {ranges(used)} chose something on this base already (plan {other.name!r}, event "
                f"{at}): they cannot confirm; give fresh seeds"
            )


def _changes(before: events.ExperimentRegistered, now: events.ExperimentRegistered) -> tuple[events.PlanChange, ...]:
    """What differs, in the order of the fields. Comments and spaces of the plan's text are no change of the plan."""
    return tuple(
        events.PlanChange(field, _short(_told(old)), _short(_told(new)))
        for field in now.__struct_fields__
        if field not in ("plan", "plan_digest", "amends", *(FOLLOW if now.stopping == "fixed" else ()))
        and (old := getattr(before, field)) != (new := getattr(now, field))
    )


def _told(value: Any) -> str:
    """A field of a plan in a few words."""
    match value:
        case events.NoiseClass():
            return f"{value.platform}, {value.scale}, {value.metric}, {value.stage}"
        case [events.Arm(), *_]:
            return ", ".join(arm.name for arm in value)
        case [events.Hypothesis(), *_]:
            return ", ".join(map(_claim, value))
        case tuple() if all(type(item) is int for item in value):
            return ranges(value) or "none"
        case str():
            return repr(value)
    return str(value)


def _claim(claim: events.Hypothesis) -> str:
    return f"{claim.arm} {claim.predict}" + ("" if claim.effect is None else f" by {claim.effect:+g}")


def _short(text: str) -> str:
    return text if len(text) <= 2000 else f"{text[:2000]} …"


def ranges(numbers: Iterable[int]) -> str:
    """0-2, 5: what numbers there are, in a few words."""
    parts: list[list[int]] = []
    for number in sorted(numbers):
        if parts and number == parts[-1][-1] + 1:
            parts[-1][1:] = [number]
        else:
            parts.append([number])
    return ", ".join("-".join(map(str, part)) for part in parts)

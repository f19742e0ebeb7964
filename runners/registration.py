"""Put a plan into the log before its first run, and name what it compares.

Two fingerprints decide what may be compared and what need not be run again: the *base* is all that
the arms have in common, the *cell* is one measurement within it. A changed plan under the same name
and base is an amendment of the same experiment, and shows as one.
"""

from __future__ import annotations

from hashlib import sha256
from typing import NamedTuple

import msgspec

from ledger import canonical, events
from ledger.chain import Log
from ledger.errors import Conflict, UsageError
from ledger.writer import Draft, Expect
from runners.cells import Runner, Surroundings
from runners.plan import Plan, PlanArm

POLICY = "paired-pooled/1"  # the decision rule that is registered with a plan
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
    return sha256(canonical.encode(shared)).hexdigest()[:16]


def cell_fingerprint(base: str, arm: PlanArm, seed: int) -> str:
    return sha256(canonical.encode([base, arm.changes().decode(), seed])).hexdigest()[:16]


def noise_class(plan: Plan, around: Surroundings) -> events.NoiseClass:
    return events.NoiseClass(
        platform=around.hardware_class, scale=plan.scale or "unstated", metric=plan.metric, stage=plan.stage
    )


def register(log: Log, plan: Plan, runner: Runner, base: str, experiment: str, around: Surroundings) -> Registered:
    """Append the registration unless it is there. Raises UsageError for a change that no amendment may make."""
    stream = f"experiment/{experiment}"
    for _ in range(5):
        head = log.head()
        known = _registrations(log, head.position, stream)
        earlier = known[-1] if known else None
        wanted = events.ExperimentRegistered(
            experiment=experiment,
            name=plan.name,
            family=f"{plan.name}/{experiment[:8]}",
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
            hypotheses=tuple(events.Hypothesis(arm.name, arm.predict) for arm in plan.arm[1:]),
            pair_tier=plan.pair_tier,
            noise_class=noise_class(plan, around),
            stopping="fixed",
            looks=(len(plan.seeds),),
            tau=None,
            n_max=len(plan.seeds),
            policy=POLICY,
            timeout=plan.timeout,
            amends=earlier.event_id if earlier else None,
        )
        if (size := len(canonical.encode(wanted))) > MAX_PLAN_EVENT:
            raise UsageError(
                f"the plan takes {size} bytes as an event, at most {MAX_PLAN_EVENT} are possible: it has "
                f"{len(plan.seeds)} seeds and {len(plan.arm)} arms; have fewer, or shorter commands and settings"
            )
        _refuse_change([registered.event for registered in known], wanted)
        # Comments and spaces of the plan's text are not a change of the plan.
        if earlier and _substance(earlier.event) == _substance(wanted):
            return earlier
        try:
            made = log.writer.append([Draft(stream, wanted)], Expect(stream, head.position))
        except Conflict:
            continue  # somebody registered at this moment: look again, it may be the same plan
        return Registered(wanted, made.event_ids[0])
    raise Conflict(f"experiment {plan.name} is being registered by several processes at once; try again")


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


FIXED = ("control", "delta", "alpha", "direction", "estimand", "seed_role", "pair_tier")


def _refuse_change(known: list[events.ExperimentRegistered], wanted: events.ExperimentRegistered) -> None:
    """Seeds and arms may be added to a plan; what judges it, and what an arm is, may not change after the fact.

    Leaving arms or seeds out is allowed and changes nothing: they stay in the family and in the pairs.
    """
    if not known:
        return
    for field in FIXED:
        before, now = getattr(known[0], field), getattr(wanted, field)
        if before != now:
            raise UsageError(
                f"plan {wanted.name!r} is registered with {field} {before!r}, not {now!r}; results may have been "
                "seen since, so a changed plan needs a new name"
            )
    arms = {arm.name: arm for event in known for arm in event.arms}
    for arm in wanted.arms:
        before = arms.get(arm.name, arm)
        if (before.env, before.args, before.config) != (arm.env, arm.args, arm.config):
            raise UsageError(
                f"arm {arm.name!r} of plan {wanted.name!r} is registered with other settings, and what it measured "
                "stays under that name; give the changed arm a new one"
            )


def _substance(event: events.ExperimentRegistered) -> events.ExperimentRegistered:
    return msgspec.structs.replace(event, plan="", plan_digest="", amends=None)

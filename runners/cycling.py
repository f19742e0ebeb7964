"""Put a cycle plan into the log before its first cycle.

Plans of one name, base and metric are one series, as with experiments. Planned again, it may have more candidates and
other stop rules: neither touches what earlier cycles found, because every cycle spends its own share of alpha on
fresh seeds. What judges (delta, alpha, control, seeds) and what a candidate is stay.
"""

from __future__ import annotations

from hashlib import sha256
from typing import NamedTuple

from ledger import canonical, events
from ledger.chain import Log
from ledger.errors import Conflict, UsageError
from ledger.writer import Draft, Expect
from runners.cells import Runner, Surroundings
from runners.cycle_plan import CyclePlan
from runners.registration import MAX_PLAN_EVENT, arm_event, base_fingerprint, noise_class

FIXED = (
    "metric", "direction", "delta", "alpha", "seeds", "first_seed", "batch", "adopt", "noise_class", "control",
)  # fmt: skip


class Planned(NamedTuple):
    event: events.CyclePlanned
    event_id: str | None  # None: it is not in the log yet
    new: bool  # it has to be appended


def cycle_id(plan: CyclePlan, base: str) -> str:
    return sha256(canonical.encode(["cycle", plan.name, base, plan.whole.metric])).hexdigest()[:16]


def standing(log: Log, plan: CyclePlan, runner: Runner, around: Surroundings) -> Planned:
    """The plan as its event, and whether it is in the log. Raises UsageError for a change that it may not make."""
    base = base_fingerprint(plan.whole, runner, around)
    cycle = cycle_id(plan, base)
    known = [
        (event.event_id, event.data)
        for event in log.events(stream=f"cycle/{cycle}", types=("cycle.planned",))
        if isinstance(event.data, events.CyclePlanned)
    ]
    earlier_id, earlier = known[-1] if known else (None, None)
    made = events.CyclePlanned(
        cycle=cycle,
        name=plan.name,
        question=plan.question,
        plan=plan.text,
        plan_digest=sha256(plan.text.encode()).hexdigest(),
        base=base,
        runner=runner.name,
        metric=plan.whole.metric,
        direction=plan.whole.direction,
        delta=plan.delta,
        alpha=plan.alpha,
        seeds=plan.seeds,
        first_seed=plan.first_seed,
        batch=plan.batch,
        adopt=plan.adopt,
        noise_class=noise_class(plan.whole, around, base),
        control=arm_event(plan.whole, runner, plan.whole.control),
        arms=tuple(arm_event(plan.whole, runner, arm) for arm in plan.whole.arm[1:]),
        candidates=plan.candidates,
        stop=plan.stop,
        amends=earlier_id,
    )
    if (size := len(canonical.encode(made))) > MAX_PLAN_EVENT:
        raise UsageError(f"the cycle plan takes {size} bytes as an event, at most {MAX_PLAN_EVENT} are possible")
    if earlier is None:
        return Planned(made, None, True)
    _refuse_change(earlier, made)
    if (earlier.candidates, earlier.stop, earlier.arms) == (made.candidates, made.stop, made.arms):
        return Planned(earlier, earlier_id, False)
    return Planned(made, earlier_id, True)


def register(log: Log, plan: CyclePlan, runner: Runner, around: Surroundings) -> Planned:
    """Append the plan unless it is there. Raises as `standing`."""
    for _ in range(5):
        position = log.head().position
        found = standing(log, plan, runner, around)
        if not found.new:
            return found
        stream = f"cycle/{found.event.cycle}"
        try:
            made = log.writer.append([Draft(stream, found.event)], Expect(stream, position))
        except Conflict:
            continue
        return Planned(found.event, made.event_ids[0], False)
    raise Conflict(f"cycle plan {plan.name} is being registered by several processes at once; try again")


def _refuse_change(before: events.CyclePlanned, now: events.CyclePlanned) -> None:
    for field in FIXED:
        if getattr(before, field) != getattr(now, field):
            was, is_ = getattr(before, field), getattr(now, field)
            told = f"{was!r}, not {is_!r}" if isinstance(was, (str, int, float)) else "another one"
            raise UsageError(
                f"cycle plan {now.name!r} is registered with {field} {told}; cycles may have been judged by it "
                "since, so a changed plan needs a new name"
            )
    arms = {arm.name: arm for arm in now.arms}
    said = {one.name: one for one in now.candidates}
    for arm, one in zip(before.arms, before.candidates, strict=True):
        if arm.name not in arms:
            raise UsageError(
                f"cycle plan {now.name!r} is registered with candidate {arm.name!r}, which stays in it; keep it"
            )
        if arms[arm.name] != arm or said[arm.name] != one:
            raise UsageError(
                f"candidate {arm.name!r} of cycle plan {now.name!r} is registered with other settings or another "
                "prior; give the changed one a new name"
            )

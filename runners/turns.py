"""Cells in their turn: one after another, or several at once, each in a slot of its own.

    slots        how many at once, and that they can be: runs that end by the clock would take each other's time
    one_by_one   in this thread, so that a runner may train in it and a signal reaches what it runs
    at_once      a thread a slot; this one begins them, in their order, and notes the signals for all

The last two give every group of cells with its outcomes as it ends, and leave nothing running: who stops listening
waits until what was under way has ended and is recorded. They know no log.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait

from ledger.errors import UsageError
from runners.alone import noted
from runners.cells import Outcome
from runners.plan import Plan, PlanArm

Group = list[tuple[PlanArm, int]]
Begin = Callable[[Group, int], Callable[[], list[Outcome]]]  # group, slot -> what carries it out
Turns = Generator[tuple[Group, list[Outcome]], None, None]
_LOOK = 0.2  # seconds between two looks for a signal


class Stop:
    """Why no more are begun."""

    def __init__(self) -> None:
        self.signals: list[int] = []  # that came, for all that run at once: they are to end
        self.enough = False  # what runs may end by itself

    def __bool__(self) -> bool:
        return self.enough or bool(self.signals)


def slots(
    plan: Plan, jobs: int | None, gpus: Sequence[str], *, clock: bool = False, each: int = 1, cooldown: float = 0.0
) -> int:
    """How many runs at once: as many as are asked for, else one for every `each` GPUs that are named, else one.
    `clock`: one of them ends by the clock.

    Raises UsageError where that cannot be.
    """
    if len(set(gpus)) != len(gpus):
        raise UsageError(f"--gpus {','.join(gpus)}: one is named twice")
    if len(gpus) % each:
        raise UsageError(f"--gpus names {len(gpus)}, and a run takes {each}: name a multiple of {each}")
    apart = len(gpus) // each  # that have a device to themselves
    count = jobs or max(1, apart)
    if count == 1:
        return 1
    if (clock or plan.estimand == "wallclock") and count > apart:
        raise UsageError(
            f"--jobs {count}: these runs end by the clock, and side by side they take each other's time; "
            f"give each its own GPU{'s' if each > 1 else ''} (--gpus), or run them one at a time"
        )
    if plan.pair_tier == "fork":
        raise UsageError(
            f"--jobs {count}: arms of pair_tier 'fork' go on from one another's checkpoints, one at a time"
        )
    if cooldown:
        raise UsageError(f"--jobs {count} does not go with --cooldown: there is no moment between runs")
    return count


def one_by_one(groups: Sequence[Group], begin: Begin, cooldown: float, stop: Stop) -> Turns:
    """Each when the one before has ended and the machine had `cooldown` seconds. Raises KeyboardInterrupt."""
    for number, group in enumerate(groups):
        if stop:
            return
        if number and cooldown:
            time.sleep(cooldown)
        yield group, begin(group, 0)()


def at_once(groups: Sequence[Group], begin: Begin, slots: int, stop: Stop) -> Turns:
    """So many at a time. No signal is raised meanwhile: it lands in `stop`, and what runs is to look there."""
    waiting, free = list(reversed(groups)), list(reversed(range(slots)))
    running: dict[Future[list[Outcome]], tuple[Group, int]] = {}
    with noted(stop.signals), ThreadPoolExecutor(slots, thread_name_prefix="slot") as pool:
        try:
            while running or (waiting and not stop):
                while waiting and free and not stop:
                    group, slot = waiting.pop(), free.pop()
                    running[pool.submit(begin(group, slot))] = (group, slot)
                done, _ = wait(running, _LOOK, FIRST_COMPLETED)
                for future in [each for each in running if each in done]:
                    group, slot = running.pop(future)
                    free.append(slot)
                    yield group, future.result()
        finally:
            if running:  # nobody listens any more
                stop.signals.append(signal.SIGTERM)

"""Cells in their turn: one after another, or several at once, each in a slot of its own.

    one_by_one   in this thread, so that a runner may train in it and a signal reaches what it runs
    at_once      a thread a slot; this one hears of signals, and tells the others to stop

    slots        how many at once, and that they can be: runs that end by the clock would take each other's time

The first two give every group of cells with its outcomes as it ends, and leave nothing running: whoever stops
listening waits until what was under way has ended and is recorded. They know no log.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait

from ledger.errors import UsageError
from runners.alone import no_interrupt
from runners.cells import Outcome
from runners.plan import Plan, PlanArm

Group = list[tuple[PlanArm, int]]
Run = Callable[[Group, int], list[Outcome]]  # in which slot
Turns = Generator[tuple[Group, list[Outcome]], None, None]


def slots(plan: Plan, jobs: int | None, gpus: Sequence[str], each: int = 1, cooldown: float = 0.0) -> int:
    """How many runs at once: as many as are asked for, else one for every `each` GPUs that are named, else one.

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
    clock = plan.estimand == "wallclock" or bool((plan.trainer or {}).get("wallclock"))
    if clock and count > apart:
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


def one_by_one(groups: Sequence[Group], run: Run, cooldown: float) -> Turns:
    """Each when the one before has ended and the machine had `cooldown` seconds. Raises KeyboardInterrupt in them."""
    for number, group in enumerate(groups):
        if number and cooldown:
            time.sleep(cooldown)
        yield group, run(group, 0)


def at_once(groups: Sequence[Group], run: Run, slots: int, stop: threading.Event) -> Turns:
    """So many at a time, begun in their order. An interruption sets `stop`, begins no more and gives what ended."""
    waiting, free = list(reversed(groups)), list(reversed(range(slots)))
    running: dict[Future[list[Outcome]], tuple[Group, int]] = {}
    with contextlib.ExitStack() as quiet, ThreadPoolExecutor(slots, thread_name_prefix="slot") as pool:
        try:
            while running or (waiting and not stop.is_set()):
                try:
                    while waiting and free and not stop.is_set():
                        group, slot = waiting.pop(), free.pop()
                        running[pool.submit(run, group, slot)] = (group, slot)
                    done, _ = wait(running, return_when=FIRST_COMPLETED)
                except KeyboardInterrupt:
                    stop.set()
                    quiet.enter_context(no_interrupt())  # what runs is being ended, and there is no faster way
                    continue
                for future in [each for each in running if each in done]:
                    group, slot = running.pop(future)
                    free.append(slot)
                    yield group, future.result()
        finally:
            if not stop.is_set():
                stop.set()
                quiet.enter_context(no_interrupt())

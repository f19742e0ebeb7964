"""`--jobs` and `--gpus`: how many runs go at once, and which GPUs they see."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from ledger.errors import UsageError

if TYPE_CHECKING:
    from runners.plan import Plan


def at_once(command: Callable[..., Any]) -> Callable[..., Any]:
    """The two options, which the command gets as `jobs` and `gpus`."""
    gpus = click.option("--gpus", default=None, metavar="0-3", help="GPUs to spread them over, each seeing its own.")
    jobs = click.option(
        "--jobs", type=click.IntRange(min=1), default=None, help="Runs at once (default: 1, or one a GPU)."
    )
    return jobs(gpus(command))


def gpu_names(text: str | None) -> tuple[str, ...]:
    """GPUs by number (0-3,5) or by the names that CUDA gives them. Raises UsageError."""
    if text is None:
        return ()
    found: list[str] = []
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        if dash and first.isdigit() and last.isdigit() and int(first) <= int(last) < int(first) + 1000:
            found += [str(number) for number in range(int(first), int(last) + 1)]
        elif re.fullmatch(r"\d+|(GPU|MIG)-[0-9A-Za-z/-]+", part.strip()):
            found.append(part.strip())
        else:
            raise UsageError(f"--gpus {text}: expected numbers, such as 0-3 or 0,2, or names of GPUs, found {part!r}")
    return tuple(found)


def slots_of(plan: Plan, jobs: int | None, gpus: tuple[str, ...], cooldown: float = 0.0) -> int:
    """How many runs of the plan go at once. Raises UsageError."""
    from runners.turns import slots

    each = (plan.trainer or {}).get("devices", 1)
    if gpus and each == 0:
        raise UsageError(
            "--gpus: devices = 0 lets a run take all that are here; say how many each takes (--devices 2)"
        )
    return slots(plan, jobs, gpus, each if isinstance(each, int) and each > 0 else 1, cooldown)

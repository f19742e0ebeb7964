"""`--jobs` and `--gpus`: how many runs go at once, and which GPUs they see."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import click

from ledger.errors import UsageError


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
        number = re.compile("[0-9]{1,4}")
        if number.fullmatch(first) and not dash:
            found.append(str(int(first)))
        elif number.fullmatch(first) and number.fullmatch(last) and int(first) <= int(last):
            found += [str(each) for each in range(int(first), int(last) + 1)]
        elif re.fullmatch("(GPU|MIG)-[0-9A-Za-z/-]+", part.strip()):
            found.append(part.strip())
        else:
            raise UsageError(f"--gpus {text}: expected numbers, such as 0-3 or 0,2, or names of GPUs, found {part!r}")
    return tuple(found)

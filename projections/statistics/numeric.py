"""Numbers in and numbers out: what is refused, how floats are added, how they are rounded.

Every sum goes through math.fsum, or through numpy's accumulate, which adds in order on every machine.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt

from ledger.errors import UsageError

Array = npt.NDArray[np.float64]
LARGEST = 1e100  # squares of more than this overflow, and no metric of training is so large


def finite(values: Iterable[float], what: str) -> list[float]:
    """The values as a list. Raises UsageError naming the first that is not a finite number below LARGEST."""
    found = list(values)
    for index, value in enumerate(found):
        if not -LARGEST < value < LARGEST:  # NaN fails this too
            raise UsageError(f"{what}: value {index + 1} is {value}; expected a finite number")
    return found


def positive(value: float, what: str) -> float:
    """The value. Raises UsageError unless it is finite and above 0."""
    if not 0 < value < LARGEST:
        raise UsageError(f"{what} is {value}; expected a finite number above 0")
    return value


def between(value: float, low: float, high: float, what: str) -> float:
    """The value. Raises UsageError unless low < value < high."""
    if not low < value < high:
        raise UsageError(f"{what} is {value}; expected a number between {low:g} and {high:g}")
    return value


def mean(values: Sequence[float]) -> float:
    """Arithmetic mean, correctly rounded sum."""
    return math.fsum(values) / len(values)


def variance(values: Sequence[float]) -> float:
    """Sample variance with n - 1; needs two values. Exactly 0 when all are equal."""
    first = values[0]  # subtracted beforehand, so that equal values give 0 and not a rounding error
    shifted = [value - first for value in values]
    centre = mean(shifted)
    return math.fsum([(value - centre) ** 2 for value in shifted]) / (len(values) - 1)


def ordered_sum(values: Array) -> Array:
    """Sum over the first axis, one after the other."""
    added: Array = np.add.accumulate(values, axis=0)[-1]
    return added


def digits(value: float, significant: int = 12) -> float:
    """`value` rounded to significant digits, so that the last bits of a library do not show."""
    return float(f"{value:.{significant - 1}e}") if math.isfinite(value) else value

"""How a run's rates move with its progress: learning rate, momentum, noise, the weight of a second objective.

Progress is the fraction of the run that is done, by steps, or by the clock where that comes first, so that every
schedule reaches its end in the run that really takes place. Pure functions of config, step and seconds.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from runners.gpt_config import GptConfig


class Rates(NamedTuple):
    """The rates of one step."""

    lr: float = 1.0  # factor on every learning rate
    momentum: float = 0.0
    token_drop: float = 0.0
    corrupt: float = 0.0
    mtp: float = 0.0


def progress(config: GptConfig, step: int, seconds: float = 0.0) -> float:
    """Where in the run `step` is: 0 at the first, 1 at the last, sooner by the clock; `seconds` have gone by."""
    by_clock = seconds / config.wallclock if config.wallclock else 0.0
    return min(1.0, max(step / max(1, config.steps - 1), by_clock))


def lr_scale(config: GptConfig, step: int, seconds: float = 0.0) -> float:
    """Factor on every learning rate: up over warmup_steps, then one, then down to zero over the warm-down.

    With a wall clock the warm-down ends when the time does: `warmdown_steps` count at the mean time of a step so far.
    """
    up = (step + 1) / (config.warmup_steps + 1)
    left = config.steps - step
    down = config.warmdown_steps or config.warmdown * config.steps
    scale = left / down if down else 1.0
    if config.wallclock:
        rest = max(0.0, config.wallclock - seconds)
        whole = (
            config.warmdown_steps * seconds / max(1, step)
            if config.warmdown_steps
            else (config.warmdown * config.wallclock)
        )
        if whole:
            scale = min(scale, rest / whole)
    return max(0.0, min(1.0, up, scale))


def rates(config: GptConfig, step: int, seconds: float = 0.0) -> Rates:
    """All rates of a step."""
    done = progress(config, step, seconds)
    warm = min(1.0, step / config.momentum_warmup) if config.momentum_warmup else 1.0
    drop = config.token_drop * (1 - done if config.token_drop_schedule == "linear_decay" else 1.0)
    corrupt = config.corrupt * (math.sin(math.pi * done) if config.corrupt_schedule == "sine" else 1.0)
    rise = min(1.0, done / config.mtp_warmup) if config.mtp_warmup else 1.0
    return Rates(
        lr=lr_scale(config, step, seconds),
        momentum=(1 - warm) * config.momentum_start + warm * config.momentum,
        token_drop=drop,
        corrupt=corrupt,
        mtp=config.mtp_weight * rise,
    )


def qat_active(config: GptConfig, step: int, seconds: float = 0.0) -> bool:
    """Whether this step trains through quantized matrices. Once begun it goes on: warm-up does not count as late."""
    if not config.qat_bits:
        return False
    warm = step >= config.warmup_steps
    return config.qat_from >= 1 or (warm and lr_scale(config, step, seconds) <= config.qat_from)


def averaged(config: GptConfig, step: int, seconds: float = 0.0) -> bool:
    """Whether the weights after this step enter the average at the end of the run (swa)."""
    done = max((step + 1) / config.steps, seconds / config.wallclock if config.wallclock else 0.0)
    begun = done > 1 - config.swa
    return bool(config.swa) and begun and (config.steps - step - 1) % config.swa_every == 0


def fork_step(config: GptConfig) -> int:
    """The first step at which the late fields (gpt_config.LATE, LATE_FROM) change anything; `steps` if none does
    before the end. Only by steps: by the clock nobody knows it beforehand, and it is 0 then."""
    if not config.qat_bits:
        return config.steps
    if config.wallclock or config.qat_from >= 1:
        return 0
    return next((step for step in range(config.steps) if qat_active(config, step)), config.steps)

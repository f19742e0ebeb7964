"""What a training run comes to, in torch or in MLX: its figures, and the code that they were made with.

It must import neither backend: a runner reads results, and counts code, where one of the two is not installed.
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

import msgspec
import numpy as np

Status = Literal["ok", "diverged", "stopped"]
OnWeights = Callable[[int, int, dict[str, np.ndarray]], None]  # index of the seed, steps done, trained weights

_BOTH = (
    *("gpt_config", "gpt_data", "gpt_init", "gpt_result", "gpt_schedule", "gpt_stages"),
    *("bits", "bytecount", "corpus", "evaluate", "export", "gptq", "quantize", "shards"),
)
CODE = {  # of each backend: the files, in runners/, that a figure depends on
    "torch": (
        *("gpt", "gpt_after", "gpt_cpu", "gpt_device", "gpt_loss", "gpt_optim", "gpt_ranks", "gpt_train"),
        *("gpt_worker", *_BOTH),
    ),
    "mlx": ("gpt_mlx", "gpt_mlx_after", "gpt_mlx_steps", "gpt_mlx_train", *_BOTH),
}


class GptResult(msgspec.Struct, frozen=True, kw_only=True):
    """One seed of one arm. Losses in nats a token; bpb in bits a byte of text."""

    status: Status
    reason: str | None  # why it did not finish
    val_bpb: float | None  # None unless status is ok
    val_loss: float | None
    val_name: str  # val_bpb, or val_bpb_subset where a part of the held-out split was scored
    raw_bpb: float | None  # before quantization, where there was one
    train_loss: float | None  # plain nats of the last step; None when not finite
    steps: int  # done, those before a fork included
    tokens: int
    wall_s: float  # all of it, with validation; of seeds in one batch each has its share
    cpu_s: float  # of this process, all threads; of several devices the sum over theirs
    tokens_per_s: float  # of training, without validation
    step_ms: float  # median
    step_drift: float  # last quarter's median step over the first's, less one: heat, clocks, neighbours
    parameters: int
    peak_memory_bytes: int  # CUDA: allocated by this run; else: the process's peak so far; the largest of several
    artifact_bytes: int | None  # of the quantized model and the code, as the challenge counts
    device: str


def drift(times: Sequence[float]) -> float:
    """How much slower the last quarter of steps was than the first, as a fraction, by medians; the first step, which
    sets things up, left out. 0 for less than eight steps."""
    if len(times) < 8:
        return 0.0
    quarter = len(times) // 4
    return statistics.median(times[-quarter:]) / statistics.median(times[1 : quarter + 1]) - 1


def process_peak() -> int:
    """Bytes of memory that this process had at most."""
    import resource  # POSIX only, and only needed here

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # Linux counts KiB


def code_files(backend: str) -> list[Path]:
    """The backend's files, those it shares with the other included."""
    specs = [find_spec(f"runners.{name}") for name in CODE[backend]]
    return [Path(spec.origin) for spec in specs if spec and spec.origin]


def code_bytes(backend: str) -> int:
    """Bytes of the code that a submission of this model would need."""
    return sum(path.stat().st_size for path in code_files(backend))

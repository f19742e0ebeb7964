"""The device that torch trains on: which one, in which precision, by which attention kernel, how much of its memory.

It must never choose what is not here, nor set anything for longer than it is asked to.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from runners.gpt_config import GptConfig
from runners.gpt_result import process_peak


def find_device(name: str) -> torch.device:
    """The device of this name; auto: the first that is here. Raises ValueError."""
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    usable = [kind for kind in there if there[kind]]
    if name not in ("auto", *usable):
        raise ValueError(f"device must be auto or one that is here ({', '.join(usable)}), found {name!r}")
    return torch.device(usable[0] if name == "auto" else name)


def precision(config: GptConfig, device: torch.device) -> torch.dtype:
    """What matrix products are computed in; parameters and optimiser stay float32."""
    if config.dtype == "auto":
        return torch.bfloat16 if device.type == "cuda" else torch.float32
    return torch.bfloat16 if config.dtype == "bfloat16" else torch.float32


@contextmanager
def attention_kernel(name: str) -> Iterator[None]:
    """Which of torch's attention kernels may be taken; auto: torch's own choice."""
    if name == "auto":
        yield
        return
    from torch.nn.attention import SDPBackend, sdpa_kernel

    kernels = {"flash": SDPBackend.FLASH_ATTENTION, "cudnn": SDPBackend.CUDNN_ATTENTION, "math": SDPBackend.MATH}
    with sdpa_kernel(kernels[name]):
        yield


def peak_memory(device: torch.device) -> int:
    """CUDA: allocated by this run; else: the process's peak so far."""
    return int(torch.cuda.max_memory_allocated(device)) if device.type == "cuda" else process_peak()

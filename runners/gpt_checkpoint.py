"""A training run's arrays as safetensors bytes, and back: what two runs share when one continues the other.

The names are those of a snapshot (gpt_train.py): `param.*`, `optimizer.*`, `average.*`, and a few numbers. Nothing is
pickled, so a checkpoint from anybody may be opened. It must not know a backend: arrays come and go as numpy.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np

MEDIA_TYPE = "application/vnd.safetensors"

Arrays = dict[str, np.ndarray]


def arrays(snapshot: Mapping[str, Any]) -> Arrays:
    """A snapshot of either backend in memory of its own, off the device."""
    found = {}
    for name, value in snapshot.items():
        if hasattr(value, "detach"):
            value = value.detach().cpu().numpy()
        found[name] = np.array(value)
    return found


def dump(snapshot: Arrays, step: int) -> bytes:
    """safetensors bytes, with the steps done as metadata: the same arrays give the same bytes."""
    from safetensors.numpy import save

    told = {"step": str(step)}
    return bytes(save({name: np.asarray(x, order="C") for name, x in sorted(snapshot.items())}, metadata=told))


def load(data: bytes) -> tuple[Arrays, int]:
    """What `dump` was given, by name in order: the library has another one in every process. Raises ValueError for
    bytes that it did not make."""
    from safetensors import SafetensorError
    from safetensors.numpy import load as read

    try:
        found = dict(sorted(read(data).items()))
        head = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
        return found, int(head["__metadata__"]["step"])
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"no checkpoint of ours: {error}") from None

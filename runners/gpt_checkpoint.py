"""A training run's arrays as safetensors bytes, and back: what two runs share when one continues the other.

The names are those of a snapshot (gpt_train.py): `param.*`, `optimizer.*`, `average.*`, and a few numbers. Nothing is
pickled, so a checkpoint from anybody may be opened. It must not know a backend: arrays come and go as numpy.
"""

from __future__ import annotations

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


def weights(snapshot: Arrays) -> Arrays:
    """The weights that are evaluated, by parameter: the mean along the run where there is one."""
    for prefix in ("average.", "param."):
        found = {name.removeprefix(prefix): x for name, x in snapshot.items() if name.startswith(prefix)}
        if found:
            return found
    return {}


def dump(snapshot: Arrays) -> bytes:
    """safetensors bytes: the same arrays give the same bytes."""
    from safetensors.numpy import save

    return bytes(save({name: np.asarray(x, order="C") for name, x in sorted(snapshot.items())}))


def load(data: bytes) -> Arrays:
    """What `dump` was given. Raises ValueError for bytes that are no safetensors."""
    from safetensors import SafetensorError
    from safetensors.numpy import load as read

    try:
        return dict(read(data))
    except (SafetensorError, ValueError, KeyError) as error:
        raise ValueError(f"no safetensors: {error}") from None

"""Whether a training step in MLX fits into memory, asked before any of it is taken.

MLX's CPU build does not survive an allocation that fails: it writes where nothing is, and the process goes down with
the log that it serves. Its memory limit makes it wait, not refuse. But MLX is lazy: what a step computes is a graph
with shapes before a number exists. So the step is traced, in milliseconds, and walked with an account of which arrays
live when; what does not fit is a MemoryError, which the runner takes for `oom`, or for seeds to be trained singly.

The walk knows neither fused kernels nor how far MLX runs ahead: over 24 trainings it came to 0.74 to 0.95 of
the peak that MLX reported.
It must never refuse for want of knowledge: where a graph cannot be read, or nobody tells what is free, it is silent.
"""

from __future__ import annotations

import os
import re
import resource
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import mlx.core as mx
from mlx.utils import tree_flatten, tree_map

from runners.gpt_config import GptConfig

# What gives another shape to the memory of its first input.
_VIEWS = frozenset(
    (
        *("Reshape", "Flatten", "Unflatten", "ExpandDims", "Squeeze", "Transpose", "Broadcast", "Slice", "Split"),
        *("AsStrided", "StopGradient", "Copy", "Depends"),
    )
)
_MARGIN = 0.7  # of what is free: what the walk may fall short by


_NO_MEMORY = re.compile(
    "(?i)unable to allocate|attempting to allocate|insufficient memory|out ?of ?memory|resource limit .* exceeded"
)


@contextmanager
def memory_errors() -> Iterator[None]:
    """A lack of memory as MemoryError: MLX raises one kind of error for everything."""
    try:
        yield
    except RuntimeError as error:
        if _NO_MEMORY.search(str(error)):
            raise MemoryError(str(error)) from None
        raise


def check_weights(config: GptConfig, seeds: int, device: mx.Device) -> None:
    """Raises MemoryError where not even weights and momenta fit, before the first is drawn."""
    d, kv = config.width, config.head_dim * config.kv_heads
    up, down = config.hidden
    count = config.depth * d * (2 * d + 2 * kv + up + down) + config.vocab_size * d
    if config.bigram_buckets:
        count += (config.bigram_buckets + d) * config.bigram_width
    if config.value_embed_last:
        count += (config.vocab_size + kv) * config.value_embed_width
    if config.mtp_weight:
        count += d * d
    # The weights, their momenta, and the numbers that they are made from; a gradient makes it more.
    _check(3 * 4 * count * seeds, "weights and momenta", seeds, device)


def check_step(
    gradient: Callable[..., Any],
    given: tuple[Any, ...],
    update: Callable[..., Any],
    state: tuple[Any, ...],
    *,
    averages: bool,
    parts: int,
    seeds: int,
    device: mx.Device,
) -> None:
    """Raises MemoryError where a step does not fit: `gradient(*given)` in `parts` passes, then `update` of the
    state (parameters, momenta, second moments, rates). The parameters are there already, the rest is not."""
    if room(device) is None:
        return
    params, m, v, now = state
    first, second = peak_bytes(gradient, *given), peak_bytes(update, params, params, m, v, now)
    grads = _bytes(params)
    held = _bytes(m) + _bytes(v) + (grads if averages else 0)
    _check(held + max(first + (grads if parts > 1 else 0), grads + second), "a step", seeds, device)


def _check(needed: int, what: str, seeds: int, device: mx.Device) -> None:
    free = room(device)
    if free is not None and needed > free:
        of = f" of {seeds} seeds" if seeds > 1 else ""
        raise MemoryError(f"{what}{of} would take about {_said(needed)} of memory, {_said(free)} can be had")


def _said(size: int) -> str:
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.1f} MB"


def room(device: mx.Device) -> int | None:
    """Bytes that a step may take; None where that is not known, or where a lack of it is an error like any other.

    Linux: of what is available, of a container's limit and of the process's own, the least, less a margin. macOS: the
    machine's memory, as it swaps and Metal tells what it cannot do. CUDA: None, for it tells.
    """
    if device.type == mx.DeviceType.gpu and sys.platform != "darwin":
        return None
    if sys.platform != "linux":
        try:
            return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        except (OSError, ValueError):
            return None
    found = [*_available(), *_container(), *_own()]
    return int(_MARGIN * max(0, min(found))) if found else None


def _available() -> Iterable[int]:
    for line in _lines("/proc/meminfo"):
        if line.startswith("MemAvailable:"):
            yield int(line.split()[1]) * 1024


def _container() -> Iterable[int]:
    """What a control group still allows, file caches that can be dropped not counted."""
    for limit, used, cache in (
        ("memory.max", "memory.current", "inactive_file"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "total_inactive_file"),
    ):
        folder = "/sys/fs/cgroup/"
        most, now = _lines(folder + limit), _lines(folder + used)
        if most and now and most[0].isdigit() and now[0].isdigit():
            stat = _lines(folder + limit.rpartition("/")[0] + "/memory.stat")
            dropped = sum(int(line.split()[1]) for line in stat if line.startswith(f"{cache} "))
            yield int(most[0]) - int(now[0]) + dropped


def _own() -> Iterable[int]:
    most, _ = resource.getrlimit(resource.RLIMIT_AS)
    if most != resource.RLIM_INFINITY and (taken := _lines("/proc/self/statm")):
        yield most - int(taken[0].split()[0]) * os.sysconf("SC_PAGE_SIZE")


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text().splitlines()
    except OSError:
        return []


# --- The walk ----------------------------------------------------------------------------------------------


def _bytes(tree: Any) -> int:
    return sum(x.nbytes for _, x in tree_flatten(tree))


def peak_bytes(function: Callable[..., Any], *given: Any) -> int:
    """The most bytes that live at once while `function(*given)` is computed, what is given not counted; 0 where its
    graph cannot be read. Nothing is computed."""
    tape: list[tuple[str, list[Any], list[Any]]] = []
    results: list[Any] = []

    def read(part: dict[str, Any]) -> None:
        if part["type"] == "primitive":
            tape.append((part["name"], part["inputs"], part["outputs"]))
        elif part["type"] == "outputs":
            results.extend(part["outputs"])

    def on_arrays(*arrays: mx.array) -> list[mx.array]:
        each = iter(arrays)
        return [x for _, x in tree_flatten(function(*tree_map(lambda _: next(each), given)))]

    try:
        with mx.stream(mx.Device(mx.cpu)):  # fused kernels have no entry in MLX's table of what can be exported
            mx.export_function(read, on_arrays, *(x for _, x in tree_flatten(given)))
    except (AttributeError, RuntimeError, TypeError, ValueError):
        return 0  # MLX calls this part of itself experimental; that a function itself is at fault, its run tells
    return _walk(tape, results)


def _walk(tape: list[tuple[str, list[Any], list[Any]]], results: list[Any]) -> int:
    """The peak of what lives, from the operations in order: an array lives until its last reader has run."""
    memory: dict[str, str] = {}  # a view -> the array whose memory it shows
    last: dict[str, int] = {}
    for at, (kind, inputs, outputs) in enumerate(tape):
        inside = {memory.get(name, name) for name, *_ in inputs}
        if kind in _VIEWS:
            memory |= {name: memory.get(inputs[0][0], inputs[0][0]) for name, *_ in outputs}
        last |= dict.fromkeys((*inside, *(name for name, *_ in outputs if name not in memory)), at)
    last |= {memory.get(name, name): len(tape) for name, *_ in results}
    ends: dict[int, list[str]] = {}
    for name, at in last.items():
        ends.setdefault(at, []).append(name)
    alive: dict[str, int] = {}
    live = most = 0
    for at, (_, _, outputs) in enumerate(tape):
        for name, shape, dtype in outputs:
            if name not in memory:
                alive[name] = dtype.size
                for side in shape:
                    alive[name] *= side
                live += alive[name]
        most = max(most, live)
        live -= sum(alive.pop(name, 0) for name in ends.get(at, ()))
    return most

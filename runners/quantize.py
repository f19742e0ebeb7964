"""A trained model as few bytes, and back: the last stage before a submission.

    scheme               matrices                  embeddings   clip             compressor
    int8                 8 bits, a step per row    the same     the baseline's   zlib
    int8_clip            8 bits, a step per row    the same     best of five     lzma
    int6                 6 bits, a step per row    8 bits       none             lzma
    int6_clip            6 bits, a step per row    8 bits       best of five     lzma
    int6_group           6 bits, a step per 64     8 bits       best of five     lzma
    awq, gptq            int6_clip, with what the calibration tokens tell (see gptq.py)
    awq_group, gptq_group    the same of int6_group

`int8` is what parameter-golf's baseline exports, to the bit, with its floor: a step is at least 1/127, which is
coarse for a matrix of small weights. Everything that is not a matrix (gains, scales, mixes) stays float32.

What it must never do: report a loss of other weights than those in the artifact. So the only way to the
dequantised parameters is through the bytes: `compress` makes them, `restore` reads them, and nothing in between
keeps a better copy. Plain numpy, no pickle; MLX and torch both come with arrays.
"""

from __future__ import annotations

import json
import lzma
import math
import zlib
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import msgspec
import numpy as np

from runners import bits
from runners.gptq import EXPONENTS, Inputs, channel_scale, layer_loss, solve

SIZE_LIMIT = 16_000_000  # bytes of code and compressed model together; decimal megabytes, as the challenge counts
PERCENTILES = (0.999, 0.9995, 0.9999, 0.99999, 1.0)  # of |weight|: where a row may be clipped
BASELINE_QUANTILE = 0.9999984
GROUP = 64
FORMAT = "experiment-ledger model 1"
_TINY = np.float16(2**-24)  # float16's smallest: a row of zeros has some step, too

Params = Mapping[str, np.ndarray]


class Scheme(msgspec.Struct, frozen=True, kw_only=True):
    """How matrices become numbers."""

    bits: int
    group: int = 0  # weights of a row that share a step; 0: the whole row
    clip: Literal["baseline", "none", "best"] = "best"
    method: Literal["round", "awq", "gptq"] = "round"
    floor: float = 0.0  # the largest code stands for at least this weight; the baseline's clip has its own
    pack: Literal["bits", "bytes"] = "bits"  # how codes come before the compressor
    codec: Literal["zlib", "lzma"] = "lzma"
    embed_bits: int = 8

    @property
    def calibrated(self) -> bool:
        """Whether it needs the inputs of each matrix."""
        return self.method != "round"

    @property
    def most(self) -> int:
        return (1 << (self.bits - 1)) - 1


SCHEMES: dict[str, Scheme] = {
    "int8": Scheme(bits=8, clip="baseline", codec="zlib"),
    "int8_clip": Scheme(bits=8),
    "int6": Scheme(bits=6, clip="none"),
    "int6_clip": Scheme(bits=6),
    "int6_group": Scheme(bits=6, group=GROUP),
    "awq": Scheme(bits=6, method="awq"),
    "awq_group": Scheme(bits=6, group=GROUP, method="awq"),
    "gptq": Scheme(bits=6, method="gptq"),
    "gptq_group": Scheme(bits=6, group=GROUP, method="gptq"),
}


class Quantized(msgspec.Struct, frozen=True, kw_only=True):
    """One matrix [rows, columns] as whole numbers."""

    codes: np.ndarray  # int16 [rows, columns], -most to most
    scales: np.ndarray  # float16 [rows, groups]
    channels: np.ndarray | None = None  # float16 [columns], AWQ's; the weight is codes * scales / channels

    def weight(self, group: int) -> np.ndarray:
        """float32 [rows, columns]"""
        steps = _spread(self.scales, self.codes.shape[1], group).astype(np.float32)
        found = self.codes.astype(np.float32) * steps
        return found if self.channels is None else found / self.channels.astype(np.float32)

    def ones(self, group: int) -> tuple[np.ndarray, np.ndarray]:
        """(where a code is 1 or -1, the squared weight that each of them stands for)"""
        at = np.abs(self.codes) == 1
        return at, np.square(self.weight(group)[at], dtype=np.float64)


# --- One matrix --------------------------------------------------------------------------------------------


def quantize(
    weight: np.ndarray, scheme: Scheme, inputs: Inputs | None = None, *, damping: float = 0.01, block: int = 128
) -> Quantized:
    """One matrix, [rows, columns] float32, by `scheme`. Raises ValueError where it is not finite, or inputs lack."""
    if not np.isfinite(weight).all():
        raise ValueError("a matrix with NaN or infinite weights cannot be quantized")
    weight = weight.astype(np.float32)
    if scheme.clip == "baseline":
        return _baseline(weight)
    if not scheme.calibrated:
        return _round(weight, scheme)
    if inputs is None:
        raise ValueError(f"{scheme.method} needs the matrix's inputs on calibration tokens")
    if len(inputs.hessian) != weight.shape[1]:
        raise ValueError(f"a matrix of {weight.shape[1]} columns, but inputs of {len(inputs.hessian)} channels")
    if scheme.method == "awq":
        return _awq(weight, scheme, inputs)
    return _gptq(weight, scheme, inputs, damping, block)


def _baseline(weight: np.ndarray) -> Quantized:
    clip = np.quantile(np.abs(weight), BASELINE_QUANTILE, axis=1).astype(np.float32)
    scale = np.maximum(clip / np.float32(127), np.float32(1 / 127))
    clipped = np.clip(weight, -clip[:, None], clip[:, None])
    codes = np.clip(np.rint(clipped / scale[:, None]), -127, 127).astype(np.int16)
    return Quantized(codes=codes, scales=scale.astype(np.float16)[:, None])


def _slices(columns: int, group: int) -> Iterator[slice]:
    """The columns in groups; the last may be smaller."""
    size = group or columns
    return (slice(start, min(start + size, columns)) for start in range(0, columns, size))


def _spread(scales: np.ndarray, columns: int, group: int) -> np.ndarray:
    """[rows, columns] from [rows, groups]"""
    wide: np.ndarray = np.repeat(scales, group or columns, axis=1)[:, :columns]
    return wide


def _step(weight: np.ndarray, percentile: float, scheme: Scheme) -> np.ndarray:
    """float16 [rows]: the step with which the largest code stands for this percentile of |weight|, or for the floor.

    The step is rounded to what is stored before any code is chosen, so no code is chosen for another step.
    """
    clip = np.maximum(np.quantile(np.abs(weight), percentile, axis=1), scheme.floor)
    with np.errstate(over="ignore"):
        step = (clip / scheme.most).astype(np.float16)
    if np.isinf(step).any():
        raise ValueError(f"a weight of {np.abs(weight).max():g} is too large for a scale in float16")
    usable: np.ndarray = np.maximum(step, _TINY)
    return usable


def _codes(weight: np.ndarray, steps: np.ndarray, most: int) -> np.ndarray:
    return np.clip(np.rint(weight / steps.astype(np.float32)), -most, most).astype(np.int16)


def _round(weight: np.ndarray, scheme: Scheme) -> Quantized:
    """Round to nearest; with clip "best" each row (or group) at the percentile that leaves the smallest error."""
    codes = np.empty(weight.shape, dtype=np.int16)
    scales = []
    for part in _slices(weight.shape[1], scheme.group):
        w = weight[:, part]
        best = np.full(len(w), np.inf)
        chosen = np.empty(w.shape, dtype=np.int16)
        scale = np.empty(len(w), dtype=np.float16)
        for percentile in PERCENTILES if scheme.clip == "best" else (1.0,):
            step = _step(w, percentile, scheme)
            tried = _codes(w, step[:, None], scheme.most)
            error = np.square(w - tried * step.astype(np.float32)[:, None], dtype=np.float64).sum(axis=1)
            better = error < best
            best[better], chosen[better], scale[better] = error[better], tried[better], step[better]
        codes[:, part] = chosen
        scales.append(scale)
    return Quantized(codes=codes, scales=np.stack(scales, axis=1))


def _awq(weight: np.ndarray, scheme: Scheme, inputs: Inputs) -> Quantized:
    """The one of eleven channel scalings that leaves the smallest error in the outputs; one of them is none."""
    best, least = None, math.inf
    for exponent in EXPONENTS:
        channels = channel_scale(inputs.magnitude, exponent)
        found = _round(weight * channels.astype(np.float32), scheme)
        found = msgspec.structs.replace(found, channels=channels if exponent else None)
        loss = float(layer_loss(weight - found.weight(scheme.group), inputs.hessian).sum())
        if loss < least:
            best, least = found, loss
    assert best is not None
    return best


def _gptq(weight: np.ndarray, scheme: Scheme, inputs: Inputs, damping: float, block: int) -> Quantized:
    """GPTQ at the steps of rounding and at each percentile; every row keeps what has the least calibration loss."""
    plain = _round(weight, scheme)
    options = [plain.scales]
    for percentile in PERCENTILES:
        parts = [_step(weight[:, part], percentile, scheme) for part in _slices(weight.shape[1], scheme.group)]
        options.append(np.stack(parts, axis=1))
    # Rows do not know of each other: all options are solved as one taller matrix.
    scales = np.concatenate(options)
    steps = _spread(scales, weight.shape[1], scheme.group)
    tall = np.tile(weight, (len(options), 1))
    codes = np.concatenate([plain.codes, solve(tall, steps, scheme.most, inputs.hessian, damping, block)])
    scales = np.concatenate([plain.scales, scales])
    found = Quantized(codes=codes, scales=scales).weight(scheme.group)
    losses = layer_loss(np.concatenate([weight, tall]) - found, inputs.hessian).reshape(-1, len(weight))
    rows = losses.argmin(axis=0) * len(weight) + np.arange(len(weight))  # rounding comes first: it wins a draw
    return Quantized(codes=codes[rows], scales=scales[rows])


# --- A whole model -----------------------------------------------------------------------------------------


def compress(
    params: Params,
    scheme: Scheme,
    matrices: Iterable[str],
    embeddings: Iterable[str] = (),
    inputs: Mapping[str, list[Inputs]] | None = None,
    *,
    damping: float = 0.01,
    block: int = 128,
    room: int | None = None,
) -> bytes:
    """The model as one compressed string of bytes.

    matrices: names of parameters [..., rows, columns] that are quantized, each slice by itself; embeddings: those
    that nothing is multiplied into alone, at the scheme's `embed_bits` per row; all others stay float32.
    inputs: for calibrated schemes, one `Inputs` a slice of every matrix.
    room: bytes that it may take; where it takes more, codes of one in matrices become zero (`_pruned`).
    Raises ValueError, naming the parameter.
    """
    quantized, tables = {*matrices}, {*embeddings}
    if missing := sorted((quantized | tables) - {*params}):
        raise ValueError(f"no parameter {missing[0]!r} to quantize")
    rows = msgspec.structs.replace(scheme, bits=scheme.embed_bits, group=0, method="round")
    parts: list[_Part] = []
    for name, value in sorted(params.items()):
        if name not in quantized | tables:
            parts.append(_Part(name, value, None, ()))
            continue
        if value.ndim < 2:
            raise ValueError(f"parameter {name!r} is no matrix: its shape is {value.shape}")
        how = rows if name in tables else scheme
        slices = value.reshape(-1, *value.shape[-2:])
        known = (inputs or {}).get(name)
        if how.calibrated and (known is None or len(known) != len(slices)):
            raise ValueError(
                f"{how.method} needs {len(slices)} sets of inputs for {name!r}, found {len(known or ())}"
            )
        found = []
        for index, weight in enumerate(slices):
            given = known[index] if how.calibrated and known is not None else None
            try:
                found.append(quantize(weight, how, given, damping=damping, block=block))
            except ValueError as error:
                raise ValueError(f"parameter {name!r}: {error}") from None
        parts.append(_Part(name, value, how, tuple(found)))
    data = _written(parts, scheme)
    return data if room is None or len(data) <= room else _pruned(parts, scheme, quantized, room)


class _Part(NamedTuple):
    """One parameter on its way into the bytes: a slice of it each as whole numbers, or as it is."""

    name: str
    value: np.ndarray
    how: Scheme | None
    found: tuple[Quantized, ...]


def _written(parts: Iterable[_Part], scheme: Scheme, pruned: int = 0) -> bytes:
    entries: list[dict[str, Any]] = []
    buffers: list[bytes] = []
    for name, value, how, found in parts:
        entry: dict[str, Any] = {"name": name, "shape": list(value.shape), "bits": how.bits if how else 0}
        entries.append(entry)
        if how is None:
            buffers.append(np.ascontiguousarray(value, dtype="<f4").tobytes())
            continue
        entry |= {"group": how.group, "channels": [each.channels is not None for each in found]}
        width = how.bits
        if how.pack == "bytes" and width < 8:
            width = entry["width"] = 8
        for each in found:
            buffers.append(bits.pack(each.codes + how.most, width))
            buffers.append(each.scales.astype("<f2").tobytes())
            if each.channels is not None:
                buffers.append(each.channels.astype("<f2").tobytes())
    told = {"format": FORMAT, "tensors": entries} | ({"pruned": pruned} if pruned else {})
    head = json.dumps(told, separators=(",", ":")).encode()
    raw = len(head).to_bytes(8, "little") + head + b"".join(buffers)
    return zlib.compress(raw, 9) if scheme.codec == "zlib" else lzma.compress(raw, preset=9)


def _pruned(parts: Sequence[_Part], scheme: Scheme, matrices: Container[str], room: int) -> bytes:
    """The model in at most `room` bytes, as few as possible of its matrices' codes of 1 and -1 made zero, those of
    the smallest weights first; with all of them zero where that is still too much.

    Found by halving, to a 512th of them: compressing is what takes time.
    """
    ones = [each.ones(part.how.group) for part in parts if part.how and part.name in matrices for each in part.found]
    sizes = np.concatenate([size for _, size in ones]) if ones else np.zeros(0)
    rank = np.empty(len(sizes), dtype=np.int64)
    rank[np.argsort(sizes, kind="stable")] = np.arange(len(sizes))
    ranks = np.split(rank, np.cumsum([len(size) for _, size in ones])[:-1]) if ones else []

    def without(count: int) -> bytes:
        left = iter(zip(ones, ranks, strict=True))
        made = []
        for part in parts:
            if part.how and part.name in matrices:
                found = []
                for each, ((at, _), order) in zip(part.found, left, strict=False):
                    codes = each.codes.copy()
                    codes[at] = np.where(order < count, 0, codes[at])
                    found.append(msgspec.structs.replace(each, codes=codes))
                part = part._replace(found=tuple(found))
            made.append(part)
        return _written(made, scheme, count)

    low, high = 0, len(sizes)  # too large without `low` of them; `best` is without `high`
    best = without(high)
    while len(best) <= room and high - low > max(1, len(sizes) // 512):
        middle = (low + high) // 2
        if len(data := without(middle)) <= room:
            high, best = middle, data
        else:
            low = middle
    return best


def pruned(data: bytes) -> int:
    """How many codes of what `compress` made were zeroed to save bytes."""
    reader = _Reader(_decompressed(data))
    return int(json.loads(reader.take(int.from_bytes(reader.take(8), "little"))).get("pruned", 0))


def restore(data: bytes) -> dict[str, np.ndarray]:
    """float32 parameters out of what `compress` made. Raises ValueError for anything else."""
    reader = _Reader(_decompressed(data))
    try:
        head = json.loads(reader.take(int.from_bytes(reader.take(8), "little")))
        if not isinstance(head, dict) or head.get("format") != FORMAT:
            raise ValueError(f"expected {FORMAT!r}")
        params = {entry["name"]: _tensor(reader, entry) for entry in head["tensors"]}
    except (KeyError, TypeError, UnicodeDecodeError, json.JSONDecodeError, ValueError) as error:
        raise ValueError(f"no compressed model: {error}") from None
    if reader.left:
        raise ValueError(f"no compressed model: {reader.left} bytes too many")
    return params


def _tensor(reader: _Reader, entry: dict[str, Any]) -> np.ndarray:
    shape = tuple(int(size) for size in entry["shape"])
    count = math.prod(shape)
    if not entry["bits"]:
        return np.frombuffer(reader.take(4 * count), "<f4").reshape(shape).astype(np.float32)
    rows, columns = shape[-2:]
    width, group = int(entry["bits"]), int(entry["group"])
    stored = int(entry.get("width", width))
    groups = sum(1 for _ in _slices(columns, group))
    most = (1 << (width - 1)) - 1
    out = np.empty((count // (rows * columns) if count else 0, rows, columns), dtype=np.float32)
    for index, scaled in enumerate(entry["channels"]):
        raw = reader.take(bits.packed_size(rows * columns, stored))
        codes = bits.unpack(raw, stored, rows * columns).astype(np.int16).reshape(rows, columns) - np.int16(most)
        scales = np.frombuffer(reader.take(2 * rows * groups), "<f2").reshape(rows, groups)
        channels = np.frombuffer(reader.take(2 * columns), "<f2") if scaled else None
        out[index] = Quantized(codes=codes, scales=scales, channels=channels).weight(group)
    return out.reshape(shape)


def _decompressed(data: bytes) -> bytes:
    try:
        return lzma.decompress(data) if data[:6] == b"\xfd7zXZ\x00" else zlib.decompress(data)
    except (lzma.LZMAError, zlib.error, EOFError) as error:
        raise ValueError(f"no compressed model: {error}") from None


class _Reader:
    """Bytes, front to back; asking for more than there are is an error."""

    def __init__(self, data: bytes) -> None:
        self.data, self.at = data, 0

    @property
    def left(self) -> int:
        return len(self.data) - self.at

    def take(self, size: int) -> bytes:
        if not 0 <= size <= self.left:
            raise ValueError(f"it ends {size - self.left} bytes early")
        self.at += size
        return self.data[self.at - size : self.at]


def artifact_bytes(model: bytes, code_bytes: int) -> int:
    """What the challenge counts: the code and the compressed model."""
    return code_bytes + len(model)

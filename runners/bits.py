"""Small integers in as few bits as they need: five of six bits in thirty, no more.

A stream of bits, least significant first, the last byte filled up with zeros. What it must never do: give back
another number than it was given; a value that does not fit its width is refused, not cut.
"""

from __future__ import annotations

import numpy as np

MAX_BITS = 16
_SLICE = 1 << 20  # numbers at a time: as bits they take a byte each, and a model has millions


def packed_size(count: int, bits: int) -> int:
    """Bytes that `count` numbers of `bits` bits take."""
    return (count * bits + 7) // 8


def pack(numbers: np.ndarray, bits: int) -> bytes:
    """Whole numbers from 0 below 2**bits, any shape, in C order. Raises ValueError for others."""
    _check_width(bits)
    flat = np.asarray(numbers).reshape(-1)
    if flat.dtype.kind not in "iu":
        raise ValueError(f"only whole numbers can be packed, found {flat.dtype}")
    low, high = (int(flat.min()), int(flat.max())) if flat.size else (0, 0)
    if low < 0 or high >= 1 << bits:
        raise ValueError(f"a number of {bits} bits lies between 0 and {(1 << bits) - 1}, found {low} to {high}")
    pieces = []
    for start in range(0, flat.size, _SLICE):  # a multiple of 8 numbers: every slice ends on a whole byte
        two = flat[start : start + _SLICE].astype("<u2").view(np.uint8).reshape(-1, 2)
        as_bits = np.unpackbits(two, axis=1, bitorder="little")[:, :bits]
        pieces.append(np.packbits(as_bits, bitorder="little").tobytes())
    return b"".join(pieces)


def unpack(data: bytes, bits: int, count: int) -> np.ndarray:
    """uint16 [count], what `pack` was given. Raises ValueError when `data` has another length than it must."""
    _check_width(bits)
    if count < 0 or len(data) != packed_size(count, bits):
        raise ValueError(
            f"{count} numbers of {bits} bits take {packed_size(max(count, 0), bits)} bytes, found {len(data)}"
        )
    numbers = np.zeros(count, dtype="<u2")
    for start in range(0, count, _SLICE):
        part = min(_SLICE, count - start)
        raw = np.frombuffer(data, np.uint8, packed_size(part, bits), start * bits // 8)
        as_bits = np.unpackbits(raw, bitorder="little", count=part * bits).reshape(part, bits)
        whole = np.zeros((part, 16), dtype=np.uint8)
        whole[:, :bits] = as_bits
        numbers[start : start + part] = np.packbits(whole, axis=1, bitorder="little").view("<u2")[:, 0]
    return numbers


def _check_width(bits: int) -> None:
    if not 1 <= bits <= MAX_BITS:
        raise ValueError(f"a width is 1 to {MAX_BITS} bits, found {bits}")

"""Which whole number each weight becomes, when the inputs that it will meet are known.

Rounding to the nearest is best for a weight alone; a layer's output is a sum, and errors in it can cancel.

    scale   AWQ (Lin et al. 2023): input channels that carry much are magnified before rounding and shrunk after,
            by s = mean|x|^a; the exponent a is the best of eleven
    solve   GPTQ (Frantar et al. 2022): column by column, the error of a column made good by those still to come,
            through the Cholesky factor of the inverse Hessian; columns with large diagonal first; blocks of 128,
            whose joint error goes to the rest at once

The loss that both lower is that of the layer's outputs on the calibration tokens: per row, d H d' with d the error
of the row and H = sum over tokens of x x'. What they must never do: be worse on it than rounding. A greedy solver
can be, so each row keeps whichever of the two it is better off with.

Pure numpy in float64, no model: who has activations (torch or MLX) brings H.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

EXPONENTS = tuple(np.linspace(0, 1, 11).tolist())  # AWQ's a; 0 is no scaling


@dataclass(frozen=True)
class Inputs:
    """What a matrix [out, in] was given by the calibration tokens."""

    hessian: np.ndarray  # float64 [in, in], sum over tokens of x x'
    magnitude: np.ndarray  # float64 [in], mean over tokens of |x|
    tokens: int


def layer_loss(error: np.ndarray, hessian: np.ndarray) -> np.ndarray:
    """float64 [rows]: squared error of each output, summed over the calibration tokens. error: [rows, in]"""
    error = error.astype(np.float64)
    loss: np.ndarray = np.einsum("ri,ri->r", error @ hessian, error)
    return loss.clip(min=0.0)


def solve(
    weight: np.ndarray, scales: np.ndarray, most: int, hessian: np.ndarray, damping: float, block: int
) -> np.ndarray:
    """int16 [rows, in] from -most to most, so that codes * scales comes near weight on the calibration tokens.

    weight: [rows, in]; scales: [rows, in], above 0, the step of each weight (a row's, or its group's).
    A channel that no token used has nothing to make good: it is rounded.
    """
    columns = weight.shape[1]
    h = hessian.astype(np.float64)
    diagonal = np.diag(h).copy()
    unused = diagonal <= 0
    h = h + np.diag(np.where(unused, 1.0, damping * diagonal.mean()))
    order = np.argsort(-diagonal, kind="stable")
    upper = _upper_of_inverse(h[np.ix_(order, order)])
    # Columns lie in rows here: one at a time is worked on, and should be one piece of memory.
    work = np.ascontiguousarray(weight.T[order], dtype=np.float64)
    steps = np.ascontiguousarray(scales.T[order], dtype=np.float64)
    codes = np.zeros(work.shape, dtype=np.int16)
    for start in range(0, columns, block):
        end = min(start + block, columns)
        errors = np.zeros((end - start, work.shape[1]))
        for i in range(start, end):
            chosen = np.clip(np.rint(work[i] / steps[i]), -most, most)
            codes[i] = chosen
            error = errors[i - start] = (work[i] - chosen * steps[i]) / upper[i, i]
            work[i + 1 : end] -= upper[i, i + 1 : end, None] * error
        work[end:] -= upper[start:end, end:].T @ errors
    back = np.empty_like(codes)
    back[order] = codes
    return np.ascontiguousarray(back.T)


def _upper_of_inverse(h: np.ndarray) -> np.ndarray:
    """U, upper triangular, with U' U = the inverse of h. More damping where the numbers do not allow it."""
    extra = 0.0
    for _ in range(8):
        try:
            inverse = np.linalg.inv(h + extra * np.eye(len(h)))
            return np.linalg.cholesky((inverse + inverse.T) / 2).T
        except np.linalg.LinAlgError:
            extra = max(10 * extra, 1e-6 * float(np.diag(h).mean()))
    raise ValueError("the calibration inputs make no Hessian that can be inverted; calibrate on more tokens")


def channel_scale(magnitude: np.ndarray, exponent: float) -> np.ndarray:
    """float16 [in], above 0, around one: what each input channel is magnified by. Unused channels keep theirs."""
    used = magnitude > 0
    scale = np.ones(len(magnitude))
    if used.any() and exponent:
        logs = exponent * np.log(magnitude[used])
        scale[used] = np.exp(np.clip(logs - logs.mean(), -8, 8))
    return scale.astype(np.float16)

"""Matrix products and the head on a CPU in float32: where a small model's time goes, and torch's own way is not the
fastest there is.

    linear          torch's products call MKL, which gives a processor that is not Intel's its AVX2 kernels; oneDNN,
                    which torch carries too, takes the widest the processor has (on an EPYC with AVX-512: 2.1 times
                    the speed, the same float32)
    weighted_nats   loss and gradient of the head, a slice of tokens at a time while its logits are in the cache
    keep_memory     what one step frees the next one takes

Anywhere else, and where a build of torch lacks oneDNN, these are torch's own functions. They know no model and no
config. What they must never do: round more than float32 does, or give other bits for the same input.
"""

from __future__ import annotations

import contextlib
import ctypes
import sys
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import handle_torch_function, has_torch_function

ROWS = 512  # of a slice: its logits stay in the cache, and the allocator hands their memory out again
# What torch's own compiler calls for a linear layer on a CPU. torch.backends.mkldnn.matmul.fp32_precision reaches the
# same kernels, but allows bfloat16 inside.
_product: Any = getattr(torch.ops.mkldnn, "_linear_pointwise", None) if torch.backends.mkldnn.is_available() else None


def keep_memory() -> None:
    """Have glibc keep what is freed for the next step: handed back to the system it is faulted in page by page again,
    a tenth of a small model's time. With another C library nothing is done. Memory stays at its peak."""
    if not sys.platform.startswith("linux"):
        return
    trim, mmap = -1, -3  # M_TRIM_THRESHOLD, M_MMAP_THRESHOLD of malloc.h; older versions take no larger second
    with contextlib.suppress(OSError, AttributeError):
        libc = ctypes.CDLL(None)
        libc.mallopt(mmap, 1 << 25)
        libc.mallopt(trim, 1 << 30)


def linear(x: Tensor, w: Tensor) -> Tensor:
    """x [..., columns] by w [rows, columns]: [..., rows], as F.linear."""
    if not (_direct(x) and x.numel() and w.numel()):
        return F.linear(x, w)
    if has_torch_function((x, w)):  # somebody watches: the calibration of a quantizer
        watched: Tensor = handle_torch_function(linear, (x, w), x, w)
        return watched
    made: Tensor = _Linear.apply(x.reshape(-1, x.size(-1)), w)
    return made.view(*x.shape[:-1], w.size(0))


def by(x: Tensor, w: Tensor) -> Tensor:
    """x [n, columns] by w [rows, columns] transposed: [n, rows]. w may be any view, x is copied if it is one."""
    made: Tensor = _product(x, w, None, "none", [], "") if _direct(x) else x @ w.mT
    return made


def _direct(x: Tensor) -> bool:
    """Whether a product of x is oneDNN's; what torch compiles is its compiler's to choose."""
    here = x.device.type == "cpu" and x.dtype == torch.float32
    return here and _product is not None and not torch.compiler.is_compiling()


def outer(a: Tensor, b: Tensor) -> Tensor:
    """a [n, p] transposed by b [n, q]: [p, q], maybe as a view. The narrower one is the one that is copied."""
    return by(a.mT, b.mT) if a.size(1) <= b.size(1) else by(b.mT, a.mT).mT


class _Linear(torch.autograd.Function):  # type: ignore[misc]
    """x [n, columns] by w [rows, columns]."""

    generate_vmap_rule = False

    @staticmethod
    def forward(x: Tensor, w: Tensor) -> Tensor:
        return by(x, w)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None]:
        x, w = ctx.saved_tensors
        x_grad, w_grad = _Back.apply(x, w, grad)
        return x_grad, w_grad

    @staticmethod
    def vmap(info: Any, in_dims: Any, *inputs: Any) -> tuple[Tensor, int]:
        return torch.stack([_Linear.apply(*each) for each in _each(info.batch_size, in_dims, inputs)]), 0


class _Back(torch.autograd.Function):  # type: ignore[misc]
    """The gradients of x [n, columns] and w [rows, columns], from that of their product [n, rows]."""

    generate_vmap_rule = False

    @staticmethod
    def forward(x: Tensor, w: Tensor, grad: Tensor) -> tuple[Tensor, Tensor]:
        return by(grad, w.mT), outer(grad, x)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.mark_non_differentiable(*output)

    @staticmethod
    def backward(ctx: Any, *_: Any) -> tuple[None, None, None]:
        raise NotImplementedError("the second derivative of a product on a CPU: nothing here asks for it")

    @staticmethod
    def vmap(info: Any, in_dims: Any, *inputs: Any) -> tuple[tuple[Tensor, ...], tuple[int, ...]]:
        made = [_Back.apply(*each) for each in _each(info.batch_size, in_dims, inputs)]
        return tuple(torch.stack(each) for each in zip(*made, strict=True)), (0, 0)


def _each(size: int, dims: Sequence[int | None], values: Sequence[Any]) -> list[tuple[Any, ...]]:
    """What a function under vmap is given, apart: seeds fill the machine one after another as well as together."""
    return [
        tuple(v if dim is None else v.select(dim, i) for v, dim in zip(values, dims, strict=True))
        for i in range(size)
    ]


# --- The head ----------------------------------------------------------------------------------------------


class _Head(torch.autograd.Function):  # type: ignore[misc]
    """(weighted sum of nats, nats of each token) from x [n, width], embed [vocab, width], targets [n], weights [n].

    The gradient is made on the way, slice by slice, while the logits are in the cache; weights are constants.
    """

    generate_vmap_rule = False

    @staticmethod
    def forward(
        x: Tensor, embed: Tensor, targets: Tensor, weights: Tensor, softcap: float
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        x_grad, embed_grad, found = torch.empty_like(x), torch.zeros_like(embed), x.new_empty(targets.shape)
        for i in range(0, len(x), ROWS):
            part, y, w = x[i : i + ROWS], targets[i : i + ROWS, None], weights[i : i + ROWS, None]
            logits, s = capped(part, embed, softcap)
            p = torch.softmax(logits, 1)
            found[i : i + ROWS] = nats_of(logits, p, y, softcap)
            if s is None:
                p.mul_(w).scatter_add_(1, y, -w)
            else:  # through the cap: 4 s (1 - s)
                w = 4 * w
                p.mul_(w).scatter_add_(1, y, -w).mul_(s.addcmul_(s, s, value=-1))
            x_grad[i : i + ROWS] = by(p, embed.mT)
            embed_grad.add_(outer(p, part))
        return (found * weights).sum(), found, x_grad, embed_grad

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.save_for_backward(output[2], output[3])
        ctx.mark_non_differentiable(*output[1:])

    @staticmethod
    def backward(ctx: Any, grad: Tensor, *_: Any) -> tuple[Tensor | None, ...]:
        x_grad, embed_grad = ctx.saved_tensors
        return x_grad * grad, embed_grad * grad, None, None, None

    @staticmethod
    def vmap(info: Any, in_dims: Any, *inputs: Any) -> tuple[tuple[Tensor, ...], tuple[int, ...]]:
        made = [_Head.apply(*each) for each in _each(info.batch_size, in_dims, inputs)]
        return tuple(torch.stack(each) for each in zip(*made, strict=True)), (0, 0, 0, 0)


def capped(x: Tensor, embed: Tensor, softcap: float) -> tuple[Tensor, Tensor | None]:
    """(logits [n, vocab] up to a number a row, which no softmax sees; s, of which the cap's derivative is made).

    cap * tanh(z / cap) = 2 cap * sigmoid(2 z / cap) - cap, and sigmoid costs a tenth of tanh.
    """
    if not softcap:
        return by(x, embed), None
    s = by(x * (2 / softcap), embed).sigmoid_()
    return s * (2 * softcap), s


def nats_of(logits: Tensor, p: Tensor, y: Tensor, softcap: float) -> Tensor:
    """Nats of the targets y [n, 1], [n], from their probabilities; where nothing caps them these may be zero."""
    if softcap and softcap <= 40:  # two logits are at most 80 apart
        return -p.gather(1, y).log()[:, 0]
    return (logits.logsumexp(1, keepdim=True) - logits.gather(1, y))[:, 0]


def nats(x: Tensor, embed: Tensor, targets: Tensor, softcap: float) -> Tensor:
    """Nats of every target [n], from x [n, width] and embed [vocab, width], without a gradient."""
    logits, _ = capped(x, embed, softcap)
    return nats_of(logits, torch.softmax(logits, 1), targets[:, None], softcap)


def weighted_nats(
    x: Tensor, embed: Tensor, targets: Tensor, weights: Tensor, softcap: float
) -> tuple[Tensor, Tensor]:
    """(sum of weight times nats, nats of each target [n] without gradient), in float32 or float64."""
    total, each, *_ = _Head.apply(x, embed, targets, weights, softcap)
    return total, each

"""One of several processes that train one run: what it takes of a batch, and what it tells the others.

    part      the windows of a batch that are this rank's. All read one order of the text and draw one noise, so a run
              sees the same data whatever the number of devices
    summed    gradients and losses of all ranks: one flat float32 array, one all-reduce a step, after the last pass
    agreed    rank 0's wish to stop and its clock: every schedule follows it, all ranks leave the loop at one step
    merged    nats of held-out text, each rank's windows
    first     what rank 0 alone has made (quantized weights), however long it took
    check     parameters are equal on all ranks, bit by bit

Every rank steps its own replica of parameters and optimiser on the same summed gradient. Muon's matrices are turned
on each: at full size under 3 % of a rank's arithmetic on eight devices, and nothing more to send. NCCL carries arrays
on CUDA, gloo on a CPU; what hosts agree on goes by gloo, so that no device waits for it.

What it must never do: let ranks decide anything by themselves that changes which call comes next. One that leaves a
loop alone leaves the others waiting. It knows no model, no text and no log, and starts no process (gpt_group.py
does).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

PATIENCE = timedelta(minutes=15)  # for another rank in the same step: it compiles, or it hangs
LONG = timedelta(days=7)  # for rank 0 alone: quantization takes as long as it takes


class Ranks:
    """A process that trains by itself: the one rank of one. Every call gives back what it was given."""

    rank, size = 0, 1

    def part(self, windows: int) -> slice:
        """Which windows of a batch are this rank's: a run of them, so that a pass is the same as on one device."""
        share = windows // self.size
        return slice(self.rank * share, (self.rank + 1) * share)

    def summed(self, tensors: Sequence[Tensor]) -> Sequence[Tensor]:
        """Each summed over all ranks, the same bits on each."""
        return tensors

    def agreed(self, reason: str | None, seconds: float) -> tuple[str | None, float]:
        """Rank 0's reason to stop and its clock."""
        return reason, seconds

    def merged(self, nats: np.ndarray) -> np.ndarray:
        """evaluate.Share: summed over all ranks, where each has zeros for what another scored."""
        return nats

    def first(self, params: Mapping[str, Tensor] | None, like: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Rank 0's arrays on every rank; the others give none and wait."""
        assert params is not None
        return dict(params)

    def check(self, params: Mapping[str, Tensor]) -> None:
        """Raises RuntimeError on every rank where parameters are not the same bits everywhere."""


ALONE = Ranks()


class Joined(Ranks):
    """One rank of several. All of them make the same calls in the same order."""

    def __init__(self, rank: int, size: int, device: torch.device, store: str) -> None:
        """Meet the others, who name the same file in `store`, which is not there yet."""
        self.rank, self.size, self.device = rank, size, device
        on_cuda = device.type == "cuda"
        dist.init_process_group(
            "nccl" if on_cuda else "gloo",
            store=dist.FileStore(store, size),
            rank=rank,
            world_size=size,
            timeout=PATIENCE,
            device_id=device if on_cuda else None,
        )
        self.hosts = dist.new_group(backend="gloo", timeout=PATIENCE) if on_cuda else dist.group.WORLD
        self.patient = dist.new_group(backend="gloo", timeout=LONG)

    def leave(self) -> None:
        """The end of a rank that has nothing under way."""
        dist.destroy_process_group()

    def summed(self, tensors: Sequence[Tensor]) -> Sequence[Tensor]:
        flat = torch.cat([x.detach().flatten().float() for x in tensors])
        dist.all_reduce(flat)
        parts = flat.split([x.numel() for x in tensors])
        # Arrays of their own: a compiled optimiser wants them aligned as they were.
        return [part.view(x.shape).clone() for part, x in zip(parts, tensors, strict=True)]

    def agreed(self, reason: str | None, seconds: float) -> tuple[str | None, float]:
        said = torch.tensor([float(bool(reason)), seconds], dtype=torch.float64)
        dist.broadcast(said, 0, group=self.hosts)
        return (reason or "as rank 0 says") if said[0] else None, float(said[1])

    def merged(self, nats: np.ndarray) -> np.ndarray:
        whole = torch.from_numpy(nats).to(self.device)
        dist.all_reduce(whole)  # zeros but for one: the sum is that one, exactly
        found: np.ndarray = whole.cpu().numpy()
        return found

    def first(self, params: Mapping[str, Tensor] | None, like: Mapping[str, Tensor]) -> dict[str, Tensor]:
        dist.barrier(group=self.patient)  # where nobody's time is up
        found = {}
        for name, p in like.items():
            found[name] = torch.empty_like(p) if params is None else params[name].to(p.dtype).contiguous()
            dist.broadcast(found[name], 0)
        return found

    def check(self, params: Mapping[str, Tensor]) -> None:
        mine = torch.stack([digest(p) for p in params.values()]).cpu()
        every = [torch.empty_like(mine) for _ in range(self.size)]
        dist.all_gather(every, mine, group=self.hosts)
        for rank, other in enumerate(every):
            if not torch.equal(other, every[0]):
                name = next(n for n, a, b in zip(params, other, every[0], strict=True) if a != b)
                raise RuntimeError(f"replicas drifted apart: {name} of rank {rank} has not the bits of rank 0's")


def digest(p: Tensor) -> Tensor:
    """int64: a sum over the bits of an array, each word with its place. Any single change changes it."""
    words = p.detach().float().contiguous().view(torch.int32).flatten().long()
    return (words * (2 * torch.arange(len(words), device=words.device) + 1)).sum()

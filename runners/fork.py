"""Arms that differ only after the training go on from one checkpoint of each seed: the strongest pairing there is.

The first such run of a seed trains and leaves its weights as an artifact of kind `checkpoint` (safetensors, found by
their digest); the others start from those bytes and name that run in `fork_of`. A later session, or a later plan on
the same code, data and training, finds the checkpoint in the log and trains nothing.

What it must never do: fork arms whose training differs. What may differ are the fields in `gpt_config.LATE`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import msgspec
import numpy as np

from ledger import events
from ledger.chain import Log
from ledger.errors import UsageError
from runners.cells import Kept, Surroundings
from runners.gpt_config import LATE, GptConfig

KIND = "checkpoint"
MEDIA_TYPE = "application/vnd.safetensors"


class Checkpoint(NamedTuple):
    """Trained weights, by name, and the run that trained them."""

    run: str
    step: int
    weights: dict[str, np.ndarray]


def training(config: Mapping[str, Any]) -> dict[str, str]:
    """What a training depends on, as an event has it: all of a config but its late stages."""
    return _without_late(events.named(dict(config)))


def _without_late(entries: Iterable[events.NameValue]) -> dict[str, str]:
    return {entry.name: entry.value for entry in entries if entry.name not in LATE}


def check(configs: Mapping[str, GptConfig]) -> None:
    """Raises UsageError where an arm changes more than late stages against the first."""
    (first, config), *rest = configs.items()
    for name, other in rest:
        for field in config.__struct_fields__:
            if field not in LATE and getattr(config, field) != getattr(other, field):
                raise UsageError(
                    f"arm {name!r} changes {field} against {first!r}, which takes another training: with pair_tier = "
                    f"'fork' arms may change {', '.join(LATE)}; leave pair_tier out to train every arm"
                )


class Forks:
    """The checkpoints of one session and of the log before it."""

    def __init__(self, log: Log, around: Surroundings) -> None:
        self.log, self.around = log, around
        self._held: tuple[dict[str, str], int, Checkpoint] | None = None  # one seed's: cells come seed by seed

    def hold(self, config: Mapping[str, Any], seed: int, made: Checkpoint) -> Kept:
        """Keep weights for the next arms; what to store with the run that made them."""
        from safetensors.numpy import save

        self._held = training(config), seed, made
        data = save(made.weights, metadata={"step": str(made.step)})
        return Kept(f"seed-{seed}.safetensors", KIND, data, 0, MEDIA_TYPE)

    def find(self, config: Mapping[str, Any], seed: int) -> Checkpoint | None:
        """The checkpoint of this training and seed, if there is one."""
        wanted = training(config)
        if self._held is not None and self._held[:2] == (wanted, seed):
            return self._held[2]
        found = self._in_log(wanted, seed)
        if found is not None:
            self._held = wanted, seed, found
        return found

    def _in_log(self, wanted: dict[str, str], seed: int) -> Checkpoint | None:
        """The newest one, of runs with the same code, data and training; retracted runs and files left out."""
        fit: set[str] = set()
        stored: dict[str, tuple[str, str]] = {}  # event -> (run, digest)
        gone: set[str] = set()
        starts: dict[str, str] = {}  # event -> run
        for event in self.log.events(types=("run.started", "artifact.stored", "event.retracted")):
            data = event.data
            if isinstance(data, events.EventRetracted):
                gone.add(data.target)
            elif isinstance(data, events.ArtifactStored):
                if data.kind == KIND and data.run in fit and not data.left_out:
                    stored[event.event_id] = data.run, data.sha256
            elif isinstance(data, events.RunStarted) and data.seed == seed:
                same = data.code == self.around.code and data.data == self.around.data
                if (
                    same
                    and data.hardware_class == self.around.hardware_class
                    and _without_late(data.config) == wanted
                ):
                    fit.add(data.run)
                    starts[event.event_id] = data.run
        fit -= {starts[target] for target in gone if target in starts}
        for event_id, (run, digest) in reversed(stored.items()):
            if event_id not in gone and run in fit and self.log.blobs.has(digest):
                return _read(run, self.log.blobs.get(digest))
        return None


def _read(run: str, data: bytes) -> Checkpoint:
    from safetensors.numpy import load

    length = int.from_bytes(data[:8], "little")
    head = msgspec.json.decode(data[8 : 8 + length], type=dict[str, Any])
    return Checkpoint(run, int(head["__metadata__"]["step"]), load(data))

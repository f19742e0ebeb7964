"""Arms that differ only late go on from one checkpoint of each seed: the strongest pairing there is.

The first such run of a seed trains, and leaves what the others go on from as artifacts of kind `checkpoint`
(safetensors, found by their digest): its weights at the end, for arms that only quantize or score otherwise, and its
whole state at each step where an arm's training turns off (late quantization-aware training). The others name that
run in `fork_of`. A later session, or a later plan on the same code, data and training, finds them in the log.

What it must never do: fork arms whose training differs before the fork. What may differ are the fields in
`gpt_config.LATE` and, from their step on, `LATE_FROM`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from ledger import events
from ledger.chain import Log
from ledger.errors import UsageError
from runners import gpt_checkpoint
from runners.cells import Kept, Surroundings
from runners.gpt_config import LATE, LATE_FROM, WHERE, GptConfig
from runners.gpt_schedule import fork_step

KIND = "checkpoint"
_NAME = re.compile(r"seed-\d+(?:-step-(\d+))?\.safetensors")  # with a step: the whole state before it


class Checkpoint(NamedTuple):
    """Where a seed's training stood, and the run that brought it there. `whole`: with the optimiser's state, to train
    on; else the weights that are quantized and scored."""

    run: str
    step: int
    whole: bool
    arrays: gpt_checkpoint.Arrays


def _trunk(entries: Iterable[events.NameValue]) -> dict[str, str]:
    """What a training depends on up to its fork, as an event has it."""
    return {entry.name: entry.value for entry in entries if entry.name not in (*LATE, *LATE_FROM, *WHERE)}


def check(configs: Mapping[str, GptConfig]) -> None:
    """Raises UsageError where an arm changes more than late fields against the first, or cannot fork."""
    (first, config), *rest = configs.items()
    may = (*LATE, *LATE_FROM)
    for name, other in rest:
        for field in config.__struct_fields__:
            if field not in may and getattr(config, field) != getattr(other, field):
                raise UsageError(
                    f"arm {name!r} changes {field} against {first!r}, which takes another training: with pair_tier = "
                    f"'fork' arms may change {', '.join(may)}; leave pair_tier out to train every arm"
                )
    for name, other in configs.items():
        if other.stack_seeds:
            raise UsageError(f"arm {name!r}: stack_seeds does not go with pair_tier = 'fork': a fork is of one seed")
        if fork_step(other) == 0:
            raise UsageError(
                f"arm {name!r} changes the training from its first step, so there is nothing to fork from: with "
                "qat_bits give qat_from below 1 and no wallclock, or leave pair_tier out"
            )


class Forks:
    """The checkpoints of one session and of the log before it."""

    def __init__(self, log: Log, around: Surroundings, configs: Mapping[str, GptConfig]) -> None:
        self.log, self.around = log, around
        self.steps = {fork_step(config) for config in configs.values()}
        self._held: list[tuple[dict[str, str], int, Checkpoint]] = []  # one seed's: cells come seed by seed

    def turns(self, config: GptConfig, after: int) -> list[int]:
        """Steps beyond `after` at which this arm's training is also another one's, whose state they need."""
        return [step for step in sorted(self.steps) if after < step <= fork_step(config) and step < config.steps]

    def hold(self, config: Mapping[str, Any], seed: int, made: Checkpoint) -> Kept:
        """Keep a checkpoint for the next arms; what to store with the run that made it."""
        self._held = [held for held in self._held if held[1] == seed]
        self._held.append((_trunk(events.named(dict(config))), seed, made))
        name = f"seed-{seed}-step-{made.step}" if made.whole else f"seed-{seed}"
        data = gpt_checkpoint.dump(made.arrays, made.step)
        return Kept(f"{name}.safetensors", KIND, data, 0, gpt_checkpoint.MEDIA_TYPE)

    def find(self, arm: GptConfig, config: Mapping[str, Any], seed: int) -> Checkpoint | None:
        """The furthest checkpoint that this arm may go on from: the weights at the end where its training is the
        trunk's to the end, else the latest state not beyond its fork."""
        wanted, late = _trunk(events.named(dict(config))), fork_step(arm) < arm.steps
        held = [made for trunk, known, made in self._held if (trunk, known) == (wanted, seed)]
        fits = [made for made in held if self._fits(made.whole, made.step, arm, late)]
        complete = any(made.step == fork_step(arm) if late else not made.whole for made in fits)
        if not complete and (found := self._in_log(wanted, seed, arm, late)) is not None:
            self._held = [each for each in self._held if each[1] == seed]
            self._held.append((wanted, seed, found))
            fits.append(found)
        return max(fits, key=lambda made: (not made.whole, made.step), default=None)

    @staticmethod
    def _fits(whole: bool, step: int, arm: GptConfig, late: bool) -> bool:
        return step <= fork_step(arm) if whole else not late

    def _in_log(self, wanted: dict[str, str], seed: int, arm: GptConfig, late: bool) -> Checkpoint | None:
        """The furthest one, of runs with the same code, data and training; retracted runs and files left out."""
        fit: set[str] = set()
        stored: dict[str, tuple[str, str, int | None]] = {}  # event -> (run, digest, step of a whole state)
        gone: set[str] = set()
        starts: dict[str, str] = {}  # event -> run
        for event in self.log.events(types=("run.started", "artifact.stored", "event.retracted")):
            data = event.data
            if isinstance(data, events.EventRetracted):
                gone.add(data.target)
            elif isinstance(data, events.ArtifactStored):
                name = _NAME.fullmatch(data.name)
                if data.kind == KIND and name and data.run in fit and not data.left_out:
                    stored[event.event_id] = data.run, data.sha256, int(name[1]) if name[1] else None
            elif isinstance(data, events.RunStarted) and data.seed == seed and self._alike(data, wanted):
                fit.add(data.run)
                starts[event.event_id] = data.run
        retracted = {starts[target] for target in gone if target in starts}
        best: tuple[int, str, str, bool] | None = None
        for event_id, (run, digest, step) in stored.items():
            whole, at = step is not None, arm.steps if step is None else step
            if event_id in gone or run in retracted or not self._fits(whole, at, arm, late):
                continue
            if self.log.blobs.has(digest) and (best is None or at >= best[0]):
                best = at, run, digest, whole
        if best is None:
            return None
        arrays, step = gpt_checkpoint.load(self.log.blobs.get(best[2]))
        return Checkpoint(best[1], step, best[3], arrays)

    def _alike(self, run: events.RunStarted, wanted: dict[str, str]) -> bool:
        around = self.around
        same = (run.code, run.data, run.hardware_class) == (around.code, around.data, around.hardware_class)
        return same and _trunk(run.config) == wanted

"""Training one run on several devices: a group of processes, one a device, and a trainer that looks like any other.

    this process      owns the log, reads the text, asks for one run after another, hears of every step
      rank 0 … n-1    a process each (gpt_worker.py), started once, with what they compiled kept from run to run

This process is no rank: nothing that a device does takes it down. A rank that ends, fails, is killed or runs out of
memory ends its run with a reason that names it; then all ranks are ended, and the next run gets fresh ones. So do
an interruption and a rank that does not stop when it is told to. Ranks stay in sessions of their own (Ctrl-C is for
this process alone) and go when this process goes, however it goes.

What it must never do: leave a process behind, or touch a device itself.
"""

from __future__ import annotations

import contextlib
import json
import mmap
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from multiprocessing.connection import Connection, wait
from multiprocessing.connection import Pipe as pipe
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from runners import gpt_checkpoint
from runners.alone import no_interrupt
from runners.corpus import Corpus
from runners.gpt_config import GptConfig
from runners.gpt_result import GptResult, OnWeights
from runners.gpt_worker import (
    Done,
    Failed,
    Late,
    Mapped,
    Open,
    Point,
    Ready,
    State,
    Stop,
    Tells,
    Text,
    Told,
    Train,
    Trained,
    receive,
    send,
)
from runners.process import oom_kills

START = 300.0  # seconds for all ranks to start and meet
STOP = 60.0  # seconds for a step to end once it was told to stop
CAUSE = 0.5  # seconds to hear of other ranks when one has failed: which was the first is not always told first
LEAVE = 5.0  # seconds to go when there is nothing to do
_TICK = 0.25

_BOOT = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); "
    "from runners.gpt_worker import main; main(int(sys.argv[2]))"
)

OnLog = Callable[[int, dict[str, float]], None]
OnSeedLog = Callable[[int, int, dict[str, float]], None]


class RankFailed(RuntimeError):
    """A run that ended because one of its processes did. Says which and why."""


class RankOutOfMemory(MemoryError):
    """The same, where memory was what was missing."""


class RankStuck(TimeoutError):
    """A run was told to stop and did not."""


def placed(config: GptConfig, backend: str, fewer: bool = False) -> GptConfig:
    """The config with the number of devices that it takes here. Raises ValueError where there are not so many, but
    with `fewer` it may take those that are here: the same passes, more of them on each, so the same figures to
    rounding."""
    if config.devices == 1:
        return config
    if backend != "torch":
        if config.devices:
            raise ValueError(f"devices = {config.devices} is for backend 'torch': {backend} trains on one device")
        return msgspec.structs.replace(config, devices=1)
    import torch

    from runners.gpt_device import find_device

    kind = find_device(config.device).type
    here = torch.cuda.device_count() if kind == "cuda" else 1
    if fewer and kind == "cuda" and config.devices > here:
        most = max(n for n in range(1, here + 1) if config.devices % n == 0)
        return msgspec.structs.replace(config, devices=most, micro_tokens=config.pass_windows * config.seq_len)
    if kind == "mps" and config.devices > 1:
        raise ValueError(
            f"devices = {config.devices}: there is one mps device; several take CUDA (or device = 'cpu')"
        )
    if kind == "cuda" and config.devices > here:
        raise ValueError(f"devices must be at most the {here} CUDA devices that are here, found {config.devices}")
    return msgspec.structs.replace(config, devices=config.devices or here)


class GroupTrainer:
    """Trains one seed at a time on `devices` devices; see gpt_train.Trainer, whose calls these are."""

    def __init__(
        self, corpus: Corpus, device: str, devices: int, threads: int | None = None, gpus: Sequence[str] = ()
    ) -> None:
        """`gpus`: those that its processes see; none named: all."""
        self.corpus, self.device, self.devices, self.threads, self.gpus = corpus, device, devices, threads, gpus
        self._group: Group | None = None
        self._number = 0

    def train(
        self,
        config: GptConfig,
        seed: int,
        *,
        on_log: OnLog | None = None,
        should_stop: Callable[[], str | None] | None = None,
        start: Mapping[str, Any] | None = None,
        keep: Mapping[int, Callable[[Mapping[str, Any]], None]] | None = None,
        on_weights: OnWeights | None = None,
    ) -> GptResult:
        """As gpt_train.Trainer.train. Raises RankFailed, RankOutOfMemory, RankStuck."""
        keep = keep or {}
        given = None if start is None else gpt_checkpoint.dump(gpt_checkpoint.arrays(start), int(start["step"]))
        order = Train(
            number=self._next(),
            config=config,
            seed=seed,
            start=given,
            keep=tuple(keep),
            weights=on_weights is not None,
        )

        def heard(message: Tells) -> None:
            if isinstance(message, Point) and on_log is not None:
                on_log(message.step, message.values)
            elif isinstance(message, State):
                keep[message.step](gpt_checkpoint.load(message.data)[0])
            elif isinstance(message, Trained) and on_weights is not None and message.data is not None:
                on_weights(0, message.step, gpt_checkpoint.load(message.data)[0])

        return self._carry_out(order, heard, should_stop or (lambda: None))

    def train_seeds(
        self, config: GptConfig, seeds: Sequence[int], *, on_log: OnSeedLog | None = None, **given: Any
    ) -> list[GptResult]:
        """The seeds one after another: all devices train each."""
        results = []
        for index, seed in enumerate(seeds):
            told: OnLog | None = None
            if on_log is not None:
                told = lambda step, values, index=index: on_log(index, step, values)  # noqa: E731
            results.append(self.train(config, seed, on_log=told, **given))
        return results

    def late(
        self,
        config: GptConfig,
        seed: int,
        weights: Mapping[str, np.ndarray],
        step: int,
        *,
        on_log: OnLog | None = None,
    ) -> GptResult:
        """As gpt_train.Trainer.late."""
        data = gpt_checkpoint.dump(dict(weights), step)
        order = Late(number=self._next(), config=config, seed=seed, weights=data)

        def heard(message: Tells) -> None:
            if isinstance(message, Point) and on_log is not None:
                on_log(message.step, message.values)

        return self._carry_out(order, heard, lambda: None)

    def close(self) -> None:
        """End the processes; a later call starts others."""
        if self._group is not None:
            self._group.close()
            self._group = None

    def _next(self) -> int:
        self._number += 1
        return self._number

    def _carry_out(
        self, order: Train | Late, heard: Callable[[Tells], None], should_stop: Callable[[], str | None]
    ) -> GptResult:
        try:
            if self._group is None:
                self._group = Group(self.corpus, self.device, self.devices, self.threads, self.gpus, should_stop)
            results = self._group.carry_out(order, heard, should_stop)
        except BaseException:
            with no_interrupt():
                if self._group is not None:
                    self._group.end()
                    self._group = None
            raise
        return msgspec.structs.replace(
            results[0],
            cpu_s=sum(result.cpu_s for result in results),
            peak_memory_bytes=max(result.peak_memory_bytes for result in results),
        )


class _Rank:
    """A process of the group as its parent sees it."""

    def __init__(self, number: int, folder: str, gpus: Sequence[str]) -> None:
        self.number = number
        self.said = Path(folder, f"rank-{number}.txt")  # whatever it prints
        self.channel, theirs = pipe()
        environment = dict(os.environ)
        # One machine: ranks meet on it, whatever its name resolves to.
        environment.setdefault("GLOO_SOCKET_IFNAME", "lo0" if sys.platform == "darwin" else "lo")
        if gpus:
            environment["CUDA_VISIBLE_DEVICES"] = ",".join(gpus)
        with theirs, self.said.open("wb") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-c", _BOOT, json.dumps(sys.path), str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                pass_fds=(theirs.fileno(),),
                env=environment,
                start_new_session=True,
            )

    def gone(self) -> bool:
        """Whether it has ended; it is not reaped, so that its number stays its group's."""
        if self.process.returncode is not None:
            return True
        if hasattr(os, "waitid"):
            with contextlib.suppress(ChildProcessError):
                return os.waitid(os.P_PID, self.process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
        return self.process.poll() is not None

    def kill(self) -> None:
        if self.process.returncode is None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.process.pid, signal.SIGKILL)

    def ended(self, kills: int | None) -> tuple[str, bool]:
        """How it ended by itself, and whether for lack of memory."""
        self.kill()  # what it started: its number is its group's until it is reaped
        code = self.process.wait(LEAVE)
        last = self.last_line()
        if code >= 0:
            return f"ended with exit code {code}" + (f": {last}" if last else ""), "out of memory" in last
        try:
            name = signal.Signals(-code).name
        except ValueError:
            name = f"signal {-code}"
        now = oom_kills()
        if name == "SIGKILL" and kills is not None and now is not None and now > kills:
            return "was killed by SIGKILL: out of memory, by the kernel's count of such kills", True
        return f"was killed by {name}, which this session did not send" + (f": {last}" if last else ""), False

    def last_line(self) -> str:
        with contextlib.suppress(OSError):
            lines = self.said.read_bytes()[-8192:].decode("utf-8", "replace").splitlines()
            return next((" ".join(line.split())[:200] for line in reversed(lines) if line.strip()), "")
        return ""


class Group:
    """The processes, from their start to their end. After an error it must be ended."""

    def __init__(
        self,
        corpus: Corpus,
        device: str,
        size: int,
        threads: int | None = None,
        gpus: Sequence[str] = (),
        look: Callable[[], object] = lambda: None,
    ) -> None:
        """Start them and wait until they have met; `look` may raise meanwhile. Raises RankFailed."""
        from runners.gpt_device import find_device

        self._kills = oom_kills()
        self._folder = tempfile.mkdtemp(prefix="ledger-ranks-")
        self.ranks: list[_Rank] = []
        self._end = weakref.finalize(self, _end, self.ranks, self._folder)
        try:
            text = _described(corpus, self._folder)
            kind, store = find_device(device).type, os.path.join(self._folder, "meet")
            for number in range(size):
                self.ranks.append(_Rank(number, self._folder, gpus))
            for rank in self.ranks:
                self._send(rank, Open(rank.number, size, kind, threads, store, text))
            self._until(Ready, START, lambda _: None, look)
        except BaseException:
            with no_interrupt():
                self.end()
            raise

    def carry_out(
        self, order: Train | Late, heard: Callable[[Tells], None], should_stop: Callable[[], str | None]
    ) -> list[GptResult]:
        """Every rank's result. Raises RankFailed, RankOutOfMemory, RankStuck."""
        for rank in self.ranks:
            self._send(rank, order)
        told: float | None = None  # when it was told to stop
        trained = isinstance(order, Late)  # what comes after the last step is not stopped, on one device neither

        def listen(message: Tells) -> None:
            nonlocal trained
            trained = trained or isinstance(message, Trained)
            heard(message)

        def look() -> None:
            nonlocal told
            reason = should_stop()
            if reason and told is None and not trained:
                told = time.monotonic()
                self._send(self.ranks[0], Stop(order.number, reason))
            if told is not None and not trained and time.monotonic() > told + STOP:
                raise RankStuck(f"{reason}; no step ended in the {STOP:g} s after it")

        found = self._until(Done, None, listen, look)
        return [message.result for message in found if isinstance(message, Done)]

    def close(self) -> None:
        """Let them go in good order; what does not is ended."""
        for rank in self.ranks:
            rank.channel.close()
        until = time.monotonic() + LEAVE
        while time.monotonic() < until and not all(rank.gone() for rank in self.ranks):
            time.sleep(0.01)
        self.end()

    def end(self) -> None:
        """End them now. Nothing of them is left after this."""
        self._end()

    # --- hearing

    def _until(
        self,
        kind: type[Ready] | type[Done],
        limit: float | None,
        heard: Callable[[Tells], None],
        look: Callable[[], object] = lambda: None,
    ) -> list[Tells]:
        """What each rank says last, a message of this kind. Others are `heard` as they come."""
        last: dict[int, Tells] = {}
        until = None if limit is None else time.monotonic() + limit
        while len(last) < len(self.ranks):
            waiting = {rank.channel: rank for rank in self.ranks if rank.number not in last}
            for channel in wait(list(waiting), _TICK):
                assert isinstance(channel, Connection)
                rank = waiting[channel]
                try:
                    message = receive(channel)
                except (EOFError, OSError):
                    raise self._failure() from None
                if isinstance(message, Failed):
                    raise self._failure({rank.number: message})
                if isinstance(message, kind):
                    last[rank.number] = message
                else:
                    heard(message)
            if any(rank.gone() and not rank.channel.poll() for rank in waiting.values()):
                raise self._failure()
            look()
            if until is not None and time.monotonic() > until:
                late = next(iter(waiting.values()))
                said = late.last_line()
                raise RankFailed(
                    f"{self._called(late)} was not ready after {limit:g} s" + (f": {said}" if said else "")
                )
        return [last[rank.number] for rank in self.ranks]

    def _send(self, rank: _Rank, message: Told) -> None:
        try:
            send(rank.channel, message)
        except OSError:
            raise self._failure() from None

    def _failure(self, failed: dict[int, Failed] | None = None) -> Exception:
        """Why the run failed: of what the ranks tell, what explains the rest. Memory first, then one that is gone,
        then the first that said why: a rank that failed is still there, so that no other fails for its absence."""
        failed = dict(failed or {})
        gone: list[_Rank] = []
        until = time.monotonic() + CAUSE
        while time.monotonic() < until and not gone:
            waiting = {rank.channel: rank for rank in self.ranks if rank.number not in failed}
            for channel in wait(list(waiting), 0.05) if waiting else ():
                assert isinstance(channel, Connection)
                with contextlib.suppress(EOFError, OSError):
                    message = receive(channel)
                    if isinstance(message, Failed):
                        failed[waiting[channel].number] = message
            gone = [rank for rank in self.ranks if rank.gone()]
        for number, message in failed.items():
            if message.memory:
                return RankOutOfMemory(f"{self._called(self.ranks[number])} ran out of memory: {message.reason}")
        if gone:
            how, memory = gone[0].ended(self._kills)
            return (RankOutOfMemory if memory else RankFailed)(f"{self._called(gone[0])} {how}")
        for number, message in failed.items():
            return RankFailed(f"{self._called(self.ranks[number])}: {message.reason}")
        return RankFailed(f"a rank of {len(self.ranks)} said no more")

    def _called(self, rank: _Rank) -> str:
        return f"rank {rank.number} of {len(self.ranks)}"


def _end(ranks: list[_Rank], folder: str) -> None:
    for rank in ranks:
        rank.kill()
    for rank in ranks:
        with contextlib.suppress(subprocess.TimeoutExpired):
            rank.process.wait(30)
        rank.channel.close()
    shutil.rmtree(folder, ignore_errors=True)


def _described(corpus: Corpus, folder: str) -> Text:
    """The corpus as files that a rank maps, without hashing them once more."""
    return Text(
        folder=str(corpus.folder),
        tokenizer=str(corpus.tokenizer_path),
        digests=dict(corpus.digests),
        sizes=dict(corpus.sizes),
        digest=corpus.digest,
        vocab_size=corpus.vocab_size,
        bos=corpus.bos,
        shards=tuple(_mapped(shard, folder, f"shard-{i}") for i, shard in enumerate(corpus.shards)),
        val=_mapped(corpus.val, folder, "val"),
        base=corpus.counts.base.astype(np.int32).tobytes(),
        leading_space=corpus.counts.leading_space.astype(bool).tobytes(),
        boundary=corpus.counts.boundary.astype(bool).tobytes(),
    )


def _mapped(array: np.ndarray, folder: str, name: str) -> Mapped:
    """Where the array lies in a file; one that is only in memory is written out."""
    if isinstance(array, np.memmap) and isinstance(array.base, mmap.mmap) and array.filename is not None:
        return Mapped(str(array.filename), array.dtype.str, array.offset, len(array))
    path = os.path.join(folder, f"{name}.bin")
    np.ascontiguousarray(array).tofile(path)
    return Mapped(path, array.dtype.str, 0, len(array))

"""One process of a group that trains: what is said between it and the process that started it, and its loop.

    it is told   Open (who it is, the text as files to map), then Train and Late, one at a time; Stop for that one
    it tells     Ready; of rank 0 points, states and weights as they come; Done with its results, or Failed and why

Nobody but `gpt_group.py` starts it. It has no log, and what it prints goes into a file. When the process that started
it is gone, it is gone as well, whatever it was doing: that process holds the other end of its channel, and nothing
else does. A rank that failed waits to be ended, so that the others do not fail in their turn with a worse reason.
"""

from __future__ import annotations

import os
import queue
import shutil
import signal
import threading
import time
from collections.abc import Callable, Mapping
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from runners import gpt_checkpoint
from runners.bytecount import ByteCount
from runners.corpus import Corpus
from runners.gpt_config import GptConfig
from runners.gpt_result import GptResult

_LOOK = 1.0  # seconds between two looks whether the parent is still there


class Mapped(msgspec.Struct, frozen=True):
    """An array of one dimension in a file."""

    path: str
    dtype: str
    offset: int
    count: int

    def open(self) -> np.ndarray:
        return np.memmap(self.path, self.dtype, "r", self.offset, (self.count,))


class Text(msgspec.Struct, frozen=True, kw_only=True):
    """A corpus whose files were hashed and checked already, by whoever describes it."""

    folder: str
    tokenizer: str
    digests: dict[str, str]
    sizes: dict[str, int]
    digest: str
    vocab_size: int
    bos: int
    shards: tuple[Mapped, ...]
    val: Mapped
    base: bytes  # int32
    leading_space: bytes  # bool
    boundary: bytes  # bool

    def open(self) -> Corpus:
        return Corpus(
            folder=Path(self.folder),
            tokenizer_path=Path(self.tokenizer),
            digests=self.digests,
            sizes=self.sizes,
            digest=self.digest,
            vocab_size=self.vocab_size,
            bos=self.bos,
            shards=tuple(shard.open() for shard in self.shards),
            val=self.val.open(),
            counts=ByteCount(
                np.frombuffer(self.base, np.int32),
                np.frombuffer(self.leading_space, bool),
                np.frombuffer(self.boundary, bool),
            ),
        )


# --- What it is told ---------------------------------------------------------------------------------------


class Open(msgspec.Struct, frozen=True, tag=True):
    rank: int
    size: int
    device: str  # kind: cpu, cuda
    threads: int | None
    store: str  # file by which the ranks meet
    text: Text


class Train(msgspec.Struct, frozen=True, tag=True, kw_only=True):
    number: int  # of the order, for a Stop
    config: GptConfig
    seed: int
    start: bytes | None  # a checkpoint, as gpt_checkpoint.dump has it
    keep: tuple[int, ...]  # steps before which a state is wanted
    weights: bool  # whether the trained weights are


class Late(msgspec.Struct, frozen=True, tag=True, kw_only=True):
    number: int
    config: GptConfig
    seed: int
    weights: bytes


class Stop(msgspec.Struct, frozen=True, tag=True):
    number: int
    reason: str


Told = Open | Train | Late | Stop


# --- What it tells -----------------------------------------------------------------------------------------


class Ready(msgspec.Struct, frozen=True, tag=True):
    pass


class Point(msgspec.Struct, frozen=True, tag=True):
    step: int
    values: dict[str, float]


class State(msgspec.Struct, frozen=True, tag=True):
    step: int
    data: bytes


class Trained(msgspec.Struct, frozen=True, tag=True):
    """The steps are over; weights where they were asked for."""

    step: int
    data: bytes | None


class Done(msgspec.Struct, frozen=True, tag=True):
    result: GptResult


class Failed(msgspec.Struct, frozen=True, tag=True):
    reason: str
    memory: bool  # there was too little of it


Tells = Ready | Point | State | Trained | Done | Failed

_told, _tells = msgspec.msgpack.Decoder(Told), msgspec.msgpack.Decoder(Tells)


def send(channel: Connection, message: Told | Tells) -> None:
    channel.send_bytes(msgspec.msgpack.encode(message))


def receive_told(channel: Connection) -> Told:
    message: Told = _told.decode(channel.recv_bytes())
    return message


def receive(channel: Connection) -> Tells:
    message: Tells = _tells.decode(channel.recv_bytes())
    return message


# --- The process -------------------------------------------------------------------------------------------


def main(descriptor: int) -> None:
    """The life of a worker; its channel is open at this descriptor."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.set_inheritable(descriptor, False)
    channel = Connection(descriptor)
    inbox = _Inbox(channel)
    try:
        opened = inbox.next()
        assert isinstance(opened, Open)
        inbox.folder = os.path.dirname(opened.store)
        trainer, leave = _trainer(opened)
        inbox.busy = False
        send(channel, Ready())
        while (order := inbox.next()) is not None:
            assert isinstance(order, Train | Late)
            result = _carry_out(trainer, order, channel, inbox)
            inbox.busy = False
            send(channel, Done(result))
        leave()
        inbox.tidy()
    except BaseException as error:
        inbox.busy = True
        send(channel, failure(error))
        while True:  # until it is ended
            signal.pause()


def failure(error: BaseException) -> Failed:
    said = str(error).strip().splitlines()
    reason = f"{type(error).__name__}: {said[0] if said else ''}".removesuffix(": ")
    if "timed out" in reason.lower():  # gloo and NCCL, while they wait for others
        reason = f"another rank did not answer in time ({reason})"
    return Failed(reason, isinstance(error, MemoryError) or "out of memory" in str(error))


def _trainer(opened: Open) -> tuple[Any, Callable[[], None]]:
    import torch

    from runners.gpt_ranks import Joined
    from runners.gpt_train import Trainer

    device = torch.device(opened.device, opened.rank) if opened.device == "cuda" else torch.device(opened.device)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    if opened.size == 1:  # by itself, beside others that train other runs
        return Trainer(opened.text.open(), opened.device, opened.threads), lambda: None
    ranks = Joined(opened.rank, opened.size, device, opened.store)
    return Trainer(opened.text.open(), opened.device, opened.threads, ranks), ranks.leave


def _carry_out(trainer: Any, order: Train | Late, channel: Connection, inbox: _Inbox) -> GptResult:
    first = trainer.ranks.rank == 0

    def tell(message: Tells) -> None:
        if first:
            send(channel, message)

    def on_log(step: int, values: dict[str, float]) -> None:
        tell(Point(step, values))

    result: GptResult
    if isinstance(order, Late):
        weights, step = gpt_checkpoint.load(order.weights)
        result = trainer.late(order.config, order.seed, weights, step, on_log=on_log)
        return result

    def keep(step: int, snapshot: Mapping[str, Any]) -> None:
        if first:
            tell(State(step, gpt_checkpoint.dump(gpt_checkpoint.arrays(snapshot), step)))

    def on_weights(_: int, step: int, weights: dict[str, np.ndarray]) -> None:
        tell(Trained(step, gpt_checkpoint.dump(weights, step) if order.weights else None))

    result = trainer.train(
        order.config,
        order.seed,
        on_log=on_log,
        should_stop=lambda: inbox.stop_of(order.number),
        start=None if order.start is None else gpt_checkpoint.load(order.start)[0],
        keep={step: partial(keep, step) for step in order.keep},
        on_weights=on_weights if first else None,
    )
    return result


class _Inbox:
    """Reads the channel beside the training: an order to stop must be seen meanwhile, and the end of the parent."""

    def __init__(self, channel: Connection) -> None:
        self._channel, self._parent = channel, os.getppid()
        self._orders: queue.Queue[Told | None] = queue.Queue()
        self._stop: Stop | None = None
        self.busy = True  # with what nobody waits for once the parent is gone
        self.folder = ""  # of the group, which then nobody removes but its ranks
        threading.Thread(target=self._read, name="inbox", daemon=True).start()

    def next(self) -> Told | None:
        """The next order; None where there will be none."""
        return self._orders.get()

    def tidy(self) -> None:
        """Where the parent was killed nobody else removes the folder. It is gone a moment after its channel is."""
        for _ in range(5):
            if os.getppid() != self._parent:
                shutil.rmtree(self.folder, ignore_errors=True)
                return
            time.sleep(0.01)

    def stop_of(self, number: int) -> str | None:
        return self._stop.reason if self._stop is not None and self._stop.number == number else None

    def _read(self) -> None:
        try:
            while True:
                while not self._channel.poll(_LOOK):
                    if os.getppid() != self._parent:
                        raise EOFError
                message = receive_told(self._channel)
                if isinstance(message, Stop):
                    self._stop = message
                else:
                    self.busy = True
                    self._orders.put(message)
        except (EOFError, OSError):
            if self.busy:
                if self.folder:
                    shutil.rmtree(self.folder, ignore_errors=True)
                os.killpg(0, signal.SIGKILL)
            self._orders.put(None)

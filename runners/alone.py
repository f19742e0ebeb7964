"""One process on one experiment at a time, and what a signal does to it.

A polite kill ends a session as Ctrl-C does; while an outcome is being recorded no signal stops it.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import threading
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from ledger.errors import Conflict, UsageError

if TYPE_CHECKING:
    from ledger.chain import Log


def once(environ: Mapping[str, str]) -> None:
    """Raises UsageError in a process that a launcher started several times: each would write the same experiment."""
    count = environ.get("WORLD_SIZE", "")
    if count.isdigit() and int(count) > 1:
        rank = environ.get("RANK", "unknown")
        raise UsageError(
            f"this is process {rank} of {count} of a launcher such as torchrun (WORLD_SIZE is set), and one process "
            f"writes an experiment: start it once, without the launcher; it starts its own with --devices {count}, "
            "and a [script] may call torchrun itself"
        )


@contextlib.contextmanager
def only_one(log: Log, experiment: str) -> Iterator[None]:
    """Two processes that run one experiment would run its cells twice."""
    path = os.path.join(log.root, "tmp", f"experiment-{experiment}.lock")
    try:
        os.makedirs(os.path.dirname(path), exist_ok=True)  # an empty folder does not survive every copy
        file = open(path, "a+")  # noqa: SIM115 - closed below, at the end of the session
    except OSError as error:
        raise UsageError(f"cannot run here: {path}: {os.strerror(error.errno or 0)}") from None
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            file.seek(0)
            raise Conflict(
                f"another `ledger run` (process {file.read().strip() or 'unknown'}) is running this experiment; "
                "wait for it or stop it"
            ) from None
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield


@contextlib.contextmanager
def signals_interrupt() -> Iterator[None]:
    """A polite kill ends a session as Ctrl-C does: children stopped, the outcome recorded."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    # Python's own handler, not one of ours: run_command then knows that it may pass the signal on to the
    # child first. What nohup ignores stays ignored.
    with _handled((signal.SIGTERM, signal.SIGHUP), signal.default_int_handler):
        yield


@contextlib.contextmanager
def noted(signals: list[int]) -> Iterator[None]:
    """Ctrl-C, SIGTERM and SIGHUP are noted instead of tearing this thread away from what it does.

    Only noted: a handler that raises would leave a loop, or a lock, with its work half done.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def note(number: int, _frame: object) -> None:
        signals.append(number)

    before = {}
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        handler = signal.getsignal(number)
        # One that the caller set up, or that nohup ignores, is theirs.
        if handler is signal.SIG_DFL or handler is signal.default_int_handler:
            before[number] = handler
            signal.signal(number, note)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def no_interrupt() -> Iterator[None]:
    """A second Ctrl-C (or kill) must not stop the recording of the first."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    with _handled((signal.SIGINT, signal.SIGTERM, signal.SIGHUP), signal.SIG_IGN):
        yield


@contextlib.contextmanager
def _handled(kinds: tuple[signal.Signals, ...], handler: Any) -> Iterator[None]:
    """`handler` for these signals, except for those that are ignored already; afterwards as before."""
    before = {kind: signal.getsignal(kind) for kind in kinds}
    before = {kind: known for kind, known in before.items() if known is not signal.SIG_IGN}
    for kind in before:
        signal.signal(kind, handler)
    try:
        yield
    finally:
        for kind, known in before.items():
            signal.signal(kind, known)

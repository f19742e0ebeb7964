"""Run one command to its end, whatever it does, and say how it ended.

The command gets its own session and process group, its output is drained without rest, and at the end nothing
of its group is left. What this must never do: hang, or harm the command. A pipe held open by a grandchild, a
child that ignores SIGTERM, a gigabyte without a newline, a full disk, an error in ``on_line`` are all survived,
and what could not be done (reading a line, keeping the output) is told in ``Exit.trouble`` and nowhere else.

One thread does it all: a loop over the two pipes with a timer. So ``on_line`` is called in the caller's thread,
in order, and a second run in another thread needs no lock. While it runs in the main thread, Ctrl-C, SIGTERM and
SIGHUP are passed on to the group; the call then returns status ``interrupted``, and the caller stops or raises.
"""

import errno
import os
import re
import selectors
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Literal

import msgspec

from ledger.secrets import redact
from runners.alone import noted
from runners.streams import Kept, Lines

Status = Literal["ok", "crash", "timeout", "oom", "interrupted"]

DRAIN = 0.5  # seconds for output still in the pipes after the command itself has ended
STUCK = 30.0  # seconds after SIGKILL until a process that the kernel does not let die is given up
_TICK = 0.1  # longest sleep between two looks at the child and the clock
_STOP_EVERY = 0.25  # seconds between two calls of should_stop
_READ = 1 << 18
_REASON = 300


class CommandError(ValueError):
    """The command cannot be started; one line that says why. Nothing was run."""


class Exit(msgspec.Struct, frozen=True):
    """How a command ended. ``code`` is None when a signal ended it, and then ``signal`` is the signal's name."""

    code: int | None
    signal: str | None
    status: Status
    reason: str  # one line, tokens taken out; "" when status is ok
    wall_s: float
    cpu_s: float  # user and system time of the command and of the children that it waited for
    # Of its largest single process: exact where that was larger than we are, else the largest of ten looks a second;
    # None when it was over before it could be seen.
    peak_memory_bytes: int | None
    stdout_bytes: int  # as printed, also when the file holds less
    stderr_bytes: int
    stdout_left_out: int = 0  # bytes that the program printed and the file has not
    stderr_left_out: int = 0
    redacted: int = 0  # tokens taken out of the two files
    trouble: str = ""  # what this runner could not do: on_line raised, the disk was full


def check_command(argv: Sequence[str], env: Mapping[str, str], cwd: Path | None = None) -> str:
    """The path of the program that ``argv`` would start, or CommandError. Starts nothing."""
    if not argv or not argv[0]:
        raise CommandError("no command was given")
    for text in (*argv, *env, *env.values()):
        if not isinstance(text, str) or "\0" in text:
            raise CommandError(f"cannot run {argv[0]!r}: an argument or a variable is no text, or holds a NUL")
    if cwd is not None and not cwd.is_dir():
        raise CommandError(f"cannot run {argv[0]!r}: the folder {str(cwd)!r} does not exist")
    name = argv[0]
    if "/" not in name:
        if found := shutil.which(name, path=env.get("PATH", os.defpath)):
            return os.path.abspath(found)
        beside = (cwd or Path()) / name
        hint = f"; a file of that name is here: write ./{name}" if beside.is_file() else ""
        raise CommandError(f"command not found: {name!r} is in no folder of PATH{hint}")
    path = (cwd or Path()) / name
    if path.is_dir():
        raise CommandError(f"cannot run {name!r}: it is a directory")
    if not path.exists():
        raise CommandError(f"command not found: there is no file {name!r}")
    if not path.is_file() or not os.access(path, os.X_OK):
        hint = f": write python {name}" if name.endswith(".py") else ": chmod +x, or name its interpreter first"
        raise CommandError(f"cannot run {name!r}: it is not executable{hint}")
    return os.path.abspath(path)


def run_command(
    argv: Sequence[str],
    *,
    env: Mapping[str, str],
    cwd: Path | None,
    timeout: float | None,
    grace: float = 5.0,
    stdout_to: Path,
    stderr_to: Path,
    keep_bytes: int = 16 << 20,
    on_line: Callable[[str, str], None],
    should_stop: Callable[[], str | None] | None = None,
    heard: Sequence[int] = (),
) -> Exit:
    """Run ``argv`` and wait for it. ``env`` is the whole environment; stdin is empty.

    ``on_line(stream, line)`` gets every line of "stdout" and "stderr" (bounded, without its end, tokens still in
    it). If it raises, the error is counted and told in ``Exit.trouble``; the command and its output go on.
    ``should_stop()`` is asked four times a second; a text that it returns ends the run as ``interrupted`` with that
    reason. ``heard`` grows by the signals that come to the thread which waits for several such calls; each passes
    them on like those that come to itself. ``timeout`` seconds after the start the group gets SIGTERM, ``grace``
    later SIGKILL. CommandError before anything is started.
    """
    program = check_command(argv, env, cwd)
    kept = (Kept(stdout_to, keep_bytes), Kept(stderr_to, keep_bytes))
    oom_before = oom_kills()
    signals: list[int] = []
    redacted = 0
    with noted(signals):
        try:
            started = time.monotonic()
            child = _start(argv, program, env, cwd)
            run = _Run(child, kept, on_line, should_stop, signals, heard, timeout, grace, started)
            try:
                run.to_the_end()
            finally:
                run.clean_up()
        finally:
            redacted = sum(stream.close() for stream in kept)
    code, name = run.ended()
    status, reason = run.verdict(code, name, oom_before)
    return Exit(
        code=code,
        signal=name,
        status=status,
        reason=_one_line(reason),
        wall_s=run.wall_s,
        cpu_s=run.cpu_s,
        peak_memory_bytes=run.peak_memory or None,
        stdout_bytes=kept[0].total,
        stderr_bytes=kept[1].total,
        stdout_left_out=kept[0].left_out,
        stderr_left_out=kept[1].left_out,
        redacted=redacted,
        trouble=_one_line("; ".join(t for t in (run.trouble(), kept[0].failed, kept[1].failed) if t)),
    )


def _start(argv: Sequence[str], program: str, env: Mapping[str, str], cwd: Path | None) -> subprocess.Popen[bytes]:
    try:
        return subprocess.Popen(
            list(argv),
            executable=program,
            env=dict(env),
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
            bufsize=0,
        )
    except OSError as why:
        said = {
            errno.ENOEXEC: "it is neither a program nor a script with #! at its top",
            errno.ENOENT: "the interpreter in its first line does not exist",
        }.get(why.errno or 0, why.strerror or str(why))
        raise CommandError(f"cannot run {argv[0]!r}: {said}") from None


class _Run:
    """The child, its two pipes and its clocks, while it lives."""

    def __init__(
        self,
        child: subprocess.Popen[bytes],
        kept: tuple[Kept, Kept],
        on_line: Callable[[str, str], None],
        should_stop: Callable[[], str | None] | None,
        signals: list[int],
        heard: Sequence[int],
        timeout: float | None,
        grace: float,
        started: float,
    ) -> None:
        self.child = child
        self.wall_s = 0.0
        self.cpu_s = 0.0
        self.peak_memory = 0
        self._kept = kept
        self._on_line = on_line
        self._should_stop = should_stop
        self._deadline = None if timeout is None else started + timeout
        self._timeout = timeout
        self._grace = grace
        self._started = started
        self._ask_at = started
        self._look_at = started
        self._look_after = 0.01
        self._idle = 0
        self._stopping: tuple[Status, str] | None = None  # why we are ending it
        self._kill_at: float | None = None  # when patience ends
        self._killed_at: float | None = None
        self._signals = signals  # those that came to us, to be passed on
        self._heard, self._taken = heard, 0
        self._exited = False  # the command itself has ended (and may not be reaped yet)
        self._wait_status: int | None = None
        self._errors = 0
        self._first_error = ""
        self._last_words = b""
        self._before_exec = _peak_of_self()
        self._selector = selectors.DefaultSelector()
        assert child.stdout is not None
        assert child.stderr is not None
        for name, pipe, keeper in (("stdout", child.stdout, kept[0]), ("stderr", child.stderr, kept[1])):
            os.set_blocking(pipe.fileno(), False)
            _widen(pipe.fileno())
            self._selector.register(pipe, selectors.EVENT_READ, (name, keeper, Lines()))

    def to_the_end(self) -> None:
        """Drain and watch until the command has ended and its pipes are closed, or it is time to stop waiting."""
        drain_until: float | None = None
        while True:
            now = time.monotonic()
            if not self._exited and self._has_exited():
                self._exited, drain_until = True, now + DRAIN
                self.wall_s = now - self._started
            self._watch(now)
            if drain_until is not None and (now >= drain_until or not self._selector.get_map()):
                return
            if self._killed_at is not None and now > self._killed_at + STUCK:
                return
            self._read(self._pause(now, drain_until))

    def clean_up(self) -> None:
        """Nothing of the group is left after this: grandchildren that outlived the command are killed too."""
        self.wall_s = self.wall_s or time.monotonic() - self._started
        # The dead child is not reaped before this, so its number, which is the group's, cannot be another's.
        self._signal(signal.SIGKILL)
        for _ in range(16):  # what was written before is still in the pipes: at most what they can hold
            if not self._selector.get_map() or not self._read(0.0):
                break
        for key in list(self._selector.get_map().values()):
            self._finish_stream(key)
        self._selector.close()
        self._last_words = self._kept[1].last(16 << 10)
        self._reap()
        if self._signals and self._stopping is None:  # came too late to matter, but was asked
            self._stopping = ("interrupted", f"stopped by {_signal_name(self._signals[0])}")

    def ended(self) -> tuple[int | None, str | None]:
        """(exit code, signal name), one of them None; both when the kernel did not let it die."""
        if self._wait_status is None:
            return None, None
        code = os.waitstatus_to_exitcode(self._wait_status)
        return (code, None) if code >= 0 else (None, _signal_name(-code))

    def verdict(self, code: int | None, name: str | None, oom_before: int | None) -> tuple[Status, str]:
        """(status, reason). A run that we stopped did not finish, also when it ended with code 0 on SIGTERM."""
        if self._stopping is not None:
            return self._stopping
        if code == 0:
            return "ok", ""
        last = self._last_words
        oom_now = oom_kills()
        rose = oom_before is not None and oom_now is not None and oom_now > oom_before
        if name == "SIGKILL" or code == 128 + signal.SIGKILL:
            how = "killed by SIGKILL" if name else f"exit code {code}: a process inside was killed by SIGKILL"
            why = (
                "the kernel's count of out-of-memory kills rose meanwhile"
                if rose
                else "which this runner did not send; most often the kernel does when memory runs out"
            )
            return "oom", f"{how}, {why}"
        if message := _OOM.search(last):
            line_start = last.rfind(b"\n", 0, message.start()) + 1
            line = last[line_start:].split(b"\n", 1)[0]
            return "oom", f"out of memory, by its own words: {_clean(line)}"
        if rose:
            return "oom", "the kernel's count of out-of-memory kills rose while it ran, and it failed"
        head = f"killed by {name}" if name else f"exit code {'unknown' if code is None else code}"
        lines = [line for line in last.replace(b"\r", b"\n").split(b"\n") if line.strip()]
        return "crash", f"{head}: {_clean(lines[-1])}" if lines else f"{head}, nothing on stderr"

    def trouble(self) -> str:
        if not self._errors:
            return ""
        return f"the caller's own code failed {self._errors} times, first with {self._first_error}"

    # -- one turn of the loop ------------------------------------------------------------------------------

    def _watch(self, now: float) -> None:
        """The clocks: a signal to pass on, the deadline, a wish to stop, the end of patience, the memory in use."""
        self._signals += self._heard[self._taken :]
        self._taken = len(self._heard)
        if self._signals:
            number = self._signals.pop(0)
            if self._stopping is not None and self._stopping[0] == "interrupted":
                self._kill_at = now  # asked twice: no more patience
            else:
                self._stop("interrupted", f"stopped by {_signal_name(number)}", number, now)
        if self._stopping is None and not self._exited:
            if self._deadline is not None and now >= self._deadline:
                self._stop("timeout", f"still running after {self._timeout:g} s", signal.SIGTERM, now)
            elif self._should_stop is not None and now >= self._ask_at:
                self._ask_at = now + _STOP_EVERY
                try:
                    wish = self._should_stop()
                except Exception as why:
                    self._failed(why)
                    wish = None
                if wish is not None:
                    self._stop("interrupted", wish or "asked to stop", signal.SIGTERM, now)
        if self._kill_at is not None and self._killed_at is None and now >= self._kill_at:
            self._signal(signal.SIGKILL)
            self._killed_at = now
        if now >= self._look_at and not self._exited:
            self._look_after = min(2 * self._look_after, 0.1)
            self._look_at = now + self._look_after
            self.peak_memory = max(self.peak_memory, _peak_of(self.child.pid))

    def _stop(self, status: Status, reason: str, number: int, now: float) -> None:
        self._stopping = (status, reason)
        self._kill_at = now + self._grace
        self._signal(number)

    def _pause(self, now: float, drain_until: float | None) -> float:
        moments = [now + _TICK]
        if not self._exited:
            moments.append(self._look_at)
        if drain_until is not None:
            moments.append(drain_until)
        if self._deadline is not None and self._stopping is None:
            moments.append(self._deadline)
        if self._kill_at is not None and self._killed_at is None:
            moments.append(self._kill_at)
        return max(0.0, min(moments) - now)

    def _read(self, pause: float) -> bool:
        """Wait for output at most so long, and take what is there. False when nothing was."""
        if not self._selector.get_map():  # it closed its output; most often it is about to end
            self._idle += 1
            time.sleep(min(pause, 0.001 * self._idle, 0.05))
            return False
        ready = self._selector.select(pause)
        for key, _ in ready:
            try:
                data = os.read(key.fd, _READ)
            except BlockingIOError:
                continue
            except OSError:
                data = b""
            if not data:
                self._finish_stream(key)
                continue
            name, keeper, lines = key.data
            keeper.write(data)
            self._pass_on(name, lines.feed(data))
        return bool(ready)

    def _finish_stream(self, key: selectors.SelectorKey) -> None:
        self._selector.unregister(key.fileobj)
        key.fileobj.close()  # type: ignore[union-attr]
        name, _, lines = key.data
        self._pass_on(name, lines.close())

    def _pass_on(self, name: str, lines: list[str]) -> None:
        for line in lines:
            try:
                self._on_line(name, line)
            except Exception as why:
                self._failed(why)

    def _failed(self, why: Exception) -> None:
        """A fault of the caller's: a bug in a reader must not cost a night's training."""
        self._errors += 1
        self._first_error = self._first_error or f"{type(why).__name__}: {why}"

    # -- the child -----------------------------------------------------------------------------------------

    def _signal(self, number: int) -> None:
        if self._wait_status is None or not hasattr(os, "waitid"):
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(self.child.pid, number)

    def _has_exited(self) -> bool:
        if hasattr(os, "waitid"):  # see without reaping; macOS has it from Python 3.13
            try:
                return os.waitid(os.P_PID, self.child.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
            except ChildProcessError:  # someone else collected it: a caller that ignores SIGCHLD
                return True
        return self._reap(os.WNOHANG)

    def _reap(self, flags: int | None = None) -> bool:
        """Collect the exit status and the times. Without flags waits, but not for a process that cannot die."""
        until = time.monotonic() + (1.0 if self._killed_at else STUCK)
        while self._wait_status is None:
            try:
                pid, status, usage = os.wait4(self.child.pid, os.WNOHANG)
            except ChildProcessError:
                break  # someone else collected it
            if pid:
                self._wait_status = status
                self.child.returncode = os.waitstatus_to_exitcode(status)
                self.cpu_s = usage.ru_utime + usage.ru_stime
                peak = usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)
                # Linux counts what the child was before it became the command: a copy of us. Only what lies
                # above our own size is surely the command's; below it the looks taken meanwhile are all there is.
                if peak > self._before_exec:
                    self.peak_memory = max(peak, self.peak_memory)
            elif flags is not None or time.monotonic() > until:
                break
            else:
                time.sleep(0.01)
        return self._wait_status is not None


_OOM = re.compile(
    rb"CUDA out of memory|\bOutOfMemoryError\b|\bMemoryError\b|Killed process \d+|out of memory \(OOM\)|oom-kill"
    rb"|RESOURCE_EXHAUSTED: [Oo]ut of memory|MPS backend out of memory|std::bad_alloc|Cannot allocate memory"
    rb"|CUDA_ERROR_OUT_OF_MEMORY|CUBLAS_STATUS_ALLOC_FAILED|HIP out of memory"
)


def oom_kills() -> int | None:
    """The kernel's count of out-of-memory kills in the control group that we and our children are in (Linux)."""
    try:
        for line in Path("/proc/self/cgroup").read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            if controllers == "":
                file = Path(f"/sys/fs/cgroup{path}/memory.events")
            elif "memory" in controllers.split(","):
                file = Path(f"/sys/fs/cgroup/memory{path}/memory.oom_control")
            else:
                continue
            if file.is_file() and (found := re.search(r"^oom_kill (\d+)$", file.read_text(), re.M)):
                return int(found[1])
    except (OSError, ValueError):
        pass
    return None


def _peak_of(pid: int) -> int:
    try:
        with open(f"/proc/{pid}/status", "rb") as file:
            found = re.search(rb"^VmHWM:\s+(\d+) kB", file.read(), re.M)
    except OSError:
        return 0
    return int(found[1]) * 1024 if found else 0


def _peak_of_self() -> int:
    return _peak_of(os.getpid())


def _widen(descriptor: int) -> None:
    """A wider pipe, where the system has them: the command waits less often for us."""
    if sys.platform == "linux":
        import fcntl

        with suppress(OSError):
            fcntl.fcntl(descriptor, fcntl.F_SETPIPE_SZ, 1 << 20)


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _clean(line: bytes) -> str:
    # Taken out before it is cut: half a token would no longer look like one.
    return redact(line.strip())[0].decode("utf-8", "backslashreplace")


def _one_line(text: str) -> str:
    text = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return text if len(text) <= _REASON else text[: _REASON - 1] + "…"

"""Real child processes that behave badly; each test names what the runner must make of it."""

import os
import resource
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from runners.process import CommandError, Exit, check_command, run_command

ROOT = Path(__file__).resolve().parents[2]
ENV = {"PATH": os.environ.get("PATH", os.defpath), "PYTHONUNBUFFERED": "1"}
TOKEN = "hf_" + "a1B2" * 9


@pytest.fixture
def run(tmp_path):
    """Run a short Python program (or an argv) with the output under tmp_path; lines are collected in run.lines."""

    def start(program: str | list[str], **options) -> Exit:
        argv = [sys.executable, "-c", program] if isinstance(program, str) else program
        start.lines = []
        settings = {"env": ENV, "cwd": None, "timeout": 20.0, "on_line": lambda *line: start.lines.append(line)}
        return run_command(argv, stdout_to=start.out, stderr_to=start.err, **(settings | options))

    start.out, start.err, start.lines = tmp_path / "stdout", tmp_path / "stderr", []
    return start


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] not in "ZX"
    except FileNotFoundError:
        if Path("/proc/self").exists():
            return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def gone(pid: int) -> bool:
    until = time.monotonic() + 3
    while alive(pid) and time.monotonic() < until:
        time.sleep(0.02)
    return not alive(pid)


def test_a_program_that_ends_well_is_ok_and_all_it_printed_is_kept(run):
    ended = run("import sys; print('loss: 3'); print('warn', file=sys.stderr)")
    assert (ended.status, ended.code, ended.signal, ended.reason, ended.trouble) == ("ok", 0, None, "", "")
    assert sorted(run.lines) == [("stderr", "warn"), ("stdout", "loss: 3")]
    assert (run.out.read_bytes(), run.err.read_bytes()) == (b"loss: 3\n", b"warn\n")
    assert (ended.stdout_bytes, ended.stderr_bytes) == (8, 5)


def test_a_program_that_prints_nothing_is_ok_with_empty_files(run):
    ended = run("pass")
    assert (ended.status, ended.stdout_bytes, run.out.read_bytes(), run.lines) == ("ok", 0, b"", [])


def test_a_crash_gives_the_code_and_the_last_line_of_stderr(run):
    ended = run("import sys; print('first', file=sys.stderr); raise ValueError('bad shape')")
    assert (ended.status, ended.code) == ("crash", 1)
    assert ended.reason == "exit code 1: ValueError: bad shape"


def test_a_crash_without_a_word_says_so(run):
    ended = run("raise SystemExit(3)")
    assert (ended.status, ended.code, ended.reason) == ("crash", 3, "exit code 3, nothing on stderr")


def test_a_program_that_a_signal_ended_gives_its_name(run):
    ended = run("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)")
    assert (ended.status, ended.code, ended.signal) == ("crash", None, "SIGSEGV")


def test_the_reason_is_one_bounded_line_without_tokens(run):
    ended = run(f"import sys; sys.stderr.write('x' * 280 + ' {TOKEN} \\x1b[0m' + 'y' * 999); sys.exit(1)")
    assert len(ended.reason) <= 300
    assert "hf_" not in ended.reason
    assert ended.reason.isprintable()


def test_a_kill_that_was_not_ours_is_out_of_memory_and_says_on_what_evidence(run):
    ended = run("import os, signal; os.kill(os.getpid(), signal.SIGKILL)")
    assert (ended.status, ended.signal) == ("oom", "SIGKILL")
    assert "did not send" in ended.reason


def test_a_shell_whose_child_was_killed_is_out_of_memory(run):
    assert run(["sh", "-c", "sh -c 'kill -9 $$'; exit $?"]).status == "oom"


@pytest.mark.parametrize(
    "message",
    [
        "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB.",
        "MemoryError",
        "RuntimeError: MPS backend out of memory (MPS allocated: 9 GB)",
        "slurmstepd: error: Detected 1 oom-kill event",
    ],
)
def test_a_failure_that_speaks_of_memory_is_out_of_memory(run, message):
    ended = run(f"import sys; print({message!r} + '\\ncleaning up', file=sys.stderr); sys.exit(1)")
    assert ended.status == "oom"
    assert message in ended.reason


def test_a_program_that_survives_its_memory_error_is_ok(run):
    assert run("import sys; print('MemoryError', file=sys.stderr)").status == "ok"


def test_a_program_beyond_its_time_is_ended_and_what_it_printed_is_kept(run):
    ended = run("import time; print('loss: 3'); time.sleep(60)", timeout=0.5)
    assert (ended.status, ended.signal, ended.reason) == ("timeout", "SIGTERM", "still running after 0.5 s")
    assert ended.wall_s < 3
    assert run.lines == [("stdout", "loss: 3")]


def test_a_program_that_ends_with_0_on_sigterm_did_not_finish(run):
    program = "import signal, sys, time; signal.signal(signal.SIGTERM, lambda *_: sys.exit(0)); time.sleep(60)"
    ended = run(program, timeout=0.5)
    assert (ended.status, ended.code) == ("timeout", 0)


def test_a_program_that_ignores_sigterm_is_killed_after_the_grace(run):
    program = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf'); time.sleep(60)"
    ended = run(program, timeout=0.5, grace=0.5)
    assert (ended.status, ended.signal) == ("timeout", "SIGKILL")
    assert 0.9 < ended.wall_s < 4


def test_the_whole_group_is_ended_at_the_timeout(run):
    ended = run(["sh", "-c", "sleep 60 & echo $!; wait"], timeout=0.4, grace=0.3)
    assert ended.status == "timeout"
    assert gone(int(run.lines[0][1]))


def test_a_grandchild_that_holds_the_pipe_neither_hangs_the_run_nor_outlives_it(run):
    ended = run(["sh", "-c", "sleep 60 & echo $!; exit 0"])
    assert (ended.status, ended.code) == ("ok", 0)
    assert ended.wall_s < 3
    assert gone(int(run.lines[0][1]))


def test_a_grandchild_in_a_session_of_its_own_does_not_hang_the_run(run):
    program = "import os, subprocess, sys; p = subprocess.Popen(['sleep', '8'], start_new_session=True); print(p.pid)"
    started = time.monotonic()
    assert run(program).status == "ok"
    assert time.monotonic() - started < 4
    os.kill(int(run.lines[0][1]), signal.SIGKILL)


def test_a_program_that_closes_its_output_and_goes_on_is_waited_for(run):
    ended = run("import os, time; os.close(1); os.close(2); time.sleep(0.4); os._exit(4)")
    assert (ended.code, ended.status) == (4, "crash")
    assert ended.wall_s >= 0.4


def test_output_written_just_before_the_end_is_whole_even_if_lines_are_read_slowly(run):
    ended = run(
        "import os\nfor i in range(300): os.write(1, b'loss: %d\\n' % i)",
        on_line=lambda *line: (time.sleep(0.004), run.lines.append(line)),
    )
    assert ended.status == "ok"
    assert run.lines[-1] == ("stdout", "loss: 299")
    assert len(run.lines) == 300


def test_bytes_that_are_no_text_are_kept_as_they_are_and_read_escaped(run):
    run("import os; os.write(1, b'loss: 3 \\xff\\xfe\\n')")
    assert run.out.read_bytes() == b"loss: 3 \xff\xfe\n"
    assert run.lines == [("stdout", r"loss: 3 \xff\xfe")]


FLOOD = """
import os, resource, sys
from pathlib import Path
sys.path.insert(0, {root!r})
from runners.process import run_command
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
end = run_command(["dd", "if=/dev/zero", "bs=1M", "count=200"], env=dict(os.environ), cwd=None, timeout=60,
    keep_bytes=1 << 20, stdout_to=Path({out!r}), stderr_to=Path({err!r}), on_line=lambda *_: None)
print(end.status, end.stdout_bytes, end.stdout_left_out, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


def test_a_flood_without_a_newline_is_counted_and_bounded_on_disk_and_in_memory(tmp_path):
    # In a process of its own: the peak of this one was set by other tests.
    text = FLOOD.format(root=str(ROOT), out=str(tmp_path / "out"), err=str(tmp_path / "err"))
    told = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, check=True).stdout.split()
    grown = int(told[3]) * (1 if sys.platform == "darwin" else 1024)
    kept = (tmp_path / "out").read_bytes()
    assert (told[0], int(told[1])) == ("ok", 200 << 20)
    assert kept.count(b"\0") == (200 << 20) - int(told[2])
    assert len(kept) < (1 << 20) + 100
    assert b"bytes left out here" in kept
    assert grown < 12 << 20


def test_a_flood_of_lines_is_read_to_its_last_line(run):
    ended = run("import os\nfor _ in range(5): os.write(1, b'no metric in this line\\n' * 40000)\nprint('loss: 1')")
    assert ended.status == "ok"
    assert len(run.lines) == 200_001
    assert run.lines[-1] == ("stdout", "loss: 1")


def test_a_token_that_the_program_printed_is_not_in_the_kept_files(run):
    ended = run(f"import sys; print('key {TOKEN} end'); print('{TOKEN}', file=sys.stderr)")
    assert ended.redacted == 2
    assert TOKEN.encode() not in run.out.read_bytes() + run.err.read_bytes()
    assert run.out.read_bytes().endswith(b" end\n")


def test_a_reader_that_fails_costs_neither_the_run_nor_its_output(run):
    def fail(*_line):
        raise RuntimeError("bug in the reader")

    ended = run("print(1); print(2)", on_line=fail)
    assert (ended.status, run.out.read_bytes()) == ("ok", b"1\n2\n")
    assert "bug in the reader" in ended.trouble


def test_a_full_disk_costs_the_kept_output_and_not_the_run(run):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))  # beyond it a write fails as on a full disk
    try:
        ended = run("print('x' * 5000); print('end')")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert ended.status == "ok"
    assert run.lines[-1] == ("stdout", "end")
    assert "not kept whole" in ended.trouble


def test_stdin_is_empty(run):
    run("import sys; print(repr(sys.stdin.read()))")
    assert run.lines == [("stdout", "''")]


def test_the_environment_is_the_given_one_and_nothing_else(run):
    run("import os; print(sorted(os.environ))", env={"PATH": ENV["PATH"], "ARM": "1", "LC_ALL": "C.UTF-8"})
    assert run.lines == [("stdout", "['ARM', 'LC_ALL', 'PATH']")]


def test_the_folder_is_the_given_one(run, tmp_path):
    (tmp_path / "go.sh").write_text("#!/bin/sh\npwd\n")
    (tmp_path / "go.sh").chmod(0o755)
    run(["./go.sh"], cwd=tmp_path)
    assert Path(run.lines[0][1]).samefile(tmp_path)


def test_a_wish_to_stop_ends_the_run_with_its_reason(run):
    ended = run("import time; time.sleep(60)", should_stop=lambda: "budget spent")
    assert (ended.status, ended.signal, ended.reason) == ("interrupted", "SIGTERM", "budget spent")


def test_time_and_memory_of_the_program_are_measured(run, tmp_path):
    # Its peak by the kernel counts only above our own size, which in a whole test run is larger: below it there are
    # only the looks ten times a second. So it holds its memory until one has surely come: each turn of the loop asks
    # should_stop, then looks. How long it took to fill the memory, and when we got the processor, does not matter.
    held, asked = tmp_path / "held", []

    def count():
        if run.lines:
            asked.append(time.monotonic())
        if len(asked) == 3:
            held.touch()

    ended = run(
        "import os, time\nb = b'x' * (90 << 20)\nt = time.process_time()\n"
        "while time.process_time() - t < 0.2: pass\n"
        f"print('all in use')\nwhile not os.path.exists({str(held)!r}): time.sleep(0.01)",
        should_stop=count,
    )
    assert 0.2 <= ended.cpu_s <= ended.wall_s + 0.5
    assert 90 << 20 <= ended.peak_memory_bytes < 200 << 20


def test_the_peak_of_a_program_larger_than_we_are_is_exact_however_short_it_was(script):
    if not Path("/proc/self/status").exists():
        pytest.skip("only Linux counts a child's peak from before it became the command")
    done = script(
        "import sys, tempfile, pathlib\nfrom runners import process\n"
        "process._peak_of = lambda pid, real=process._peak_of: real(pid) if pid == process.os.getpid() else 0\n"
        "folder = pathlib.Path(tempfile.mkdtemp())\n"
        "argv = [sys.executable, '-c', 'b = b\"x\" * (90 << 20)']\n"
        "ended = process.run_command(argv, env={}, cwd=None, timeout=60, stdout_to=folder / 'out',\n"
        "    stderr_to=folder / 'err', on_line=print)\n"
        "print(ended.peak_memory_bytes)",
        cwd=ROOT,
    )
    assert 90 << 20 <= int(done.stdout) < 200 << 20, done.stderr


def test_a_small_program_is_not_charged_with_our_own_memory(run):
    if not Path("/proc/self/status").exists():
        pytest.skip("only Linux counts a child's peak from before it became the command")
    ballast = b"x" * (150 << 20)
    assert 0 < run(["sleep", "0.1"]).peak_memory_bytes < 50 << 20
    assert (run(["true"]).peak_memory_bytes or 0) < 50 << 20  # too short to be seen, perhaps
    assert len(ballast)


def test_two_runs_in_two_threads_do_not_disturb_each_other(tmp_path):
    ends: dict[int, Exit] = {}

    def one(i: int) -> None:
        ends[i] = run_command(
            [sys.executable, "-c", f"print({i}); raise SystemExit({i})"], env=ENV, cwd=None, timeout=20,
            stdout_to=tmp_path / f"{i}.out", stderr_to=tmp_path / f"{i}.err", on_line=lambda *_: None,
        )  # fmt: skip

    threads = [threading.Thread(target=one, args=(i,)) for i in (1, 2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = {i: (end.code, (tmp_path / f"{i}.out").read_text()) for i, end in ends.items()}
    assert found == {1: (1, "1\n"), 2: (2, "2\n")}


HELPER = """
import os, sys
from pathlib import Path
sys.path.insert(0, {root!r})
from runners.process import run_command
def line(stream, text):
    print("line", text, flush=True)
env = dict(os.environ, PYTHONUNBUFFERED="1")
end = run_command([sys.executable, "-c", {program!r}], env=env, cwd=None, timeout=30, grace=0.5,
    stdout_to=Path({out!r}), stderr_to=Path({err!r}), on_line=line)
print("end", end.status, end.code, end.signal, end.reason, flush=True)
"""
POLITE = (
    "import os, time\ntry:\n    print(os.getpid())\n    time.sleep(60)\nexcept KeyboardInterrupt:\n    print('bye')"
)
DEAF = "import os, time\nfrom signal import *\nsignal(SIGINT, SIG_IGN); signal(SIGTERM, SIG_IGN)\n" + POLITE


def interrupted(tmp_path: Path, program: str, number: int, times: int = 1) -> tuple[list[str], int]:
    """The lines of a process that runs ``program`` and gets a signal, and the pid of the program."""
    text = HELPER.format(root=str(ROOT), program=program, out=str(tmp_path / "o"), err=str(tmp_path / "e"))
    helper = subprocess.Popen([sys.executable, "-c", text], stdout=subprocess.PIPE, text=True)
    assert helper.stdout is not None
    pid = int(helper.stdout.readline().split()[1])
    for _ in range(times):
        helper.send_signal(number)
        time.sleep(0.15)
    rest, _ = helper.communicate(timeout=15)
    return rest.splitlines(), pid


def test_ctrl_c_reaches_the_command_and_its_last_words_are_kept(tmp_path):
    lines, pid = interrupted(tmp_path, POLITE, signal.SIGINT)
    assert lines == ["line bye", "end interrupted 0 None stopped by SIGINT"]
    assert gone(pid)


def test_a_command_that_ignores_ctrl_c_is_killed_after_the_grace(tmp_path):
    lines, pid = interrupted(tmp_path, DEAF, signal.SIGINT)
    assert lines == ["end interrupted None SIGKILL stopped by SIGINT"]
    assert gone(pid)


def test_a_runner_that_is_told_to_end_does_not_leave_its_command_behind(tmp_path):
    lines, pid = interrupted(tmp_path, POLITE, signal.SIGTERM)
    assert lines == ["end interrupted None SIGTERM stopped by SIGTERM"]
    assert gone(pid)


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([], "no command"),
        (["no-such-program-here"], "command not found"),
        (["./no/such/file"], "command not found"),
        (["./folder"], "is a directory"),
        (["./plain.py"], "not executable: write python ./plain.py"),
        (["plain.py"], r"write \./plain.py"),
        (["./empty"], "neither a program nor a script"),
        (["./lost"], "interpreter in its first line"),
        (["true", "a\0b"], "NUL"),
    ],
)
def test_a_command_that_cannot_start_is_refused_in_one_line(run, tmp_path, argv, message):
    (tmp_path / "folder").mkdir()
    (tmp_path / "plain.py").write_text("print(1)")
    for name, text in (("empty", "junk"), ("lost", "#!/no/such/interpreter\n")):
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    with pytest.raises(CommandError, match=message) as caught:
        run(argv, cwd=tmp_path)
    assert "\n" not in str(caught.value)


def test_a_missing_folder_is_refused(run, tmp_path):
    with pytest.raises(CommandError, match="does not exist"):
        run(["true"], cwd=tmp_path / "none")


def test_a_command_can_be_checked_before_anything_is_registered():
    assert Path(check_command(["sh", "-c", "exit 1"], ENV)).name == "sh"

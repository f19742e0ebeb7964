"""Which code a command runs: the git state around it, and a fingerprint of its source.

Results are compared, and runs resumed, only within one fingerprint. So it must be the same on two machines that
hold the same code, and differ whenever a source file differs. It must never change, lock or configure the user's
repository, and never raise because git is missing, slow or refuses: then it says less.
"""

import hashlib
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import msgspec

from ledger.layout import MARK
from ledger.secrets import redact

GIT_TIMEOUT = 10.0
MAX_DIFF = 4 << 20
MAX_UNTRACKED = 1000
MAX_FILES = 2000  # outside git
MAX_TREE = 50_000  # files of a work tree
MAX_HASHED = 64 << 20  # bytes; a larger file counts by its size


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


SUFFIXES = _words(
    ".py .pyx .pxd .pyi .c .cc .cpp .cxx .cu .cuh .h .hpp .hxx .metal .mm .m .rs .go .zig .jl .lua .js .ts "
    ".java .scala .r .sh .bash .zsh .toml .yaml .yml .json .cfg .ini .conf .ipynb .jinja .j2 .sql .cmake .mk"
)
# What a program may well write beside itself: it counts as code when git tracks it, or when the command names it.
DATA_SUFFIXES = _words(".toml .yaml .yml .json .cfg .ini .conf .ipynb .sql")
DATA_SUFFIXES_END = tuple(sorted(DATA_SUFFIXES))
NAMES = _words("Makefile CMakeLists.txt Dockerfile requirements.txt Pipfile.lock poetry.lock uv.lock")
_WRITTEN = frozenset((".log", ".out", ".err", ".pid", ".tmp"))  # named in a command to be written, not read
_SKIPPED = frozenset(("site-packages", "node_modules", "__pycache__", "venv", "env", "build", "dist"))


class Git(msgspec.Struct, frozen=True):
    """The work tree that a folder lies in. Fields are None where git could not say."""

    commit: str | None = None  # None before the first commit
    branch: str | None = None  # None on a detached head
    dirty: bool | None = None  # tracked files differ from the commit, or untracked files exist
    diff: bytes = b""  # the work tree against HEAD, tokens taken out
    diff_left_out: bool = False  # the diff was longer than MAX_DIFF, or did not come in time
    untracked: tuple[str, ...] = ()
    untracked_left_out: int = 0
    remote: str | None = None  # without user, password and query
    note: str = ""  # what went wrong, in one line


def capture_git(cwd: Path | None) -> Git | None:
    """The state of the work tree around ``cwd``; None when there is no git or no repository."""
    top, why = _top(cwd)
    if top is None:
        return Git(note=why) if why else None
    notes = []
    commit = _line(top, "rev-parse", "--verify", "-q", "HEAD")
    listed = _git(top, "status", "--porcelain=v1", "-z", "--untracked-files=all", "--no-renames")
    if listed is None:
        notes.append(f"git status did not answer within {GIT_TIMEOUT:g} s")
    entries = [(e[:2], os.fsdecode(e[3:])) for e in (listed or b"").split(b"\0") if e]
    ours = _ledgers(name for _, name in entries)
    entries = [(state, name) for state, name in entries if not name.startswith(ours)]
    untracked = sorted(name for state, name in entries if state == b"??")
    diff, left_out = _diff(top) if commit else (b"", False)
    if left_out:
        notes.append(f"the diff was cut at {len(diff)} bytes")
    remote = _line(top, "config", "--get", "remote.origin.url")
    return Git(
        commit=commit,
        branch=_line(top, "symbolic-ref", "--short", "-q", "HEAD"),
        dirty=None if listed is None else bool(entries),
        diff=redact(diff)[0],
        diff_left_out=left_out,
        untracked=tuple(_text(name) for name in untracked[:MAX_UNTRACKED]),
        untracked_left_out=max(0, len(untracked) - MAX_UNTRACKED),
        remote=_plain_remote(remote) if remote else None,
        note="; ".join(notes),
    )


def code_digest(argv: Sequence[str], cwd: Path | None) -> str:
    """sha256 over the source that ``argv`` runs in ``cwd``: see ``code_files`` for what is in it."""
    digest = hashlib.sha256()
    for name, content in code_files(argv, cwd):
        for part in (name, content):
            raw = part.encode("utf-8", "surrogateescape")
            digest.update(b"%d:" % len(raw) + raw)
    return digest.hexdigest()


def code_files(argv: Sequence[str], cwd: Path | None) -> tuple[tuple[str, str], ...]:
    """(relative posix path, content hash) of each file in the fingerprint, sorted; to say which one changed.

    In a git work tree: every tracked file of a source-like suffix, and every untracked and not ignored one that is
    no data (a JSON file that a run wrote would make the next run's code another one). Outside:
    every *.py below the folder of the first file that the command names. In both, the regular files that the
    command names, whatever their suffix, and the text behind ``-c``. A program found through PATH (``python``)
    is not in it: its version belongs to the environment.
    """
    folder = (cwd or Path()).absolute()
    named = list(_named(argv, folder))
    anchor = named[0].parent if named else folder
    found: dict[str, str] = {}
    top = _top(anchor)[0]
    base = anchor
    tree = _tree(top) if top is not None else None
    if top is not None and tree is not None:
        found, base = tree, top
    elif named:
        found = {_relative(path, base): _content(path) for path in _below(anchor)}
    for path in named:
        inside = _relative(path, base)
        # Beyond the folder a path differs from machine to machine: there the name alone is told.
        key = f"argv:{path.name}" if inside.startswith("../") else inside
        found.setdefault(key, _content(path))
    for i, word in enumerate(argv[:-1]):
        if word == "-c" and i and Path(argv[i - 1]).name.startswith(("python", "sh", "bash")):
            found["argv:-c"] = _blob_hash(argv[i + 1].encode("utf-8", "surrogateescape"))
    return tuple(sorted(found.items()))


def file_digest(path: Path) -> tuple[str, int]:
    """(sha256, size in bytes) of a file, read in blocks."""
    digest, size = hashlib.sha256(), 0
    with open(path, "rb", buffering=0) as file:
        while block := file.read(1 << 20):
            digest.update(block)
            size += len(block)
    return digest.hexdigest(), size


# -- files ---------------------------------------------------------------------------------------------------


def _is_source(name: str) -> bool:
    base = name.rsplit("/", 1)[-1]
    dot = base.rfind(".")
    return base in NAMES or (dot > 0 and base[dot:].lower() in SUFFIXES)


def _named(argv: Sequence[str], folder: Path) -> Iterator[Path]:
    """The regular files that the command names: the program itself only when it is the user's own."""
    seen = set()
    words = [argv[0]] if argv and "/" in argv[0] and not _is_interpreter(argv[0], folder) else []
    for i, word in enumerate(argv[1:], 1):
        if argv[i - 1] == "-m" and (module := _module(word, folder)):
            words.append(module)
        words += [word] if not word.startswith("-") else []
        if "=" in word:
            words.append(word.split("=", 1)[1])  # --config=conf/a.yaml
    for word in words:
        path = folder / word
        try:
            regular = path.is_file() and path.suffix.lower() not in _WRITTEN
        except (OSError, ValueError):  # a long text, a NUL
            continue
        if regular and (path := Path(os.path.normpath(path))) not in seen:
            seen.add(path)
            yield path


def _module(name: str, folder: Path) -> str | None:
    path = name.replace(".", "/")
    return next((p for p in (f"{path}.py", f"{path}/__main__.py") if (folder / p).is_file()), None)


def _is_interpreter(word: str, folder: Path) -> bool:
    path = folder / word
    if re.fullmatch(r"(?:python|pypy)[\d.]*|uv|torchrun|accelerate|bash|sh|env|node", path.name):
        return True
    return (path.parent.parent / "pyvenv.cfg").exists()


def _below(folder: Path) -> list[Path]:
    found: list[Path] = []
    for visited, (here, folders, names) in enumerate(os.walk(folder)):
        folders[:] = sorted(
            f
            for f in folders
            if f not in _SKIPPED and not f.startswith(".") and not os.path.exists(os.path.join(here, f, "pyvenv.cfg"))
        )
        for name in sorted(names):
            path = Path(here, name)
            if name.endswith(".py") and path.is_file():
                found.append(path)
        if len(found) >= MAX_FILES or visited >= 10 * MAX_FILES:
            return found[:MAX_FILES]
    return found


def _relative(path: Path, base: Path) -> str:
    # The folders are resolved and the file is not: a link is named as it is called in the tree.
    return Path(os.path.relpath(path.parent.resolve() / path.name, base.resolve())).as_posix()


def _content(path: Path) -> str:
    """What git would call the content, so that a file counts the same before and after it is added."""
    try:
        size = path.stat().st_size
        return _blob_hash(path.read_bytes()) if size <= MAX_HASHED else f"size {size}"
    except OSError as why:
        return f"unreadable {why.strerror}"


def _blob_hash(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()


# -- git -----------------------------------------------------------------------------------------------------


def _environment() -> dict[str, str]:
    """Ours, without what would point git elsewhere, and told to lock nothing, ask nothing, fetch nothing."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith("GIT_")}
    return kept | {"GIT_OPTIONAL_LOCKS": "0", "GIT_TERMINAL_PROMPT": "0", "GIT_NO_LAZY_FETCH": "1", "LC_ALL": "C"}


def _command(folder: Path, arguments: Sequence[str]) -> list[str]:
    return ["git", "-C", str(folder), "-c", "core.fsmonitor=false", "-c", "core.quotePath=false", *arguments]


def _git(folder: Path, *arguments: str, feed: bytes = b"") -> bytes | None:
    """What a git command prints; None when it failed or took too long."""
    try:
        done = subprocess.run(
            _command(folder, arguments),
            input=feed, capture_output=True, timeout=GIT_TIMEOUT, env=_environment(), check=False,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired, ValueError):
        return None
    return done.stdout if done.returncode == 0 else None


def _line(folder: Path, *arguments: str) -> str | None:
    out = _git(folder, *arguments)
    return _text(os.fsdecode(out)).strip() or None if out else None


def _top(folder: Path | None) -> tuple[Path | None, str]:
    """(the work tree's top folder, why there is none although git is here and found a repository)."""
    where = folder or Path()
    try:
        done = subprocess.run(
            _command(where, ["rev-parse", "--show-toplevel"]),
            stdin=subprocess.DEVNULL, capture_output=True, timeout=GIT_TIMEOUT, env=_environment(), check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return None, f"git did not answer within {GIT_TIMEOUT:g} s"
    except (OSError, ValueError):
        return None, ""
    if done.returncode == 0 and done.stdout.strip():
        return Path(os.fsdecode(done.stdout[:-1])), ""
    said = done.stderr.decode("utf-8", "replace").strip().split("\n")[0]
    expected = ("not a git repository", "must be run in a work tree", "cannot change to")
    return None, "" if not said or any(e in said for e in expected) else f"git refused: {said[:200]}"


def _tree(top: Path) -> dict[str, str] | None:
    """Path to content hash for the tree's source files. Only files that git does not know as they are get read."""
    staged = _git(top, "ls-files", "-s", "-z")
    changed = _git(top, "ls-files", "-m", "-o", "--exclude-standard", "-z")
    if staged is None or changed is None:
        return None
    found: dict[str, str] = {}
    for entry in staged.split(b"\0"):
        meta, _, raw = entry.partition(b"\t")
        name = os.fsdecode(raw)
        if raw and (_is_source(name) or meta.startswith(b"160000")):  # a submodule counts by its commit
            found[name] = meta.split(b" ")[1].decode()
    names = sorted({os.fsdecode(raw) for raw in changed.split(b"\0") if raw})
    ours = _ledgers((*names, *found))
    found = {name: content for name, content in found.items() if not name.startswith(ours)}
    # A result that a run left untracked (results.json) must not make the next run's code another one.
    names = [
        name
        for name in names
        if _is_source(name) and not name.startswith(ours) and (name in found or not name.endswith(DATA_SUFFIXES_END))
    ]
    if len(found) + len(names) > MAX_TREE:
        return None
    for name in names:
        path = top / name
        if path.is_symlink():
            found[name] = _blob_hash(os.fsencode(os.readlink(path)))
        elif path.is_file():
            found[name] = _content(path)
        else:
            found.pop(name, None)  # deleted, and not yet told to git
    _through_filters(top, names, found)
    return found


def _ledgers(names: Iterable[str]) -> tuple[str, ...]:
    """The folders among these paths that are ledgers: what the log itself writes is no part of the code."""
    return tuple(name[: -len(MARK)] for name in names if name.endswith(f"/{MARK}"))


def _through_filters(top: Path, names: Iterable[str], found: dict[str, str]) -> None:
    """Where .gitattributes changes content on its way into git (line ends), count what git would store."""
    if not (top / ".gitattributes").is_file() and not _line(top, "config", "--get", "core.autocrlf"):
        return
    plain = [n for n in names if n in found and "\n" not in n and not (top / n).is_symlink() and len(found[n]) == 40]
    out = _git(top, "hash-object", "--stdin-paths", feed=b"".join(os.fsencode(n) + b"\n" for n in plain))
    hashes = (out or b"").decode().split()
    if len(hashes) == len(plain):
        found.update(zip(plain, hashes, strict=True))


def _diff(top: Path) -> tuple[bytes, bool]:
    """(the diff against HEAD up to MAX_DIFF, whether there was more)."""
    # Without autoRefreshIndex=false it would rewrite the index, whatever GIT_OPTIONAL_LOCKS says.
    arguments = [
        "-c",
        "diff.autoRefreshIndex=false",
        "diff",
        "HEAD",
        "--binary",
        "--no-color",
        "--no-ext-diff",
        "--no-textconv",
        "--no-renames",
    ]
    try:
        git = subprocess.Popen(
            _command(top, arguments),
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=_environment(),
        )  # fmt: skip
    except OSError:
        return b"", True
    timer = threading.Timer(GIT_TIMEOUT, git.kill)
    timer.start()
    with git:
        assert git.stdout is not None
        data = git.stdout.read(MAX_DIFF + 1)
        if len(data) > MAX_DIFF:
            git.kill()
    timer.cancel()
    left_out = len(data) > MAX_DIFF or git.returncode != 0
    if len(data) > MAX_DIFF:
        data = data[: data.rfind(b"\n", 0, MAX_DIFF) + 1 or MAX_DIFF]  # between lines: no half of a token
    # A file that was only touched has a head and no change.
    return re.sub(rb"^diff --git .*\n(?=diff --git |\Z)", b"", data, flags=re.M), left_out


def _plain_remote(url: str) -> str:
    """The remote without who may enter: no user, no password, no query."""
    if "://" in url:
        parts = urlsplit(url)
        url = urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))
    return redact(url.encode("utf-8", "replace"))[0].decode()


def _text(name: str) -> str:
    """A path as text that can be stored: bytes that are no UTF-8 come escaped."""
    return os.fsencode(name).decode("utf-8", "backslashreplace") if sys.platform != "darwin" else name

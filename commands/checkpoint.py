"""`ledger checkpoint`: sign the present head, and put a copy of it where the writer cannot quietly change it."""

from __future__ import annotations

import os
import subprocess

import click

from commands.common import Asked, print_json, say, shared
from ledger import checkpoints, tiles
from ledger.chain import Log
from ledger.checkpoints import Checkpoint
from ledger.errors import Corrupt, LedgerError, UsageError


@click.command("checkpoint")
@click.argument("path", required=False)
@click.option(
    "--to", "target", type=click.Choice(["git", "file"]),
    help="Keep a copy: as a git note on HEAD of the repository here, or in the file PATH.",
)  # fmt: skip
@click.option("--tiles", "with_tiles", is_flag=True, help="Also write the tree as static files (tlog/, C2SP tiles).")
@shared()
def command(asked: Asked, path: str | None, target: str | None, with_tiles: bool) -> None:
    """Sign the present head (Ed25519, C2SP checkpoint) and print it as SIZE:ROOT.

    It is kept in checkpoint/, after the log was found to begin with everything that was signed
    before. `ledger run` and `ledger decide` do this by themselves when they end.

    \b
    What it proves: whoever has a copy of this head can show that the log
    still begins with these events, or that it does not.
    What it cannot: as long as no copy is outside of the writer's control,
    the holder of the key can write another history and sign that. So give
    the head away: push the git note, send the file, print it in a paper.
    """
    if (target == "file") != (path is not None):
        raise UsageError("a copy in a file is `ledger checkpoint --to file PATH`")
    log = asked.open()
    made = checkpoints.sign(log)
    head = f"{made.size}:{made.root}"
    where = os.path.relpath(made.path, log.root)
    told = {"size": made.size, "root": made.root, "note": where, "signers": _signers(made)}
    if path is not None:
        told["file"] = to_file(log, made, path)
        say(f"{path} holds the head of {made.size} events")
    if target == "git":
        commit, ref = to_git(log, made)
        told |= {"commit": commit, "ref": ref}
        say(f"a git note on commit {commit[:12]} holds the head of {made.size} events; no branch was touched")
        say(f"  give it away:  git push origin {ref}")
        say(f"  look at it:    git notes --ref={ref.removeprefix('refs/notes/')} show {commit[:12]}")
    if with_tiles or os.path.isdir(os.path.join(log.root, "tlog")):
        told["tiles"] = tiles.write(log, made)
        say(f"tlog/ stands at {made.size} events, {told['tiles']} tiles written")
    if asked.json:
        print_json(told)
    else:
        say(f"signed: {where}")
        print(head)


def sign_or_warn(log: Log) -> None:
    """Sign the head at the end of another command, unless that was done: the command does not fail with this."""
    try:
        last = checkpoints.newest(log.root)
        if last is not None and last.size == log.head().position:
            checkpoints.refuse_inconsistent(log, last)
        else:
            checkpoints.sign(log)
    except (LedgerError, OSError) as error:
        say(f"warning: no checkpoint was signed: {error}")


def _signers(made: Checkpoint) -> list[str]:
    return [f"{one.name}+{one.id}" for one in made.note.signatures]


def to_file(log: Log, made: Checkpoint, path: str) -> str:
    """Copy the note to a file; what was kept there before must be an earlier head of this log."""
    try:
        with open(path, "rb") as file:
            kept = file.read(1 << 20)
    except FileNotFoundError:
        kept = b""
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}") from None
    _refuse_another(log, kept, path)
    try:
        temporary = f"{path}.{os.getpid()}.tmp"
        with open(temporary, "xb") as file:
            file.write(made.note.encode())
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        raise LedgerError(f"the head was signed, but not copied to {path}: {error.strerror}") from None
    return os.path.abspath(path)


def to_git(log: Log, made: Checkpoint) -> tuple[str, str]:
    """Attach the note to HEAD under a notes ref of its own; the commit and the ref.

    Not a tag, which `git describe` and release scripts would see; not refs/notes/commits, which
    `git log` shows. Index, work tree and branches stay as they are.
    """
    commit = _git("rev-parse", "--verify", "--quiet", "HEAD^{commit}").decode().strip()
    if not commit:
        raise UsageError("the head was signed, but the git repository here has no commit yet to put a note on")
    ref = f"refs/notes/ledger/{log.identity.id[:12]}"
    kept = _git("notes", f"--ref={ref}", "show", commit, missing=True)
    _refuse_another(log, kept, f"the git note on {commit[:12]}")
    blob = _git("hash-object", "-w", "--stdin", text=made.note.encode()).decode().strip()
    _git("notes", f"--ref={ref}", "add", "--force", "-C", blob, commit)
    return commit, ref


def _refuse_another(log: Log, kept: bytes, where: str) -> None:
    """What was kept in a place before is not lost for another history."""
    if not kept:
        return
    try:
        before = checkpoints.parse(kept, where)
    except Corrupt as error:
        raise UsageError(f"the head was signed, but not copied: {error}; name another place") from None
    checkpoints.refuse_inconsistent(log, before)


def _git(*arguments: str, text: bytes = b"", missing: bool = False) -> bytes:
    try:
        done = subprocess.run(["git", *arguments], input=text, capture_output=True, check=False)
    except OSError as error:
        raise LedgerError(f"the head was signed, but git cannot be run: {error.strerror}") from None
    if done.returncode and arguments[0] == "rev-parse" and not done.stderr:
        return b""
    if done.returncode and not missing:
        why = " ".join(done.stderr.decode(errors="replace").split()) or f"exit code {done.returncode}"
        raise LedgerError(f"the head was signed, but `git {arguments[0]}` failed: {why[:300]}")
    return b"" if done.returncode else done.stdout


__all__ = ["command", "sign_or_warn", "to_file", "to_git"]

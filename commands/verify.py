"""`ledger verify`: prove that the log is what was written, or name the first position that is not."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable

import click
import msgspec

from commands.common import Asked, cell, count, print_json, say, shared
from ledger import checkpoints, keys, layout, proofs, signing, verify
from ledger.chain import Log
from ledger.errors import Corrupt, LedgerError, UsageError


@click.command("verify")
@click.option(
    "--expect-head", metavar="SIZE:ROOT | FILE", help="A head that you kept: the log must still begin with it."
)
@click.option(
    "--trust", metavar="KEYS", help="A file of public keys: one of these must have signed every checkpoint."
)
@click.option("--proof", metavar="FILE", help="Check a proof of `ledger prove`; no ledger is needed.")
@click.option(
    "--level",
    type=click.Choice(verify.LEVELS),
    default="tree",
    help="How much: names and lengths, every file's digest, all of the log (the default), or also what is derived.",
)
@shared()
def command(asked: Asked, expect_head: str | None, trust: str | None, proof: str | None, level: verify.Level) -> int:
    """Read every file, hash every event, build the tree from nothing. Exit code 3 when something is wrong."""
    trusted = signing.read_vkeys(trust) if trust is not None else None
    kept = kept_head(expect_head, trusted) if expect_head is not None else None
    if proof is not None:
        return check_proof(asked, proof, trusted, kept)
    bar = _bar() if sys.stderr.isatty() else None
    try:
        report = verify.verify(asked.ledger or "", bar, level, processes=_cores())
    finally:
        if bar:
            print("\r\033[K", end="", file=sys.stderr, flush=True)
    problems = list(report.problems)
    if level == "derived" and not problems:
        from commands import derived

        problems += [verify.Problem(None, path, what) for path, what in derived.problems(report.path)]
    if kept is not None:
        problems += verify.against(report, kept)
    vouched = None
    if trusted is not None:
        found = checkpoints.untrusted(report.path, trusted)
        problems += [verify.Problem(position, "checkpoint", what) for position, what in found]
        vouched = max((size for size, _ in checkpoints.listed(report.path)), default=0) if not problems else None
    if asked.json:
        told = {**msgspec.to_builtins(report), "problems": msgspec.to_builtins(problems), "ok": not problems}
        print_json(told if trusted is None else {**told, "vouched": vouched})
    else:
        for problem in problems[:20]:
            where = f"position {problem.position}: " if problem.position is not None else ""
            say(f"{where}{problem.path} {problem.what}")
        if len(problems) > 20:
            say(f"and {len(problems) - 20} more")
        for warning in report.warnings[:10]:
            say(f"note: {warning}")
        counts = [(report.packs, "pack"), (report.segments, "segment")]
        files = " and ".join(count(n, what) for n, what in counts if n) or "no files"
        what = f"{count(report.size, 'event')} in {files}, {count(report.chunks, 'chunk')}, "
        what += f"{count(report.blobs, 'blob')}; "
        what += f"root {report.root}" if report.root else f"level {level}: the events were not read"
        if problems:
            first = problems[0]
            at = f"the first wrong position is {first.position}" if first.position is not None else first.path
            say(f"NOT what was written: {at} ({count(len(problems), 'finding')}). Whole up to there: {what}")
        else:
            print(f"verified: {what}")
            if trusted is not None:
                print(f"trusted keys vouch for the first {vouched} of {count(report.size, 'event')}")
    return 3 if problems else 0


def kept_head(said: str, trusted: list[signing.Verifier] | None) -> str:
    """SIZE:ROOT, from that or from a file that holds a checkpoint. Raises UsageError, Corrupt."""
    if ":" in said and not os.path.exists(said):
        if not re.fullmatch(r"[0-9]{1,16}:[0-9a-f]{8,64}", said):
            raise UsageError(
                f"a head is SIZE:ROOT, for example 63:8f3a…, with 8 digits of the root or more, not {said!r}"
            )
        return said
    try:
        checkpoint = checkpoints.load(said)
    except OSError as error:
        raise UsageError(f"a head is SIZE:ROOT or a file with a checkpoint; {said}: {error.strerror}") from None
    if trusted is not None:
        signing.check(checkpoint.note, trusted, said)
    return f"{checkpoint.size}:{checkpoint.root}"


def check_proof(asked: Asked, path: str, trusted: list[signing.Verifier] | None, kept: str | None) -> int:
    """Check a proof and the head that it ends in. Exit code 1 when nothing vouches for that head."""
    try:
        with open(path, "rb") as file:
            proof = proofs.decode(file.read(1 << 20), path)
    except OSError as error:
        raise UsageError(f"cannot read the proof {path}: {error.strerror}") from None
    head = proof.checkpoint
    if not proof.holds():
        raise Corrupt(f"{path} does not hold: its hashes do not lead to the root {head.root}")
    vouched = []
    if kept is not None:
        _refuse_other_head(proof, kept, path)
        vouched.append("the head that you kept")
    if trusted is not None or kept is None:
        known = trusted if trusted is not None else _keys_here(asked, head)
        if known:
            vouched += [f"key {key.name}+{key.id}" for key in signing.check(head.note, known, path)]
    if asked.json:
        print_json({**_claim(proof), "size": head.size, "root": head.root, "vouched": vouched, "ok": bool(vouched)})
    else:
        print(f"{'proved' if vouched else 'follows'}: {_sentence(proof)}")
        print(f"under the head {head.size}:{head.root}")
        print(f"vouched for by {', '.join(vouched)}" if vouched else f"of the log {cell(head.origin)}")
    if not vouched:
        say("nothing vouches for that head: add --trust KEYS or --expect-head SIZE:ROOT")
    return 0 if vouched else 1


def _refuse_other_head(proof: proofs.Inclusion | proofs.Consistency, kept: str, path: str) -> None:
    """Raises Corrupt unless the proof ends in the head that was kept, or leads from it."""
    found = re.fullmatch(r"([0-9]{1,16}):([0-9a-f]{8,64})", kept)
    if found is None:
        raise UsageError(f"a head is SIZE:ROOT, for example 63:8f3a…, not {kept!r}")
    size, root = int(found[1]), found[2]
    heads = [(proof.checkpoint.size, proof.checkpoint.root)]
    if isinstance(proof, proofs.Consistency):
        heads.append((proof.old, proof.old_root))
    if not any(size == there and whole.startswith(root) for there, whole in heads):
        raise Corrupt(f"{path} is about the head {heads[0][0]}:{heads[0][1]}, not about {kept}")


def _keys_here(asked: Asked, head: checkpoints.Checkpoint) -> list[signing.Verifier]:
    """The keys that a ledger at hand announced, if the proof is of that log."""
    if not layout.is_ledger(layout.home(asked.ledger)):
        return []
    try:
        log = Log(asked.ledger)
        if log.identity.origin != head.origin:
            return []
        checkpoints.refuse_inconsistent(log, head)
        return [one.key for one in keys.announced(log).values() if one.signs(head.size)]
    except LedgerError as error:
        say(f"note: the ledger here does not help: {error}")
        return []


def _claim(proof: proofs.Inclusion | proofs.Consistency) -> dict[str, object]:
    if isinstance(proof, proofs.Consistency):
        return {"from": proof.old, "from_root": proof.old_root}
    return {"position": proof.position, "body": proof.body.decode(errors="replace")}


def _sentence(proof: proofs.Inclusion | proofs.Consistency) -> str:
    if isinstance(proof, proofs.Consistency):
        return f"the log begins with the head\n{proof.old}:{proof.old_root}"
    try:
        body = msgspec.json.decode(proof.body)
        return f"{cell(body['type'])} {cell(body['event_id'])} is at position {proof.position}"
    except (msgspec.DecodeError, UnicodeDecodeError, KeyError, TypeError):
        return f"an event of {len(proof.body)} bytes is at position {proof.position}"


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _bar() -> Callable[[int], None]:
    def show(position: int) -> None:
        if position % 64 == 0:
            print(f"\rchecking position {position}", end="", file=sys.stderr)

    return show

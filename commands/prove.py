"""`ledger prove`: write a proof that somebody can check who has neither the ledger nor its files."""

from __future__ import annotations

import click

from commands.common import Asked, find_event, print_json, say, shared
from ledger import checkpoints, proofs, segment
from ledger.chain import Log
from ledger.checkpoints import Checkpoint
from ledger.errors import Corrupt, LedgerError, UsageError


@click.command("prove")
@click.argument("what", required=False, metavar="POSITION | EVENT-ID")
@click.option("--from", "old", type=int, metavar="SIZE", help="Prove that the log begins with its first SIZE events.")
@click.option("--out", metavar="FILE", help="Write the proof there, instead of printing it.")
@shared()
def command(asked: Asked, what: str | None, old: int | None, out: str | None) -> None:
    """Prove that an event is in the log at its position, or that the log only grew since SIZE.

    The proof holds all that is needed: the event, the hashes, and a signed head (the newest one; a
    new one is signed where none reaches so far). `ledger verify --proof FILE` checks it anywhere.
    """
    if (what is None) == (old is None):
        raise UsageError("name an event (ledger prove POSITION) or a size (ledger prove --from SIZE)")
    log = asked.open()
    proof = consistency(log, old) if old is not None else inclusion(log, what or "")
    data = proof.encode()
    if out is not None:
        try:
            with open(out, "wb") as file:
                file.write(data)
        except OSError as error:
            raise LedgerError(f"cannot write the proof to {out}: {error.strerror}") from None
    head = proof.checkpoint
    if asked.json:
        text = {"file": out} if out is not None else {"proof": data.decode()}
        about = {"position": proof.position} if isinstance(proof, proofs.Inclusion) else {"from": proof.old}
        print_json({**about, "size": head.size, "root": head.root, **text})
    elif out is None:
        print(data.decode(), end="")
    else:
        told = (
            f"position {proof.position}"
            if isinstance(proof, proofs.Inclusion)
            else f"the first {proof.old} events ({proof.old}:{proof.old_root[:16]}…)"
        )
        say(f"{out} proves {told} under the head of {head.size} events; check it with")
        say(f"  ledger verify --proof {out} --trust KEYS")


def inclusion(log: Log, what: str) -> proofs.Inclusion:
    """The proof that the event at a position, or with an id, is in the log. Raises UsageError, Corrupt."""
    event = find_event(log, what)
    head = checkpoints.newest(log.root)
    if head is None or head.size <= event.position:
        head = checkpoints.sign(log)
    leaves = _leaves(log, head)
    return proofs.Inclusion(event.position, event.body, tuple(proofs.inclusion(leaves, event.position)), head)


def consistency(log: Log, old: int) -> proofs.Consistency:
    """The proof that the log, as it is now, begins with its first `old` events. Raises UsageError, Corrupt."""
    size = log.head().position
    if not 0 < old <= size:
        raise UsageError(f"the log has {size} events: --from takes 1 to {size}, not {old}")
    head = checkpoints.newest(log.root)
    if head is None or head.size < size:
        head = checkpoints.sign(log)
    leaves = _leaves(log, head)
    return proofs.Consistency(old, proofs.root(leaves[:old]).hex(), tuple(proofs.consistency(leaves, old)), head)


def _leaves(log: Log, head: Checkpoint) -> list[bytes]:
    """Leaves of the log under a checkpoint, which must be its own."""
    leaves = [leaf for _, _, batch in log.batches(0, head.size) for leaf in segment.leaves_of(batch)]
    if len(leaves) != head.size or proofs.root(leaves).hex() != head.root:
        raise Corrupt(f"inconsistent checkpoint: {head.path} is not of this log; `ledger verify` tells more")
    return leaves

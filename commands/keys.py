"""`ledger keys`: the public keys of a log, as a list to trust; and changing one's own."""

from __future__ import annotations

import click

from commands.checkpoint import sign_or_warn
from commands.common import Asked, print_json, say, shared
from ledger import keys
from ledger.chain import Log


@click.command("keys")
@click.argument("action", type=click.Choice(["show", "rotate", "revoke"]), default="show")
@click.argument("key", required=False, metavar="[ID]")
@click.option("--reason", help="Why a key is rotated or revoked; it is kept in the log.")
@shared()
def command(asked: Asked, action: str, key: str | None, reason: str | None) -> None:
    """List the keys that sign heads of this log, NAME+ID+KEY, one a line; or change them.

    `rotate` makes a new key for you and revokes your old one; `revoke ID` ends any key: what it
    signs from there on does not count, what it signed before stays good.

    The list is a file for `ledger verify --trust`. Take it from the person whom you trust, not from
    the ledger that you want to check: whoever can write a log can announce a key. Your private key
    lies in keys/ below LEDGER_CONFIG, else ~/.config/experiment-ledger, and never in the ledger.
    """
    if (action == "revoke") != (key is not None):
        raise click.UsageError("one key is ended with `ledger keys revoke ID --reason WHY`")
    log = asked.open()
    if action == "rotate":
        new, old = keys.rotate(log, reason or "rotated")
        say(f"from here on heads are signed with key {new.id}" + (f"; {old.id} is revoked" if old else ""))
        sign_or_warn(log)
    elif key is not None:
        if not reason:
            raise click.UsageError("say why, with --reason")
        keys.revoke(log, key, reason)
        say(f"key {key} is revoked from here on; what it signed before stays good")
    _show(asked, log)


def _show(asked: Asked, log: Log) -> None:
    known = sorted(keys.announced(log).values(), key=lambda one: one.added)
    for one in known:
        if asked.json:
            at = {"added": one.added, "revoked": one.revoked, "actor": one.actor}
            print_json({"id": one.key.id, "vkey": str(one.key), **at})
        else:
            who = f" by {one.actor!a}" if one.actor else ""
            ended = f", revoked at {one.revoked}" if one.revoked is not None else ""
            print(f"# added at position {one.added}{who}{ended}")
            print(one.key)
    if not known and not asked.json:
        say("no key yet: the first checkpoint makes one")

"""`ledger init`: make a folder a ledger."""

from __future__ import annotations

import click

from commands.common import Asked, print_json, say, shared
from ledger import layout
from ledger.chain import Log


@click.command("init")
@click.argument("path", required=False)
@shared()
def command(asked: Asked, path: str | None) -> None:
    """Make PATH a ledger (default: --ledger, $LEDGER_HOME, ./warehouse). An existing ledger stays as it is."""
    root = layout.home(path or asked.ledger)
    there = layout.is_ledger(root)
    log = Log.create(root)
    if asked.json:
        print_json({"path": log.root, "id": log.identity.id, "created": not there})
    else:
        say(f"{log.root} is {'already ' if there else ''}a ledger ({log.identity.id[:8]})")

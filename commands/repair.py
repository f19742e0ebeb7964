"""`ledger repair`: say what can be done about damage, and with --apply do it."""

from __future__ import annotations

import click

from commands.common import Asked, print_json, say, shared
from ledger import layout, repair


@click.command("repair")
@click.option("--from", "source", metavar="FOLDER", help="Another copy of this ledger, to take damaged files from.")
@click.option("--apply", "do", is_flag=True, help="Do it; without this nothing is touched.")
@shared()
def command(asked: Asked, source: str | None, do: bool) -> int:
    """Say what can be repaired, and how; with --apply, do it. Stop all writers before.

    Leftovers are deleted, derived data are made again, an unreadable last commit that nobody signed for is put
    aside, and what another copy of the ledger holds is taken from there, if the log vouches for it. All other
    damage is told with its positions and left alone: exit code 3.
    """
    made = repair.plan(asked.ledger or "", source)
    if do and not made.damage:
        repair.apply(made)
    if asked.json:
        print_json(
            {
                "path": made.root,
                "applied": do and not made.damage,
                "steps": [step._asdict() for step in made.steps],
                "damage": [
                    {"position": problem.position, "path": problem.path, "what": problem.what}
                    for problem in made.damage
                ],
            }
        )
        return 3 if made.damage else 0
    for step in made.steps:
        taken = f", from {step.source}" if step.source else ""
        print(f"{step.action} {step.path}{taken}\n  {step.why}")
    for problem in made.damage[:20]:
        where = f"position {problem.position}: " if problem.position is not None else ""
        say(f"{where}{problem.path} {problem.what}")
    if len(made.damage) > 20:
        say(f"and {len(made.damage) - 20} more")
    if made.damage:
        say(
            "this cannot be repaired from what is here, and nothing was touched; what is whole before it stays as it "
            "is, and where the log has a gap no command reads it. Restore it with `ledger repair --from COPY --apply`"
        )
        return 3
    if not made.steps:
        print(f"nothing to repair in {layout.home(asked.ledger)}")
    elif do:
        print("done; `ledger verify` proves it")
    else:
        print("nothing was touched; `ledger repair --apply` does it")
    return 0

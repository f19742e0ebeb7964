"""`ledger matrix`: which record or arm has which technique, as a picture a technique a line."""

from __future__ import annotations

import click

from commands.common import Asked, cell, print_json, say, shared

_WIDTH = 48  # stacks side by side in 80 columns
_MARKS = {1: "+", 0: "·", -1: "-"}


@click.command("matrix")
@click.option("--all", "everything", is_flag=True, help="Also techniques that the vocabulary does not know.")
@click.option("--source", type=click.Choice(["record", "experiment"]), help="Only records, or only own arms.")
@click.option("-n", "--last", type=click.IntRange(1), default=_WIDTH, help="The newest N stacks (default: 48).")
@shared(as_of=True)
def command(asked: Asked, everything: bool, source: str | None, last: int) -> None:
    """Show the intervention matrix: + has it, - takes it out, a point does not name it.

    With --json one line a stack, with all of its techniques. The long form is a table:
    ledger sql "SELECT * FROM intervention_matrix"
    """
    tables = asked.tables(asked.open())
    rows = tables.rows(
        """SELECT matrix.*, records.val_bpb, records.date
        FROM intervention_matrix AS matrix LEFT JOIN records ON records.record = matrix.stack
        WHERE ($1 OR matrix.known) AND coalesce(matrix.source = $2, true)
        ORDER BY matrix.source, records.date, matrix.stack, matrix.intervention""",
        (everything, source),
    )
    stacks: dict[str, dict[str, object]] = {}
    for row in rows:
        made = stacks.setdefault(row["stack"], {"stack": row["stack"], "source": row["source"], "name": row["name"]})
        made["val_bpb"] = row["val_bpb"]
        made[row["intervention"]] = (row["level"] or 1) if row["value"] == 1 else row["value"]
    if asked.json:
        for made in stacks.values():
            print_json(made)
        return
    if not stacks:
        say("no record was read and no experiment changed a setting yet; `ledger extract DIR` reads records")
        return
    shown = list(stacks)[-last:]
    values = {(row["stack"], row["intervention"]): row["value"] for row in rows}
    counts: dict[str, int] = {}
    for (stack, name), value in values.items():
        if stack in shown and value:
            counts[name] = counts.get(name, 0) + 1
    for number, stack in enumerate(shown, 1):
        score = stacks[stack]["val_bpb"]
        told = f"{score:.4f}" if isinstance(score, float) else ""
        print(f"{number:4}  {told:6}  {cell(stack.rsplit('/', 1)[-1])[:66]}")
    if len(stacks) > len(shown):
        say(f"the newest {len(shown)} of {len(stacks)} stacks; -n shows more")
    print()
    for name in sorted(counts, key=lambda name: (-counts[name], name)):
        line = "".join(_MARKS.get(values.get((stack, name), 2), " ") for stack in shown)
        print(f"{cell(name)[:25].ljust(25)} {counts[name]:4} {line}")

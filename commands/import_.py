"""`ledger import`: other tools' results into the log."""

from __future__ import annotations

from pathlib import Path

import click

from commands.common import Asked, cell, print_json, say, shared
from commands.extract import ledger_of, progress
from ledger.errors import UsageError

_KINDS = ("first-pipeline", "autoresearch", "modded-nanogpt")


@click.command("import")
@click.argument("kind", type=click.Choice(_KINDS))
@click.argument("path")
@shared()
def command(asked: Asked, kind: str, path: str) -> int:
    """Bring what another tool left at PATH into the log, once.

    first-pipeline: interventions.json, raw_runs.json, ablation_results.json, causal_dag.json,
    experiment_log.json, pipeline_log.json, or their folder. autoresearch: results.tsv.
    modded-nanogpt: a record's folder, or one that holds them. Imported runs belong to no plan, so
    they can suggest and never confirm.
    """
    from runners.importers.bringing import KINDS, bring

    place = Path(path)
    if not place.exists():
        raise UsageError(f"there is nothing at {path}")
    found = KINDS[kind](place)
    if not (found.items or found.readings or found.failed):
        raise UsageError(f"there is nothing to import in {path}")
    log = ledger_of(asked)
    with progress(len(found.items) + len(found.readings) + len(found.kept), "things") as step:
        made = bring(log, found, step)
    if made.total() > made["same"]:
        from commands.checkpoint import sign_or_warn
        from commands.compact import compact_or_warn

        sign_or_warn(log)
        compact_or_warn(log)
    for where, reason in found.failed:
        say(f"{cell(where)}: {cell(reason)}")
    if asked.json:
        failed = [{"path": where, "reason": reason} for where, reason in found.failed]
        print_json(
            {**{name: made[name] for name in ("runs", "records", "claims", "files", "same")}, "failed": failed}
        )
    else:
        names = [name for name in ("runs", "records", "claims", "files") if made[name]]
        told = [f"{made[name]} {name.removesuffix('s') if made[name] == 1 else name}" for name in names]
        before = f"; {made['same']} were there already" if made["same"] else ""
        print(f"imported {', '.join(told) or 'nothing new'}{before}")
    return 1 if found.failed else 0

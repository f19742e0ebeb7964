"""`ledger status`: what the ledger holds, and what is running."""

from __future__ import annotations

import os

import click

from commands.common import Asked, count, print_json, print_rows, shared
from ledger import pack


@click.command("status")
@shared(as_of=True)
def command(asked: Asked) -> None:
    """Size and head of the log, and one line an experiment."""
    log = asked.open()
    tables = asked.tables(log)
    rows = tables.rows(
        """WITH counted AS (
            SELECT experiment, count(*) AS runs, count(*) FILTER (status = 'ok') AS ok,
                count(*) FILTER (status = 'running') AS running,
                count(*) FILTER (status NOT IN ('ok', 'running')) AS failed
            FROM runs GROUP BY experiment
        ), decided AS (
            SELECT
                experiment,
                string_agg(intervention || ' ' || replace(verdict, '_', ' '), ', ' ORDER BY intervention) AS verdicts
            FROM decisions WHERE latest AND registered GROUP BY experiment
        )
        SELECT name, left(experiments.experiment, 8) AS id, coalesce(ok, 0) AS ok, coalesce(failed, 0) AS failed,
            coalesce(running, 0) AS running, arm_count * seed_count AS planned,
            coalesce(verdicts, 'not decided') AS decided
        FROM experiments
        LEFT JOIN counted ON counted.experiment = experiments.experiment
        LEFT JOIN decided ON decided.experiment = experiments.experiment
        ORDER BY registered_position"""
    )
    alone = tables.rows("SELECT count(*) AS n FROM runs WHERE experiment IS NULL")[0]["n"]
    (read,) = tables.rows(
        """SELECT (SELECT count(*) FROM records) AS records,
            (SELECT count(*) FROM extraction_failures WHERE standing) AS failed,
            (SELECT count(*) FROM record_readings WHERE newest AND unusable > 0) AS in_part,
            (SELECT count(*) FROM leaderboard) AS leaderboard_rows"""
    )
    head = tables.head
    files = [*(path for _, path in log.listed_in(log.root)), *(p.path for p in pack.listed(log.root))]
    # What lies there now is not what lay there then.
    held = sum(map(_size, files)) if head.position == log.head().position else None
    if asked.json:
        print_json(
            {
                "path": log.root,
                "id": log.identity.id,
                "events": head.position,
                "root": head.root,
                "log_bytes": held,
                "experiments": rows,
                "runs_alone": alone,
                "records": read["records"],
                "records_failed": read["failed"],
                "records_in_part": read["in_part"],
                "leaderboard_rows": read["leaderboard_rows"],
            }
        )
        return
    size = f", {held:,} bytes of log" if held is not None else ""
    print(f"{log.root}  {count(head.position, 'event')}{size}, head {head.root[:16]}")
    if rows:
        print_rows(rows, asked)
    if alone:
        print(f"{alone} run{'' if alone == 1 else 's'} outside of experiments")
    if read["records"] or read["failed"]:
        failed = f", {read['failed']} could not be read" if read["failed"] else ""
        part = f" ({read['in_part']} only in part)" if read["in_part"] else ""
        print(f"{read['records']} record{'' if read['records'] == 1 else 's'} read{part}{failed}")


def _size(path: str) -> int:
    try:
        return os.path.getsize(path)
    except FileNotFoundError:  # packed a moment ago
        return 0

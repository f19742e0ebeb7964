"""`ledger cycle`: extract, revise, rank, run, decide, revise again, until a stop rule of the plan holds.

Each step is an event, or nothing where there is nothing new. So a cycle that was killed at any moment goes on from
the log: what was ranked is run, what was run is decided, and no step is done twice.
"""

from __future__ import annotations

import contextlib
import os
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from commands.at_once import at_once, gpu_names
from commands.common import Asked, cell, count, print_json, say, shared, table
from ledger.chain import Log
from ledger.errors import Conflict, NotALedger, UsageError
from ledger.events import CyclePlanned, CycleRanked
from ledger.writer import Draft, Expect

if TYPE_CHECKING:
    from runners.cycle_plan import CyclePlan
    from runners.cycling import Planned
    from runners.plan import Plan


@click.command("cycle")
@click.argument("path", metavar="PLAN.toml")
@click.option("--dry-run", is_flag=True, help="Say what it would do next; nothing is written or run.")
@at_once
@shared()
def command(asked: Asked, path: str, dry_run: bool, jobs: int | None, gpus: str | None) -> int:
    """Carry out the cycles of PLAN.toml until one of its stop rules holds.

    Each cycle reads the records (if the plan names a folder), revises the DAG, ranks, runs what is most worth
    its cost on fresh seeds, and decides. Started again, it goes on where the log stands.
    """
    from commands.run import runner_for
    from runners.cycling import register, standing

    plan = read_file(path)
    folder = _records(plan, path)
    with contextlib.ExitStack() as stack:
        log = _log(asked, dry_run, stack)
        names = gpu_names(gpus)
        runner = runner_for(plan.whole, log)
        runner.at_once(jobs, names)
        around = runner.surroundings()
        if dry_run:
            found = standing(log, plan, runner, around)
            _tell_dry(asked, log, plan, found, folder)
            return 0
        from runners.alone import only_one

        found = standing(log, plan, runner, around)
        stack.enter_context(only_one(log, f"cycle-{found.event.cycle}"))
        found = register(log, plan, runner, around)
        _elsewhere(log, found.event)
        code = _series(asked, log, plan, found, folder, jobs, names)
        from commands.checkpoint import sign_or_warn
        from commands.compact import compact_or_warn

        log.close()
        sign_or_warn(log)
        compact_or_warn(log)
        return code


def read_file(path: str) -> CyclePlan:
    """The cycle plan in a file. Raises UsageError."""
    from runners.cycle_plan import parse
    from runners.plan import MAX_PLAN_BYTES

    try:
        with open(path, "rb") as file:
            data = file.read(MAX_PLAN_BYTES + 1)
        return parse(data.decode(), path)
    except (OSError, UnicodeDecodeError) as error:
        why = "it is not UTF-8 text" if isinstance(error, UnicodeDecodeError) else error.strerror
        raise UsageError(f"cannot read the cycle plan {path}: {why}") from None


def _log(asked: Asked, dry_run: bool, stack: contextlib.ExitStack) -> Log:
    import tempfile

    from commands.extract import ledger_of

    if not dry_run or asked.ledger is not None or os.environ.get("LEDGER_HOME"):
        return ledger_of(asked)
    try:
        return Log()
    except NotALedger:
        return Log.create(stack.enter_context(tempfile.TemporaryDirectory(prefix="ledger-cycle-")))


def _records(plan: CyclePlan, path: str) -> Path | None:
    """The folder of records that the plan names, seen from the plan. Raises UsageError where there is none."""
    if plan.records is None:
        return None
    folder = Path(os.path.dirname(os.path.abspath(path)), plan.records)
    if not folder.is_dir():
        raise UsageError(f"{path}: records = {plan.records!r} is not a folder ({folder.name} is not there)")
    return folder


def _elsewhere(log: Log, planned: CyclePlanned) -> None:
    """Say when a series of this name stands for other code, data or hardware."""
    for event in log.events(types=("cycle.planned",)):
        data = event.data
        if isinstance(data, CyclePlanned) and data.name == planned.name and data.cycle != planned.cycle:
            say(
                f"event {event.position} plans {planned.name} for other code, data, hardware, metric or shared "
                "settings: this is another series, which begins with its first cycle"
            )
            return


# ── the loop ──


def _series(
    asked: Asked,
    log: Log,
    plan: CyclePlan,
    found: Planned,
    folder: Path | None,
    jobs: int | None,
    gpus: tuple[str, ...],
) -> int:
    from projections.cycling import standing
    from projections.engine import tables

    planned = found.event
    assert found.event_id is not None
    while True:
        built = tables(log)
        now = standing(built, planned.cycle)
        match now.step:
            case "done":
                assert now.last is not None
                _tell_end(asked, log, planned, now.last)
                return 0
            case "run" | "decide":
                assert now.last is not None
                if now.step == "run" and not _run(log, plan, now.last, jobs, gpus):
                    say("interrupted; the same command goes on from here")
                    return 130
                _decide(log, now.last, planned)
            case "rank":
                _extract(log, folder)
                _revise(log)
                _rank(log, planned, found.event_id)


def _extract(log: Log, folder: Path | None) -> None:
    """Read the records again: the same bytes are read once."""
    if folder is None:
        return
    from commands.extract import Scan
    from runners.extraction.record import find_records
    from runners.records import repository_of

    scan = Scan(log, False, None)
    scan.read(folder, find_records(folder), repository_of(folder))
    new = sum(count for verdict, count in scan.verdicts.items() if verdict not in ("same", "older"))
    for failure in scan.failed:
        say(f"extract: {cell(failure['path'])}: {cell(failure['reason'])}")
    if scan.appended:
        say(f"extract: {new} of {scan.verdicts.total()} records are new")


def _revise(log: Log) -> None:
    """Revise the causal DAG; without anything to compare yet that is said and is no error."""
    from commands.dag import revise

    try:
        made, position, new = revise(log)
    except UsageError as error:
        say(f"revise: {error}")
        return
    if new:
        known = [edge.status for edge in made.edges]
        say(f"revise: event {position}, {known.count('supported')} of {len(known)} edges supported")


def _rank(log: Log, planned: CyclePlanned, plan_id: str) -> CycleRanked:
    """Append the ranking that begins a cycle, or that ends the series."""
    from projections.cycling import rank
    from projections.engine import tables

    stream = f"cycle/{planned.cycle}"
    for _ in range(5):
        built = tables(log)
        made = rank(built, planned, plan_id)
        try:
            log.writer.append([Draft(stream, made)], Expect(stream, built.head.position))
        except Conflict:
            continue
        say(f"rank: {made.why}")
        return made
    raise Conflict(f"the series {planned.name} is carried on by several processes at once; try again")


def _run(log: Log, plan: CyclePlan, ranked: CycleRanked, jobs: int | None, gpus: tuple[str, ...]) -> bool:
    """Run what is missing of the ranking's plan; False when it was interrupted."""
    from commands.run import Progress, runner_for
    from runners.conduct import conduct

    experiment = _plan_of(plan, ranked)
    runner = runner_for(experiment, log)
    slots = runner.at_once(jobs, gpus)
    say(f"run: {experiment.name}, {count(len(experiment.cells()), 'run')}")
    with Progress(experiment, slots) as progress:
        done = conduct(log, experiment, runner, progress.update, jobs=slots)
    return not done.interrupted


def _plan_of(plan: CyclePlan, ranked: CycleRanked) -> Plan:
    """The plan that a ranking asks for. Series of one name on two bases are two families."""
    family = f"{plan.name}/{ranked.cycle[:8]}"
    return plan.experiment(ranked.experiment, ranked.chosen, ranked.seeds, family, ranked.number)


def _decide(log: Log, ranked: CycleRanked, planned: CyclePlanned) -> None:
    from commands.decide import decide
    from projections.engine import tables

    (row,) = tables(log).rows(
        "SELECT experiment FROM experiments WHERE name = $1 AND base = $2", (ranked.experiment, planned.base)
    )
    ((decisions, _),) = decide(log, row["experiment"])
    for made in decisions:
        say(f"decide: {made.why}")


# ── what it says ──


def _tell_end(asked: Asked, log: Log, planned: CyclePlanned, last: CycleRanked) -> None:
    from projections.engine import tables

    built = tables(log)
    rows = built.rows("SELECT * FROM budget WHERE cycle = $1 AND stopped = '' ORDER BY number", (planned.cycle,))
    found = built.rows(
        """SELECT ranked.number, decision.intervention, decision.verdict, decision.effect, decision.ci95_lo,
            decision.ci95_hi, decision.why
        FROM decisions AS decision
        INNER JOIN experiments ON experiments.experiment = decision.experiment AND experiments.base = $2
        INNER JOIN facts.cycle_ranked AS ranked
            ON ranked.experiment = experiments.name AND ranked.cycle = $1
        WHERE decision.latest AND decision.registered
        ORDER BY ranked.number, decision.intervention""",
        (planned.cycle, planned.base),
    )
    if asked.json:
        print_json(
            {
                "cycle": planned.cycle,
                "name": planned.name,
                "cycles": len(rows),
                "runs": sum(row["runs"] for row in rows),
                "wall_s": sum(row["wall_s"] or 0.0 for row in rows),
                "stopped": last.stopped,
                "why": last.why,
                "decisions": found,
            }
        )
        return
    runs = count(sum(row["runs"] for row in rows), "run")
    print(f"\n{planned.name}: {planned.metric}, {count(len(rows), 'cycle')}, {runs}\n")
    lines = [["cycle", "candidate", "effect", "95 % interval", "verdict"]]
    for row in found:
        interval = "" if row["ci95_lo"] is None else f"{row['ci95_lo']:+.4f} to {row['ci95_hi']:+.4f}"
        effect = "" if row["effect"] is None else f"{row['effect']:+.4f}"
        lines.append([str(row["number"]), row["intervention"], effect, interval, row["verdict"].replace("_", " ")])
    if found:
        table(lines, numeric={0, 2})
    print(textwrap.fill(cell(last.why), 79))
    where = f" --ledger {asked.ledger}" if asked.ledger else ""
    say(f'\nnext: ledger next{where} --blocked · ledger sql{where} "SELECT * FROM budget"')


def _tell_dry(asked: Asked, log: Log, plan: CyclePlan, found: Planned, folder: Path | None) -> None:
    """What the next steps would be, from the log as it is."""
    from projections.cycling import rank, standing
    from projections.engine import tables

    built = tables(log)
    now = standing(built, found.event.cycle)
    if now.step == "done" and found.new:
        now = now._replace(step="rank")
    told: dict[str, Any] = {"name": plan.name, "registered": found.event_id is not None and not found.new}
    told["step"] = now.step
    ranked: CycleRanked | None = now.last if now.step != "rank" else rank(built, found.event, found.event_id or "")
    assert ranked is not None
    told |= {
        "number": ranked.number,
        "chosen": list(ranked.chosen),
        "seeds": list(ranked.seeds),
        "alpha": ranked.alpha,
        "runs": len(ranked.seeds) * (len(ranked.chosen) + 1) if ranked.chosen else 0,
        "stopped": ranked.stopped,
        "why": ranked.why,
        "rules": [{"rule": one.rule, "limit": one.limit, "at": one.at, "holds": one.holds} for one in ranked.rules],
        "plan": None,
    }
    if ranked.chosen:
        told["plan"] = _plan_of(plan, ranked).text
    if asked.json:
        print_json(told)
        return
    steps = {
        "rank": [
            *([f"read the records in {plan.records}"] if folder else []),
            "revise the DAG where there is something new",
            "rank, and record the ranking",
        ],
        "run": [f"go on with the runs of {ranked.experiment}"],
        "decide": [f"decide {ranked.experiment}"],
        "done": ["nothing: the series has ended"],
    }[now.step]
    if ranked.chosen and now.step == "rank":
        steps += [
            f"run {ranked.experiment}: {count(told['runs'], 'run')} on seeds {_span(ranked.seeds)}",
            "decide, and go on",
        ]
    for number, step in enumerate(steps, 1):
        print(f"{number}. {step}")
    print()
    print(textwrap.fill(cell(ranked.why), 79))
    rules = ", ".join(
        f"best score {one.at:.2g}" + (f" at a price of {one.limit:g}" if one.limit else "")
        if one.rule == "price"
        else f"{one.rule} {one.at:.3g} of {one.limit:g}"
        for one in ranked.rules
    )
    print(f"stop rules: {rules}")
    if told["plan"] and now.step == "rank":
        print("\nThe plan would be:\n")
        print(textwrap.indent(told["plan"].rstrip(), "    "))
    say("\nnothing was written or run")


def _span(seeds: tuple[int, ...]) -> str:
    return f"{seeds[0]}-{seeds[-1]}" if len(seeds) > 1 else str(seeds[0])

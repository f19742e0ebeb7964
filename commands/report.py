"""`ledger report`: a Markdown page on an experiment, from the tables alone."""

from __future__ import annotations

import html
import os
from types import SimpleNamespace
from typing import Any

import click

from commands.common import Asked, count, find_experiment, print_json, say, shared
from commands.decide import verdict
from commands.plot import default_folder, plot
from commands.screens import page as screen_page
from ledger.chain import Log
from ledger.errors import UsageError


@click.command("report")
@click.argument("experiment", required=False)
@click.option("-o", "--output", default=None, metavar="DIR", help="Where to (default: ./out/NAME).")
@shared(as_of=True)
def command(asked: Asked, experiment: str | None, output: str | None) -> None:
    """Write report.md and the plots of EXPERIMENT (default: the newest), and say what it found."""
    log = asked.open()
    tables = asked.tables(log)
    plan = find_experiment(tables, experiment)
    folder = output or default_folder(tables, plan)
    plots, why_none = [], ""
    try:
        plots = plot(tables, plan, folder)
    except UsageError as error:
        why_none = str(error)
        say(why_none)
    path = os.path.join(folder, "report.md")
    try:
        os.makedirs(folder, exist_ok=True)
        with open(path, "w", encoding="utf-8") as file:
            file.write(page(log, tables, plan, [os.path.basename(p) for p in plots], why_none))
    except OSError as error:
        raise UsageError(f"cannot write {path}: {error.strerror}") from None
    decisions = _decisions(tables, plan)
    if asked.json:
        print_json({"report": path, "plots": plots, "found": [row["why"] for row in decisions]})
        return
    for row in decisions:
        print(row["why"])
    print(f"report: {path}" + (f" (with {count(len(plots), 'plot')} beside it)" if plots else ""))


def _decisions(tables: Any, plan: dict[str, Any]) -> list[dict[str, Any]]:
    rows = tables.rows(
        """SELECT * FROM decisions WHERE experiment = $1 AND latest AND registered
        ORDER BY effect NULLS LAST, intervention""",
        (plan["experiment"],),
    )
    return list(rows)


def page(log: Log, tables: Any, plan: dict[str, Any], plots: list[str], why_none: str) -> str:
    """The report's text, with why there are no plots if there are none. Everything that a person typed is escaped."""
    decisions = _decisions(tables, plan)
    better = "lower is better" if plan["direction"] == "lower" else "higher is better"
    parts = [f"# {text(plan['name'])}", ""]
    if plan["question"]:
        parts += [text(plan["question"]), ""]
    screen = screen_page(tables, plan, text)
    parts += screen or ["## What may be claimed", ""]
    parts += [f"- {text(row['why'])}" for row in decisions] or (
        [] if screen else ["Nothing yet: no decision was made (`ledger decide`)."]
    )
    if decisions:
        parts += ["", *_verdicts(decisions)]
    parts += ["", "## The plan", ""]
    parts += [
        f"- metric **{text(plan['metric'])}** ({better}); an effect matters from {plan['delta']:g}",
        f"- {count(plan['arm_count'], 'arm')}, {count(plan['seed_count'], 'seed')} each; "
        f"control **{text(plan['control'])}**",
        f"- family-wise error {plan['alpha']:g} over "
        f"{count(plan['hypothesis_count'], 'hypothesis', 'hypotheses')}, "
        f"by policy {text(plan['policy'])}",
        f"- registered at position {plan['first_position']} on {plan['first_registered_at']:%Y-%m-%d %H:%M} UTC"
        + (f", amended {count(plan['amendments'], 'time')} since" if plan["amendments"] else ", not amended since"),
        f"- runner {text(plan['runner'])} on {text(plan['platform'])}; base `{plan['base']}`",
    ]
    parts += ["", "## Every run", "", *_runs(tables, plan)]
    parts += ["", "## Every pair", "", *_pairs(tables, plan)]
    if plots:
        parts += ["", "## Loss curves", ""]
        against = text(plan["control"])
        parts += [f"![{text(os.path.splitext(name)[0])} against {against}]({name})\n" for name in plots]
    elif why_none:
        parts += ["", "## Loss curves", "", f"None: {text(why_none)}."]
    head = tables.head
    parts += [
        "",
        "## How to check this",
        "",
        f"Made from the first {count(head.position, 'event')} of ledger `{log.identity.id}`, Merkle root",
        f"`{head.root}`.",
        "",
        "```",
        f"ledger verify --expect-head {head.position}:{head.root[:16]}",
        *[f"ledger replay {row['position']}    # {text(row['intervention'])}" for row in decisions],
        "```",
        "",
        "`undecided` is not `no effect`: that is claimed only where the 90 % interval lies within the smallest",
        "effect that matters. docs/statistics.md of experiment-ledger says what each verdict means and how it is",
        "computed.",
        "",
    ]
    return "\n".join(parts)


def _verdicts(decisions: list[dict[str, Any]]) -> list[str]:
    by_e = any(row["mode"] == "anytime" for row in decisions)
    evidence = "e-value" if by_e else "p" if any(row["mode"] == "looks" for row in decisions) else "Holm p"
    rows = [f"| arm | effect | 95 % interval | {evidence} | seeds | verdict |", "|---|--:|--:|--:|--:|---|"]
    for row in decisions:
        known = row["effect"] is not None and row["ci95_lo"] is not None
        interval = f"{row['ci95_lo']:+.4f} to {row['ci95_hi']:+.4f}" if known else ""
        effect = f"{row['effect']:+.4f}" if row["effect"] is not None else ""
        told = row["e_value" if by_e else "p" if evidence == "p" else "p_adj"]
        p = f"{told:.2g}" if told is not None else ""
        rows.append(
            f"| {text(row['intervention'])} | {effect} | {interval} | {p} | {row['n_t']}:{row['n_c']} "
            f"| {text(verdict(SimpleNamespace(**row)))} |"
        )
    return rows


def _runs(tables: Any, plan: dict[str, Any]) -> list[str]:
    rows = ["| arm | seed | status | value | steps | seconds | run |", "|---|--:|---|--:|--:|--:|---|"]
    for row in tables.rows(
        "SELECT * FROM runs WHERE experiment = $1 ORDER BY arm, seed, started_position", (plan["experiment"],)
    ):
        value = "" if row["value"] is None else f"{row['value']:.6g}"
        seconds = "" if row["wall_s"] is None else f"{row['wall_s']:.1f}"
        status = row["status"] if not row["reason"] else f"{row['status']}: {row['reason'][:80]}"
        steps = "" if row["steps"] is None else str(row["steps"])
        cells = [text(row["arm"]), str(row["seed"]), text(status), value, steps, seconds, f"`{row['run'][:8]}`"]
        rows.append(f"| {' | '.join(cells)} |")
    return rows


def _pairs(tables: Any, plan: dict[str, Any]) -> list[str]:
    rows = ["| arm | seed | arm's value | control's | difference |", "|---|--:|--:|--:|--:|"]
    for row in tables.rows(
        "SELECT * FROM paired_differences WHERE experiment = $1 ORDER BY intervention, seed",
        (plan["experiment"],),
    ):
        cells = ["" if row[name] is None else f"{row[name]:.6g}" for name in ("y_t", "y_c")]
        last = f"{row['d']:+.6f}" if row["both_ok"] else text(row["reason_dropped"])
        rows.append(f"| {text(row['intervention'])} | {row['seed']} | {cells[0]} | {cells[1]} | {last} |")
    return rows


def text(value: Any) -> str:
    """Text that a person or a program gave, harmless in Markdown and in the HTML made from it."""
    safe = html.escape(" ".join(str(value).split()), quote=False)
    for mark in "\\`*_[]|!#":
        safe = safe.replace(mark, f"\\{mark}" if mark not in "_#!" else mark)
    return safe.replace("|", "&#124;").replace("\\&#124;", "&#124;")

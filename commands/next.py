"""`ledger next`: what to run next, and why; with --write a plan that is ready to run."""

from __future__ import annotations

import os
import re
import textwrap
from collections.abc import Mapping
from typing import Any

import click

from commands.common import Asked, cell, print_json, say, shared, table, wide
from ledger.errors import UsageError


@click.command("next")
@click.option("--top", type=click.IntRange(1), default=10, metavar="N", help="How many to print (default: 10).")
@click.option("--price", type=float, default=None, help="Leave out what scores below it.")
@click.option("--blocked", is_flag=True, help="Print what may not be chosen as well, and why.")
@click.option(
    "--write", "path", default=None, metavar="PLAN.toml", help="Write a plan for the first; never over a file."
)
@shared(as_of=True)
def command(asked: Asked, top: int, price: float | None, blocked: bool, path: str | None) -> None:
    """Rank what could be measured next by how much it may improve a choice, for its cost.

    Own arms, cycle candidates, techniques of the records (after `ledger dag revise`), controls, platforms.
    """
    if price is not None and not 0 <= price < float("inf"):
        raise click.UsageError(f"--price must be a number from 0, not {price}")
    log = asked.open()
    tables = asked.tables(log)
    rows = tables.rows("SELECT * FROM next_interventions ORDER BY rank NULLS LAST, id")
    open_ = [row for row in rows if row["rank"] is not None and row["score"] >= (price or 0.0)]
    below = sum(row["rank"] is not None for row in rows) - len(open_)
    shown = open_[:top] + ([row for row in rows if row["rank"] is None][:top] if blocked else [])
    if path is not None and not open_:
        raise UsageError(f"there is nothing to write a plan for; {_nothing(tables, rows, below)}")
    written = _write(tables, open_[0], path) if path is not None else None
    if asked.json:
        for row in shown:
            print_json(row)
        if written is not None:
            say(written)
        return
    if not shown:
        print("nothing to run next")
        say(_nothing(tables, rows, below))
        return
    _print(shown)
    if open_:
        print()
        print(textwrap.fill(cell(open_[0]["reason"]), 79))
    for row in [row for row in shown if row["rank"] is None]:
        print(textwrap.fill(f"{cell(row['candidate'])}: {cell(row['blocked_by'])}", 79, subsequent_indent="  "))
    if len(open_) > top:
        say(f"{len(open_) - top} more; --top shows them")
    if below:
        say(f"{below} score below the price of {price:g}")
    if written is not None:
        say(written)
    elif open_:
        where = f" --ledger {asked.ledger}" if asked.ledger else ""
        say(f"\nnext: ledger next{where} --write PLAN.toml")


def _nothing(tables: Any, rows: list[dict[str, Any]], below: int) -> str:
    """Why there is nothing, and what to do."""
    if below:
        return f"all {below} score below the price"
    if rows:
        return f"all {len(rows)} are decided or blocked; --blocked says why"
    (count,) = tables.rows("SELECT count(*) AS n FROM records")
    if count["n"]:
        return f"there are {count['n']} records and no revision of the DAG yet: `ledger dag revise`, then ask again"
    return "there is no experiment, no cycle plan and no record: `ledger run PLAN.toml` or `ledger extract DIR` first"


_WORDS = {
    "ablate": "ablate",
    "add_seeds": "more seeds",
    "separate_aliases": "separate",
    "grow_bank": "controls",
    "transfer_check": "transfer",
    "factorial_screen": "screen",
}


def _print(rows: list[dict[str, Any]]) -> None:
    """The ranking, 80 columns wide."""
    lines = [["", "candidate", "action", "k", "cost", "effect", "±", "gain", "score", "seed"]]
    for row in rows:
        lines.append(
            [
                "" if row["rank"] is None else str(row["rank"]),
                cell(row["candidate"]),
                _WORDS[row["action"]],
                str(row["k"]),
                f"{row['cost']:.2g}",
                f"{row['m']:+.2g}",
                f"{row['sd']:.2g}",
                _small(row["gain"]),
                _small(row["score"]),
                "" if row["seed_rule_rank"] is None else str(row["seed_rule_rank"]),
            ]
        )
    others = [max(map(len, column)) for index, column in enumerate(zip(*lines, strict=True)) if index != 1]
    room = max(9, min(17, 80 - wide([*others, 0])))
    lines = [[rank, _short(candidate, room), *rest] for rank, candidate, *rest in lines]
    table(lines, numeric={0, 3, 4, 5, 6, 7, 8, 9})


def _small(value: float) -> str:
    """A gain or a score; what is far below anything that can be measured is 0."""
    return f"{value:.1g}" if value >= 1e-12 else "0"


def _short(text: str, width: int) -> str:
    return text if len(text) <= width else f"{text[: width - 1]}…"


# ── the plan ──


def _write(tables: Any, row: dict[str, Any], path: str) -> str:
    """Write the plan for a row; one line that says so. Raises UsageError, and never writes over a file."""
    if not path.endswith(".toml"):
        raise click.UsageError(f"--write takes a file that ends in .toml, not {path}")
    proposal = propose(tables, row)
    try:
        with open(path, "x", encoding="utf-8") as file:
            file.write(proposal.text)
    except FileExistsError:
        raise UsageError(f"{path} is there already and is not written over; name another file") from None
    except OSError as error:
        raise UsageError(f"cannot write {path}: {os.strerror(error.errno or 0)}") from None
    if proposal.fill_in:
        return f"wrote {path}; fill in: {proposal.fill_in}"
    return f"wrote {path}; next: ledger run {path}"


def propose(tables: Any, row: dict[str, Any]) -> Any:
    """A plan for a row of next_interventions. Raises UsageError where none can be made."""
    from runners import proposals

    arms = row["arms"].split(", ") if row["arms"] else []
    name = _name(tables, row)
    seeds = _seeds(tables, row)
    reason = row["reason"]
    if row["source"] == "lineage":
        return proposals.technique(arms, _accepts, name, seeds, row["delta"], reason)
    if row["source"] == "cycle":
        return _of_cycle(tables, row, name, arms, seeds)
    raw = _registered(tables, row["experiment"])
    if row["source"] == "screen":
        return proposals.factor_by_itself(raw, row["candidate"], name, seeds, reason)
    if row["action"] == "factorial_screen":
        return _screen(tables, row, name, seeds)
    if row["source"] == "transfer":
        target = _registered(tables, _on_target(tables, row))
        chosen = [one for one in raw["arm"] if one["name"] in arms]
        here = {"arm": [target["arm"][0], *chosen], **{key: target[key] for key in target if key != "arm"}}
        return proposals.again(here, arms, name, seeds, reason, {})
    fields = {"tuning_seeds": raw["tuning_seeds"]} if "tuning_seeds" in raw else {}
    return proposals.again(raw, [] if row["action"] == "grow_bank" else arms, name, seeds, reason, fields)


def _accepts(settings: Mapping[str, Any]) -> bool:
    """Whether the built-in trainer has these settings; none where what it needs is not installed."""
    try:
        from runners.gpt_config import GptConfig
    except ImportError:
        return False
    try:
        GptConfig.from_dict(settings)
    except ValueError:
        return False
    return True


def _registered(tables: Any, experiment: str) -> dict[str, Any]:
    """The newest registered plan of an experiment that has all its arms, as plain data."""
    from runners.proposals import raw_plan

    rows = tables.rows(
        "SELECT plan, name FROM facts.experiment_registered WHERE experiment = $1 ORDER BY position DESC",
        (experiment,),
    )
    if not rows:
        raise UsageError(f"experiment {experiment} is not registered in this ledger")
    raw = raw_plan(rows[0]["plan"], rows[0]["name"])
    names = {arm["name"] for arm in raw.get("arm", [])}
    for row in rows[1:]:  # arms that an amendment left out
        for arm in raw_plan(row["plan"], row["name"]).get("arm", []):
            if arm["name"] not in names:
                names.add(arm["name"])
                raw["arm"].append(arm)
    return raw


def _on_target(tables: Any, row: dict[str, Any]) -> str:
    (found,) = tables.rows(
        "SELECT experiment FROM experiments WHERE base = $1 ORDER BY registered_position DESC LIMIT 1", (row["base"],)
    )
    return str(found["experiment"])


def _of_cycle(tables: Any, row: dict[str, Any], name: str, arms: list[str], seeds: list[int]) -> Any:
    from runners import proposals
    from runners.cycle_plan import parse

    (found,) = tables.rows(
        """SELECT plan, alpha FROM facts.cycle_planned WHERE name = $1 AND base = $2
        ORDER BY position DESC LIMIT 1""",
        (row["about"], row["base"]),
    )
    plan = parse(found["plan"], f"cycle plan {row['about']}")
    whole = plan.experiment(name, [one.name for one in plan.candidates], seeds)
    raw = proposals.raw_plan(whole.text, name)
    if row["action"] == "factorial_screen":
        return proposals.screen(raw, arms, name, seeds, row["reason"])[0]
    note = f"{row['reason']} By itself, outside of the cycles of {row['about']}: `ledger cycle` goes on with those."
    return proposals.again(raw, arms, name, seeds, note, {})


def _screen(tables: Any, row: dict[str, Any], name: str, seeds: list[int]) -> Any:
    """A screen of arms that several experiments on one base have."""
    from runners import proposals

    rows = tables.rows(
        """SELECT DISTINCT experiment, registered_position FROM experiments
        WHERE base = $1 ORDER BY registered_position DESC""",
        (row["base"],),
    )
    raw = _registered(tables, row["experiment"])
    names = {arm["name"] for arm in raw["arm"]}
    for one in rows:
        for arm in _registered(tables, one["experiment"]).get("arm", []):
            if arm["name"] not in names:
                names.add(arm["name"])
                raw["arm"].append(arm)
    arms = row["arms"].split(", ")
    return proposals.screen(raw, [arm for arm in arms if arm in names], name, seeds, row["reason"])[0]


def _name(tables: Any, row: dict[str, Any]) -> str:
    """A name that no experiment has."""
    stem = re.sub(r"[^A-Za-z0-9]+", "-", row["candidate"]).strip("-")[:40] or "next"
    ending = {"add_seeds": "more", "grow_bank": "controls", "factorial_screen": "screen"}.get(row["action"], "next")
    taken = {one["name"] for one in tables.rows("SELECT name FROM experiments")}
    name = f"{stem}-{ending}"
    number = 2
    while name in taken:
        name, number = f"{stem}-{ending}-{number}", number + 1
    return name


def _seeds(tables: Any, row: dict[str, Any]) -> list[int]:
    """Seeds that no plan on this base has, as many as are worth it; two at least, for one tells no noise."""
    (found,) = tables.rows(
        """SELECT greatest(
            (SELECT max(seed) FROM runs WHERE base = $1),
            (SELECT max(seed) FROM (
                SELECT unnest(seeds || coalesce(tuning_seeds, [])) AS seed
                FROM facts.experiment_registered WHERE base = $1
            )),
            (SELECT max(first_seed + 40 * seeds) FROM facts.cycle_planned WHERE base = $1)
        ) AS last""",
        (row["base"],),
    )
    first = 0 if found["last"] is None else found["last"] + 1
    count = 1 if row["action"] == "factorial_screen" else max(2, row["k"])
    return list(range(first, first + count))

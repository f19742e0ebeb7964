"""`ledger plan`: register a plan before any run, and say what it can see and what it costs."""

from __future__ import annotations

import contextlib
import math
import shlex
import textwrap
from typing import TYPE_CHECKING, Any

import click

from commands.common import Asked, cell, print_json, say, shared
from ledger.chain import Log
from ledger.errors import NotALedger, UsageError

if TYPE_CHECKING:
    from projections.planning import Noise, Sight
    from runners.cells import Surroundings
    from runners.plan import Plan
    from runners.registration import Standing


@click.command("plan")
@click.argument("path", metavar="PLAN.toml")
@click.option("--dry-run", is_flag=True, help="Print it without registering it.")
@click.option("--small", is_flag=True, help="The plan at its small size, as its [small] table says.")
@click.option("--devices", type=click.IntRange(min=0), default=None, help="As of `ledger run`.")
@click.option("--set", "settings", multiple=True, metavar="NAME=VALUE", help="As of `ledger run`.")
@click.option("--amend", is_flag=True, help="Add seeds or arms to a plan that is registered.")
@click.option("--reason", default=None, metavar="WHY", help="Why it is amended; it stays in the log.")
@click.option("--sd", type=float, default=None, help="Seed standard deviation of one run, as far as you know it.")
@shared()
def command(
    asked: Asked,
    path: str,
    dry_run: bool,
    small: bool,
    devices: int | None,
    settings: tuple[str, ...],
    amend: bool,
    reason: str | None,
    sd: float | None,
) -> None:
    """Register PLAN.toml before its runs, and print what it can see and how many runs it costs.

    `ledger run PLAN.toml` then runs it. A run that began before its plan can suggest, never confirm.
    """
    from commands.run import read_file, runner_for, with_settings
    from runners.plan import check_hypotheses
    from runners.registration import base_fingerprint, experiment_id, register, standing

    if sd is not None and not 0 < sd < math.inf:
        raise click.UsageError(f"--sd must be a number above 0 (of one run, over seeds), not {sd}")
    if amend != (reason is not None):
        raise click.UsageError("--amend and --reason go together: an amendment says why")
    if reason is not None and not reason.strip():
        raise click.UsageError("an amendment needs a reason")
    plan = with_settings(read_file(path, small=small), settings, devices)
    check_hypotheses(plan, path)
    with contextlib.ExitStack() as stack:
        log = _log(asked, dry_run, stack)
        runner = runner_for(plan, log)
        around = runner.surroundings()
        base = base_fingerprint(plan, runner, around)
        experiment = experiment_id(plan, base)
        found = standing(log, plan, runner, base, experiment, around)
        state = _state(found, path, amend)
        told = _tell(asked, log, plan, around, found, sd)
        told["factors"] = [factor.name for factor in plan.factor]
        if plan.kind == "screen":
            told["power"] = _screen_power(told, len(plan.factor), sd)
        position: int | None = None
        if state != "registered before" and not dry_run:
            registered = register(log, plan, runner, base, experiment, around, reason or "")
            position = log.find(registered.event_id).position
            _end(log)
        if told["elsewhere"] is not None and state == "registered":
            other = "other code, data, hardware, metric or shared settings"
            say(f"event {told['elsewhere']} registers {plan.name} for {other}; not compared")
        over = [f"--set {shlex.quote(one)}" for one in settings]
        more = [*(["--small"] if small else []), *over, *([f"--devices {devices}"] if devices is not None else [])]
        _print(asked, told, state, position, dry_run, " ".join([path, *more]))


def _log(asked: Asked, dry_run: bool, stack: contextlib.ExitStack) -> Log:
    """The ledger that is meant, made where it is the default one; a dry run makes none that stays."""
    import tempfile

    from commands.run import _named_home

    if asked.ledger is not None or _named_home():
        return asked.open()
    if not dry_run:
        return Log.create()
    try:
        return Log()
    except NotALedger:
        return Log.create(stack.enter_context(tempfile.TemporaryDirectory(prefix="ledger-plan-")))


def _state(found: Standing, path: str, amend: bool) -> str:
    """What registering would do. Raises UsageError for what `ledger plan` does not do."""
    from runners.registration import ranges

    name = found.wanted.name
    if not found.known:
        if amend:
            raise UsageError(
                f"plan {name!r} is not registered for this code, data and machine: there is nothing to amend; "
                f"`ledger plan {path}` registers it"
            )
        return "registered"
    seeds, arms = found.left_out
    if seeds or arms:
        what = f"seeds {ranges(seeds)}" if seeds else f"arms {', '.join(sorted(arms))}"
        raise UsageError(
            f"plan {name!r} is registered with {what}, which stay in it whatever becomes of them; keep them"
        )
    more, new = found.added
    rest = [change for change in found.changes if change.key not in ("seeds", "arms", "hypotheses")]
    if not more and not new and not rest:
        return "registered before"
    if amend:
        return "amended"
    changed = "; ".join(f"{one.key} {one.before} -> {one.after}" for one in found.changes)
    raise UsageError(
        f"plan {name!r} is registered already, and this one differs ({changed}); "
        f"`ledger plan {path} --amend --reason WHY` amends it"
    )


def _end(log: Log) -> None:
    from commands.checkpoint import sign_or_warn
    from commands.compact import compact_or_warn

    log.close()
    sign_or_warn(log)
    compact_or_warn(log)


def _tell(
    asked: Asked, log: Log, plan: Plan, around: Surroundings, found: Standing, sd: float | None
) -> dict[str, Any]:
    """Everything that the plan says and what follows from it, as plain data. Raises UsageError for a metric
    that runs of this very program did not tell."""
    from projections.planning import granted, noise, runs_on_record, told_metrics

    wanted = found.wanted
    tables = asked.tables(log)
    if plan.script is not None and not plan.script.patterns:
        _refuse_metric(wanted.metric, told_metrics(tables, wanted.command, around.code))
    known = noise(tables, wanted.noise_class, wanted.policy, wanted.pair_tier)
    arms, seeds, most = len(wanted.arms), len(wanted.seeds), wanted.n_max
    on_record = runs_on_record(tables, wanted.experiment)
    return {
        "elsewhere": _elsewhere(tables, wanted.name, wanted.experiment),
        "experiment": wanted.experiment,
        "name": wanted.name,
        "question": wanted.question,
        "family": wanted.family,
        "control": wanted.control,
        "hypotheses": [
            {"arm": claim.arm, "predict": claim.predict, "effect": claim.effect} for claim in wanted.hypotheses
        ],
        "metric": wanted.metric,
        "direction": wanted.direction,
        "delta": wanted.delta,
        "alpha": wanted.alpha,
        "look": found.look,
        "alpha_look": granted(wanted.policy, wanted.alpha, found.look, wanted.cycle),
        "cycle": wanted.cycle,
        "stopping": wanted.stopping,
        "looks": list(wanted.looks),
        "n_max": most,
        "tau": wanted.tau,
        "seeds": list(wanted.seeds),
        "seed_role": wanted.seed_role,
        "tuning_seeds": list(wanted.tuning_seeds),
        "pair_tier": wanted.pair_tier,
        "estimand": wanted.estimand,
        "track": wanted.track,
        "policy": wanted.policy,
        "platform": wanted.noise_class.platform,
        "scale": wanted.noise_class.scale,
        "stage": wanted.noise_class.stage,
        "noise": None if known is None else known._asdict(),
        "stated_sd": sd,
        "power": _power(found, tables, known, sd),
        "runs": {
            "on_record": on_record,
            "now": arms * seeds - on_record,
            "at_most": None if most is None else arms * most,
        },
    }


def _elsewhere(tables: Any, name: str, experiment: str) -> int | None:
    """Position of the newest other experiment of this name."""
    (row,) = tables.rows(
        "SELECT max(first_position) AS position FROM experiments WHERE name = $1 AND experiment <> $2",
        (name, experiment),
    )
    return None if row["position"] is None else int(row["position"])


def _refuse_metric(metric: str, told: list[str]) -> None:
    import difflib

    if told and metric not in told:
        close = difflib.get_close_matches(metric, told, 1)
        hint = f"did you mean {close[0]!r}?" if close else f"they told {', '.join(told[:8])}"
        raise UsageError(f"no run of this command and code told the metric {metric!r}; {hint}")


def _power(found: Standing, tables: Any, known: Noise | None, stated: float | None) -> list[dict[str, Any]]:
    """What the seeds of now and those at the end of the plan show, by the noise in the log and by the stated one."""
    from projections.planning import bank, sight

    wanted = found.wanted
    if not wanted.hypotheses:
        return []  # a screen, see _screen_power
    whens = [("now", len(wanted.seeds), found.look)]
    if wanted.n_max is not None and wanted.n_max > len(wanted.seeds):
        last = len(wanted.looks) if wanted.stopping == "looks" else found.look
        whens.append(("end", wanted.n_max, max(last, found.look)))
    shared_controls = bank(tables, wanted)
    noises = [("log", known.sd if known else None), ("stated", stated)]
    rows = []
    for source, sd in [each for each in noises if each[1] is not None] or [("unknown", None)]:
        for when, seeds, look in whens:
            seen: Sight = sight(
                policy=wanted.policy,
                tier=wanted.pair_tier,
                stopping=wanted.stopping,
                looks=wanted.looks,
                tau=wanted.tau,
                cycle=wanted.cycle,
                bank=shared_controls,
                known=known,
                arms=len(wanted.arms),
                seeds=seeds,
                family=len(wanted.hypotheses),
                alpha=wanted.alpha,
                look=look,
                delta=wanted.delta,
                sd=sd,
            )
            rows.append({"when": when, "noise": source, **seen._asdict()})
    return rows


def _screen_power(told: dict[str, Any], factors: int, stated: float | None) -> list[dict[str, Any]]:
    """What a screen shows: each factor compares half of all its runs with the other half."""
    from projections.planning import sight

    half = (told["runs"]["now"] + told["runs"]["on_record"]) // 2
    known = told["noise"]
    noises = [("log", known["sd"] if known else None), ("stated", stated)]
    rows = []
    for source, sd in [each for each in noises if each[1] is not None] or [("unknown", None)]:
        seen = sight(
            policy=told["policy"],
            arms=2,
            seeds=half,
            family=factors,
            alpha=told["alpha"],
            look=1,
            delta=told["delta"],
            sd=sd,
        )
        rows.append({"when": "now", "noise": source, **seen._asdict()})
    return rows


# ── for people ──

_SHARE = {
    "fork": "two runs of one seed continue one checkpoint",
    "rerun": "two runs of one seed differ by the change alone",
    "seed": "two runs of one seed share its number",
    "none": "two runs of one seed share nothing",
}
_ESTIMAND = {"wallclock": "the effect on speed included", "fixed_step": "without the effect on speed"}


def _print(asked: Asked, told: dict[str, Any], state: str, position: int | None, dry_run: bool, path: str) -> None:
    if asked.json:
        print_json({"state": state, "dry_run": dry_run, "position": position, **told})
        return
    for label, value in _lines(told):
        if value:
            print(textwrap.fill(cell(value), 79, initial_indent=label.ljust(13), subsequent_indent=" " * 13))
    where = f" --ledger {asked.ledger}" if asked.ledger else ""
    if dry_run:
        said = "would be registered" if state == "registered" else "would be amended" if state == "amended" else state
        say(f"\n{said}; nothing was written")
        return
    at = "" if position is None else f", event {position}"
    say(f"\n{state}{at}; next: ledger run{where} {path}")


def _lines(told: dict[str, Any]) -> list[tuple[str, str]]:
    from runners.registration import ranges

    claims = [
        f"{claim['arm']} {claim['predict']}" + ("" if claim["effect"] is None else f" by {claim['effect']:+g}")
        for claim in told["hypotheses"]
    ]
    if told["factors"]:
        claims = [f"average effects of {', '.join(told['factors'])}, over stacks of them"]
    count = f"{len(claims)} hypothes{'is' if len(claims) == 1 else 'es'}"
    seeds = f"{ranges(told['seeds'])}, to {'confirm' if told['seed_role'] == 'confirm' else 'tune'}"
    if told["tuning_seeds"]:
        seeds += f"; tuning seeds {ranges(told['tuning_seeds'])}"
    confirms = told["track"] == "confirm" and told["seed_role"] == "confirm"
    return [
        ("plan", f"{told['name']}, experiment {told['experiment']}"),
        ("question", told["question"]),
        ("family", "" if told["factors"] else f"{told['family']}, {count}"),
        ("screens", claims[0])
        if told["factors"]
        else ("hypotheses", f"against {told['control']}: {', '.join(claims)}"),
        ("metric", f"{told['metric']}, {told['direction']} is better; an effect matters from {told['delta']:g}"),
        ("alpha", _alpha(told)),
        ("seeds", seeds),
        ("stopping", _stopping(told)),
        ("pairs", f"{told['pair_tier']}: {_SHARE[told['pair_tier']]}"),
        ("estimand", f"{told['estimand']}: {_ESTIMAND[told['estimand']]}"),
        ("track", told["track"] if confirms else f"{told['track']}: its runs can suggest, not confirm"),
        ("policy", told["policy"]),
        ("noise class", f"{told['platform']}, scale {told['scale']}, {told['metric']}, {told['stage']}"),
        ("noise", _noise(told)),
        *(("power", _sees(row, told)) for row in told["power"]),
        ("runs", _runs(told["runs"])),
    ]


def _alpha(told: dict[str, Any]) -> str:
    text = f"{told['alpha']:g} for the family"
    if told["cycle"] is not None:
        return f"{text} in all its cycles, {told['alpha_look']:.3g} in cycle {told['cycle']} (two-sided)"
    if told["alpha_look"] != told["alpha"]:
        return f"{text}, {told['alpha_look']:.3g} at look {told['look']} (two-sided)"
    if told["stopping"] == "looks":
        return f"{text}, spent over the looks (two-sided)"
    return f"{text} (two-sided)"


def _stopping(told: dict[str, Any]) -> str:
    match told["stopping"]:
        case "looks":
            return f"looks at {', '.join(map(str, told['looks']))} seeds"
        case "anytime":
            end = f"up to {told['n_max']} seeds" if told["n_max"] else "without an end"
            return f"anytime, by e-values (tau {told['tau'] or told['delta']:g}), {end}"
    look = "one look" if told["look"] == 1 else f"look {told['look']}"
    if told["look"] > 1 and told["policy"].startswith("ledger/"):
        look += ", which was not planned: by e-values"
    return f"fixed: all {len(told['seeds'])} seeds, then {look}"


def _noise(told: dict[str, Any]) -> str:
    parts = []
    if known := told["noise"]:
        parts.append(f"sd {known['sd']:.3g} of one run ({known['kind']}), {known['df']} df from {known['runs']} runs")
    if told["stated_sd"] is not None:
        parts.append(f"sd {told['stated_sd']:g} stated")
    return "; ".join(parts) or "not known: no runs of this noise class in the log yet; state it with --sd"


def _sees(row: dict[str, Any], told: dict[str, Any]) -> str:
    """One line on what a number of seeds can see."""
    if row["in_sd"] is None:
        return f"{told['policy']} judges against a target or a margin: what a plan can see is not told"
    by = f"{row['seeds']} runs a level" if told["factors"] else f"{row['seeds']} seeds"
    if row["noise"] == "stated" and told["noise"]:
        by += " (stated sd)"
    if row["smallest"] is None:
        return f"{by}: 80 % for an effect of {row['in_sd']:.2g} sd of one run"
    text = f"{by}: 80 % for an effect of {row['smallest']:.2g}, {100 * row['at_delta']:.0f} % for {told['delta']:g}"
    if row["at_delta"] < 0.8:
        need = row["seeds_for_delta"]
        unit = "runs a level" if told["factors"] else "seeds"
        text += f", which needs {need} {unit}" if need else ", which needs more than 10,000 seeds"
    return text


def _runs(runs: dict[str, Any]) -> str:
    have = f" ({runs['on_record']} on record)" if runs["on_record"] else ""
    most = "no limit by the stopping rule" if runs["at_most"] is None else f"{runs['at_most']} at most"
    return f"{runs['now']} now{have}, {most}"

"""`ledger plot`: loss curves, each arm against the control, one picture an arm, as PNG and SVG.

Above, every seed's line, the means, and a band of one standard deviation; below, where seeds are shared, what
an arm is at minus what the control is at, seed by seed: noise that a pair shares is gone from it, and a
difference too small to see above is seen there. A run that went on from another's checkpoint has that one's
curve up to there; where arm and control share all of it, it is drawn once. The same points give the same bytes."""

from __future__ import annotations

import math
import os
import re
import textwrap
from collections.abc import Sequence
from hashlib import sha256
from typing import Any, NamedTuple

import click

from commands.common import Asked, find_experiment, print_json, say, shared
from ledger.errors import UsageError

Seeds = dict[int, tuple[list[int], list[float]]]  # seed -> (steps, values)
Curves = dict[str, Seeds]  # by arm


class _Run(NamedTuple):
    arm: str
    seed: int
    ok: bool
    here: bool  # of this experiment; else one of its runs went on from it
    fork_of: str | None


_CONTROL, _ARM = "#6b7280", "#1d4ed8"


@click.command("plot")
@click.argument("experiment", required=False)
@click.option("-o", "--output", default=None, metavar="DIR", help="Where to (default: ./out/NAME).")
@click.option("--metric", default=None, help="Which metric (default: the loss that was logged most often).")
@click.option(
    "--format",
    "kinds",
    type=click.Choice(["png", "svg", "both"]),
    default="both",
    show_default=True,
    help="Pixels for a page, lines for print, or both.",
)
@shared(as_of=True)
def command(asked: Asked, experiment: str | None, output: str | None, metric: str | None, kinds: str) -> None:
    """Draw each arm against the control: every seed, means, one standard deviation, and the paired difference."""
    log = asked.open()
    tables = asked.tables(log)
    plan = find_experiment(tables, experiment)
    folder = output or default_folder(tables, plan)
    paths = plot(tables, plan, folder, metric, ("png", "svg") if kinds == "both" else (kinds,))
    if asked.json:
        print_json({"experiment": plan["experiment"], "files": paths})
    else:
        print("\n".join(paths))


def default_folder(tables: Any, plan: dict[str, Any]) -> str:
    """out/NAME; with the id where several experiments have that name, so that none writes over another's."""
    rows = tables.rows("SELECT experiment FROM experiments WHERE name = $1", (plan["name"],))
    name = file_name(plan["name"])
    return os.path.join("out", name if len(rows) == 1 else f"{name}-{plan['experiment'][:8]}")


def file_name(name: str) -> str:
    """A name of ours as a file's name: nothing in it can leave the folder."""
    return re.sub(r"[^A-Za-z0-9_.+=-]+", "-", name).strip(".-") or "unnamed"


def plot(
    tables: Any, plan: dict[str, Any], folder: str, metric: str | None = None, kinds: Sequence[str] = ("png",)
) -> list[str]:
    """Write the plots of an experiment into `folder`; their paths. Raises UsageError without points."""
    runs = _runs(tables, plan["experiment"])
    metric = metric or _usual_metric(tables, plan, runs)
    curves = _curves(tables, runs, metric)
    forked = any(run.fork_of for run in runs.values())
    control = curves.pop(plan["control"], {})
    if not curves and not control:
        raise UsageError(f"experiment {plan['name']} has no points of {metric!r} to plot")
    if all(len(steps) < 2 for seeds in (control, *curves.values()) for steps, _ in seeds.values()):
        raise UsageError(
            f"experiment {plan['name']}: {metric!r} was told at one step a run, which is no curve to draw"
        )
    try:
        os.makedirs(folder, exist_ok=True)
    except OSError as error:
        raise UsageError(f"cannot write to {folder}: {error.strerror}") from None
    for arm in _arms(tables, plan["experiment"]):
        if arm not in curves and (arm != plan["control"] or not control):
            say(f"arm {arm}: no run that finished has points of {metric!r}, so it is in no plot")
    taken: set[str] = set()
    paths: list[str] = []
    for arm, seeds in sorted(curves.items()) or [(plan["control"], {})]:
        name = file_name(arm)
        if name in taken:  # "a/b" and "a:b" are two arms, and one file name
            name = f"{name}-{sha256(arm.encode()).hexdigest()[:8]}"
        taken.add(name)
        made = [os.path.join(folder, f"{name}.{kind}") for kind in kinds]
        try:
            _draw(made, plan, metric, arm, seeds, control, one=forked and seeds == control)
        except OSError as error:
            raise UsageError(f"cannot write {error.filename or folder}: {error.strerror}") from None
        paths += made
    return paths


def _arms(tables: Any, experiment: str) -> list[str]:
    rows = tables.rows("SELECT DISTINCT arm FROM runs WHERE experiment = $1 ORDER BY arm", (experiment,))
    return [row["arm"] for row in rows]


def _runs(tables: Any, experiment: str) -> dict[str, _Run]:
    """The runs of an experiment in the order of their start, and those whose checkpoints they went on from."""
    found: dict[str, _Run] = {}
    query = "SELECT run, arm, seed, status, fork_of FROM runs WHERE {} ORDER BY started_position"
    rows = tables.rows(query.format("experiment = $1"), (experiment,))
    here = True
    while rows:
        for row in rows:
            found[row["run"]] = _Run(row["arm"], row["seed"], row["status"] == "ok", here, row["fork_of"])
        wanted = sorted({run.fork_of for run in found.values() if run.fork_of} - found.keys())
        rows, here = tables.rows(query.format("run IN (SELECT unnest($1))"), (wanted,)) if wanted else [], False
    return found


def _usual_metric(tables: Any, plan: dict[str, Any], runs: dict[str, _Run]) -> str:
    """The loss with the most points; else the metric with the most points; of those that have a curve in some run."""
    rows = tables.rows(
        """SELECT name, sum(n) AS n, max(steps) AS steps FROM (
            SELECT name, count(*) AS n, count(DISTINCT step) AS steps FROM metrics
            WHERE run IN (SELECT unnest($1)) GROUP BY name, run
        ) GROUP BY name ORDER BY max(steps) > 1 DESC, contains(lower(name), 'loss') DESC, n DESC, name""",
        (list(runs),),
    )
    if not rows:
        raise UsageError(f"experiment {plan['name']} has logged no metrics to plot")
    if rows[0]["steps"] < 2:
        raise UsageError(f"no run of experiment {plan['name']} told a metric at two steps: there is no curve to draw")
    return str(rows[0]["name"])


def _curves(tables: Any, runs: dict[str, _Run], metric: str) -> Curves:
    rows = tables.rows(
        """SELECT run, step, value FROM metrics
        WHERE run IN (SELECT unnest($1)) AND name = $2 AND isfinite(value)
        ORDER BY run, step, event_position, row""",
        (list(runs), metric),
    )
    told: dict[str, dict[int, float]] = {}
    for row in rows:
        told.setdefault(row["run"], {})[row["step"]] = row["value"]  # logged again: the last counts
    found: Curves = {}
    for name, run in runs.items():
        if run.ok and run.here and (points := _whole(name, runs, told)):
            found.setdefault(run.arm, {})[run.seed] = list(points), list(points.values())
    return found


def _whole(name: str, runs: dict[str, _Run], told: dict[str, dict[int, float]]) -> dict[int, float]:
    """A run's points by step, with those of the runs that it went on from before its own first one."""
    chain = [name]
    while (before := runs[chain[-1]].fork_of) in runs and before not in chain:
        chain.append(before)
    points: dict[int, float] = {}
    for one in reversed(chain):
        own = told.get(one, {})
        first = min(own, default=math.inf)
        points = {**{step: value for step, value in points.items() if step < first}, **own}
    return points


def _draw(
    paths: list[str], plan: dict[str, Any], metric: str, arm: str, treated: Seeds, control: Seeds, one: bool
) -> None:
    """`one`: arm and control are one training."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    apart = {} if one else _apart(treated, control)
    figure, parts = pyplot.subplots(
        2 if apart else 1,
        figsize=(7.2, 5.6 if apart else 4.2),
        dpi=140,
        layout="constrained",
        sharex=True,
        squeeze=False,
        gridspec_kw={"height_ratios": (2.4, 1) if apart else (1,)},
    )
    axes = parts[0, 0]
    for name, seeds, color in ((plan["control"], control, _CONTROL), (arm, treated, _ARM)):
        if one and seeds is treated:
            _draw_arm(axes, f"the training that both share (mean of {_seeds(seeds)})", seeds, color)
        elif seeds and not one:
            _draw_arm(axes, f"{name} (mean of {_seeds(seeds)})", seeds, color)
    _zoom(axes, [control, treated])
    axes.set_ylabel(_plain(metric))
    title = f"{plan['name']}: {arm} against {plan['control']}" if treated else f"{plan['name']}: {arm}"
    axes.set_title(_plain("\n".join(textwrap.wrap(title, 80))), fontsize=11, loc="left")
    axes.legend(frameon=False)
    if apart:
        axes = parts[1, 0]
        axes.axhline(0, color=_CONTROL, linewidth=1)
        _draw_arm(axes, "", apart, _ARM)
        _zoom(axes, [apart], [0.0])
        axes.set_ylabel(f"difference\n({_seeds(apart, 'pair')})")
    for axes in parts[:, 0]:
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    axes.set_xlabel("step")
    figure.align_ylabels()
    with matplotlib.rc_context({"svg.hashsalt": plan["experiment"]}):  # else the ids in an SVG are by chance
        for path in paths:
            figure.savefig(path, metadata={"Date": None} if path.endswith(".svg") else None)
    pyplot.close(figure)


def _seeds(seeds: Seeds, thing: str = "seed") -> str:
    return f"{len(seeds)} {thing}{'' if len(seeds) == 1 else 's'}"


def _plain(text: str) -> str:
    """Text that stands as it is: a dollar would begin mathematics."""
    return text.replace("$", r"\$")


def _apart(treated: Seeds, control: Seeds) -> Seeds:
    """Arm minus control for each seed that both have, at steps that both have; {} without two points for a line."""
    found: Seeds = {}
    for seed in sorted(treated.keys() & control.keys()):
        other = dict(zip(*control[seed], strict=True))
        both = [(step, value - other[step]) for step, value in zip(*treated[seed], strict=True) if step in other]
        if len(both) > 1:
            found[seed] = [step for step, _ in both], [value for _, value in both]
    return found


def _zoom(axes: Any, arms: list[Seeds], also: Sequence[float] = ()) -> None:
    """Leave the first tenth out of the scale: there a blank model's loss falls, and would flatten what follows."""
    tails = [v for seeds in arms for _, values in seeds.values() for v in values[len(values) // 10 :]]
    if tails:
        low, high = min(*tails, *also, tails[0]), max(*tails, *also, tails[0])
        room = 0.05 * (high - low) or 0.05 * abs(high) or 1.0
        axes.set_ylim(low - room, high + room)


def _draw_arm(axes: Any, label: str, seeds: Seeds, color: str) -> None:
    """Thin lines for seeds, a thick one for their mean, a band of one standard deviation; points where few."""
    at: dict[int, list[float]] = {}
    for steps, values in seeds.values():
        axes.plot(steps, values, color=color, alpha=0.3, linewidth=0.8)
        for step, value in zip(steps, values, strict=True):
            at.setdefault(step, []).append(value)
    whole = [(step, values) for step, values in sorted(at.items()) if len(values) == len(seeds)]
    if not whole:
        return
    steps = [step for step, _ in whole]
    means = [math.fsum(values) / len(values) for _, values in whole]
    marker = "o" if len(steps) <= 12 else ""  # a curve of one point would be nothing at all
    axes.plot(steps, means, color=color, linewidth=1.8, marker=marker, markersize=4, label=_plain(label) or None)
    if len(seeds) > 1:
        spread = [
            math.sqrt(math.fsum((v - mean) ** 2 for v in values) / (len(values) - 1))
            for mean, (_, values) in zip(means, whole, strict=True)
        ]
        low = [mean - sd for mean, sd in zip(means, spread, strict=True)]
        high = [mean + sd for mean, sd in zip(means, spread, strict=True)]
        axes.fill_between(steps, low, high, color=color, alpha=0.15, linewidth=0)

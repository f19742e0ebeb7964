"""`ledger plot`: loss curves, each arm against the control, one picture an arm, as PNG and SVG.

Above, every seed's line, the means, and a band of one standard deviation; below, where seeds are shared, what
an arm is at minus what the control is at, seed by seed: noise that a pair shares is gone from it, and a
difference too small to see above is seen there. The same points give the same bytes."""

from __future__ import annotations

import math
import os
import re
import textwrap
from collections.abc import Sequence
from hashlib import sha256
from typing import Any

import click

from commands.common import Asked, find_experiment, print_json, say, shared
from ledger.errors import UsageError

Seeds = dict[int, tuple[list[int], list[float]]]  # seed -> (steps, values)
Curves = dict[str, Seeds]  # by arm
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
    metric = metric or _usual_metric(tables, plan)
    curves = _curves(tables, plan["experiment"], metric)
    control = curves.pop(plan["control"], {})
    if not curves and not control:
        raise UsageError(f"experiment {plan['name']} has no points of {metric!r} to plot")
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
            _draw(made, plan, metric, arm, seeds, control)
        except OSError as error:
            raise UsageError(f"cannot write {error.filename or folder}: {error.strerror}") from None
        paths += made
    return paths


def _arms(tables: Any, experiment: str) -> list[str]:
    rows = tables.rows("SELECT DISTINCT arm FROM runs WHERE experiment = $1 ORDER BY arm", (experiment,))
    return [row["arm"] for row in rows]


def _usual_metric(tables: Any, plan: dict[str, Any]) -> str:
    """The loss with the most points; else the metric with the most points. A curve needs at least two."""
    rows = tables.rows(
        """SELECT name, count(*) AS n FROM metrics
        WHERE run IN (SELECT run FROM runs WHERE experiment = $1)
        GROUP BY name ORDER BY contains(lower(name), 'loss') DESC, n DESC, name""",
        (plan["experiment"],),
    )
    if not rows:
        raise UsageError(f"experiment {plan['name']} has logged no metrics to plot")
    return str(rows[0]["name"])


def _curves(tables: Any, experiment: str, metric: str) -> Curves:
    rows = tables.rows(
        """SELECT runs.arm, runs.seed, metrics.step, metrics.value
        FROM metrics INNER JOIN runs ON runs.run = metrics.run
        WHERE runs.experiment = $1 AND metrics.name = $2 AND runs.status = 'ok' AND isfinite(metrics.value)
        ORDER BY runs.arm, runs.seed, metrics.step, metrics.event_position, metrics.row""",
        (experiment, metric),
    )
    found: Curves = {}
    for row in rows:
        steps, values = found.setdefault(row["arm"], {}).setdefault(row["seed"], ([], []))
        if steps and steps[-1] == row["step"]:
            values[-1] = row["value"]  # logged again: the last counts
        else:
            steps.append(row["step"])
            values.append(row["value"])
    return found


def _draw(paths: list[str], plan: dict[str, Any], metric: str, arm: str, treated: Seeds, control: Seeds) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    apart = _apart(treated, control)
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
        if seeds:
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

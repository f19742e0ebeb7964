"""`ledger plot`: loss curves, each arm against the control, one PNG an arm."""

from __future__ import annotations

import math
import os
import re
from hashlib import sha256
from typing import Any

import click

from commands.common import Asked, find_experiment, print_json, shared
from ledger.errors import UsageError

Curves = dict[str, dict[int, tuple[list[int], list[float]]]]  # arm -> seed -> (steps, values)
_CONTROL, _ARM = "#6b7280", "#1d4ed8"


@click.command("plot")
@click.argument("experiment", required=False)
@click.option("-o", "--output", default=None, metavar="DIR", help="Where to (default: ./out/NAME).")
@click.option("--metric", default=None, help="Which metric (default: the loss that was logged most often).")
@shared(as_of=True)
def command(asked: Asked, experiment: str | None, output: str | None, metric: str | None) -> None:
    """Write a PNG for each arm: its seeds and the control's, their means, and one standard deviation."""
    log = asked.open()
    tables = asked.tables(log)
    plan = find_experiment(tables, experiment)
    folder = output or default_folder(plan["name"])
    paths = plot(tables, plan, folder, metric)
    if asked.json:
        print_json({"experiment": plan["experiment"], "files": paths})
    else:
        print("\n".join(paths))


def default_folder(name: str) -> str:
    return os.path.join("out", file_name(name))


def file_name(name: str) -> str:
    """A name of ours as a file's name: nothing in it can leave the folder."""
    return re.sub(r"[^A-Za-z0-9_.+=-]+", "-", name).strip(".-") or "unnamed"


def plot(tables: Any, plan: dict[str, Any], folder: str, metric: str | None = None) -> list[str]:
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
    pairs = curves or {plan["control"]: {}}
    paths: list[str] = []
    for arm, seeds in sorted(pairs.items()):
        path = os.path.join(folder, f"{file_name(arm)}.png")
        if path in paths:  # "a/b" and "a:b" are two arms, and one file name
            path = os.path.join(folder, f"{file_name(arm)}-{sha256(arm.encode()).hexdigest()[:8]}.png")
        _draw(path, plan, metric, arm, seeds, control)
        paths.append(path)
    return paths


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


def _draw(path: str, plan: dict[str, Any], metric: str, arm: str, treated: Any, control: Any) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7.2, 4.2), dpi=140, layout="constrained")
    for name, seeds, color in ((plan["control"], control, _CONTROL), (arm, treated, _ARM)):
        _draw_arm(axes, name, seeds, color)
    tails = [v for seeds in (control, treated) for _, values in seeds.values() for v in values[len(values) // 10 :]]
    if tails:  # the first steps fall from the loss of a blank model and would flatten all that follows
        low, high = min(tails), max(tails)
        axes.set_ylim(low - 0.03 * (high - low), high + 0.03 * (high - low) + 1e-12)
    axes.set_xlabel("step")
    axes.set_ylabel(metric)
    axes.set_title(f"{plan['name']}: {arm} against {plan['control']}", fontsize=11, loc="left")
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    figure.savefig(path)
    pyplot.close(figure)


def _draw_arm(axes: Any, name: str, seeds: Any, color: str) -> None:
    """Thin lines for seeds, a thick one for their mean, a band of one standard deviation."""
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
    label = f"{name} (mean of {len(seeds)} seed{'' if len(seeds) == 1 else 's'})"
    axes.plot(steps, means, color=color, linewidth=1.8, label=label)
    if len(seeds) > 1:
        spread = [
            math.sqrt(math.fsum((v - mean) ** 2 for v in values) / (len(values) - 1))
            for mean, (_, values) in zip(means, whole, strict=True)
        ]
        low = [mean - sd for mean, sd in zip(means, spread, strict=True)]
        high = [mean + sd for mean, sd in zip(means, spread, strict=True)]
        axes.fill_between(steps, low, high, color=color, alpha=0.15, linewidth=0)

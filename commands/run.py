"""`ledger run`: register a plan, run the cells that are missing, decide, print."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal

import click

from commands.at_once import at_once, gpu_names
from commands.common import Asked, count, print_json, say, shared
from ledger.chain import Log
from ledger.errors import UsageError

if TYPE_CHECKING:
    from runners.cells import Runner
    from runners.conduct import Conducted, Update
    from runners.plan import Plan


@click.command("run", context_settings={"ignore_unknown_options": False, "allow_interspersed_args": True})
@click.argument("what", nargs=-1, type=click.UNPROCESSED, metavar="PLAN.toml | -- COMMAND …")
@click.option(
    "--arm", "arms", multiple=True, metavar="NAME=VALUE", help="A treatment: variables that it sets (A=1,B=2)."
)
@click.option("--baseline", metavar="NAME=VALUE", help="Variables that the control sets (default: none).")
@click.option("--seeds", metavar="0-2", help="Seeds of every arm; over a plan's own.")
@click.option("--small", is_flag=True, help="The plan at its small size, as its [small] table says.")
@click.option("--devices", type=click.IntRange(min=0), default=None, help="That train each run together; 0: all.")
@click.option(
    "--set",
    "settings",
    multiple=True,
    metavar="NAME=VALUE",
    help="Over the plan's [trainer], for every arm (steps=50).",
)
@click.option("--metric", default=None, help="The metric that decides (default: val_bpb).")
@click.option("--direction", type=click.Choice(["lower", "higher"]), default=None, help="Which is better.")
@click.option("--delta", type=float, default=None, help="Smallest effect that matters (default: 0.002).")
@click.option("--timeout", type=float, default=None, metavar="SECONDS", help="For one run.")
@click.option("--name", default=None, help="The experiment's name.")
@click.option("--pattern", "patterns", multiple=True, metavar="REGEX", help="Reads more metrics from the output.")
@click.option("--log-file", default=None, metavar="GLOB", help="Read where the output lacks the metric (logs/*.txt).")
@click.option(
    "--fast", is_flag=True, help="A quick look: fewer steps, tokens and layers, two seeds; its own experiment."
)
@click.option(
    "--cooldown", type=click.FloatRange(min=0), default=0.0, metavar="SECONDS", help="Between runs, for the machine."
)
@at_once
@click.option("--retry-failed", is_flag=True, help="Run cells again that crashed, timed out or diverged.")
@shared()
def command(
    asked: Asked,
    what: tuple[str, ...],
    retry_failed: bool,
    fast: bool,
    cooldown: float,
    jobs: int | None,
    gpus: str | None,
    **options: Any,
) -> int:
    """Run PLAN.toml, or COMMAND once for each arm and seed, and decide.

    SEED and the arm's variables are set in the command's environment; its last val_bpb (or --metric)
    counts. Started again, it runs only what is missing.
    """
    plan = read_plan(what, options)
    if fast:
        plan = _fast(plan)
    names = gpu_names(gpus)
    log = Log.create() if asked.ledger is None and not _named_home() else asked.open()
    runner = runner_for(plan, log)
    slots = runner.at_once(jobs, names, cooldown)
    with Progress(plan, slots) as progress:
        done = _conduct(log, plan, runner, progress.update, retry_failed, cooldown, slots)
    failed = sum(count for status, count in done.statuses.items() if status != "ok")
    if done.interrupted:
        if asked.json:
            _tell(asked, log, plan, done, [], None)
        say(f"interrupted in run {done.before + done.ran} of {len(plan.cells())}; the same command goes on from here")
        return 130
    decisions: list[Any] = []
    position: int | None = None
    screen: Any = None
    if plan.kind == "screen":
        from commands.screens import decide_screen

        judged = decide_screen(log, done.experiment)
        assert judged is not None
        screen, position = judged
    elif len(plan.arm) > 1:
        from commands.decide import decide

        ((decisions, position),) = decide(log, done.experiment)
    from commands.checkpoint import sign_or_warn
    from commands.compact import compact_or_warn

    sign_or_warn(log)
    if failed and not done.ran and not asked.json:
        say(f"nothing was run: {count(failed, 'run')} failed before; --retry-failed runs them again")
    _tell(asked, log, plan, done, decisions, position, screen)
    compact_or_warn(log)
    if len(plan.cells()) == 1 and done.ran and done.exit_code:
        return done.exit_code  # one wrapped command: its own code passes through
    return 1 if failed else 0


def _named_home() -> bool:
    import os

    return bool(os.environ.get("LEDGER_HOME"))


def _conduct(
    log: Log,
    plan: Plan,
    runner: Runner,
    update: Callable[[Update], None],
    retry_failed: bool,
    cooldown: float,
    jobs: int,
) -> Conducted:
    from runners.conduct import conduct

    return conduct(log, plan, runner, update, retry_failed=retry_failed, cooldown=cooldown, jobs=jobs)


def _fast(plan: Plan) -> Plan:
    """The plan, small: other settings are another base, so it is an experiment of its own. Raises UsageError."""
    import msgspec

    from runners.gpt_config import fast

    if plan.trainer is None:
        raise UsageError("--fast is for plans with a [trainer]; a script has its own settings")
    try:
        settings = fast(plan.trainer)
    except ValueError as error:
        raise UsageError(f"[trainer]: {error}") from None
    seeds = plan.seeds[:2]
    looks = {} if plan.stopping != "looks" else {"stopping": "fixed", "looks": ()}
    scale = f"{plan.scale}, fast" if plan.scale else "fast"
    return msgspec.structs.replace(plan, trainer=settings, seeds=seeds, scale=scale, **looks)


def read_plan(what: tuple[str, ...], options: dict[str, Any]) -> Plan:
    """The plan that the command line means. Raises UsageError."""
    from runners.plan import from_options

    if not what:
        raise click.UsageError("name a plan (ledger run PLAN.toml) or a command (ledger run -- python train.py)")
    if len(what) == 1 and what[0].endswith(".toml"):
        with_a_plan = ("seeds", "small", "devices", "settings")
        given = [name for name, value in options.items() if value not in (None, ()) and name not in with_a_plan]
        if given:
            raise click.UsageError(
                f"--{given[0].rstrip('s').replace('_', '-')} goes with a command; a plan says it in its file"
            )
        plan = read_file(what[0], options["seeds"], options["small"])
        return with_settings(plan, options["settings"], options["devices"])
    for name in ("devices", "settings"):
        if options[name] not in (None, ()):
            flag = "--set" if name == "settings" else "--devices"
            raise click.UsageError(f"{flag} goes with a plan that has a [trainer]; a command has its own settings")
    if options["small"]:
        raise click.UsageError("--small goes with a plan that has a [small] table")
    direction: Literal["lower", "higher"] = options["direction"] or "lower"
    seeds = options["seeds"]
    if seeds is None:
        if options["arms"]:
            raise click.UsageError("arms need seeds: add --seeds 0-2 (three runs of every arm)")
        seeds = "0"
    return from_options(
        what,
        options["arms"],
        options["baseline"],
        seeds=seeds,
        metric="val_bpb" if options["metric"] is None else options["metric"],
        direction=direction,
        delta=0.002 if options["delta"] is None else options["delta"],
        timeout=options["timeout"],
        name=options["name"],
        patterns=options["patterns"],
        log=options["log_file"] or "",
    )


def with_settings(plan: Plan, settings: tuple[str, ...], devices: int | None) -> Plan:
    """The plan with settings of the command line over its [trainer]; what an arm sets stays as it is set. Its text
    says so, in its first line. Raises UsageError."""
    import tomllib

    import msgspec

    given = (*settings, *(() if devices is None else (f"devices={devices}",)))
    if not given:
        return plan
    if plan.trainer is None:
        raise UsageError(f"--{'set' if settings else 'devices'} is for plans with a [trainer]; a script has its own")
    over: dict[str, Any] = {}
    for one in given:
        name, equals, value = one.partition("=")
        if not name.isidentifier() or not equals or name in over:
            why = "it is given twice" if name in over else "expected NAME=VALUE, such as --set wallclock=600"
            raise UsageError(f"--set {one}: {why}")
        if not value.isprintable():
            raise UsageError(f"--set {name}: a value is one line, found {value!r}")
        try:
            over[name] = tomllib.loads(f"value = {value}")["value"]
        except tomllib.TOMLDecodeError:
            over[name] = value  # a word needs no quotes here
    trainer = {**plan.trainer, **over}
    return msgspec.structs.replace(plan, trainer=trainer, text=f"# with {', '.join(given)}\n{plan.text}")


def read_file(path: str, seeds: str | None = None, small: bool = False) -> Plan:
    """The plan in a file (at its small size), its policy by name and version. Raises UsageError."""
    import msgspec

    from runners.plan import MAX_PLAN_BYTES, parse

    try:
        with open(path, "rb") as file:
            data = file.read(MAX_PLAN_BYTES + 1)
        if len(data) > MAX_PLAN_BYTES:
            raise UsageError(f"{path} has more than {MAX_PLAN_BYTES} bytes: too many for a plan")
        text = data.decode()
    except (OSError, UnicodeDecodeError) as error:
        why = "it is not UTF-8 text" if isinstance(error, UnicodeDecodeError) else error.strerror
        raise UsageError(f"cannot read the plan {path}: {why}") from None
    plan = parse(text, path, seeds, small)
    if not plan.policy:
        return plan
    from projections.planning import policy_id

    try:
        return msgspec.structs.replace(plan, policy=policy_id(plan.policy, plan.metric))
    except UsageError as error:
        raise UsageError(f"{path}: {error}") from None


def runner_for(plan: Plan, log: Log) -> Runner:
    """The runner that the plan asks for. Raises UsageError when it cannot run here."""
    if plan.trainer is not None:
        from runners.trainer import GptRunner

        return GptRunner(plan, log)
    from runners.script import ScriptRunner

    return ScriptRunner(plan, log.root)


class Progress:
    """Cells done, the loss now, the time left: a bar on a terminal, a line a cell into a file."""

    def __init__(self, plan: Plan, jobs: int = 1) -> None:
        self.metric, self.jobs = plan.metric, jobs
        self.live: Any = None
        self.task: Any = None
        self.took: list[float] = []
        self.running: dict[tuple[str, int], _Running] = {}

    def __enter__(self) -> Progress:
        if sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, TextColumn
            from rich.progress import Progress as Bar

            self.live = Bar(
                TextColumn("{task.completed:.0f}/{task.total:.0f} runs"),
                BarColumn(bar_width=None),
                TextColumn("{task.fields[now]}", markup=False),
                TextColumn("{task.fields[left]}"),
                console=Console(stderr=True, highlight=False),
                transient=True,
                expand=True,
            )
            self.live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.live is not None:
            self.live.stop()

    def update(self, update: Update) -> None:
        if update.kind == "plan":
            if self.live is not None:
                self.task = self.live.add_task("", total=update.total, completed=update.done, now="", left="")
            if update.done:
                are = "is" if update.total == 1 else "are"
                say(f"{update.done} of {count(update.total, 'run')} {are} on record already")
            return
        cell = (update.arm, update.seed)
        if update.kind == "start":
            self.running[cell] = _Running(time.monotonic())
        elif update.kind == "point":
            if running := self.running.get(cell):
                running.heard(update, self.metric)
        else:
            self._ended(update, self.running.pop(cell, _Running(time.monotonic())))
        if self.live is not None and self.task is not None:
            self.live.update(self.task, completed=update.done, now=self._now(cell), left=self._left(update))

    def _now(self, cell: tuple[str, int]) -> str:
        """The run that was heard of last, and how many others there are."""
        running = self.running.get(cell)
        if running is None:
            return f"{len(self.running)} running" if self.running else ""
        others = f" and {len(self.running) - 1} more" if len(self.running) > 1 else ""
        name = cell[0] if len(cell[0]) <= 20 else f"{cell[0][:19]}…"
        return f"{name} seed {cell[1]} {running.value}".strip() + others

    def _left(self, update: Update) -> str:
        if not self.took:
            return ""
        mean, now = sum(self.took) / len(self.took), time.monotonic()
        gone = sum(min(mean, now - running.began) for running in self.running.values())
        rest = max(0.0, mean * (update.total - update.done) - gone)
        rest /= max(1, min(self.jobs, update.total - update.done))
        return f"{int(rest) // 60}:{int(rest) % 60:02d} left"

    def _ended(self, update: Update, running: _Running) -> None:
        seconds = time.monotonic() - running.began
        self.took.append(seconds)
        told = (running.decides or running.value) if update.status == "ok" else update.status
        if update.reason and update.reason != update.status:
            told = f"{told}: {update.reason}"
        line = f"[{update.done}/{update.total}] {update.arm} seed {update.seed}: {told} ({seconds:.1f} s)"
        if self.live is None:
            say(line)
        elif update.status != "ok":
            self.live.console.print(line, markup=False)


class _Running:
    """A run that is under way: since when, and its newest figures."""

    def __init__(self, began: float) -> None:
        self.began = began
        self.value = ""  # the newest loss or metric
        self.decides = ""  # the newest value of the metric that decides

    def heard(self, update: Update, metric: str) -> None:
        if update.name == metric:
            self.value = self.decides = f"{update.name} {update.value:.6g}"
        elif "loss" in update.name:
            self.value = f"{update.name} {update.value:.4g}"


def _tell(
    asked: Asked,
    log: Log,
    plan: Plan,
    done: Conducted,
    decisions: list[Any],
    position: int | None,
    screen: Any = None,
) -> None:
    """The result, and the next three commands."""
    if asked.json:
        import msgspec

        print_json(
            {
                "experiment": done.experiment,
                "name": plan.name,
                "ran": done.ran,
                "before": done.before,
                "statuses": done.statuses,
                "interrupted": done.interrupted,
                "decision_position": position,
                "decisions": [msgspec.to_builtins(made) for made in decisions],
                **({} if screen is None else {"screen": msgspec.to_builtins(screen)}),
            }
        )
        return
    told = ", ".join(f"{count} {status}" for status, count in sorted(done.statuses.items()))
    better = "lower is better" if plan.direction == "lower" else "higher is better"
    print(f"\n{plan.name}: {plan.metric} ({better}), {count(len(plan.seeds), 'seed')}, runs: {told}")
    if screen is not None:
        from commands.screens import print_screen

        stacks = count(len(plan.arm), "stack")
        print(f"average effects of {count(len(plan.factor), 'factor')} over {stacks}, each suggested at most\n")
        print_screen(screen)
    if decisions:
        from commands.decide import print_verdicts

        print(f"against {plan.control.name}; an effect matters from {plan.delta:g}\n")
        print_verdicts(decisions)
    where = f" --ledger {_quoted(asked.ledger)}" if asked.ledger else ""
    called = _called(log, plan.name, done.experiment)
    say("\nnext:")
    if not done.statuses.get("ok"):
        for look in _at_failures(log, done.experiment):
            say(f"  ledger show{where} {look}")
        say(f"  ledger report{where} {called}")
        return
    say(f"  ledger report{where} {called}")
    if position is not None:
        say(f"  ledger replay{where} {position}")
        pairs = "SELECT intervention, seed, y_t, y_c, d FROM paired_differences"
        say(f'  ledger sql{where} "{"SELECT * FROM screen_effects" if screen is not None else pairs}"')
    else:
        say(f'  ledger sql{where} "SELECT * FROM runs"')
        say(f"  ledger verify{where}")


def _at_failures(log: Log, experiment: str) -> list[str]:
    """What `ledger show` is to be asked where no run is ok: the newest run, and the text that it left."""
    from projections.engine import tables

    rows = tables(log).rows(
        """SELECT runs.run, artifacts.kind
        FROM runs LEFT JOIN artifacts
            ON artifacts.run = runs.run AND artifacts.kind IN ('stderr', 'stdout') AND artifacts.bytes > 0
        WHERE runs.experiment = $1 AND runs.status <> 'ok'
        ORDER BY runs.started_position DESC, artifacts.kind""",
        (experiment,),
    )
    if not rows:
        return []
    run = rows[0]["run"]
    kinds = [row["kind"] for row in rows if row["run"] == run and row["kind"]]
    return [run[:8], *(f"{run[:8]} --text {kind}" for kind in kinds[:1])][::-1]


def _called(log: Log, name: str, experiment: str) -> str:
    """What names an experiment on the command line: its id where others have its name."""
    from ledger.events import ExperimentRegistered

    for event in log.events(types=("experiment.registered",)):
        data = event.data
        if isinstance(data, ExperimentRegistered) and data.name == name and data.experiment != experiment:
            return experiment[:8]
    return _quoted(name)


def _quoted(name: str) -> str:
    import shlex

    return shlex.quote(name)

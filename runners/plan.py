"""A plan: what is compared with what, on which seeds, by which metric, and what would matter.

Read from TOML (or made from the options of `ledger run`) into frozen structs, and refused with one
line when it does not say what it must. It holds no result and touches nothing but its own text.

    name = "first"
    question = "Which activation …?"
    metric = "val_bpb"        # default
    direction = "lower"       # default: lower is better
    delta = 0.01              # smallest effect that matters, in the metric's unit
    alpha = 0.05              # default
    seeds = "0-2"             # or [0, 1, 2]
    timeout = 600             # seconds for one run; default: 120 beyond a script's MAX_WALLCLOCK_SECONDS

    track = "confirm"         # default; what "explore" finds is a suggestion for a plan with fresh seeds
    tuning_seeds = "100-102"  # seeds that chose something; none of them may confirm it
    stopping = "fixed"        # default: one look, at all seeds; or "looks", or "anytime" (e-values)
    looks = [3, 5, 8]         # "looks": seeds per arm at each, the last being the end
    n_max = 12                # "anytime": seeds per arm at most
    tau = 0.01                # prior sd of effects for e-values; default delta
    policy = "ledger"         # decision rule; default: the ledger's own
    pair_tier = "rerun"       # default; what two runs of one seed share: fork (a checkpoint), rerun (the code, but
                              # for the change; how much noise that is gets estimated), seed (its number), none
    estimand = "fixed_step"   # default; or "wallclock", the effect on speed included
    family = "screen"         # with cycle: plans of one family share one alpha,
    cycle = 2                 # and cycle c may spend alpha / (c (c + 1)) of it
    platform = "8xH100"       # noise class: where (default: this machine's kind); scale and stage are further keys

    [trainer]                 # the built-in GPT: settings that all arms share
    steps = 150
    # or
    [script]                  # any program
    command = ["python", "train.py"]
    env = { LR = "0.02" }
    log = "logs/*.txt"        # read where its output does not tell the metric; default: none

    [[arm]]                   # the first arm is the control
    name = "relu2"
    [[arm]]
    name = "gelu"
    set = { activation = "gelu" }     # trainer settings; for a script: env = { … }, args = [ … ]
    predict = "better"                # or "worse"; default "different"
    effect = -0.02                    # the size that is foreseen, with its sign; only told, never a gate

    [small]                   # the same question at another size, for --small (plan_small.py)
    seeds = "0-1"
    trainer = { steps = 20 }

With kind = "screen" there are [[factor]]s in place of arms (runners/screens.py): many changes at once, in stacks that
tell the average effect of each. A screen explores: what it finds is confirmed one change at a time.
"""

from __future__ import annotations

import difflib
import math
import re
import tomllib
import typing
from collections.abc import Iterable, Iterator, Mapping, Sequence
from hashlib import sha256
from itertools import pairwise
from typing import Any, Literal, NoReturn

import msgspec

from ledger import canonical, events
from ledger.errors import UsageError
from runners import screens
from runners.plan_small import smaller

TRAINER_METRICS = (  # of the built-in GPT; of all of them lower is better
    *("val_bpb", "val_loss", "val_bpb_subset", "val_loss_subset", "train_loss"),
    *("val_bpb_pre_quant", "val_bpb_subset_pre_quant", "quant_gap", "quant_gap_subset", "artifact_bytes"),
)
MAX_SEEDS = 10_000
MAX_PLAN_BYTES = 16 * 1024  # the text is kept in the event
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9 _.+=,:/^*-]{0,79}")
_NAMES = "a name begins with A-Z, a-z or 0-9, then may also have spaces and _.+-=,:/^*, 80 characters in all"
_PLATFORM = re.compile(r"[!-~](?:[ -~]{0,98}[!-~])?")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,99}")


class PlanArm(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One condition: what it changes against the shared settings."""

    name: str
    predict: Literal["better", "worse", "different"] = "different"
    effect: float | None = None
    env: dict[str, str] = {}
    args: tuple[str, ...] = ()
    set: dict[str, Any] = {}

    def changes(self) -> bytes:
        """What the arm changes, as canonical text: two arms with equal changes are one arm."""
        return canonical.encode({"env": self.env, "args": self.args, "set": self.set})


class Script(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Any program that prints its metrics or logs them through `ledger.log`."""

    command: tuple[str, ...]
    env: dict[str, str] = {}
    patterns: tuple[str, ...] = ()  # further regular expressions that read metrics from its text
    log: str = ""  # files (logs/*.txt) that are read where the program's output does not tell the metric
    capture: tuple[str, ...] = ()  # further environment variables to record
    grace: float = 5.0  # seconds between SIGTERM and SIGKILL


class Plan(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A whole plan. Exactly one of `trainer` and `script` is given; `arm[0]` is the control."""

    name: str
    seeds: tuple[int, ...]
    delta: float
    arm: tuple[PlanArm, ...]  # of a screen: its stacks
    kind: Literal["compare", "screen"] = "compare"
    factor: tuple[screens.PlanFactor, ...] = ()
    question: str = ""
    metric: str = "val_bpb"
    direction: Literal["lower", "higher"] = "lower"
    alpha: float = 0.05
    timeout: float | None = None
    seed_role: events.SeedRole = "confirm"
    pair_tier: events.PairTier | None = None
    stage: events.Stage = "train"
    estimand: Literal["wallclock", "fixed_step"] = "fixed_step"
    scale: str = ""
    platform: str = ""
    track: Literal["confirm", "explore"] = "confirm"
    tuning_seeds: tuple[int, ...] = ()
    stopping: Literal["fixed", "looks", "anytime"] = "fixed"
    looks: tuple[int, ...] = ()
    n_max: int | None = None
    tau: float | None = None
    policy: str = ""
    trainer: dict[str, Any] | None = None
    script: Script | None = None
    family: str = ""
    cycle: int | None = None
    text: str = ""  # as the user wrote it; never a key of the file

    @property
    def control(self) -> PlanArm:
        return self.arm[0]

    @property
    def most_seeds(self) -> int | None:
        """Seeds of every arm at most, by the stopping rule; None where it sets no end."""
        return {"fixed": len(self.seeds), "looks": max(self.looks, default=0), "anytime": self.n_max}[self.stopping]

    def says(self, effect: float) -> Literal["better", "worse"]:
        """What an effect of this sign is called."""
        return "better" if (effect < 0) == (self.direction == "lower") else "worse"

    def cells(self) -> list[tuple[PlanArm, int]]:
        """Every (arm, seed), interleaved by seed, the arms' order turning with it: what drifts in a
        session (heat, neighbours) then falls on every arm alike."""
        n = len(self.arm)
        return [(self.arm[(index + turn) % n], seed) for turn, seed in enumerate(self.seeds) for index in range(n)]


def parse(text: str, where: str, seeds: str | None = None, small: bool = False) -> Plan:
    """A plan from TOML text; `seeds` overrides its seeds, `small` asks for its [small] size.

    Raises UsageError naming `where` and what is wrong, in either size.
    """
    if len(text.encode()) > MAX_PLAN_BYTES:
        raise UsageError(f"{where}: a plan has at most {MAX_PLAN_BYTES} bytes; this one has {len(text.encode())}")
    try:
        raw = tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # also a number of 5,000 digits, 5,000 nested lists
        raise UsageError(f"{where}: not TOML: {error}") from None
    if "small" in raw or small:
        shrunk = build(
            smaller(raw, where), f"{where}, [small]", f"# its small size\n{text}", seeds if small else None
        )
        if small:
            return shrunk
    return build({key: value for key, value in raw.items() if key != "small"}, where, text, seeds)


def build(raw: Mapping[str, Any], where: str, text: str, seeds: str | None = None) -> Plan:
    """A plan from plain data, checked. Raises UsageError."""
    said: dict[str, Any] = dict(raw)
    if "candidate" in raw and "arm" not in raw:
        raise UsageError(
            f"{where}: this is a cycle plan, with candidates in place of arms: `ledger cycle` carries it out"
        )
    _known("the plan", raw, [name for name in Plan.__struct_fields__ if name != "text"], where)
    if isinstance(said.get("script"), dict):
        _known("[script]", said["script"], Script.__struct_fields__, where)
        said["script"] = _texts(said["script"])
    if isinstance(said.get("arm"), list):
        for index, arm in enumerate(said["arm"]):
            if isinstance(arm, dict):
                _known(f"[[arm]] number {index + 1}", arm, PlanArm.__struct_fields__, where)
        said["arm"] = [_texts(arm) if isinstance(arm, dict) else arm for arm in said["arm"]]
    if said.get("kind") == "screen" or "factor" in said:
        said = _screen(said, where)
    if seeds is not None:
        said["seeds"] = seeds
    if "seeds" not in said:
        raise UsageError(f'{where}: no seeds; give for example seeds = "0-2" (three runs of every arm)')
    said["seeds"] = parse_seeds(said["seeds"], where)
    if "tuning_seeds" in said:
        said["tuning_seeds"] = parse_seeds(said["tuning_seeds"], f"{where}: tuning_seeds")
    if "looks" in said:
        said.setdefault("stopping", "looks")
    try:
        plan = msgspec.convert({**said, "text": text}, Plan)
    except msgspec.ValidationError as error:
        raise UsageError(f"{where}: {_readable(error)}") from None
    _check(plan, where)
    _check_design(plan, where)
    for path, number in _unbounded(raw):
        raise UsageError(f"{where}: {path!r} is {number}; a plan holds finite numbers only")
    return plan


def _screen(said: dict[str, Any], where: str) -> dict[str, Any]:
    """The plan of a screen with its factors checked and its stacks as arms."""
    if said.get("kind") != "screen":
        raise UsageError(f'{where}: [[factor]] is for kind = "screen"; a plan that compares has [[arm]]s')
    for key, why in (("arm", "its stacks are made from its [[factor]]s"), ("looks", "it has one look")):
        if key in said:
            raise UsageError(f"{where}: a screen takes no {key!r}: {why}")
    if said.get("track", "explore") != "explore":
        raise UsageError(
            f"{where}: a screen tells average effects, which can suggest, not confirm; leave out track = "
            f"{said['track']!r} and confirm one change at a time"
        )
    factors = said.get("factor", [])
    if not isinstance(factors, list):
        raise UsageError(f"{where}: factor must be a list of tables, [[factor]]")
    for index, factor in enumerate(factors):
        if isinstance(factor, dict):
            what = f"[[factor]] number {index + 1}"
            _known(what, factor, screens.PlanFactor.__struct_fields__, where)
            factors = [_texts(one) if isinstance(one, dict) else one for one in factors]
    try:
        checked = msgspec.convert(factors, tuple[screens.PlanFactor, ...])
    except msgspec.ValidationError as error:
        raise UsageError(f"{where}: [[factor]] {_readable(error)}") from None
    for one in checked:
        if not _NAME.fullmatch(one.name):
            raise UsageError(f"{where}: factor {one.name!r}: {_NAMES}")
    trainer = "trainer" in said
    screens.check(checked, where, trainer)
    return {
        **said,
        "track": "explore",
        "factor": factors,
        "arm": [_texts(arm) for arm in screens.arms(checked, trainer)],
    }


def _unbounded(value: Any, path: str = "") -> Iterator[tuple[str, float]]:
    """NaN and infinities anywhere in plain data, and where they stand."""
    if isinstance(value, float) and not math.isfinite(value):
        yield path, value
    elif isinstance(value, Mapping):
        for name, item in value.items():
            yield from _unbounded(item, f"{path}.{name}" if path else str(name))
    elif isinstance(value, (list, tuple)):
        for index, item in enumerate(value):
            yield from _unbounded(item, f"{path}[{index}]")


def _texts(table: dict[str, Any]) -> dict[str, Any]:
    """Environment values are text; LR = 0.02 means LR = "0.02"."""
    env = table.get("env")
    if not isinstance(env, dict):
        return table
    return {**table, "env": {name: str(v) if type(v) in (int, float) else v for name, v in env.items()}}


def _readable(error: msgspec.ValidationError) -> str:
    """msgspec's message in the words of the file: `$.arm[1].env` is the second arm's env."""
    text, _, path = str(error).partition(" - at `$")
    path = re.sub(r"^\[(\d+)\]", lambda m: f"number {int(m[1]) + 1}: ", path)
    path = re.sub(r"\.arm\[(\d+)\]", lambda m: f"[[arm]] number {int(m[1]) + 1}: ", path.rstrip("`"))
    path = path.replace(": .", ": ").lstrip(".").replace("[...]", "")
    text = text.replace("Object missing required field", "missing").replace(" | null`", "`")
    for theirs, ours in _KINDS.items():
        text = text.replace(f"`{theirs}`", ours)
    if text.startswith("Invalid enum value") and (choices := _choices(path)):
        text = f"{text.removeprefix('Invalid enum value ')} is not one of {', '.join(choices)}"
    return f"{path}{'' if path.endswith(': ') or not path else ': '}{text}"


_KINDS = {
    "array": "a list",
    "object": "a table",
    "str": "text",
    "int": "an integer",
    "float": "a number",
    "bool": "true or false",
}


def _choices(path: str) -> tuple[str, ...]:
    """What a key may be set to, where that is a list of words."""
    key = path.rsplit(" ", 1)[-1]
    hints = {**typing.get_type_hints(PlanArm), **typing.get_type_hints(Plan)}
    return typing.get_args(hints[key]) if key in hints else ()


def _known(what: str, table: Mapping[str, Any], known: Iterable[str], where: str) -> None:
    known = list(known)
    for key in table:
        if key not in known:
            close = difflib.get_close_matches(key, known, 1)
            hint = f"; did you mean {close[0]!r}?" if close else f"; it may have: {', '.join(known)}"
            raise UsageError(f"{where}: {what} has an unknown key {key!r}{hint}")


def _check(plan: Plan, where: str) -> None:
    def refuse(message: str) -> NoReturn:
        raise UsageError(f"{where}: {message}")

    if (plan.trainer is None) == (plan.script is None):
        refuse("a plan has either a [trainer] (the built-in GPT) or a [script] (any program)")
    if plan.script is not None and not (plan.script.command and all(plan.script.command)):
        refuse('[script] needs a command, for example command = ["python", "train.py"]')
    if not plan.arm:
        refuse("a plan needs at least one [[arm]]; the first is the control")
    if not (math.isfinite(plan.delta) and plan.delta > 0):
        refuse(f"delta must be a number above 0 (the smallest effect that matters), not {plan.delta}")
    if not 0 < plan.alpha < 1:
        refuse(f"alpha must lie between 0 and 1, not {plan.alpha}")
    if plan.timeout is not None and not 0 < plan.timeout < math.inf:
        refuse(f"timeout must be a number of seconds above 0, not {plan.timeout}")
    if plan.script is not None and not 0 <= plan.script.grace < math.inf:
        refuse(f"grace must be a number of seconds from 0, not {plan.script.grace}")
    if not plan.metric.strip():
        refuse("metric must be a name, for example val_bpb")
    if not _NAME.fullmatch(plan.name):
        refuse(f"name {plan.name!r}: {_NAMES}")
    names: set[str] = set()
    changes: dict[bytes, str] = {}
    for arm in plan.arm:
        if not _NAME.fullmatch(arm.name):
            refuse(f"arm {arm.name!r}: {_NAMES}")
        if arm.name in names:
            refuse(f"two arms are called {arm.name!r}; give each its own name")
        names.add(arm.name)
        if other := changes.get(arm.changes()):
            refuse(f"arms {other!r} and {arm.name!r} change the same: their difference could only be noise")
        changes[arm.changes()] = arm.name
        if plan.trainer is not None and (arm.env or arm.args):
            refuse(f"arm {arm.name!r}: env and args are for a [script]; the trainer takes set = {{ … }}")
        if plan.script is not None and arm.set:
            refuse(f"arm {arm.name!r}: set is for the [trainer]; a script takes env = {{ … }} or args = [ … ]")
        for variable in (*arm.env, *(plan.script.env if plan.script else ())):
            if not _VARIABLE.fullmatch(variable):
                refuse(f"{variable!r} is not the name of an environment variable")
            if variable == "SEED" or variable.startswith("LEDGER_"):
                refuse(f"{variable} is set by ledger run itself; an arm cannot")


def _check_design(plan: Plan, where: str) -> None:
    """What is said of seeds, looks and hypotheses must fit together."""

    def refuse(message: str) -> NoReturn:
        raise UsageError(f"{where}: {message}")

    if both := [seed for seed in plan.seeds if seed in set(plan.tuning_seeds)]:
        refuse(f"seed {both[0]} is also a tuning seed: what was used to choose cannot confirm the choice")
    if plan.looks and plan.stopping != "looks":
        refuse(f'looks are for stopping = "looks", not {plan.stopping!r}')
    if plan.stopping == "looks":
        if len(plan.looks) < 2 or plan.looks[0] < 2 or any(b <= a for a, b in pairwise(plan.looks)):
            refuse(f"looks must be at least two rising numbers of seeds from 2, not {list(plan.looks)}")
        if len(plan.seeds) > plan.looks[-1]:
            refuse(f"the last look is at {plan.looks[-1]} seeds, and the plan has {len(plan.seeds)}")
    if plan.n_max is not None:
        if plan.stopping != "anytime":
            refuse(f'n_max is for stopping = "anytime"; with {plan.stopping!r} the plan says its end already')
        if plan.n_max < max(2, len(plan.seeds)):
            refuse(f"n_max must be at least the plan's {len(plan.seeds)} seeds and 2, not {plan.n_max}")
    if (plan.most_seeds or 0) > MAX_SEEDS:
        refuse(f"the plan may come to {plan.most_seeds} seeds; a plan has at most {MAX_SEEDS:,}")
    if plan.tau is not None and not 0 < plan.tau < math.inf:
        refuse(f"tau must be a number above 0 (the prior sd of effects), not {plan.tau}")
    if (plan.cycle is None) != (not plan.family):
        refuse("family and cycle go together: the plans of one family share one alpha, and cycle says which share")
    if plan.family and not _NAME.fullmatch(plan.family):
        refuse(f"family {plan.family!r}: {_NAMES}")
    if plan.cycle is not None and plan.cycle < 1:
        refuse(f"cycle must be 1 or more, not {plan.cycle}")
    if plan.cycle is not None and plan.policy.partition("/")[0] not in ("", "ledger"):
        refuse(f"only policy ledger splits alpha over cycles, not {plan.policy}")
    if plan.policy and not _NAME.fullmatch(plan.policy):
        refuse(f"policy {plan.policy!r}: {_NAMES}")
    if plan.platform and not _PLATFORM.fullmatch(plan.platform):
        refuse(f"platform {plan.platform!r} must be one line of at most 100 ASCII characters")
    if plan.trainer is not None:
        if plan.metric not in TRAINER_METRICS:
            close = difflib.get_close_matches(plan.metric, TRAINER_METRICS, 1)
            hint = f"did you mean {close[0]!r}?" if close else f"it tells {', '.join(TRAINER_METRICS)}"
            refuse(f"the trainer tells no metric {plan.metric!r}; {hint}")
        if plan.direction == "higher":
            refuse(f'direction = "higher" contradicts the metric: of {plan.metric} lower is better')
    for arm in plan.arm:
        if arm is plan.control and (arm.predict != "different" or arm.effect is not None):
            refuse(f"arm {arm.name!r} is the control, which the others are compared with: it has no hypothesis")
        if arm.effect is None:
            continue
        if not math.isfinite(arm.effect) or arm.effect == 0:
            refuse(f"arm {arm.name!r}: effect must be a number other than 0, not {arm.effect}")
        if arm.predict != "different" and arm.predict != (found := plan.says(arm.effect)):
            refuse(
                f"arm {arm.name!r}: predict = {arm.predict!r} contradicts effect = {arm.effect:+g}, "
                f"which is {found} where {plan.direction} is better"
            )


_LOWER = re.compile(r"(?i)(?:.*[^a-z])?(?:bpb|bpc|loss|nll|ppl|perplexity|error|wer)")
_HIGHER = re.compile(r"(?i)(?:.*[^a-z])?(?:acc|accuracy|f1|bleu|rouge|auc|reward)")


def check_hypotheses(plan: Plan, where: str) -> None:
    """What only a plan that is registered for itself must have: something that its runs could show.

    `ledger run` is used for a single run, too. Raises UsageError.
    """
    if plan.kind == "screen":
        return  # its factors are what it asks about, and its stacks are many measurements of each
    if len(plan.arm) < 2:
        raise UsageError(
            f"{where}: a plan with one arm has no hypothesis; add an [[arm]] to compare with the control"
        )
    if len(plan.seeds) < 2:
        raise UsageError(f"{where}: one seed cannot tell an effect from noise; give at least two, for example 0-2")
    for pattern, better in ((_LOWER, "lower"), (_HIGHER, "higher")):
        if pattern.fullmatch(plan.metric) and plan.direction != better:
            raise UsageError(
                f"{where}: direction = {plan.direction!r} contradicts the hypotheses: of {plan.metric} {better} is "
                f"better, so {_first_claim(plan)} would mean the opposite"
            )


def _first_claim(plan: Plan) -> str:
    return next((f"{arm.name} {arm.predict}" for arm in plan.arm if arm.predict != "different"), "'better'")


def parse_seeds(seeds: Any, where: str) -> tuple[int, ...]:
    """Seeds from "0-2", "0,1,5" or a list of integers. Raises UsageError for none, doubles, or nonsense."""
    found: list[int] = []
    if isinstance(seeds, str):
        for part in filter(None, (piece.strip() for piece in seeds.split(","))):
            match = re.fullmatch(r"(\d{1,19})(?:-(\d{1,19}))?", part)
            if not match:
                raise UsageError(f"{where}: {part!r} is not a seed or a range of seeds; write 0-2 or 0,1,2")
            first, last = int(match[1]), int(match[2] or match[1])
            if last < first:
                raise UsageError(f"{where}: the range of seeds {part} runs backwards; write {last}-{first}")
            if last - first >= MAX_SEEDS:
                raise UsageError(f"{where}: {part} is {last - first + 1} seeds; a plan has at most {MAX_SEEDS:,}")
            found += range(first, last + 1)
    elif isinstance(seeds, Sequence) and all(type(seed) is int and 0 <= seed < 2**63 for seed in seeds):
        found = list(seeds)
    else:
        raise UsageError(f'{where}: seeds must be "0-2" or a list of integers from 0, not {seeds!r}')
    if not found:
        raise UsageError(f'{where}: no seeds; give for example "0-2" (three runs of every arm)')
    if max(found) >= 2**63:
        raise UsageError(f"{where}: seed {max(found)} does not fit into 64 bits")
    if len(set(found)) < len(found):
        twice = next(seed for index, seed in enumerate(found) if seed in found[:index])
        raise UsageError(f"{where}: seed {twice} is given twice; a second run of it would not be a second sample")
    return tuple(found)


def from_options(
    command: Sequence[str],
    arms: Sequence[str],
    baseline: str | None,
    *,
    seeds: str,
    metric: str,
    direction: Literal["lower", "higher"],
    delta: float,
    timeout: float | None,
    name: str | None,
    patterns: Sequence[str],
    log: str = "",
) -> Plan:
    """A plan from `ledger run --arm NAME=VALUE … -- CMD`: every arm sets environment variables.

    `--arm A=1,B=2` sets two; `--baseline A=0` is what the control sets (default: nothing).
    """
    where = "the command line"
    for number, word in enumerate(command, 1):
        if not _is_text(word):
            raise UsageError(f"{where}: word {number} of the command is not UTF-8 text: {word!a}")
    if not command[0]:
        raise UsageError(f"{where}: the first word of the command is empty; name a program")
    control: dict[str, Any] = {"name": baseline or "baseline", "env": _variables(baseline, where) if baseline else {}}
    short = sha256(canonical.encode([*command])).hexdigest()[:6]
    raw: dict[str, Any] = {
        "name": f"{_program(command)}-{short}" if name is None else name,
        "metric": metric,
        "direction": direction,
        "delta": delta,
        "seeds": seeds,
        "arm": [control, *({"name": arm, "env": _variables(arm, where)} for arm in arms)],
        "script": {"command": list(command), "patterns": list(patterns)},
    }
    if log:
        raw["script"]["log"] = log
    if timeout is not None:
        raw["timeout"] = timeout
    return build(raw, where, canonical.encode(raw).decode())


def _program(command: Sequence[str]) -> str:
    """What to call an experiment: the first script that the command names, else its program."""
    word = next((word for word in command if word.endswith((".py", ".sh"))), command[0])
    return re.sub(r"[^A-Za-z0-9_.+-]+", "-", word.rstrip("/").rsplit("/", 1)[-1])[:60].strip(".+-_") or "run"


def _is_text(word: str) -> bool:
    try:
        word.encode()
    except UnicodeEncodeError:  # bytes of the command line that were no UTF-8
        return False
    return True


def _variables(text: str, where: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for part in text.split(","):
        name, equals, value = part.partition("=")
        if not equals or not _VARIABLE.fullmatch(name):
            raise UsageError(f"{where}: an arm is NAME=VALUE (or NAME=VALUE,NAME=VALUE), not {text!r}")
        if name in found:
            raise UsageError(f"{where}: {name} is set twice in {text!r}")
        found[name] = value
    return found

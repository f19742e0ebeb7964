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
    timeout = 600             # seconds for one run

    [trainer]                 # the built-in GPT: settings that all arms share
    steps = 150
    # or
    [script]                  # any program
    command = ["python", "train.py"]
    env = { LR = "0.02" }

    [[arm]]                   # the first arm is the control
    name = "relu2"
    [[arm]]
    name = "gelu"
    set = { activation = "gelu" }     # trainer settings; for a script: env = { … }, args = [ … ]
    predict = "better"                # or "worse"; default "different"
"""

from __future__ import annotations

import difflib
import math
import re
import tomllib
import typing
from collections.abc import Iterable, Mapping, Sequence
from hashlib import sha256
from typing import Any, Literal, NoReturn

import msgspec

from ledger import canonical, events
from ledger.errors import UsageError

MAX_PLAN_BYTES = 16 * 1024  # the text is kept in the event
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9 _.+=,:/^*-]{0,79}")
_NAMES = "a name begins with A-Z, a-z or 0-9, then may also have spaces and _.+-=,:/^*, 80 characters in all"
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,99}")


class PlanArm(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One condition: what it changes against the shared settings."""

    name: str
    predict: Literal["better", "worse", "different"] = "different"
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
    capture: tuple[str, ...] = ()  # further environment variables to record
    grace: float = 5.0  # seconds between SIGTERM and SIGKILL


class Plan(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A whole plan. Exactly one of `trainer` and `script` is given; `arm[0]` is the control."""

    name: str
    seeds: tuple[int, ...]
    delta: float
    arm: tuple[PlanArm, ...]
    question: str = ""
    metric: str = "val_bpb"
    direction: Literal["lower", "higher"] = "lower"
    alpha: float = 0.05
    timeout: float | None = None
    seed_role: events.SeedRole = "confirm"
    pair_tier: events.PairTier = "seed"
    stage: events.Stage = "train"
    estimand: Literal["wallclock", "fixed_step"] = "fixed_step"
    scale: str = ""
    trainer: dict[str, Any] | None = None
    script: Script | None = None
    text: str = ""  # as the user wrote it; never a key of the file

    @property
    def control(self) -> PlanArm:
        return self.arm[0]

    def cells(self) -> list[tuple[PlanArm, int]]:
        """Every (arm, seed), interleaved by seed, the arms' order turning with it: what drifts in a
        session (heat, neighbours) then falls on every arm alike."""
        n = len(self.arm)
        return [(self.arm[(index + turn) % n], seed) for turn, seed in enumerate(self.seeds) for index in range(n)]


def parse(text: str, where: str, seeds: str | None = None) -> Plan:
    """A plan from TOML text; `seeds` overrides its seeds. Raises UsageError naming `where` and what is wrong."""
    if len(text.encode()) > MAX_PLAN_BYTES:
        raise UsageError(f"{where}: a plan has at most {MAX_PLAN_BYTES} bytes; this one has {len(text.encode())}")
    try:
        raw = tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # also a number of 5,000 digits, 5,000 nested lists
        raise UsageError(f"{where}: not TOML: {error}") from None
    return build(raw, where, text, seeds)


def build(raw: Mapping[str, Any], where: str, text: str, seeds: str | None = None) -> Plan:
    """A plan from plain data, checked. Raises UsageError."""
    said: dict[str, Any] = dict(raw)
    _known("the plan", raw, [name for name in Plan.__struct_fields__ if name != "text"], where)
    if isinstance(said.get("script"), dict):
        _known("[script]", said["script"], Script.__struct_fields__, where)
        said["script"] = _texts(said["script"])
    if isinstance(said.get("arm"), list):
        for index, arm in enumerate(said["arm"]):
            if isinstance(arm, dict):
                _known(f"[[arm]] number {index + 1}", arm, PlanArm.__struct_fields__, where)
        said["arm"] = [_texts(arm) if isinstance(arm, dict) else arm for arm in said["arm"]]
    if seeds is not None:
        said["seeds"] = seeds
    if "seeds" not in said:
        raise UsageError(f'{where}: no seeds; give for example seeds = "0-2" (three runs of every arm)')
    said["seeds"] = parse_seeds(said["seeds"], where)
    try:
        plan = msgspec.convert({**said, "text": text}, Plan)
    except msgspec.ValidationError as error:
        raise UsageError(f"{where}: {_readable(error)}") from None
    _check(plan, where)
    return plan


def _texts(table: dict[str, Any]) -> dict[str, Any]:
    """Environment values are text; LR = 0.02 means LR = "0.02"."""
    env = table.get("env")
    if not isinstance(env, dict):
        return table
    return {**table, "env": {name: str(v) if type(v) in (int, float) else v for name, v in env.items()}}


def _readable(error: msgspec.ValidationError) -> str:
    """msgspec's message in the words of the file: `$.arm[1].env` is the second arm's env."""
    text, _, path = str(error).partition(" - at `$")
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
            if last - first >= 10_000:
                raise UsageError(f"{where}: {part} is {last - first + 1} seeds; a plan has at most 10,000")
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

"""A cycle plan: what may be tried, on which control, what a measurement is worth, and when to stop.

Read from TOML into frozen structs, and refused with one line when it does not say what it must. Everything that ends
the series is in it beforehand; nothing that happens later changes it.

    name = "activations"
    question = "…"
    metric = "val_bpb"          # default; direction, scale, platform, stage, estimand, timeout: as in a plan
    delta = 0.01                # smallest effect that matters
    alpha = 0.05                # for all cycles together: cycle c may spend alpha / (c (c + 1))
    seeds = 3                   # of every arm in each cycle: fresh ones every time
    first_seed = 0              # default; cycle c has the seeds from first_seed + (c - 1) seeds
    batch = 1                   # default; candidates that one cycle measures, beside one control
    adopt = 0.005               # default delta / 2: an effect larger than this would be adopted
    prior_sd = 0.01             # default delta: standard deviation of an effect before it was measured
    records = "parameter-golf"  # a folder of records that each cycle reads first, seen from this file; default none

    [trainer]                   # or [script], as in a plan
    steps = 150

    [control]                   # what the candidates are compared with
    name = "relu2"

    [[candidate]]
    name = "gelu"
    set = { activation = "gelu" }   # a script takes env = { … }, args = [ … ]
    cost = 1.0                  # of one run, in runs of the control; default: what the runs' wall time says, else 1
    effect = -0.002             # prior mean; default 0
    sd = 0.01                   # prior standard deviation; default prior_sd
    feasible = 1.0              # default; probability that it can be run
    technique = "gelu"          # default none: a technique of the records, whose effect there is then its prior
    excludes = "activation"     # default none: of candidates with one word here, one that is better ends the others

    [stop]                      # each default 0, which is off; what ends the series first counts
    confirmed = 1               # effects that were found better
    nulls = 3                   # findings of no effect that matters in a row
    cycles = 4
    wall_clock = 172800         # seconds that the runs take
    runs = 60
    price = 1e-5                # a score below it is not worth its cost; without one it ends when all is decided
"""

from __future__ import annotations

import difflib
import math
import tomllib
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from ledger.cycles import Candidate, StopRule
from ledger.errors import UsageError
from runners import plan as plans
from runners import plan_text
from runners.plan import Plan

STOPS = ("confirmed", "nulls", "cycles", "wall_clock", "runs", "price")
MOST_CANDIDATES = 200
MOST_BATCH = 24
_PASSED = ("metric", "direction", "scale", "platform", "stage", "estimand", "timeout", "pair_tier", "policy")
_OWN = (
    "name", "question", "delta", "alpha", "seeds", "first_seed", "batch", "adopt", "prior_sd", "records", "control",
    "candidate", "stop",
)  # fmt: skip
_SETTINGS = ("set", "env", "args")
_CANDIDATE = ("name", *_SETTINGS, "predict", "cost", "effect", "sd", "feasible", "technique", "excludes")


class CyclePlan(msgspec.Struct, frozen=True, kw_only=True):
    """A whole cycle plan. `whole` is the plan that has the control and every candidate as its arms."""

    name: str
    question: str
    delta: float
    alpha: float
    seeds: int
    first_seed: int
    batch: int
    adopt: float
    records: str | None
    candidates: tuple[Candidate, ...]
    stop: tuple[StopRule, ...]
    whole: Plan
    raw: dict[str, Any]
    text: str

    def seeds_of(self, number: int) -> tuple[int, ...]:
        """The fresh seeds of a cycle (from 1)."""
        first = self.first_seed + (number - 1) * self.seeds
        return tuple(range(first, first + self.seeds))

    def experiment(
        self, name: str, chosen: Sequence[str], seeds: Sequence[int], family: str = "", cycle: int | None = None
    ) -> Plan:
        """The plan that measures some candidates, as text that can be run by itself.

        As a cycle of a family it spends its share of the family's alpha; without one it is a plan by itself.
        """
        arms = [self.raw["control"]]
        by_name = {one["name"]: one for one in self.raw["candidate"]}
        for one in chosen:
            arms.append({key: by_name[one][key] for key in ("name", *_SETTINGS, "predict") if key in by_name[one]})
        told = {key: self.raw[key] for key in _PASSED if key in self.raw}
        rest: dict[str, Any] = {key: self.raw[key] for key in ("trainer", "script") if key in self.raw}
        content: dict[str, Any] = {"name": name, "question": self.question or None, **told}
        content |= {"delta": self.delta, "alpha": self.alpha, "seeds": list(seeds)}
        content |= {"family": family or None, "cycle": cycle, **rest, "arm": arms}
        return plans.parse(plan_text.dumps(content), f"the plan of {name}")


def parse(text: str, where: str) -> CyclePlan:
    """A cycle plan from TOML text. Raises UsageError naming `where` and what is wrong."""
    if len(text.encode()) > plans.MAX_PLAN_BYTES:
        raise UsageError(f"{where}: a cycle plan has at most {plans.MAX_PLAN_BYTES} bytes, not {len(text.encode())}")
    try:
        raw = tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{where}: not TOML: {error}") from None
    if "candidate" not in raw and ("arm" in raw or "factor" in raw):
        raise UsageError(f"{where}: this is a plan with arms: `ledger run` runs it; a cycle plan has [[candidate]]s")
    _known("the cycle plan", raw, (*_OWN, *_PASSED, "trainer", "script"), where)
    for key in ("name", "delta"):
        if key not in raw:
            raise UsageError(f"{where}: no {key}; a cycle plan says it before its first cycle")
    control = _table(raw, "control", where)
    _known("[control]", control, ("name", *_SETTINGS), where)
    rows = raw.get("candidate")
    if not isinstance(rows, list) or not rows or not all(isinstance(row, dict) for row in rows):
        raise UsageError(f"{where}: a cycle plan needs one [[candidate]] or more: what may be tried")
    if len(rows) > MOST_CANDIDATES:
        raise UsageError(f"{where}: a cycle plan has at most {MOST_CANDIDATES} candidates, not {len(rows)}")
    for index, row in enumerate(rows):
        _known(f"[[candidate]] number {index + 1}", row, _CANDIDATE, where)
    seeds = _whole(raw, "seeds", 3, 2, 100, where)
    whole = _plan(raw, control, rows, seeds, where)
    delta, prior = whole.delta, _number(raw, "prior_sd", whole.delta, where, positive=True)
    return CyclePlan(
        name=whole.name,
        question=whole.question,
        delta=delta,
        alpha=whole.alpha,
        seeds=seeds,
        first_seed=_whole(raw, "first_seed", 0, 0, 2**40, where),
        batch=_whole(raw, "batch", 1, 1, MOST_BATCH, where),
        adopt=_number(raw, "adopt", delta / 2, where),
        records=_records(raw, where),
        candidates=tuple(_candidate(row, prior, f"{where}: candidate {row.get('name')!r}") for row in rows),
        stop=_stops(raw, where),
        whole=whole,
        raw=raw,
        text=text,
    )


def _plan(
    raw: Mapping[str, Any], control: Mapping[str, Any], rows: Sequence[dict[str, Any]], seeds: int, where: str
) -> Plan:
    """The control and all candidates as one plan, with a plan's own checks."""
    arms = [
        dict(control),
        *({key: row[key] for key in ("name", *_SETTINGS, "predict") if key in row} for row in rows),
    ]
    content: dict[str, Any] = {key: raw[key] for key in _PASSED if key in raw}
    content |= {key: raw[key] for key in ("name", "question", "delta", "alpha", "trainer", "script") if key in raw}
    try:
        # As one of a family's cycles: only policies that split alpha over them can judge it.
        shared = {"family": "cycles", "cycle": 1}
        return plans.build({**content, **shared, "seeds": list(range(seeds)), "arm": arms}, where, "")
    except UsageError as error:
        raise UsageError(_in_our_words(str(error))) from None


def _in_our_words(message: str) -> str:
    """A plan's complaint about [[arm]] number 3 as one about [[candidate]] number 2."""
    import re

    def word(match: re.Match[str]) -> str:
        number = int(match[1])
        return "[control]" if number == 1 else f"[[candidate]] number {number - 1}"

    return re.sub(r"\[\[arm\]\] number (\d+)", word, message)


def _candidate(row: Mapping[str, Any], prior: float, where: str) -> Candidate:
    feasible = _number(row, "feasible", 1.0, where)
    if not 0 < feasible <= 1:
        raise UsageError(f"{where}: feasible is a probability above 0 and up to 1, not {feasible}")
    return Candidate(
        name=row["name"],
        cost=_number(row, "cost", 1.0, where, positive=True) if "cost" in row else None,
        mean=_number(row, "effect", 0.0, where),
        sd=_number(row, "sd", prior, where, positive=True),
        feasible=feasible,
        technique=_word(row, "technique", where),
        excludes=_word(row, "excludes", where),
    )


def _stops(raw: Mapping[str, Any], where: str) -> tuple[StopRule, ...]:
    table = _table(raw, "stop", where)
    _known("[stop]", table, STOPS, where)
    found = []
    for name in STOPS:
        limit = _number(table, name, 0.0, f"{where}: [stop]")
        if limit < 0 or (name in ("confirmed", "nulls", "cycles", "runs") and limit != int(limit)):
            raise UsageError(f"{where}: [stop] {name} must be a {'whole ' if name != 'price' else ''}number from 0")
        if limit:
            found.append(StopRule(name, limit))
    if not any(rule.rule in ("cycles", "wall_clock", "runs") for rule in found):
        raise UsageError(
            f"{where}: [stop] needs an end that is sure to come: cycles, runs or wall_clock (candidates that stay "
            "undecided would be measured for ever)"
        )
    return tuple(found)


def _records(raw: Mapping[str, Any], where: str) -> str | None:
    records = raw.get("records")
    if records is not None and (not isinstance(records, str) or not records.strip()):
        raise UsageError(f"{where}: records must be a folder, not {records!r}")
    return records


def _table(raw: Mapping[str, Any], key: str, where: str) -> dict[str, Any]:
    table = raw.get(key)
    if key == "control" and table is None:
        raise UsageError(f'{where}: no [control]; name what the candidates are compared with: [control] name = "…"')
    if table is not None and not isinstance(table, dict):
        raise UsageError(f"{where}: {key} must be a table, [{key}]")
    return table or {}


def _number(table: Mapping[str, Any], key: str, default: float, where: str, positive: bool = False) -> float:
    value = table.get(key, default)
    if type(value) not in (int, float) or not math.isfinite(value) or (positive and value <= 0):
        raise UsageError(f"{where}: {key} must be a number{' above 0' if positive else ''}, not {value!r}")
    return float(value)


def _whole(table: Mapping[str, Any], key: str, default: int, low: int, high: int, where: str) -> int:
    value = table.get(key, default)
    if type(value) is not int or not low <= value <= high:
        raise UsageError(f"{where}: {key} must be a whole number from {low} to {high}, not {value!r}")
    return value


def _word(table: Mapping[str, Any], key: str, where: str) -> str:
    value = table.get(key, "")
    if not isinstance(value, str) or len(value) > 100:
        raise UsageError(f"{where}: {key} must be a word, not {value!r}")
    return value


def _known(what: str, table: Mapping[str, Any], known: Sequence[str], where: str) -> None:
    for key in table:
        if key not in known:
            close = difflib.get_close_matches(key, known, 1)
            hint = f"did you mean {close[0]!r}?" if close else f"it may have: {', '.join(known)}"
            raise UsageError(f"{where}: {what} has an unknown key {key!r}; {hint}")

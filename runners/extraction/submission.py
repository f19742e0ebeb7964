"""submission.json in all its shapes: aliases of keys, seeds as list or mapping, several files, or none.

A value keeps the key that it stood under, so that a contradiction with the README can be told. NaN, infinities and
texts where numbers belong are no values, and are told.
"""

from __future__ import annotations

import json
import math
import re
from typing import Any, NamedTuple

from ledger.records import ReadFlag, ReadSeed
from runners.extraction import numbers
from runners.extraction.sources import Source

NOT_FINITE = "not a finite number"
NAME = ("name", "run_name", "title", "submission_name", "submission")
AUTHOR = ("author", "authors", "submitted_by", "submitter")
GITHUB = ("github_id", "github", "github_username", "github_handle")
SCORE = (
    "val_bpb",
    "mean_val_bpb",
    "val_bpb_mean",
    "mean_bpb",
    "final_val_bpb",
    "bpb",
    "score",
    "val_bpb_exact",
    "post_ttt_val_bpb",
)
BYTES = (
    "bytes_total",
    "artifact_bytes",
    "artifact_size_bytes",
    "artifact_bytes_mean",
    "total_bytes",
    "bytes_total_max",
    "submission_size_bytes",
    "artifact_bytes_max",
    "size_bytes",
    "total_submission_size",
)
BASE = ("base_pr", "based_on", "parent", "base", "comparison_baseline_pr", "baseline_pr", "parent_pr")
SEEDS = ("seed_results", "seeds", "per_seed", "results_per_seed", "seed_runs", "runs", "results")
_IN_SEED = ("val_bpb", "bpb", "score", "post_ttt_val_bpb", "sliding_val_bpb", "ttt_val_bpb", "final_val_bpb")


class Told(NamedTuple):
    """What the JSON files of a record say; `where` is the file and key of each value."""

    name: str | None = None
    author: str | None = None
    github_id: str | None = None
    date: str | None = None
    val_bpb: float | None = None
    bytes_total: int | None = None
    base: str | None = None
    seeds: tuple[ReadSeed, ...] = ()
    flags: tuple[ReadFlag, ...] = ()
    where: tuple[tuple[str, str], ...] = ()

    def evidence(self, field: str) -> str | None:
        return dict(self.where).get(field)


def read(sources: list[Source]) -> Told:
    """All submission files together; the one called submission.json speaks first."""
    flags: list[ReadFlag] = []
    objects: list[tuple[Source, dict[str, Any]]] = []
    for source in sorted(sources, key=lambda each: (each.path != "submission.json", each.path)):
        if source.reason is not None:
            flags.append(ReadFlag(field="submission", said=(source.path,), reason=source.reason))
            continue
        try:
            value = json.loads(source.text)
        except (ValueError, RecursionError) as error:
            flags.append(ReadFlag(field="submission", said=(source.path,), reason=f"not JSON: {str(error)[:120]}"))
            continue
        if not isinstance(value, dict):
            kind = type(value).__name__
            flags.append(
                ReadFlag(field="submission", said=(source.path,), reason=f"a JSON object expected, found {kind}")
            )
            continue
        objects.append((source, value))
    reader = _Reader(objects, flags)
    return reader.told()


class _Reader(NamedTuple):
    objects: list[tuple[Source, dict[str, Any]]]
    flags: list[ReadFlag]

    def told(self) -> Told:
        where: dict[str, str] = {}
        found: dict[str, Any] = {}
        for field, keys, convert in (
            ("name", NAME, _words),
            ("author", AUTHOR, _words),
            ("github_id", GITHUB, _words),
            ("date", ("date",), _words),
            ("val_bpb", SCORE, self._score),
            ("bytes_total", BYTES, _size),
            ("base", BASE, _base),
        ):
            for source, value in self.objects:
                for key in keys:
                    converted = convert(value.get(key)) if value.get(key) is not None else None
                    if converted is not None and field not in found:
                        found[field] = converted
                        where[field] = f"{source.path}:{line_of(source.text, key)}"
        self._loss_that_is_bpb(found, where)
        for source, value in self.objects:
            self._not_numbers(source, value)
        seeds = tuple(seed for source, value in self.objects for seed in _seeds(source, value))
        return Told(**found, seeds=seeds, flags=tuple(self.flags), where=tuple(sorted(where.items())))

    def _score(self, value: Any) -> float | None:
        number = _number(value)
        return number if number is not None and 0.3 < number < 10 else None

    def _loss_that_is_bpb(self, found: dict[str, Any], where: dict[str, str]) -> None:
        """A val_loss is the score where there is no val_bpb and the file's own words give the same number as it."""
        if "val_bpb" in found:
            return
        for source, value in self.objects:
            loss = _number(value.get("val_loss"))
            blurb = " ".join(str(each) for each in value.values() if isinstance(each, str))
            said = {figure.value for figure in numbers.figures(blurb)}
            if loss is not None and loss in said:
                found["val_bpb"] = loss
                where["val_bpb"] = f"{source.path}:{line_of(source.text, 'val_loss')}"
                reason = "the file has no val_bpb; its val_loss is the figure that its text calls the result"
                self.flags.append(ReadFlag(field="val_bpb", said=(f"{loss} ({where['val_bpb']})",), reason=reason))
                return

    def _not_numbers(self, source: Source, value: dict[str, Any]) -> None:
        for key, each in value.items():
            if key in (*SCORE, "val_loss") and each is not None and _number(each) is None:
                said = (f"{str(each)[:40]} ({source.path}:{line_of(source.text, key)})",)
                self.flags.append(ReadFlag(field=key, said=said, reason=NOT_FINITE))


def _seeds(source: Source, value: dict[str, Any]) -> list[ReadSeed]:
    for key in SEEDS:
        told = value.get(key)
        if isinstance(told, dict) and told:
            rows = [_seed(source, name, each) for name, each in list(told.items())[:200]]
            found = [row for row in rows if row is not None]
            if found:
                return found
        if isinstance(told, list) and any(isinstance(each, dict) for each in told):
            rows = [_seed(source, each.get("seed"), each) for each in told[:200] if isinstance(each, dict)]
            found = [row for row in rows if row is not None]
            if found:
                return found
    numbers_told, scores = value.get("seeds"), value.get("seed_scores", value.get("seed_val_bpb"))
    if isinstance(numbers_told, list) and isinstance(scores, list) and len(numbers_told) == len(scores):
        rows = [_seed(source, seed, {"val_bpb": each}) for seed, each in zip(numbers_told, scores, strict=True)]
        return [row for row in rows if row is not None]
    return []


def _seed(source: Source, name: Any, told: Any) -> ReadSeed | None:
    digits = re.search(r"\d{1,10}", str(name)) if name is not None else None
    if not isinstance(told, dict):
        told = {"val_bpb": told}
    score = next((number for key in _IN_SEED if (number := _number(told.get(key))) is not None), None)
    if digits is None or score is None or not 0.3 < score < 10:
        return None
    return ReadSeed(
        seed=int(digits[0]),
        val_bpb=score,
        val_loss=_number(told.get("val_loss")),
        pre_quant_bpb=_first(told, "pre_quant_val_bpb", "pre_quant_bpb"),
        bytes_total=next((size for key in BYTES if (size := _size(told.get(key))) is not None), None),
        steps=_whole(told.get("steps", told.get("step_stop"))),
        wall_s=_seconds(told),
        step_ms=_first(told, "step_avg_ms", "ms_per_step", "step_ms"),
        source="json",
        evidence=f"{source.path}:{line_of(source.text, str(name))}",
    )


def _seconds(told: dict[str, Any]) -> float | None:
    seconds = _first(told, "train_time_s", "train_time_seconds", "wallclock_seconds")
    milliseconds = _first(told, "train_time_ms")
    return seconds if seconds is not None or milliseconds is None else milliseconds / 1000


def _first(told: dict[str, Any], *keys: str) -> float | None:
    return next((number for key in keys if (number := _number(told.get(key))) is not None), None)


def _words(value: Any) -> str | None:
    if isinstance(value, list) and value and all(isinstance(each, str) for each in value):
        value = ", ".join(value)
    if not isinstance(value, str):
        return None
    return " ".join(value.split())[:300] or None


def _number(value: Any) -> float | None:
    if isinstance(value, bool) or value is None:
        return None
    if isinstance(value, str):
        try:
            value = float(value)
        except ValueError:
            return None
    if not isinstance(value, (int, float)) or abs(value) > 1e300 or not math.isfinite(value):
        return None
    return float(value)


def _whole(value: Any) -> int | None:
    number = _number(value)
    return int(number) if number is not None and number == int(number) and abs(number) < 2**62 else None


def _size(value: Any) -> int | None:
    if isinstance(value, str):
        return numbers.byte_count(value)
    number = _number(value)
    return round(number) if number is not None and 0 < number < 1e12 else None


def _base(value: Any) -> str | None:
    if isinstance(value, int) and not isinstance(value, bool) and 0 < value < 10**7:
        return f"PR #{value}"
    return _words(value)


def line_of(text: str, key: str) -> int:
    """The line (from 1) on which a key stands first, 1 where it cannot be found."""
    at = text.find(f'"{key}"')
    return text.count("\n", 0, at) + 1 if at >= 0 else 1

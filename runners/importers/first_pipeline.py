"""The files of the first published causal-screening pipeline, by their names.

    raw_runs.json            runs of a treatment and a control, by seed
    interventions.json       its readings of leaderboard records
    ablation_results.json, causal_dag.json, experiment_log.json, pipeline_log.json    its claims

Two of its habits are not taken over. What it calls val_bpb in its screening mode is the loss of the last training
batch, in nats: it is recorded as train_loss. And where a text stated no effects it divided the total evenly over
the rows: only figures that it read from an ablation table are kept as stated, the others are told in a flag.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

from ledger.errors import UsageError
from ledger.events import Role, Status
from ledger.records import ReadFlag, ReadIntervention, RecordExtracted, SourceFile
from runners.importers.items import (
    File,
    Found,
    Item,
    claim,
    claims,
    kind_of,
    number,
    objects,
    read_file,
    read_json,
    run,
    whole,
)
from runners.recording import one_line
from runners.records import grown

NAME = "import/first-pipeline/1"
_NO_VOCABULARY = sha256(b"").hexdigest()


def read(path: Path) -> Found:
    """One of its files, or a folder with any of them, cycles below it. Raises UsageError when there is none."""
    if path.is_dir():
        paths = sorted(one for name in _READERS for one in (*path.glob(name), *path.glob(f"*/{name}")))
        paths += sorted({*path.glob("*_raw_runs.json"), *path.glob("*/*_raw_runs.json")} - set(paths))
        paths += sorted({*path.glob("*_ablation.json"), *path.glob("*/*_ablation.json")} - set(paths))
        if not paths:
            raise UsageError(f"{path} holds none of {', '.join(_READERS)}")
    else:
        paths = [path]
    found = Found([], [], [], [])
    for one in paths:
        shown = one.relative_to(path).as_posix() if path.is_dir() else one.name
        try:
            file = read_file(one)
            data = read_json(file)
            _reader(one.name, data)(file, data, found)
            found.kept.append((file.name, file.data))
        except UsageError as error:
            found.failed.append((shown, str(error)))
    return found


def _reader(name: str, data: dict[str, Any]) -> Callable[[File, dict[str, Any], Found], None]:
    """By the file's name, else by its keys: the pipeline puts labels before the names."""
    if name in _READERS:
        return _READERS[name]
    for key, reader in _KEYS.items():
        if key in data:
            return reader
    raise UsageError(f"is none of {', '.join(_READERS)}: it has the keys {', '.join(list(data)[:6]) or '(none)'}")


# ── runs ──


def _raw_runs(file: File, data: dict[str, Any], found: Found) -> None:
    sides: list[tuple[Role, Any]] = [("treatment", data.get("treatment")), ("control", data.get("control"))]
    platform = one_line(str(data.get("platform") or "unknown"))[:60]
    control = data.get("control")
    shared = control.get("config") if isinstance(control, dict) else None
    items: list[Item] = []
    for role, side in sides:
        if not isinstance(side, dict):
            raise UsageError(f"{role} is not an object, but {kind_of(side)}")
        config = side.get("config") or {}
        if not isinstance(config, dict):
            raise UsageError(f"{role}.config is not an object, but {kind_of(config)}")
        times: dict[str, int] = {}
        for index, result in enumerate(objects(side.get("results"), f"{role}.results")):
            told = str(sorted(result.items(), key=str))
            times[told] = times.get(told, 0) + 1
            identity = (platform, role, config, shared, result, times[told])
            items.append(_result(file, f"{role}.results[{index}]", role, config, shared, platform, result, identity))
    found.items.extend(items)


def _result(
    file: File,
    where: str,
    role: Role,
    config: dict[str, Any],
    shared: Any,
    platform: str,
    result: dict[str, Any],
    identity: tuple[Any, ...],
) -> Item:
    told = result.get("metrics")
    metrics: dict[str, Any] = told if isinstance(told, dict) else {}
    value, loss = number(result.get("val_bpb")), number(result.get("val_loss"))
    # In screening no validation is run: both fields then hold the last training loss.
    screened = bool(result.get("screening_mode") or metrics.get("screening_mode")) or (
        value is not None and value == loss
    )
    error = str(result.get("error") or "")
    status: Status = "ok"
    if error:
        lower = error.lower()
        status = "timeout" if "time" in lower and "out" in lower else "oom" if "memory" in lower else "crash"
    finals = {"val_loss": loss, "train_loss_final": number(result.get("train_loss_final"))}
    overrides = config.get("env_overrides")
    return run(
        importer=NAME,
        file=file,
        where=where,
        identity=identity,
        arm=str(config.get("description") or role),
        role=role,
        seed=whole(result.get("seed")),
        group=(platform, shared),
        platform=platform,
        metric="train_loss" if screened else "val_bpb",
        value=value,
        status=status,
        reason=error,
        stage="train" if screened else "eval",
        env=overrides if isinstance(overrides, dict) else {},
        config={key: one for key, one in config.items() if key != "env_overrides"}
        | {key: result[key] for key in ("checkpoint_path", "train_log_path", "loss_variant") if result.get(key)},
        finals={} if screened else {name: one for name, one in finals.items() if one is not None},
        wall_s=number(result.get("wall_time_s")),
    )


# ── readings ──


def _interventions(file: File, data: dict[str, Any], found: Found) -> None:
    readings = [
        _reading(file, index, one) for index, one in enumerate(objects(data.get("submissions"), "submissions"))
    ]
    found.readings.extend(readings)
    counts: dict[str, Any] = {key: data[key] for key in ("field_coverage", "metadata") if key in data}
    made = [claim(NAME, "extraction", file.name, counts, file, "metadata")]
    found.items.extend(claims(NAME, file, made, counts))


def _reading(file: File, index: int, told: dict[str, Any]) -> list[RecordExtracted]:
    name = told.get("submission_id")
    if not isinstance(name, str) or not name:
        raise UsageError(f"submissions[{index}] has no submission_id")
    where = f"{file.name}:submissions[{index}]"
    final, base = number(told.get("final_bpb")), number(told.get("base_bpb"))
    listed = objects(told.get("interventions") or [], f"submissions[{index}].interventions")
    stated = [one for one in listed if one.get("delta_source") == "ablation_table"]
    invented = [one for one in listed if one not in stated and number(one.get("delta_bpb")) is not None]
    flags: tuple[ReadFlag, ...] = ()
    if invented:
        said = tuple(one_line(f"{one.get('name')}: {one.get('delta_bpb')} ({where})")[:200] for one in invented[:20])
        flags = (ReadFlag(field="interventions.delta_bpb", said=said, reason="not stated: a share of the total"),)
    rows = tuple(
        ReadIntervention(
            intervention=_unknown(str(one.get("name") or "")),
            known=False,
            label=one_line(str(one.get("name") or "unnamed"))[:200],
            kind=one_line(str(one.get("category") or "unknown"))[:60],
            status="new",
            delta_bpb=number(one.get("delta_bpb")) if one in stated else None,
            delta_source="stated" if one in stated and number(one.get("delta_bpb")) is not None else None,
            evidence=(f"{where}.interventions[{number_}]",),
        )
        for number_, one in enumerate(listed)
    )
    content = sha256(repr(sorted(told.items(), key=str)).encode("utf-8", "surrogatepass")).hexdigest()
    head = RecordExtracted(
        record=f"first-pipeline/{one_line(name)[:200]}",
        track="first-pipeline",
        repository=None,
        parser=NAME,
        vocabulary=_NO_VOCABULARY,
        source_digest=content,
        sources=(SourceFile(file.name, file.digest.sha256, file.digest.bytes),),
        part=1,
        parts=1,
        name=one_line(name)[:200],
        author=_text(told.get("author")),
        date=_text(told.get("date")),
        val_bpb=final,
        val_bpb_evidence=None if final is None else f"{where}.final_bpb",
        base_val_bpb=base,
        base_evidence=None if base is None else f"{where}.base_bpb",
    )
    return grown([head], interventions=rows, flags=flags)


def _text(value: Any) -> str | None:
    return one_line(value)[:200] if isinstance(value, str) and value else None


def _unknown(label: str) -> str:
    return f"unknown:{re.sub(r'[^a-z0-9]+', '-', label.lower()).strip('-')[:60] or 'unnamed'}"


# ── claims ──


def _ablation(file: File, data: dict[str, Any], found: Found) -> None:
    around: dict[str, Any] = {key: data[key] for key in ("correction_method", "alpha", "mde") if key in data}
    rows = objects(data.get("comparisons"), "comparisons")
    made = [
        claim(NAME, "comparison", str(one.get("name") or n), {**around, **one}, file, f"comparisons[{n}]")
        for n, one in enumerate(rows)
    ]
    if isinstance(data.get("platform_transfer"), dict):
        made.append(claim(NAME, "transfer", "platforms", data["platform_transfer"], file, "platform_transfer"))
    found.items.extend(claims(NAME, file, made, data))


def _dag(file: File, data: dict[str, Any], found: Found) -> None:
    around: dict[str, Any] = {key: data[key] for key in ("cycle", "method") if key in data}
    made = [
        claim(NAME, "edge", f"{one.get('source')} -> {one.get('target')}", {**around, **one}, file, f"edges[{n}]")
        for n, one in enumerate(objects(data.get("edges"), "edges"))
    ]
    for n, one in enumerate(objects(data.get("estimated_effects") or [], "estimated_effects")):
        made.append(claim(NAME, "effect", str(one.get("node")), {**around, **one}, file, f"estimated_effects[{n}]"))
    if isinstance(proposed := data.get("next_intervention"), dict):
        made.append(claim(NAME, "next", str(proposed.get("variable")), proposed, file, "next_intervention"))
    if isinstance(data.get("metadata"), dict):
        made.append(claim(NAME, "dag", file.name, {**around, **data["metadata"]}, file, "metadata"))
    found.items.extend(claims(NAME, file, made, data))


def _log(key: str, kind: str, subject: str) -> Callable[[File, dict[str, Any], Found], None]:
    """A file that grows by entries: each entry is an item of its own, so a longer file adds what is new."""

    def reader(file: File, data: dict[str, Any], found: Found) -> None:
        times: dict[str, int] = {}
        for n, one in enumerate(objects(data.get(key), key)):
            made = claim(NAME, kind, str(one.get(subject) or n), one, file, f"{key}[{n}]")
            times[str(one)] = times.get(str(one), 0) + 1
            found.items.extend(claims(NAME, file, [made], [kind, one, times[str(one)]]))

    return reader


_READERS: dict[str, Callable[[File, dict[str, Any], Found], None]] = {
    "interventions.json": _interventions,
    "raw_runs.json": _raw_runs,
    "ablation_results.json": _ablation,
    "causal_dag.json": _dag,
    "experiment_log.json": _log("experiments", "experiment", "type"),
    "pipeline_log.json": _log("results", "cycle", "label"),
}
_KEYS = {
    "submissions": _interventions,
    "treatment": _raw_runs,
    "comparisons": _ablation,
    "edges": _dag,
    "experiments": _READERS["experiment_log.json"],
    "results": _READERS["pipeline_log.json"],
}

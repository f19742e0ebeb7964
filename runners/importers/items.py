"""What an importer finds: runs and claims as events, each under a name made from its content.

The name decides what is the same: a result that is read again, from the same file or a longer one, has the same
stream and enters the log once. Every item keeps the digest of its file and where in it it stood.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

from ledger import canonical, events
from ledger.errors import UsageError
from ledger.events import Digest, EventData, NoiseClass, Probed, Role, Stage, Status
from ledger.records import RecordExtracted
from runners.recording import one_line

MAX_FILE = 64 << 20  # bytes
_MAX_TEXT = 2000  # characters of one parameter
_MAX_ENTRIES = 200  # values, and parameters, of one claim


class Item(NamedTuple):
    """Events that belong together; a stream that the log has already is not appended to."""

    stream: str
    events: tuple[EventData, ...]


class Found(NamedTuple):
    """What an importer found: runs and claims, readings, files to keep, and what it could not read and why."""

    items: list[Item]
    readings: list[list[RecordExtracted]]
    kept: list[tuple[str, bytes]]  # name and bytes
    failed: list[tuple[str, str]]  # place and reason


class File(NamedTuple):
    """A file that was read."""

    name: str
    data: bytes
    digest: Digest


def read_file(path: Path) -> File:
    """Raises UsageError with one line."""
    try:
        if path.stat().st_size > MAX_FILE:
            raise UsageError(f"has more than {MAX_FILE >> 20} MiB")
        data = path.read_bytes()
    except OSError as error:
        raise UsageError(f"cannot be read: {error.strerror or error}") from None
    return File(path.name, data, Digest(path.name, sha256(data).hexdigest(), len(data)))


def read_json(file: File) -> dict[str, Any]:
    """The object in a JSON file; NaN and infinities are read. Raises UsageError with one line."""
    try:
        found = json.loads(file.data.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise UsageError(f"is not UTF-8: byte {error.start}") from None
    except (ValueError, RecursionError) as error:
        raise UsageError(f"is not JSON: {str(error)[:100]}") from None
    if not isinstance(found, dict):
        raise UsageError(f"holds no object, but {kind_of(found)}")
    return found


def kind_of(value: Any) -> str:
    """A JSON value's kind in words."""
    names = {dict: "an object", list: "a list", str: "a text", bool: "a truth value", type(None): "null"}
    return names.get(type(value), "a number")


def objects(value: Any, where: str) -> list[dict[str, Any]]:
    """A list of objects. Raises UsageError."""
    if not isinstance(value, list) or not all(isinstance(one, dict) for one in value):
        raise UsageError(f"{where} is not a list of objects")
    return value


def number(value: Any) -> float | None:
    """A number that is one; None for anything else, also for a truth value."""
    return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else None


def whole(value: Any) -> int | None:
    """An integer that fits into an event; None for anything else."""
    fits = isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**63
    return value if fits else None


def content_id(*parts: Any) -> str:
    """32 hex digits of what is given."""
    return sha256(canonical.encode(list(parts))).hexdigest()[:32]


def run(
    *,
    importer: str,
    file: File,
    where: str,
    identity: Sequence[Any],
    arm: str,
    role: Role,
    seed: int | None,
    group: Sequence[Any],
    platform: str,
    metric: str,
    value: float | None,
    status: Status = "ok",
    reason: str = "",
    stage: Stage = "eval",
    env: Mapping[str, Any] | None = None,
    config: Mapping[str, Any] | None = None,
    finals: Mapping[str, float] | None = None,
    commit: str | None = None,
    steps: int | None = None,
    wall_s: float | None = None,
    peak_memory_bytes: int | None = None,
    artifact_bytes: int | None = None,
) -> Item:
    """A run that another tool made: its start and its end, under an id made from `identity`.

    Runs of one `group` share a base. A value that is no finite number is a divergence, none at all no metric.
    """
    name = content_id(importer, *identity)
    if status == "ok" and value is None:
        status, reason = "no_metric", reason or f"it tells no {metric}"
    elif status == "ok" and value is not None and not math.isfinite(value):
        status, reason = "diverged", f"{metric} is {canonical.tag(value)}"
    base = f"import-{content_id(importer, *group)[:16]}"
    started = events.RunStarted(
        run=name,
        experiment=None,  # a plan that was not registered before its runs judges none of them
        arm=one_line(arm)[:200] or "unnamed",
        role=role,
        seed=seed,
        seed_role="tuning",  # for all that is known it was used to choose
        base=base,
        cell=f"{base}-{content_id(arm, seed)[:16]}",
        noise_class=NoiseClass(
            platform=platform, scale=f"unstated {content_id(base)[:8]}", metric=metric, stage=stage
        ),
        pair_tier="none" if seed is None else "seed",
        block=f"import-{file.digest.sha256[:16]}",
        stage=stage,
        fork_of=None,
        runner=importer,
        command=(),
        config=events.named({**(config or {}), "imported_from": f"{file.name}: {where}"}),
        env=events.named(dict(env or {})),
        environment=None,
        python="",
        platform=platform,
        hardware_class=platform,
        code=None,
        git_commit=commit,
        git_dirty=None,
        git_diff=None,
        data=(file.digest,),
        host="",
        boot="",
        pid=0,
    )
    told = {} if value is None else {metric: value}
    finished = events.RunFinished(
        run=name,
        status=status,
        reason=one_line(reason),
        exit_code=None,
        signal=None,
        metric=metric,
        value=None if value is None else canonical.tag(value),
        pre_value=None,
        finals=tuple(
            events.FinalMetric(key, canonical.tag(one), None)
            for key, one in sorted({**(finals or {}), **told}.items())
        ),
        steps=steps,
        tokens=None,
        wall_s=wall_s,
        cpu_s=None,
        peak_memory_bytes=peak_memory_bytes,
        artifact_bytes=artifact_bytes,
        cost=None,
        extractor=importer,
        started_at="",
        ended_at="",
    )
    return Item(f"run/{name}", (started, finished))


def claim(importer: str, kind: str, subject: str, data: Mapping[str, Any], file: File, where: str) -> EventData:
    """Figures that another tool derived: numbers as values, all else as parameters, nothing left out silently."""
    values: list[Probed] = []
    params: dict[str, Any] = {}
    _flatten(data, "", values, params)
    if (rest := len(values) + len(params) - 2 * _MAX_ENTRIES) > 0:
        params = {"left_out": f"about {rest} entries; the file is kept whole", **params}
    kept = dict(list(params.items())[:_MAX_ENTRIES])
    return events.ProbeMeasured(
        run=None,
        probe=f"imported_{kind}",
        subject=one_line(subject)[:200],
        method=importer,
        params=events.named({**kept, "imported_from": f"{file.name}: {where}"}),
        values=tuple(values[:_MAX_ENTRIES]),
        artifact=file.digest.sha256,
    )


def _flatten(value: Any, name: str, values: list[Probed], params: dict[str, Any]) -> None:
    if isinstance(value, Mapping):
        for key, inner in value.items():
            _flatten(inner, f"{name}.{key}" if name else str(key), values, params)
    elif (figure := number(value)) is not None:
        values.append(Probed(name[:200], canonical.tag(figure), ""))
    elif value is not None:
        text = value if isinstance(value, str) else json.dumps(value)
        params[name[:200]] = text[:_MAX_TEXT]


def claims(importer: str, file: File, made: Sequence[EventData], content: Any) -> list[Item]:
    """The claims of one file as one item each forty, under the digest of what it says."""
    name = content_id(importer, "claims", content)
    return [
        Item(f"import/{name}" + (f".{start // 40}" if start else ""), tuple(made[start : start + 40]))
        for start in range(0, len(made), 40)
    ]

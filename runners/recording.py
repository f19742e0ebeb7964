"""A run on its way into the log: its points in chunks, and its outcome as one event.

Whatever a program does (a thousand metrics, a name like a token, a full disk) may cost points or
shorten names; it must not cost the fact of the run.
"""

from __future__ import annotations

import functools
import math
import time

import msgspec

from ledger import canonical, events, layout, points
from ledger.chain import Log
from ledger.secrets import redact
from ledger.writer import Draft
from runners.cells import Outcome

CHUNK_POINTS = 65_536
CHUNK_SECONDS = 5.0
HUGE = 1e100  # a finite metric beyond this is a divergence that has not reached infinity yet
CHUNK_NAMES = 24 * 1024  # bytes of metric names in one chunk's event
MAX_NAME = 200  # characters of a metric's name


def judged(metric: str, outcome: Outcome) -> Outcome:
    """A run that ended well is ok only if it told the metric, and as a finite number."""
    if outcome.status != "ok":
        return outcome
    if metric not in outcome.finals:
        told = ", ".join(sorted(outcome.finals)[:8]) or "nothing"
        more = f"; {outcome.reason}" if outcome.reason else ""
        return msgspec.structs.replace(
            outcome, status="no_metric", reason=f"it told no {metric}; it told {told}{more}"
        )
    value = outcome.finals[metric][0]
    tagged = canonical.tag(value)
    if abs(value) > HUGE:
        return msgspec.structs.replace(outcome, status="diverged", reason=f"{metric} is {value:g}")
    if isinstance(tagged, str):
        return msgspec.structs.replace(outcome, status="diverged", reason=f"{metric} is {tagged}")
    return outcome


def outcome_event(run: str, metric: str, outcome: Outcome, began: str, ended: str) -> events.RunFinished:
    finals: list[events.FinalMetric] = []
    room = CHUNK_NAMES
    for name, (number, step) in sorted(outcome.finals.items(), key=lambda item: (item[0] != metric, item[0]))[:200]:
        room -= len(name.encode())
        if room >= 0:
            finals.append(events.FinalMetric(name, canonical.tag(number), step))
    value = outcome.finals.get(metric)
    before = outcome.finals.get(f"{metric}_pre_quant")
    size = outcome.finals.get("artifact_bytes", (math.nan, None))[0]
    return events.RunFinished(
        run=run,
        status=outcome.status,
        reason=one_line(outcome.reason),
        exit_code=outcome.exit_code,
        signal=outcome.signal,
        metric=metric,
        value=canonical.tag(value[0]) if value else None,
        pre_value=canonical.tag(before[0]) if before else None,
        finals=tuple(finals),
        steps=outcome.steps,
        tokens=outcome.tokens,
        wall_s=outcome.wall_s,
        cpu_s=outcome.cpu_s,
        peak_memory_bytes=outcome.peak_memory_bytes,
        artifact_bytes=int(size) if 0 <= size < 2**63 and size == int(size) else None,
        cost=outcome.wall_s,
        extractor=outcome.extractor,
        started_at=began,
        ended_at=ended,
    )


def one_line(text: str) -> str:
    return " ".join(redact(text.encode("utf-8", "replace"))[0].decode().split())[:400]


@functools.lru_cache(maxsize=16_384)
def metric_name(name: str) -> str:
    """A metric's name as it may enter the log: a program that prints `<token>: 1` must not cost its run."""
    return redact(name.encode("utf-8", "replace"))[0].decode()[:MAX_NAME]


class Sink:
    """Points of one run on their way into chunks: every 65,536 points or 5 seconds, and at the end."""

    def __init__(self, log: Log, run: str, source: str) -> None:
        self.log = log
        self.run = run
        self.source = source
        self.points: list[points.Point] = []
        self.names: set[str] = set()  # of these points
        self.names_bytes = 0
        self.chunks = 0
        self.since = time.monotonic()
        self.refused = False  # the disk refused the last attempt: wait before the next

    def add(self, step: int, name: str, value: float) -> None:
        """Take a point. Raises as flush does; the point is then kept all the same."""
        name = metric_name(name)
        if name not in self.names:
            self.names.add(name)
            self.names_bytes += len(name.encode()) + 8
        self.points.append((step, name, value, layout.now_us()))
        full = len(self.points) >= CHUNK_POINTS or self.names_bytes > CHUNK_NAMES
        if (full and not self.refused) or time.monotonic() - self.since > CHUNK_SECONDS:
            self.flush()

    def flush(self) -> None:
        """Write out what is there. Raises as write_chunk and append do; the points are then still here."""
        if not self.points:
            return
        self.since, self.refused = time.monotonic(), True
        folder = f"{self.log.writer.id.hex()}-{self.run}"  # one writer records many runs, one after another
        number, self.chunks = self.chunks, self.chunks + 1
        event = points.write_chunk(self.log.root, self.run, self.source, folder, number, self.points)
        self.log.writer.append([Draft(f"run/{self.run}", event)])
        self.points, self.names, self.names_bytes, self.refused = [], set(), 0, False

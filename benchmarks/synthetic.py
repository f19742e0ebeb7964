"""A long log in a short time: events of a realistic mix and size, written in commits of 10,000.

Of every sweep of 8 arms on 8 seeds: one registration; of every run its start, two measured probes,
two artifacts and its outcome, one in fifty of them a crash; one event in a thousand is retracted.
A body is the canonical text of an event made by the ledger's own structs, with its varying values
put in by formatting; segments come from the ledger's own encoder. So the log passes `ledger verify`,
but for the blobs that its artifacts name, which are not written.
"""

from __future__ import annotations

import os
import random
import uuid
from collections.abc import Iterator
from itertools import islice
from typing import Any, NamedTuple

from benchmarks.tables import blank
from ledger import canonical, events, layout, segment
from ledger.chain import Log
from ledger.event_text import check
from ledger.events import NameValue, NoiseClass

ARMS = tuple(f"arm{number}" for number in range(8))
SEEDS = tuple(range(8))
COMMIT = 10_000
BEGAN = 1_767_225_600_000_000  # 2026-01-01
_NOISE = NoiseClass("linux-x86_64-cpu", "gpt-4x256", "val_bpb", "train")
_HEX = "ab" * 32


class _Shape(NamedTuple):
    """An event's type, and its body with holes."""

    kind: str
    version: int
    text: bytes


def _shape(data: events.EventData, writer: bytes, holes: dict[str, bytes]) -> _Shape:
    """The body of `data`, with a hole for every marker (text, or a number that occurs nowhere else)."""
    body = canonical.text(
        {
            "actor": "researcher",
            "causation_id": None,
            "correlation_id": None,
            "data": check(data),
            "event_id": "@id",
            "recorded_at": "@at",
            "stream": "@stream",
            "type": data.TYPE,
            "type_version": data.VERSION,
            "writer": writer.hex(),
            "writer_seq": 777777,
        }
    )
    body = body.replace(b"%", b"%%")
    general = {'"@id"': b'"%(id)b"', '"@at"': b'"%(at)b"', '"@stream"': b'"%(stream)b"', "777777": b"%(seq)d"}
    for marker, hole in {**general, **holes}.items():
        assert marker.encode() in body, marker
        body = body.replace(marker.encode(), hole)
    return _Shape(data.TYPE, data.VERSION, body)


def _shapes(writer: bytes) -> dict[str, _Shape]:
    names = tuple(NameValue(name, "value") for name in ("activation", "batch", "depth", "lr", "warmup", "width"))
    plan = blank(
        events.ExperimentRegistered,
        experiment="@exp",
        name="@exp",
        family="@exp",
        metric="val_bpb",
        runner="gpt/1",
        delta=0.002,
        alpha=0.05,
        seeds=SEEDS,
        seed_role="confirm",
        control=ARMS[0],
        arms=tuple(blank(events.Arm, name=arm, config=names[:1]) for arm in ARMS),
        hypotheses=tuple(blank(events.Hypothesis, arm=arm) for arm in ARMS[1:]),
        noise_class=_NOISE,
        stopping="fixed",
        base=_HEX[:32],
        plan_digest=_HEX,
        policy="paired-pooled/1",
    )
    start = blank(
        events.RunStarted,
        run="@run",
        experiment="@exp",
        arm="@arm",
        seed=888888,
        seed_role="confirm",
        base=_HEX[:32],
        cell="@cell",
        noise_class=_NOISE,
        pair_tier="seed",
        block=_HEX[:16],
        runner="gpt/1",
        command=("python", "train.py", "--depth", "4"),
        config=names,
        env=(NameValue("SEED", "0"),),
        environment=_HEX,
        python="3.11.9",
        platform="linux-x86_64",
        hardware_class="cpu-2",
        code=_HEX,
        git_commit=_HEX[:40],
        git_dirty=False,
        data=(events.Digest("corpus", _HEX, 1_000_000),),
        host=_HEX[:16],
        boot=_HEX[:16],
        pid=4242,
    )
    ended: dict[str, Any] = {
        "run": "@run",
        "metric": "val_bpb",
        "finals": (events.FinalMetric("train_loss", 1.5, 110),),
        "steps": 110,
        "tokens": 450_560,
        "wall_s": 4.25,
        "cpu_s": 4.0,
        "peak_memory_bytes": 300_000_000,
        "extractor": "lines/1",
        "started_at": "2026-01-01T00:00:00.000000Z",
        "ended_at": "2026-01-01T00:00:04.000000Z",
    }
    run, experiment = {'"@run"': b'"%(run)b"'}, {'"@exp"': b'"%(exp)b"'}
    ok = blank(events.RunFinished, **ended, status="ok", exit_code=0, value=1.888888)
    crash = blank(events.RunFinished, **ended, status="crash", reason="exit code 1", exit_code=1)
    probe = blank(
        events.ProbeMeasured,
        run="@run",
        probe="gradient_noise",
        subject="checkpoint",
        method="gns/1",
        params=names[:2],
        values=(events.Probed("b_simple", 1.888888, "tokens"), events.Probed("trace", 0.25, "")),
    )
    artifact = events.ArtifactStored(
        run="@run",
        experiment=None,
        name="stdout.txt",
        kind="stdout",
        sha256="@sha",
        bytes=888888,
        left_out=0,
        media_type="text/plain",
    )
    retract = blank(events.EventRetracted, target="@target", reason="wrong data")
    value = {"1.888888": b"%(value)a"}
    return {
        "plan": _shape(plan, writer, experiment),
        "start": _shape(
            start,
            writer,
            {**run, **experiment, '"@arm"': b'"%(arm)b"', '"@cell"': b'"%(cell)b"', "888888": b"%(seed)d"},
        ),
        "ok": _shape(ok, writer, {**run, **value}),
        "crash": _shape(crash, writer, run),
        "probe": _shape(probe, writer, {**run, **value}),
        "artifact": _shape(artifact, writer, {**run, '"@sha"': b'"%(sha)b"', "888888": b"%(bytes)d"}),
        "retract": _shape(retract, writer, {'"@target"': b'"%(target)b"'}),
    }


def _told(rng: random.Random) -> Iterator[tuple[str, bytes, dict[bytes, Any]]]:
    """Shape, stream and varying values of one event after another, without end."""
    number = 0
    while True:
        experiment = b"e%07d" % number
        yield "plan", b"experiment/" + experiment, {b"exp": experiment}
        for arm in ARMS:
            for seed in SEEDS:
                run = b"%s-%s-%d" % (experiment, arm.encode(), seed)
                stream = b"run/" + run
                fixed = {b"run": run, b"exp": experiment, b"arm": arm.encode(), b"seed": seed}
                yield "start", stream, {**fixed, b"cell": b"%s-%d" % (arm.encode(), seed)}
                for _ in range(2):
                    yield "probe", stream, {b"run": run, b"value": round(rng.gauss(4000, 500), 3)}
                    yield (
                        "artifact",
                        stream,
                        {
                            b"run": run,
                            b"sha": b"%064x" % rng.getrandbits(256),
                            b"bytes": rng.randrange(100_000),
                        },
                    )
                value = round(rng.gauss(1.2, 0.005), 6)
                yield "ok" if rng.random() > 0.02 else "crash", stream, {b"run": run, b"value": value}
        number += 1


def rows(count: int, writer: int = 0) -> Iterator[segment.Row]:
    """`count` rows of a log, in order; those of another writer have other ids and other figures."""
    rng, shapes, ids = random.Random(writer), _shapes(writer.to_bytes(16, "big")), [uuid.UUID(int=0)]
    for seq, (name, stream, varying) in enumerate(islice(_told(rng), count)):
        at = BEGAN + seq * 1000
        made = uuid.UUID(int=(at // 1000) << 80 | 7 << 76 | 0b10 << 62 | rng.getrandbits(62))
        if seq % 1000 == 999:
            name, varying = "retract", {b"target": str(rng.choice(ids)).encode()}
        elif seq % 50 == 7:
            ids = [*ids[-99:], made]
        shape = shapes[name]
        body = shape.text % {
            **varying,
            b"id": str(made).encode(),
            b"at": layout.time_text(at).encode(),
            b"stream": stream,
            b"seq": seq,
        }
        yield segment.Row(
            event_id=made.bytes,
            type=shape.kind,
            type_version=shape.version,
            stream=stream.decode(),
            writer=writer.to_bytes(16, "big"),
            writer_seq=seq,
            recorded_at=at,
            correlation_id=None,
            causation_id=None,
            actor="researcher",
            body=body,
        )


def write(folder: str, count: int, commit: int = COMMIT) -> Log:
    """A new ledger with `count` events in commits of `commit`."""
    log = Log.create(folder)
    told = rows(count)
    while made := list(islice(told, commit)):
        add(log, made)
    log.note_head()
    return log


def add(log: Log, made: list[segment.Row]) -> None:
    """Append rows as one commit, without what makes it durable."""
    seen = log.seen()
    data, leaves = segment.encode(made, log.identity.id, seen.position, seen.root)
    os.makedirs(layout.shard_path(log.root, seen.position), exist_ok=True)
    with open(layout.segment_path(log.root, seen.position), "xb") as file:
        file.write(data)
    log.step(seen.position, segment.seal_of(data), leaves)

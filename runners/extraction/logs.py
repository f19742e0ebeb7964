"""Training logs: the last score, steps, wall time, size, peak memory, and the score before quantization.

A log is read once, line by line. The last exact val_bpb wins; a running figure of a sliding evaluation is no score.
"""

from __future__ import annotations

import re

from ledger.records import ReadSeed
from runners.extraction.sources import Source

_BPB = re.compile(r"(?<![\w])(?:\w{0,24}_)?(?:val_bpb|sliding_bpb)\s{0,2}[:=]\s{0,2}(\d+\.\d+)")
_NO_NUMBER = re.compile(r"(?<![\w])(?:\w{0,24}_)?(?:val_bpb|sliding_bpb)\s{0,2}[:=]\s{0,2}([+-]?(?:nan|inf))\b", re.I)
_LOSS = re.compile(r"(?<![\w])val_loss\s{0,2}[:=]\s{0,2}(\d+\.\d+)")
_STEP = re.compile(r"\bstep[ :]{1,2}(\d{1,9})/")
_TRAIN_TIME = re.compile(r"train_time\s{0,2}[:=]\s{0,2}(\d+(?:\.\d+)?)\s{0,1}(ms|s|m)\b")
_STEP_AVG = re.compile(r"step_avg\s{0,2}[:=]\s{0,2}(\d+(?:\.\d+)?)\s{0,1}ms")
_PEAK = re.compile(
    r"peak (?:gpu )?memory(?: allocated)?\s{0,2}[:=]?\s{0,2}(\d+(?:\.\d+)?)\s{0,1}(MiB|GiB|MB|GB)", re.I
)
_TOTAL = re.compile(r"total submission size[^:]{0,60}[:=]\s{0,2}(\d[\d,]{4,})", re.I)
_SEED = re.compile(r"(?<![\w.])(?:random_)?seed\s{0,2}[:=]\s{0,2}(\d{1,10})(?![\w.])", re.I)
_NAME_SEED = re.compile(r"seed[_-]?(\d{1,10})", re.I)
_NAME_RUN = re.compile(r"(?:train|run)[_-]?(\d{1,4})\.", re.I)
_UNITS = {"mib": 1 << 20, "gib": 1 << 30, "mb": 10**6, "gb": 10**9}
_BEFORE_QUANT = re.compile(r"pre[_-]?quant|post[_-]?ema", re.I)


def printed_seed(source: Source) -> int | None:
    """The seed that a log prints, to be held against the one in its name."""
    found = _SEED.search(source.text[:200_000])
    return int(found[1]) if found else None


def no_number(source: Source) -> tuple[str, str]:
    """The last score of a log where that is NaN or infinite, and its place; empty where it is a number."""
    last = ("", "")
    for number, line in enumerate(source.text.split("\n"), 1) if "bpb" in source.text else ():
        line = line[:500]
        if "bpb" not in line or "running" in line:
            continue
        if found := _NO_NUMBER.search(line):
            last = (found[1], f"{source.path}:{number}")
        elif _BPB.search(line):
            last = ("", "")
    return last


def read(source: Source) -> ReadSeed | None:
    """What one log says at its end; None without a score. The seed in its name goes before the printed one."""
    score = loss = steps = wall = step_ms = peak = size = seed = before = None
    at = 1
    for number, line in enumerate(source.text.split("\n"), 1):
        line = line[:500]
        if "bpb" in line and _NO_NUMBER.search(line) is not None:
            score = None
            continue
        if "bpb" in line and (found := _BPB.findall(line)) and "running" not in line:
            value = float(found[-1])
            if 0.3 < value < 10:
                stopped = _STEP.search(line) is not None
                if stopped or _BEFORE_QUANT.search(line):
                    before = value
                score, at = value, number
                losses = _LOSS.findall(line)
                loss = float(losses[-1]) if losses else None
        if "step" in line and (step := _STEP.search(line)):
            steps = int(step[1])
            if time := _TRAIN_TIME.search(line):
                wall = round(float(time[1]) * {"ms": 0.001, "s": 1, "m": 60}[time[2]], 3)
            if average := _STEP_AVG.search(line):
                step_ms = float(average[1])
        elif "memory" in line and (memory := _PEAK.search(line)):
            peak = round(float(memory[1]) * _UNITS[memory[2].lower()])
        elif "ubmission size" in line and (total := _TOTAL.search(line)):
            size = int(total[1].replace(",", ""))
        if seed is None and "eed" in line and (told := _SEED.search(line)):
            seed = int(told[1])
    if score is None:
        return None
    named = _NAME_SEED.search(source.path) or (_NAME_RUN.search(source.path) if seed is None else None)
    return ReadSeed(
        seed=int(named[1]) if named else seed,
        val_bpb=score,
        val_loss=loss,
        pre_quant_bpb=before if before != score else None,
        bytes_total=size,
        steps=steps,
        wall_s=wall,
        step_ms=step_ms,
        peak_memory_bytes=peak,
        source="log",
        evidence=f"{source.path}:{at}",
    )

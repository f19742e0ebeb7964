"""What reading a leaderboard costs: records of the three formats, written here, and a real clone where one is given.

    python -m benchmarks.extraction [--records 1000,10000] [--clone DIR] [--json]

Every row is `ledger extract` on a new ledger, in a process of its own: CPU seconds of the whole command, a
thousand records, and peak memory. The last column is the cost of a record against that of the first row:
1 means that time is linear in the number of records.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks import machine

TECHNIQUES = (
    "XSA on the last 4 layers",
    "EMA (0.997)",
    "BigramHash 3072",
    "SmearGate",
    "Partial RoPE (16/64)",
    "SWA",
)

_SEEDS = """
| Seed | Steps | val_bpb | Artifact (bytes) |
|---|---|---|---|
| 42 | 7011 | {a:.5f} | 15900123 |
| 1337 | 7009 | {b:.5f} | 15899981 |
| 2025 | 7013 | {c:.5f} | 15900410 |
| **Mean** | | **{mean:.5f}** | |
"""
_BY_CHANGE = """# {technique}

**val_bpb: {mean:.5f}** (3-seed mean), built on PR #{pull} ({base:.4f}).

| Change | Before | After | Impact |
|---|---|---|---|
| {technique} | off | on | -0.0021 BPB |
| Matrix learning rate | 0.04 | 0.025 | -0.0007 BPB |
| **Total** | **{base:.4f}** | **{mean:.4f}** | |
"""
_COMPARED = """# {technique}

| | PR #{pull} | This |
|---|---|---|
| val_bpb (mean) | {base:.4f} | **{mean:.4f}** |
| {technique} | no | yes |
| Layers | 10 | 11 |
"""
_PROSE = """# Record: {technique}

val_bpb {mean:.4f} on the base of PR #{pull}, which had {base:.4f}.

## What is new

- **{technique}**: improves val_bpb by 0.0021
- **Warm-down of 3500 steps** instead of 1200

## Kept from the base

- 11 layers, 512 wide, relu squared
- Muon with weight decay 0.04

## What did not help

- Label smoothing: +0.0013 bpb
"""
FORMATS = (_BY_CHANGE, _COMPARED, _PROSE)


def write_records(folder: Path, count: int) -> None:
    """`count` records with README.md and submission.json, every third in one of the three formats."""
    for i in range(count):
        mean = 1.2 - 0.1 * i / count
        record = folder / "records" / "track_10min_16mb" / f"2026-04-{1 + i % 28:02d}_Synthetic_{i:05d}"
        record.mkdir(parents=True)
        said = {
            "technique": TECHNIQUES[i % len(TECHNIQUES)], "pull": 100 + i, "base": mean + 0.0028, "mean": mean,
            "a": mean - 0.0004, "b": mean + 0.0001, "c": mean + 0.0003,
        }  # fmt: skip
        (record / "README.md").write_text(FORMATS[i % 3].format(**said) + _SEEDS.format(**said), encoding="utf-8")
        submission = {"name": f"record {i}", "author": "nobody", "date": record.name[:10], "val_bpb": round(mean, 5)}
        (record / "submission.json").write_text(json.dumps(submission), encoding="utf-8")


def extract(clone: Path, home: Path) -> dict[str, float]:
    """CPU seconds and peak memory (MiB) of `ledger extract` on a new ledger, and how many records it read."""
    subprocess.run([sys.executable, "-m", "commands", "init", home], check=True, capture_output=True)
    command = [sys.executable, "-m", "commands", "extract", os.fspath(clone), "--ledger", os.fspath(home)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert process.stdout is not None
    said = process.stdout.read()
    _, status, spent = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    read = re.search(r"(\d+) records?: (\d+) new", said)
    if read is None:
        raise SystemExit(f"ledger extract {clone} ended with code {process.returncode}: {said.strip()[-400:]}")
    scale = 1 if sys.platform == "darwin" else 1024
    return {"records": int(read[1]), "cpu": spent.ru_utime + spent.ru_stime, "mib": spent.ru_maxrss * scale / 2**20}


def main() -> None:
    """Measure, and print a table or one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--records", default="1000,10000", help="how many to write, by comma")
    parser.add_argument("--clone", type=Path, help="a clone of parameter-golf to read as well")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    rows: list[dict[str, float | str]] = []
    with tempfile.TemporaryDirectory(prefix="extraction-") as name:
        for count in map(int, given.records.split(",")):
            clone = Path(name) / f"clone-{count}"
            write_records(clone, count)
            rows.append({"what": f"{count} synthetic", **extract(clone, Path(name) / f"ledger-{count}")})
        if given.clone:
            rows.append({"what": "the clone", **extract(given.clone, Path(name) / "ledger-clone")})
    said = machine.describe("experiment-ledger", "duckdb", "pyarrow")
    if given.json:
        print(json.dumps({"machine": said, "rows": rows}))
        return
    print(machine.line(said))
    print(f"{'records':<18}{'CPU s':>8}{'ms each':>9}{'peak MiB':>10}{'against first':>15}")
    first = float(rows[0]["cpu"]) / float(rows[0]["records"])
    for row in rows:
        each = float(row["cpu"]) / float(row["records"])
        print(f"{row['what']:<18}{row['cpu']:>8.2f}{1000 * each:>9.2f}{row['mib']:>10.0f}{each / first:>15.2f}")


if __name__ == "__main__":
    main()

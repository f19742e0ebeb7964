"""Six small training runs three ways: a process each, one process, and the seeds of an arm in one batch.

    python -m benchmarks.training

The work is that of the first pipeline's measurement of itself: 2 layers, 64 wide, 4/2 heads, sequences of 256, 2,048
tokens a step, 20 steps, 16,384 held-out tokens scored, 3 seeds of mlp_mult 3 and of 2. Each way is a command of its
own, with everything that it needs from the start of Python on; CPU seconds are those of all its processes, the median
over rounds in which the ways take turns. The figures that come out are compared: a process each and one process must
give the same bits, a batch of seeds the same to rounding.
`--set` gives another size, or with `--set 'backend="mlx"'` the other backend.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
from importlib import import_module
from typing import Any

from benchmarks.machine import describe, line

SETTINGS: dict[str, Any] = {
    "backend": "torch", "device": "cpu", "depth": 2, "width": 64, "heads": 4, "kv_heads": 2, "seq_len": 256,
    "batch_tokens": 2048, "steps": 20, "val_tokens": 16_384,
}  # fmt: skip
ARMS, SEEDS = (2, 3), (0, 1, 2)
WAYS = ("process a run", "one process", "seeds in a batch")
AIM = {"one process": ("process a run", 1 / 3), "seeds in a batch": ("one process", 2 / 3)}
TOLERANCE = 1e-5


def work(cells: list[tuple[int, list[int]]]) -> dict[str, float]:
    """Train (mlp_mult, seeds) in this process; several seeds go in one batch."""
    from runners.corpus import prepare
    from runners.gpt_config import GptConfig
    from runners.trainer import BACKENDS

    trainer = import_module(BACKENDS[SETTINGS["backend"]].module).Trainer(prepare())
    found: dict[str, float] = {}
    for mlp, seeds in cells:
        config = GptConfig.from_dict({**SETTINGS, "mlp_mult": mlp})
        for seed, result in zip(seeds, trainer.train_seeds(config, seeds), strict=True):
            assert result.val_bpb is not None
            found[f"{mlp}/{seed}"] = result.val_bpb
    return found


def child(way: str, cells: list[tuple[int, list[int]]]) -> tuple[float, dict[str, float]]:
    """(CPU seconds, what came out) of one process."""
    sizes = [word for name, value in SETTINGS.items() for word in ("--set", f"{name}={json.dumps(value)}")]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.training", "--work", json.dumps(cells), *sizes],
        env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        raise SystemExit(f"{way}: {done.stderr[-2000:]}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    took = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return took, json.loads(done.stdout.splitlines()[-1])


def measure(way: str) -> tuple[float, dict[str, float]]:
    """One round of a way."""
    if way == "process a run":
        parts = [child(way, [(mlp, [seed])]) for mlp in ARMS for seed in SEEDS]
        return sum(took for took, _ in parts), {name: x for _, found in parts for name, x in found.items()}
    if way == "one process":
        return child(way, [(mlp, [seed]) for seed in SEEDS for mlp in ARMS])
    return child(way, [(mlp, list(SEEDS)) for mlp in ARMS])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--set", action="append", default=[], metavar="FIELD=VALUE", help="another size, as JSON")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--work", help=argparse.SUPPRESS)
    options = parser.parse_args()
    SETTINGS.update({name: json.loads(value) for name, value in (pair.split("=", 1) for pair in options.set)})
    if options.work:
        print(json.dumps(work([(mlp, seeds) for mlp, seeds in json.loads(options.work)])))
        return
    child("warm", [(2, [0])])  # the corpus is made, files are read
    took: dict[str, list[float]] = {way: [] for way in WAYS}
    found: dict[str, dict[str, float]] = {}
    for _ in range(options.rounds):
        for way in WAYS:
            seconds, found[way] = measure(way)
            took[way].append(seconds)
    apart = max(abs(found[WAYS[2]][name] / value - 1) for name, value in found[WAYS[1]].items())
    told: dict[str, Any] = {
        "machine": describe(SETTINGS["backend"]),
        "cpu_s": {way: statistics.median(took[way]) for way in WAYS},
        "ratios": {
            way: statistics.median(a / b for a, b in zip(took[way], took[base], strict=True))
            for way, (base, _) in AIM.items()
        },
        "aims": {way: aim for way, (_, aim) in AIM.items()},
        "same_bits": found[WAYS[0]] == found[WAYS[1]],
        "batch_deviation": apart,
        "batch_within_tolerance": apart <= TOLERANCE,
    }
    if options.json:
        print(json.dumps(told))
        return
    print(line(told["machine"]))
    for way in WAYS:
        ratio = f"{told['ratios'][way]:.2f} of {AIM[way][0]} (aim {AIM[way][1]:.2f})" if way in AIM else ""
        print(f"{way:18} {told['cpu_s'][way]:6.1f} CPU s  {ratio}")
    print(f"a process each and one process: {'the same bits' if told['same_bits'] else 'NOT the same'}")
    print(f"seeds in a batch: at most {apart:.1e} relative from one at a time")


if __name__ == "__main__":
    main()

"""What it costs to begin: CPU time of `import ledger`, of `ledger --help`, and of the first append.

    python -m benchmarks.startup [--rounds N] [--json]

Each round starts the four in turn, each in a new interpreter; a figure is the median of user and
system time of that process and its children. The bare interpreter is measured beside them, because
nothing can be faster. Targets: `import ledger` 0.25 s, `ledger --help` 0.15 s.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time

from benchmarks import machine

APPEND = """
import sys, ledger
from ledger.events import EventRetracted
from ledger.writer import Draft
ledger.Log.create(sys.argv[1]).writer.append([Draft("event/x", EventRetracted(target="0" * 36, reason="x"))])
"""

TARGETS = {"import ledger": 0.25, "ledger --help": 0.15}


def spent(command: list[str]) -> tuple[float, float]:
    """CPU and wall seconds of one process. Raises CalledProcessError when it fails."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    start = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    wall = time.perf_counter() - start
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, wall


def main() -> None:
    """Measure, and print a table or one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    said = machine.describe("experiment-ledger", "click", "msgspec", "pyarrow", "pandas")
    taken: dict[str, list[tuple[float, float]]] = {}
    with tempfile.TemporaryDirectory(prefix="startup-") as folder:
        for turn in range(given.rounds):
            for name, command in {
                "python": [sys.executable, "-c", ""],
                "import ledger": [sys.executable, "-c", "import ledger"],
                "ledger --help": [sys.executable, "-m", "commands", "--help"],
                "first append": [sys.executable, "-c", APPEND, os.path.join(folder, str(turn))],
            }.items():
                taken.setdefault(name, []).append(spent(command))
    rows = [
        {
            "what": name,
            "cpu_s": round(statistics.median(cpu for cpu, _ in all_), 3),
            "wall_s": round(statistics.median(wall for _, wall in all_), 3),
            "target_cpu_s": TARGETS.get(name),
        }
        for name, all_ in taken.items()
    ]
    if given.json:
        print(json.dumps({"machine": said, "rows": rows}))
        return
    print(machine.line(said))
    print(f"medians of {given.rounds} rounds\n")
    print(f"{'what':<15} {'CPU s':>7} {'wall s':>7} {'target':>7}")
    for row in rows:
        print(f"{row['what']:<15} {row['cpu_s']:>7.3f} {row['wall_s']:>7.3f} {row['target_cpu_s'] or '':>7}")


if __name__ == "__main__":
    main()

"""Causal discovery as a witness: run a program of causal-learn on stacks of techniques, and keep what it says.

Each run is a process of its own with a time limit, for these programs crash on singular matrices, take minutes on
stack-like data and print to standard output. Columns that are equal, opposite or constant are merged or left out
beforehand and named: a constant column would become a neighbour of every node without an error. Whatever happens is
an outcome with a reason (`ledger.dag.Discovery`), never an exception; what it proposes decides nothing.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

from ledger.dag import Discovery, Outcome, Proposed

ALPHA = 0.01
FEWEST_ROWS = 8
MOST_EDGES = 400  # an event has room for these
CHILD = Path(__file__).with_name("causal_child.py")
MISSING = 'causal discovery needs causal-learn: pip install "experiment-ledger[causal]"'


def discover(
    algorithm: str,
    names: Sequence[str],
    rows: Sequence[Sequence[float]],
    limit: float = 60.0,
    test: str = "fisherz",
    alpha: float = ALPHA,
) -> Discovery:
    """Ask `fci`, `pc` or `ges` about columns `names` (the outcome last). Never raises for what the program does."""
    if algorithm == "ges":
        test = "local_score_BIC"
    columns, kept, merged = _merge(names, rows)
    digest = sha256(json.dumps([list(names), [list(row) for row in rows]]).encode()).hexdigest()

    def outcome(what: Outcome, reason: str, version: str = "", edges: Sequence[Sequence[str]] = ()) -> Discovery:
        return Discovery(
            algorithm=algorithm,
            version=version or "causal-learn",
            test=test,
            alpha=alpha,
            input_digest=digest,
            rows=len(rows),
            columns=len(columns),
            merged=tuple(merged),
            limit_s=limit,
            outcome=what,
            reason=reason,
            proposed=tuple(Proposed(*edge) for edge in edges[:MOST_EDGES]),
        )

    if len(rows) < FEWEST_ROWS:
        return outcome("degenerate", f"{len(rows)} stacks; at least {FEWEST_ROWS} are needed")
    if len(columns) < 2 or names[-1] not in columns:
        return outcome("degenerate", "no two columns vary")
    told = _run({"algorithm": algorithm, "test": test, "alpha": alpha, "names": columns, "rows": kept}, limit)
    if isinstance(told, str):
        return outcome("timeout" if told.startswith("no answer") else "failed", told)
    edges = told["edges"]
    if told["outcome"] == "missing":
        return outcome("missing", MISSING, told["version"])
    if told["outcome"] != "ok":
        return outcome(told["outcome"], told["reason"], told["version"])
    if len(columns) > 2 and len(edges) == len(columns) * (len(columns) - 1) // 2:
        return outcome("degenerate", "it calls every two columns adjacent", told["version"])
    more = f"{len(rows)} stacks for {len(columns)} columns: such tests see little" if len(rows) < len(columns) else ""
    if len(edges) > MOST_EDGES:
        more = f"{len(edges)} edges, of which {MOST_EDGES} are kept"
    return outcome("ok", more, told["version"], edges)


def _merge(names: Sequence[str], rows: Sequence[Sequence[float]]) -> tuple[list[str], list[list[float]], list[str]]:
    """The columns that differ from each other, the rows with these, and what became of the others."""
    groups: dict[tuple[float, ...], list[str]] = {}
    constant = []
    for index, name in enumerate(names):
        column = tuple(float(row[index]) for row in rows)
        opposite = tuple(1.0 - value for value in column)
        if len(set(column)) < 2:
            constant.append(f"{name} = const")
        elif opposite in groups and set(column) <= {0.0, 1.0}:
            groups[opposite].append(f"not {name}")
        else:
            groups.setdefault(column, []).append(name)
    merged = [" = ".join(members) for members in groups.values() if len(members) > 1]
    columns = [members[0] for members in groups.values()]
    kept = [list(row) for row in zip(*groups, strict=True)] if groups else []
    return columns, kept, [*merged, *constant]


def _run(asked: dict[str, Any], limit: float) -> dict[str, Any] | str:
    """The child's answer, or why there is none."""
    with tempfile.TemporaryDirectory(prefix="ledger-discovery-") as folder:
        path = os.path.join(folder, "answer.json")
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "PYTHONHASHSEED": "0"}
        process = subprocess.Popen(
            [sys.executable, "-P", "-W", "ignore", str(CHILD), path],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            env=environment,
            cwd=folder,
            start_new_session=True,
        )
        try:
            _, complaint = process.communicate(json.dumps(asked).encode(), timeout=limit)
        except subprocess.TimeoutExpired:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
            return f"no answer within {limit:g} s"
        except BaseException:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            raise
        try:
            with open(path, encoding="utf-8") as file:
                found: dict[str, Any] = json.load(file)
        except (OSError, ValueError):
            last = complaint.decode("utf-8", "replace").strip().splitlines()[-1:] or ["no word"]
            return f"its process ended with {process.returncode}: {' '.join(last[0].split())[:200]}"
        return found

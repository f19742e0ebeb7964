"""One run of a causal discovery program, in a process of its own; see discovery.py, which starts it by its path.

It reads {"algorithm", "test", "alpha", "names", "rows"} as JSON from standard input and writes its answer as JSON
into the file that it is given: causal-learn prints to standard output whatever it is told. It imports nothing of
ours, so that nobody's folder of the same name can be meant.

The exact test is for columns of 0 and 1 (the outcome is cut at its median): with A the number of stacks that have
both, summed over the strata of the condition, its distribution given all margins is a convolution of
hypergeometric ones; p is the probability of what is no more likely than what was seen.
"""

from __future__ import annotations

import json
import sys
from importlib.metadata import version
from typing import Any

MARKS = {
    ("TAIL", "ARROW"): "-->",
    ("CIRCLE", "ARROW"): "o->",
    ("CIRCLE", "CIRCLE"): "o-o",
    ("ARROW", "ARROW"): "<->",
    ("TAIL", "TAIL"): "---",
    ("TAIL", "CIRCLE"): "--o",
}


def exact_p(a: Any, b: Any, strata: Any) -> float:
    """p of independence of two columns of 0 and 1 within strata, exactly."""
    import numpy as np
    from scipy.stats import hypergeom

    seen, start, mass = 0, 0, np.ones(1)
    for stratum in np.unique(strata):
        at = strata == stratum
        n, k, m = int(at.sum()), int(a[at].sum()), int(b[at].sum())
        low, high = max(0, k + m - n), min(k, m)
        seen += int((a[at] * b[at]).sum())
        start += low
        mass = np.convolve(mass, hypergeom.pmf(np.arange(low, high + 1), n, k, m))
    observed = mass[seen - start]
    return float(min(1.0, mass[mass <= observed * (1 + 1e-9)].sum()))


def register_exact() -> None:
    import numpy as np
    from causallearn.utils.cit import CIT_Base, register_ci_test

    class Exact(CIT_Base):  # type: ignore[misc]
        def __init__(self, data: Any, **kwargs: Any) -> None:
            super().__init__(data, **kwargs)
            self.check_cache_method_consistent("exact", "none")

        def __call__(self, X: Any, Y: Any, condition_set: Any = None) -> float:
            xs, ys, condition, key = self.get_formatted_XYZ_and_cachekey(X, Y, condition_set)
            if key not in self.pvalue_cache:
                strata = np.zeros(len(self.data), dtype=np.int64)
                for column in condition:
                    strata = strata * 2 + self.data[:, column].astype(np.int64)
                a, b = (self.data[:, one].astype(np.int64) for one in (xs[0], ys[0]))
                self.pvalue_cache[key] = exact_p(a, b, strata)
            return float(self.pvalue_cache[key])

    register_ci_test("exact", Exact)


def run(asked: dict[str, Any]) -> list[tuple[str, str, str]]:
    """(src, dst, mark) of every edge that the program returns."""
    import numpy as np

    data, names = np.array(asked["rows"], dtype=float), asked["names"]
    if asked["test"] == "exact":
        register_exact()
        data[:, -1] = data[:, -1] > np.median(data[:, -1])
    if asked["algorithm"] == "fci":
        from causallearn.search.ConstraintBased.FCI import fci

        graph, _ = fci(data, asked["test"], asked["alpha"], show_progress=False, node_names=names)
    elif asked["algorithm"] == "pc":
        from causallearn.search.ConstraintBased.PC import pc

        graph = pc(data, asked["alpha"], asked["test"], show_progress=False, node_names=names).G
    else:
        from causallearn.search.ScoreBased.GES import ges

        graph = ges(data, node_names=names)["G"]
    found = []
    for edge in graph.get_graph_edges():
        a, b = edge.get_node1().get_name(), edge.get_node2().get_name()
        ends = edge.get_endpoint1().name, edge.get_endpoint2().name
        if ends not in MARKS:
            a, b, ends = b, a, ends[::-1]
        found.append((a, b, MARKS.get(ends, "---")))
    return sorted(found)


def answer(asked: dict[str, Any]) -> dict[str, Any]:
    """What came of it: an outcome, never an exception."""
    told: dict[str, Any] = {"version": "", "outcome": "ok", "reason": "", "edges": []}
    try:
        told["version"] = f"causal-learn {version('causal-learn')}"
        told["edges"] = run(asked)
    except ImportError as error:  # PackageNotFoundError is one
        told |= {"outcome": "missing", "reason": str(error)}
    except Exception as error:
        text = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        singular = "singular" in text.lower()
        told |= {"outcome": "singular" if singular else "failed", "reason": text}
    return told


def main() -> None:
    found = answer(json.load(sys.stdin))
    with open(sys.argv[1], "w", encoding="utf-8") as file:
        json.dump(found, file)


if __name__ == "__main__":
    main()

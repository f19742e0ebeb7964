"""Does an effect on a proxy tell the effect on the target? The shipped estimate in worlds of known slope.

    python -m benchmarks.transfer_worlds [--worlds N] [--seed N] [--json]

K = 8 changes have effects on a proxy (sd 0.002), the target's are 0.6 of them and a part of its own (sd 0.0005);
both are measured, the proxy with a reliability of .5 to .95, the target with a standard error of 0.0006. The rows
compare the posterior mean of the slope with least squares and with the mean of ratios, and its 90 % interval with
that of least squares; the last row has proxy and target measured on the same runs, with errors that correlate .6.

Exit code 1 when the intervals cover the slope in less than 88 %, or the error of the slope is above .30.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from typing import NamedTuple

import numpy as np
from scipy import stats

from projections.statistics.transfer import transfer

B, TAU, OMEGA, SY, K = 0.6, 0.002, 0.0005, 0.0006, 8


class World(NamedTuple):
    """How reliable the proxy is, and how its errors correlate with the target's."""

    reliability: float
    correlation: float = 0.0


WORLDS = (World(0.5), World(0.57), World(0.75), World(0.95), World(0.57, 0.6))


def simulate(worlds: int, seed: int) -> list[dict]:
    """A row for every world."""
    rows = []
    for index, world in enumerate(WORLDS):
        rng = np.random.default_rng([seed, index])
        sx = TAU * np.sqrt((1 - world.reliability) / world.reliability)
        means, covered, plain, plain_covered, ratios = [], 0, [], 0, []
        for _ in range(worlds):
            theta = rng.normal(0, TAU, K)
            errors = rng.multivariate_normal(
                [0, 0], [[sx**2, world.correlation * sx * SY], [world.correlation * sx * SY, SY**2]], K
            )
            x, y = theta + errors[:, 0], B * theta + rng.normal(0, OMEGA, K) + errors[:, 1]
            found = transfer(x.tolist(), [sx] * K, y.tolist(), [SY] * K, sxy=[float(world.correlation * sx * SY)] * K)
            means.append(found.b)
            covered += found.low <= B <= found.high
            line = stats.linregress(x, y)
            plain.append(line.slope)
            plain_covered += abs(line.slope - B) <= stats.t.ppf(0.95, K - 2) * line.stderr
            ratios.append(float(np.mean(y / x)))

        def rmse(values: list[float]) -> float:
            return float(np.sqrt(np.mean((np.array(values) - B) ** 2)))

        rows.append(
            {
                "reliability": world.reliability,
                "correlation": world.correlation,
                "worlds": worlds,
                "rmse": rmse(means),
                "coverage": covered / worlds,
                "coverage_upper": float(stats.beta.ppf(0.95, covered + 1, worlds - covered))
                if covered < worlds
                else 1.0,
                "ols_rmse": rmse(plain),
                "ols_coverage": plain_covered / worlds,
                "ratio_rmse": rmse(ratios),
            }
        )
    return rows


def broken(rows: list[dict], sure: bool = False) -> list[str]:
    """The bounds that do not hold, one line each; `sure`: only where chance does not explain it."""
    found = []
    for row in rows:
        where = f"reliability {row['reliability']:g}, correlation {row['correlation']:g}"
        if row["coverage_upper" if sure else "coverage"] < 0.88:
            found.append(f"{where}: 90 % intervals cover {row['coverage']:.3f}, bound 0.88")
        if row["rmse"] > 0.30:
            found.append(f"{where}: error of the slope {row['rmse']:.2f}, bound 0.30")
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--worlds", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=6)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    start = time.process_time()
    rows = simulate(arguments.worlds, arguments.seed)
    failed = broken(rows)
    if arguments.json:
        print(json.dumps({"rows": rows, "broken": failed, "cpu_s": round(time.process_time() - start, 1)}))
        return 1 if failed else 0
    print("reliability  same runs   error of b  covers 90 %   least squares    mean of ratios")
    for row in rows:
        print(
            f"{row['reliability']:11.2f}  {row['correlation']:9.1f}  {row['rmse']:11.2f}  {row['coverage']:11.3f}   "
            f"{row['ols_rmse']:5.2f} {row['ols_coverage']:7.3f}   {row['ratio_rmse']:13.1f}"
        )
    print(f"{arguments.worlds} worlds a row, {time.process_time() - start:.0f} s of CPU")
    print("\n".join(failed) or "every bound holds")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())

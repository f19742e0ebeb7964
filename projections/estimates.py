"""The effect of each intervention in a plan, from its paired differences.

Model of one plan: y[arm, seed] = mu[arm] + b[seed] + e, with e independent of one variance sigma^2.
The effect of an arm is the mean of its paired differences d = y[arm, s] - y[control, s]; the
variance sigma^2 is the residual mean square of the two-way layout over *all* arms of the plan, so

    se^2 = 2 sigma^2 / n_pairs,    df = cells - arms - seeds + 1 (for a connected layout).

With one treatment this is the paired t test to the last digit. With several it uses every arm's
seeds, and, unlike averaging the arms' variances of d, it counts the shared control once: those
variances are correlated, and their sum of degrees of freedom would claim more than there is.

An arm that is noisier than the others must not borrow their quiet: where the variance of its own d
exceeds the rest's (F test at 20 %), its own is used, with its own n_pairs - 1 degrees of freedom.

A plan whose seeds are added to after a look at the results spends its alpha in looks: .8 alpha at
the first, .2 alpha / (k (k + 1)) at the k-th addition, which sums to alpha for any number of them.

Every sum is math.fsum or runs in a fixed order, and derived figures are rounded to 12 significant
digits, so that a rebuilt table is the same on every machine. Source of the tests: Student 1908;
Schuirmann 1987 (two one-sided tests); Holm 1979. Other engines (moderated variance, control banks)
take the place of `estimate_plan`: same inputs, same columns.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any

import pyarrow as pa

from projections import stats

ENGINE = "paired-pooled/1"
NOISIER = 0.2  # level of the F test that keeps a noisy arm from borrowing the others' variance
HUGE = 1e100  # squares of more than this overflow, and no metric of training is so large

SCHEMA = pa.schema(
    [
        ("experiment", pa.string()),
        ("intervention", pa.string()),
        ("engine", pa.string()),
        ("n_t", pa.int64()),
        ("n_c", pa.int64()),
        ("n_pairs", pa.int64()),
        ("failed", pa.int64()),
        ("pending", pa.int64()),
        ("failures_t", pa.int64()),
        ("failures_c", pa.int64()),
        ("variance", pa.string()),
        ("effect", pa.float64()),
        ("sd", pa.float64()),
        ("se", pa.float64()),
        ("df", pa.float64()),
        ("t", pa.float64()),
        ("p", pa.float64()),
        ("p_adj", pa.float64()),
        ("ci95_lo", pa.float64()),
        ("ci95_hi", pa.float64()),
        ("ci90_lo", pa.float64()),
        ("ci90_hi", pa.float64()),
        ("p_tost", pa.float64()),
        ("p_beyond", pa.float64()),
        ("mde80", pa.float64()),
        ("k_more_seeds", pa.int64()),
        ("defect", pa.string()),
    ]
)

Row = dict[str, Any]
Cells = Mapping[tuple[str, int], float]  # (arm, seed) -> value; the control's arm is ""


def estimate(plans: Sequence[Row], pairs: Sequence[Row]) -> pa.Table:
    """Rows of SCHEMA for every plan (rows of `experiments`), from rows of `paired_differences`.

    `pairs` must be sorted by experiment, intervention and seed.
    """
    by_plan = {name: list(rows) for name, rows in groupby(pairs, key=lambda row: row["experiment"])}
    found: list[Row] = []
    for plan in plans:
        if rows := by_plan.get(plan["experiment"]):
            found += estimate_plan(plan, rows)
    return pa.Table.from_pylist(found, schema=SCHEMA)


def estimate_plan(plan: Row, pairs: Sequence[Row]) -> list[Row]:
    """One row of SCHEMA for each intervention of one plan."""
    control = {row["seed"]: row["y_c"] for row in pairs if row["y_c"] is not None}
    arms = {name: list(rows) for name, rows in groupby(pairs, key=lambda row: row["intervention"])}
    cells = {("", seed): y for seed, y in control.items()}
    cells |= {(row["intervention"], row["seed"]): row["y_t"] for row in pairs if row["y_t"] is not None}
    whole = residual(cells) if all(abs(y) <= HUGE for y in cells.values()) else (0.0, 0)
    defect = untrustworthy(plan, pairs, cells, whole)
    family = max(int(plan["hypothesis_count"]), 1)
    alpha, delta, look = float(plan["alpha"]), float(plan["delta"]), int(plan["look"])

    found = []
    for name, rows in arms.items():
        differences = [row["d"] for row in rows if row["both_ok"]]
        n = len(differences)
        row: Row = dict.fromkeys(SCHEMA.names)
        row |= {
            "experiment": plan["experiment"],
            "intervention": name,
            "engine": ENGINE,
            "n_t": sum(row["y_t"] is not None for row in rows),
            "n_c": len(control),
            "n_pairs": n,
            "failed": len(rows) - n,
            "pending": sum(row["pending"] for row in rows),
            "failures_t": sum(row["failures_t"] for row in rows),
            "failures_c": sum(row["failures_c"] for row in rows),
            "effect": math.fsum(differences) / n if n and not defect else None,
            "defect": defect,
        }
        if n >= 2 and not defect:
            kind, sd, df = spread(cells, name, differences, whole)
            row |= {"variance": kind, **tests(row["effect"], sd, n, df, delta)}
            row["mde80"] = stats.smallest_effect(n, sd, df, look_alpha(alpha, look) / family)
            treatments = 1 if kind == "own" else len(arms)
            row["k_more_seeds"] = more_seeds(n, sd, treatments, look_alpha(alpha, look + 1) / family, delta)
        found.append(row)
    adjusted = stats.holm([row["p"] for row in found if row["p"] is not None], family)
    for row, p_adj in zip((row for row in found if row["p"] is not None), adjusted, strict=True):
        row["p_adj"] = p_adj
    return [
        {name: stats.digits(value) if type(value) is float else value for name, value in row.items()} for row in found
    ]


def look_alpha(alpha: float, look: int) -> float:
    """What look number `look` (from 1) may spend of alpha."""
    return 0.8 * alpha if look == 1 else 0.2 * alpha / ((look - 1) * look)


def spread(cells: Cells, arm: str, differences: Sequence[float], whole: tuple[float, int]) -> tuple[str, float, int]:
    """("pooled" or "own", standard deviation of one paired difference, degrees of freedom) for one arm.

    `whole` is residual(cells).
    """
    n = len(differences)
    mean = math.fsum(differences) / n
    own = math.fsum((d - mean) ** 2 for d in differences) / (n - 1)
    rest, rest_df = residual({key: y for key, y in cells.items() if key[0] != arm})
    if rest_df and rest > 0 and stats.f_upper(own / (2 * rest / rest_df), n - 1, rest_df) < NOISIER:
        return "own", math.sqrt(own), n - 1
    ss, df = whole
    return "pooled", math.sqrt(2 * ss / df), df


def tests(effect: float, sd: float, n: int, df: int, delta: float) -> Row:
    """t test against 0, intervals, and one-sided tests against +-delta for one effect."""
    se = sd / math.sqrt(n)
    t95, t90 = stats.t_quantile(0.975, df), stats.t_quantile(0.95, df)
    return {
        "sd": sd,
        "se": se,
        "df": float(df),
        "t": effect / se,
        "p": stats.t_two_sided(effect / se, df),
        "ci95_lo": effect - t95 * se,
        "ci95_hi": effect + t95 * se,
        "ci90_lo": effect - t90 * se,
        "ci90_hi": effect + t90 * se,
        "p_tost": max(stats.t_upper((effect + delta) / se, df), stats.t_upper((delta - effect) / se, df)),
        "p_beyond": stats.t_upper((abs(effect) - delta) / se, df),
    }


def more_seeds(n: int, sd: float, treatments: int, alpha: float, delta: float) -> int | None:
    """Seeds to add to every arm until an effect of `delta` is shown with 80 % power; at least 1.

    None when more than 10,000 would be needed.
    """

    def enough(seeds: int) -> bool:
        return stats.power(delta, seeds, sd, treatments * (seeds - 1), alpha) >= 0.8

    low, high = max(n, 1), max(n + 1, 2)
    while not enough(high):
        if high - n > 10_000:
            return None
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high - n if high - n <= 10_000 else None


def untrustworthy(plan: Row, pairs: Sequence[Row], cells: Cells, whole: tuple[float, int]) -> str:
    """Why nothing may be claimed from these runs; empty when something may.

    Runs that ignore their seed repeat one number: their variance of 0 would prove anything.
    """
    if early := len([row for row in pairs if row["exploratory"] and row["both_ok"]]):
        return f"{early} pairs began before the plan that would judge them: they can suggest, not confirm"
    if plan.get("track") == "explore":
        return "its plan explores: what it finds can be suggested to a plan with fresh seeds, not confirmed"
    if plan["seed_role"] == "tuning":
        return "its seeds are tuning seeds: what was used to choose cannot confirm the choice"
    if any(abs(y) > HUGE for y in cells.values()):
        return f"a value is beyond {HUGE:g}: that is no measurement, retract its outcome"
    by_arm: dict[str, list[float]] = {}
    for (arm, _), y in sorted(cells.items()):
        by_arm.setdefault(arm, []).append(y)
    repeated = [arm or plan["control"] for arm, ys in by_arm.items() if len(ys) > 1 and len(set(ys)) == 1]
    if repeated:
        return f"every seed of {repeated[0]} gave the same value: its runs do not seem to read their seed"
    ss, df = whole
    scale = max((abs(y) for y in cells.values()), default=0.0)
    if df and ss / df <= (1e-9 * scale) ** 2:
        return "the differences do not vary between seeds at all: this is not measurement noise"
    return ""


def residual(cells: Cells) -> tuple[float, int]:
    """Residual sum of squares and degrees of freedom of y = mu[arm] + b[seed] by least squares.

    Cells may be missing. Seeds are eliminated, the arms' normal equations solved by Gaussian
    elimination in a fixed order; parts of the layout that no seed connects are fitted apart.
    """
    seeds: dict[int, dict[str, float]] = {}
    for (arm, seed), y in sorted(cells.items()):
        seeds.setdefault(seed, {})[arm] = y
    blocks = [block for _, block in sorted(seeds.items()) if len(block) > 1]  # a seed alone says nothing
    names = sorted({arm for block in blocks for arm in block})
    if not names:
        return 0.0, 0
    index = {name: i for i, name in enumerate(names)}
    matrix = [[0.0] * (len(names) + 1) for _ in names]
    for block in blocks:
        mean = math.fsum(block.values()) / len(block)
        for a in block:
            matrix[index[a]][index[a]] += 1.0
            matrix[index[a]][-1] += block[a] - mean
            for b in block:
                matrix[index[a]][index[b]] -= 1.0 / len(block)
    mu, rank = _solve(matrix)
    squares = []
    for block in blocks:
        rest = [y - mu[index[arm]] for arm, y in block.items()]
        mean = math.fsum(rest) / len(rest)
        squares += [(r - mean) ** 2 for r in rest]
    return math.fsum(squares), len(squares) - len(blocks) - rank


def _solve(matrix: list[list[float]]) -> tuple[list[float], int]:
    """A solution of a consistent symmetric system (last column the right side) and its rank.

    A variable without a pivot is one that the layout leaves free (one in every connected part): 0.
    """
    n = len(matrix)
    free: set[int] = set()
    for column in range(n):
        pivot = matrix[column][column]
        if pivot < 1e-9:  # diagonals start at 1/2 or more; what is left here is rounding
            free.add(column)
            continue
        for row in range(column + 1, n):
            if factor := matrix[row][column] / pivot:
                for k in range(column, n + 1):
                    matrix[row][k] -= factor * matrix[column][k]
    solution = [0.0] * n
    for row in range(n - 1, -1, -1):
        if row not in free:
            known = math.fsum(matrix[row][k] * solution[k] for k in range(row + 1, n))
            solution[row] = (matrix[row][-1] - known) / matrix[row][row]
    return solution, n - len(free)

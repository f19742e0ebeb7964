"""The founding rule `paired-pooled/1`: the effect of each intervention in a plan, from its paired differences.

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
Schuirmann 1987 (two one-sided tests); Holm 1979.

The rule, in order: `invalid` when the runs cannot carry an estimate, or when more of the planned
pairs failed than survived (who survives may depend on the arm); `undecided` while planned pairs have
not run; `better` or `worse` when Holm's p is below what this look may spend of alpha;
`no_effect_that_matters` when the 90 % interval lies within +-delta; else `undecided`, with the number of
seeds still needed. The size of the observed effect is never a gate: at a true effect of delta that
would be a coin toss.

This is the founding rule. Plans that were registered with it are judged by it for ever; it is never
changed, because its decisions must come out the same. New plans have another (statistics/own_rule.py).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any

from projections import stats

ENGINE = "paired-pooled/1"
NOISIER = 0.2  # level of the F test that keeps a noisy arm from borrowing the others' variance
HUGE = 1e100  # squares of more than this overflow, and no metric of training is so large

COLUMNS = (
    "experiment", "intervention", "engine", "n_t", "n_c", "n_pairs", "failed", "pending", "failures_t", "failures_c",
    "variance", "effect", "sd", "se", "df", "t", "p", "p_adj", "ci95_lo", "ci95_hi", "ci90_lo", "ci90_hi", "p_tost",
    "p_beyond", "mde80", "k_more_seeds", "defect",
)  # fmt: skip

Row = dict[str, Any]
Cells = Mapping[tuple[str, int], float]  # (arm, seed) -> value; the control's arm is ""


def estimate_plan(plan: Row, pairs: Sequence[Row]) -> list[Row]:
    """One row of COLUMNS for each intervention of one plan."""
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
        row: Row = dict.fromkeys(COLUMNS)
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


# ── from an estimate to a verdict ──


def conclude(plan: Row, row: Row) -> Row:
    """What is said of one row of COLUMNS: verdict, its flags, the seeds still needed, and the sentence."""
    verdict = _verdict(plan, row, look_alpha(plan["alpha"], plan["look"]))
    real = verdict in ("better", "worse")
    beyond = real and row["p_beyond"] * plan["hypothesis_count"] < look_alpha(plan["alpha"], plan["look"]) / 2
    small = real and max(abs(row["ci95_lo"]), abs(row["ci95_hi"])) < plan["delta"]
    return {
        "verdict": verdict,
        "beyond_delta": beyond,
        "small": small,
        "k_more_seeds": row["k_more_seeds"] if verdict == "undecided" and not row["pending"] else None,
        "why": _why(verdict, plan, row, beyond, small),
    }


def _verdict(plan: Row, row: Row, spend: float) -> str:
    lost = row["failed"] - row["pending"]  # planned pairs that ran and do not count
    if row["defect"] or lost > row["n_pairs"]:
        return "invalid"
    if row["pending"] or row["p_adj"] is None:
        return "undecided"
    if row["p_adj"] < spend:
        return "better" if (row["effect"] < 0) == (plan["direction"] == "lower") else "worse"
    if row["p_tost"] < 0.05:
        return "no_effect_that_matters"
    return "undecided"


def _why(verdict: str, plan: Row, row: Row, beyond: bool, small: bool) -> str:
    """One sentence. Its numbers are those of the row."""
    name, metric = row["intervention"], plan["metric"]
    planned = row["n_pairs"] + row["failed"]
    if row["defect"]:
        return f"{name}: {row['defect']}."
    if verdict == "invalid":
        lost = row["failed"] - row["pending"]
        return f"{name}: {lost} of {planned} planned pairs failed{_failures(row)}; what survived is a selection."
    if row["pending"]:
        return f"{name} is undecided: {row['pending']} of {planned} planned pairs have not run yet."
    if row["p_adj"] is None:
        have = f"{row['n_pairs']} finished pair{'' if row['n_pairs'] == 1 else 's'}"
        return f"{name} is undecided: {have}{_failures(row)}; at least 2 are needed to tell an effect from noise."
    found = (
        f"{metric} changes by {row['effect']:+.4g} (95 % interval {row['ci95_lo']:+.4g} to {row['ci95_hi']:+.4g}, "
        f"{row['n_pairs']} pairs, Holm p {row['p_adj']:.2g})"
    )
    if row["variance"] == "own":
        found += "; its pairs vary more than the other arms', so only their own spread counts"
    found += _failures(row)
    if verdict in ("better", "worse"):
        size = f", by more than {plan['delta']:g}" if beyond else f", by less than {plan['delta']:g}" if small else ""
        return f"{name} is {verdict}{size}: {found}."
    if verdict == "no_effect_that_matters":
        return (
            f"{name} has no effect that matters: {found}; the 90 % interval {row['ci90_lo']:+.4g} to "
            f"{row['ci90_hi']:+.4g} lies within +-{plan['delta']:g}."
        )
    more = row["k_more_seeds"]
    need = f"about {more} more seed{'' if more == 1 else 's'}" if more else "more than 10,000 more seeds"
    return f"{name} is undecided: {found}; {need} would show an effect of {plan['delta']:g} with 80 % power."


def _failures(row: Row) -> str:
    """Failures are part of the finding, also where a later try succeeded."""
    if not row["failures_t"] and not row["failures_c"]:
        return ""
    return f"; {row['failures_t']} of its runs and {row['failures_c']} of the control's failed"

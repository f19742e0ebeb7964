"""What the decision rule does in worlds whose truth is known: false claims, power, false "no effect".

    python -m benchmarks.worlds [--full] [--screens N] [--seed N] [--json]

A screen has 24 changes with known effects (14 zero, four of +-0.0005, better by .001 .002 .003 .005,
worse by .002 .004; delta .002). Each is judged by the shipped rule, in five noise worlds, three ways:
once with 15 controls and 3 seeds (87 runs); at the planned looks 2, 3, 4, 6, 8, where a change stops
when it is decided; and at random looks nobody planned, by e-values (both with 9 earlier controls). A
false claim is a change without effect called better or worse, or a wrong sign; the family-wise error is
the share of screens with one.
The log already holds the variances of 28 earlier arms of three seeds, as the leaderboard's records are.

Exit code 1 when a bound breaks. The short run (under 60 s of CPU) fails when an error rate is clearly
above its bound; the full one when it is not clearly within.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy import stats

from projections.statistics import judging, policies
from projections.statistics.inputs import ClassVariance, Inputs, Run, Tier

EFFECTS = (
    *(0.0,) * 14, 0.0005, 0.0005, -0.0005, -0.0005, -0.001, -0.002, -0.003, -0.005, 0.002, 0.004,
)  # fmt: skip
ARMS = tuple(f"change{i:02d}" for i in range(len(EFFECTS)))
LOOKS = (2, 3, 4, 6, 8)
BANK = 12  # controls that the log already has; with three new ones they are 15
BANK_OF_LOOKS = 9  # fewer where changes stop early: the runs saved pay for a further seed
HISTORY = 28  # earlier arms of the same noise class with three seeds each, as the leaderboard's records are
DELTA = 0.002
OWN = policies.find("ledger")


class World(NamedTuple):
    """Noise of one run: its standard deviation, same-seed correlation and shape, and the tier that plans declare."""

    name: str
    sd: float
    rho: float
    tier: Tier
    shape: str = "normal"  # normal, t4, or variances (each arm has its own, prior df 6)


WORLDS = (
    World("leaderboard", 0.0007, 0.15, "seed"),
    World("variances differ", 0.0007, 0.15, "seed", "variances"),
    World("heavy tails", 0.0007, 0.15, "seed", "t4"),
    World("noisy proxy", 0.002, 0.5, "seed"),
    World("near-identical code", 0.0007, 0.9, "rerun"),
)


class Screen(NamedTuple):
    """All values that a screen could ever ask for: arms by seeds, the control's, the bank's; earlier variances."""

    treatments: np.ndarray
    control: np.ndarray
    bank: np.ndarray
    history: tuple[ClassVariance, ...]


def screen(world: World, rng: np.random.Generator, seeds: int = LOOKS[-1]) -> Screen:
    """One draw of a world."""

    def noise(*shape: int) -> np.ndarray:
        if world.shape == "t4":
            return rng.standard_t(4, shape) / np.sqrt(2.0)
        return rng.standard_normal(shape)

    def scales(count: int) -> np.ndarray:
        same = np.full((count, 1), world.sd)
        return same * np.sqrt(6.0 / rng.chisquare(6, (count, 1))) if world.shape == "variances" else same

    arms = len(EFFECTS) + 1
    scale = scales(arms)
    earlier = np.var(scales(HISTORY) * noise(HISTORY, 3), axis=1, ddof=1)
    runs = scale * (np.sqrt(world.rho) * noise(1, seeds) + np.sqrt(1 - world.rho) * noise(arms, seeds))
    runs[1:] += np.array(EFFECTS)[:, None]
    known = tuple(ClassVariance(f"record{i}", float(v), 2.0) for i, v in enumerate(earlier))
    return Screen(1.08 + runs[1:], 1.08 + runs[0], 1.08 + scale[0, 0] * noise(BANK), known)


def inputs(
    world: World,
    drawn: Screen,
    have: Sequence[int],
    n: int,
    look: int | None,
    looks: tuple[int, ...],
    bank: int,
) -> Inputs:
    """The experiment at n seeds, where arm i has run `have[i]` of them."""
    runs = [Run("control", seed, float(drawn.control[seed])) for seed in range(n)]
    runs += [Run("control", seed, float(y), bank=True) for seed, y in enumerate(drawn.bank[:bank])]
    for i, arm in enumerate(ARMS):
        runs += [Run(arm, seed, float(drawn.treatments[i, seed])) for seed in range(have[i])]
    return Inputs(
        experiment="screen",
        metric="val_bpb",
        direction="lower",
        control="control",
        arms=ARMS,
        seeds=tuple(range(n)),
        runs=tuple(runs),
        delta=DELTA,
        tier=world.tier,
        look=look,
        looks=looks,
        class_variances=drawn.history,
    )


class Outcome(NamedTuple):
    """Verdicts of one screen in the order of ARMS, and the runs that it cost."""

    verdicts: tuple[str, ...]
    runs: int


def fixed(world: World, screens: Sequence[Screen], rng: np.random.Generator) -> list[Outcome]:
    """Three seeds and 15 controls, one look: 87 runs."""
    have = [3] * len(ARMS)
    judged = judging.judge_all(OWN, [inputs(world, drawn, have, 3, 1, (), BANK) for drawn in screens])
    return [Outcome(tuple(f.verdict for f in j.findings), 3 * len(ARMS) + 3 + BANK) for j in judged]


def planned(world: World, screens: Sequence[Screen], rng: np.random.Generator) -> list[Outcome]:
    """The planned looks; a change that is decided gets no further seed."""
    return _sequential(world, screens, [[(n, k) for k, n in enumerate(LOOKS, 1)] for _ in screens])


def peeking(world: World, screens: Sequence[Screen], rng: np.random.Generator) -> list[Outcome]:
    """Looks at random sizes, by e-value; the last always at the end."""
    sizes = range(2, LOOKS[-1] + 1)
    return _sequential(
        world, screens, [[(n, None) for n in sizes if n == LOOKS[-1] or rng.random() < 0.6] for _ in screens]
    )


def _sequential(
    world: World, screens: Sequence[Screen], schedules: Sequence[Sequence[tuple[int, int | None]]]
) -> list[Outcome]:
    verdicts = [["undecided"] * len(ARMS) for _ in screens]
    have = [[0] * len(ARMS) for _ in screens]
    controls = [0] * len(screens)
    for step in range(max(len(schedule) for schedule in schedules)):
        active = [i for i, schedule in enumerate(schedules) if step < len(schedule) and "undecided" in verdicts[i]]
        asked = []
        for i in active:
            n, look = schedules[i][step]
            controls[i] = n
            have[i] = [n if v == "undecided" else h for v, h in zip(verdicts[i], have[i], strict=True)]
            asked.append(inputs(world, screens[i], have[i], n, look, LOOKS if look else (), BANK_OF_LOOKS))
        for i, judged in zip(active, judging.judge_all(OWN, asked), strict=True):
            verdicts[i] = [
                f.verdict if v == "undecided" else v for v, f in zip(verdicts[i], judged.findings, strict=True)
            ]
    return [Outcome(tuple(v), sum(h) + c + BANK_OF_LOOKS) for v, h, c in zip(verdicts, have, controls, strict=True)]


WAYS = {"3 seeds": fixed, "planned looks": planned, "random peeks": peeking}


def false_claim(effect: float, verdict: str) -> bool:
    """Better or worse where there is nothing, or with the wrong sign."""
    return verdict in ("better", "worse") and (effect == 0 or (verdict == "better") != (effect < 0))


def summary(world: World, way: str, outcomes: Sequence[Outcome]) -> dict[str, float | str | int]:
    """Rates of one world and way, with Monte-Carlo bounds (Clopper-Pearson, 95 % one-sided)."""
    wrong = sum(any(map(false_claim, EFFECTS, outcome.verdicts)) for outcome in outcomes)

    def share(size: float, *wanted: str) -> float:
        cells = [o.verdicts[i] in wanted for o in outcomes for i, e in enumerate(EFFECTS) if abs(e) == size]
        return sum(cells) / len(cells)

    at_delta = sum(o.verdicts[i] == "no_effect_that_matters" for o in outcomes for i in _AT_DELTA)
    tried = len(outcomes) * len(_AT_DELTA)
    return {
        "world": world.name,
        "way": way,
        "screens": len(outcomes),
        "fwer": wrong / len(outcomes),
        "fwer_lower": lower(wrong, len(outcomes)),
        "fwer_upper": upper(wrong, len(outcomes)),
        "power_001": share(0.001, "better", "worse"),
        "power_002": share(0.002, "better", "worse"),
        "power_003": share(0.003, "better", "worse"),
        "null_given_0": share(0.0, "no_effect_that_matters"),
        "false_null": at_delta / tried,
        "false_null_lower": lower(at_delta, tried),
        "undecided": sum(v == "undecided" for o in outcomes for v in o.verdicts) / len(outcomes) / len(ARMS),
        "runs": sum(o.runs for o in outcomes) / len(outcomes),
    }


_AT_DELTA = [i for i, effect in enumerate(EFFECTS) if abs(effect) == DELTA]


def upper(hits: int, n: int) -> float:
    """Upper 95 % bound of a rate."""
    return float(stats.beta.ppf(0.95, hits + 1, n - hits)) if hits < n else 1.0


def lower(hits: int, n: int) -> float:
    """Lower 95 % bound of a rate."""
    return float(stats.beta.ppf(0.05, hits, n - hits + 1)) if hits else 0.0


def broken(rows: Sequence[dict], full: bool) -> list[str]:
    """The bounds that do not hold, one line each."""
    found = []
    for row in rows:
        where = f"{row['world']}, {row['way']}"
        if row["fwer_lower"] > 0.05 or (full and row["fwer_upper"] > 0.06):
            found.append(f"{where}: family-wise error {row['fwer']:.3f}, bound 0.05")
        if row["false_null_lower"] > 0.05:
            found.append(f"{where}: no effect found at exactly delta in {row['false_null']:.3f}, bound 0.05")
        if row["world"] == "leaderboard" and row["way"] == "3 seeds" and (row["power_002"] < 0.8 or row["runs"] > 90):
            found.append(
                f"{where}: power {row['power_002']:.2f} at 0.002 with {row['runs']:.0f} runs, wanted 0.80 with 90"
            )
        if (
            row["world"] == "leaderboard"
            and row["way"] == "planned looks"
            and (row["power_003"] < 0.9 or row["runs"] > 75)
        ):
            found.append(
                f"{where}: power {row['power_003']:.2f} at 0.003 with {row['runs']:.0f} runs, wanted 0.90 with 75"
            )
    return found


def simulate(screens: int, seed: int, batch: int = 100) -> list[dict]:
    """A row for every world and way."""
    rows = []
    for index, world in enumerate(WORLDS):
        rng = np.random.default_rng([seed, index])
        outcomes: dict[str, list[Outcome]] = {way: [] for way in WAYS}
        for start in range(0, screens, batch):
            drawn = [screen(world, rng) for _ in range(min(batch, screens - start))]
            for way, judge in WAYS.items():
                outcomes[way] += judge(world, drawn, rng)
        rows += [summary(world, way, found) for way, found in outcomes.items()]
    return rows


COLUMNS = {
    "fwer": "FWER",
    "fwer_upper": "<=",
    "power_001": ".001",
    "power_002": ".002",
    "power_003": ".003",
    "null_given_0": "null",
    "false_null": "F0",
    "undecided": "?",
    "runs": "runs",
}
PLACES = dict.fromkeys(COLUMNS, 2) | {"fwer": 3, "fwer_upper": 3, "false_null": 3, "runs": 0}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--full", action="store_true", help="4000 screens a world, strict bounds")
    parser.add_argument("--screens", type=int, help="screens a world (short 250, full 4000)")
    parser.add_argument("--seed", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    start = time.process_time()
    rows = simulate(arguments.screens or (4000 if arguments.full else 250), arguments.seed)
    failed = broken(rows, arguments.full)
    if arguments.json:
        print(json.dumps({"rows": rows, "broken": failed, "cpu_s": round(time.process_time() - start, 1)}))
    else:
        print(f"{'world':20} {'way':14} " + " ".join(f"{head:>5}" for head in COLUMNS.values()))
        for r in rows:
            print(f"{r['world']:20} {r['way']:14} " + " ".join(f"{r[name]:5.{PLACES[name]}f}" for name in COLUMNS))
        print(f"{rows[0]['screens']} screens a world, {time.process_time() - start:.0f} s of CPU")
        print("\n".join(failed) or "every bound holds")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())

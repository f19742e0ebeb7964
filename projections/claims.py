"""What the leaderboard's records claim, recomputed from their seeds: the rows of `claim_audit`.

Three kinds of rows. A `step` compares a record with a parent that it (or its line on the leaderboard)
names, where both have seeds. A `claim` compares a record's score with the mean of its own seeds, and its
gain with the base that it states. A `test` makes a significance test again that a text prints.

Steps use the variance of a run as all records of the track tell it (moderated, see statistics/variances.py),
treat equal seed numbers as unrelated runs, and are corrected by Holm over all steps with two seeds or more
on each side. Beside it stand Welch's test and, where two seeds or more are shared, the paired one. A step
with a selection flag on either side is `invalid`; with one seed on a side it is `undecided`.

Scores are those of `record_seeds`, with the digits of another source where that rounds to the same value.
Nothing here asks who a record is: what is flagged follows from the rows alone.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal
from typing import Any, NamedTuple

import pyarrow as pa

from projections.statistics import classical, effects, multiplicity, selection, variances
from projections.statistics.numeric import LARGEST, digits, mean

DELTA = 0.002  # bits per byte that matter, unless somebody asks for another
ALPHA = 0.05
MARGIN_NATS = 0.005  # what the leaderboard asks a record to gain, at p < RULE_ALPHA
RULE_ALPHA = 0.01
_CORNERS = 10  # seeds of both sides up to which their rounding is tried in all combinations
BETWEEN = "; "  # two flags of a row, and what shows them
INVALIDATES = ("seeds left out", "best of those run", "tuning seed reported")

_TEXT = ("record", "kind", "against", "how")
_WHOLE = ("n_t", "n_c", "shared")
_REAL = (
    "mean_t", "mean_c", "claimed", "effect", "welch_t", "welch_df", "welch_p", "welch_p1", "paired_df", "paired_p",
    "prior_sd", "prior_d0", "se", "df", "t", "p", "p1", "p_holm", "ci95_lo", "ci95_hi", "ci90_lo", "ci90_hi",
    "delta_nats", "p_rule",
)  # fmt: skip
SCHEMA = pa.schema(
    [
        ("row", pa.int64()),
        *[(name, pa.string()) for name in _TEXT],
        *[(name, pa.int64()) for name in _WHOLE],
        *[(name, pa.float64()) for name in _REAL],
        ("delta", pa.float64()),
        ("verdict", pa.string()),
        ("p_printed", pa.string()),
        ("t_printed", pa.string()),
        ("df_printed", pa.string()),
        ("test", pa.string()),
        ("p_again", pa.float64()),
        ("t_again", pa.float64()),
        ("df_again", pa.float64()),
        ("match", pa.string()),
        ("flags", pa.string()),
        ("flag_evidence", pa.string()),
        ("why", pa.string()),
        ("evidence", pa.string()),
        ("event_id", pa.string()),
    ]
)

Row = dict[str, Any]
Rows = Sequence[Mapping[str, Any]]


class Run(NamedTuple):
    """One reported seed. `seed` is None where the text numbers none."""

    seed: int | None
    bpb: float
    nats: float | None
    told: float  # bpb with the digits that `record_seeds` has


class Flag(NamedTuple):
    what: str
    evidence: str


class Record(NamedTuple):
    """A record with its reported seeds and what speaks against them."""

    name: str
    said: Mapping[str, Any]  # its row of `records`
    runs: list[Run]
    flags: list[Flag]
    dropped: int  # seeds whose score is no finite number

    def bpb(self) -> list[float]:
        return [run.bpb for run in self.runs]

    def nats(self) -> list[float]:
        """Losses in nats, only where every seed has one."""
        found = [run.nats for run in self.runs if run.nats is not None]
        return found if len(found) == len(self.runs) else []


def audit(
    records: Rows, seeds: Rows, sources: Rows, lineage: Rows, board: Rows, tests: Rows, selections: Rows
) -> pa.Table:
    """The rows of SCHEMA from the rows of the tables of records, each sorted by its key."""
    grouped = [_by_record(rows) for rows in (seeds, sources, selections)]
    known = {said["record"]: _record(said, *(rows.get(said["record"], []) for rows in grouped)) for said in records}
    priors = _priors(known.values())
    pulls: dict[str, set[str]] = {}
    for line in board:
        if line["pull_request"] is not None and line["record"] is not None:
            pulls.setdefault(f"#{line['pull_request']}", set()).add(line["record"])
    pulled = {number: next(iter(names)) for number, names in pulls.items() if len(names) == 1}
    found: list[Row] = []
    for record in known.values():
        found.append(_claim(record, priors.get(record.said["track"])))
    for edge in lineage:
        parent = known.get(edge["parent"])
        child = known[edge["record"]]
        if edge["how"] != "inferred" and parent and child.runs and parent.runs:
            found.append(_step(child, parent, edge, priors.get(child.said["track"])))
    _correct([row for row in found if row["kind"] == "step"])
    found += [_test(told, known, pulled) for told in tests]
    found.sort(key=lambda row: (row["record"], ("claim", "step", "test").index(row["kind"])))  # stable
    for _, rows in itertools.groupby(found, key=lambda row: row["record"]):
        for number, row in enumerate(rows, 1):
            row["row"] = number
    rounded = [
        {name: digits(value) if type(value) is float else value for name, value in row.items()} for row in found
    ]
    return pa.Table.from_pylist([dict.fromkeys(SCHEMA.names) | row for row in rounded], schema=SCHEMA)


def _by_record(rows: Rows) -> dict[str, list[Mapping[str, Any]]]:
    found: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        found.setdefault(row["record"], []).append(row)
    return found


# ── a record and what speaks against it ──


def _record(said: Mapping[str, Any], seeds: Rows, sources: Rows, selections: Rows) -> Record:
    scored = [seed for seed in seeds if seed["val_bpb"] is not None]
    usable = [seed for seed in scored if abs(seed["val_bpb"]) < LARGEST]  # NaN is not
    step = 10.0 ** -_finest([seed["val_bpb"] for seed in usable])  # a column has one number of digits
    runs = []
    for seed in usable:
        number, value = seed["seed"], seed["val_bpb"]
        same = [
            row
            for row in sources
            if number is not None
            and row["seed"] == number
            and row["val_bpb"] is not None
            and abs(row["val_bpb"] - value) <= 0.5001 * step
        ]
        finest = max((row["val_bpb"] for row in same), key=_decimals, default=value)
        losses = [row["val_loss"] for row in same if row["val_loss"] is not None and abs(row["val_loss"]) < LARGEST]
        runs.append(Run(number, finest, max(losses, key=_decimals, default=None), value))
    return Record(said["record"], said, runs, _flags(said, runs, sources, selections), len(scored) - len(usable))


def _finite(value: float | None) -> float | None:
    """The value; None for none, and for what is no measurement."""
    return value if value is not None and abs(value) < LARGEST else None


def _decimals(value: float) -> int:
    return max(0, -int(Decimal(repr(value)).as_tuple().exponent))


def _finest(values: Sequence[float]) -> int:
    """Decimals of a column of printed values: the last zeros of one of them are lost, hardly those of all."""
    return max(map(_decimals, values), default=0)


def _is(value: float, claimed: float, decimals: int) -> bool:
    """Whether a value is the claimed one, to the digits that both have."""
    return abs(value - claimed) <= 0.5001 * 10.0 ** -min(_decimals(claimed), decimals)


def _flags(said: Mapping[str, Any], runs: Sequence[Run], sources: Rows, selections: Rows) -> list[Flag]:
    """Signs of selection among the seeds, each with what shows it."""
    found: list[Flag] = []
    printed, claimed = [run.told for run in runs], _finite(said["val_bpb"])
    mean_claimed = claimed is None or _comes_out(runs, claimed)
    if claimed is not None and len(runs) > 1 and not mean_claimed and _is(min(printed), claimed, _finest(printed)):
        words = f"{claimed:g} is the best of its {len(runs)} seeds, whose mean is {mean(printed):.5f}"
        found.append(Flag("best seed claimed", words))
    if len(runs) == 1:
        found.append(Flag("one seed", "one seed cannot show its own noise"))
    reported = {run.seed for run in runs if run.seed is not None}
    if not reported:
        return found
    others: dict[int, tuple[float | None, str]] = {}
    for row in (*selections, *sources):
        seed, score = row["seed"], _finite(row["val_bpb"])
        ran_too = row.get("what") == "left_out" or (row.get("source") and score is not None)
        if ran_too and seed is not None and seed not in reported:
            others.setdefault(seed, (score, row["evidence"]))
    if others:
        told = ", ".join(f"{seed} ({evidence})" for seed, (_, evidence) in sorted(others.items()))
        ran = len(runs) + len(others)
        found.append(Flag("seeds left out", f"{len(runs)} of {ran} seeds reported, not {told}"))
        scores = [value for value, _ in others.values() if value is not None]
        if len(scores) == len(others) and min(scores) > max(run.bpb for run in runs):
            bias = selection.best_of(len(runs), ran)
            words = f"the best {len(runs)} of {ran}: {bias:+.2f} sd by choosing alone"
            found.append(Flag("best of those run", words))
    for row in selections:
        if row["what"] == "tuned_on" and row["seed"] in reported:
            found.append(Flag("tuning seed reported", f"seed {row['seed']} served to choose ({row['evidence']})"))
    return found


def _comes_out(runs: Sequence[Run], claimed: float) -> bool:
    """Whether a claimed score is the mean of the seeds, as they are printed or with all their digits."""
    return bool(runs) and any(
        _is(mean(values), claimed, 12) for values in ([r.told for r in runs], [r.bpb for r in runs])
    )


def _priors(records: Iterable[Record]) -> dict[str, variances.Prior | None]:
    """What the records of each track say together about the noise of one run."""
    tracks: dict[str, list[tuple[float, float]]] = {}
    for record in records:
        tracks.setdefault(record.said["track"], []).append(effects.own_variance(record.bpb()))
    floor = variances.rounding_variance(1e-4)  # most texts print four digits
    return {
        track: variances.fit_prior([value for value, _ in own], [df for _, df in own], floor=floor)
        for track, own in sorted(tracks.items())
    }


# ── a record against its parent ──


def _step(child: Record, parent: Record, edge: Mapping[str, Any], prior: variances.Prior | None) -> Row:
    treatment, control = child.bpb(), parent.bpb()
    flags = [*child.flags, *[Flag(f"parent: {flag.what}", flag.evidence) for flag in parent.flags]]
    row: Row = {
        **_counts(child, parent),
        "record": child.name,
        "kind": "step",
        "against": parent.name,
        "how": edge["how"],
        "mean_t": mean(treatment),
        "mean_c": mean(control),
        "effect": mean(treatment) - mean(control),
        **_moderated(child, parent, prior),
        "delta": DELTA,
        **_told(flags),
        "evidence": edge["evidence"],
        "event_id": edge["event_id"],
    }
    if welch := classical.welch(treatment, control):
        lower = classical.p_of(welch.t, welch.df, "less")
        row |= {"welch_t": welch.t, "welch_df": welch.df, "welch_p": welch.p, "welch_p1": lower}
    same, other = _numbered(child), _numbered(parent)
    pairs = sorted(same.keys() & other.keys())
    if test := classical.paired([same[seed] for seed in pairs], [other[seed] for seed in pairs]):
        row |= {"paired_df": test.df, "paired_p": test.p}
    if _one_token(child, parent):
        row["delta_nats"] = mean(child.nats()) - mean(parent.nats())
        if rule := classical.welch(child.nats(), parent.nats(), "less", -MARGIN_NATS):
            row["p_rule"] = rule.p
    return row


def _one_token(child: Record, parent: Record) -> bool:
    """Whether losses of both sides can be compared: a token of another tokenizer is another unit."""
    if not (child.nats() and parent.nats()):
        return False
    per_bit = [mean(record.nats()) / mean(record.bpb()) for record in (child, parent)]
    return abs(per_bit[0] / per_bit[1] - 1) < 1e-3


def _counts(child: Record, parent: Record) -> Row:
    shared = _numbered(child).keys() & _numbered(parent).keys()
    return {"n_t": len(child.runs), "n_c": len(parent.runs), "shared": len(shared)}


def _numbered(record: Record) -> dict[int, float]:
    return {run.seed: run.bpb for run in record.runs if run.seed is not None}


def _moderated(child: Record, parent: Record, prior: variances.Prior | None) -> Row:
    """Test and intervals with the track's noise. Equal seed numbers are no pairs: their correlation is near 0."""
    own = [effects.own_variance(record.bpb()) for record in (child, parent)]
    floor = variances.rounding_variance(1e-4)
    v_t, v_c = variances.spreads(own, prior, floor)
    if v_t.source == "none" or v_c.source == "none":
        return {}
    keyed_t, keyed_c = dict(enumerate(child.bpb())), {-1 - i: value for i, value in enumerate(parent.bpb())}
    found = effects.estimate(keyed_t, keyed_c, 0.0, v_t, v_c)
    return {**_figures(found.d, found.se, found.df), **_prior(prior)}


def _figures(effect: float, se: float, df: float) -> Row:
    test, narrow = classical.t_test(effect, se, df), classical.t_test(effect, se, df, level=0.9)
    return {
        "se": test.se,
        "df": test.df,
        "t": test.t,
        "p": test.p,
        "p1": classical.p_of(test.t, test.df, "less") if se > 0 else float(effect >= 0),
        "ci95_lo": test.low,
        "ci95_hi": test.high,
        "ci90_lo": narrow.low,
        "ci90_hi": narrow.high,
    }


def _prior(prior: variances.Prior | None) -> Row:
    return {"prior_sd": math.sqrt(prior.s0_squared), "prior_d0": prior.d0} if prior else {}


def _told(flags: Sequence[Flag]) -> Row:
    return {
        "flags": BETWEEN.join(flag.what for flag in flags),
        "flag_evidence": BETWEEN.join(f.evidence for f in flags),
    }


def flags(row: Mapping[str, Any]) -> list[Flag]:
    """The flags of a row of the table, each with what shows it."""
    if not row["flags"]:
        return []
    both = (row["flags"].split(BETWEEN), row["flag_evidence"].split(BETWEEN))
    return [Flag(what, evidence) for what, evidence in zip(*both, strict=True)]


def _correct(steps: Sequence[Row]) -> None:
    """Holm over all steps that have a test, and the verdicts."""
    tested = [row for row in steps if row.get("p") is not None and min(row["n_t"], row["n_c"]) > 1]
    for row, p in zip(tested, multiplicity.holm([row["p"] for row in tested]), strict=True):
        row["p_holm"] = p
    for row in steps:
        row["verdict"], row["why"] = verdict(row, DELTA)


def verdict(row: Mapping[str, Any], delta: float) -> tuple[str, str]:
    """One of the five words for a step, and a sentence with its numbers."""
    chosen = [flag.evidence for flag in flags(row) if flag.what.removeprefix("parent: ") in INVALIDATES]
    change = f"{row['effect']:+.5f} bpb"
    if row.get("p") is not None:
        change += f", 95 % {row['ci95_lo']:+.5f} to {row['ci95_hi']:+.5f}"
    if row.get("p_holm") is not None:
        change += f", Holm p {row['p_holm']:.2g}"
    if chosen:
        return "invalid", f"{change}; but {'; '.join(chosen)}"
    if row.get("p_holm") is None:
        return "undecided", f"{change}; but {_seeds(row['n_t'])} against {row['n_c']} decide nothing"
    if row["p_holm"] < ALPHA:
        beyond = row["ci95_hi"] < -delta or row["ci95_lo"] > delta
        size = f"all of it beyond {delta:g}" if beyond else f"not shown to exceed {delta:g}"
        return ("better" if row["effect"] < 0 else "worse"), f"{change}; {size}"
    if -delta < row["ci90_lo"] and row["ci90_hi"] < delta:
        inside = f"90 % {row['ci90_lo']:+.5f} to {row['ci90_hi']:+.5f} lies within {delta:g}"
        return "no_effect_that_matters", f"{change}; {inside}"
    return "undecided", f"{change}; neither shown nor excluded at {delta:g}"


# ── a record against its own words ──


def _claim(record: Record, prior: variances.Prior | None) -> Row:
    """Does the score come out of the seeds? And how far is it from the base that the record states?"""
    said, values = record.said, record.bpb()
    row: Row = {
        "record": record.name,
        "kind": "claim",
        "claimed": _finite(said["val_bpb"]),
        "n_t": len(values),
        "evidence": said["val_bpb_evidence"],
        "event_id": said["event_id"],
        **_told(record.flags),
        "match": "not computable",
    }
    lost = f"; {_seeds(record.dropped)} without a finite score" if record.dropped else ""
    if not values:
        row |= _told([*record.flags, Flag("no seeds", "no source here lists a score by seed")])
        return row | {"why": f"no seed of it has a score here{lost}"}
    row["mean_t"] = middle = mean(values)
    base = _finite(said["base_val_bpb"])
    if base is not None:
        row |= {"against": repr(base), "how": "stated", "mean_c": base, "effect": middle - base}
        (spread,) = variances.spreads([effects.own_variance(values)], prior, variances.rounding_variance(1e-4))
        if spread.source != "none":
            row |= {**_figures(middle - base, math.sqrt(spread.variance / len(values)), spread.df), **_prior(prior)}
    if row["claimed"] is None:
        return row | {"why": f"it states no score; the mean of {_seeds(len(values))} is {middle:.5f}{lost}"}
    good = _comes_out(record.runs, row["claimed"]) or _is(middle, row["claimed"], _finest(values))
    told = f"claims {row['claimed']:g}; the mean of {_seeds(len(values))} is {middle:.5f}{lost}"
    return row | {"match": "reproduced" if good else "not reproduced", "why": told}


# ── a test that is printed ──


class _Made(NamedTuple):
    """A test made again; `values` and `control` are what it was made from."""

    name: str
    result: classical.TTest
    values: list[float]
    control: list[float]


def _test(told: Mapping[str, Any], known: Mapping[str, Record], pulls: Mapping[str, str]) -> Row:
    row: Row = {
        "record": told["record"] or told["told"] or told["place"],
        "kind": "test",
        "against": told["against"],
        "how": "leaderboard" if told["told"] else "readme",
        "p_printed": _relation(told["relation"], told["p"]),
        "t_printed": told["t"],
        "df_printed": told["df"],
        **_told([]),
        "match": "not computable",
        "evidence": told["evidence"],
        "event_id": told["event_id"],
    }
    record = known.get(told["record"])
    if record is None:
        return row | {"why": "no record here is meant by this line: its seeds are not known"}
    row |= {"n_t": len(record.runs), "mean_t": mean(record.bpb()) if record.runs else None}
    if len(record.runs) < 2:
        return row | {"why": f"{_seeds(len(record.runs))} of it here; a test needs two"}
    made, words = _candidates(record, told["against"].split(", ") if told["against"] else [], known, pulls)
    if not made:
        return row | {"why": words}
    best = max(enumerate(made), key=lambda each: (_score(told, each[1].result), -each[0]))[1]
    right = _fits(told, best.result)
    match = "reproduced" if right else "not reproduced"
    if not right and _within(told, best):
        match = "within rounding"
    result = best.result
    again = f"{best.name} against {words}: p {result.p:.3g}, t {result.t:.4g}, df {result.df:.3g}"
    if right and not same(told["t"], abs(result.t), signless=True):
        again += f"; the text prints t {told['t']}"
    if match == "within rounding":
        again += "; the printed digits of the seeds allow what the text prints"
    return row | {
        "n_c": len(best.control) or None,
        "test": best.name,
        "effect": result.effect,
        "p_again": result.p,
        "t_again": result.t,
        "df_again": result.df,
        "match": match,
        "why": again,
    }


def _seeds(number: int) -> str:
    return f"{number} seed" if number == 1 else f"{number} seeds"


def _relation(relation: str, p: str | None) -> str | None:
    return None if p is None else p if relation == "=" else f"< {p}"


def _candidates(
    record: Record, against: Sequence[str], known: Mapping[str, Record], pulls: Mapping[str, str]
) -> tuple[list[_Made], str]:
    """The tests that the words may mean, one-sided first; with none of them, why."""
    if against and against[0].startswith("#"):
        other = known.get(pulls.get(against[0], ""))
        if other is None:
            return [], f"pull request {against[0]} is no record here: its seeds are not known"
        return _with_record(record, other), f"{against[0]} ({_seeds(len(other.runs))})"
    if against:
        made = [test for text in against for test in _with_number(record, float(text))]
        return made, " or ".join(against) if made else f"{', '.join(against)} is no score like those of its seeds"
    parent = known.get(record.said["parent"] or "")
    if parent is not None and parent.runs:
        return _with_record(record, parent), f"its parent ({_seeds(len(parent.runs))})"
    base = _finite(record.said["base_val_bpb"])
    if base is not None:
        return _with_number(record, base), f"its base {base:g}"
    return [], "the text does not say what it is a test against, and names no base"


def _with_record(record: Record, other: Record) -> list[_Made]:
    if len(other.runs) < 2:
        single = [*other.bpb(), *other.nats()]
        return [test for value in single for test in _with_number(record, value)]
    found = []
    for unit, values, control in (("bpb", record.bpb(), other.bpb()), ("nats", record.nats(), other.nats())):
        for side in ("less", "two-sided"):
            test = classical.welch(values, control, "less" if side == "less" else "two-sided")
            if test:
                found.append(_Made(f"Welch, {_side(side)}, {unit}", test, values, control))
    return found


def _with_number(record: Record, target: float) -> list[_Made]:
    found = []
    for unit, values in (("bpb", record.bpb()), ("nats", record.nats())):
        if values and abs(target / mean(values) - 1) < 0.25:  # a loss in nats is no target for bits
            for side in ("less", "two-sided"):
                test = classical.one_sample(values, target, "less" if side == "less" else "two-sided")
                if test:
                    found.append(_Made(f"one sample, {_side(side)}, {unit}", test, values, []))
    return found


def _side(side: str) -> str:
    return "one-sided" if side == "less" else side


def _score(told: Mapping[str, Any], result: classical.TTest) -> tuple[bool, bool, bool]:
    """Which of the printed figures come out, the most important first."""
    return (
        _fits(told, result),
        told["t"] is None or same(told["t"], abs(result.t), signless=True),
        told["df"] is None or same(told["df"], result.df),
    )


def _fits(told: Mapping[str, Any], result: classical.TTest) -> bool:
    if told["p"] is None:
        return same(told["t"], abs(result.t), signless=True) and same(told["df"], result.df)
    if told["relation"] == "<":
        return result.p < float(told["p"])
    return same(told["p"], result.p)


def same(printed: str | None, value: float, signless: bool = False) -> bool:
    """Whether a value rounds to what is printed; True where nothing is."""
    if printed is None:
        return True
    if not math.isfinite(value):
        return False
    told = abs(Decimal(printed)) if signless else Decimal(printed)
    half = Decimal((0, (5,), int(told.as_tuple().exponent) - 1))
    return abs(Decimal(value) - told) <= half


def _within(told: Mapping[str, Any], made: _Made) -> bool:
    """Whether seeds that round to the printed ones give the printed figure: their rounding, all ups and downs."""
    if len(made.values) + len(made.control) > _CORNERS:
        return False
    side: classical.Side = "less" if "one-sided" in made.name else "two-sided"
    target = mean(made.values) - made.result.effect if not made.control else 0.0
    ps, ts = [], []
    units = [0.5 * 10.0 ** -max(map(_decimals, part)) if part else 0.0 for part in (made.values, made.control)]
    n = len(made.values)
    for signs in itertools.product((-1.0, 1.0), repeat=n + len(made.control)):
        values = [value + sign * units[0] for value, sign in zip(made.values, signs[:n], strict=True)]
        control = [value + sign * units[1] for value, sign in zip(made.control, signs[n:], strict=True)]
        test = classical.welch(values, control, side) if control else classical.one_sample(values, target, side)
        if test:
            ps.append(test.p)
            ts.append(abs(test.t))
    printed, found = (told["p"], ps) if told["p"] is not None else (told["t"], ts)
    return bool(found) and min(found) <= abs(float(printed)) <= max(found)

"""`ledger audit records`: what the leaderboard's records claim, beside what their seeds give."""

from __future__ import annotations

import math
from typing import Any

import click

from commands.common import Asked, cell, print_json, say, shared
from ledger.errors import UsageError

_WIDE = 17  # characters of a record's name
_WORDS = {"no_effect_that_matters": "no effect"}
_CHOSEN = ("best seed claimed", "seeds left out", "best of those run", "tuning seed reported")

Row = dict[str, Any]


@click.command("audit")
@click.argument("what", type=click.Choice(["records"]))
@click.option("--delta", type=float, help="Smallest effect that matters, in bits per byte (default: 0.002).")
@shared(as_of=True)
def command(asked: Asked, what: str, delta: float | None) -> None:
    """Recompute what each record claims: its steps, its score, the tests that it prints.

    A step is a record against a parent that it names. n is the seeds of both, Welch its two-sided p,
    Holm that of the test whose noise all records of the track tell together, corrected over all steps.
    "no effect" means none that matters at --delta. With --json one line a row of the table claim_audit.
    """
    from projections.claims import verdict

    if delta is not None and not (math.isfinite(delta) and delta > 0):
        raise UsageError(f"--delta is {delta:g}; expected a number above 0, in bits per byte")
    rows = asked.tables(asked.open()).rows("SELECT * FROM claim_audit ORDER BY record, row")
    for row in rows:
        if row["kind"] == "step" and delta is not None:
            row["delta"] = delta
            row["verdict"], row["why"] = verdict(row, delta)
    if asked.json:
        for row in rows:
            print_json(row)
        return
    if not rows:
        say("no record was read yet; `ledger extract DIR` reads records")
        return
    steps, claims, tests = ([row for row in rows if row["kind"] == kind] for kind in ("step", "claim", "test"))
    if steps:
        _print_steps(steps)
    if tests:
        _print_tests(tests)
    _print_flags(claims)
    print(_sentence_on_steps(steps))
    print(_sentence_on_tests(tests))
    print(_sentence_on_scores(claims))


def _short(record: str | None) -> str:
    """A record's folder without the year, cut."""
    name = cell(record).rsplit("/", 1)[-1]
    return (name[5:] if name[:4].isdecimal() and name[4:5] == "-" else name)[:_WIDE]


def _p(value: float | None) -> str:
    return "" if value is None else f"{value:.1e}" if value < 0.001 else f"{value:.3f}"


def _print_steps(steps: list[Row]) -> None:
    print(f"{'record':{_WIDE}}  {'on':{_WIDE}}  {'n':>3}   {'effect':>7}  {'Welch':>7}  {'Holm':>7}  verdict")
    for row in steps:
        word = _WORDS.get(row["verdict"], row["verdict"])
        print(
            f"{_short(row['record']):{_WIDE}}  {_short(row['against']):{_WIDE}}  {row['n_t']}:{row['n_c']}  "
            f"{row['effect']:+8.4f}  {_p(row['welch_p']):>7}  {_p(row['p_holm']):>7}  {word}"
        )
    print()


def _print_tests(tests: list[Row]) -> None:
    print(f"{'record':{_WIDE}}  {'against':10}  {'prints':>12}  {'again':>10}")
    for row in tests:
        printed = f"p {row['p_printed']}" if row["p_printed"] else f"t {row['t_printed']}"
        again = row["p_again"] if row["p_printed"] else row["t_again"]
        told = "" if again is None else f"{again:.4g}"
        against = cell(row["against"]) if len(cell(row["against"])) <= 10 else f"{cell(row['against'])[:9]}…"
        print(f"{_short(row['record']):{_WIDE}}  {against:10}  {printed:>12}  {told:>10}  {row['match']}")
    print()
    missing = [row for row in tests if row["match"] != "reproduced" or not _statistic_fits(row)]
    for row in missing:
        _wrap(f"{_short(row['record']).strip()}: {cell(row['why'])}")
    if missing:
        print()


def _statistic_fits(row: Row) -> bool:
    from projections.claims import same

    return row["t_again"] is None or same(row["t_printed"], abs(row["t_again"]), signless=True)


def _print_flags(claims: list[Row]) -> None:
    from projections.claims import flags

    found = False
    for row in claims:
        for flag in flags(row):
            if flag.what in _CHOSEN:
                found = True
                _wrap(f"{_short(row['record']).strip()}: {cell(flag.evidence)}")
    if found:
        print()


def _wrap(line: str) -> None:
    import textwrap

    print("\n".join(textwrap.wrap(line, 80, subsequent_indent="  ", break_long_words=False)))


def _sentence_on_steps(steps: list[Row]) -> str:
    from projections.claims import ALPHA
    from projections.statistics.multiplicity import holm

    if not steps:
        return "No record names a parent that has seeds here too."
    tested = [row for row in steps if row["p_holm"] is not None]
    welch = [p for p in holm([row["welch_p"] for row in tested if row["welch_p"] is not None]) if p < ALPHA]
    ours = [row for row in tested if row["p_holm"] < ALPHA]
    words = ("better", "worse", "no_effect_that_matters", "undecided", "invalid")
    counts = {word: len([row for row in steps if row["verdict"] == word]) for word in words}
    told = ", ".join(f"{counts[word]} {word.replace('_', ' ')}" for word in words if counts[word])
    return _text(
        f"Of {len(steps)} steps, {len(tested)} of them with two seeds or more on each side: {told}; "
        f"the pooled noise shows a difference in {len(ours)}, Welch's test with Holm in {len(welch)}."
    )


def _sentence_on_tests(tests: list[Row]) -> str:
    if not tests:
        return "No test is printed."
    counts = {
        match: len([row for row in tests if row["match"] == match])
        for match in ("reproduced", "within rounding", "not reproduced", "not computable")
    }
    told = ", ".join(f"{count} {match}" for match, count in counts.items() if count)
    return _text(f"Of {len(tests)} printed tests: {told} from what is here.")


def _sentence_on_scores(claims: list[Row]) -> str:
    seeded = [row for row in claims if row["n_t"]]
    several = [row for row in seeded if row["n_t"] > 1]
    mean = [row for row in several if row["match"] == "reproduced"]
    best = [row for row in claims if _CHOSEN[0] in row["flags"].split("; ")]
    flagged = [row for row in claims if set(row["flags"].split("; ")) & set(_CHOSEN[1:])]
    return _text(
        f"Of {len(claims)} records {len(seeded)} list seeds and {len(several)} more than one: {len(mean)} of these "
        f"claim the mean of their seeds, {len(best)} their best seed; in {len(flagged)} the seeds were selected."
    )


def _text(sentence: str) -> str:
    import textwrap

    return "\n".join(textwrap.wrap(sentence, 80))

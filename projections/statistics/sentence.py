"""The one sentence of a finding of the ledger's own rule. It computes nothing: its numbers are the fields'."""

from __future__ import annotations

from typing import Any

Fields = dict[str, Any]


def sentence(row: Fields, metric: str, delta: float, mode: str, defect: str) -> str:
    """Why this verdict, for a reader who sees nothing else."""
    name = row["arm"]
    if defect:
        return f"{name}: {defect}."
    if row["condition"] == "failed":
        return (
            f"{name}: failed condition, {row['lost']} of its {row['planned']} planned seeds gave no value"
            f"{failures(row)}; what survived is a selection."
        )
    if row["p"] is None:
        have = f"{_seeds(row['n_t'])} against {row['n_c']} of the control"
        if row["pending"]:
            return f"{name} is undecided: {have}; {_planned(row['pending'])} not run yet."
        return f"{name} is undecided: {have}{failures(row)}; at least 2 of each tell an effect from noise."
    found = (
        f"{metric} changes by {row['effect']:+.4g} ({_interval(row, mode)}, {_counts(row)}, {_evidence(row, mode)})"
    )
    if row["variance"] == "own":
        found += "; only its own spread counts"
    if row["condition"] == "reduced_power":
        found += f"; reduced power, {row['lost']} of {row['planned']} planned seeds gave no value"
    found += failures(row)
    if row["pending"]:
        return f"{name} is undecided: {_planned(row['pending'])} not run yet; so far {found}."
    if row["track"] == "explore":
        word = "is worth confirming" if row["candidate"] else "shows nothing to confirm yet"
        return f"{name} {word} with fresh seeds: {found}; exploratory runs confirm nothing."
    if row["verdict"] in ("better", "worse"):
        size = (
            f", by more than {delta:g}"
            if row["beyond_delta"]
            else f", real but small (within {delta:g})"
            if row["small"]
            else ""
        )
        return f"{name} is {row['verdict']}{size}: {found}."
    if row["verdict"] == "no_effect_that_matters":
        return (
            f"{name} has no effect that matters: {found}; the 90 % interval {row['ci90_lo']:+.4g} to "
            f"{row['ci90_hi']:+.4g} lies within +-{delta:g}."
        )
    more = row["k_more_seeds"]
    need = f"about {more} more seed{'' if more == 1 else 's'}" if more else "more than 10,000 more seeds"
    return f"{name} is undecided: {found}; {need} would show an effect of {delta:g} with 80 % power."


def failures(row: Fields) -> str:
    """Failures are part of the finding, also where a later try succeeded."""
    if not row["failures_t"] and not row["failures_c"]:
        return ""
    return (
        f"; {row['failures_t']} of its {row['attempts_t']} runs and {row['failures_c']} of the control's "
        f"{row['attempts_c']} failed"
    )


def _interval(row: Fields, mode: str) -> str:
    kind = {"fixed": "95 % interval", "looks": "95 % repeated interval", "anytime": "95 % confidence sequence"}[mode]
    if row["ci95_lo"] is None:
        return f"{kind} unbounded"
    return f"{kind} {row['ci95_lo']:+.4g} to {row['ci95_hi']:+.4g}"


def _evidence(row: Fields, mode: str) -> str:
    if mode == "anytime":
        return f"e-value {row['e_value']:.3g}"
    if mode == "looks" and row["track"] == "confirm":
        return f"p {row['p']:.2g}, this look asks for {row['p_bound']:.2g}"
    return f"{'Holm' if row['track'] == 'confirm' else 'BH'} p {row['p_adj']:.2g}"


def _counts(row: Fields) -> str:
    return f"{row['n_t']} seeds against {row['n_c']}"


def _seeds(n: int) -> str:
    return f"{n} finished seed{'' if n == 1 else 's'}"


def _planned(n: int) -> str:
    return "1 planned run has" if n == 1 else f"{n} planned runs have"

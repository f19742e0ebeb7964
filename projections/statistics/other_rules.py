"""Rules of other projects, as they state them, to be run beside the ledger's own.

They keep their own words in `label`; the verdict says only what the rule's test shows. None of them
can find the absence of an effect. Runs of the explore track, and from before their plan, confirm
nothing under any rule.
"""

from __future__ import annotations

from typing import Any

from ledger.errors import UsageError
from projections.statistics import classical, multiplicity
from projections.statistics.effects import differences
from projections.statistics.failures import condition, fisher
from projections.statistics.inputs import Cells, Inputs, Track, sort_out, unread
from projections.statistics.judgement import Finding, Judgement, VerdictName, rounded
from projections.statistics.numeric import digits
from projections.statistics.policies import Policy, digest
from projections.statistics.sentence import failures

Row = dict[str, Any]
Values = dict[int, float]


def judge_other(policy: Policy, inputs: Inputs) -> Judgement:
    """A judgement by a rule that is not the ledger's own. Inputs must have been checked.

    Raises UsageError when the rule needs what the runs lack.
    """
    cells = sort_out(inputs)
    _applies(policy, inputs)
    rows = [_facts(policy, inputs, cells, name) for name in sorted(inputs.arms)]
    family = max(inputs.family_size or 0, len(inputs.arms))
    for row in rows:
        _measure(policy, inputs, cells, row)
    if policy.procedure == "paired_gate":
        tested = [row for row in rows if row["p"] is not None]
        for row, p_adj in zip(tested, multiplicity.holm([row["p"] for row in tested], family), strict=True):
            row["p_adj"] = p_adj
    return Judgement(
        experiment=inputs.experiment,
        metric=inputs.metric,
        policy=policy.id,
        policy_digest=digest(policy),
        alpha=_alpha(policy, inputs),
        delta=inputs.delta,
        family_size=family,
        findings=tuple(_finding(policy, inputs, cells, row) for row in rows),
        n_control=len(cells.values[inputs.control]),
        n_bank=len(cells.bank),
    )


def _alpha(policy: Policy, inputs: Inputs) -> float:
    return inputs.alpha if policy.alpha is None else policy.alpha


def _applies(policy: Policy, inputs: Inputs) -> None:
    what = f"policy {policy.id} on {inputs.experiment}"
    if policy.metric and inputs.metric != policy.metric:
        raise UsageError(f"{what}: its target is in {policy.metric}; the runs have {inputs.metric}")
    if policy.target is not None and inputs.direction != "lower":
        raise UsageError(f"{what}: it asks for a value below {policy.target:g}; here higher is better")
    if policy.margin_nats is not None and _nats(inputs) is None:
        raise UsageError(
            f"{what}: it asks for {policy.margin_nats:g} nats; how many nats {inputs.metric} has is unknown"
        )


def _nats(inputs: Inputs) -> float | None:
    if inputs.nats_per_unit is not None:
        return inputs.nats_per_unit
    return 1.0 if inputs.metric == "val_loss" else None


def _facts(policy: Policy, inputs: Inputs, cells: Cells, name: str) -> Row:
    planned = len(inputs.planned(name)) - cells.pending[name]
    control = inputs.control
    track, treatment, against = _values(inputs, cells, name)
    exact = fisher(cells.failures[name], cells.attempts[name], cells.failures[control], cells.attempts[control])
    return {
        "arm": name,
        "track": track,
        "condition": condition(planned, planned - cells.lost[name]),
        "n_t": len(treatment),
        "n_c": len(against),
        "n_pairs": len(treatment.keys() & against.keys()),
        "planned": planned,
        "lost": cells.lost[name],
        "pending": cells.pending[name] + (cells.pending[control] if policy.target is None else 0),
        "failures_t": cells.failures[name],
        "failures_c": cells.failures[control],
        "attempts_t": cells.attempts[name],
        "attempts_c": cells.attempts[control],
        "early": cells.early[name],
        "tuning": cells.tuning[name],
        "p": None,
        "p_crash": exact.p,
        "p_crash_mid": exact.mid_p,
    }


def _values(inputs: Inputs, cells: Cells, name: str) -> tuple[Track, Values, Values]:
    """Track, treatment and control: a claim needs fresh seeds, what is explored may use all."""
    fresh, control = cells.values[name], cells.values[inputs.control]
    old, old_control = cells.early_values[name], cells.early_values[inputs.control]
    if inputs.track == "confirm" and (fresh or not old) and (control or not old_control):
        return "confirm", fresh, control
    return "explore", old | fresh, old_control | control


def _measure(policy: Policy, inputs: Inputs, cells: Cells, row: Row) -> None:
    """Put the rule's figures into the row; p (or the statistic) stays None where there are too few values."""
    _, treatment, control = _values(inputs, cells, row["arm"])
    ys, cs = [y for _, y in sorted(treatment.items())], [y for _, y in sorted(control.items())]
    side: classical.Side = "less" if inputs.direction == "lower" else "greater"
    sign = -1.0 if inputs.direction == "lower" else 1.0
    test: classical.TTest | None = None
    if policy.procedure == "paired_gate":
        d = differences(treatment, control)
        test = classical.one_sample(d)
        row["reference"] = policy.gate
        if test:
            low, high = classical.bootstrap_mean(d, policy.bootstrap_seed, policy.resamples)
            row |= {"boot_lo": low, "boot_hi": high}
    elif policy.procedure in ("welch", "welch_margin"):
        margin = sign * (policy.margin_nats or 0.0) / (_nats(inputs) or 1.0)
        test = classical.welch(ys, cs, side, margin)
        if test:  # the test's effect is what goes beyond the margin; the row has the effect itself
            test = test._replace(effect=test.effect + margin, low=test.low + margin, high=test.high + margin)
        row["reference"] = margin
    elif policy.procedure == "one_sample" and policy.target is not None:
        test = classical.one_sample(ys, policy.target, "less")
        row["reference"] = policy.target
    elif policy.procedure == "known_sd" and policy.target is not None and policy.sd is not None:
        known = classical.known_sd(ys, policy.target, policy.sd)
        row |= {"reference": policy.target, "threshold": policy.threshold, "sd_t": policy.sd}
        if known:
            row |= {"effect": -known.effect, "statistic": known.statistic, "t": known.z, "p": known.p}
    if test:
        row |= {"effect": test.effect, "se": test.se, "df": test.df, "t": test.t, "p": test.p}
        row |= {"ci95_lo": test.low, "ci95_hi": test.high}


def _finding(policy: Policy, inputs: Inputs, cells: Cells, row: Row) -> Finding:
    defect = "selection: " + "; ".join(inputs.flags) if inputs.flags else "; ".join(inputs.defects)
    if cells.bases > 1:
        defect = f"its runs come from {cells.bases} bases"
    if not defect and policy.target is None:  # beside a target the control does not matter
        _, treatment, control = _values(inputs, cells, row["arm"])
        defect = unread(inputs, row["arm"], treatment, control)
    held, found = _test(policy, inputs, row)
    better = row.get("effect") is not None and (row["effect"] < 0) == (inputs.direction == "lower")
    verdict: VerdictName
    if defect or row["condition"] == "failed":
        verdict, label = "invalid", row["condition"] if row["condition"] == "failed" else "invalid"
    elif row["p"] is None or row["pending"] or row["track"] == "explore":
        verdict, label = "undecided", "exploratory" if row["track"] == "explore" else "incomplete"
    else:
        verdict = ("better" if better else "worse") if held else "undecided"
        label = _word(policy, row, held)
    if row["condition"] == "reduced_power":
        label += ", reduced power"
    row = rounded(row) | {"defect": defect}
    name = row["arm"]
    if defect:
        why = f"{name}: {defect}."
    elif row["p"] is None:
        have = f"{row['n_t']} finished seeds against {row['n_c']} of the control"
        why = f"{name} under {policy.id}: {label}, {have}{failures(row)}."
    else:
        why = f"{name} under {policy.id}: {label}; {found}{failures(row)}."
    return Finding(**row, verdict=verdict, label=label, why=why)


def _word(policy: Policy, row: Row, held: bool) -> str:
    if policy.procedure != "paired_gate":
        return "holds" if held else "does not hold"
    if held:
        return "confirmed"
    return "suggestive" if abs(row["effect"]) >= (policy.gate or 0.0) else "null"


def _test(policy: Policy, inputs: Inputs, row: Row) -> tuple[bool, str]:
    """Whether the rule's test holds, and the words with its figures."""
    if row["p"] is None:
        return False, ""
    alpha = _alpha(policy, inputs)
    change = f"{inputs.metric} changes by {row['effect']:+.4g}"
    if policy.procedure == "paired_gate":
        held = abs(row["effect"]) >= (policy.gate or 0.0) and row["p_adj"] < alpha
        return held, (
            f"{change} (bootstrap {row['boot_lo']:+.4g} to {row['boot_hi']:+.4g}, {row['n_pairs']} pairs, "
            f"Holm p {row['p_adj']:.2g}, gate {row['reference']:g})"
        )
    if policy.procedure == "known_sd":
        held = digits(row["statistic"], 9) >= row["threshold"]  # scores are decimals, their sums are not
        return held, (
            f"the mean of {row['n_t']} seeds is {row['effect']:+.4g} from {row['reference']:g}, "
            f"statistic {row['statistic']:.4g}, needed {row['threshold']:g}"
        )
    against = f" against a margin of {row['reference']:+.4g}" if policy.procedure == "welch_margin" else ""
    if policy.procedure == "one_sample":
        change = f"the mean of {row['n_t']} seeds is {row['effect']:+.4g} from {row['reference']:g}"
    return row["p"] < alpha, f"{change}, one-sided p {row['p']:.2g}{against}"

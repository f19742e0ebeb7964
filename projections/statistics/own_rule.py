"""The ledger's own rule: moderated variance, shared controls, five verdicts.

In order: `invalid` where the runs cannot carry a claim; `undecided` while planned runs are missing;
`better` or `worse` where the family's test rejects; `no_effect_that_matters` where the 90 % interval
lies within +-delta (two one-sided tests at 5 %); else `undecided`, with the seeds still needed. The
size of the observed effect is never a gate: at a true effect of delta that is a coin toss.

A plan with one look goes by Holm; with several by the spending boundary at alpha / family; a look that
was not planned by Holm on 1 / e-value. The explore track never says better, worse or no effect: it
names candidates (Benjamini and Hochberg) for fresh seeds.

Many experiments are judged at once, because the distribution functions are fast on arrays only.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from projections.statistics import anytime, multiplicity, sequential
from projections.statistics.distributions import floats, t_bound, t_lower, t_two_sided, t_upper
from projections.statistics.effects import Counts, contrast_df, contrast_variance
from projections.statistics.failures import condition, fisher
from projections.statistics.inputs import Inputs
from projections.statistics.judgement import Finding, Judgement, VerdictName, rounded
from projections.statistics.numeric import Array
from projections.statistics.policies import Policy, digest
from projections.statistics.power import planning_df, power, seeds_needed, smallest_effect
from projections.statistics.sentence import sentence
from projections.statistics.shrinkage import Shrunk, shrink_families
from projections.statistics.study import Arm, Study, look_information, study
from projections.statistics.variances import Spread, own_spread, squeeze


def judge_own(policy: Policy, many: Sequence[Inputs]) -> list[Judgement]:
    """A judgement of each experiment by the ledger's own rule. Inputs must have been checked."""
    studies = [study(policy, inputs) for inputs in many]
    tested = [(s, arm) for s in studies for arm in s.arms if arm.testable]
    figures = _figures(policy, tested)
    shrunk = shrink_families(
        [arm.effect or 0.0 for _, arm in tested],
        [arm.se or 0.0 for _, arm in tested],
        [arm.df for _, arm in tested],
        [s.inputs.delta for s, _ in tested],
        [len([arm for arm in s.arms if arm.testable]) for s in studies],
    )
    found, at = [], 0
    for s in studies:
        rows: list[dict[str, Any]] = []
        for arm in s.arms:
            rows.append(_facts(s, arm))
            if arm.testable:
                rows[-1] |= {name: float(column[at]) for name, column in figures.items()} | _posterior(shrunk, at)
                at += 1
        found.append(_conclude(policy, s, rows))
    return found


# ── figures, for all experiments at once ──


def _figures(policy: Policy, tested: Sequence[tuple[Study, Arm]]) -> dict[str, Array]:
    """Columns over all testable arms."""
    d, se = floats([arm.effect or 0.0 for _, arm in tested]), floats([arm.se or 0.0 for _, arm in tested])
    df, delta = floats([arm.df for _, arm in tested]), floats([s.inputs.delta for s, _ in tested])
    tau = floats([s.inputs.tau or s.inputs.delta for s, _ in tested])
    t95, t90 = t_bound(0.025, df) * se, t_bound(0.05, df) * se
    half = anytime.half_width(se, tau, 0.05, df) if len(d) else d
    half90 = anytime.half_width(se, tau, 0.10, df) if len(d) else d
    for index, (s, arm) in enumerate(tested):
        if s.mode == "looks":
            t95[index] = sequential.multiplier(_boundary(policy, s, 0.05, arm.look).bound, df[index]) * se[index]
            t90[index] = sequential.multiplier(_boundary(policy, s, 0.10, arm.look).bound, df[index]) * se[index]
        elif s.mode == "anytime":
            t95[index], t90[index] = half[index], half90[index]
    t = d / se
    return {
        "t": t,
        "p": t_two_sided(t, df),
        "ci95_lo": d - t95,
        "ci95_hi": d + t95,
        "ci90_lo": d - t90,
        "ci90_hi": d + t90,
        "p_tost": floats(
            [max(a, b) for a, b in zip(t_upper((d + delta) / se, df), t_lower((d - delta) / se, df), strict=True)]
        ),
        "p_beyond": t_upper((np.abs(d) - delta) / se, df),
        "e_value": anytime.e_value(d, se, tau, df) if len(d) else d,
        "cs_lo": d - half,
        "cs_hi": d + half,
    }


def _boundary(policy: Policy, s: Study, alpha: float, look: int | None) -> sequential.Boundary:
    return sequential.boundaries(s.information, alpha, policy.spending)[(look or 0) - 1]


def _posterior(shrunk: Shrunk, at: int) -> dict[str, float]:
    return {
        "post_mean": float(shrunk.mean[at]),
        "post_sd": float(shrunk.sd[at]),
        "lfsr": float(shrunk.lfsr[at]),
        "p_negative": float(shrunk.p_negative[at]),
        "p_in_rope": float(shrunk.p_in_rope[at]),
    }


def _facts(s: Study, arm: Arm) -> dict[str, Any]:
    """The fields of a finding that are known before its test."""
    cells, control = s.cells, s.inputs.control
    planned = len(s.inputs.planned(arm.name)) - cells.pending[arm.name]
    own_control = len({*s.inputs.seeds}) - cells.pending[control]
    named = condition(planned, planned - cells.lost[arm.name])
    named_c = condition(own_control, own_control - cells.lost[control] + len(cells.bank))
    if named_c == "failed" or (named_c == "reduced_power" and named == "complete"):
        named = named_c
    exact = fisher(
        cells.failures[arm.name], cells.attempts[arm.name], cells.failures[control], cells.attempts[control]
    )
    return {
        "arm": arm.name,
        "track": arm.track,
        "condition": named,
        "defect": arm.defect,
        "look": arm.look,
        "n_t": len(arm.treatment),
        "n_c": len(arm.control),
        "n_pairs": arm.counts.same,
        "planned": planned,
        "lost": cells.lost[arm.name],
        "pending": cells.pending[arm.name] + cells.pending[control],
        "failures_t": cells.failures[arm.name],
        "failures_c": cells.failures[control],
        "attempts_t": cells.attempts[arm.name],
        "attempts_c": cells.attempts[control],
        "early": cells.early[arm.name],
        "tuning": cells.tuning[arm.name],
        "variance": arm.spread_t.source if arm.spread_t else "",
        "sd_t": math.sqrt(arm.spread_t.variance) if arm.spread_t else None,
        "sd_c": math.sqrt(arm.spread_c.variance) if arm.spread_c else None,
        "sd": _sd_of_difference(arm, s.rho),
        "b": arm.b,
        "effect": arm.effect,
        "se": arm.se,
        "df": arm.df if arm.se is not None else None,
        "p": None,
        "p_crash": exact.p,
        "p_crash_mid": exact.mid_p,
    }


def _sd_of_difference(arm: Arm, rho: float) -> float | None:
    """Standard deviation of the difference of two runs of one seed."""
    if arm.spread_t is None:
        return None
    v_t = arm.spread_t.variance
    if arm.spread_c is None:  # pairs of one checkpoint: the variance is that of their difference
        return math.sqrt(v_t)
    v_c = arm.spread_c.variance
    return math.sqrt(max(0.0, v_t + v_c - 2.0 * rho * math.sqrt(v_t * v_c)))


# ── from figures to verdicts ──


def _conclude(policy: Policy, s: Study, rows: list[dict[str, Any]]) -> Judgement:
    confirm = [row for row in rows if row["p"] is not None and row["track"] == "confirm"]
    explore = [row for row in rows if row["p"] is not None and row["track"] == "explore"]
    look = _boundary(policy, s, s.alpha / s.family, s.inputs.look) if s.mode == "looks" else None
    if s.mode == "anytime":
        adjusted = multiplicity.holm([min(1.0, 1.0 / row["e_value"]) for row in confirm], s.family)
    else:
        adjusted = multiplicity.holm([row["p"] for row in confirm], s.family)
    for row, p_adj in zip(confirm, adjusted, strict=True):
        row["p_adj"] = None if look else p_adj
        if look:
            row["p_bound"] = _boundary(policy, s, s.alpha / s.family, row["look"]).nominal_p
            row["rejects"] = row["p"] <= row["p_bound"]
        else:
            row["rejects"] = p_adj <= s.alpha if s.mode == "anytime" else p_adj < s.alpha
    for row, q in zip(explore, multiplicity.benjamini_hochberg([row["p"] for row in explore]), strict=True):
        row |= {"p_adj": q, "candidate": q <= policy.explore_q, "rejects": False}
    findings = [_finding(policy, s, arm, row) for arm, row in zip(s.arms, rows, strict=True)]
    prior = s.prior
    return Judgement(
        **rounded(
            {
                "experiment": s.inputs.experiment,
                "metric": s.inputs.metric,
                "policy": policy.id,
                "policy_digest": digest(policy),
                "alpha": s.alpha,
                "delta": s.inputs.delta,
                "family_size": s.family,
                "findings": tuple(findings),
                "mode": s.mode,
                "look": s.inputs.look,
                "information": s.information[-1] if s.information else None,
                "alpha_spent": look.spent if look else None,
                "d0": prior.d0 if prior else None,
                "d0_fitted": prior.d0_fitted if prior else None,
                "s0": math.sqrt(prior.s0_squared) if prior else None,
                "cap_used": prior.capped if prior else False,
                "prior_arms": prior.arms if prior else 0,
                "floored": prior.floored if prior else 0,
                "rho": s.rho,
                "rho_hat": s.correlation.rho if s.correlation.df else None,
                "n_control": len(s.cells.values[s.inputs.control]),
                "n_bank": len(s.cells.bank),
                "drift_p_slope": s.drift.p_slope,
                "drift_p_blocks": s.drift.p_blocks,
                "drift_flagged": s.drift.flagged,
            }
        )
    )


def _finding(policy: Policy, s: Study, arm: Arm, row: dict[str, Any]) -> Finding:
    delta = s.inputs.delta
    verdict = _verdict(s, arm, row)
    real = verdict in ("better", "worse")
    if row["p"] is not None:
        each = s.alpha / s.family
        row["mde80"] = row["se"] * smallest_effect(planning_df(row["df"]), each, policy.power)
        if verdict == "undecided" and not row["pending"]:
            row["k_more_seeds"] = _more_seeds(policy, s, arm, each)
        row["beyond_delta"] = real and (row["ci95_hi"] < -delta or row["ci95_lo"] > delta)
        row["small"] = real and -delta < row["ci90_lo"] and row["ci90_hi"] < delta
    row.pop("rejects", None)
    row = rounded(row)
    row |= {"verdict": verdict, "label": _seed_plan_word(verdict)}
    row["why"] = sentence(row, s.inputs.metric, delta, s.mode, arm.defect)
    return Finding(**row)


def _verdict(s: Study, arm: Arm, row: dict[str, Any]) -> VerdictName:
    if arm.defect or row["condition"] == "failed":
        return "invalid"
    if row["p"] is None or row["pending"] or arm.track != "confirm":
        return "undecided"
    if row["rejects"]:
        return "better" if (row["effect"] < 0) == (s.inputs.direction == "lower") else "worse"
    if -s.inputs.delta < row["ci90_lo"] and row["ci90_hi"] < s.inputs.delta:
        return "no_effect_that_matters"
    return "undecided"


def _seed_plan_word(verdict: VerdictName) -> str:
    """What the seed plan's readers would call it: null only where that was found, never for want of data."""
    words = {"better": "confirmed", "worse": "confirmed", "no_effect_that_matters": "null", "undecided": "suggestive"}
    return words.get(verdict, "")


def _more_seeds(policy: Policy, s: Study, arm: Arm, alpha: float) -> int | None:
    """Seeds to add to treatment and control until an effect of delta is shown with the policy's power.

    Up to the last planned look by the boundaries of the looks; what goes beyond the plan is a look that was
    not planned, so its e-value has to reach 1 / alpha.
    """
    spread_t, spread_c, counts, prior = arm.spread_t, arm.spread_c, arm.counts, s.prior
    if spread_t is None:
        return None

    def grown(spread: Spread, n: int, k: int) -> Spread:
        """The variance stays as it is now; its degrees of freedom grow with every arm's seeds."""
        if prior is not None:
            more = prior._replace(df=prior.df + k * (len(s.arms) + 1))
            new = squeeze(spread.variance, n - 1.0 + k, more)
            own = max(0.0, spread.variance - new.borrowed)
            return new._replace(variance=spread.variance, borrowed=spread.variance - own)
        if spread.source == "pooled":
            df = spread.df + k * (len(s.arms) + 1)
            return spread._replace(df=df, borrowed_df=df, limit=df)
        return own_spread(spread.variance, spread.own_df + k)

    def error(k: int) -> tuple[float, float]:
        """Standard error and degrees of freedom with k seeds more."""
        if spread_c is None:
            return math.sqrt(spread_t.variance / (counts.same + k)), grown(spread_t, counts.same, k).df
        more = Counts(counts.same + k, counts.t_only, counts.c_only)
        sides = grown(spread_t, len(arm.treatment), k), grown(spread_c, len(arm.control), k)
        se = math.sqrt(contrast_variance(more, s.rho, spread_t.variance, spread_c.variance))
        return se, contrast_df(more, s.rho, *sides)

    def shown(k: int, level: float | None) -> bool:
        se, df = error(k)
        df = planning_df(df)
        if not df > 0:
            return False
        if level is None:
            bound = anytime.t_bound(se, s.inputs.tau or s.inputs.delta, alpha, df)
            if s.inputs.delta <= se * bound and policy.power > 0.6:
                return False  # an effect no larger than what has to be observed is seen half of the time
            level = float(t_two_sided(bound, df)) if math.isfinite(bound) else 0.0
        return 0 < level < 1 and power(s.inputs.delta / se, df, level) >= policy.power

    if s.mode == "looks" and arm.look is not None:
        have = s.inputs.looks[arm.look - 1]
        plan = sequential.boundaries(look_information(s.inputs, len(s.cells.bank), s.rho), alpha, policy.spending)
        for size, boundary in zip(s.inputs.looks[arm.look :], plan[arm.look :], strict=True):
            if shown(size - have, boundary.nominal_p):
                return size - have
    return seeds_needed(lambda k: shown(k, None))

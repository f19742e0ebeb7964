"""What a rule says: one judgement of an experiment, with a finding for each treatment.

Every figure of a finding's sentence is a field of it. None means that the figure does not exist for
these data or this rule, or that it is unbounded.
"""

from __future__ import annotations

import math
from typing import Any, Literal

import msgspec

from projections.statistics.failures import Condition
from projections.statistics.inputs import Track
from projections.statistics.numeric import digits

VerdictName = Literal["better", "worse", "no_effect_that_matters", "undecided", "invalid"]


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """What is said of one treatment. Effects are treatment minus control, in the metric's unit."""

    arm: str
    track: Track
    verdict: VerdictName
    why: str
    label: str = ""  # the rule's own word; for the ledger's rule what a reader of the seed plan would call it
    beyond_delta: bool = False  # the whole 95 % interval lies beyond delta
    small: bool = False  # real, and the 90 % interval lies within delta
    candidate: bool = False  # the explore track suggests to confirm it with fresh seeds
    condition: Condition = "complete"
    defect: str = ""  # why these runs can carry no claim
    look: int | None = None  # planned look that it was judged at; None for one that was not planned
    # what there was
    n_t: int = 0
    n_c: int = 0
    n_pairs: int = 0
    planned: int = 0
    lost: int = 0  # planned seeds of the treatment whose every try failed
    pending: int = 0  # planned seeds of treatment or control that have not run
    failures_t: int = 0
    failures_c: int = 0
    attempts_t: int = 0
    attempts_c: int = 0
    early: int = 0  # seeds that ran before the plan
    tuning: int = 0  # seeds used for tuning
    # the estimate
    variance: str = ""  # moderated, pooled or own
    sd_t: float | None = None
    sd_c: float | None = None
    sd: float | None = None  # of the difference of two runs of one seed
    b: float | None = None  # weight of the controls that share seeds
    effect: float | None = None
    se: float | None = None
    df: float | None = None
    ci95_lo: float | None = None
    ci95_hi: float | None = None
    ci90_lo: float | None = None
    ci90_hi: float | None = None
    # tests
    t: float | None = None
    p: float | None = None
    p_adj: float | None = None
    p_bound: float | None = None  # nominal p that this planned look has to undercut
    p_tost: float | None = None
    p_beyond: float | None = None  # one-sided, that the effect is larger than delta
    e_value: float | None = None
    cs_lo: float | None = None
    cs_hi: float | None = None
    p_crash: float | None = None  # Fisher, two-sided
    p_crash_mid: float | None = None
    # planning and ranking
    mde80: float | None = None
    k_more_seeds: int | None = None
    post_mean: float | None = None
    post_sd: float | None = None
    lfsr: float | None = None
    p_negative: float | None = None
    p_in_rope: float | None = None
    # other rules
    statistic: float | None = None
    threshold: float | None = None
    reference: float | None = None  # value or margin tested against
    boot_lo: float | None = None
    boot_hi: float | None = None


class Judgement(msgspec.Struct, frozen=True, kw_only=True):
    """What one rule says of one experiment, in the order of its arms' names."""

    experiment: str
    metric: str
    policy: str
    policy_digest: str
    alpha: float  # for the family, after cycles
    delta: float
    family_size: int
    findings: tuple[Finding, ...]
    mode: Literal["fixed", "looks", "anytime"] = "fixed"
    look: int | None = None
    information: float | None = None  # share of the final information at this look
    alpha_spent: float | None = None  # of one hypothesis' share, up to this look
    d0: float | None = None
    d0_fitted: float | None = None  # None with d0 given: infinite
    s0: float | None = None
    cap_used: bool = False
    prior_arms: int = 0
    floored: int = 0
    rho: float | None = None  # same-seed correlation that was used
    rho_hat: float | None = None
    n_control: int = 0
    n_bank: int = 0
    drift_p_slope: float | None = None
    drift_p_blocks: float | None = None
    drift_flagged: bool = False


def rounded(fields: dict[str, Any]) -> dict[str, Any]:
    """Floats with 12 significant digits; None for what is unbounded or not a number."""
    return {
        name: (digits(value) if math.isfinite(value) else None) if type(value) is float else value
        for name, value in fields.items()
    }

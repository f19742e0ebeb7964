"""Decision rules as data: what each asks for, with its version and digest.

A policy is never edited: a change is a new version. Sources: the ledger's own rule is this package's;
the seed plan is the published pull request 877 of parameter-golf; parameter-golf's README asks for
0.005 nats at p < .01, and its later leaderboard was ordered by a one-sided Welch p < .25 (pull request
1902); modded-nanogpt's track 1 asks for a mean below 3.28 at p < .01, its track 3 for
(3.28 - mean) sqrt(n) >= .004.
"""

from __future__ import annotations

import difflib
import functools
from hashlib import sha256
from typing import Literal

import msgspec

from ledger.errors import UsageError

Procedure = Literal["moderated", "paired_gate", "welch_margin", "welch", "one_sample", "known_sd", "paired_pooled"]


class Policy(msgspec.Struct, frozen=True, kw_only=True):
    """One rule. Which parameters count depends on the procedure; the others keep their defaults."""

    name: str
    version: int
    procedure: Procedure
    about: str
    alpha: float | None = None  # None: the plan's
    # moderated
    d0_cap: float = 20.0
    fewest_variances: int = 5
    spending: Literal["pocock", "obf"] = "pocock"
    explore_q: float = 0.10
    power: float = 0.80
    # gates and targets
    gate: float | None = None  # smallest observed effect, in the metric's unit
    margin_nats: float | None = None  # improvement that has to be shown, in nats
    target: float | None = None  # value to be undercut
    metric: str | None = None  # metric that the target is in
    sd: float | None = None  # known standard deviation of one run
    threshold: float | None = None  # of the statistic
    resamples: int = 10_000
    bootstrap_seed: int = 42

    @property
    def id(self) -> str:
        """Name and version, as judgements record them."""
        return f"{self.name}/{self.version}"


# The first rule of this ledger, kept so that plans registered with it are judged by it and its decisions replay. It
# works on the table of pairs (projections/estimates.py), not on the inputs of this package.
FOUNDING = Policy(
    name="paired-pooled",
    version=1,
    procedure="paired_pooled",
    about="Paired differences with the variance pooled over the plan's arms; alpha split over looks.",
)

POLICIES = (
    Policy(
        name="ledger",
        version=1,
        procedure="moderated",
        about="Moderated variance, shared controls, Holm or planned looks, five verdicts.",
    ),
    Policy(
        name="seed-plan",
        version=1,
        procedure="paired_gate",
        about="Paired t test, bootstrap interval, Holm, gate at 0.002: confirmed, suggestive or null.",
        alpha=0.01,
        gate=0.002,
    ),
    Policy(
        name="parameter-golf-readme",
        version=1,
        procedure="welch_margin",
        about="Better than the record by at least 0.005 nats at p < .01 (one-sided Welch).",
        alpha=0.01,
        margin_nats=0.005,
    ),
    Policy(
        name="parameter-golf-leaderboard",
        version=1,
        procedure="welch",
        about="One-sided Welch p < .25 against the record.",
        alpha=0.25,
    ),
    Policy(
        name="modded-nanogpt-track1",
        version=1,
        procedure="one_sample",
        about="Mean validation loss below 3.28 at p < .01 (one-sided one-sample t).",
        alpha=0.01,
        target=3.28,
        metric="val_loss",
    ),
    Policy(
        name="modded-nanogpt-track3",
        version=1,
        procedure="known_sd",
        about="(3.28 - mean) sqrt(n) >= 0.004, with a known standard deviation of 0.0013.",
        target=3.28,
        metric="val_loss",
        sd=0.0013,
        threshold=0.004,
    ),
)


def of_plan(name: str | None) -> Policy:
    """The policy that a plan registered. A plan from before there were policies, and one that names none that is
    known, has the ledger's own."""
    try:
        return find(name or "")
    except UsageError:
        return find("ledger")


def of_plan_sql(column: str) -> str:
    """The same in SQL: the id of the policy of the plan whose `policy` is in this column."""
    ids = ", ".join(f"'{policy.id}'" for policy in (*POLICIES, FOUNDING))
    names = " ".join(f"WHEN '{policy.name}' THEN '{find(policy.name).id}'" for policy in (*POLICIES, FOUNDING))
    return (
        f"CASE WHEN {column} IN ({ids}) THEN {column} ELSE CASE {column} {names} ELSE '{find('ledger').id}' END END"
    )


@functools.cache
def digest(policy: Policy) -> str:
    """Digest of everything a policy says, so that a judgement names the rule that it followed."""
    return sha256(msgspec.json.encode(policy, order="sorted")).hexdigest()[:16]


def find(name: str) -> Policy:
    """The policy of this name or name/version; without a version the newest. Raises UsageError with the names."""
    every = (*POLICIES, FOUNDING)
    found = [policy for policy in every if name in (policy.name, policy.id)]
    if not found:
        known = sorted(policy.id for policy in every)
        close = difflib.get_close_matches(name, [*known, *(policy.name for policy in every)], 1)
        hint = f"did you mean {close[0]!r}?" if close else f"there are {', '.join(known)}"
        raise UsageError(f"no policy {name!r}; {hint}")
    return max(found, key=lambda policy: policy.version)

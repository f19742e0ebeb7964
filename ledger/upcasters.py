"""From the data of an older version of an event to those of the next one: pure functions on plain data.

An event is never rewritten; it is read through these. They add what the newer shape asks for and the older one did
not say, empty, and never a value that was not there.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256
from typing import Any

MOST_USED = 500  # ids of evidence that stand in a judgement; the digest covers all

# What version 1 of decision.made did not have. Nothing of it is compared when a judgement of version 1 is made again.
_EMPTY = (
    "cycle", "alpha_spent", "information", "d0", "d0_fitted", "s0", "rho", "rho_hat", "b", "sd_t", "sd_c", "boot_lo",
    "boot_hi", "p_bound", "e_value", "cs_lo", "cs_hi", "statistic", "threshold", "reference", "p_crash",
    "p_crash_mid", "drift_p_slope", "drift_p_blocks", "mde80", "post_mean", "post_sd", "lfsr", "p_negative",
    "p_in_rope",
)  # fmt: skip
_ZERO = ("n_bank", "planned", "lost", "attempts_t", "attempts_c", "early", "tuning", "prior_arms")
_SAID = {"policy_digest": "", "track": "confirm", "mode": "fixed", "condition": "complete", "label": "", "defect": ""}
DECISION_ADDED_IN_2 = frozenset((*_EMPTY, *_ZERO, *_SAID, "candidate", "used_count", "used_digest"))


def decision_1(data: dict[str, Any]) -> dict[str, Any]:
    """decision.made of version 1, which had the founding rule alone, as version 2."""
    used = data["used"]
    counted = {"used_count": len(used), "used_digest": used_digest(used), "candidate": False}
    return {**data, **dict.fromkeys(_EMPTY), **dict.fromkeys(_ZERO, 0), **_SAID, **counted}


def used_digest(ids: Sequence[str]) -> str:
    """Digest of the ids of evidence, a line each."""
    return sha256("".join(f"{one}\n" for one in ids).encode()).hexdigest()[:16]

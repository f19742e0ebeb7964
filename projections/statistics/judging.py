"""Judge experiments by a policy: the way into this package."""

from __future__ import annotations

from collections.abc import Sequence

from ledger.errors import UsageError
from projections.statistics.inputs import Inputs, check
from projections.statistics.judgement import Judgement
from projections.statistics.other_rules import judge_other
from projections.statistics.own_rule import judge_own
from projections.statistics.policies import Policy


def judge(policy: Policy, inputs: Inputs) -> Judgement:
    """What a policy says of one experiment. A pure function; the order of runs does not matter.

    Raises UsageError with one line for input that no rule could judge, for an experiment none of whose
    runs has ended, and for a policy that needs what the runs lack.
    """
    return judge_all(policy, [inputs])[0]


def judge_all(policy: Policy, many: Sequence[Inputs], *, unrun: bool = False) -> list[Judgement]:
    """The same for many experiments, each judged as if alone, much faster than one by one.

    `unrun` also judges experiments none of whose runs has ended: they are undecided.
    """
    if policy.procedure == "paired_pooled":
        raise UsageError(f"policy {policy.id} judges the table of pairs, not these inputs")
    for inputs in many:
        check(inputs)
        if not inputs.runs and not unrun:
            raise UsageError(f"experiment {inputs.experiment}: no run has ended yet; expected a finished pair")
    if policy.procedure == "moderated":
        return judge_own(policy, many)
    return [judge_other(policy, inputs) for inputs in many]

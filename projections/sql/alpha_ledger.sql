-- One row a hypothesis that a plan registered to confirm, in the order of registration: what it may spend of alpha, and
-- what the whole log has granted up to it.
-- kind: table
-- key: number
-- scope: track
-- columns:
--   track: confirm: what explores claims nothing and spends nothing
--   number: its place in the log
--   experiment: id of the experiment
--   name: the plan's name
--   family: hypotheses that share one multiplicity correction; cycles of one family share one alpha
--   cycle: number of the plan among the cycles of its family, null where it is alone
--   intervention: name of the treatment arm
--   registered_position: position of the plan's first registration
--   alpha_granted: family-wise error rate of the plan; of cycle c alpha / (c (c + 1))
--   alpha_spent: of it what was looked at up to now: all, or what planned looks have spent
--   alpha_left: the rest
--   granted_total: sum over all plans up to this one: bounds the probability of any false claim in the log so far
--   p: p-value, two-sided
--   e_value: evidence against no effect that stays valid at any look
--   verdict: what its plan's policy says now
--   lord_level: what LORD++ would grant it, were the whole log one stream at 0.05; it decides nothing
--   lord_rejects: whether p is within that
SELECT
    track,
    number,
    experiment,
    name,
    family,
    cycle,
    intervention,
    registered_position,
    alpha_granted,
    alpha_spent,
    alpha_left,
    granted_total,
    p,
    e_value,
    verdict,
    lord_level,
    lord_rejects
FROM streamed
ORDER BY number

-- One row a decision: a judgement on one hypothesis, with the head that it read and every figure it used.
-- kind: view
-- key: position
-- columns:
--   experiment: id of the experiment
--   intervention: name of the treatment arm
--   verdict: better, worse, no_effect_that_matters, undecided or invalid
--   beyond_delta: whether the whole 95 % interval lies beyond delta
--   small: whether a real effect lies within +-delta
--   why: the verdict in one sentence, whose numbers are all in this row
--   effect: mean of the paired differences (treatment minus control)
--   ci95_lo: lower end of the 95 % interval
--   ci95_hi: upper end of the 95 % interval
--   ci90_lo: lower end of the 90 % interval
--   ci90_hi: upper end of the 90 % interval
--   sd: standard deviation of one paired difference
--   se: standard error of the effect
--   df: degrees of freedom
--   t: effect / se
--   p: two-sided p-value
--   p_adj: p after Holm's correction
--   p_tost: p-value of the equivalence test
--   p_beyond: p-value, one-sided, that the effect is larger than delta
--   n_t: treatment runs
--   n_c: control runs
--   n_pairs: pairs
--   failed: planned pairs that did not count
--   pending: of them those that had not run yet
--   failures_t: runs of the treatment that failed, also those that were run again
--   failures_c: runs of the control that failed
--   variance: pooled over the plan's arms, or the arm's own
--   k_more_seeds: further seeds needed
--   alpha: family-wise error rate
--   look: 1, and one more for every time that seeds were added
--   alpha_look: what this look could spend of alpha
--   delta: smallest effect that matters
--   direction: lower or higher is better
--   family_size: hypotheses in the family
--   policy: decision rule
--   engine_version: name and version of the procedure
--   code: digest of the code that judged
--   head_position: how many events it read
--   head_root: Merkle root of those events
--   latest: whether it is the newest decision on this hypothesis by this policy
--   recorded_at: when it was made
--   position: position of the event
--   event_id: id of the event
SELECT
    decision.experiment,
    decision.intervention,
    decision.verdict,
    decision.beyond_delta,
    decision.small,
    decision.why,
    decision.effect,
    decision.ci95_lo,
    decision.ci95_hi,
    decision.ci90_lo,
    decision.ci90_hi,
    decision.sd,
    decision.se,
    decision.df,
    decision.t,
    decision.p,
    decision.p_adj,
    decision.p_tost,
    decision.p_beyond,
    decision.n_t,
    decision.n_c,
    decision.n_pairs,
    decision.failed,
    decision.pending,
    decision.failures_t,
    decision.failures_c,
    decision.variance,
    decision.k_more_seeds,
    decision.alpha,
    decision.look,
    decision.alpha_look,
    decision.delta,
    decision.direction,
    decision.family_size,
    decision.policy,
    decision.engine AS engine_version,
    decision.code,
    decision.head.position AS head_position,
    decision.head.root AS head_root,
    row_number() OVER (
        PARTITION BY decision.experiment, decision.intervention, decision.policy
        ORDER BY decision.position DESC
    ) = 1 AS latest,
    decision.recorded_at,
    decision.position,
    decision.event_id
FROM facts.decision_made AS decision
ORDER BY decision.position

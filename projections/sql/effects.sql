-- One row a hypothesis: the estimated effect of an intervention against its control, as the runs are now.
-- It is an estimate, not a judgement: `decisions` holds what was decided, and on which head.
-- kind: table
-- key: experiment, intervention
-- scope: experiment
-- columns:
--   experiment: id of the experiment
--   intervention: name of the treatment arm
--   base: fingerprint of what is the same in all arms
--   metric: name of the metric
--   engine: name and version of the estimator
--   n_t: treatment runs that are ok
--   n_c: control runs that are ok
--   n_pairs: seeds with both
--   failed: planned pairs that do not count
--   pending: of them those that have not run yet
--   failures_t: runs of the treatment that failed, also those that were run again
--   failures_c: runs of the control that failed
--   variance: pooled over the plan's arms, or the arm's own where it is the noisier one
--   effect: mean of the paired differences (treatment minus control)
--   sd: standard deviation of one paired difference
--   se: standard error of the effect
--   df: degrees of freedom of that variance
--   t: effect / se
--   p: two-sided p-value
--   p_adj: p after Holm's correction over the plan's hypotheses
--   ci95_lo: lower end of the 95 % interval
--   ci95_hi: upper end of the 95 % interval
--   ci90_lo: lower end of the 90 % interval, which answers the equivalence test
--   ci90_hi: upper end of the 90 % interval
--   p_tost: p-value of two one-sided tests that the effect lies within +-delta
--   p_beyond: p-value, one-sided, that the effect is larger than delta
--   mde80: smallest effect that this many pairs would show with 80 % power after correction
--   k_more_seeds: further seeds until an effect of delta would be shown with 80 % power
--   defect: why no estimate may be trusted, empty when it may
SELECT
    estimate.experiment,
    estimate.intervention,
    experiments.base,
    experiments.metric,
    estimate.engine,
    estimate.n_t,
    estimate.n_c,
    estimate.n_pairs,
    estimate.failed,
    estimate.pending,
    estimate.failures_t,
    estimate.failures_c,
    estimate.variance,
    estimate.effect,
    estimate.sd,
    estimate.se,
    estimate.df,
    estimate.t,
    estimate.p,
    estimate.p_adj,
    estimate.ci95_lo,
    estimate.ci95_hi,
    estimate.ci90_lo,
    estimate.ci90_hi,
    estimate.p_tost,
    estimate.p_beyond,
    estimate.mde80,
    estimate.k_more_seeds,
    estimate.defect
FROM estimates AS estimate
INNER JOIN experiments ON experiments.experiment = estimate.experiment
ORDER BY estimate.experiment, estimate.intervention

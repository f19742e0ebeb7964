-- One row a hypothesis: the effect of an intervention against its control, and what its plan's policy says of it,
-- as the runs are now. `decisions` holds what was said, when, and on which head.
-- kind: table
-- key: experiment, intervention
-- scope: experiment
-- columns:
--   experiment: id of the experiment
--   intervention: name of the treatment arm
--   base: fingerprint of what is the same in all arms
--   metric: name of the metric
--   noise_class: platform, scale, metric and stage
--   policy: decision rule, name and version
--   policy_digest: digest of all that the rule says
--   engine: name and version of the procedure
--   track: confirm, or explore: what explores is a suggestion, never a claim
--   mode: fixed (one look, Holm), looks (as planned) or anytime (e-values, for looks that were not planned)
--   alpha: family-wise error rate of the plan
--   cycle: number of the plan among those that share alpha
--   look: number of the look; by paired-pooled one more for every time that seeds were added; null for a look that was not planned
--   alpha_look: what this look could spend of alpha; of planned looks those up to this one
--   alpha_spent: of one hypothesis' share of alpha what planned looks up to this one have spent
--   information: share of the final information at this planned look
--   delta: smallest effect that matters
--   direction: lower or higher is better
--   family_size: hypotheses in the family
--   n_t: treatment runs that count
--   n_c: control runs that count, shared ones included
--   n_pairs: seeds with both
--   n_bank: control runs of other experiments on the same base among n_c
--   planned: seeds of the treatment that were planned and have an outcome
--   lost: of them those whose every try failed
--   failed: planned pairs that do not count
--   pending: planned runs of treatment and control (by paired-pooled: pairs) that have not run yet
--   failures_t: runs of the treatment that failed, also those that were run again
--   failures_c: runs of the control that failed
--   attempts_t: runs of the treatment
--   attempts_c: runs of the control
--   early: seeds of the treatment that ran before their plan
--   tuning: seeds of the treatment that served to choose something
--   condition: complete, reduced_power (1 of 3 seeds failed) or failed (2 of 3)
--   variance: moderated (with the noise class), pooled over the plan's arms, or the arm's own
--   d0: degrees of freedom that each variance borrows from the noise class
--   d0_fitted: the same before the cap; null beside a d0 is infinite
--   s0: standard deviation of one run as the noise class has it
--   prior_arms: variances behind it
--   rho: same-seed correlation that was used: 1 for forks, a lower bound for reruns, else 0
--   rho_hat: the same as estimated
--   b: weight of the controls that share seeds
--   sd_t: standard deviation of one treatment run
--   sd_c: standard deviation of one control run
--   effect: treatment minus control
--   sd: standard deviation of the difference of two runs of one seed
--   se: standard error of the effect
--   df: its degrees of freedom
--   ci95_lo: lower end of the 95 % interval; of a repeated interval or confidence sequence by the mode
--   ci95_hi: upper end of it
--   ci90_lo: lower end of the 90 % interval, which answers the equivalence test
--   ci90_hi: upper end of it
--   boot_lo: lower end of a bootstrap interval, where the policy asks for one
--   boot_hi: upper end of it
--   t: effect / se
--   p: p-value, two-sided (of policies with a one-sided test one-sided)
--   p_adj: p after correction: Holm, of e-values 1/e, on the explore track Benjamini-Hochberg's q
--   p_bound: nominal p that this planned look has to undercut
--   p_tost: p-value of two one-sided tests that the effect lies within +-delta
--   p_beyond: p-value, one-sided, that the effect is larger than delta
--   e_value: evidence against no effect that stays valid at any look
--   cs_lo: lower end of the 95 % confidence sequence, valid at any look
--   cs_hi: upper end of it
--   statistic: of a policy that compares one with a threshold
--   threshold: that threshold
--   reference: value, margin or gate that the policy compares with
--   p_crash: Fisher's exact p that the arms crash equally often
--   p_crash_mid: the same as mid-p
--   drift_p_slope: p-value that the controls do not drift over time
--   drift_p_blocks: p-value that the controls do not differ between machine sessions
--   mde80: smallest effect that this many runs show with 80 % power after correction
--   k_more_seeds: further seeds until an effect of delta would be shown with 80 % power
--   post_mean: effect shrunk towards the others of its experiment: for ranking, never for calling it zero
--   post_sd: its standard deviation
--   lfsr: probability that its sign is wrong
--   p_negative: probability that it is below 0
--   p_in_rope: probability that it lies within +-delta
--   verdict: better, worse, no_effect_that_matters, undecided or invalid
--   label: the rule's own word; for the ledger's rule what the seed plan calls it: confirmed, suggestive or null
--   candidate: whether the explore track suggests to confirm it with fresh seeds
--   beyond_delta: whether the whole 95 % interval lies beyond delta
--   small: whether a real effect lies within +-delta
--   defect: why these runs can carry no claim, empty when they can
--   why: the verdict in one sentence, whose numbers are all in this row
SELECT
    estimate.experiment,
    estimate.intervention,
    experiments.base,
    experiments.metric,
    experiments.noise_class,
    estimate.policy,
    estimate.policy_digest,
    estimate.engine,
    estimate.track,
    estimate.mode,
    estimate.alpha,
    estimate.cycle,
    estimate.look,
    estimate.alpha_look,
    estimate.alpha_spent,
    estimate.information,
    estimate.delta,
    estimate.direction,
    estimate.family_size,
    estimate.n_t,
    estimate.n_c,
    estimate.n_pairs,
    estimate.n_bank,
    estimate.planned,
    estimate.lost,
    estimate.failed,
    estimate.pending,
    estimate.failures_t,
    estimate.failures_c,
    estimate.attempts_t,
    estimate.attempts_c,
    estimate.early,
    estimate.tuning,
    estimate.condition,
    estimate.variance,
    estimate.d0,
    estimate.d0_fitted,
    estimate.s0,
    estimate.prior_arms,
    estimate.rho,
    estimate.rho_hat,
    estimate.b,
    estimate.sd_t,
    estimate.sd_c,
    estimate.effect,
    estimate.sd,
    estimate.se,
    estimate.df,
    estimate.ci95_lo,
    estimate.ci95_hi,
    estimate.ci90_lo,
    estimate.ci90_hi,
    estimate.boot_lo,
    estimate.boot_hi,
    estimate.t,
    estimate.p,
    estimate.p_adj,
    estimate.p_bound,
    estimate.p_tost,
    estimate.p_beyond,
    estimate.e_value,
    estimate.cs_lo,
    estimate.cs_hi,
    estimate.statistic,
    estimate.threshold,
    estimate.reference,
    estimate.p_crash,
    estimate.p_crash_mid,
    estimate.drift_p_slope,
    estimate.drift_p_blocks,
    estimate.mde80,
    estimate.k_more_seeds,
    estimate.post_mean,
    estimate.post_sd,
    estimate.lfsr,
    estimate.p_negative,
    estimate.p_in_rope,
    estimate.verdict,
    estimate.label,
    estimate.candidate,
    estimate.beyond_delta,
    estimate.small,
    estimate.defect,
    estimate.why
FROM estimates AS estimate
INNER JOIN experiments ON experiments.experiment = estimate.experiment
ORDER BY estimate.experiment, estimate.intervention

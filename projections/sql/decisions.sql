-- One row a decision: a judgement on one hypothesis, with the head that it read and every figure it used.
-- kind: view
-- key: position
-- columns:
--   experiment: id of the experiment
--   intervention: name of the treatment arm
--   verdict: better, worse, no_effect_that_matters, undecided or invalid
--   label: the rule's own word; for the ledger's rule what the seed plan calls it: confirmed, suggestive or null
--   beyond_delta: whether the whole 95 % interval lies beyond delta
--   small: whether a real effect lies within +-delta
--   why: the verdict in one sentence, whose numbers are all in this row
--   policy: decision rule, name and version
--   policy_digest: digest of all that the rule says
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
--   candidate: whether the explore track suggests to confirm it with fresh seeds
--   defect: why these runs can carry no claim, empty when they can
--   engine_version: name and version of the procedure
--   code: digest of the code that judged
--   registered: whether the policy is the one that the experiment's plan registered
--   used_count: outcomes behind the figures
--   used_digest: digest of their ids
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
    decision.label,
    decision.beyond_delta,
    decision.small,
    decision.why,
    decision.policy,
    decision.policy_digest,
    decision.track,
    decision.mode,
    decision.alpha,
    decision.cycle,
    decision.look,
    decision.alpha_look,
    decision.alpha_spent,
    decision.information,
    decision.delta,
    decision.direction,
    decision.family_size,
    decision.n_t,
    decision.n_c,
    decision.n_pairs,
    decision.n_bank,
    decision.planned,
    decision.lost,
    decision.failed,
    decision.pending,
    decision.failures_t,
    decision.failures_c,
    decision.attempts_t,
    decision.attempts_c,
    decision.early,
    decision.tuning,
    decision.condition,
    decision.variance,
    decision.d0,
    decision.d0_fitted,
    decision.s0,
    decision.prior_arms,
    decision.rho,
    decision.rho_hat,
    decision.b,
    decision.sd_t,
    decision.sd_c,
    decision.effect,
    decision.sd,
    decision.se,
    decision.df,
    decision.ci95_lo,
    decision.ci95_hi,
    decision.ci90_lo,
    decision.ci90_hi,
    decision.boot_lo,
    decision.boot_hi,
    decision.t,
    decision.p,
    decision.p_adj,
    decision.p_bound,
    decision.p_tost,
    decision.p_beyond,
    decision.e_value,
    decision.cs_lo,
    decision.cs_hi,
    decision.statistic,
    decision.threshold,
    decision.reference,
    decision.p_crash,
    decision.p_crash_mid,
    decision.drift_p_slope,
    decision.drift_p_blocks,
    decision.mde80,
    decision.k_more_seeds,
    decision.post_mean,
    decision.post_sd,
    decision.lfsr,
    decision.p_negative,
    decision.p_in_rope,
    decision.candidate,
    decision.defect,
    decision.engine AS engine_version,
    decision.code,
    coalesce(decision.policy = judged.policy, false) AS registered,
    decision.used_count,
    decision.used_digest,
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
LEFT JOIN effects AS judged
    ON judged.experiment = decision.experiment AND judged.intervention = decision.intervention
ORDER BY decision.position

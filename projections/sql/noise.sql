-- One row a noise class and unit: what all its arms say together about the noise of one run, and whether its controls stay put.
-- kind: table
-- key: noise_class, unit
-- scope: noise_class
-- columns:
--   noise_class: platform, scale, metric and stage
--   unit: run, or fork: the difference of two runs that continue one checkpoint, which varies by far less
--   arms: arms of two seeds or more behind it, at most the 200 newest (noise_arms has each)
--   runs: their runs
--   df: their degrees of freedom
--   sd: standard deviation of one run over seeds, pooled over them
--   d0: degrees of freedom that each variance borrows, at most 20; null where there are fewer than 5 arms
--   d0_fitted: the same before the cap; null beside a d0 is infinite (the arms' variances do not differ)
--   s0: standard deviation of one run as the prior has it
--   cap_used: whether the cap was needed
--   floored: variances too small for a logarithm, raised to the floor
--   rho_hat: correlation of two runs of one seed, in the newest 64 experiments
--   rho_lo: its lower 90 % bound, which is what pairs of the tier rerun may use
--   rho_df: degrees of freedom behind it
--   n_control: control runs in those experiments, one a seed and base
--   bases: bases and controls that they belong to
--   drift_p: smallest p-value of all tests that a base's controls do not drift (slope, machine sessions), times their number
--   drift_base: the base that it is of
--   drifting: bases with a p below 0.01
SELECT
    noise_class,
    unit,
    arms,
    runs,
    df,
    sd,
    d0,
    d0_fitted,
    s0,
    cap_used,
    floored,
    rho_hat,
    rho_lo,
    rho_df,
    n_control,
    bases,
    drift_p,
    drift_base,
    drifting
FROM noises
ORDER BY noise_class, unit

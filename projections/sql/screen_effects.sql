-- One row a factor of a screen: its average effect over the stacks of the screen. It is not the effect of the change
-- on the base, where changes interact: it suggests, and one change at a time confirms.
-- kind: table
-- key: experiment, factor
-- scope: experiment
-- columns:
--   experiment: id of the screen
--   factor: name of the factor
--   number: its place in the plan, from 0
--   low: what its low level sets, as JSON
--   high: what its high level sets, as JSON
--   effect: average effect, high minus low
--   se: its standard error
--   df: degrees of freedom of that
--   t: effect / se
--   p: two-sided p-value
--   q: p after Benjamini and Hochberg over the screen's factors
--   ci95_lo: lower end of the 95 % interval
--   ci95_hi: upper end of the 95 % interval
--   candidate: whether it is worth confirming by itself with fresh seeds (q at most 0.10, no run missing)
--   sd: standard deviation of one run, as the errors use it
--   noise: what that was taken from: pure (no interaction of two factors reaches it) or all
--   p_interactions: p-value that no two factors interact, null where nothing tells
--   runs: runs that ended with a value
--   missing: planned runs without one
--   defect: why nothing can be estimated, empty when it can
SELECT
    effect.experiment,
    effect.factor,
    effect.number,
    effect.low,
    effect.high,
    effect.effect,
    effect.se,
    effect.df,
    effect.t,
    effect.p,
    effect.q,
    effect.ci95_lo,
    effect.ci95_hi,
    effect.candidate,
    effect.sd,
    effect.noise,
    effect.p_interactions,
    effect.runs,
    effect.missing,
    effect.defect
FROM screened AS effect
INNER JOIN experiments ON experiments.experiment = effect.experiment
ORDER BY effect.experiment, effect.factor

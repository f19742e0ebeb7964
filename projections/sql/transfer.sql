-- One row a proxy and the target that it may stand for: the slope from effects on one to effects on the other.
-- Two platforms or scales are compared on changes that both measured; other losses of the same runs are proxies of the
-- metric that decides. Errors in both are taken in, and below three shared changes there is no slope.
-- kind: table
-- key: proxy, target
-- scope: proxy, target
-- columns:
--   proxy: noise class (platform, scale, metric, stage) that is cheaper, or another metric of the same runs
--   target: noise class that counts
--   metric: the target's metric
--   same_runs: whether both were measured on the same runs
--   k: changes that were measured on both, at most the 200 newest
--   b: posterior mean of the slope, target per proxy
--   lo: lower end of its 90 % interval
--   hi: upper end of its 90 % interval
--   p_pos: probability that it is above 0
--   reliability: share of the variance of the proxy's effects that is not noise
--   sign_agree: share of changes with the same sign on both
--   sign_lo: lower end of its 95 % interval (Wilson)
--   sign_hi: upper end of its 95 % interval
--   delta: smallest effect that matters on the target, the scale of the prior
--   noise: variance of one run on the target
SELECT
    pair.proxy,
    pair.target,
    pair.metric,
    pair.same_runs,
    pair.k,
    pair.b,
    pair.lo,
    pair.hi,
    pair.p_pos,
    pair.reliability,
    pair.sign_agree,
    pair.sign_lo,
    pair.sign_hi,
    pair.delta,
    pair.noise
FROM transferred AS pair
ORDER BY pair.proxy, pair.target

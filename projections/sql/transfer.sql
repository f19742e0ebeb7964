-- One row a pair of noise classes with three interventions or more measured in both: does an effect on the proxy tell
-- the effect on the target? Regression with errors in both, so that the proxy's noise does not flatten the slope.
-- kind: table
-- key: target, proxy
-- scope: target
-- columns:
--   target: noise class that one wants to know of
--   proxy: noise class that is cheaper to measure
--   k: interventions measured in both
--   b: slope from proxy to target, posterior mean
--   lo: lower end of its 90 % interval
--   hi: upper end of it
--   p_pos: probability that the slope is positive
--   reliability: share of the proxy's variance that is effect and not noise
--   sign_agree: share of interventions with one sign in both
--   sign_lo: lower end of its 95 % interval (Wilson)
--   sign_hi: upper end of it
SELECT target, proxy, k, b, lo, hi, p_pos, reliability, sign_agree, sign_lo, sign_hi
FROM transferred
WHERE intervention IS NULL
ORDER BY target, proxy

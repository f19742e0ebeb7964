-- One row an intervention that only a proxy has measured: what that says of its effect on the target.
-- kind: table
-- key: target, proxy, intervention
-- scope: target
-- columns:
--   target: noise class that one wants to know of
--   proxy: noise class that has measured it
--   intervention: name of the treatment arm
--   k: interventions measured in both, which the prediction rests on
--   effect: effect on the proxy
--   se: its standard error
--   pred: predicted effect on the target
--   sd: standard deviation of the prediction
SELECT target, proxy, intervention, k, effect, se, pred, sd
FROM transferred
WHERE intervention IS NOT NULL
ORDER BY target, proxy, intervention

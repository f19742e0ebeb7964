-- One row a change that a proxy has measured and its target has not: what the proxy foresees.
-- kind: table
-- key: proxy, target, intervention
-- scope: proxy, target
-- columns:
--   proxy: noise class that measured it
--   target: noise class that did not
--   intervention: its newest name on the proxy
--   x: its effect on the proxy
--   sx: standard error of that
--   pred: mean of what is foreseen on the target
--   sd: its standard deviation; without three shared changes by the prior alone (slope 0.5 with sd 1)
--   experiment: an experiment on the proxy that has it
SELECT
    prediction.proxy,
    prediction.target,
    prediction.intervention,
    prediction.x,
    prediction.sx,
    prediction.pred,
    prediction.sd,
    prediction.experiment
FROM foreseen AS prediction
QUALIFY row_number() OVER (
    PARTITION BY prediction.proxy, prediction.target, prediction.intervention
    ORDER BY prediction.sd, prediction.x
) = 1
ORDER BY prediction.proxy, prediction.target, prediction.intervention

-- One row an arm of an experiment: how often its runs failed, and whether that differs from the control.
-- A crash is an outcome. To leave failed seeds out by arm would be a selection, so the rates are told beside every effect.
-- kind: view
-- key: experiment, arm
-- columns:
--   experiment: id of the experiment
--   arm: name of the arm
--   is_control: whether it is the control
--   attempts: runs that have an outcome, repeated ones included
--   ok: of them those that gave a value
--   failed: of them those that did not
--   crash: exit code or signal
--   diverged: no finite value
--   timeout: longer than the plan allows
--   oom: out of memory
--   no_metric: ended without telling the metric
--   rate: failed / attempts
--   p_crash: Fisher's exact p, two-sided, that treatment and control fail equally often; null for the control
--   p_crash_mid: the same as mid-p, which is less careful
--   condition: complete, reduced_power or failed, as the judgement names it; null for the control
WITH counted AS (
    SELECT
        experiment,
        arm,
        count(*) AS attempts,
        count(*) FILTER (status = 'ok' AND isfinite(value)) AS ok,
        count(*) FILTER (status = 'crash') AS crash,
        count(*) FILTER (status = 'diverged' OR (status = 'ok' AND NOT coalesce(isfinite(value), false))) AS diverged,
        count(*) FILTER (status = 'timeout') AS timeout,
        count(*) FILTER (status = 'oom') AS oom,
        count(*) FILTER (status = 'no_metric') AS no_metric
    FROM runs
    WHERE experiment IS NOT NULL AND seed IS NOT NULL AND status NOT IN ('running', 'interrupted', 'lost')
    GROUP BY experiment, arm
)

SELECT
    counted.experiment,
    counted.arm,
    coalesce(plans.control = counted.arm, false) AS is_control,
    counted.attempts,
    counted.ok,
    counted.attempts - counted.ok AS failed,
    counted.crash,
    counted.diverged,
    counted.timeout,
    counted.oom,
    counted.no_metric,
    (counted.attempts - counted.ok) / counted.attempts AS rate,
    effects.p_crash,
    effects.p_crash_mid,
    effects.condition
FROM counted
LEFT JOIN experiments AS plans ON plans.experiment = counted.experiment
LEFT JOIN effects ON effects.experiment = counted.experiment AND effects.intervention = counted.arm
ORDER BY counted.experiment, counted.arm

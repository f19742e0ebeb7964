-- One row a run that a judgement of an experiment may look at: the planned runs that have an outcome, and the
-- controls of other experiments on the same base (the bank).
-- A control is shared when it is the same measurement: same base, same settings, another seed. Only arms that were a
-- control where they ran are shared: a treatment that became a control was chosen for its values.
-- kind: view
-- key: experiment, bank, arm, seed, started_position
-- columns:
--   experiment: id of the experiment that is judged
--   bank: whether the run is a control of another experiment
--   arm: name of the arm in the experiment that is judged
--   seed: its seed
--   run: id of the run
--   status: ok, or how it failed; a value that is not finite is a divergence
--   value: metric, null when it failed
--   early: whether it began before the plan, or the amendment, that has its arm and seed: exploratory for ever
--   tuning: whether its seed served to choose something
--   block: machine session
--   base: fingerprint of what is the same in all arms
--   started_position: position of run.started
--   finished_position: position of run.finished
--   finished_id: event id of run.finished
WITH controls AS (
    SELECT
        own.*, experiments.control_key, experiments.metric AS judged_metric, experiments.noise_class AS judged_class
    FROM planned_runs AS own
    INNER JOIN experiments ON experiments.experiment = own.experiment AND experiments.control = own.arm
),

-- Of several measurements of one cell the first that is ok counts.
shared AS (
    SELECT *
    FROM controls
    WHERE status = 'ok' AND NOT tuning
    QUALIFY row_number() OVER (
        PARTITION BY base, control_key, judged_metric, judged_class, seed ORDER BY started_position
    ) = 1
),

bank AS (
    SELECT experiments.experiment AS judged, experiments.control AS as_arm, shared.*
    FROM experiments
    INNER JOIN shared
        ON shared.base = experiments.base
        AND shared.control_key = experiments.control_key
        AND shared.judged_metric = experiments.metric
        AND shared.judged_class = experiments.noise_class
    WHERE
        shared.experiment <> experiments.experiment
        AND NOT EXISTS (
            SELECT 1 FROM controls AS mine
            WHERE mine.experiment = experiments.experiment AND mine.seed = shared.seed
        )
    QUALIFY row_number() OVER (PARTITION BY experiments.experiment ORDER BY shared.started_position DESC) <= 200
)

SELECT
    experiment, false AS bank, arm, seed, run, status, value, early, tuning, block, base,
    started_position, finished_position, finished_id
FROM planned_runs
UNION ALL
SELECT
    judged AS experiment, true AS bank, as_arm AS arm, seed, run, status, value, early, tuning, block, base,
    started_position, finished_position, finished_id
FROM bank
ORDER BY experiment, bank, arm, seed, started_position

-- One row a run of an experiment that its plans have, once it has an outcome: what a judgement may look at.
-- kind: table
-- key: experiment, arm, seed, started_position
-- scope: experiment
-- columns:
--   experiment: id of the experiment
--   arm: name of the arm
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
WITH ended AS (
    SELECT
        * REPLACE (
            CASE WHEN status = 'ok' AND (value IS NULL OR NOT isfinite(value)) THEN 'diverged' ELSE status END AS status,
            CASE WHEN status = 'ok' AND isfinite(value) THEN value END AS value
        )
    FROM runs
    WHERE experiment IS NOT NULL AND seed IS NOT NULL AND status NOT IN ('running', 'interrupted', 'lost')
),

planned AS (
    SELECT arms.experiment, arms.arm, seeds.seed, min(arms.position) AS position
    FROM (SELECT experiment, position, unnest(arms).name AS arm FROM experiment_registered) AS arms
    INNER JOIN (SELECT experiment, position, unnest(seeds) AS seed FROM experiment_registered) AS seeds
        ON seeds.experiment = arms.experiment AND seeds.position = arms.position
    GROUP BY arms.experiment, arms.arm, seeds.seed
),

tuned AS (
    SELECT DISTINCT experiment, unnest(tuning_seeds) AS seed FROM experiment_registered
)

SELECT
    ended.experiment,
    ended.arm,
    ended.seed,
    ended.run,
    ended.status,
    ended.value,
    ended.started_position < planned.position AS early,
    ended.seed_role = 'tuning' OR tuned.seed IS NOT NULL AS tuning,
    ended.block,
    ended.base,
    ended.started_position,
    ended.finished_position,
    ended.finished_id
FROM ended
INNER JOIN planned
    ON planned.experiment = ended.experiment AND planned.arm = ended.arm AND planned.seed = ended.seed
LEFT JOIN tuned ON tuned.experiment = ended.experiment AND tuned.seed = ended.seed
ORDER BY ended.experiment, ended.arm, ended.seed, ended.started_position

-- One row an arm of an experiment whose seeds tell how much a run of its noise class varies.
-- Of equal cells (one measurement, in several plans) the first run counts, and of all runs those that `noise_steps`
-- counts: up to an outcome that seldom moves.
-- kind: table
-- key: noise_class, unit, study, arm
-- scope: noise_class
-- columns:
--   noise_class: platform, scale, metric and stage
--   unit: run (spread of an arm's values), or fork (spread of its differences from the control, of the tier fork)
--   study: the experiment; for runs on their own their base
--   arm: name of the arm
--   n: seeds
--   df: degrees of freedom
--   mean: mean of its values, or of its differences
--   variance: variance over its seeds
--   newness: 1 for the arm of its unit that was complete last; the 200 newest are what others borrow
--   position: position of its last outcome
WITH values_of AS (
    SELECT
        runs.noise_class, coalesce(runs.experiment, runs.base) AS study, runs.arm, runs.seed, runs.cell, runs.value,
        runs.started_position, runs.finished_position
    FROM runs
    INNER JOIN noise_steps ON noise_steps.noise_class = runs.noise_class
    WHERE
        runs.status = 'ok' AND runs.seed IS NOT NULL AND isfinite(runs.value) AND abs(runs.value) < 1e100
        AND runs.finished_position <= noise_steps.last
),

firsts AS (
    SELECT noise_class, cell, seed, min(started_position) AS started_position
    FROM values_of
    WHERE started_position IN (SELECT min(started_position) FROM values_of GROUP BY noise_class, study, arm, seed)
    GROUP BY noise_class, cell, seed
),

known AS (
    SELECT * FROM values_of WHERE started_position IN (SELECT started_position FROM firsts)
),

-- Two runs that continue one checkpoint differ by far less than two runs: a unit of its own.
forks AS (
    SELECT
        treatment.noise_class,
        treatment.study,
        treatment.arm,
        treatment.seed,
        treatment.value - control.value AS value,
        greatest(treatment.finished_position, control.finished_position) AS finished_position
    FROM known AS treatment
    INNER JOIN experiments
        ON experiments.experiment = treatment.study
        AND experiments.noise_class = treatment.noise_class
        AND experiments.control <> treatment.arm
        AND experiments.pair_tier = 'fork'
    INNER JOIN known AS control
        ON control.study = treatment.study
        AND control.arm = experiments.control
        AND control.seed = treatment.seed
        AND control.noise_class = treatment.noise_class
),

arms AS (
    SELECT
        noise_class, 'run' AS unit, study, arm, list(value ORDER BY seed) AS ys, max(finished_position) AS position
    FROM known
    GROUP BY noise_class, study, arm
    HAVING count(*) > 1
    UNION ALL
    SELECT
        noise_class, 'fork' AS unit, study, arm, list(value ORDER BY seed) AS ys, max(finished_position) AS position
    FROM forks
    GROUP BY noise_class, study, arm
    HAVING count(*) > 1
)

SELECT
    noise_class,
    unit,
    study,
    arm,
    len(ys) AS n,
    len(ys) - 1 AS df,
    list_avg(ys) AS mean,
    list_var_samp(ys) AS variance,
    row_number() OVER (PARTITION BY noise_class, unit ORDER BY position DESC, study, arm) AS newness,
    position
FROM arms
ORDER BY noise_class, unit, study, arm

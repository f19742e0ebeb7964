-- One row an arm of an experiment whose seeds tell how much a run of its noise class varies.
-- Of equal cells (one measurement, in several plans) the first run counts. While a class has at most 256 runs all of
-- them count; then those up to the last step of a rising grid (each a quarter more), so that a single further run does
-- not move every figure of the class.
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
WITH RECURSIVE grid(n) AS (
    SELECT 256
    UNION ALL
    SELECT n + n // 4 FROM grid WHERE n < 1000000000
),

values_of AS (
    SELECT noise_class, coalesce(experiment, base) AS study, arm, seed, cell, value, started_position, finished_position
    FROM runs
    WHERE status = 'ok' AND seed IS NOT NULL AND isfinite(value) AND abs(value) < 1e100
),

firsts AS (
    SELECT noise_class, cell, seed, min(started_position) AS started_position
    FROM values_of
    WHERE started_position IN (SELECT min(started_position) FROM values_of GROUP BY noise_class, study, arm, seed)
    GROUP BY noise_class, cell, seed
),

counted AS (
    SELECT * FROM values_of WHERE started_position IN (SELECT started_position FROM firsts)
),

sizes AS (
    SELECT noise_class, count(*) AS many, list(finished_position ORDER BY finished_position) AS positions
    FROM counted
    GROUP BY noise_class
),

-- Up to which outcome of a class all count.
steps AS (
    SELECT
        noise_class,
        positions[CASE WHEN many <= 256 THEN many ELSE (SELECT max(n) FROM grid WHERE n <= many) END] AS last
    FROM sizes
),

known AS (
    SELECT counted.*
    FROM counted
    INNER JOIN steps ON steps.noise_class = counted.noise_class AND counted.finished_position <= steps.last
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

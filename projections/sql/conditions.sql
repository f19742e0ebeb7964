-- One row a condition on a base: an arm by what it sets, whatever plans measured it and under which names.
-- Equal settings on one base are one condition, so what several plans know of it stands together here. It is for
-- ranking what to run next; a claim goes by its own plan's runs (`effects`).
-- kind: table
-- key: base, noise_class, condition
-- scope: base
-- columns:
--   base: fingerprint of what is the same in all arms
--   noise_class: platform, scale, metric and stage
--   condition: digest of what it sets
--   arm: its newest name
--   n: seeds with a value; of several runs of one seed the first that is ok counts
--   mean: mean over its seeds
--   variance: variance over its seeds, null below two
--   attempts: runs that came to an outcome
--   ok: of them those that are ok
--   wall_s: median wall time of a run that is ok
--   last_seed: the largest seed that it ran
--   position: position of its newest outcome
WITH told AS (
    SELECT
        runs.base,
        runs.noise_class,
        arms.condition,
        arms.arm,
        runs.seed,
        runs.status = 'ok' AND isfinite(runs.value) AND abs(runs.value) < 1e100 AS ok,
        runs.value,
        runs.wall_s,
        runs.started_position,
        runs.finished_position
    FROM runs
    INNER JOIN experiment_arms AS arms ON arms.experiment = runs.experiment AND arms.arm = runs.arm
    WHERE runs.seed IS NOT NULL AND runs.status NOT IN ('running', 'interrupted', 'lost')
),

seeds AS (
    SELECT *
    FROM told
    WHERE ok
    QUALIFY row_number() OVER (PARTITION BY base, noise_class, condition, seed ORDER BY started_position) = 1
),

measured AS (
    SELECT base, noise_class, condition, list(value ORDER BY seed) AS ys, median(wall_s) AS wall_s
    FROM seeds
    GROUP BY base, noise_class, condition
),

tried AS (
    SELECT
        base,
        noise_class,
        condition,
        list(arm ORDER BY finished_position DESC)[1] AS arm,
        count(*) AS attempts,
        count(*) FILTER (ok) AS ok,
        max(seed) AS last_seed,
        max(finished_position) AS position
    FROM told
    GROUP BY base, noise_class, condition
)

SELECT
    tried.base,
    tried.noise_class,
    tried.condition,
    tried.arm,
    coalesce(len(measured.ys), 0) AS n,
    list_avg(measured.ys) AS mean,
    CASE WHEN len(measured.ys) > 1 THEN list_var_samp(measured.ys) END AS variance,
    tried.attempts,
    tried.ok,
    measured.wall_s,
    tried.last_seed,
    tried.position
FROM tried
LEFT JOIN measured
    ON measured.base = tried.base
    AND measured.noise_class = tried.noise_class
    AND measured.condition = tried.condition
ORDER BY tried.base, tried.noise_class, tried.condition

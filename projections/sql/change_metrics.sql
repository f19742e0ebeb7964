-- One row a metric that the runs of a condition told against one control: what transfer is estimated from.
-- The control itself has a row, as the condition that equals it. Beside the metric that decides stand other losses of
-- the same runs and the metric before quantization; of equal cells the first run that is ok counts.
-- kind: table
-- key: noise_class, base, control, condition, metric
-- scope: base
-- columns:
--   noise_class: platform, scale, metric and stage
--   base: fingerprint of what is the same in all arms
--   control: digest of what the control sets
--   condition: digest of what the arm sets
--   metric: name of the metric
--   outcome: name of the metric that decides
--   place: platform and scale
--   stage: data, train, late, quant or eval
--   arm: newest name of the condition
--   experiment: the experiment that it has this name in
--   n: seeds that told both metrics
--   mean: mean of the metric over them
--   outcome_mean: mean of the metric that decides over them
--   squares: sum of squares of the metric around its mean
--   products: sum of products of both around their means
--   wall_s: median wall time of its runs
--   position: position of its newest run
WITH told AS (
    SELECT
        runs.noise_class,
        runs.base,
        mine.control_condition AS control,
        mine.condition,
        mine.arm,
        mine.experiment,
        runs.seed,
        runs.metric AS outcome,
        concat_ws(', ', runs.platform, runs.scale) AS place,
        runs.stage,
        runs.value,
        runs.pre_value,
        runs.wall_s,
        runs.started_position,
        runs.finished_position
    FROM runs
    INNER JOIN experiment_arms AS mine ON mine.experiment = runs.experiment AND mine.arm = runs.arm
    WHERE
        runs.status = 'ok' AND runs.seed IS NOT NULL AND isfinite(runs.value) AND abs(runs.value) < 1e100
        AND NOT mine.stack AND mine.control_condition IS NOT NULL
    QUALIFY row_number() OVER (
        PARTITION BY runs.noise_class, runs.base, mine.control_condition, mine.condition, runs.seed
        ORDER BY runs.started_position
    ) = 1
),

finals AS (
    SELECT told.* EXCLUDE (wall_s), final.name AS metric, final.value AS x
    FROM (
        SELECT told.*, unnest(finished.finals) AS final
        FROM told
        INNER JOIN run_finished AS finished ON finished.position = told.finished_position
    ) AS told
),

readings AS (
    SELECT noise_class, base, control, condition, outcome AS metric, seed, value AS x, value
    FROM told
    UNION ALL
    SELECT noise_class, base, control, condition, 'before quantization' AS metric, seed, pre_value AS x, value
    FROM told
    WHERE isfinite(pre_value) AND abs(pre_value) < 1e100
    UNION ALL
    -- A run tells a metric once; of several values under one name the largest counts.
    SELECT noise_class, base, control, condition, metric, seed, max(x) AS x, any_value(value) AS value
    FROM finals
    WHERE
        isfinite(x) AND abs(x) < 1e100 AND metric <> outcome AND metric <> 'before quantization'
        AND regexp_full_match(metric, '(?:.*[^a-z])?(?:bpb|bpc|loss|nll)', 'i')
    GROUP BY noise_class, base, control, condition, metric, seed
),

lists AS (
    SELECT
        noise_class,
        base,
        control,
        condition,
        metric,
        list(x ORDER BY seed) AS xs,
        list(value ORDER BY seed) AS ys
    FROM readings
    GROUP BY noise_class, base, control, condition, metric
),

gathered AS (
    SELECT *, list_avg(xs) AS mean, list_avg(ys) AS outcome_mean FROM lists
),

named AS (
    SELECT
        noise_class,
        base,
        control,
        condition,
        arg_max(outcome, started_position) AS outcome,
        arg_max(place, started_position) AS place,
        arg_max(stage, started_position) AS stage,
        arg_max(arm, started_position) AS arm,
        arg_max(experiment, started_position) AS experiment,
        median(wall_s) AS wall_s,
        max(started_position) AS position
    FROM told
    GROUP BY noise_class, base, control, condition
)

SELECT
    gathered.noise_class,
    gathered.base,
    gathered.control,
    gathered.condition,
    gathered.metric,
    named.outcome,
    named.place,
    named.stage,
    named.arm,
    named.experiment,
    len(gathered.xs) AS n,
    gathered.mean,
    gathered.outcome_mean,
    CASE WHEN len(gathered.xs) > 1 THEN list_var_samp(gathered.xs) * (len(gathered.xs) - 1) ELSE 0.0 END AS squares,
    list_inner_product(
        list_transform(gathered.xs, lambda x: x - gathered.mean),
        list_transform(gathered.ys, lambda y: y - gathered.outcome_mean)
    ) AS products,
    named.wall_s,
    named.position
FROM gathered
INNER JOIN named
    ON named.noise_class = gathered.noise_class
    AND named.base = gathered.base
    AND named.control = gathered.control
    AND named.condition = gathered.condition
ORDER BY gathered.noise_class, gathered.base, gathered.control, gathered.condition, gathered.metric

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
--   arm: newest name of the condition among the runs that told the metric
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
        runs.wall_s,
        runs.started_position,
        [{'name': runs.metric, 'value': runs.value}, {'name': 'before quantization', 'value': runs.pre_value}]
        || [
            {'name': final.name, 'value': final.value} FOR final IN finished.finals
            IF final.name <> runs.metric
            AND regexp_full_match(final.name, '(?:.*[^a-z])?(?:bpb|bpc|loss|nll)', 'i')
        ] AS readings
    FROM runs
    INNER JOIN experiment_arms AS mine ON mine.experiment = runs.experiment AND mine.arm = runs.arm
    INNER JOIN run_finished AS finished ON finished.position = runs.finished_position
    WHERE
        runs.status = 'ok' AND runs.seed IS NOT NULL AND isfinite(runs.value) AND abs(runs.value) < 1e100
        AND NOT mine.stack AND mine.control_condition IS NOT NULL
    QUALIFY row_number() OVER (
        PARTITION BY runs.noise_class, runs.base, mine.control_condition, mine.condition, runs.seed
        ORDER BY runs.started_position
    ) = 1
),

each AS (
    SELECT * EXCLUDE (readings), unnest(readings) AS reading FROM told
),

-- A run tells a metric once; of several values under one name the largest counts.
read AS (
    SELECT
        * EXCLUDE (reading),
        reading.name AS metric,
        max(reading.value) AS x
    FROM each
    WHERE isfinite(reading.value) AND abs(reading.value) < 1e100
    GROUP BY ALL
),

gathered AS (
    SELECT
        noise_class,
        base,
        control,
        condition,
        metric,
        list(x ORDER BY seed) AS xs,
        list(value ORDER BY seed) AS ys,
        list(
            {'outcome': outcome, 'place': place, 'stage': stage, 'arm': arm, 'experiment': experiment}
            ORDER BY started_position DESC
        )[1] AS newest,
        median(wall_s) AS wall_s,
        max(started_position) AS position
    FROM read
    GROUP BY noise_class, base, control, condition, metric
),

counted AS (
    SELECT *, len(xs) AS n, list_avg(xs) AS mean, list_avg(ys) AS outcome_mean FROM gathered
)

SELECT
    noise_class,
    base,
    control,
    condition,
    metric,
    newest.outcome AS outcome,
    newest.place AS place,
    newest.stage AS stage,
    newest.arm AS arm,
    newest.experiment AS experiment,
    n,
    mean,
    outcome_mean,
    CASE WHEN n > 1 THEN list_var_samp(xs) * (n - 1) ELSE 0.0 END AS squares,
    list_inner_product(
        list_transform(xs, lambda x: x - mean), list_transform(ys, lambda y: y - outcome_mean)
    ) AS products,
    wall_s,
    position
FROM counted
ORDER BY noise_class, base, control, condition, metric

-- One row a planned pair: a treatment and the control with one seed, whether or not both ran.
-- kind: table
-- key: experiment, intervention, seed
-- scope: experiment
-- columns:
--   experiment: id of the experiment
--   intervention: name of the treatment arm
--   seed: seed of both runs
--   tier: what the two runs share: fork, rerun, seed or none
--   run_t: run of the treatment (the first that is ok, else the first)
--   run_c: run of the control
--   y_t: metric of the treatment
--   y_c: metric of the control
--   d: y_t minus y_c; negative is better where lower is better
--   both_ok: whether the pair counts
--   pending: whether one of the two has not run to an outcome yet
--   exploratory: whether one of the two began before the plan, or the amendment, that has its arm and seed
--   failures_t: runs of the treatment's cell that failed, also those that were run again
--   failures_c: runs of the control's cell that failed
--   reason_dropped: why the pair does not count, empty when it does
WITH registrations AS (
    SELECT
        *,
        first_value(control) OVER (PARTITION BY experiment ORDER BY position) AS first_control,
        first_value(pair_tier) OVER (PARTITION BY experiment ORDER BY position) AS first_tier
    FROM experiment_registered
    -- The stacks of a screen are no treatments: screen_effects tells its factors.
    WHERE experiment NOT IN (SELECT experiment FROM screen_planned)
),

planned AS (
    SELECT
        arms.experiment,
        arms.first_control AS control,
        arms.first_tier AS pair_tier,
        arms.arm,
        seeds.seed,
        min(arms.position) AS position
    FROM (SELECT experiment, position, first_control, first_tier, unnest(arms).name AS arm FROM registrations) AS arms
    INNER JOIN (SELECT experiment, position, unnest(seeds) AS seed FROM registrations) AS seeds
        ON seeds.experiment = arms.experiment AND seeds.position = arms.position
    GROUP BY arms.experiment, arms.first_control, arms.first_tier, arms.arm, seeds.seed
),

-- A finite value is part of being ok.
outcomes AS (
    SELECT
        experiment,
        arm,
        seed,
        run,
        value,
        started_position,
        CASE WHEN status = 'ok' AND (value IS NULL OR NOT isfinite(value)) THEN 'diverged' ELSE status END AS status
    FROM runs
    WHERE experiment IS NOT NULL AND seed IS NOT NULL
),

-- Of several runs of one cell the first that is ok counts: to choose a later one would be to choose
-- by outcome. Those that failed before it are counted.
cells AS (
    SELECT
        *,
        count(*) FILTER (status NOT IN ('ok', 'running', 'interrupted', 'lost'))
            OVER (PARTITION BY experiment, arm, seed) AS failures,
        status IN ('running', 'interrupted', 'lost') AS pending
    FROM outcomes
    QUALIFY row_number() OVER (
        PARTITION BY experiment, arm, seed
        ORDER BY status = 'ok' DESC, status IN ('running', 'interrupted', 'lost'), started_position
    ) = 1
)

SELECT
    planned.experiment,
    planned.arm AS intervention,
    planned.seed,
    planned.pair_tier AS tier,
    treatment.run AS run_t,
    control.run AS run_c,
    CASE WHEN treatment.status = 'ok' THEN treatment.value END AS y_t,
    CASE WHEN control.status = 'ok' THEN control.value END AS y_c,
    y_t - y_c AS d,
    y_t IS NOT NULL AND y_c IS NOT NULL AS both_ok,
    coalesce(treatment.pending, true) OR coalesce(control.pending, true) AS pending,
    coalesce(treatment.started_position < planned.position, false)
    OR coalesce(control.started_position < planned_control.position, false) AS exploratory,
    coalesce(treatment.failures, 0) AS failures_t,
    coalesce(control.failures, 0) AS failures_c,
    CASE
        WHEN both_ok THEN ''
        WHEN y_t IS NULL AND y_c IS NULL
            THEN 'treatment ' || coalesce(treatment.status, 'missing') || ', control ' || coalesce(control.status, 'missing')
        WHEN y_t IS NULL THEN 'treatment ' || coalesce(treatment.status, 'missing')
        ELSE 'control ' || coalesce(control.status, 'missing')
    END AS reason_dropped
FROM planned
LEFT JOIN cells AS treatment
    ON treatment.experiment = planned.experiment AND treatment.arm = planned.arm AND treatment.seed = planned.seed
LEFT JOIN cells AS control
    ON control.experiment = planned.experiment AND control.arm = planned.control AND control.seed = planned.seed
LEFT JOIN planned AS planned_control
    ON planned_control.experiment = planned.experiment
    AND planned_control.arm = planned.control
    AND planned_control.seed = planned.seed
WHERE planned.arm <> planned.control
ORDER BY planned.experiment, planned.arm, planned.seed

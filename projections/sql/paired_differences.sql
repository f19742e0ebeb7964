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
--   reason_dropped: why it does not, empty when it does
WITH plan AS (
    SELECT *
    FROM experiment_registered
    QUALIFY row_number() OVER (PARTITION BY experiment ORDER BY position DESC) = 1
),

planned AS (
    SELECT arms.experiment, arms.control, arms.pair_tier, arms.arm, seeds.seed
    FROM (SELECT experiment, control, pair_tier, unnest(plan.arms).name AS arm FROM plan) AS arms
    INNER JOIN (SELECT experiment, unnest(plan.seeds) AS seed FROM plan) AS seeds
        ON seeds.experiment = arms.experiment
),

-- Of several runs of one cell the first that is ok counts: to choose a later one would be to choose
-- by outcome. A finite value is part of being ok.
cells AS (
    SELECT
        experiment,
        arm,
        seed,
        run,
        value,
        CASE WHEN status = 'ok' AND (value IS NULL OR NOT isfinite(value)) THEN 'diverged' ELSE status END AS status
    FROM runs
    WHERE experiment IS NOT NULL AND seed IS NOT NULL
    QUALIFY row_number() OVER (
        PARTITION BY experiment, arm, seed
        ORDER BY (status = 'ok' AND value IS NOT NULL AND isfinite(value)) DESC, started_position
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
WHERE planned.arm <> planned.control
ORDER BY planned.experiment, planned.arm, planned.seed

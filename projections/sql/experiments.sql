-- One row an experiment: the plan that judges it, and how often it was amended.
-- What decides (delta, alpha, direction, control) is that of the first registration, and the family is every
-- arm that any registration had: an amendment can add seeds and arms, it cannot make a result look better.
-- kind: table
-- key: experiment
-- scope: experiment
-- columns:
--   experiment: id, a digest of name, base and metric
--   name: the plan's name
--   family: hypotheses that share one multiplicity correction
--   cycle: its number among the plans of one family that share alpha, null for a plan alone
--   question: what the plan asks
--   runner: what carries out its cells
--   metric: name of the metric that decides
--   direction: lower or higher is better
--   delta: smallest effect that matters, in the metric's unit
--   alpha: family-wise error rate
--   look: 1, and one more for every registration that added seeds
--   estimand: wallclock (with the effect on speed) or fixed_step (without)
--   control: name of the control arm
--   arm_count: arms, the control included
--   hypothesis_count: size of the family
--   seed_count: seeds of every arm
--   seed_role: tuning or confirm
--   pair_tier: what two runs of one seed share
--   base: fingerprint of what is the same in all arms
--   platform: where it is meant to run
--   noise_class: platform, scale, metric and stage: within it variance may be pooled
--   control_key: digest of what the control is: equal on one base means the same measurement
--   policy: the decision rule that was registered
--   track: confirm, or explore: what explores can suggest, not confirm
--   stopping: fixed (one look), looks (as planned) or anytime (e-values)
--   planned_looks: seeds per arm at each planned look, empty where none is planned
--   tau: prior standard deviation of effects for e-values, null for delta
--   tuning_seeds: seeds that chose something before, so that none of them confirms
--   n_max: seeds of every arm at most by the stopping rule, null where it sets no end
--   amendments: registrations after the first; the table amendments says what changed and why
--   first_position: position of the first registration; a run before it is exploratory
--   first_registered_at: time of the first registration
--   registered_position: position of the newest registration
--   registered_at: time of the newest registration
--   event_id: id of the newest registration
WITH registrations AS (
    SELECT
        *,
        row_number() OVER (PARTITION BY experiment ORDER BY position) AS number,
        row_number() OVER (PARTITION BY experiment ORDER BY position DESC) AS newness
    FROM experiment_registered
),

arms AS (
    SELECT experiment, count(DISTINCT arm) AS arm_count
    FROM (SELECT experiment, unnest(arms).name AS arm FROM registrations)
    GROUP BY experiment
),

families AS (
    SELECT experiment, count(DISTINCT arm) AS hypothesis_count
    FROM (SELECT experiment, unnest(hypotheses).arm AS arm FROM registrations)
    GROUP BY experiment
),

seeds AS (
    SELECT experiment, seed, min(number) AS number
    FROM (SELECT experiment, number, unnest(seeds) AS seed FROM registrations)
    GROUP BY experiment, seed
),

looks AS (
    SELECT experiment, count(*) AS seed_count, count(DISTINCT number) AS look
    FROM seeds
    GROUP BY experiment
)

SELECT
    newest.experiment,
    newest.name,
    planned.family,
    planned.cycle,
    newest.question,
    newest.runner,
    planned.metric,
    planned.direction,
    planned.delta,
    planned.alpha,
    coalesce(looks.look, 1) AS look,
    planned.estimand,
    planned.control,
    arms.arm_count,
    coalesce(families.hypothesis_count, 0) AS hypothesis_count,
    coalesce(looks.seed_count, 0) AS seed_count,
    planned.seed_role,
    planned.pair_tier,
    planned.base,
    planned.noise_class.platform AS platform,
    concat_ws(
        ', ',
        planned.noise_class.platform, planned.noise_class.scale, planned.noise_class.metric, planned.noise_class.stage
    ) AS noise_class,
    md5(to_json([
        {'env': arm.env, 'args': arm.args, 'config': arm.config}
        FOR arm IN planned.arms IF arm.name = planned.control
    ])::VARCHAR) AS control_key,
    planned.policy,
    coalesce(planned.track, 'confirm') AS track,
    planned.stopping,
    CASE WHEN planned.stopping = 'fixed' THEN looks.seed_count::VARCHAR ELSE array_to_string(planned.looks, ', ') END
        AS planned_looks,
    planned.tau,
    array_to_string(coalesce(planned.tuning_seeds, []), ', ') AS tuning_seeds,
    CASE WHEN planned.stopping = 'fixed' THEN looks.seed_count ELSE planned.n_max END AS n_max,
    newest.number - 1 AS amendments,
    planned.position AS first_position,
    planned.recorded_at AS first_registered_at,
    newest.position AS registered_position,
    newest.recorded_at AS registered_at,
    newest.event_id
FROM registrations AS newest
INNER JOIN registrations AS planned ON planned.experiment = newest.experiment AND planned.number = 1
INNER JOIN arms ON arms.experiment = newest.experiment
LEFT JOIN families ON families.experiment = newest.experiment
LEFT JOIN looks ON looks.experiment = newest.experiment
WHERE newest.newness = 1
ORDER BY newest.experiment

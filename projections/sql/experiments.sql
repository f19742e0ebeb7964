-- One row an experiment: its newest registration, and how often the plan was amended.
-- kind: table
-- key: experiment
-- scope: experiment
-- columns:
--   experiment: id, a digest of name, base and metric
--   name: the plan's name
--   family: hypotheses that share one multiplicity correction
--   question: what the plan asks
--   runner: what carries out its cells
--   metric: name of the metric that decides
--   direction: lower or higher is better
--   delta: smallest effect that matters, in the metric's unit
--   alpha: family-wise error rate
--   estimand: wallclock (with the effect on speed) or fixed_step (without)
--   control: name of the control arm
--   arm_count: arms, the control included
--   hypothesis_count: size of the family: every arm that any registration had, for an amendment makes it no smaller
--   seed_count: seeds of every arm
--   seed_role: tuning or confirm
--   pair_tier: what two runs of one seed share
--   base: fingerprint of what is the same in all arms
--   platform: where it is meant to run
--   policy: the decision rule that was registered
--   amendments: registrations after the first
--   first_position: position of the first registration; a run before it is exploratory
--   registered_position: position of the newest registration
--   registered_at: time of the newest registration
--   event_id: id of the newest registration
WITH registrations AS (
    SELECT
        *,
        row_number() OVER (PARTITION BY experiment ORDER BY position DESC) AS newness,
        count(*) OVER (PARTITION BY experiment) AS registrations,
        min(position) OVER (PARTITION BY experiment) AS first_position
    FROM experiment_registered
),

families AS (
    SELECT experiment, count(DISTINCT arm) AS hypothesis_count
    FROM (SELECT experiment, unnest(hypotheses).arm AS arm FROM experiment_registered)
    GROUP BY experiment
)

SELECT
    registrations.experiment,
    name,
    family,
    question,
    runner,
    metric,
    direction,
    delta,
    alpha,
    estimand,
    control,
    len(arms) AS arm_count,
    coalesce(hypothesis_count, 0) AS hypothesis_count,
    len(seeds) AS seed_count,
    seed_role,
    pair_tier,
    base,
    noise_class.platform AS platform,
    policy,
    registrations - 1 AS amendments,
    first_position,
    position AS registered_position,
    recorded_at AS registered_at,
    event_id
FROM registrations
LEFT JOIN families ON families.experiment = registrations.experiment
WHERE newness = 1
ORDER BY registrations.experiment

-- One row a changed key of a plan: what it was, what it is from there on, and why.
-- Only seeds and arms (with their hypotheses), the question and the timeout can change; the rest needs a new plan.
-- kind: view
-- key: position, key
-- columns:
--   experiment: id of the experiment
--   name: the plan's name
--   key: what changed
--   before: as it was, in short
--   after: as it is from here on
--   reason: why; empty where a run was simply started with more seeds or arms
--   amends: event id of the registration that was replaced
--   recorded_at: when
--   position: position of plan.amended
--   event_id: id of plan.amended
WITH changed AS (
    SELECT *, unnest(changes) AS change
    FROM facts.plan_amended
)

SELECT
    changed.experiment,
    experiments.name,
    changed.change.key AS key,
    changed.change.before AS before,
    changed.change.after AS after,
    changed.reason,
    changed.amends,
    changed.recorded_at,
    changed.position,
    changed.event_id
FROM changed
LEFT JOIN experiments ON experiments.experiment = changed.experiment
ORDER BY changed.position, changed.change.key

-- One row a hypothesis: what a plan said of an arm before its runs, as the first registration with that arm has it.
-- kind: view
-- key: experiment, intervention
-- columns:
--   experiment: id of the experiment
--   name: the plan's name
--   intervention: name of the treatment arm
--   predict: better, worse or different
--   predicted_effect: its size as foreseen, treatment minus control; null where the plan foresaw none
--   position: position of that registration
--   recorded_at: its time
--   event_id: its event id
WITH claims AS (
    SELECT experiment, name, position, recorded_at, event_id, unnest(hypotheses) AS claim
    FROM facts.experiment_registered
)

SELECT
    experiment,
    name,
    claim.arm AS intervention,
    claim.predict AS predict,
    claim.effect AS predicted_effect,
    position,
    recorded_at,
    event_id
FROM claims
QUALIFY row_number() OVER (PARTITION BY experiment, claim.arm ORDER BY position) = 1
ORDER BY experiment, intervention

-- One row an arm of an experiment: the digest of what it sets, and of what its control sets.
-- Of several registrations of an arm the newest counts; the control is that of the first registration.
-- kind: table
-- key: experiment, arm
-- scope: experiment
-- columns:
--   experiment: id of the experiment
--   arm: its name there
--   condition: digest of what it sets: equal on one base means the same measurement
--   control_condition: that of the experiment's control, null where no registration has the control as an arm
--   stack: whether it is a stack of a screen, which is no change by itself
--   position: position of the newest registration that has it
WITH registered AS (
    SELECT
        experiment,
        position,
        first_value(control) OVER (PARTITION BY experiment ORDER BY position) AS control,
        unnest(arms) AS arm
    FROM experiment_registered
),

named AS (
    SELECT
        experiment,
        arm.name AS arm,
        control,
        md5(to_json({'env': arm.env, 'args': arm.args, 'config': arm.config})::VARCHAR) AS condition,
        position
    FROM registered
    QUALIFY row_number() OVER (PARTITION BY experiment, arm.name ORDER BY position DESC) = 1
)

SELECT
    named.experiment,
    named.arm,
    named.condition,
    base.condition AS control_condition,
    named.experiment IN (SELECT experiment FROM screen_planned) AS stack,
    named.position
FROM named
LEFT JOIN named AS base ON base.experiment = named.experiment AND base.arm = named.control
ORDER BY named.experiment, named.arm

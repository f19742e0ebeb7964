-- One row a stack and technique: what a record, or an arm of an own experiment, has. Long form; `ledger matrix` is wide.
-- Records have a row for every technique that the vocabulary knows and some record names; of others only those that
-- they name. Arms have a row for every setting that some arm of their plan changes. Imported readings are left out.
-- kind: view
-- key: stack, intervention
-- columns:
--   stack: the record, or the experiment's id and the arm, as id/arm
--   source: record or experiment
--   intervention: canonical id; of an arm the setting's name in lower case, unless records name it as a technique
--   value: 1 has it, 0 does not name it (of an arm: as the control), -1 takes it out
--   level: parameter values as written
--   name: name of the record, or of the experiment and the arm
--   known: whether the vocabulary has it; true for settings of arms
--   status: new or carried, null for 0 and for arms
WITH named AS (
    SELECT interventions.*, records.name
    FROM interventions
    INNER JOIN records ON records.record = interventions.record
    WHERE NOT starts_with(records.parser, 'import/')
    -- A record may tell a technique as its own and as its base's: what it does itself comes first.
    QUALIFY row_number() OVER (
        PARTITION BY interventions.record, interventions.intervention
        ORDER BY interventions.status <> 'new', interventions.level IS NULL, interventions.row
    ) = 1
),

wanted AS (
    SELECT records.record, records.name, columns.intervention
    FROM records
    CROSS JOIN (SELECT DISTINCT intervention FROM named WHERE known) AS columns
    WHERE NOT starts_with(records.parser, 'import/')
),

recorded AS (
    SELECT
        coalesce(wanted.record, named.record) AS stack,
        'record' AS source,
        coalesce(wanted.intervention, named.intervention) AS intervention,
        CASE WHEN named.record IS NULL THEN 0 WHEN named.removed THEN -1 ELSE 1 END AS value,
        coalesce(named.level, named.after) AS level,
        coalesce(wanted.name, named.name) AS name,
        coalesce(named.known, true) AS known,
        named.status
    FROM wanted
    FULL JOIN named ON named.record = wanted.record AND named.intervention = wanted.intervention
),

plans AS (
    SELECT
        experiment,
        name,
        position,
        first_value(control) OVER (PARTITION BY experiment ORDER BY position) AS control,
        unnest(arms) AS arm
    FROM facts.experiment_registered
),

-- What an arm is never changes between registrations; of its name the newest counts.
arms AS (
    SELECT *
    FROM plans
    QUALIFY row_number() OVER (PARTITION BY experiment, arm.name ORDER BY position DESC) = 1
),

told AS (
    SELECT experiment, arm.name AS arm, unnest(list_concat(arm.env, arm.config)) AS setting
    FROM arms
    UNION ALL
    SELECT
        experiment,
        arm.name AS arm,
        {'name': 'arguments', 'value': array_to_string(arm.args, ' ')} AS setting
    FROM arms
    WHERE len(arm.args) > 0
),

settings AS (
    SELECT experiment, arm, lower(setting.name) AS intervention, setting.value AS level
    FROM told
    QUALIFY row_number() OVER (PARTITION BY experiment, arm, intervention ORDER BY setting.name, level) = 1
),

cells AS (
    SELECT arms.experiment, arms.name, arms.control, arms.arm.name AS arm, columns.intervention
    FROM arms
    INNER JOIN (SELECT DISTINCT experiment, intervention FROM settings) AS columns
        ON columns.experiment = arms.experiment
),

compared AS (
    SELECT
        cells.*,
        own.level AS level,
        base.level AS before,
        lower(coalesce(own.level, '')) IN ('', '0', 'false', 'off', 'no', 'none', 'null') AS out_of,
        lower(coalesce(base.level, '')) IN ('', '0', 'false', 'off', 'no', 'none', 'null') AS out_before
    FROM cells
    LEFT JOIN settings AS own
        ON own.experiment = cells.experiment AND own.arm = cells.arm AND own.intervention = cells.intervention
    LEFT JOIN settings AS base
        ON base.experiment = cells.experiment AND base.arm = cells.control AND base.intervention = cells.intervention
),

-- A setting that records name as a technique ("XSA_LAST_N=4", "XSA (xsa_last_n=4)") is that technique's column,
-- where they agree on which.
spelled AS (
    SELECT
        lower(regexp_extract(label, '^[^=]*?\b(\w+) ?=[^=]*$', 1)) AS setting,
        min(intervention) AS intervention
    FROM named
    WHERE known AND regexp_matches(label, '^(?:[^=(]*\()?\w+ ?=[^=]*$')
    GROUP BY setting
    HAVING count(DISTINCT intervention) = 1
),

own AS (
    SELECT
        experiment || '/' || arm AS stack,
        'experiment' AS source,
        coalesce(spelled.intervention, same.intervention, compared.intervention) AS intervention,
        CASE
            WHEN level IS NOT DISTINCT FROM before OR level IS NULL THEN 0
            WHEN out_of AND (before IS NULL OR NOT out_before) THEN -1
            ELSE 1
        END AS value,
        coalesce(level, before) AS level,
        name || ': ' || arm AS name,
        true AS known,
        NULL::VARCHAR AS status
    FROM compared
    LEFT JOIN spelled ON spelled.setting = compared.intervention
    LEFT JOIN (SELECT DISTINCT intervention FROM named WHERE known) AS same
        ON same.intervention = replace(compared.intervention, '_', '-')
    -- Two settings of one technique are one row: the one that was changed.
    QUALIFY row_number() OVER (
        PARTITION BY stack, coalesce(spelled.intervention, same.intervention, compared.intervention)
        ORDER BY value = 0, compared.intervention
    ) = 1
)

SELECT
    cell.stack,
    cell.source,
    cell.intervention,
    cell.value,
    cell.level,
    cell.name,
    cell.known,
    cell.status
FROM (SELECT * FROM recorded UNION ALL SELECT * FROM own) AS cell
ORDER BY cell.stack, cell.intervention

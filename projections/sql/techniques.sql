-- One row a technique that some record names, and how often.
-- kind: view
-- key: intervention
-- columns:
--   intervention: canonical id, or unknown:<label>
--   kind: architecture, optimizer, quantization and so on
--   known: whether the vocabulary has it
--   records: records that name it
--   new: records that bring it
--   carried: records whose base had it
--   removed: records that take it out
--   stated: effects in bits per byte that are stated for it
--   first_date: earliest date of a record that names it
--   first_record: that record
--   labels: how the texts write it, at most five ways
--   evidence: one place of each of at most five records
WITH named AS (
    SELECT
        interventions.*,
        records.date,
        row_number() OVER (
            PARTITION BY interventions.intervention ORDER BY records.date, interventions.record, interventions.row
        ) AS turn
    FROM interventions
    INNER JOIN records ON records.record = interventions.record
    WHERE NOT starts_with(records.parser, 'import/')
),

spelled AS (
    SELECT intervention, label, row_number() OVER (PARTITION BY intervention ORDER BY count(*) DESC, label) AS turn
    FROM named
    GROUP BY intervention, label
),

labels AS (
    SELECT intervention, string_agg(label, ' | ' ORDER BY turn) AS labels
    FROM spelled
    WHERE turn <= 5
    GROUP BY intervention
),

placed AS (
    SELECT
        intervention,
        record || '/' || split_part(min(evidence), ', ', 1) AS place,
        row_number() OVER (PARTITION BY intervention ORDER BY record) AS turn
    FROM named
    GROUP BY intervention, record
),

places AS (
    SELECT intervention, string_agg(place, ', ' ORDER BY turn) AS evidence
    FROM placed
    WHERE turn <= 5
    GROUP BY intervention
),

counted AS (
    SELECT
        intervention,
        min(kind) AS kind,
        bool_or(known) AS known,
        count(DISTINCT record) AS records,
        count(DISTINCT record) FILTER (WHERE status = 'new') AS new,
        count(DISTINCT record) FILTER (WHERE status = 'carried') AS carried,
        count(DISTINCT record) FILTER (WHERE removed) AS removed,
        count(delta_bpb) AS stated
    FROM named
    GROUP BY intervention
)

SELECT
    counted.intervention,
    counted.kind,
    counted.known,
    counted.records,
    counted.new,
    counted.carried,
    counted.removed,
    counted.stated,
    earliest.date AS first_date,
    earliest.record AS first_record,
    labels.labels,
    places.evidence
FROM counted
INNER JOIN named AS earliest ON earliest.intervention = counted.intervention AND earliest.turn = 1
INNER JOIN labels ON labels.intervention = counted.intervention
INNER JOIN places ON places.intervention = counted.intervention
ORDER BY counted.intervention

-- One row a technique of a record, as the newest reading has it; told several times in the text, it is one row.
-- kind: view
-- key: record, row
-- columns:
--   record: track and folder
--   intervention: canonical id from the vocabulary, or unknown:<label> for one that it does not know
--   label: as the text writes it
--   kind: architecture, optimizer, quantization and so on
--   status: new (this record brings it) or carried (its base had it)
--   before: value in the base, as written
--   after: value in the record, as written
--   delta_bpb: effect in bits per byte that the text states for this very change; negative is better
--   delta_source: stated, or derived from two scores of one table
--   evidence: file and line of each place that tells it
--   event_id: id of the event that holds the row
--   level: parameter values as written
--   known: whether the vocabulary has it
--   removed: whether the change takes the technique out
--   delta_nats: effect in nats a token that the text states
--   delta_joint: whether the figure is stated for several changes together
--   assisted: the program that proposed the row, null for the rules alone
--   row: number of the row within the record
WITH told AS (
    SELECT
        reading.position AS reading,
        extracted.record,
        extracted.part,
        extracted.event_id,
        generate_subscripts(extracted.interventions, 1) AS number,
        unnest(extracted.interventions) AS item
    FROM record_readings AS reading
    INNER JOIN facts.record_extracted AS extracted
        ON extracted.record = reading.record AND extracted.position - extracted.part + 1 = reading.position
    WHERE reading.newest
)

SELECT
    told.record,
    told.item.intervention AS intervention,
    told.item.label AS label,
    told.item.kind AS kind,
    told.item.status AS status,
    told.item.before AS before,
    told.item.after AS after,
    told.item.delta_bpb AS delta_bpb,
    told.item.delta_source AS delta_source,
    array_to_string(told.item.evidence, ', ') AS evidence,
    told.event_id,
    told.item.level AS level,
    told.item.known AS known,
    told.item.removed AS removed,
    told.item.delta_nats AS delta_nats,
    told.item.delta_joint AS delta_joint,
    told.item.assisted AS assisted,
    row_number() OVER (PARTITION BY told.record ORDER BY told.part, told.number) AS row
FROM told
ORDER BY told.record, row

-- One row a seed that a record's text says served to choose something, or that ran and is not among the reported ones.
-- kind: view
-- key: record, row
-- columns:
--   record: track and folder
--   what: tuned_on or left_out
--   seed: the seed
--   val_bpb: its score where the text has one
--   evidence: file and line
--   event_id: id of the event that holds it
--   row: number of the row within the record
WITH told AS (
    SELECT
        extracted.record,
        extracted.part,
        extracted.event_id,
        generate_subscripts(extracted.selections, 1) AS number,
        unnest(extracted.selections) AS item
    FROM record_readings AS reading
    INNER JOIN facts.record_extracted AS extracted
        ON extracted.record = reading.record AND extracted.position - extracted.part + 1 = reading.position
    WHERE reading.newest
)

SELECT
    told.record,
    told.item.kind AS what,
    told.item.seed AS seed,
    told.item.val_bpb AS val_bpb,
    told.item.evidence AS evidence,
    told.event_id,
    row_number() OVER (PARTITION BY told.record ORDER BY told.part, told.number) AS row
FROM told
ORDER BY told.record, row

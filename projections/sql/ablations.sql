-- One row of an ablation, a sweep or a list of what did not help, as a record tells it.
-- kind: view
-- key: record, row
-- columns:
--   record: track and folder
--   change: what was changed, as written
--   val_bpb: score with the change
--   delta_bpb: effect in bits per byte; negative is better
--   heading: heading that the row stands under
--   evidence: file and line
--   event_id: id of the event that holds the row
--   meaning: of delta_bpb: incremental (on the row before), cumulative (on the first row) or versus_base
--   negative: whether it is told as something that did not help
--   row: number of the row within the record
WITH told AS (
    SELECT
        extracted.record,
        extracted.part,
        extracted.event_id,
        generate_subscripts(extracted.ablations, 1) AS number,
        unnest(extracted.ablations) AS item
    FROM record_readings AS reading
    INNER JOIN facts.record_extracted AS extracted
        ON extracted.record = reading.record AND extracted.position - extracted.part + 1 = reading.position
    WHERE reading.newest
)

SELECT
    told.record,
    told.item.change AS change,
    told.item.val_bpb AS val_bpb,
    told.item.delta_bpb AS delta_bpb,
    told.item.heading AS heading,
    told.item.evidence AS evidence,
    told.event_id,
    told.item.meaning AS meaning,
    told.item.negative AS negative,
    row_number() OVER (PARTITION BY told.record ORDER BY told.part, told.number) AS row
FROM told
ORDER BY told.record, row

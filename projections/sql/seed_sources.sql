-- One row a score of a seed as one source tells it: README, submission.json and logs may tell the same seed.
-- kind: view
-- key: record, row
-- columns:
--   record: track and folder
--   seed: null where runs are listed without numbers
--   val_bpb: score in bits per byte
--   bytes_total: size of the artifact
--   source: readme, json, log or leaderboard
--   event_id: id of the event that holds the row
--   val_loss: loss in nats a token
--   pre_quant_bpb: score before quantization
--   steps: training steps
--   wall_s: seconds of training
--   step_ms: milliseconds a step
--   peak_memory_bytes: largest memory
--   evidence: file and line
--   row: number of the row within the record
WITH told AS (
    SELECT
        extracted.record,
        extracted.part,
        extracted.event_id,
        generate_subscripts(extracted.seeds, 1) AS number,
        unnest(extracted.seeds) AS item
    FROM record_readings AS reading
    INNER JOIN facts.record_extracted AS extracted
        ON extracted.record = reading.record AND extracted.position - extracted.part + 1 = reading.position
    WHERE reading.newest
)

SELECT
    told.record,
    told.item.seed AS seed,
    told.item.val_bpb AS val_bpb,
    told.item.bytes_total AS bytes_total,
    told.item.source AS source,
    told.event_id,
    told.item.val_loss AS val_loss,
    told.item.pre_quant_bpb AS pre_quant_bpb,
    told.item.steps AS steps,
    told.item.wall_s AS wall_s,
    told.item.step_ms AS step_ms,
    told.item.peak_memory_bytes AS peak_memory_bytes,
    told.item.evidence AS evidence,
    row_number() OVER (PARTITION BY told.record ORDER BY told.part, told.number) AS row
FROM told
ORDER BY told.record, row

-- One row a seed of a record: the scores that the README reports, else those of submission.json, else of the logs.
-- kind: view
-- key: record, row
-- columns:
--   record: track and folder
--   seed: null where runs are listed without numbers
--   val_bpb: score in bits per byte
--   bytes_total: size of the artifact; from another source of the same seed where this one has none, as all that follows
--   source: where the score is from (readme, json, log); what the others say of it is in seed_sources
--   event_id: id of the event that holds the row
--   val_loss: loss in nats a token
--   pre_quant_bpb: score before quantization
--   steps: training steps
--   wall_s: seconds of training
--   step_ms: milliseconds a step
--   peak_memory_bytes: largest memory
--   evidence: file and line
--   row: number of the row within the record
WITH ranked AS (
    SELECT
        *,
        CASE source WHEN 'readme' THEN 1 WHEN 'json' THEN 2 WHEN 'log' THEN 3 ELSE 4 END AS rank
    FROM seed_sources
),

-- A loss in nats stands in where a record has no bits per byte at all.
best AS (
    SELECT
        record,
        bool_or(val_bpb IS NOT NULL) AS has_bpb,
        coalesce(min(rank) FILTER (WHERE val_bpb IS NOT NULL), min(rank) FILTER (WHERE val_loss IS NOT NULL)) AS rank
    FROM ranked
    GROUP BY record
),

-- Of each seed and figure, the first source that states it.
stated AS (
    SELECT
        record,
        seed,
        (list(bytes_total ORDER BY rank, row) FILTER (WHERE bytes_total IS NOT NULL))[1] AS bytes_total,
        (list(val_loss ORDER BY rank, row) FILTER (WHERE val_loss IS NOT NULL))[1] AS val_loss,
        (list(pre_quant_bpb ORDER BY rank, row) FILTER (WHERE pre_quant_bpb IS NOT NULL))[1] AS pre_quant_bpb,
        (list(steps ORDER BY rank, row) FILTER (WHERE steps IS NOT NULL))[1] AS steps,
        (list(wall_s ORDER BY rank, row) FILTER (WHERE wall_s IS NOT NULL))[1] AS wall_s,
        (list(step_ms ORDER BY rank, row) FILTER (WHERE step_ms IS NOT NULL))[1] AS step_ms,
        (list(peak_memory_bytes ORDER BY rank, row) FILTER (WHERE peak_memory_bytes IS NOT NULL))[1] AS peak_memory_bytes
    FROM ranked
    WHERE seed IS NOT NULL
    GROUP BY record, seed
)

SELECT
    ranked.record,
    ranked.seed,
    ranked.val_bpb,
    coalesce(ranked.bytes_total, stated.bytes_total) AS bytes_total,
    ranked.source,
    ranked.event_id,
    coalesce(ranked.val_loss, stated.val_loss) AS val_loss,
    coalesce(ranked.pre_quant_bpb, stated.pre_quant_bpb) AS pre_quant_bpb,
    coalesce(ranked.steps, stated.steps) AS steps,
    coalesce(ranked.wall_s, stated.wall_s) AS wall_s,
    coalesce(ranked.step_ms, stated.step_ms) AS step_ms,
    coalesce(ranked.peak_memory_bytes, stated.peak_memory_bytes) AS peak_memory_bytes,
    ranked.evidence,
    row_number() OVER (PARTITION BY ranked.record ORDER BY ranked.row) AS row
FROM ranked
INNER JOIN best ON best.record = ranked.record AND best.rank = ranked.rank
LEFT JOIN stated ON stated.record = ranked.record AND stated.seed = ranked.seed
WHERE ranked.val_bpb IS NOT NULL OR (NOT best.has_bpb AND ranked.val_loss IS NOT NULL)
ORDER BY ranked.record, row

-- One row a contradiction in what a record says of itself, for whoever audits its claims. A reading tells where its
-- own sources differ; seeds that it does not tell, a stated difference that its scores do not give, and another score
-- on the leaderboard are found here.
-- kind: view
-- key: record, row
-- columns:
--   record: track and folder
--   kind: reading (its sources differ), seed (they do, and the reading does not tell), delta or leaderboard
--   field: what it is about
--   said: the values, each with where it stands
--   reason: what is wrong, in words
--   event_id: id of the event that holds it
--   row: number of the row within the record
WITH told AS (
    SELECT
        extracted.record,
        extracted.part,
        extracted.event_id,
        generate_subscripts(extracted.flags, 1) AS number,
        unnest(extracted.flags) AS item
    FROM record_readings AS reading
    INNER JOIN facts.record_extracted AS extracted
        ON extracted.record = reading.record AND extracted.position - extracted.part + 1 = reading.position
    WHERE reading.newest
),

-- A seed's scores from two sources agree when some pair of them is the same to the fourth digit.
apart AS (
    SELECT one.record, one.seed, one.source AS source, other.source AS other
    FROM seed_sources AS one
    INNER JOIN seed_sources AS other
        ON other.record = one.record AND other.seed = one.seed AND other.source > one.source
    WHERE one.val_bpb IS NOT NULL AND other.val_bpb IS NOT NULL
    GROUP BY one.record, one.seed, one.source, other.source
    HAVING min(abs(one.val_bpb - other.val_bpb)) > 0.000101
),

seeds AS (
    SELECT
        seeds.record,
        seeds.seed,
        string_agg(seeds.said, '; ' ORDER BY seeds.row) AS said,
        min(seeds.event_id) AS event_id
    FROM (SELECT *, val_bpb || ' (' || source || ' ' || evidence || ')' AS said FROM seed_sources) AS seeds
    WHERE seeds.val_bpb IS NOT NULL AND EXISTS (
        SELECT 1 FROM apart
        WHERE apart.record = seeds.record AND apart.seed = seeds.seed AND seeds.source IN (apart.source, apart.other)
    )
    GROUP BY seeds.record, seeds.seed
),

flags AS (
    SELECT
        record, 'reading' AS kind, item.field AS field, array_to_string(item.said, '; ') AS said,
        item.reason AS reason, event_id, 1000 * part + number AS turn
    FROM told
    UNION ALL
    SELECT
        record, 'seed' AS kind, 'seed ' || seed AS field, said, 'its sources differ on this seed' AS reason, event_id,
        1000000000 + seed AS turn
    FROM seeds
    WHERE (record, 'seed ' || seed) NOT IN (SELECT (record, item.field) FROM told)  -- the reading tells it itself
    UNION ALL
    SELECT
        record, 'delta' AS kind, 'delta_bpb' AS field,
        delta_bpb_stated || ' stated; ' || delta_bpb || ' from ' || val_bpb || ' and ' || base_val_bpb AS said,
        'the stated difference is another than the scores give' AS reason, event_id, 0 AS turn
    FROM records
    WHERE abs(delta_bpb - delta_bpb_stated) > 0.000151
    UNION ALL
    SELECT
        leaderboard.record, 'leaderboard' AS kind, 'val_bpb' AS field,
        records.val_bpb || coalesce(' (' || records.val_bpb_evidence || ')', '') || '; ' || leaderboard.score
        || ' (leaderboard ' || leaderboard.evidence || ')' AS said,
        'the leaderboard has another score' AS reason, records.event_id, leaderboard.row AS turn
    FROM leaderboard
    INNER JOIN records ON records.record = leaderboard.record
    WHERE abs(records.val_bpb - leaderboard.score) > 0.000101
        -- A score with three digits says no more than three.
        AND round(records.val_bpb, len(split_part(leaderboard.score::VARCHAR, '.', 2))::INTEGER) <> leaderboard.score
)

SELECT
    flags.record,
    flags.kind,
    flags.field,
    flags.said,
    flags.reason,
    flags.event_id,
    row_number() OVER (
        PARTITION BY flags.record ORDER BY flags.kind, flags.turn, flags.field, flags.said, flags.event_id
    ) AS row
FROM flags
ORDER BY flags.record, row

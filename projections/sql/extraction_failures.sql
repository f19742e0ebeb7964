-- One row a record or file that could not be read, and why.
-- kind: view
-- key: position
-- columns:
--   record: track and folder, or the file
--   path: the file that was the reason
--   reason: why, in one line
--   parser: name and version of the rules
--   source_digest: digest of the bytes that could not be read, null where they could not be had
--   standing: whether it is so still: nothing of the record was read since, and it failed in no other way since
--   recorded_at: when it was tried
--   position: position of the event
--   event_id: id of the event
SELECT
    failed.record,
    failed.path,
    failed.reason,
    failed.parser,
    failed.source_digest,
    reading.record IS NULL
    AND row_number() OVER (PARTITION BY failed.record ORDER BY failed.position DESC) = 1 AS standing,
    failed.recorded_at,
    failed.position,
    failed.event_id
FROM facts.extraction_failed AS failed
LEFT JOIN (
    SELECT record, max(position) AS position
    FROM (
        SELECT record, position FROM record_readings
        UNION ALL
        SELECT 'leaderboard' AS record, position FROM facts.leaderboard_extracted
    )
    GROUP BY record
) AS reading ON reading.record = failed.record AND reading.position > failed.position
ORDER BY failed.position

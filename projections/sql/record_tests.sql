-- One row a significance test that a record or its line on the leaderboard prints, its figures as written.
-- Whether they come out of the seeds is told by `claim_audit`.
-- kind: view
-- key: place, row
-- columns:
--   place: the record; of a leaderboard line "leaderboard" and its repository
--   record: track and folder, null for a line that no record here matches
--   told: name of the run on the leaderboard, null in a record's own text
--   p: p-value as written, null where only a statistic is printed
--   relation: = or <
--   t: statistic as written
--   df: degrees of freedom as written
--   against: what is tested against: # and the number of a pull request, or numbers; null where the text names nothing
--   evidence: file and line
--   event_id: id of the event that holds it
--   row: number of the row within its place
WITH own AS (
    SELECT
        extracted.record AS place,
        extracted.record,
        NULL::VARCHAR AS told,
        extracted.event_id,
        1000 * extracted.part + generate_subscripts(extracted.tests, 1) AS turn,
        unnest(extracted.tests) AS item
    FROM record_readings AS reading
    INNER JOIN facts.record_extracted AS extracted
        ON extracted.record = reading.record AND extracted.position - extracted.part + 1 = reading.position
    WHERE reading.newest
),

board AS (
    SELECT
        trim('leaderboard ' || line.repository) AS place,
        line.record,
        line.run AS told,
        line.event_id,
        1000 * line.row + generate_subscripts(page.item.tests, 1) AS turn,
        unnest(page.item.tests) AS item
    FROM leaderboard AS line
    INNER JOIN (SELECT event_id, unnest(rows) AS item FROM facts.leaderboard_extracted) AS page
        ON page.event_id = line.event_id AND page.item.evidence = line.evidence AND page.item.run = line.run
)

SELECT
    each.place,
    each.record,
    each.told,
    each.item.p AS p,
    each.item.relation AS relation,
    each.item.t AS t,
    each.item.df AS df,
    nullif(array_to_string(each.item.against, ', '), '') AS against,
    each.item.evidence AS evidence,
    each.event_id,
    row_number() OVER (PARTITION BY each.place ORDER BY each.turn, each.item.evidence, each.item.p) AS row
FROM (SELECT * FROM own UNION ALL SELECT * FROM board) AS each
ORDER BY each.place, row

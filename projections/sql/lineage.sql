-- One row a parent of a record: what it was built on, as it says itself or as the leaderboard says.
-- A parent that no record here matches stays as it was written, and `resolved` is false.
-- kind: view
-- key: record, parent
-- columns:
--   record: track and folder
--   parent: the parent's track and folder; else the text that names it
--   how: declared (the record names it), leaderboard (its line there does) or inferred (only the score fits, of a record that is not later)
--   evidence: file and line, of the leaderboard's README where that is the source
--   resolved: whether parent is a record
--   told: the parent as written
--   val_bpb: its score as stated beside it
--   event_id: id of the event that holds the statement
WITH extracted AS (
    SELECT
        extracted.*,
        generate_subscripts(extracted.lineage, 1) AS number,
        unnest(extracted.lineage) AS item
    FROM record_readings AS reading
    INNER JOIN facts.record_extracted AS extracted
        ON extracted.record = reading.record AND extracted.position - extracted.part + 1 = reading.position
    WHERE reading.newest
),

-- First what the record declares; without that its base; then its line on the leaderboard.
statements AS (
    SELECT
        record, repository, item.parent AS told, item.val_bpb AS val_bpb, item.evidence AS evidence, event_id,
        1 AS rank, 1000 * part + number AS turn
    FROM extracted
    UNION ALL
    SELECT
        record, repository, coalesce(base_ref, base_val_bpb::VARCHAR) AS told, base_val_bpb, base_evidence, event_id,
        2 AS rank, 0 AS turn
    FROM record_claims
    WHERE (base_ref IS NOT NULL OR base_val_bpb IS NOT NULL) AND record NOT IN (SELECT record FROM extracted)
    UNION ALL
    SELECT
        record, repository, 'PR #' || regexp_extract(below, '#(\d+)[^,;:.()#]* (?:stack|base|baseline)\b', 1) AS told,
        NULL AS val_bpb, evidence, event_id, 3 AS rank, row AS turn
    FROM (SELECT *, regexp_replace(summary, '^On (?:PR )?#\d+', '') AS below FROM leaderboard)
    WHERE record IS NOT NULL AND regexp_matches(below, '#\d+[^,;:.()#]* (?:stack|base|baseline)\b')
),

marked AS (
    SELECT
        *,
        CASE
            -- A pull request of another repository has a number of its own; a fork's are those of its source.
            WHEN contains(coalesce(repository, told), regexp_extract(told, 'github\.com/[\w.-]+/([\w.-]+)/pull', 1))
                THEN try_cast(regexp_extract(told, '(?i)(?:#|/pull/|\bPR[ -]?)(\d+)', 1) AS BIGINT)
        END AS pull_request,
        regexp_extract(told, '(?:^|[/\s(`])([^/\s()`]+?)(?:/README\.md)?/?[)`]?$', 1) AS folder,
        round(val_bpb, 4) AS rounded
    FROM statements
),

own AS (
    SELECT
        record,
        regexp_extract(record, '([^/]+)$', 1) AS folder,
        left(date, 10) AS day,
        round(val_bpb, 4) AS rounded
    FROM record_claims
    WHERE NOT starts_with(parser, 'import/')
),

by_number AS (
    SELECT pull_request, min(record) AS record
    FROM leaderboard
    WHERE pull_request IS NOT NULL AND record IS NOT NULL
    GROUP BY pull_request
    HAVING count(DISTINCT record) = 1
),

by_folder AS (
    SELECT folder, min(record) AS record
    FROM own
    GROUP BY folder
    HAVING count(*) = 1
),

by_name AS (
    SELECT lower(run) AS run, min(record) AS record
    FROM leaderboard
    WHERE record IS NOT NULL
    GROUP BY lower(run)
    HAVING count(DISTINCT record) = 1
),

by_score AS (
    SELECT rounded, min(record) AS record, min(day) AS day
    FROM own
    WHERE rounded IS NOT NULL
    GROUP BY rounded
    HAVING count(*) = 1
),

found AS (
    SELECT
        marked.*,
        coalesce(by_number.record, by_folder.record, by_name.record) AS named,
        coalesce(by_number.record, by_folder.record, by_name.record, by_score.record) AS found
    FROM marked
    LEFT JOIN own ON own.record = marked.record
    LEFT JOIN by_number ON by_number.pull_request = marked.pull_request
    LEFT JOIN by_folder ON by_folder.folder = marked.folder
    LEFT JOIN by_name ON by_name.run = lower(marked.told)
    LEFT JOIN by_score
        ON by_score.rounded = marked.rounded AND by_score.record <> marked.record
        AND coalesce(by_score.day <= own.day, true)
),

parents AS (
    SELECT
        *,
        coalesce(found, told) AS parent,
        CASE
            WHEN found IS NOT NULL AND named IS NULL THEN 'inferred'
            WHEN rank = 3 THEN 'leaderboard'
            ELSE 'declared'
        END AS how
    FROM found
    WHERE found IS DISTINCT FROM record
)

SELECT
    parents.record,
    parents.parent,
    parents.how,
    parents.evidence,
    parents.found IS NOT NULL AS resolved,
    parents.told,
    parents.val_bpb,
    parents.event_id
FROM parents
WHERE parents.parent IS NOT NULL
QUALIFY row_number() OVER (
    PARTITION BY parents.record, parents.parent
    ORDER BY parents.how = 'inferred', parents.rank, parents.turn, parents.told, parents.evidence
) = 1
ORDER BY parents.record, parents.parent

-- One row a line of a leaderboard table, as the newest reading of its README has it.
-- kind: view
-- key: repository, row
-- columns:
--   repository: where it was read; empty where that is not known
--   row: number of the line within the README, the best first as it stands there
--   track: the table's track
--   run: name of the run
--   score: score as written
--   author: who submitted it
--   summary: what it says of the run
--   date: as written
--   linked: the record's folder that its link names
--   record: the record that is meant: by the link, else the only one of that score
--   pull_request: number of the run's own pull request, where the summary begins with it
--   evidence: file and line
--   event_id: id of the event that holds the row
WITH pages AS (
    SELECT
        *,
        coalesce(repository, '') AS place,
        first_value(source_digest) OVER (PARTITION BY coalesce(repository, '') ORDER BY position DESC) AS newest
    FROM facts.leaderboard_extracted
),

told AS (
    SELECT
        place,
        position,
        event_id,
        generate_subscripts(rows, 1) AS number,
        unnest(rows) AS item
    FROM pages
    WHERE source_digest = newest
),

-- Read again, the same README gives the same lines: of each the last counts.
lines AS (
    SELECT
        *,
        regexp_extract(item.record, '([^/]+)/*$', 1) AS folder,
        try_cast(regexp_extract(item.summary, '^On (?:PR )?#(\d+)', 1) AS BIGINT) AS pull_request,
        split_part(item.evidence, ':', 1) AS file,
        try_cast(regexp_extract(item.evidence, ':(\d+)', 1) AS BIGINT) AS line
    FROM told
    QUALIFY row_number() OVER (PARTITION BY place, item.evidence ORDER BY position DESC, number) = 1
),

numbered AS (
    SELECT *, row_number() OVER (PARTITION BY place ORDER BY file, line, item.evidence) AS row
    FROM lines
),

folders AS (
    SELECT regexp_extract(record, '([^/]+)$', 1) AS folder, min(record) AS record
    FROM record_claims
    WHERE NOT starts_with(parser, 'import/')
    GROUP BY folder
    HAVING count(*) = 1
),

-- A line whose link names no folder: by its score, where just one record has it.
guessed AS (
    SELECT numbered.place, numbered.row, min(records.record) AS record
    FROM numbered
    INNER JOIN record_claims AS records
        ON round(records.val_bpb, 4) = round(numbered.item.score, 4)
        AND NOT starts_with(records.parser, 'import/')
    WHERE coalesce(numbered.folder, '') = ''
    GROUP BY numbered.place, numbered.row
    HAVING count(*) = 1
)

SELECT
    numbered.place AS repository,
    numbered.row,
    numbered.item.track AS track,
    numbered.item.run AS run,
    numbered.item.score AS score,
    numbered.item.author AS author,
    numbered.item.summary AS summary,
    numbered.item.date AS date,
    numbered.item.record AS linked,
    coalesce(folders.record, guessed.record) AS record,
    numbered.pull_request,
    numbered.item.evidence AS evidence,
    numbered.event_id
FROM numbered
LEFT JOIN folders ON folders.folder = numbered.folder
LEFT JOIN guessed ON guessed.place = numbered.place AND guessed.row = numbered.row
ORDER BY repository, numbered.row

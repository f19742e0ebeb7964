-- One row a figure of a revision about its data as a whole: comparisons with one change and with many, shares that
-- can be tested and told apart, pairs that always come together. More than half with three changes or more: skip.
-- kind: view
-- key: revision, measure
-- columns:
--   revision: position of the revision's event
--   latest: whether it is the newest revision
--   measure: its name
--   value: its value, a share or a count
--   note: what it counts
--   recommendation: of the revision: proceed or skip
--   engine_version: name and version of the procedure
--   head_position: how many events the revision read
--   head_root: Merkle root of those events
--   event_id: id of the revision's event
WITH listed AS (
    SELECT position - part + 1 AS revision, unnest(measures) AS told
    FROM facts.dag_revised
)

SELECT
    revision.position AS revision,
    revision.latest,
    listed.told.name AS measure,
    listed.told.value AS value,
    listed.told.note AS note,
    revision.recommendation,
    revision.engine_version,
    revision.head_position,
    revision.head_root,
    revision.event_id
FROM listed
INNER JOIN dag_revisions AS revision ON revision.position = listed.revision
ORDER BY revision, measure

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
    SELECT position, event_id, procedure, head, recommendation, unnest(measures) AS told
    FROM facts.dag_revised
)

SELECT
    listed.position AS revision,
    listed.position = (SELECT max(position) FROM facts.dag_revised) AS latest,
    listed.told.name AS measure,
    listed.told.value AS value,
    listed.told.note AS note,
    listed.recommendation,
    listed.procedure AS engine_version,
    listed.head.position AS head_position,
    listed.head.root AS head_root,
    listed.event_id
FROM listed
ORDER BY revision, measure

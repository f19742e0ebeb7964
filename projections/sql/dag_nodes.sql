-- One row a node of a revision of the causal DAG.
-- kind: view
-- key: revision, id
-- columns:
--   revision: position of the revision's event
--   latest: whether it is the newest revision
--   id: the technique, the setting, or the skeleton's name
--   kind: intervention, mediator or outcome
--   label: for people
--   category: kind of the technique (architecture, quantization and so on), empty for the others
--   unit: of a mediator or the outcome; log where effects on it are relative
--   delta: smallest change of it that matters
--   engine_version: name and version of the procedure
--   head_position: how many events the revision read
--   head_root: Merkle root of those events
--   event_id: id of the revision's event
WITH listed AS (
    SELECT position - part + 1 AS revision, unnest(nodes) AS node
    FROM facts.dag_revised
)

SELECT
    revision.position AS revision,
    revision.latest,
    listed.node.id AS id,
    listed.node.kind AS kind,
    listed.node.label AS label,
    listed.node."group" AS category,
    listed.node.unit AS unit,
    listed.node.delta AS delta,
    revision.engine_version,
    revision.head_position,
    revision.head_root,
    revision.event_id
FROM listed
INNER JOIN dag_revisions AS revision ON revision.position = listed.revision
ORDER BY revision, id

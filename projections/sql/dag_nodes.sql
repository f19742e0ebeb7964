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
    SELECT position, event_id, procedure, head, unnest(nodes) AS node
    FROM facts.dag_revised
)

SELECT
    listed.position AS revision,
    listed.position = (SELECT max(position) FROM facts.dag_revised) AS latest,
    listed.node.id AS id,
    listed.node.kind AS kind,
    listed.node.label AS label,
    listed.node."group" AS category,
    listed.node.unit AS unit,
    listed.node.delta AS delta,
    listed.procedure AS engine_version,
    listed.head.position AS head_position,
    listed.head.root AS head_root,
    listed.event_id
FROM listed
ORDER BY revision, id

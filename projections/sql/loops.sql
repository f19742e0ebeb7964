-- One row a closed way along comparisons in a revision: what was measured around it less what the effects imply.
-- Beyond 3 standard deviations a parent was declared wrongly, or techniques interact.
-- kind: view
-- key: revision, loop
-- columns:
--   revision: position of the revision's event
--   latest: whether it is the newest revision
--   loop: number within the revision
--   target: the node whose changes were added up
--   noise_class: track, or platform and scale
--   stacks: records or arms along the way
--   residual: measured less implied
--   sd: its standard deviation
--   z: residual / sd
--   flagged: whether |z| is above 3
--   engine_version: name and version of the procedure
--   head_position: how many events the revision read
--   head_root: Merkle root of those events
--   event_id: id of the revision's event
WITH listed AS (
    SELECT position - part + 1 AS revision, unnest(loops) AS way
    FROM facts.dag_revised
)

SELECT
    revision.position AS revision,
    revision.latest,
    listed.way.loop AS loop,
    listed.way.target AS target,
    listed.way."where" AS noise_class,
    array_to_string(listed.way.stacks, ' - ') AS stacks,
    listed.way.residual AS residual,
    listed.way.sd AS sd,
    listed.way.z AS z,
    listed.way.flagged AS flagged,
    revision.engine_version,
    revision.head_position,
    revision.head_root,
    revision.event_id
FROM listed
INNER JOIN dag_revisions AS revision ON revision.position = listed.revision
ORDER BY revision, loop

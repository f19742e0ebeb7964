-- One row a run of a causal discovery program within a revision, and what came of it. Such a program may only
-- propose: it never decides an edge. A run that failed is a row with the reason.
-- kind: view
-- key: revision, algorithm
-- columns:
--   revision: position of the revision's event
--   latest: whether it is the newest revision
--   algorithm: fci, pc or ges
--   version: of the library
--   test: test of independence, or the score
--   alpha: its level
--   rows: stacks that it saw
--   columns: columns that it saw, after merging
--   merged: columns that were equal (a = b) and those left out as constant (c = const)
--   outcome: ok, degenerate, singular, timeout, missing or failed
--   reason: why it found nothing, empty when ok
--   proposed: edges that it returned
--   edges: the edges, as src mark dst
--   limit_s: seconds that it had
--   input_digest: SHA-256 of what it saw
--   engine_version: name and version of the procedure
--   head_position: how many events the revision read
--   head_root: Merkle root of those events
--   event_id: id of the revision's event
WITH listed AS (
    SELECT position - part + 1 AS revision, unnest(discovery) AS program
    FROM facts.dag_revised
)

SELECT
    revision.position AS revision,
    revision.latest,
    listed.program.algorithm AS algorithm,
    listed.program.version AS version,
    listed.program.test AS test,
    listed.program.alpha AS alpha,
    listed.program.rows AS rows,
    listed.program.columns AS columns,
    array_to_string(listed.program.merged, '; ') AS merged,
    listed.program.outcome AS outcome,
    listed.program.reason AS reason,
    len(listed.program.proposed) AS proposed,
    array_to_string(
        list_transform(listed.program.proposed, lambda edge: edge.src || ' ' || edge.mark || ' ' || edge.dst), '; '
    ) AS edges,
    listed.program.limit_s AS limit_s,
    listed.program.input_digest AS input_digest,
    revision.engine_version,
    revision.head_position,
    revision.head_root,
    revision.event_id
FROM listed
INNER JOIN dag_revisions AS revision ON revision.position = listed.revision
ORDER BY revision, algorithm

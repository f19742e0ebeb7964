-- One row a pair of techniques that no stack has together, of those whose effects data speak of: what both would give
-- if they added up. The twenty most promising of a revision.
-- kind: view
-- key: revision, rank
-- columns:
--   revision: position of the revision's event
--   latest: whether it is the newest revision
--   rank: 1 for the most promising
--   a: technique
--   b: technique
--   expected: sum of both effects, and of their interaction where data speak of it
--   sd: its standard deviation, with the interaction's prior
--   interaction_sd: standard deviation of that prior
--   engine_version: name and version of the procedure
--   head_position: how many events the revision read
--   head_root: Merkle root of those events
--   event_id: id of the revision's event
WITH listed AS (
    SELECT
        position, event_id, procedure, head, generate_subscripts(unexplored, 1) AS rank, unnest(unexplored) AS pair
    FROM facts.dag_revised
)

SELECT
    listed.position AS revision,
    listed.position = (SELECT max(position) FROM facts.dag_revised) AS latest,
    listed.rank,
    listed.pair.a AS a,
    listed.pair.b AS b,
    listed.pair.expected AS expected,
    listed.pair.sd AS sd,
    listed.pair.prior_sd AS interaction_sd,
    listed.procedure AS engine_version,
    listed.head.position AS head_position,
    listed.head.root AS head_root,
    listed.event_id
FROM listed
ORDER BY revision, rank

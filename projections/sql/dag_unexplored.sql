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
        position - part + 1 AS revision, part, generate_subscripts(unexplored, 1) AS place, unnest(unexplored) AS pair
    FROM facts.dag_revised
)

SELECT
    revision.position AS revision,
    revision.latest,
    row_number() OVER (PARTITION BY revision.position ORDER BY listed.part, listed.place) AS rank,
    listed.pair.a AS a,
    listed.pair.b AS b,
    listed.pair.expected AS expected,
    listed.pair.sd AS sd,
    listed.pair.prior_sd AS interaction_sd,
    revision.engine_version,
    revision.head_position,
    revision.head_root,
    revision.event_id
FROM listed
INNER JOIN dag_revisions AS revision ON revision.position = listed.revision
ORDER BY revision, rank

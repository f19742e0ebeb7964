-- One row a pair of techniques of a revision whose interaction the comparisons identify: each enters apart from the
-- other twice or more, and what both do together no sum of techniques can tell.
-- kind: view
-- key: revision, noise_class, target, a, b
-- columns:
--   revision: position of the revision's event
--   latest: whether it is the newest revision
--   a: technique
--   b: technique
--   target: the node that both act on
--   noise_class: track, or platform and scale
--   n_contrasts: comparisons in which having both changes
--   mean: how much more both do together, shrunken
--   sd: posterior standard deviation
--   p_neg: probability that it is below 0
--   engine_version: name and version of the procedure
--   head_position: how many events the revision read
--   head_root: Merkle root of those events
--   event_id: id of the revision's event
WITH listed AS (
    SELECT position - part + 1 AS revision, unnest(interactions) AS pair
    FROM facts.dag_revised
)

SELECT
    revision.position AS revision,
    revision.latest,
    listed.pair.a AS a,
    listed.pair.b AS b,
    listed.pair.target AS target,
    listed.pair."where" AS noise_class,
    listed.pair.contrasts AS n_contrasts,
    listed.pair.mean AS mean,
    listed.pair.sd AS sd,
    listed.pair.p_negative AS p_neg,
    revision.engine_version,
    revision.head_position,
    revision.head_root,
    revision.event_id
FROM listed
INNER JOIN dag_revisions AS revision ON revision.position = listed.revision
ORDER BY revision, noise_class, target, a, b

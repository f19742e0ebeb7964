-- One row a technique, target and noise class of a revision: its effect from the lineage, shrunken. A prior, never
-- confirmed: records are kept because they improved. The 90 % interval is the t interval of that posterior.
-- kind: view
-- key: revision, noise_class, target, technique
-- columns:
--   revision: position of the revision's event
--   latest: whether it is the newest revision
--   technique: canonical id, or a setting
--   target: the node that it acts on
--   noise_class: track, or platform and scale
--   n_contrasts: comparisons that change it
--   mean: posterior mean of its effect
--   sd: posterior standard deviation
--   lo90: lower end of the 90 % interval
--   hi90: upper end of the 90 % interval
--   p_neg: probability that it is below 0
--   shrink: share of the prior's variance that the data took away
--   stability: share of 200 draws of whole branches in which it has this sign at P > .9
--   loo_min: smallest effect when one branch is left out
--   loo_max: largest effect when one branch is left out
--   identifiable: whether the comparisons tell it from all others
--   practical: whether its standard deviation is below .7 of the prior's
--   alias_class: number of the class that it is confounded in, null where it is told apart
--   loop_z: largest |z| of a loop that it takes part in
--   engine_version: name and version of the procedure
--   head_position: how many events the revision read
--   head_root: Merkle root of those events
--   event_id: id of the revision's event
WITH listed AS (
    SELECT position - part + 1 AS revision, unnest(lineage) AS effect
    FROM facts.dag_revised
)

SELECT
    revision.position AS revision,
    revision.latest,
    listed.effect.technique AS technique,
    listed.effect.target AS target,
    listed.effect."where" AS noise_class,
    listed.effect.contrasts AS n_contrasts,
    listed.effect.mean AS mean,
    listed.effect.sd AS sd,
    listed.effect.lo90 AS lo90,
    listed.effect.hi90 AS hi90,
    listed.effect.p_negative AS p_neg,
    listed.effect.shrink AS shrink,
    listed.effect.stability AS stability,
    listed.effect.loo_min AS loo_min,
    listed.effect.loo_max AS loo_max,
    listed.effect.structural AS identifiable,
    listed.effect.practical AS practical,
    listed.effect.alias_class AS alias_class,
    listed.effect.loop_z AS loop_z,
    revision.engine_version,
    revision.head_position,
    revision.head_root,
    revision.event_id
FROM listed
INNER JOIN dag_revisions AS revision ON revision.position = listed.revision
ORDER BY revision, noise_class, target, technique

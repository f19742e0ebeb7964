-- One row a technique and noise class of a revision: whether its effect on the outcome can be told from the others',
-- and the cheapest experiment that would tell something new where it cannot.
-- kind: view
-- key: revision, noise_class, technique
-- columns:
--   revision: position of the revision's event
--   latest: whether it is the newest revision
--   technique: canonical id, or a setting
--   noise_class: track, or platform and scale
--   structural: whether its unit vector lies in the row space of the comparisons
--   practical: whether its posterior standard deviation is below .7 of the prior's
--   alias_class: number of the class that it is confounded in (of its noise class), null where it is told apart
--   aliases: techniques of that class
--   separating_experiment: the cheapest experiment that raises the rank within the class
--   ablate: the technique that it takes out
--   cost_runs: its cost in runs
--   engine_version: name and version of the procedure
--   head_position: how many events the revision read
--   head_root: Merkle root of those events
--   event_id: id of the revision's event
WITH outcomes AS (
    SELECT revision, node.id AS outcome
    FROM (SELECT position - part + 1 AS revision, unnest(nodes) AS node FROM facts.dag_revised)
    WHERE node.kind = 'outcome'
),

listed AS (
    SELECT position - part + 1 AS revision, unnest(lineage) AS effect
    FROM facts.dag_revised
),

classes AS (
    SELECT position - part + 1 AS revision, unnest(separations) AS class
    FROM facts.dag_revised
),

members AS (
    SELECT revision, class, unnest(class.techniques) AS technique
    FROM classes
)

SELECT
    revision.position AS revision,
    revision.latest,
    listed.effect.technique AS technique,
    listed.effect."where" AS noise_class,
    listed.effect.structural AS structural,
    listed.effect.practical AS practical,
    listed.effect.alias_class AS alias_class,
    array_to_string(members.class.techniques, ', ') AS aliases,
    nullif(members.class.experiment, '') AS separating_experiment,
    members.class.ablate AS ablate,
    members.class.cost_runs AS cost_runs,
    revision.engine_version,
    revision.head_position,
    revision.head_root,
    revision.event_id
FROM listed
INNER JOIN dag_revisions AS revision ON revision.position = listed.revision
INNER JOIN outcomes ON outcomes.revision = listed.revision AND outcomes.outcome = listed.effect.target
LEFT JOIN members
    ON members.revision = listed.revision AND members.class."where" = listed.effect."where"
    AND members.technique = listed.effect.technique
ORDER BY revision, noise_class, technique

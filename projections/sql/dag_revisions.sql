-- One row a revision of the causal DAG, less those that were taken back; `ledger dag show` draws one.
-- kind: view
-- key: position
-- columns:
--   position: position of its event, of the first of its parts
--   event_id: id of that event
--   parts: how many events hold it; to take back one of them is to take it back
--   number: 1 for the first revision, in log order
--   latest: whether it is the newest
--   base: event id of the revision before it as it was made, null for the first
--   base_retracted: whether that one was taken back since
--   nodes: how many nodes
--   interventions: of them interventions
--   edges: how many edges
--   supported: edges that data confirm
--   contradicted: edges whose effect has the other sign than the expert drew
--   no_effect: edges that are shown to have no effect that matters
--   undecided: edges that data leave open
--   imposed: edges that only an expert holds
--   proposed: edges that only a discovery program proposes
--   recommendation: proceed, or skip where too many comparisons change many things
--   notes: what was left out, one line each
--   skeleton_digest: SHA-256 of the expert's file, which is facts.dag_revised.skeleton
--   used: how many events it was judged from
--   engine_version: name and version of the procedure
--   code: digest of the code that judged
--   head_position: how many events it read
--   head_root: Merkle root of those events
--   recorded_at: when it was made
WITH parts AS (
    SELECT
        position - part + 1 AS revision,
        part,
        parts,
        len(used) AS used,
        len(nodes) AS nodes,
        len(list_filter(nodes, lambda node: node.kind = 'intervention')) AS interventions,
        notes
    FROM facts.dag_revised
),

held AS (
    SELECT
        revision,
        max(parts) AS parts,
        list_sum(list(used ORDER BY part))::BIGINT AS used,
        list_sum(list(nodes ORDER BY part))::BIGINT AS nodes,
        list_sum(list(interventions ORDER BY part))::BIGINT AS interventions,
        array_to_string(flatten(list(notes ORDER BY part)), chr(10)) AS notes
    FROM parts
    GROUP BY revision
    HAVING count(*) = max(parts)
),

counted AS (
    SELECT
        revision,
        count(*) AS edges,
        count(*) FILTER (edge.status = 'supported') AS supported,
        count(*) FILTER (edge.status = 'contradicted') AS contradicted,
        count(*) FILTER (edge.status = 'no_effect_that_matters') AS no_effect,
        count(*) FILTER (edge.status = 'undecided' AND edge.kind <> 'proposed') AS undecided,
        count(*) FILTER (edge.status = 'imposed') AS imposed,
        count(*) FILTER (edge.kind = 'proposed') AS proposed
    FROM (SELECT position - part + 1 AS revision, unnest(edges) AS edge FROM facts.dag_revised)
    GROUP BY revision
),

whole AS (
    SELECT held.*, head.* EXCLUDE (parts, used, nodes, notes)
    FROM held
    INNER JOIN facts.dag_revised AS head ON head.position = held.revision
)

SELECT
    revision.position,
    revision.event_id,
    revision.parts,
    row_number() OVER (ORDER BY revision.position) AS number,
    row_number() OVER (ORDER BY revision.position DESC) = 1 AS latest,
    revision.base,
    revision.base IS NOT NULL AND before.event_id IS NULL AS base_retracted,
    revision.nodes,
    revision.interventions,
    coalesce(counted.edges, 0) AS edges,
    coalesce(counted.supported, 0) AS supported,
    coalesce(counted.contradicted, 0) AS contradicted,
    coalesce(counted.no_effect, 0) AS no_effect,
    coalesce(counted.undecided, 0) AS undecided,
    coalesce(counted.imposed, 0) AS imposed,
    coalesce(counted.proposed, 0) AS proposed,
    revision.recommendation,
    revision.notes,
    revision.skeleton_digest,
    revision.used,
    revision.procedure AS engine_version,
    revision.code,
    revision.head.position AS head_position,
    revision.head.root AS head_root,
    revision.recorded_at
FROM whole AS revision
LEFT JOIN counted ON counted.revision = revision.revision
LEFT JOIN whole AS before ON before.event_id = revision.base
ORDER BY revision.position

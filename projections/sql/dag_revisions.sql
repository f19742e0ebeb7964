-- One row a revision of the causal DAG, less those that were taken back; `ledger dag show` draws one.
-- kind: view
-- key: position
-- columns:
--   position: position of the event
--   event_id: id of the event
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
WITH counted AS (
    SELECT
        position,
        count(*) AS edges,
        count(*) FILTER (edge.status = 'supported') AS supported,
        count(*) FILTER (edge.status = 'contradicted') AS contradicted,
        count(*) FILTER (edge.status = 'no_effect_that_matters') AS no_effect,
        count(*) FILTER (edge.status = 'undecided' AND edge.kind <> 'proposed') AS undecided,
        count(*) FILTER (edge.status = 'imposed') AS imposed,
        count(*) FILTER (edge.kind = 'proposed') AS proposed
    FROM (SELECT position, unnest(edges) AS edge FROM facts.dag_revised)
    GROUP BY position
)

SELECT
    revision.position,
    revision.event_id,
    row_number() OVER (ORDER BY revision.position) AS number,
    row_number() OVER (ORDER BY revision.position DESC) = 1 AS latest,
    revision.base,
    revision.base IS NOT NULL AND before.event_id IS NULL AS base_retracted,
    len(revision.nodes) AS nodes,
    len(list_filter(revision.nodes, lambda node: node.kind = 'intervention')) AS interventions,
    coalesce(counted.edges, 0) AS edges,
    coalesce(counted.supported, 0) AS supported,
    coalesce(counted.contradicted, 0) AS contradicted,
    coalesce(counted.no_effect, 0) AS no_effect,
    coalesce(counted.undecided, 0) AS undecided,
    coalesce(counted.imposed, 0) AS imposed,
    coalesce(counted.proposed, 0) AS proposed,
    revision.recommendation,
    array_to_string(revision.notes, chr(10)) AS notes,
    revision.skeleton_digest,
    len(revision.used) AS used,
    revision.procedure AS engine_version,
    revision.code,
    revision.head.position AS head_position,
    revision.head.root AS head_root,
    revision.recorded_at
FROM facts.dag_revised AS revision
LEFT JOIN counted ON counted.position = revision.position
LEFT JOIN facts.dag_revised AS before ON before.event_id = revision.base
ORDER BY revision.position

-- One row an edge of a revision of the causal DAG. Experiments judge it first, the lineage second; what the expert
-- drew and no comparison measures stays imposed. Lineage figures are a prior: records are kept because they improved.
-- kind: view
-- key: revision, src, dst
-- columns:
--   revision: position of the revision's event
--   latest: whether it is the newest revision
--   src: the node that it leads out of
--   dst: the node that it leads into
--   kind: what judged it: experiment, lineage, accounting (by definition), imposed (the expert), proposed (discovery)
--   status: imposed, supported, contradicted, undecided or no_effect_that_matters
--   tag: the same in the first plan's words: expert_imposed, data_confirmed, data_contradicted or uncertain
--   imposed: whether the expert's skeleton has it
--   expect: the sign that the skeleton says: lower, higher or any
--   effect: on dst, in its unit; negative is lower
--   sd: standard deviation of that
--   lo90: lower end of the 90 % interval
--   hi90: upper end of the 90 % interval
--   p_negative: probability that the effect is below 0
--   lineage_effect: what the lineage says, shrunken
--   lineage_sd: standard deviation of that
--   experiment_effect: what own experiments say
--   experiment_sd: standard error of that
--   stability: share of 200 draws of whole branches in which the lineage's effect has this sign at P > .9
--   loo_min: smallest lineage effect when one branch is left out
--   loo_max: largest lineage effect when one branch is left out
--   noise_class: where the figures hold: track, or platform and scale
--   proposed_by: discovery programs that found it too
--   evidence_ids: events behind the figures, in log order
--   first_seen: position of the first revision that has the edge
--   last_changed: position of the last revision in which its kind, status or effect changed
--   engine_version: name and version of the procedure
--   head_position: how many events the revision read
--   head_root: Merkle root of those events
--   event_id: id of the revision's event
WITH used AS (
    SELECT position - part + 1 AS revision, flatten(list(used ORDER BY part)) AS ids
    FROM facts.dag_revised
    GROUP BY revision
),

listed AS (
    SELECT revision.position, edge.edge
    FROM dag_revisions AS revision
    INNER JOIN (SELECT position - part + 1 AS revision, unnest(edges) AS edge FROM facts.dag_revised) AS edge
        ON edge.revision = revision.position
),

compared AS (
    SELECT
        *,
        min(position) OVER same AS first_seen,
        lag(edge) OVER (same ORDER BY position) AS before
    FROM listed
    WINDOW same AS (PARTITION BY edge.src, edge.dst)
),

marked AS (
    SELECT
        *,
        CASE
            WHEN before IS NULL OR edge.kind <> before.kind OR edge.status <> before.status
                OR edge.effect IS DISTINCT FROM before.effect
                THEN position
        END AS changed
    FROM compared
)

SELECT
    marked.position AS revision,
    revision.latest,
    marked.edge.src AS src,
    marked.edge.dst AS dst,
    marked.edge.kind AS kind,
    marked.edge.status AS status,
    marked.edge.tag AS tag,
    marked.edge.imposed AS imposed,
    marked.edge.expect AS expect,
    marked.edge.effect AS effect,
    marked.edge.sd AS sd,
    marked.edge.lo90 AS lo90,
    marked.edge.hi90 AS hi90,
    marked.edge.p_negative AS p_negative,
    marked.edge.lineage_effect AS lineage_effect,
    marked.edge.lineage_sd AS lineage_sd,
    marked.edge.experiment_effect AS experiment_effect,
    marked.edge.experiment_sd AS experiment_sd,
    marked.edge.stability AS stability,
    marked.edge.loo_min AS loo_min,
    marked.edge.loo_max AS loo_max,
    marked.edge."where" AS noise_class,
    array_to_string(marked.edge.proposed_by, ', ') AS proposed_by,
    array_to_string(list_transform(marked.edge.evidence, lambda place: used.ids[place + 1]), ', ') AS evidence_ids,
    marked.first_seen,
    max(marked.changed) OVER (
        PARTITION BY marked.edge.src, marked.edge.dst ORDER BY marked.position ROWS UNBOUNDED PRECEDING
    ) AS last_changed,
    revision.engine_version,
    revision.head_position,
    revision.head_root,
    revision.event_id
FROM marked
INNER JOIN dag_revisions AS revision ON revision.position = marked.position
INNER JOIN used ON used.revision = marked.position
ORDER BY revision, src, dst

-- One row an edge that a revision of the causal DAG changed against the revision before it. `ledger dag diff A B`
-- compares any two in the same way. Stability is drawn again for every revision and is no change.
-- kind: view
-- key: to_revision, src, dst
-- columns:
--   from_revision: position of the revision before
--   to_revision: position of the revision
--   from_head: how many events the one before read
--   to_head: how many events it read
--   src: the node that the edge leads out of
--   dst: the node that the edge leads into
--   change: added, removed, status, kind (another source judges it) or effect
--   before: status before, null where the edge was not there
--   after: status after, null where the edge is gone
--   kind_before: what judged it before
--   kind_after: what judges it now
--   effect_before: effect before
--   effect_after: effect after
--   z: the change of the effect, in standard deviations of what the new events could move it by
--   cause: evidence (its own events differ), model (others' events moved it), skeleton or procedure
--   event_ids: the events that one of the two was judged from and the other was not
WITH used AS (
    SELECT position - part + 1 AS revision, flatten(list(used ORDER BY part)) AS ids
    FROM facts.dag_revised
    GROUP BY revision
),

ordered AS (
    SELECT
        revision.position AS to_revision,
        revision.head_position AS to_head,
        revision.skeleton_digest,
        used.ids AS used,
        lag(revision.position) OVER log_order AS from_revision,
        lag(revision.head_position) OVER log_order AS from_head,
        lag(revision.skeleton_digest) OVER log_order AS skeleton_before,
        lag(used.ids) OVER log_order AS used_before
    FROM dag_revisions AS revision
    INNER JOIN used ON used.revision = revision.position
    WINDOW log_order AS (ORDER BY revision.position)
),

pairs AS (
    SELECT *
    FROM ordered
    WHERE from_revision IS NOT NULL
),

listed AS (
    SELECT position - part + 1 AS position, unnest(edges) AS edge
    FROM facts.dag_revised
),

sides AS (
    SELECT from_revision, to_revision, edge.src AS src, edge.dst AS dst, edge AS before, NULL AS after
    FROM pairs INNER JOIN listed ON listed.position = pairs.from_revision
    UNION ALL
    SELECT from_revision, to_revision, edge.src AS src, edge.dst AS dst, NULL AS before, edge AS after
    FROM pairs INNER JOIN listed ON listed.position = pairs.to_revision
),

-- At most one of each side: an edge stands once in a revision.
joined AS (
    SELECT to_revision, src, dst, max(before) AS before, max(after) AS after
    FROM sides
    GROUP BY to_revision, src, dst
),

changed AS (
    SELECT
        pairs.*,
        joined.src,
        joined.dst,
        joined.before,
        joined.after,
        CASE
            WHEN joined.before IS NULL THEN 'added'
            WHEN joined.after IS NULL THEN 'removed'
            WHEN joined.before.status <> joined.after.status THEN 'status'
            WHEN joined.before.kind <> joined.after.kind THEN 'kind'
            WHEN joined.before.effect IS DISTINCT FROM joined.after.effect THEN 'effect'
        END AS change,
        list_transform(coalesce(joined.before.evidence, []), lambda place: pairs.used_before[place + 1])
            AS evidence_before,
        list_transform(coalesce(joined.after.evidence, []), lambda place: pairs.used[place + 1]) AS evidence_after
    FROM joined
    INNER JOIN pairs ON pairs.to_revision = joined.to_revision
),

causes AS (
    SELECT
        *,
        list_concat(
            list_filter(evidence_after, lambda one: NOT list_contains(evidence_before, one)),
            list_filter(evidence_before, lambda one: NOT list_contains(evidence_after, one))
        ) AS own,
        list_concat(
            list_filter(used, lambda one: NOT list_contains(used_before, one)),
            list_filter(used_before, lambda one: NOT list_contains(used, one))
        ) AS others
    FROM changed
    WHERE change IS NOT NULL
)

SELECT
    causes.from_revision,
    causes.to_revision,
    causes.from_head,
    causes.to_head,
    causes.src,
    causes.dst,
    causes.change,
    causes.before.status AS before,
    causes.after.status AS after,
    causes.before.kind AS kind_before,
    causes.after.kind AS kind_after,
    causes.before.effect AS effect_before,
    causes.after.effect AS effect_after,
    CASE
        WHEN greatest(causes.before.sd, causes.after.sd) > 0 AND causes.before.sd IS NOT NULL AND causes.after.sd IS NOT NULL
            THEN (causes.after.effect - causes.before.effect) / sqrt(greatest(
                abs(causes.before.sd ** 2 - causes.after.sd ** 2),
                0.04 * greatest(causes.before.sd, causes.after.sd) ** 2
            ))
    END AS z,
    CASE
        WHEN len(causes.own) > 0 THEN 'evidence'
        WHEN causes.skeleton_digest <> causes.skeleton_before THEN 'skeleton'
        WHEN len(causes.others) > 0 THEN 'model'
        ELSE 'procedure'
    END AS cause,
    array_to_string(
        CASE WHEN len(causes.own) > 0 THEN causes.own WHEN causes.skeleton_digest <> causes.skeleton_before THEN [] ELSE causes.others END,
        ', '
    ) AS event_ids
FROM causes
ORDER BY to_revision, src, dst

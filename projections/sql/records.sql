-- One row a record of a leaderboard, as its newest reading has it. What the text does not state is null.
-- kind: view
-- key: record
-- columns:
--   record: track and folder, as track/folder
--   track: the track it was submitted to
--   name: the submission's name
--   author: who submitted it
--   github_id: the author's account
--   date: when it was submitted, as written
--   val_bpb: the record's score in bits per byte
--   base_ref: what it compares itself with, as written
--   base_val_bpb: score of that base as the record states it
--   delta_bpb: val_bpb minus base_val_bpb; negative is better
--   bytes_total: size of the submission
--   format: A (a change a row with its effect), B (base and this side by side) or C (prose)
--   field_coverage: share of record, date, author, base score (stated, or of its parent), score and techniques that are there
--   source_digest: digest over the files that were read
--   event_id: id of the reading's first event
--   delta_bpb_stated: the difference to the base as the text prints it, negative is better
--   delta_nats_stated: the same in nats a token
--   val_bpb_evidence: file and line of the score
--   base_evidence: file and line of the base
--   repository: where the record was read, null where that is not known
--   parser: name and version of the rules that read it
--   position: position of the reading's first event
--   parent: the record that it was built on, where one of these is (see lineage; the declared one first)
--   parent_val_bpb: what that record says of itself
WITH parents AS (
    SELECT lineage.record, lineage.parent, parent.val_bpb AS parent_val_bpb
    FROM lineage
    INNER JOIN record_claims AS parent ON parent.record = lineage.parent
    WHERE lineage.resolved
    QUALIFY row_number() OVER (PARTITION BY lineage.record ORDER BY lineage.how <> 'declared', lineage.parent) = 1
)

SELECT
    said.record,
    said.track,
    said.name,
    said.author,
    said.github_id,
    said.date,
    said.val_bpb,
    said.base_ref,
    said.base_val_bpb,
    said.delta_bpb,
    said.bytes_total,
    said.format,
    (
        1 + (coalesce(said.date, '') <> '')::INTEGER + (coalesce(said.author, '') <> '')::INTEGER
        + (coalesce(said.base_val_bpb, parents.parent_val_bpb) IS NOT NULL)::INTEGER
        + (said.val_bpb IS NOT NULL)::INTEGER + (said.techniques > 0)::INTEGER
    ) / 6 AS field_coverage,
    said.source_digest,
    said.event_id,
    said.delta_bpb_stated,
    said.delta_nats_stated,
    said.val_bpb_evidence,
    said.base_evidence,
    said.repository,
    said.parser,
    said.position,
    parents.parent,
    parents.parent_val_bpb
FROM record_claims AS said
LEFT JOIN parents ON parents.record = said.record
ORDER BY said.record

-- One row a record of a leaderboard, as its newest reading has it, and nothing from elsewhere: `records` adds its parent.
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
--   techniques: how many rows its techniques have
--   source_digest: digest over the files that were read
--   event_id: id of the reading's first event
--   delta_bpb_stated: the difference to the base as the text prints it, negative is better
--   delta_nats_stated: the same in nats a token
--   val_bpb_evidence: file and line of the score
--   base_evidence: file and line of the base
--   repository: where the record was read, null where that is not known
--   parser: name and version of the rules that read it
--   position: position of the reading's first event
SELECT
    reading.record,
    head.track,
    head.name,
    head.author,
    head.github_id,
    head.date,
    head.val_bpb,
    head.base_ref,
    head.base_val_bpb,
    round(head.val_bpb - head.base_val_bpb, 8) AS delta_bpb,
    head.bytes_total,
    head.format,
    reading.interventions AS techniques,
    head.source_digest,
    head.event_id,
    head.delta_bpb_stated,
    head.delta_nats_stated,
    head.val_bpb_evidence,
    head.base_evidence,
    head.repository,
    head.parser,
    reading.position
FROM record_readings AS reading
INNER JOIN facts.record_extracted AS head ON head.position = reading.position
WHERE reading.newest
ORDER BY reading.record

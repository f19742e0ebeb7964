-- Every event of the log, retracted ones included.
-- kind: view
-- key: position
-- columns:
--   position: place in the total order, from 0
--   id: event id (UUID version 7)
--   type: what happened, noun first and in the past tense
--   version: version of the type's schema
--   stream: what it happened to, as kind/name
--   recorded_at: when its writer recorded it (never what orders it)
--   actor: who recorded it
--   correlation_id: id shared by events that belong together
--   causation_id: id of the event that led to this one
--   retracted_by: position of the retraction, null while the event counts
--   body: the canonical JSON whose hash is in the Merkle tree
SELECT
    event.position,
    event.event_id AS id,
    event.type,
    event.version,
    event.stream,
    event.recorded_at,
    event.actor,
    event.correlation_id,
    event.causation_id,
    retraction.position AS retracted_by,
    event.body
FROM facts.event AS event
LEFT JOIN facts.retraction AS retraction ON retraction.target = event.event_id
ORDER BY event.position

-- One row a stored artifact: bytes under blob/sha256/ by their digest.
-- kind: view
-- key: position
-- columns:
--   run: id of the run, null for an artifact of an experiment
--   experiment: id of the experiment, null for an artifact of a run
--   name: file name
--   kind: stdout, stderr, environment, diff, file and so on
--   sha256: digest, and the name of the blob
--   bytes: size of the blob
--   left_out: bytes that the source had and this bounded copy has not
--   media_type: MIME type
--   recorded_at: when it was stored
--   position: position of the event
--   event_id: id of the event
SELECT
    artifact.run,
    artifact.experiment,
    artifact.name,
    artifact.kind,
    artifact.sha256,
    artifact.bytes,
    artifact.left_out,
    artifact.media_type,
    artifact.recorded_at,
    artifact.position,
    artifact.event_id
FROM facts.artifact_stored AS artifact
ORDER BY artifact.position

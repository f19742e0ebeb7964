-- One row a value of a probe.
-- kind: view
-- key: position, name
-- columns:
--   run: id of the run, null for a probe of something else
--   probe: name of the probe
--   subject: what it was measured on
--   method: name and version of the procedure
--   name: name of the value
--   value: value
--   unit: unit of the value
--   recorded_at: when it was recorded
--   position: position of the event
--   event_id: id of the event
WITH measured AS (
    SELECT probe.*, unnest(probe.values) AS item
    FROM facts.probe_measured AS probe
)

SELECT
    run,
    probe,
    subject,
    method,
    item.name AS name,
    item.value AS value,
    item.unit AS unit,
    recorded_at,
    position,
    event_id
FROM measured
ORDER BY position, name

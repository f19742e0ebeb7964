-- One row a value of a probe.
-- kind: view
-- key: position, row
-- columns:
--   run: id of the run, null for a probe of something else
--   probe: name of the probe
--   subject: what it was measured on
--   method: name and version of the procedure
--   row: place of the value in its event
--   name: name of the value
--   value: value
--   unit: unit of the value
--   recorded_at: when it was recorded
--   position: position of the event
--   event_id: id of the event
WITH measured AS (
    SELECT probe.*, unnest(probe.values) AS item, generate_subscripts(probe.values, 1) AS row
    FROM facts.probe_measured AS probe
)

SELECT
    run,
    probe,
    subject,
    method,
    row,
    item.name AS name,
    item.value AS value,
    item.unit AS unit,
    recorded_at,
    position,
    event_id
FROM measured
ORDER BY position, row

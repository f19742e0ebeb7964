-- One row a point of a metric. A point logged twice is there twice: `event_position` and `row` tell which came first.
-- kind: view
-- key: event_position, row
-- columns:
--   run: id of the run
--   step: training step
--   name: metric
--   value: value; NaN is kept as NaN
--   time: when it was logged
--   source: api, stdout or trainer
--   recovered: true where the program was killed before it could write the point out itself
--   event_position: position of the metrics.logged event
--   row: row within that event's chunk
SELECT
    point.run,
    point.step,
    point.name,
    point.value,
    point.time,
    point.source,
    point.recovered,
    point.event_position,
    point.row
FROM facts.point AS point
ORDER BY point.event_position, point.row

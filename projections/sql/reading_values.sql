-- One row a value of a reading, of all readings: two readings of one record are compared by joining this on itself.
-- kind: view
-- key: record, position, field, item, row
-- columns:
--   record: track and folder
--   position: position of the reading's first event
--   parser: name and version of the rules
--   source_digest: digest over the files that were read
--   newest: whether the tables show this reading
--   field: val_bpb, base_val_bpb and so on, or intervention, seed, ablation or lineage
--   item: of an intervention its id, of a seed source and seed, of an ablation the change, of a parent its name
--   row: number among rows of one field and item
--   value: the value as text, of a row of several values the main ones
--   evidence: file and line
WITH parts AS (
    SELECT reading.position AS reading, reading.newest, extracted.*
    FROM record_readings AS reading
    INNER JOIN facts.record_extracted AS extracted
        ON extracted.record = reading.record AND extracted.position - extracted.part + 1 = reading.position
),

fields AS (
    SELECT
        record, reading, parser, source_digest, newest, 0 AS turn,
        unnest([
            {'field': 'name', 'value': name, 'evidence': NULL},
            {'field': 'author', 'value': author, 'evidence': NULL},
            {'field': 'github_id', 'value': github_id, 'evidence': NULL},
            {'field': 'date', 'value': date, 'evidence': NULL},
            {'field': 'format', 'value': format, 'evidence': NULL},
            {'field': 'val_bpb', 'value': val_bpb::VARCHAR, 'evidence': val_bpb_evidence},
            {'field': 'base_ref', 'value': base_ref, 'evidence': base_evidence},
            {'field': 'base_val_bpb', 'value': base_val_bpb::VARCHAR, 'evidence': base_evidence},
            {'field': 'delta_bpb_stated', 'value': delta_bpb_stated::VARCHAR, 'evidence': NULL},
            {'field': 'delta_nats_stated', 'value': delta_nats_stated::VARCHAR, 'evidence': NULL},
            {'field': 'bytes_total', 'value': bytes_total::VARCHAR, 'evidence': NULL}
        ]) AS told
    FROM parts
    WHERE part = 1
),

told AS (
    SELECT
        record, reading, parser, source_digest, newest, turn, told.field AS field, '' AS item, told.value AS value,
        told.evidence AS evidence
    FROM fields
    WHERE told.value IS NOT NULL
    UNION ALL
    SELECT
        record, reading, parser, source_digest, newest, 1000 * part + number AS turn, 'intervention' AS field,
        row.intervention AS item,
        concat_ws(
            ' ', row.status, CASE WHEN row.removed THEN 'removed' END, row.before || ' to', row.after,
            'level ' || row.level, row.delta_bpb || ' bpb', row.delta_nats || ' nats'
        ) AS value,
        array_to_string(row.evidence, ', ') AS evidence
    FROM (SELECT *, generate_subscripts(interventions, 1) AS number, unnest(interventions) AS row FROM parts)
    UNION ALL
    SELECT
        record, reading, parser, source_digest, newest, 1000 * part + number AS turn, 'seed' AS field,
        row.source || coalesce(' ' || row.seed, '') AS item,
        concat_ws(' ', row.val_bpb, row.steps || ' steps', row.bytes_total || ' bytes') AS value,
        row.evidence AS evidence
    FROM (SELECT *, generate_subscripts(seeds, 1) AS number, unnest(seeds) AS row FROM parts)
    UNION ALL
    SELECT
        record, reading, parser, source_digest, newest, 1000 * part + number AS turn, 'ablation' AS field,
        row.change AS item, concat_ws(' ', row.val_bpb, row.delta_bpb || ' delta', row.meaning) AS value,
        row.evidence AS evidence
    FROM (SELECT *, generate_subscripts(ablations, 1) AS number, unnest(ablations) AS row FROM parts)
    UNION ALL
    SELECT
        record, reading, parser, source_digest, newest, 1000 * part + number AS turn, 'lineage' AS field,
        row.parent AS item, coalesce(row.val_bpb::VARCHAR, '') AS value, row.evidence AS evidence
    FROM (SELECT *, generate_subscripts(lineage, 1) AS number, unnest(lineage) AS row FROM parts)
)

SELECT
    told.record,
    told.reading AS position,
    told.parser,
    told.source_digest,
    told.newest,
    told.field,
    told.item,
    row_number() OVER (
        PARTITION BY told.record, told.reading, told.field, told.item ORDER BY told.turn
    ) AS row,
    told.value,
    told.evidence
FROM told
ORDER BY told.record, position, told.field, told.item, row

-- One row a reading of a record: this parser, in this version, on these bytes. All readings, the newest marked.
-- A reading of several parts counts when all of its parts do: to retract one of them is to retract it.
-- kind: view
-- key: record, position
-- columns:
--   record: track and folder, as track/folder
--   position: position of the reading's first event
--   event_id: id of that event
--   newest: whether the tables show this reading
--   parser: name and version of the rules
--   vocabulary: digest of the vocabulary that named the techniques
--   source_digest: digest over the files that were read: equal for two readings of the same bytes
--   sources: how many files were read
--   parts: how many events hold the reading
--   val_bpb: headline score that it found
--   base_val_bpb: score of the base that it found
--   interventions: how many techniques it found
--   seeds: how many scores of seeds
--   ablations: how many ablations
--   lineage: how many declared parents
--   flags: how many contradictions, and what could not be used
--   unusable: how many of them are files that could not be used, or not whole, and values that are no numbers
--   recorded_at: when it was recorded
WITH parts AS (
    SELECT
        *,
        position - part + 1 AS reading,
        len(sources) AS n_sources,
        len(interventions) AS n_interventions,
        len(seeds) AS n_seeds,
        len(ablations) AS n_ablations,
        len(lineage) AS n_lineage,
        len(flags) AS n_flags,
        len(
            list_filter(flags, lambda flag: flag.field IN ('source', 'submission')
                OR flag.reason = 'not a finite number')
        ) AS n_unusable
    FROM facts.record_extracted
),

-- Counts of the parts added up, all of them integers.
whole AS (
    SELECT
        record,
        reading,
        list_sum(list(n_interventions ORDER BY part))::BIGINT AS interventions,
        list_sum(list(n_seeds ORDER BY part))::BIGINT AS seeds,
        list_sum(list(n_ablations ORDER BY part))::BIGINT AS ablations,
        list_sum(list(n_lineage ORDER BY part))::BIGINT AS lineage,
        list_sum(list(n_flags ORDER BY part))::BIGINT AS flags,
        list_sum(list(n_unusable ORDER BY part))::BIGINT AS unusable
    FROM parts
    GROUP BY record, reading
    HAVING count(*) = max(parts)
)

SELECT
    head.record,
    head.position,
    head.event_id,
    row_number() OVER (PARTITION BY head.record ORDER BY head.position DESC) = 1 AS newest,
    head.parser,
    head.vocabulary,
    head.source_digest,
    head.n_sources AS sources,
    head.parts,
    head.val_bpb,
    head.base_val_bpb,
    whole.interventions,
    whole.seeds,
    whole.ablations,
    whole.lineage,
    whole.flags,
    whole.unusable,
    head.recorded_at
FROM whole
INNER JOIN parts AS head ON head.position = whole.reading AND head.record = whole.record AND head.part = 1
ORDER BY head.record, head.position

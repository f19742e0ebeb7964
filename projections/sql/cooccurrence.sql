-- One row a pair of techniques that some record has: how often together, how often apart. Two that never come
-- apart cannot be told apart by these records. Only techniques that the vocabulary knows.
-- kind: view
-- key: a, b
-- columns:
--   a: canonical id, the first in the alphabet
--   b: canonical id
--   both: records that have both
--   only_a: records that have a without b
--   only_b: records that have b without a
--   neither: records that have neither
--   always_together: whether no record has one without the other
WITH present AS (
    SELECT stack, intervention
    FROM intervention_matrix
    WHERE source = 'record' AND value = 1 AND known
),

size AS (
    SELECT count(*) AS n
    FROM records
    WHERE NOT starts_with(parser, 'import/')
),

alone AS (
    SELECT intervention, count(*) AS n
    FROM present
    GROUP BY intervention
),

pairs AS (
    SELECT one.intervention AS a, other.intervention AS b, count(*) AS n
    FROM present AS one
    INNER JOIN present AS other ON other.stack = one.stack AND other.intervention > one.intervention
    GROUP BY a, b
)

SELECT
    pairs.a,
    pairs.b,
    pairs.n AS "both",
    first_one.n - pairs.n AS only_a,
    second_one.n - pairs.n AS only_b,
    size.n - first_one.n - second_one.n + pairs.n AS neither,
    first_one.n = pairs.n AND second_one.n = pairs.n AS always_together
FROM pairs
INNER JOIN alone AS first_one ON first_one.intervention = pairs.a
INNER JOIN alone AS second_one ON second_one.intervention = pairs.b
CROSS JOIN size
ORDER BY pairs.a, pairs.b

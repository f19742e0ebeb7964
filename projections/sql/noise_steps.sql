-- One row a noise class: up to which outcome its runs count for `noise_arms`, and thereby for what others borrow.
-- While a class has at most 256 runs all of them count; then those up to the last step of a rising grid (each a quarter
-- more), so that a single further run does not move every figure of the class.
-- kind: table
-- key: noise_class
-- scope: noise_class
-- columns:
--   noise_class: platform, scale, metric and stage
--   runs: its runs with a value
--   counted: how many of them count, in the order of their outcomes
--   last: position of the last outcome that counts
WITH RECURSIVE grid(n) AS (
    SELECT 256
    UNION ALL
    SELECT n + n // 4 FROM grid WHERE n < 1000000000
),

sizes AS (
    SELECT noise_class, count(*) AS many, list(finished_position ORDER BY finished_position) AS positions
    FROM runs
    WHERE status = 'ok' AND seed IS NOT NULL AND isfinite(value) AND abs(value) < 1e100
    GROUP BY noise_class
),

steps AS (
    SELECT *, CASE WHEN many <= 256 THEN many ELSE (SELECT max(n) FROM grid WHERE n <= many) END AS counted
    FROM sizes
)

SELECT
    noise_class,
    many AS runs,
    counted,
    positions[counted] AS last
FROM steps
ORDER BY noise_class

-- One row a ranking of a series of cycles: what the cycle that it began has cost, and where every stop rule stood.
-- kind: view
-- key: cycle, position
-- columns:
--   cycle: id of the series
--   name: the cycle plan's name
--   number: of the cycle, from 1
--   experiment: name of the plan that measured it, empty where the series ended
--   chosen: candidates that it measured
--   alpha: what this cycle could spend
--   runs: its runs that came to an outcome
--   ok: of them those that are ok
--   wall_s: seconds that they took
--   runs_total: runs of this and all earlier cycles
--   wall_total: seconds of these
--   stop_rule_state: each rule with where it stood when the cycle was ranked, and its limit
--   stopped: the rule that ended the series, empty while it goes on
--   why: what was chosen and why, or why the series ended
--   head_position: how many events the ranking read
--   recorded_at: when
--   position: position of cycle.ranked
--   event_id: its event id
WITH plans AS (
    SELECT cycle, name, base
    FROM facts.cycle_planned
    QUALIFY row_number() OVER (PARTITION BY cycle ORDER BY position DESC) = 1
),

spent AS (
    SELECT
        experiments.name,
        experiments.base,
        count(*) AS runs,
        count(*) FILTER (runs.status = 'ok') AS ok,
        list_sum(list(runs.wall_s ORDER BY runs.started_position)) AS wall_s
    FROM runs
    INNER JOIN experiments ON experiments.experiment = runs.experiment
    WHERE runs.status NOT IN ('running', 'interrupted', 'lost')
    GROUP BY experiments.name, experiments.base
)

SELECT
    ranked.cycle,
    plans.name,
    ranked.number,
    ranked.experiment,
    array_to_string(ranked.chosen, ', ') AS chosen,
    ranked.alpha,
    coalesce(spent.runs, 0) AS runs,
    coalesce(spent.ok, 0) AS ok,
    spent.wall_s,
    coalesce(list_sum(list(spent.runs ORDER BY ranked.position) OVER so_far), 0)::BIGINT AS runs_total,
    list_sum(list(spent.wall_s ORDER BY ranked.position) OVER so_far) AS wall_total,
    array_to_string([rule.rule || ' ' || rule.at || ' of ' || rule.limit FOR rule IN ranked.rules], ', ')
        AS stop_rule_state,
    ranked.stopped,
    ranked.why,
    ranked.head.position AS head_position,
    ranked.recorded_at,
    ranked.position,
    ranked.event_id
FROM facts.cycle_ranked AS ranked
INNER JOIN plans ON plans.cycle = ranked.cycle
LEFT JOIN spent ON spent.name = ranked.experiment AND spent.base = plans.base
WINDOW so_far AS (PARTITION BY ranked.cycle ORDER BY ranked.position)
ORDER BY ranked.cycle, ranked.position

-- One row a run, from its start to its outcome; a run without an outcome has status running.
-- kind: table
-- key: run
-- scope: run
-- columns:
--   run: id
--   experiment: the experiment that it belongs to, null for a run on its own
--   arm: condition
--   role: control, treatment or single
--   seed: seed of the run
--   seed_role: tuning (used to choose something) or confirm
--   status: ok, crash, diverged, timeout, oom, no_metric, interrupted, lost, or running
--   reason: one line, empty when ok
--   metric: name of the metric that decides
--   value: its last value
--   pre_value: the same before quantization, where the run told it
--   steps: training steps done; for a program that only prints, the last step that it named
--   tokens: tokens seen
--   wall_s: seconds of wall time
--   cpu_s: seconds of processor time
--   peak_memory_bytes: largest memory
--   artifact_bytes: size of the artifact that the run made
--   cost: device-seconds
--   exit_code: of the process
--   signal: that ended the process
--   base: fingerprint of what is the same in all arms
--   cell: fingerprint of base, arm and seed
--   platform: noise class: where
--   scale: noise class: how large
--   stage: data, train, late, quant or eval
--   noise_class: platform, scale, metric and stage in one: runs of one class may pool their variance
--   pair_tier: what two runs of one seed share: fork, rerun, seed or none
--   block: machine session
--   fork_of: run whose checkpoint it continues
--   runner: what carried it out
--   hardware_class: kind of device
--   code: digest of the code
--   git_commit: commit of the work tree
--   git_dirty: whether the work tree differed from it
--   environment: blob with packages, hardware and allowed variables
--   started_after_registration: false for a run before its plan, which is exploratory for ever
--   started_at: time of the start
--   ended_at: time of the outcome as the runner saw it
--   started_position: position of run.started
--   finished_position: position of run.finished
--   started_id: event id of run.started
--   finished_id: event id of run.finished
WITH started AS (
    SELECT *
    FROM run_started
    QUALIFY row_number() OVER (PARTITION BY run ORDER BY position) = 1
),

-- A run that was given up as lost and then told its outcome has two ends: the later one is right.
finished AS (
    SELECT *
    FROM run_finished
    QUALIFY row_number() OVER (PARTITION BY run ORDER BY position DESC) = 1
),

registered AS (
    SELECT experiment, min(position) AS first_position
    FROM experiment_registered
    GROUP BY experiment
)

SELECT
    started.run,
    started.experiment,
    started.arm,
    started.role,
    started.seed,
    started.seed_role,
    coalesce(finished.status, 'running') AS status,
    coalesce(finished.reason, '') AS reason,
    coalesce(finished.metric, started.noise_class.metric) AS metric,
    finished.value,
    finished.pre_value,
    finished.steps,
    finished.tokens,
    finished.wall_s,
    finished.cpu_s,
    finished.peak_memory_bytes,
    finished.artifact_bytes,
    finished.cost,
    finished.exit_code,
    finished.signal,
    started.base,
    started.cell,
    started.noise_class.platform AS platform,
    started.noise_class.scale AS scale,
    started.stage,
    concat_ws(
        ', ',
        started.noise_class.platform, started.noise_class.scale, started.noise_class.metric, started.noise_class.stage
    ) AS noise_class,
    started.pair_tier,
    started.block,
    started.fork_of,
    started.runner,
    started.hardware_class,
    started.code,
    started.git_commit,
    started.git_dirty,
    started.environment,
    coalesce(started.position > registered.first_position, false) AS started_after_registration,
    started.recorded_at AS started_at,
    try_cast(finished.ended_at AS TIMESTAMPTZ) AS ended_at,
    started.position AS started_position,
    finished.position AS finished_position,
    started.event_id AS started_id,
    finished.event_id AS finished_id
FROM started
LEFT JOIN finished ON finished.run = started.run
LEFT JOIN registered ON registered.experiment = started.experiment
ORDER BY started.run

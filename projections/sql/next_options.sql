-- One row a measurement that could be made next, with what it is worth for its cost, before it has its place.
-- `next_interventions` gives the places: one more run changes the figures of a part of the rows, and all places.
-- kind: table
-- key: id, base, experiment
-- scope: part
-- columns:
--   part: what it is made anew with: the options of a base, by transfer, or by lineage
--   id: source, what it is about, action and candidate
--   source: cycle (a cycle plan's candidate), experiment (an arm), screen (a factor), transfer, or lineage (the records)
--   about: the cycle plan's name, control and base, screen, pair of platforms, or track
--   candidate: what would be measured
--   action: ablate, add_seeds, separate_aliases, grow_bank, transfer_check or factorial_screen
--   k: further seeds with the best score, 1 to 4; of a cycle plan its seeds; of a screen its runs
--   cost: of these runs together with their controls', in runs of the control
--   m: posterior mean of its effect on the platform that counts; of several effects that of the one most worth knowing
--   sd: posterior standard deviation of that
--   gain: by how much the choice to adopt is expected to improve, in the metric's unit
--   score: gain / cost, times feasible
--   uncertain: whether the seed plan's rule may choose it
--   feasible: probability that the runs can be made, from those that were tried
--   blocked_by: why it may not be chosen, empty when it may
--   reason: one sentence with the numbers
--   adopt: an effect larger than this would be adopted
--   delta: smallest effect that matters
--   metric: name of the metric
--   direction: lower or higher is better
--   target: noise class, or track
--   base: fingerprint of what is the same in all arms, empty for records
--   experiment: an experiment that has the arm, empty for none
--   arms: arms or techniques that would be measured
--   engine_version: name and version of the procedure
SELECT
    option.part,
    option.id,
    option.source,
    option.about,
    option.candidate,
    option.action,
    option.k,
    option.cost,
    option.m,
    option.sd,
    option.gain,
    option.score,
    option.uncertain,
    option.feasible,
    option.blocked_by,
    option.reason,
    option.adopt,
    option.delta,
    option.metric,
    option.direction,
    option.target,
    option.base,
    option.experiment,
    option.arms,
    option.engine_version
FROM worths AS option
ORDER BY option.id, option.base, option.experiment

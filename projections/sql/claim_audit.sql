-- One row a thing that a record claims, recomputed from its seeds: the step from each parent that it names, its own
-- score, each significance test that it or the leaderboard prints. `ledger audit records` shows it.
-- kind: table
-- key: record, row
-- scope: record
-- columns:
--   record: track and folder; of a printed test whose line means no record here, the name of the run
--   row: number of the row within the record
--   kind: step (against a parent), claim (its score against its own seeds) or test (a printed test made again)
--   against: the parent; of a claim the base as stated; of a test what the text names (# and a pull request, or numbers)
--   how: of a step declared or leaderboard (who names the parent); of a claim stated; of a test readme or leaderboard (where it is printed)
--   n_t: seeds of the record that have a score
--   n_c: seeds of the other side
--   shared: seed numbers that both sides have
--   mean_t: mean score of the record in bits per byte
--   mean_c: mean score of the other side; of a claim the base as stated, taken as exact
--   claimed: the score that the record states
--   effect: mean_t minus the other side, negative is better; of a test in the unit that `test` names
--   welch_t: statistic of Welch's test
--   welch_df: its degrees of freedom
--   welch_p: its p-value, two-sided
--   welch_p1: its p-value, one-sided, that the record is better
--   paired_df: degrees of freedom of the paired test on shared seeds
--   paired_p: its p-value, two-sided; equal seed numbers in other code are hardly pairs
--   prior_sd: standard deviation of one run as the records of the track tell it
--   prior_d0: degrees of freedom that this is worth, at most 20
--   se: standard error with each side's variance moderated by that
--   df: its degrees of freedom
--   t: effect / se
--   p: p-value, two-sided
--   p1: p-value, one-sided, that the record is better
--   p_holm: p after Holm's correction over all steps with two seeds or more on each side
--   ci95_lo: lower end of the 95 % interval
--   ci95_hi: upper end of the 95 % interval
--   ci90_lo: lower end of the 90 % interval, which answers the equivalence test
--   ci90_hi: upper end of the 90 % interval
--   delta_nats: the difference in nats a token, where every seed has a loss and both sides have one tokenizer
--   p_rule: one-sided Welch p that it gains at least 0.005 nats, the leaderboard's rule (at p < .01)
--   delta: smallest effect that matters in the verdict
--   verdict: of a step: better, worse, no_effect_that_matters, undecided or invalid (seeds were selected)
--   p_printed: p-value as printed
--   t_printed: statistic as printed
--   df_printed: degrees of freedom as printed
--   test: the test that was made again: name, side, unit
--   p_again: p-value recomputed
--   t_again: statistic recomputed
--   df_again: degrees of freedom recomputed
--   match: reproduced (to the printed digits), within rounding (the printed seeds are too coarse to say), not reproduced or not computable
--   flags: signs of selection: one seed, no seeds, best seed claimed, seeds left out, best of those run, tuning seed reported; of a parent with "parent: " before it; separated by "; ", empty without any
--   flag_evidence: for each flag what shows it, in the same order
--   why: one sentence with the numbers
--   evidence: file and line of the parent, the score or the printed test
--   event_id: id of the event that holds it
SELECT
    audited.record,
    audited.row,
    audited.kind,
    audited.against,
    audited.how,
    audited.n_t,
    audited.n_c,
    audited.shared,
    audited.mean_t,
    audited.mean_c,
    audited.claimed,
    audited.effect,
    audited.welch_t,
    audited.welch_df,
    audited.welch_p,
    audited.welch_p1,
    audited.paired_df,
    audited.paired_p,
    audited.prior_sd,
    audited.prior_d0,
    audited.se,
    audited.df,
    audited.t,
    audited.p,
    audited.p1,
    audited.p_holm,
    audited.ci95_lo,
    audited.ci95_hi,
    audited.ci90_lo,
    audited.ci90_hi,
    audited.delta_nats,
    audited.p_rule,
    audited.delta,
    audited.verdict,
    audited.p_printed,
    audited.t_printed,
    audited.df_printed,
    audited.test,
    audited.p_again,
    audited.t_again,
    audited.df_again,
    audited.match,
    audited.flags,
    audited.flag_evidence,
    audited.why,
    audited.evidence,
    audited.event_id
FROM audited
ORDER BY audited.record, audited.row

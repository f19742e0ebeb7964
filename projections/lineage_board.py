"""What the records leave open: techniques whose effect the lineage does not settle, and classes it cannot tell apart.

The newest revision of the DAG says what each technique is worth (a prior: records are kept because they improved).
From that a measurement of our own is worth what it may change: with and without the technique on the best record of
its track, the noise of a run being that of the track's records. Without a revision there is nothing here.
"""

from __future__ import annotations

import math

from projections.board import Option, Query, Row, figure
from projections.claims import DELTA
from projections.statistics import value

PART = "lineage"  # all of it is one part of the ranking


def options(query: Query) -> list[Option]:
    """One option a technique that the records know: with and without it, on the best record of its track."""
    if not query("SELECT 1 AS there FROM facts.record_extracted LIMIT 1", ()):
        return []  # the views below are not cheap
    rows = effects(query)
    if not rows:
        return []
    tracks = {row["track"]: row for row in _tracks(query)}
    matrix = query("SELECT stack, source, intervention, value FROM intervention_matrix WHERE value <> 0", ())
    has = {(row["stack"], row["intervention"]) for row in matrix if row["source"] == "record" and row["value"] == 1}
    own = {row["intervention"] for row in matrix if row["source"] == "experiment"}
    classes: dict[tuple[str, int], list[Row]] = {}
    for row in rows:
        if row["alias_class"] is not None:
            classes.setdefault((row["noise_class"], row["alias_class"]), []).append(row)
    found = []
    for row in rows:
        track = tracks.get(row["noise_class"])
        if track is None:
            continue
        there, tried = (track["record"], row["technique"]) in has, row["technique"] in own
        class_ = classes.get((row["noise_class"], row["alias_class"]), [])
        found.append(_technique(row, track, class_, there, tried))
    return sorted(found, key=lambda option: option.id)


def effects(query: Query) -> list[Row]:
    """The newest revision's effects of techniques on the outcome, with what they are confounded with."""
    return query(
        """SELECT effect.technique, effect.noise_class, effect.n_contrasts, effect.mean, effect.sd,
            effect.identifiable, effect.alias_class, told.aliases, told.separating_experiment, told.ablate,
            told.cost_runs
        FROM lineage_effects AS effect
        INNER JOIN identifiability AS told
            ON told.revision = effect.revision AND told.noise_class = effect.noise_class
            AND told.technique = effect.technique
        WHERE effect.latest AND effect.target IN (
            SELECT id FROM dag_nodes WHERE kind = 'outcome' AND revision = effect.revision
        )
        ORDER BY effect.noise_class, effect.technique""",
        (),
    )


def _tracks(query: Query) -> list[Row]:
    """Each track's best record, and the noise of a run as its records tell it."""
    return query(
        """SELECT
            records.track,
            arg_min(records.record, (records.val_bpb, records.record)) AS record,
            min(records.val_bpb) AS val_bpb,
            min(audit.sd) AS sd
        FROM records
        LEFT JOIN (
            SELECT split_part(record, '/', 1) AS track, median(prior_sd) AS sd FROM claim_audit
            WHERE kind = 'step' AND prior_sd IS NOT NULL
            GROUP BY ALL
        ) AS audit ON audit.track = records.track
        WHERE records.val_bpb IS NOT NULL AND NOT starts_with(records.parser, 'import/')
        GROUP BY records.track
        ORDER BY records.track""",
        (),
    )


def _technique(row: Row, track: Row, class_: list[Row], there: bool, own: bool) -> Option:
    """With and without one technique. Of a class that the records cannot tell apart it tells the others as well."""
    noise = track["sd"] ** 2 if track["sd"] else DELTA**2
    us = [2.0 * noise / k for k in range(1, value.STEPS + 1)]
    v = row["sd"] ** 2
    parts = [value.Part(row["mean"], v, tuple(us))]
    others = [other for other in class_ if other["technique"] != row["technique"]]
    for other in others:
        # Only sums of the class are known: two of n members correlate with -1 / (n - 1). An estimate of one with
        # variance u then moves the mean of the other by a variance of r^2 w v / (v + u), as news of its own would
        # with the variance u' that gives w^2 / (w + u').
        r2, w = 1.0 / len(others) ** 2, other["sd"] ** 2
        moved = [r2 * w * v / (v + u) for u in us]
        news = tuple(w * w / m - w if m > 0 else math.inf for m in moved)
        parts.append(value.Part(other["mean"], w, news))
    steps = f"{row['n_contrasts']} step{'' if row['n_contrasts'] == 1 else 's'}"
    where = f"{'leave it out of' if there else 'put it into'} {track['record'].split('/')[-1]}"
    known = f"{row['mean']:+.2g} ± {figure(row['sd'])} bpb from {steps} of the lineage"
    if others:
        names = [other["technique"] for other in others]
        listed = f"{', '.join(names[:2])}{f' and {len(names) - 2} more' if len(names) > 2 else ''}"
        told = f"{row['technique']} has {known}, which cannot tell it from {listed}: {where}"
    else:
        told = f"{row['technique']} has {known}, never measured by itself{' there' if own else ''}: {where}"
    return Option(
        "lineage", row["noise_class"], "separate_aliases" if others else "ablate", row["technique"], tuple(parts),
        tuple(2.0 * k for k in range(1, value.STEPS + 1)), None, 1.0, "", True, told, DELTA / 2, DELTA, 1,
        "val_bpb", row["noise_class"], "", "", (row["technique"],),
    )  # fmt: skip

"""What the records leave open: techniques whose effect the lineage does not settle, and classes it cannot tell apart.

The newest revision of the DAG says what each technique is worth (a prior: records are kept because they improved).
From that a measurement of our own is worth what it may change: with and without the technique on the best record of
its track, the noise of a run being that of the track's records. Without a revision there is nothing here.
"""

from __future__ import annotations

import math
from typing import Any

from projections.board import Option, Query, Row, figure
from projections.claims import DELTA
from projections.statistics import value


def options(query: Query) -> list[Option]:
    """One option a technique that the records know, and one a class of techniques that they cannot tell apart."""
    rows = effects(query)
    if not rows:
        return []
    tracks = {row["track"]: row for row in _tracks(query)}
    has = {
        (row["stack"], row["intervention"])
        for row in query("SELECT stack, intervention FROM intervention_matrix WHERE source = 'record' AND value = 1", ())
    }
    own = {row["intervention"] for row in query(
        "SELECT DISTINCT intervention FROM intervention_matrix WHERE source = 'experiment' AND value <> 0", ()
    )}  # fmt: skip
    found = []
    for row in rows:
        track = tracks.get(row["noise_class"])
        if track is None:
            continue
        found.append(_technique(row, track, (track["record"], row["technique"]) in has, row["technique"] in own))
    classes: dict[tuple[str, int], list[Row]] = {}
    for row in rows:
        if row["alias_class"] is not None and row["noise_class"] in tracks:
            classes.setdefault((row["noise_class"], row["alias_class"]), []).append(row)
    found += [_aliases(members, tracks[name]) for (name, _), members in sorted(classes.items())]
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
        WHERE effect.latest AND effect.target = (
            SELECT list_filter(nodes, lambda node: node.kind = 'outcome')[1].id
            FROM facts.dag_revised ORDER BY position DESC LIMIT 1
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


def _technique(row: Row, track: Row, there: bool, own: bool) -> Option:
    part = _part(row, track)
    steps = f"{row['n_contrasts']} step{'' if row['n_contrasts'] == 1 else 's'}"
    told = (
        f"{row['technique']} has {row['mean']:+.2g} ± {figure(row['sd'])} bpb from {steps} of the lineage, "
        f"never measured by itself{'' if not own else ' on this stack'}: "
        f"{'leave it out of' if there else 'put it into'} {track['record'].split('/')[-1]}"
    )
    blocked = ""
    if row["alias_class"] is not None:
        blocked = f"not told apart from {_others(row)}"
    return Option(
        "lineage", row["noise_class"], "ablate", row["technique"], (part,),
        tuple(2.0 * k for k in range(1, value.STEPS + 1)), None, 1.0, blocked, True, told, DELTA / 2, DELTA, 1,
        "val_bpb", row["noise_class"], "", "", (row["technique"],),
    )  # fmt: skip


def _others(row: Row) -> str:
    names = [name for name in (row["aliases"] or "").split(", ") if name and name != row["technique"]]
    return f"{', '.join(names[:3])}{' …' if len(names) > 3 else ''}" or "what else changed with it"


def _part(row: Row, track: Row) -> value.Part:
    noise = track["sd"] ** 2 if track["sd"] else DELTA**2
    return value.Part(row["mean"], row["sd"] ** 2, tuple(2.0 * noise / k for k in range(1, value.STEPS + 1)))


def _aliases(members: list[Row], track: Row) -> Option:
    first = members[0]
    names = [row["technique"] for row in members]
    runs = first["cost_runs"]
    # Its cheapest form has one seed a side; k seeds take k times as many runs.
    each = float(runs) if runs else 2.0
    told = (
        f"{', '.join(names[:4])}{' …' if len(names) > 4 else ''} always came together: their effects add up to "
        f"{math.fsum([row['mean'] for row in members]):+.2g} bpb and nothing says whose it is"
    )
    experiment = first["separating_experiment"]
    if experiment:
        told += f"; {experiment}"
    return Option(
        "lineage", first["noise_class"], "separate_aliases", "+".join(names)[:120],
        tuple(_part(row, track) for row in members), tuple(each * k for k in range(1, value.STEPS + 1)), None, 1.0,
        "" if experiment else "no experiment that can be made separates them", False, told, DELTA / 2, DELTA, 1,
        "val_bpb", first["noise_class"], "", "", (first["ablate"],) if first["ablate"] else tuple(names),
    )  # fmt: skip

"""The comparisons that speak about techniques: a record and its parent, an arm and its control.

Only differences are used, never levels: two records of different weeks differ in everything that
their authors did not write down. A record says what it changed, so a comparison's techniques are
those that it calls new (+1) or takes out (-1); what it carries is its parent's. Both ends of a
comparison are of one noise class: a record of the ten-minute track is no parent of one that trained
four hours. Of several parents the newest is the one that the record was built on; the others make
loops, which check what was declared.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from projections.statistics.numeric import digits, mean, variance
from projections.statistics.variances import fit_prior, pool, rounding_variance, squeeze

Row = dict[str, Any]
PRINTED = 1e-4  # the step in which records print their scores
TTT = "test_time_training"
ALTERED = (TTT, "evaluation")  # with these the score less that before quantization is not the quantization's alone


class Reads(Protocol):
    """What is needed of `projections.engine.Tables`."""

    def rows(self, sql: str, parameters: tuple[Any, ...] = ()) -> list[Row]: ...


class Contrast(NamedTuple):
    """One comparison on one target: `value` is child minus parent, `row` the techniques with +1 or -1."""

    target: str
    where: str  # noise class
    child: str
    parent: str
    row: tuple[tuple[str, int], ...]
    value: float
    noise: tuple[str, str]  # keys of the two means in `Data.noise`, which siblings share
    branch: str  # the lineage below its root, or the experiment
    primary: bool  # whether it enters the estimate; the others are for loops
    source: str  # "records" or "experiment"
    evidence: tuple[str, ...]


class Trial(NamedTuple):
    """What an own experiment found of one technique alone on one target."""

    technique: str
    target: str
    where: str
    experiment: str
    arm: str
    sign: int
    effect: float
    se: float
    df: float
    verdict: str | None  # of the newest decision that stands
    evidence: tuple[str, ...]


class Data(NamedTuple):
    """All that a revision is made from."""

    contrasts: tuple[Contrast, ...]
    trials: tuple[Trial, ...]
    noise: dict[str, float]  # variance of the mean of each end
    groups: dict[str, str]  # technique -> its kind, empty for a setting
    stacks: dict[str, tuple[str, frozenset[str]]]  # stack -> (noise class, all that it has)
    order: dict[str, int]  # event id -> position
    named: dict[str, list[str]]  # technique -> the records that name it as theirs
    records: int
    notes: tuple[str, ...]

    def interventions(self) -> dict[str, str]:
        """Every technique that some comparison changes, with its kind, in order of the comparisons."""
        return {name: self.groups.get(name, "") for one in self.contrasts if one.primary for name, _ in one.row}


_CITED = """SELECT id, position FROM events
    WHERE type IN ('record.extracted', 'leaderboard.extracted', 'run.finished', 'decision.made') ORDER BY position"""


def read(tables: Reads, outcome: str) -> Data:
    """The comparisons in the tables, in the order of their stacks."""
    recorded = _Records(tables, outcome)
    own = _Experiments(tables, outcome, recorded.groups)
    return Data(
        (*recorded.contrasts, *own.contrasts),
        tuple(own.trials),
        recorded.noise | own.noise,
        recorded.groups | own.groups,
        recorded.stacks | own.stacks,
        {row["id"]: row["position"] for row in tables.rows(_CITED)},
        recorded.named,
        len(recorded.records),
        (*recorded.notes, *own.notes),
    )


# ── records ──


class _Records:
    """Comparisons of records with the parents that they declare."""

    def __init__(self, tables: Reads, outcome: str) -> None:
        self.contrasts: list[Contrast] = []
        self.noise: dict[str, float] = {}
        self.notes: list[str] = []
        self.stacks: dict[str, tuple[str, frozenset[str]]] = {}
        rows = tables.rows(
            """SELECT record, track, left(date, 10) AS day, val_bpb, event_id FROM record_claims
            WHERE NOT starts_with(parser, 'import/') ORDER BY record"""
        )
        self.records = {row["record"]: row for row in rows}
        self.groups: dict[str, str] = {}
        self.changes: dict[str, dict[str, int]] = {record: {} for record in self.records}
        self.has: dict[str, set[str]] = {record: set() for record in self.records}
        for row in tables.rows(
            """SELECT record, intervention, kind, status, removed FROM interventions
            WHERE known ORDER BY record, row"""
        ):
            if row["record"] not in self.records:
                continue
            name, kind = row["intervention"], row["kind"]
            self.groups[name] = min(self.groups.get(name, kind), kind)
            if row["removed"]:
                self.changes[row["record"]][name] = -1
                continue
            self.has[row["record"]].add(name)
            if row["status"] == "new":
                self.changes[row["record"]].setdefault(name, 1)
        self.named: dict[str, list[str]] = {}  # technique -> the records that name it as theirs
        for record, has in self.has.items():
            for name in sorted(has):
                self.named.setdefault(name, []).append(record)
        self.parents = self._parents(tables)
        for record in self.records:
            self.stacks[record] = (self.records[record]["track"], frozenset(self._stack(record)))
        values = self._values(tables, outcome)
        for target in (outcome, *(name for name in values if name != outcome)):
            self._compare(target, values.get(target, {}), outcome)

    def _parents(self, tables: Reads) -> dict[str, list[tuple[str, str]]]:
        """(parent, id of the statement) of every record within its track, the newest first."""
        found: dict[str, list[tuple[str, str]]] = {record: [] for record in self.records}
        elsewhere = unresolved = 0
        for row in tables.rows("SELECT record, parent, resolved, event_id FROM lineage ORDER BY record, parent"):
            if row["record"] not in found:
                continue
            if not row["resolved"] or row["parent"] not in self.records:
                unresolved += 1
            elif self.records[row["parent"]]["track"] != self.records[row["record"]]["track"]:
                elsewhere += 1
            else:
                found[row["record"]].append((row["parent"], row["event_id"]))
        for record, parents in found.items():
            parents.sort(key=lambda one: one[0])
            parents.sort(key=lambda one: self.records[one[0]]["day"] or "", reverse=True)
            found[record] = parents
        for record in list(found):  # a record among its own ancestors: the statement that closes the circle goes
            while found[record] and record in self._ancestors(found, record):
                self.notes.append(f"{record}: its parent {found[record][0][0]} descends from it; left out")
                del found[record][0]
        if elsewhere:
            self.notes.append(f"{elsewhere} parents are of another track, so of another noise class: not compared")
        if unresolved:
            self.notes.append(f"{unresolved} parents are no records here: not compared")
        return found

    @staticmethod
    def _ancestors(parents: Mapping[str, Sequence[tuple[str, str]]], record: str) -> set[str]:
        found: set[str] = set()
        at = record
        while parents[at] and parents[at][0][0] not in found:
            at = parents[at][0][0]
            found.add(at)
        return found

    def _stack(self, record: str) -> set[str]:
        """All that a record has: what it names, and what its ancestors named and nobody took out."""
        way = [record]
        while self.parents[way[-1]]:
            way.append(self.parents[way[-1]][0][0])
        has: set[str] = set()
        for at in reversed(way):
            has |= self.has[at]
            has -= {name for name, change in self.changes[at].items() if change < 0}
        return has

    def _values(self, tables: Reads, outcome: str) -> dict[str, dict[str, list[float]]]:
        """Per target and record the values of its seeds; of the outcome at least the record's own figure."""
        found: dict[str, dict[str, list[float]]] = {}

        def note(target: str, record: str, value: float | None) -> None:
            if value is not None and math.isfinite(value):
                found.setdefault(target, {}).setdefault(record, []).append(value)

        for row in tables.rows(
            """SELECT record, val_bpb, pre_quant_bpb, step_ms, bytes_total FROM record_seeds ORDER BY record, row"""
        ):
            record = row["record"]
            if record not in self.records:
                continue
            note(outcome, record, row["val_bpb"])
            note("pre_quant_bpb", record, row["pre_quant_bpb"])
            if row["step_ms"] and row["step_ms"] > 0:
                note("step_time", record, math.log(row["step_ms"]))
            if row["bytes_total"] and row["bytes_total"] > 0:
                note("artifact_bytes", record, math.log(row["bytes_total"]))
            plain = not any(self.groups[name] in ALTERED for name in self.stacks[record][1])
            if plain and row["val_bpb"] is not None and row["pre_quant_bpb"] is not None:
                note("quant_gap", record, row["val_bpb"] - row["pre_quant_bpb"])
        for record, row in self.records.items():
            if row["val_bpb"] is not None and len(found.get(outcome, {}).get(record, ())) < 2:
                found.setdefault(outcome, {})[record] = [row["val_bpb"]]
        return found

    def _compare(self, target: str, values: Mapping[str, list[float]], outcome: str) -> None:
        self._spread(target, values)
        tops: dict[str, str] = {}
        for record in sorted(values):
            for number, (parent, statement) in enumerate(self.parents[record]):
                if parent not in values:
                    if target == outcome and number == 0:
                        self.notes.append(f"{record}: its parent has no {target}; not compared")
                    continue
                change = dict(self.changes[record])
                if number:  # against an older parent only what that one has not
                    has = self.stacks[parent][1]
                    change = {name: d for name, d in change.items() if (d > 0) == (name not in has)}
                at = record
                while at not in tops and self.parents[at] and self.parents[self.parents[at][0][0]]:
                    at = self.parents[at][0][0]
                self.contrasts.append(
                    Contrast(
                        target,
                        self.records[record]["track"],
                        record,
                        parent,
                        tuple(sorted(change.items())),
                        digits(mean(values[record]) - mean(values[parent])),
                        (f"{target} {record}", f"{target} {parent}"),
                        at,
                        number == 0,
                        "records",
                        (self.records[record]["event_id"], self.records[parent]["event_id"], statement),
                    )
                )

    def _spread(self, target: str, values: Mapping[str, list[float]]) -> None:
        """The variance of every record's mean, moderated within its track."""
        tracks = sorted({self.records[record]["track"] for record in values})
        for track in tracks:
            mine = {record: told for record, told in values.items() if self.records[record]["track"] == track}
            known = [(variance(told), len(told) - 1.0) for told in mine.values() if len(told) > 1]
            floor = rounding_variance(PRINTED)
            prior = fit_prior([v for v, _ in known], [df for _, df in known], floor=floor) if known else None
            pooled = max(pool([v for v, _ in known], [df for _, df in known])[0], floor) if known else 100 * floor
            for record, told in mine.items():
                own = variance(told) if len(told) > 1 else 0.0
                one = squeeze(max(own, floor), len(told) - 1.0, prior).variance if prior else pooled
                self.noise[f"{target} {record}"] = digits(one / len(told))


# ── own experiments ──

ON = ("", "1", "true", "on", "yes")


class _Experiments:
    """Comparisons of arms with their controls, as the estimator has them."""

    def __init__(self, tables: Reads, outcome: str, named: Mapping[str, str]) -> None:
        self.contrasts: list[Contrast] = []
        self.trials: list[Trial] = []
        self.noise: dict[str, float] = {}
        self.groups: dict[str, str] = {}
        self.notes: list[str] = []
        self.stacks: dict[str, tuple[str, frozenset[str]]] = {}
        self.rows: dict[tuple[str, str], tuple[tuple[str, int], ...]] = {}
        self.named = named
        self.outcome = outcome
        self.plans = {row["experiment"]: row for row in tables.rows("SELECT * FROM experiments ORDER BY experiment")}
        if not self.plans:
            return
        places = tables.rows(
            """SELECT experiment, min(platform) AS platform, min(scale) AS scale, min(metric) AS metric FROM runs
            WHERE experiment IS NOT NULL GROUP BY experiment ORDER BY experiment"""
        )
        self.where = {row["experiment"]: " ".join(filter(None, (row["platform"], row["scale"]))) for row in places}
        other = [
            row["name"] for row in self.plans.values() if row["metric"] != outcome and row["experiment"] in self.where
        ]
        if other:
            self.notes.append(
                f"{len(other)} experiments measure something else than {outcome}: {', '.join(other[:3])}"
            )
        self._settings(tables)
        self._evidence(tables)
        self._outcome(tables)
        self._mediators(tables)

    def _settings(self, tables: Reads) -> None:
        changed: dict[tuple[str, str], list[tuple[str, int]]] = {}
        for row in tables.rows(
            """SELECT stack, intervention, value, level FROM intervention_matrix
            WHERE source = 'experiment' AND value <> 0 ORDER BY stack, intervention"""
        ):
            experiment, _, arm = row["stack"].partition("/")
            name, level = row["intervention"], (row["level"] or "")[:60]
            if name in self.named:
                self.groups[name] = self.named[name]
            elif row["value"] > 0 and level.lower() not in ON:
                name = f"{name}={level}"
            changed.setdefault((experiment, arm), []).append((name, row["value"]))
        for row in tables.rows("SELECT DISTINCT experiment, intervention FROM paired_differences ORDER BY ALL"):
            key = (row["experiment"], row["intervention"])
            told = changed.get(key, [(f"arm {row['intervention']}", 1)])  # what it changes is in its program
            self.rows[key] = tuple(sorted(told))
            for name, _ in told:
                self.groups.setdefault(name, self.named.get(name, ""))

    def _evidence(self, tables: Reads) -> None:
        self.finished: dict[tuple[str, str], list[str]] = {}
        for row in tables.rows(
            """SELECT effects.experiment, effects.intervention, evidence.finished_id FROM effects
            INNER JOIN experiments ON experiments.experiment = effects.experiment
            INNER JOIN evidence ON evidence.experiment = effects.experiment
                AND evidence.arm IN (effects.intervention, experiments.control)
            WHERE evidence.status = 'ok'
            ORDER BY effects.experiment, effects.intervention, evidence.finished_position"""
        ):
            self.finished.setdefault((row["experiment"], row["intervention"]), []).append(row["finished_id"])
        # The verdict that counts is the newest by the plan's own policy; what explores never claims.
        self.verdicts = {
            (row["experiment"], row["intervention"]): (row["verdict"], row["event_id"])
            for row in tables.rows(
                """SELECT
                    decisions.experiment, decisions.intervention, decisions.event_id,
                    CASE WHEN decisions.track = 'explore' THEN 'undecided' ELSE decisions.verdict END AS verdict
                FROM decisions
                INNER JOIN effects
                    ON effects.experiment = decisions.experiment AND effects.intervention = decisions.intervention
                    AND effects.policy = decisions.policy
                WHERE decisions.latest
                ORDER BY decisions.experiment, decisions.intervention"""
            )
        }

    def _outcome(self, tables: Reads) -> None:
        rows = tables.rows(
            """SELECT experiment, intervention, effect, se, df, track, defect FROM effects
            ORDER BY experiment, intervention"""
        )
        defects = 0
        for row in rows:
            plan = self.plans[row["experiment"]]
            if plan["metric"] != self.outcome or row["experiment"] not in self.where:
                continue
            if row["defect"]:
                defects += 1
            elif row["effect"] is not None and row["se"] is not None and row["se"] > 0:
                self._add(
                    self.outcome,
                    plan,
                    row["intervention"],
                    row["effect"],
                    row["se"],
                    row["df"],
                    row["track"] == "explore",
                )
        if defects:
            self.notes.append(
                f"{defects} arms have runs that nothing may be claimed from; `ledger sql` effects.defect"
            )

    def _mediators(self, tables: Reads) -> None:
        rows = tables.rows(
            """SELECT pairs.experiment, pairs.intervention,
                ln((t.wall_s / t.steps) / (c.wall_s / c.steps)) AS step_time,
                ln(t.tokens / c.tokens) AS tokens_seen,
                ln(t.artifact_bytes / c.artifact_bytes) AS artifact_bytes,
                t.pre_value - c.pre_value AS pre_quant_bpb,
                (t.value - t.pre_value) - (c.value - c.pre_value) AS quant_gap
            FROM paired_differences AS pairs
            INNER JOIN (SELECT * FROM runs WHERE wall_s > 0 OR wall_s IS NULL) AS t ON t.run = pairs.run_t
            INNER JOIN (SELECT * FROM runs WHERE wall_s > 0 OR wall_s IS NULL) AS c ON c.run = pairs.run_c
            WHERE pairs.both_ok AND NOT pairs.exploratory
                AND coalesce(t.steps, 1) > 0 AND coalesce(c.steps, 1) > 0
                AND coalesce(t.tokens, 1) > 0 AND coalesce(c.tokens, 1) > 0
                AND coalesce(t.artifact_bytes, 1) > 0 AND coalesce(c.artifact_bytes, 1) > 0
            ORDER BY pairs.experiment, pairs.intervention, pairs.seed"""
        )
        told: dict[tuple[str, str, str], list[float]] = {}
        for row in rows:
            if self.plans[row["experiment"]]["metric"] != self.outcome:
                continue
            for target in ("step_time", "tokens_seen", "artifact_bytes", "pre_quant_bpb", "quant_gap"):
                if row[target] is not None and math.isfinite(row[target]):
                    told.setdefault((row["experiment"], target, row["intervention"]), []).append(row[target])
        for (experiment, target, arm), values in sorted(told.items()):
            if len(values) > 1:
                se = math.sqrt(max(variance(values), rounding_variance(PRINTED)) / len(values))
                self._add(target, self.plans[experiment], arm, mean(values), se, len(values) - 1.0)

    def _add(
        self, target: str, plan: Row, arm: str, effect: float, se: float, df: float, explores: bool = False
    ) -> None:
        experiment, where = plan["experiment"], self.where[plan["experiment"]]
        row = self.rows[experiment, arm]
        base = plan["base"][:12]
        child = f"{base} + {', '.join(name if d > 0 else f'no {name}' for name, d in row)}"
        evidence = tuple(self.finished.get((experiment, arm), ()))
        self.stacks[base] = (where, frozenset())
        self.stacks[child] = (where, frozenset(name for name, d in row if d > 0))
        keys = (f"{target} {experiment}/{arm}", f"{target} {experiment}/")
        # Half of the variance of a difference is the control's, which the arms share.
        self.noise[keys[1]] = digits(min(se**2 / 2, self.noise.get(keys[1], math.inf)))
        self.noise[keys[0]] = digits(se**2 / 2)
        self.contrasts.append(
            Contrast(target, where, child, base, row, digits(effect), keys, experiment, True, "experiment", evidence)
        )
        if len(row) == 1:
            verdict, event = self.verdicts.get((experiment, arm), (None, None))
            sign = row[0][1]
            judged = target == self.outcome and event is not None
            if explores:
                verdict, judged = "undecided", True
            self.trials.append(
                Trial(
                    row[0][0],
                    target,
                    where,
                    experiment,
                    arm,
                    sign,
                    digits(sign * effect),
                    digits(se),
                    df,
                    verdict if judged else None,
                    (*evidence, event) if target == self.outcome and event is not None else evidence,
                )
            )

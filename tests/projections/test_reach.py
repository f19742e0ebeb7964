"""What a further event reaches: tables built onwards are those built anew, whatever the events are and in any order.

The histories here have what the ranking, the transfers and the screens look at: several bases, platforms and noise
classes, other losses, screens, cycles, decisions, records, revisions of the DAG, and retractions of all of them.
"""

import copy
import random
import shutil
import sys
from pathlib import Path
from unittest import mock

import history
import lineages
import msgspec
import pytest
from hypothesis import HealthCheck, Phase, example, given, settings
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # benchmarks is no installed package

from benchmarks.tables import blank
from ledger import cycles, dag, events
from ledger.chain import Log
from ledger.writer import Draft
from projections import catalog, engine
from projections.digest import parts_digest
from projections.engine import tables

SCALES = ("small", "large")
CHANGES = ("a", "b", "c", "d", "e", "f", "g")


def arm(name, *, value=None):
    return blank(
        events.Arm, name=name, role="control" if name == "control" else "treatment",
        config=() if name == "control" else events.named({"change": value or name}),
    )  # fmt: skip


def where(scale):
    return events.NoiseClass("box", scale, "val_bpb", "train")


class History:
    """Appends random but possible events, one commit at a time. Few names, so that they meet each other often."""

    def __init__(self, log, seed, with_records=True, retracts=2):
        self.log, self.rng, self.with_records, self.retracts = log, random.Random(seed), with_records, retracts
        self.plans, self.ids, self.cycles, self.number = [], [], [], 0

    def step(self):
        self.number += 1
        makers = [self.plan] * 3 + [self.run] * 5
        if self.plans:
            makers += (
                [self.run] * 5
                + [self.amend, self.decide, self.decide, self.rank]
                + [self.screen] * (self.rng.random() < 0.4)
            )
        makers += [self.cycle] + [self.retract] * self.retracts + [self.record, self.revise] * self.with_records
        drafts = self.rng.choice(makers)()
        if drafts:
            self.ids += self.log.writer.append(drafts).event_ids

    def plan(self):
        base, scale = self.rng.choice([("b1", "small"), ("b2", "small"), ("b3", "large"), ("b3", "small")])
        changes = self.rng.sample(CHANGES, self.rng.randint(1, 4))
        made = history.registered(
            f"e{self.number}", ["control", *changes], list(range(self.rng.randint(1, 3))), base=base,
            noise_class=where(scale), policy="ledger/1", pair_tier=self.rng.choice(["seed", "rerun", "fork"]),
            tau=self.rng.choice([None, 0.01]), name=self.rng.choice([f"plan-{self.number}", "s-c1"]),
        )  # fmt: skip
        made = msgspec.structs.replace(made, arms=tuple(arm(one.name) for one in made.arms))
        self.plans.append(made)
        return [Draft(f"experiment/{made.experiment}", made)]

    def amend(self):
        plan = self.rng.choice(self.plans)
        more = msgspec.structs.replace(plan, seeds=(*plan.seeds, 50 + self.number), delta=0.02, amends="x")
        return [Draft(f"experiment/{plan.experiment}", more)]

    def run(self):
        if not self.plans:
            return self.plan()
        plan = self.rng.choice(self.plans)
        drafts = []
        for _ in range(self.rng.randint(1, 6)):
            self.number += 1
            one, seed = self.rng.choice(plan.arms).name, self.rng.choice(plan.seeds)
            run, y = f"r{self.number}", 1.2 + self.rng.gauss(0, 0.01)
            start = history.started(
                run, plan.experiment, one, seed, base=self.rng.choice([plan.base] * 9 + ["b1"]),
                noise_class=self.rng.choice([plan.noise_class] * 9 + [where("small")]),
                cell=f"{plan.base}-{one}-{seed}",
            )  # fmt: skip
            status = self.rng.choice(["ok"] * 9 + ["crash"])
            end = history.finished(run, y if status == "ok" else None, status)
            finals = tuple(
                events.FinalMetric(name, self.rng.choice([value] * 9 + ["NaN"]), 1)
                for name, value in (("train_loss", 2 * y + self.rng.gauss(0, 0.01)), ("lr", 0.1))
                if self.rng.random() < 0.8
            )
            wall = self.rng.choice(
                [None, 5.0 if plan.noise_class.scale == "small" else 50.0, self.rng.uniform(1, 99)]
            )
            pre = self.rng.choice([None, y - 0.01])
            end = msgspec.structs.replace(end, finals=finals, wall_s=wall, pre_value=pre)
            drafts += [Draft(f"run/{run}", start), Draft(f"run/{run}", end)]
        return drafts

    def decide(self):
        plan = self.rng.choice(self.plans)
        made = blank(
            events.DecisionMade, experiment=plan.experiment, intervention=self.rng.choice(plan.arms[1:]).name,
            verdict=self.rng.choice(["better", "worse", "undecided", "invalid"]), policy="ledger/1",
        )  # fmt: skip
        return [Draft(f"experiment/{plan.experiment}", made)]

    def screen(self):
        plan = self.rng.choice(self.plans)
        names = [one.name for one in plan.arms if one.name != "control"]
        made = events.ScreenPlanned(
            experiment=plan.experiment,
            factors=tuple(blank(events.Factor, name=name) for name in names),
            stacks=tuple(
                blank(events.Stack, arm=one.name, levels=tuple(1 if one.name == name else -1 for name in names))
                for one in plan.arms
            ),
        )
        return [Draft(f"experiment/{plan.experiment}", made)]

    def cycle(self):
        base, scale = self.rng.choice([("b1", "small"), ("b3", "large"), ("b4", "large")])
        names = self.rng.sample(CHANGES, 2)
        made = blank(
            events.CyclePlanned, cycle=f"c-{base}", name="s", base=base, metric="val_bpb", direction="lower",
            delta=0.01, alpha=0.05, seeds=2, batch=2, adopt=0.005, noise_class=where(scale), control=arm("control"),
            arms=tuple(arm(name) for name in names),
            candidates=tuple(
                blank(
                    cycles.Candidate, name=name, cost=self.rng.choice([None, 2.0]), sd=0.01, feasible=1.0,
                    technique=self.rng.choice(["", "t1"]), excludes=self.rng.choice(["", "x"]),
                )
                for name in names
            ),
        )  # fmt: skip
        self.cycles.append(made.cycle)
        return [Draft(f"cycle/{made.cycle}", made)]

    def rank(self):
        if not self.cycles:
            return self.cycle()
        made = blank(
            events.CycleRanked, cycle=self.rng.choice(self.cycles), number=1, experiment="s-c1", chosen=("a",)
        )
        return [Draft(f"cycle/{made.cycle}", made)]

    def record(self):
        new = self.rng.sample(["t1", "t2", "t3"], 2)
        made = lineages.record(f"2026-01-0{self.rng.randint(1, 4)}_x", [1.1, 1.101, 1.102], new=new)
        return [Draft(f"record/{made.record.replace('/', '.')}", made)]

    def revise(self):
        made = blank(
            events.DagRevised, part=1, parts=1,
            nodes=(dag.DagNode(id="val_bpb", kind="outcome", label="", group="", unit="bpb", delta=None),),
            lineage=tuple(
                blank(
                    dag.LineageEffect, technique=name, target="val_bpb", where=lineages.TRACK, contrasts=2,
                    mean=self.rng.gauss(0, 0.01), sd=0.01, alias_class=self.rng.choice([None, 1]),
                )
                for name in ("t1", "t2", "t3")
            ),
        )  # fmt: skip
        return [Draft("dag/x", made)]

    def retract(self):
        if not self.ids:
            return []
        target = self.ids.pop(self.rng.randrange(len(self.ids)))
        return [Draft("run/x", events.EventRetracted(target=target, reason="test"))]


def kept(log, **options):
    """Digests of what is kept, and of the view that gives the places.

    The other views follow from these and the facts, and to read all of them takes longer than to build.
    """
    built = tables(log, **options)
    names = {table.name: table.key for table in catalog.tables() if table.kind == "table"}
    names["next_interventions"] = ("id", "base", "experiment")
    found = {}
    for name, key in names.items():
        rows = built.query(f"SELECT * FROM {name} ORDER BY {', '.join(key)}")
        found[name] = parts_digest(rows.num_rows, iter([rows]))
    built.close()
    return found


@settings(
    max_examples=3,
    deadline=None,
    phases=(Phase.explicit, Phase.reuse, Phase.generate),
    suppress_health_check=list(HealthCheck),
)
@given(
    seed=st.integers(0, 10**6), cuts=st.sets(st.integers(10, 59), min_size=2, max_size=5), with_records=st.booleans()
)
@example(seed=46170, cuts={14, 20, 37, 38, 45}, with_records=False)  # runs in another class than their plan
def test_tables_built_onwards_are_those_built_anew_with_one_thread_and_with_eight(
    tmp_path_factory, seed, cuts, with_records
):
    log = Log.create(tmp_path_factory.mktemp("any") / "ledger")
    built_anew, create = [], engine._create
    random_history = History(log, seed, with_records)
    for step in range(60):
        random_history.step()
        if step in cuts:
            with mock.patch.object(engine, "_create", side_effect=create) as anew:
                tables(log, threads=8).close()
            built_anew += [step] * anew.call_count
    onwards = kept(log, threads=1)
    assert built_anew == [min(cuts)]  # or an error was taken for a damaged file
    assert onwards == kept(log, fresh=True, threads=1)
    assert onwards == kept(log, fresh=True, threads=8)


def test_the_histories_reach_every_table_that_a_ranking_is_made_of(tmp_path):
    log = Log.create(tmp_path / "ledger")
    random_history = History(log, 1)
    for _ in range(90):
        random_history.step()
    built = tables(log)
    for name in ("transfer", "transfer_pred", "change_metrics", "conditions", "screen_effects", "planned_runs"):
        assert built.rows(f"SELECT 1 FROM {name} LIMIT 1"), name
    sources = {row["source"] for row in built.rows("SELECT DISTINCT source FROM next_interventions")}
    assert sources >= {"experiment", "cycle", "transfer", "lineage"}
    assert built.rows("SELECT DISTINCT same_runs FROM transfer ORDER BY ALL") == [
        {"same_runs": False}, {"same_runs": True}
    ]  # fmt: skip


def test_a_table_in_sql_alone_is_left_where_no_fact_of_its_own_came():
    assert catalog.facts("experiments") == {"experiment_registered"}
    assert catalog.facts("conditions") == {"run_started", "run_finished", "experiment_registered", "screen_planned"}
    assert catalog.facts("effects") is None  # Python makes it, and looks at what it likes


@pytest.fixture(scope="module")
def grown(request, tmp_path_factory):
    """A history of sixty commits that was looked at, with records where that is asked for."""
    log = Log.create(tmp_path_factory.mktemp("grown") / "ledger")
    random_history = History(log, 10, with_records=request.param, retracts=0)
    for _ in range(60):
        random_history.step()
    tables(log).close()
    return random_history


# Of the history with records one commit of those kinds that it alone has: it takes its time.
KINDS = ("plan", "amend", "run", "decide", "screen", "cycle", "rank", "retract", "unrun")
COMMITS = [(False, kind, number) for kind in KINDS for number in range(2)]
COMMITS += [(True, kind, 0) for kind in ("record", "revise")]


@pytest.mark.parametrize(("grown", "kind", "number"), COMMITS, indirect=["grown"])
def test_one_commit_of_a_kind_reaches_all_that_it_changes(grown, tmp_path, kind, number):
    shutil.copytree(grown.log.root, tmp_path / "ledger")
    log = Log(str(tmp_path / "ledger"))
    one = copy.copy(grown)
    one.log, one.rng, one.number, one.ids = log, random.Random(number), 1000 * (number + 1), [*grown.ids]
    if kind == "unrun":  # take back an outcome
        ended = [event.event_id for event in log.events(types=["run.finished"])]
        drafts = [Draft("run/x", events.EventRetracted(target=one.rng.choice(ended), reason="test"))]
    else:
        drafts = getattr(one, kind)()
    log.writer.append(drafts)
    assert kept(log) == kept(log, fresh=True)


def test_an_outcome_that_is_taken_back_is_no_noise_of_its_class_any_more(tmp_path):
    log = Log.create(tmp_path / "ledger")
    plan = history.registered("e", ["c", "t"], [0, 1, 2])
    values = {(one, seed): 1.2 + 0.01 * seed**2 for one in ("c", "t") for seed in (0, 1, 2)}
    (first, *_) = history.fill(log, plan, values)
    (before,) = tables(log).rows("SELECT n, variance FROM noise_arms WHERE arm = 'c'")
    log.writer.append([Draft("run/x", events.EventRetracted(target=first, reason="test"))])
    (after,) = tables(log).rows("SELECT n, variance FROM noise_arms WHERE arm = 'c'")
    assert (before["n"], after["n"]) == (3, 2)
    assert kept(log) == kept(log, fresh=True)

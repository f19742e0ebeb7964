"""What to run next and what transfers, from logs whose truth is known."""

from __future__ import annotations

import math
import random
import sys
from contextlib import closing
from pathlib import Path

import msgspec
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # benchmarks is no installed package

from benchmarks.tables import blank
from ledger import cycles, events
from ledger.chain import Log
from ledger.writer import Draft
from projections import ranking
from projections.engine import tables
from projections.statistics import value

SD = 0.001


class World:
    """A log that is written an experiment at a time. Values are drawn, so each world has its own seed."""

    def __init__(self, folder: Path, seed: int = 1) -> None:
        self.log = Log.create(folder)
        self.rng = random.Random(seed)
        self.runs = 0

    def arm(self, name, **settings):
        return events.Arm(
            name=name,
            role="control" if name == "control" else "treatment",
            config=events.named(settings),
        )

    def experiment(
        self, name, effects, seeds=(0, 1, 2), *, base="b1", scale="small", wall=None, level=1.2, slope=1.0,
        finals=None, failing=(), track="confirm", policy="ledger/1", **more,
    ):  # fmt: skip
        """Register a plan whose arms have these effects, and run every cell."""
        experiment = f"{name}-{base}"
        noise = events.NoiseClass("box", scale, "val_bpb", "train")
        arms = (self.arm("control"), *(self.arm(arm, change=arm) for arm in effects))
        plan = blank(
            events.ExperimentRegistered,
            experiment=experiment, name=name, metric="val_bpb", direction="lower", delta=0.002, alpha=0.05,
            seeds=tuple(seeds), seed_role="confirm", control="control", arms=arms, base=base, noise_class=noise,
            hypotheses=tuple(events.Hypothesis(arm, "different") for arm in effects), stopping="fixed",
            looks=(len(seeds),), pair_tier="seed", policy=policy, track=track, plan="", **more,
        )  # fmt: skip
        stream = f"experiment/{experiment}"
        self.log.writer.append([Draft(stream, plan)])
        drafts = []
        for arm, effect in {"control": 0.0, **effects}.items():
            for seed in seeds:
                status = "crash" if arm in failing else "ok"
                seconds = (wall or {}).get(arm, (wall or {}).get("control"))
                drafts += self.run(
                    experiment, arm, seed, level + slope * effect + self.rng.gauss(0, SD), base, noise, status,
                    seconds, finals(effect) if finals else (),
                )  # fmt: skip
        if drafts:
            self.log.writer.append(drafts)
        return experiment

    def run(self, experiment, arm, seed, y, base, noise, status="ok", wall=None, finals=()):
        run = f"r{self.runs:05d}"
        self.runs += 1
        start = blank(
            events.RunStarted, run=run, experiment=experiment, arm=arm, seed=seed, seed_role="confirm", base=base,
            cell=f"{base}/{arm}/{seed}", noise_class=noise, block="m1", stage="train",
            role="control" if arm == "control" else "treatment",
        )  # fmt: skip
        end = blank(
            events.RunFinished, run=run, status=status, metric="val_bpb", value=y if status == "ok" else None,
            wall_s=wall, ended_at="2026-01-01T00:00:00Z",
            finals=tuple(events.FinalMetric(name, number, 1) for name, number in finals),
        )  # fmt: skip
        return [Draft(f"run/{run}", start), Draft(f"run/{run}", end)]

    def rows(self, sql="SELECT * FROM next_interventions ORDER BY rank NULLS LAST, id", **more):
        built = tables(self.log, **more)
        try:
            return built.rows(sql)
        finally:
            built.close()


@pytest.fixture
def world(tmp_path):
    return World(tmp_path / "ledger")


def test_an_empty_log_has_nothing_to_run_next(world):
    assert world.rows() == []


def test_an_open_arm_is_ranked_with_figures_that_can_be_computed_by_hand(world):
    world.experiment("one", {"a": -0.001, "b": 0.004}, wall={"control": 10.0, "b": 30.0})
    rows = {row["candidate"]: row for row in world.rows() if row["action"] == "add_seeds"}
    (c, a, b) = (
        next(row for row in world.rows("SELECT * FROM conditions") if row["arm"] == arm)
        for arm in ("control", "a", "b")
    )
    noise = math.fsum(row["variance"] for row in (a, b, c)) / 3
    mean, variance = value.posterior(0.0, 0.002**2, a["mean"] - c["mean"], noise * 2 / 3)
    assert rows["a"]["m"] == pytest.approx(mean)
    assert rows["a"]["sd"] == pytest.approx(math.sqrt(variance))
    k = rows["a"]["k"]
    after = noise * (2 / (3 + k))
    moved = value.mean_variance(variance, value.more_news(noise * 2 / 3, after))
    assert rows["a"]["gain"] == pytest.approx(value.gain(mean, moved, 0.001))
    assert rows["a"]["score"] == pytest.approx(rows["a"]["gain"] / rows["a"]["cost"])
    assert rows["a"]["cost"] == pytest.approx(2 * k)  # as long as the control, which runs beside it
    assert rows["b"]["cost"] == pytest.approx(4 * rows["b"]["k"])  # three times as long


def test_the_seed_rule_stands_beside_and_asks_for_the_largest_improvement(world):
    world.experiment("one", {"a": -0.02, "b": -0.001, "c": 0.01})
    ranks = {row["candidate"]: row["seed_rule_rank"] for row in world.rows() if row["action"] == "add_seeds"}
    assert ranks == {"a": 1, "b": 2, "c": 3}
    first = next(row for row in world.rows() if row["action"] == "add_seeds")
    assert first["candidate"] == "b"  # nobody needs to know more of a


def test_equal_changes_of_several_plans_are_one_candidate_with_all_their_seeds(world):
    world.experiment("one", {"a": -0.001}, seeds=(0, 1))
    world.experiment("two", {"a": -0.001}, seeds=(2, 3, 4))
    rows = [row for row in world.rows() if row["candidate"] == "a"]
    assert len(rows) == 1
    assert "after 5 seeds" in rows[0]["reason"]


def test_what_is_decided_is_told_and_may_not_be_chosen(world):
    from projections.decide import decide

    experiment = world.experiment("one", {"a": -0.05, "b": -0.003})
    built = tables(world.log)
    (made,) = [made for made in decide(built, experiment) if made.intervention == "a"]
    world.log.writer.append([Draft(f"experiment/{experiment}", made)])
    built.close()
    rows = {row["candidate"]: row for row in world.rows() if row["action"] == "add_seeds"}
    assert (rows["a"]["rank"], rows["a"]["blocked_by"]) == (None, "decided: better")
    assert rows["a"]["seed_rule_rank"] is None
    assert rows["b"]["rank"] is not None


def judged_by(world, experiment, *policies):
    """Append decisions by these policies, None being the plan's own, in this order."""
    from projections.decide import decide
    from projections.statistics.policies import find

    for policy in policies:
        with closing(tables(world.log)) as built:
            made = decide(built, experiment, find(policy) if policy else None)
        world.log.writer.append([Draft(f"experiment/{experiment}", one) for one in made])


def test_what_another_rule_says_beside_decides_nothing_of_what_is_next(world):
    experiment = world.experiment("one", {"a": 0.0}, seeds=range(12))
    judged_by(world, experiment, None)
    before = world.rows()
    (row,) = before
    assert row["blocked_by"] == "decided: no effect that matters"
    judged_by(world, experiment, "seed-plan")  # which says undecided
    assert world.rows() == before


def test_a_rule_beside_that_finds_an_effect_takes_no_open_arm_away(world):
    experiment = world.experiment("one", {"a": -0.05})
    judged_by(world, experiment, "parameter-golf-leaderboard")
    (row,) = world.rows()
    assert row["rank"] == 1
    assert "(not decided)" in row["reason"]


@pytest.mark.parametrize("named", ["seed-plan/1", "seed-plan", "ledger", "unknown/7"])
def test_a_plan_goes_by_the_policy_that_it_names_and_by_the_ledgers_where_that_is_unknown(world, named):
    from projections.statistics.policies import of_plan

    experiment = world.experiment("one", {"a": -0.05}, seeds=range(12), policy=named)
    other = "ledger" if of_plan(named).name == "seed-plan" else "seed-plan"
    judged_by(world, experiment, other)
    assert world.rows()[0]["rank"] == 1
    judged_by(world, experiment, None)
    assert world.rows()[0]["blocked_by"] == "decided: better"


def test_candidates_and_stop_rules_of_a_cycle_go_by_its_plans_own_policy(world):
    from projections.cycling import rank, replay, standing

    planned = plan_of_cycles()
    plan_id = world.log.writer.append([Draft("cycle/c1", planned)]).event_ids[0]
    ranked = blank(events.CycleRanked, cycle="c1", number=1, experiment="try-c1", chosen=("cheap",), plan="x")
    world.log.writer.append([Draft("cycle/c1", ranked)])
    experiment = world.experiment("try-c1", {"cheap": -0.05}, seeds=(0, 1, 2, 3))
    judged_by(world, experiment, "seed-plan")
    with closing(tables(world.log)) as built:
        assert standing(built, "c1").step == "decide"
    judged_by(world, experiment, None, "parameter-golf-leaderboard", "seed-plan")
    with closing(tables(world.log)) as built:
        assert standing(built, "c1").step == "rank"
        new, old = (rank(built, planned, plan_id, name) for name in ("next/3", "next/2"))
        assert {one.candidate: one.blocked_by for one in new.ranking}["cheap"] == "decided: better"
        assert (new.procedure, old.procedure) == ("next/3", "next/2")
        assert (replay(built, new), replay(built, old)) == ([], [])
        assert [one.field for one in replay(built, msgspec.structs.replace(old, procedure="next/1"))]


def test_an_arm_whose_planned_runs_are_missing_waits_for_them(world):
    experiment = world.experiment("one", {"a": -0.001}, seeds=(0, 1))
    stream = f"experiment/{experiment}"
    (plan,) = [event.data for event in world.log.events(types=("experiment.registered",))]
    world.log.writer.append([Draft(stream, msgspec.structs.replace(plan, seeds=(0, 1, 2)))])
    row = next(row for row in world.rows() if row["candidate"] == "a")
    assert row["blocked_by"] == "1 planned pairs have not run yet: ledger run its plan first"


def test_what_crashed_before_is_worth_less(world):
    world.experiment("one", {"a": 0.0, "b": 0.0}, failing=("a",))
    rows = {row["candidate"]: row for row in world.rows() if row["candidate"] in ("a", "b")}
    assert rows["a"]["feasible"] == pytest.approx(2 / 5)
    assert rows["b"]["feasible"] == 1.0


def test_open_effects_that_share_few_controls_ask_for_more_of_them(world):
    world.experiment("one", {"a": -0.001, "b": -0.0015, "c": -0.0005}, seeds=(0, 1))
    row = next(row for row in world.rows() if row["action"] == "grow_bank")
    assert row["candidate"] == "control"
    assert row["cost"] == row["k"]
    assert row["reason"].startswith("3 open effects share the 2 seeds of control")


def test_many_open_changes_of_one_base_may_be_screened_together(world):
    world.experiment("one", {f"x{i}": 0.0 for i in range(9)}, seeds=(0,))
    row = next(row for row in world.rows() if row["action"] == "factorial_screen")
    assert (row["k"], row["cost"]) == (24, 24.0)
    assert row["arms"] == ", ".join(f"x{i}" for i in range(9))
    assert "average effects, to be confirmed one at a time" in row["reason"]


def plan_of_cycles(**more):
    given = {
        "cycle": "c1", "name": "try", "base": "b1", "metric": "val_bpb", "direction": "lower", "delta": 0.002,
        "alpha": 0.05, "seeds": 2, "first_seed": 0, "batch": 1, "adopt": 0.001,
        "noise_class": events.NoiseClass("box", "small", "val_bpb", "train"),
        "control": events.Arm(name="control", role="control"),
        "arms": tuple(
            events.Arm(name=name, role="treatment", config=events.named({"change": name}))
            for name in ("cheap", "dear")
        ),
        "candidates": tuple(
            cycles.Candidate(name=name, cost=cost, mean=0.0, sd=0.002, feasible=1.0, technique="", excludes="x")
            for name, cost in (("cheap", 1.0), ("dear", 10.0))
        ),
        "stop": (cycles.StopRule("cycles", 3.0),),
    }  # fmt: skip
    return blank(events.CyclePlanned, **(given | more))


def test_candidates_of_a_cycle_plan_are_ranked_by_what_they_cost(world):
    world.log.writer.append([Draft("cycle/c1", plan_of_cycles())])
    cheap, dear = world.rows()
    assert (cheap["id"], dear["id"]) == ("cycle/try/ablate/cheap", "cycle/try/ablate/dear")
    assert (cheap["cost"], dear["cost"]) == (4.0, 22.0)  # two seeds, each beside one of the control
    assert cheap["gain"] == pytest.approx(dear["gain"])
    assert cheap["score"] / dear["score"] == pytest.approx(5.5)


def test_of_candidates_that_exclude_each_other_one_that_is_better_ends_the_others(world):
    from projections.decide import decide

    world.log.writer.append([Draft("cycle/c1", plan_of_cycles())])
    ranked = blank(events.CycleRanked, cycle="c1", number=1, experiment="try-c1", chosen=("cheap",), plan="x")
    world.log.writer.append([Draft("cycle/c1", ranked)])
    experiment = world.experiment("try-c1", {"cheap": -0.05}, seeds=(0, 1, 2, 3))
    built = tables(world.log)
    world.log.writer.append([Draft(f"experiment/{experiment}", made) for made in decide(built, experiment)])
    built.close()
    rows = {row["candidate"]: row for row in world.rows() if row["source"] == "cycle"}
    assert rows["cheap"]["blocked_by"] == "decided: better"
    assert rows["dear"]["blocked_by"] == "excludes cheap, which is better"


def test_a_ranking_is_the_same_anew_onwards_and_with_many_threads(world):
    world.experiment("one", {"a": -0.001, "b": 0.004}, wall={"control": 10.0})
    world.rows()  # a cache to build on
    world.log.writer.append([Draft("cycle/c1", plan_of_cycles())])
    world.experiment("two", {"a": -0.001, "c": 0.0}, seeds=(5, 6))
    names = ("next_interventions", "transfer", "transfer_pred", "screen_effects", "conditions", "budget")
    found = []
    for more in ({}, {"fresh": True, "threads": 1}, {"fresh": True, "threads": 8}):
        built = tables(world.log, **more)
        found.append({name: built.rows(f"SELECT * FROM {name} ORDER BY ALL") for name in names})
        built.close()
    assert found[0] == found[1] == found[2]
    assert len(found[0]["next_interventions"]) > 4


def test_as_of_an_earlier_head_the_ranking_is_that_of_then(world):
    world.experiment("one", {"a": -0.001})
    size = world.log.head().position
    before = world.rows()
    world.experiment("two", {"a": -0.001}, seeds=(5, 6))
    built = tables(world.log, size)
    assert built.rows("SELECT * FROM next_interventions ORDER BY rank NULLS LAST, id") == before
    built.close()


def test_a_cycle_plan_that_was_taken_back_is_ranked_no_more(world):
    made = world.log.writer.append([Draft("cycle/c1", plan_of_cycles())])
    assert len(world.rows()) == 2
    gone = events.EventRetracted(target=made.event_ids[0], reason="a mistake")
    world.log.writer.append([Draft("cycle/c1", gone)])
    assert world.rows() == []


# ── transfer ──

EFFECTS = {f"t{i}": size for i, size in enumerate((-0.02, -0.012, -0.006, -0.002, 0.004, 0.009, 0.015, 0.02))}


def test_two_scales_that_share_changes_have_a_slope_and_foresee_what_one_lacks(world):
    proxy = {**EFFECTS, "new": -0.018}
    world.experiment("small", proxy, base="b1", scale="small", wall={"control": 5.0})
    world.experiment("large", EFFECTS, base="b2", scale="large", wall={"control": 500.0}, slope=0.5, level=1.0)
    (row,) = world.rows("SELECT * FROM transfer")
    assert (row["proxy"], row["target"]) == ("box, small, val_bpb, train", "box, large, val_bpb, train")
    assert row["k"] == 8
    assert row["lo"] < 0.5 < row["hi"]
    assert abs(row["b"] - 0.5) < 0.15
    assert row["p_pos"] > 0.99
    (told,) = world.rows("SELECT * FROM transfer_pred")
    assert told["intervention"] == "new"
    assert abs(told["pred"] - -0.009) < 3 * told["sd"]
    check = next(one for one in world.rows() if one["action"] == "transfer_check")
    assert (check["candidate"], check["target"], check["base"]) == ("new", row["target"], "b2")
    assert check["m"] == pytest.approx(told["pred"])


@pytest.mark.parametrize(
    ("there", "ranked"),
    [
        (("python3.13", "/data/train.py", "--large"), True),  # the same script with other arguments
        (("python", "other.py"), False),
        ((), False),  # the built-in trainer knows nothing of a script's variables
    ],
)
def test_a_transfer_keeps_the_program_of_its_arm(world, there, ranked):
    world.experiment("small", {"a": -0.018}, wall={"control": 5.0}, command=("python", "train.py"))
    world.experiment("large", {"b": -0.018}, base="b2", scale="large", wall={"control": 500.0}, command=there)
    found = [row["base"] for row in world.rows() if row["action"] == "transfer_check"]
    assert found == (["b2"] if ranked else [])


def test_of_several_plans_on_a_target_a_transfer_follows_that_of_its_program(world):
    world.experiment("small", {"a": -0.018}, wall={"control": 5.0}, command=("python", "train.py"))
    for base, command in (("b2", ()), ("b3", ("python", "train.py")), ("b4", ("python", "x.py"))):
        world.experiment(base, {"b": -0.018}, base=base, scale="large", wall={"control": 500.0}, command=command)
    assert [row["base"] for row in world.rows() if row["action"] == "transfer_check"] == ["b3"]


def test_with_few_shared_changes_there_is_no_slope_and_the_prior_foresees(world):
    world.experiment("small", {"t0": -0.02, "new": -0.02}, base="b1", scale="small", wall={"control": 5.0})
    world.experiment("large", {"t0": -0.01}, base="b2", scale="large", wall={"control": 500.0})
    (row,) = world.rows("SELECT * FROM transfer")
    assert (row["k"], row["b"]) == (1, None)
    (told,) = world.rows("SELECT * FROM transfer_pred")
    assert told["pred"] == pytest.approx(0.5 * told["x"], rel=0.3)
    assert told["sd"] > abs(told["pred"])
    check = next(one for one in world.rows() if one["action"] == "transfer_check")
    assert "no slope is known yet" in check["reason"]


def test_a_loss_that_runs_tell_beside_the_metric_is_its_proxy_with_errors_that_belong_together(world):
    def finals(effect):
        noise = world.rng.gauss(0, SD)
        return (("train_loss", 3.0 + 2 * effect + noise), ("lr", 0.1))

    world.experiment("one", EFFECTS, finals=finals, seeds=(0, 1, 2, 3))
    (row,) = world.rows("SELECT * FROM transfer")
    assert row["proxy"] == "box, small, train_loss, train"
    assert row["same_runs"]
    assert row["lo"] < 0.5 < row["hi"]
    assert row["sign_agree"] > 0.7


def test_the_ranking_of_no_options_is_no_rows():
    assert ranking.ranked([]) == []

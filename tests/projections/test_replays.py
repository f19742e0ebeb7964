"""Judgements made again: exactly, whatever the machine; against today, with the events that made the difference."""

import json
import os
import random
import subprocess
import sys
from pathlib import Path

import history
import msgspec
import pytest

from ledger import canonical, events, upcasters
from ledger.chain import Log
from ledger.writer import Draft
from projections.against import against
from projections.decide import compared, decide, decide_all, replay
from projections.engine import each_head, tables
from projections.statistics import policies

ARMS = ["c", "t", "u", "v", "w"]
SEEDS = [0, 1, 2]


def run_of(log, experiment, arm, seed, value, again=""):
    run = f"{experiment}-{arm}-{seed}{again}"
    start = history.started(run, experiment, arm, seed, cell=f"{experiment}-{arm}-{seed}", block=f"b{seed % 2}")
    return [Draft(f"run/{run}", start), Draft(f"run/{run}", history.finished(run, value))]


def drafts_of(rng, number):
    """A plan of four hypotheses by one policy or another, with most of its runs."""
    name = f"e{number}"
    seeds = [3 * number + s for s in SEEDS]
    more = {"stopping": "looks", "looks": (2, 3)} if number % 4 == 1 else {}
    policy = ("ledger/1", "ledger/1", "paired-pooled/1", "seed-plan/1")[number % 4]
    tier = ("rerun", "seed", "fork")[number % 3]
    plan = history.registered(name, ARMS, seeds, policy=policy, pair_tier=tier, **more)
    drafts = [Draft(f"experiment/{name}", plan)]
    for seed in seeds:
        shared = rng.gauss(0, 0.003)
        for arm in ARMS:
            if rng.random() < 0.97:
                value = 1.2 + shared - 0.004 * ARMS.index(arm) + rng.gauss(0, 0.002)
                drafts += run_of(None, name, arm, seed, value)
    return drafts


@pytest.fixture(scope="module")
def judged(tmp_path_factory):
    """A ledger with 208 judgements at 6 heads, by four policies, between late seeds and retractions."""
    log = Log.create(tmp_path_factory.mktemp("judged") / "ledger")
    rng = random.Random(5)
    for batch in range(0, 52, 9):
        numbers = range(batch, min(batch + 9, 52))
        made = log.writer.append([draft for number in numbers for draft in drafts_of(rng, number)])
        decided = decide_all(tables(log), [f"e{number}" for number in numbers])
        log.writer.append([Draft(f"experiment/{one[0].experiment}", made) for one in decided for made in one])
        gone = rng.choice([i for i in made.event_ids if i != made.event_ids[0]])
        log.writer.append([Draft("run/x", events.EventRetracted(target=gone, reason="wrong data"))])
    return log


AGAIN = """
import json, sys
from ledger.chain import Log
from projections.decide import replay_many
from projections.engine import each_head
log = Log(sys.argv[1])
judgements = [event.data for event in log.events(types=("decision.made",))]
found = []
for then in each_head(log, sorted({made.head.position for made in judgements}), threads=int(sys.argv[2])):
    mine = [made for made in judgements if made.head.position == then.head.position]
    for made, differences in zip(mine, replay_many(then, mine), strict=True):
        found.append([made.experiment, made.intervention, [list(map(str, d)) for d in differences]])
print(json.dumps(found))
"""


@pytest.mark.parametrize(
    ("threads", "environment"),
    [
        (1, {"PYTHONHASHSEED": "1", "TZ": "UTC", "LC_ALL": "C"}),
        (8, {"PYTHONHASHSEED": "77", "TZ": "Pacific/Chatham", "LC_ALL": "tr_TR.UTF-8"}),
    ],
)
def test_two_hundred_judgements_come_out_exactly_on_any_machine(judged, threads, environment):
    done = subprocess.run(
        [sys.executable, "-c", AGAIN, judged.root, str(threads)],
        env={**os.environ, **environment, "PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    found = json.loads(done.stdout)
    assert len(found) >= 200
    assert [one for one in found if one[2]] == []


def test_a_judgement_of_the_first_version_comes_out_exactly(log):
    rng = random.Random(1)
    values = {(arm, s): 1.2 + rng.gauss(0, 0.002) for arm in "ct" for s in range(4)}
    history.fill(log, history.registered("e", ["c", "t"], range(4)), values)
    (made,) = decide(tables(log), "e")
    old = canonical.decode(canonical.encode(made))
    for name in upcasters.DECISION_ADDED_IN_2:
        del old[name]
    read = events.parse("decision.made", 1, old)
    assert (read.policy_digest, read.e_value, read.used) == ("", None, made.used)
    assert replay(tables(log), read) == []
    assert {d.field for d in replay(tables(log), msgspec.structs.replace(read, effect=0.5))} == {"effect"}


def test_a_first_version_event_in_the_log_is_read_as_the_second(log, monkeypatch):
    rng = random.Random(1)
    values = {(arm, s): 1.2 + rng.gauss(0, 0.002) for arm in "ct" for s in range(4)}
    history.fill(log, history.registered("e", ["c", "t"], range(4)), values)
    (made,) = decide(tables(log), "e")
    names = [name for name in made.__struct_fields__ if name not in upcasters.DECISION_ADDED_IN_2]
    first = msgspec.defstruct(
        "First", [(name, events.DecisionMade.__annotations__[name]) for name in names],
        frozen=True, kw_only=True, namespace={"TYPE": "decision.made", "VERSION": 1}, module="ledger.events",
    )  # fmt: skip
    with monkeypatch.context() as patched:
        patched.setitem(events.TYPES, "decision.made", first)
        log.writer.append([Draft("experiment/e", first(**{name: getattr(made, name) for name in names}))])
    (row,) = tables(log, fresh=True).rows("SELECT policy, policy_digest, effect, used_count FROM decisions")
    assert row == {"policy": "paired-pooled/1", "policy_digest": "", "effect": made.effect, "used_count": 8}


def small(log, policy="ledger/1"):
    """A plan of two treatments with one seed missing; what was decided of it."""
    rng = random.Random(3)
    log.writer.append([Draft("experiment/e", history.registered("e", ["c", "t", "u"], [0, 1, 2], policy=policy))])
    for arm in ("c", "t", "u"):
        for seed in (0, 1, 2):
            if (arm, seed) != ("t", 2):
                log.writer.append(run_of(log, "e", arm, seed, 1.2 + rng.gauss(0, 0.01)))
    made = decide(tables(log), "e")
    log.writer.append([Draft("experiment/e", one) for one in made])
    return {one.intervention: one for one in made}


def today(log, made):
    (found,) = [against(then, tables(log), made) for then in each_head(log, [made.head.position])]
    return found


def whys(found):
    return [change.why for change in found.changes]


def test_against_now_nothing_changed_when_nothing_came(log):
    found = today(log, small(log)["u"])
    assert (found.differences, found.changes, found.program) == ([], [], [])


def test_a_late_seed_changes_what_would_be_decided_and_is_named(log):
    made = small(log)["t"]
    late = log.writer.append(run_of(log, "e", "t", 2, 1.1)).position + 1
    found = today(log, made)
    assert whys(found) == ["late seed: t seed 2 ended after the judgement"]
    assert [change.position for change in found.changes] == [late]
    assert found.now.n_t == made.n_t + 1
    assert "n_t" in {d.field for d in found.differences}
    assert replay(next(each_head(log, [made.head.position])), made) == []


def test_a_retraction_is_named_with_its_reason(log):
    made = small(log)["u"]
    target = made.used[-1]
    at = log.writer.append([Draft("run/x", events.EventRetracted(target=target, reason="disk full"))]).position
    (change,) = today(log, made).changes
    assert (change.position, change.type) == (at, "event.retracted")
    assert "disk full" in change.why


def test_an_amendment_is_named_with_what_it_changed(log):
    made = small(log)["u"]
    more = history.registered("e", ["c", "t", "u"], [0, 1, 2, 3], policy="ledger/1", amends="x")
    change = events.PlanChange("seeds", "0-2", "0-3")
    why = events.PlanAmended(experiment="e", amends="x", changes=(change,), reason="more")
    log.writer.append([Draft("experiment/e", more), Draft("experiment/e", why)])
    found = today(log, made)
    assert whys(found) == ["amendment: seeds 0-2 -> 0-3"]
    assert (found.recorded.mode, found.now.mode) == ("fixed", "anytime")


def test_a_bank_that_grew_is_named(log):
    made = small(log)["u"]
    log.writer.append([Draft("experiment/f", history.registered("f", ["c", "x"], [7, 8], policy="ledger/1"))])
    log.writer.append(run_of(log, "f", "c", 7, 1.2))
    found = today(log, made)
    assert whys(found) == ["bank grew: a control of plan-f on the same base, seed 7"]
    assert (made.n_bank, found.now.n_bank) == (0, 1)


def test_noise_that_the_class_learned_is_named(log):
    made = small(log)["u"]
    plan = history.registered("f", ["c", "x"], [7, 8], policy="ledger/1", base="elsewhere")
    log.writer.append([Draft("experiment/f", plan)])
    for seed in (7, 8):
        log.writer.append(run_of(log, "f", "x", seed, 1.2 + seed / 1000))
    (why,) = whys(today(log, made))
    assert why.startswith("noise class: 1 arms elsewhere tell its noise, 0 did then")


def test_a_changed_engine_and_a_changed_policy_are_reported_with_both_figures(log, monkeypatch):
    made = small(log)["u"]
    then = next(each_head(log, [made.head.position]))
    forged = msgspec.structs.replace(made, engine="judging/0", policy_digest="abc", se=0.5, code="old")
    found = {d.field: (d.recorded, d.now) for d in replay(then, forged)}
    assert found["engine"] == ("judging/0", made.engine)
    assert found["policy_digest"] == ("abc", policies.digest(policies.find("ledger")))
    assert found["se"] == (0.5, made.se)
    assert found["code"] == ("old", made.code)
    assert today(log, forged).program != []


def test_several_policies_say_what_they_say_beside_each_other(log):
    small(log)
    built = tables(log)
    said = {name: decide(built, "e", policies.find(name)) for name in ("seed-plan", "paired-pooled", "ledger")}
    assert {name: {one.policy for one in made} for name, made in said.items()} == {
        name: {f"{name}/1"} for name in said
    }
    assert len({one.policy_digest for made in said.values() for one in made}) == 3
    assert compared(said["ledger"][0], decide(built, "e")[0]) == []
    log.writer.append([Draft("experiment/e", one) for made in said.values() for one in made])
    rows = tables(log).rows("SELECT DISTINCT policy, registered FROM decisions WHERE latest ORDER BY policy")
    assert rows == [
        {"policy": "ledger/1", "registered": True},
        {"policy": "paired-pooled/1", "registered": False},
        {"policy": "seed-plan/1", "registered": False},
    ]


def test_evidence_of_more_runs_than_an_event_can_hold_is_named_by_its_digest(log, monkeypatch):
    monkeypatch.setattr("projections.decide.MOST_USED", 3)
    made = small(log)["u"]
    assert (len(made.used), made.used_count) == (3, 6)
    assert made.used_digest != upcasters.used_digest(made.used)

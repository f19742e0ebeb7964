"""Histories for tests of the projections: random but possible sequences of events."""

from __future__ import annotations

import random
from collections.abc import Iterator

import msgspec

from ledger import events, points
from ledger.chain import Log
from ledger.writer import Draft

NOISE = events.NoiseClass(platform="test", scale="small", metric="val_bpb", stage="train")


def registered(experiment: str, arms: list[str], seeds: list[int], **changes: object) -> events.ExperimentRegistered:
    """A registration of an experiment whose first arm is the control."""
    plan = events.ExperimentRegistered(
        experiment=experiment,
        name=f"plan-{experiment}",
        family=experiment,
        question="",
        runner="test/1",
        command=(),
        plan="",
        plan_digest="",
        base="base",
        metric="val_bpb",
        direction="lower",
        delta=0.01,
        alpha=0.05,
        estimand="fixed_step",
        seeds=tuple(seeds),
        seed_role="confirm",
        control=arms[0],
        arms=tuple(events.Arm(arm, "control" if arm == arms[0] else "treatment") for arm in arms),
        hypotheses=tuple(events.Hypothesis(arm, "different") for arm in arms[1:]),
        pair_tier="seed",
        noise_class=NOISE,
        stopping="fixed",
        looks=(len(seeds),),
        tau=None,
        n_max=None,
        policy="paired-pooled/1",
        timeout=None,
        amends=None,
    )
    return msgspec.structs.replace(plan, **changes)


def started(run: str, experiment: str | None, arm: str, seed: int, **changes: object) -> events.RunStarted:
    start = events.RunStarted(
        run=run,
        experiment=experiment,
        arm=arm,
        role="treatment",
        seed=seed,
        seed_role="confirm",
        base="base",
        cell=f"{arm}-{seed}",
        noise_class=NOISE,
        pair_tier="seed",
        block="block",
        stage="train",
        fork_of=None,
        runner="test/1",
        command=(),
        config=(),
        env=(),
        environment=None,
        python="3",
        platform="test",
        hardware_class="test",
        code=None,
        git_commit=None,
        git_dirty=None,
        git_diff=None,
        data=(),
        host="host",
        boot="boot",
        pid=1,
    )
    return msgspec.structs.replace(start, **changes)


def finished(run: str, value: events.Real | None, status: events.Status = "ok") -> events.RunFinished:
    return events.RunFinished(
        run=run,
        status=status,
        reason="" if status == "ok" else "why",
        exit_code=0,
        signal=None,
        metric="val_bpb",
        value=value,
        pre_value=None,
        finals=(),
        steps=10,
        tokens=None,
        wall_s=1.0,
        cpu_s=None,
        peak_memory_bytes=None,
        artifact_bytes=None,
        cost=None,
        extractor=None,
        started_at="2026-01-01T00:00:00.000000Z",
        ended_at="2026-01-01T00:00:01.000000Z",
    )


def fill(log: Log, plan: events.ExperimentRegistered, values: dict[tuple[str, int], float | None]) -> list[str]:
    """Register a plan and record a run for every (arm, seed): a number is ok, None a crash. Ids of the outcomes."""
    log.writer.append([Draft(f"experiment/{plan.experiment}", plan)])
    ids = []
    for (arm, seed), value in values.items():
        run = f"{plan.experiment}-{arm}-{seed}"
        end = finished(run, value) if value is not None else finished(run, None, "crash")
        made = log.writer.append(
            [Draft(f"run/{run}", started(run, plan.experiment, arm, seed)), Draft(f"run/{run}", end)]
        )
        ids.append(made.event_ids[1])
    return ids


def random_history(log: Log, seed: int, length: int) -> Iterator[None]:
    """Append a random history commit by commit, yielding after each."""
    rng = random.Random(seed)
    plans: list[events.ExperimentRegistered] = []
    open_runs: list[str] = []
    ids: list[str] = []
    retractable: list[str] = []
    for number in range(length):
        choice = rng.random()
        drafts: list[Draft] = []
        if not plans or choice < 0.08:
            arms = ["control", *(f"arm{i}" for i in range(rng.randint(1, 4)))]
            rule: dict[str, object] = {
                "policy": rng.choice(["ledger/1", "ledger/1", "paired-pooled/1", "seed-plan/1"])
            }
            rule["pair_tier"] = rng.choice(["seed", "rerun", "fork"])
            if rng.random() < 0.4:
                rule |= {"stopping": "looks", "looks": (2, 3, 5)}
            plans.append(registered(f"e{number}", arms, list(range(rng.randint(1, 4))), **rule))
            drafts.append(Draft(f"experiment/e{number}", plans[-1]))
        elif choice < 0.14:
            plan = rng.choice(plans)
            more = msgspec.structs.replace(plan, seeds=(*plan.seeds, 90 + number), delta=0.02, amends="x")
            change = events.PlanChange("seeds", str(plan.seeds), str(more.seeds))
            why = events.PlanAmended(experiment=plan.experiment, amends="x", changes=(change,), reason="")
            drafts += [Draft(f"experiment/{plan.experiment}", one) for one in (more, why)]
        elif choice < 0.5:
            plan = rng.choice(plans)
            run = f"r{number}"
            experiment = None if rng.random() < 0.1 else plan.experiment
            arm, of = rng.choice(plan.arms).name, rng.choice(plan.seeds)
            cell = f"{rng.choice(['', plan.experiment])}-{arm}-{of}"
            drafts.append(Draft(f"run/{run}", started(run, experiment, arm, of, cell=cell)))
            open_runs.append(run)
        elif choice < 0.8 and open_runs:
            run = open_runs.pop(rng.randrange(len(open_runs)))
            value = rng.choice([rng.gauss(1.2, 0.02)] * 8 + ["NaN"])
            status = rng.choice(["ok"] * 8 + ["crash", "timeout"])
            drafts.append(Draft(f"run/{run}", finished(run, value, status)))
        elif choice < 0.9 and open_runs:
            run = rng.choice(open_runs)
            rows = [
                (i, rng.choice(["loss", "val_bpb"]), rng.choice([rng.random(), float("nan")]), number)
                for i in range(5)
            ]
            drafts.append(Draft(f"run/{run}", points.write_chunk(log.root, run, "api", f"w{number}", 0, rows)))
        elif retractable:
            target = retractable.pop(rng.randrange(len(retractable)))
            drafts.append(Draft("run/x", events.EventRetracted(target=target, reason="test")))
        if drafts:
            made = log.writer.append(drafts)
            ids += made.event_ids
            retractable += [
                i for i, d in zip(made.event_ids, drafts, strict=True) if d.data.TYPE != "event.retracted"
            ]
        yield

"""What every test starts from, and the examples that the tests of the log share."""

import os
import subprocess
import sys
import uuid
from pathlib import Path

import pytest

from ledger import cycles, dag, events, records, segment
from ledger.chain import Log
from ledger.writer import Draft


@pytest.fixture(autouse=True)
def _no_ledger_in_the_environment(monkeypatch):
    for name in ("LEDGER_HOME", "LEDGER_RUN_ID", "LEDGER_ACTOR"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(autouse=True, scope="session")
def _keys_of_all_tests(tmp_path_factory):
    """No test may read or make a signing key of the user who runs the tests."""
    os.environ["XDG_CONFIG_HOME"] = str(tmp_path_factory.mktemp("config"))
    os.environ.pop("LEDGER_CONFIG", None)


@pytest.fixture(autouse=True)
def _keys_of_this_test(monkeypatch, _keys_of_all_tests):
    place = os.path.join(os.environ["XDG_CONFIG_HOME"], uuid.uuid4().hex)
    monkeypatch.setenv("XDG_CONFIG_HOME", place)


@pytest.fixture
def fresh(tmp_path):
    """An empty ledger."""
    return Log.create(tmp_path / "ledger")


@pytest.fixture(scope="session")
def remark():
    """remark(text) is a draft of the smallest event, in its own stream or a given one."""

    def make(text="a reason", stream="event/remarks", **more):
        return Draft(stream, events.EventRetracted(target="0" * 36, reason=text), **more)

    return make


@pytest.fixture(scope="session")
def files_of():
    """files_of(log) are the paths of the segments in order."""

    def listed(log):
        return [Path(path) for base, path in Log.listed_in(log.root) if base >= 0]

    return listed


@pytest.fixture(scope="session")
def forge():
    """forge(log, path, change) rewrites a segment with change(row) for each row, consistent in itself."""

    def rewrite(log, path, change):
        data = Path(path).read_bytes()
        said, batch = segment.decode(data, str(path))
        rows = [segment.Row(**row) for row in batch.to_pylist()]
        moments = batch.column("recorded_at").cast("int64").to_pylist()
        rows = [change(row._replace(recorded_at=moment)) for row, moment in zip(rows, moments, strict=True)]
        made, _ = segment.encode(rows, said.ledger_id, said.base_hint, said.root_hint)
        Path(path).write_bytes(made)

    return rewrite


@pytest.fixture(scope="session")
def script():
    """script(text, **environment) runs Python in a process of its own."""

    def run(text, cwd=None, timeout=120, **environment):
        clean = {k: v for k, v in os.environ.items() if not k.startswith("LEDGER_")}
        return subprocess.run(
            [sys.executable, "-c", text],
            capture_output=True,
            text=True,
            cwd=cwd,
            timeout=timeout,
            check=False,
            env={**clean, **environment},
        )

    return run


_NOISE = events.NoiseClass(platform="Linux x86_64", scale="tiny", metric="val_bpb", stage="train")
_HEX = "ab" * 32


@pytest.fixture(scope="session")
def examples():
    """One struct of every event type."""
    made = [
        events.ExperimentRegistered(
            experiment="e1",
            name="first",
            family="first",
            question="does it help?",
            runner="script/1",
            command=("python", "train.py"),
            plan="[experiment]\nname = 'first'\n",
            plan_digest=_HEX,
            base="b1",
            metric="val_bpb",
            direction="lower",
            delta=0.001,
            alpha=0.05,
            estimand="wallclock",
            seeds=(0, 1, 2),
            seed_role="confirm",
            control="baseline",
            arms=(
                events.Arm(name="baseline", role="control"),
                events.Arm(name="wide", role="treatment", env=(events.NameValue("WIDTH", "4"),), args=("--wide",)),
            ),
            hypotheses=(events.Hypothesis(arm="wide", predict="better", effect=-0.002),),
            pair_tier="seed",
            noise_class=_NOISE,
            stopping="fixed",
            looks=(3,),
            tau=None,
            n_max=None,
            policy="paired-t/1",
            timeout=60.0,
            amends=None,
            tuning_seeds=(100,),
        ),
        events.PlanAmended(
            experiment="e1",
            amends="0" * 36,
            changes=(events.PlanChange("seeds", "0-2", "0-4"),),
            reason="two machines became free",
        ),
        events.RunStarted(
            run="r1",
            experiment="e1",
            arm="baseline",
            role="control",
            seed=0,
            seed_role="confirm",
            base="b1",
            cell="c1",
            noise_class=_NOISE,
            pair_tier="seed",
            block="m1",
            stage="train",
            fork_of=None,
            runner="script/1",
            command=("python", "train.py"),
            config=(events.NameValue("lr", "0.02"),),
            env=(),
            environment=None,
            python="3.11.7",
            platform="Linux x86_64",
            hardware_class="cpu",
            code=_HEX,
            git_commit=None,
            git_dirty=None,
            git_diff=None,
            data=(events.Digest(name="corpus", sha256=_HEX, bytes=12),),
            host="h",
            boot="",
            pid=4242,
        ),
        events.RunFinished(
            run="r1",
            status="ok",
            reason="",
            exit_code=0,
            signal=None,
            metric="val_bpb",
            value=1.25,
            pre_value="NaN",
            finals=(events.FinalMetric("val_bpb", 1.25, 9), events.FinalMetric("loss", "Infinity", None)),
            steps=10,
            tokens=1000,
            wall_s=1.5,
            cpu_s=1.25,
            peak_memory_bytes=2**31,
            artifact_bytes=None,
            cost=None,
            extractor="readout/1",
            started_at="2025-01-01T00:00:00.000000Z",
            ended_at="2025-01-01T00:00:01.500000Z",
        ),
        events.MetricsLogged(
            run="r1",
            chunk="chunk/w/00000000.parquet",
            rows=2,
            columns=(events.Column("step", "int64"),),
            sha256=_HEX,
            source="api",
            names=("loss",),
            first_step=0,
            last_step=1,
        ),
        events.ArtifactStored(
            run="r1",
            experiment=None,
            name="model.pt",
            kind="file",
            sha256=_HEX,
            bytes=3,
            left_out=0,
            media_type="application/octet-stream",
        ),
        events.DecisionMade(
            experiment="e1",
            intervention="wide",
            policy="paired-t/1",
            policy_digest="d1ge57",
            engine="0.1.0",
            track="confirm",
            mode="looks",
            cycle=2,
            alpha_spent=0.01,
            information=0.5,
            used_count=1,
            used_digest="u5ed",
            n_bank=2,
            planned=3,
            lost=0,
            attempts_t=3,
            attempts_c=4,
            early=0,
            tuning=0,
            condition="reduced_power",
            d0=20.0,
            d0_fitted=None,
            s0=0.001,
            prior_arms=9,
            rho=0.5,
            rho_hat=0.6,
            b=0.75,
            sd_t=0.001,
            sd_c=0.0012,
            boot_lo=None,
            boot_hi=None,
            p_bound=0.01,
            e_value=1e300,
            cs_lo="-Infinity",
            cs_hi=-0.001,
            statistic=None,
            threshold=None,
            reference=None,
            p_crash=1.0,
            p_crash_mid=0.7,
            drift_p_slope=0.4,
            drift_p_blocks=None,
            mde80=0.003,
            post_mean=-0.009,
            post_sd=0.0004,
            lfsr=0.001,
            p_negative=0.999,
            p_in_rope=0.01,
            label="confirmed",
            candidate=False,
            defect="",
            code="c0de",
            look=1,
            alpha_look=0.04,
            head=events.Head(3, _HEX),
            alpha=0.05,
            delta=0.001,
            direction="lower",
            family_size=1,
            used=("0" * 36,),
            n_t=3,
            n_c=3,
            n_pairs=3,
            failed=0,
            pending=0,
            failures_t=0,
            failures_c=0,
            variance="pooled",
            effect=-0.01,
            sd=0.001,
            se=0.0005,
            df=2.0,
            t=-20.0,
            p=0.002,
            p_adj=0.002,
            ci95_lo=-0.02,
            ci95_hi=-0.005,
            ci90_lo="-Infinity",
            ci90_hi=-0.006,
            p_tost=None,
            p_beyond=None,
            verdict="better",
            beyond_delta=True,
            small=False,
            k_more_seeds=None,
            why="the interval lies below zero",
        ),
        events.ScreenPlanned(
            experiment="e2",
            factors=(cycles.Factor("wide", "{}", '{"env":{"WIDTH":"4"}}'),),
            stacks=(cycles.Stack("base", (-1,)), cycles.Stack("01", (1,))),
        ),
        events.ScreenJudged(
            experiment="e2",
            engine="screen/1",
            code="0" * 16,
            head=events.Head(3, _HEX),
            metric="val_bpb",
            direction="lower",
            delta=0.001,
            used=("0" * 36,),
            runs=8,
            missing=0,
            sd=0.001,
            df=4.0,
            noise="pure",
            p_interactions=0.5,
            effects=(
                cycles.AverageEffect(
                    factor="wide",
                    effect=-0.01,
                    se=0.0005,
                    df=4.0,
                    t=-20.0,
                    p=0.002,
                    q=0.002,
                    ci95_lo="-Infinity",
                    ci95_hi=-0.005,
                    candidate=True,
                    why="worth confirming",
                ),
            ),
            why="1 of 1 factors is worth confirming",
        ),
        events.CyclePlanned(
            cycle="c1",
            name="try",
            question="",
            plan="name = 'try'\n",
            plan_digest=_HEX,
            base="b1",
            runner="script/1",
            metric="val_bpb",
            direction="lower",
            delta=0.001,
            alpha=0.05,
            seeds=3,
            first_seed=0,
            batch=1,
            adopt=0.0005,
            noise_class=_NOISE,
            control=events.Arm(name="baseline", role="control"),
            arms=(events.Arm(name="wide", role="treatment", env=(events.NameValue("WIDTH", "4"),)),),
            candidates=(
                cycles.Candidate(name="wide", cost=None, mean=0.0, sd=0.001, feasible=1.0, technique="", excludes=""),
            ),
            stop=(cycles.StopRule("cycles", 4.0),),
            amends=None,
        ),
        events.CycleRanked(
            cycle="c1",
            number=1,
            procedure="next/1",
            code="0" * 16,
            head=events.Head(3, _HEX),
            plan="0" * 36,
            alpha=0.025,
            ranking=(
                cycles.RankedOption(
                    candidate="wide",
                    action="ablate",
                    k=3,
                    cost=6.0,
                    m=0.0,
                    sd=0.001,
                    gain=0.0002,
                    score=0.00003,
                    seed_rule_rank=1,
                    blocked_by="",
                    reason="nothing is known of it",
                ),
            ),
            chosen=("wide",),
            experiment="try-c1",
            seeds=(0, 1, 2),
            rules=(cycles.StopState("cycles", 4.0, 0.0, False),),
            stopped="",
            why="cycle 1 measures wide",
        ),
        events.DagRevised(
            procedure="lineage-dag/1",
            code="c0de",
            part=1,
            parts=1,
            head=events.Head(3, _HEX),
            base=None,
            params=(events.NameValue("draws", "200"),),
            skeleton="[[node]]\n",
            skeleton_digest=_HEX,
            used=("0" * 36,),
            nodes=(
                dag.DagNode(id="xsa", kind="intervention", label="xsa", group="architecture", unit="", delta=None),
                dag.DagNode(id="val_bpb", kind="outcome", label="bits", group="", unit="bpb", delta=0.002),
            ),
            edges=(
                dag.DagEdge(
                    src="xsa",
                    dst="val_bpb",
                    kind="lineage",
                    status="supported",
                    tag="data_confirmed",
                    imposed=True,
                    expect="any",
                    effect=-0.004,
                    sd=0.001,
                    lo90=-0.006,
                    hi90=-0.002,
                    lineage_effect=-0.004,
                    lineage_sd=0.001,
                    experiment_effect=None,
                    experiment_sd=None,
                    p_negative=0.999,
                    stability=0.9,
                    loo_min=-0.005,
                    loo_max=-0.003,
                    where="track",
                    proposed_by=("fci",),
                    evidence=(0,),
                ),
            ),
            lineage=(
                dag.LineageEffect(
                    technique="xsa",
                    target="val_bpb",
                    where="track",
                    contrasts=3,
                    mean=-0.004,
                    sd=0.001,
                    lo90=-0.006,
                    hi90=-0.002,
                    p_negative=0.999,
                    shrink=0.8,
                    stability=0.9,
                    loo_min=None,
                    loo_max=None,
                    structural=True,
                    practical=True,
                    alias_class=None,
                    loop_z=0.5,
                ),
            ),
            interactions=(
                dag.Interaction(
                    a="xsa",
                    b="ema",
                    target="val_bpb",
                    where="track",
                    contrasts=3,
                    mean=0.001,
                    sd=0.001,
                    p_negative=0.2,
                ),
            ),
            loops=(
                dag.Loop(
                    loop=0,
                    target="val_bpb",
                    where="track",
                    stacks=("a", "b"),
                    residual=0.001,
                    sd=0.001,
                    z=1.0,
                    flagged=False,
                ),
            ),
            separations=(
                dag.Separation(
                    alias_class=0,
                    where="track",
                    techniques=("ema", "swa"),
                    experiment="take ema out of b",
                    ablate="ema",
                    cost_runs=6,
                    rank=4,
                ),
            ),
            measures=(dag.Measure("single", 3.0, "comparisons that change one technique"),),
            unexplored=(dag.Unexplored(a="ema", b="xsa", expected=-0.005, sd=0.002, prior_sd=0.001),),
            discovery=(
                dag.Discovery(
                    algorithm="fci",
                    version="causal-learn 0.1.4",
                    test="fisherz",
                    alpha=0.01,
                    input_digest=_HEX,
                    rows=20,
                    columns=3,
                    merged=("ema = swa", "gqa = const"),
                    limit_s=60.0,
                    outcome="ok",
                    reason="",
                    proposed=(dag.Proposed("xsa", "val_bpb", "o->"),),
                ),
            ),
            recommendation="proceed",
            notes=("one parent is no record here",),
        ),
        events.ProbeMeasured(
            run="r1",
            probe="rank",
            subject="layer.0",
            method="svd/1",
            params=(events.NameValue("k", "4"),),
            values=(events.Probed("rank", 3.0, ""),),
            artifact=None,
        ),
        events.EventRetracted(target="0" * 36, reason="the wrong data"),
        events.LedgerRecovered(
            action="quarantined",
            path="log/00000000/0000000000000007.parquet",
            position=7,
            sha256=_HEX,
            bytes=12,
            kept="quarantine/7",
            reason="does not end like a Parquet file",
        ),
        events.KeyAdded(key="c74f20a3", name="example/log", algorithm="ed25519", public_key=_HEX),
        events.KeyRevoked(key="c74f20a3", reason="lost"),
        records.RecordExtracted(
            record="track/2025-01-01_A",
            track="track",
            repository=None,
            parser="rules/1",
            vocabulary=_HEX,
            source_digest=_HEX,
            sources=(records.SourceFile("README.md", _HEX, 12),),
            part=1,
            parts=1,
            name="A",
            format="B",
            val_bpb=1.25,
            val_bpb_evidence="README.md:1",
            interventions=(
                records.ReadIntervention(
                    intervention="xsa",
                    known=True,
                    label="XSA on the last 4 layers",
                    kind="architecture",
                    status="new",
                    level="4",
                    delta_bpb=-0.002,
                    delta_source="stated",
                    evidence=("README.md:3",),
                ),
            ),
            seeds=(records.ReadSeed(seed=0, val_bpb=1.25, source="readme", evidence="README.md:9"),),
            ablations=(records.ReadAblation(change="no XSA", delta_bpb=0.002, evidence="README.md:12"),),
            lineage=(records.ReadLineage(parent="PR #1", val_bpb=1.26, evidence="README.md:2"),),
            flags=(records.ReadFlag(field="val_bpb", said=("1.25", "1.26"), reason="json and README differ"),),
        ),
        records.LeaderboardExtracted(
            repository=None,
            parser="rules/1",
            source_digest=_HEX,
            sources=(records.SourceFile("README.md", _HEX, 12),),
            rows=(
                records.LeaderboardRow(
                    track="track",
                    run="A",
                    score=1.25,
                    author="a",
                    summary=None,
                    date=None,
                    record=None,
                    evidence="README.md:30",
                ),
            ),
        ),
        records.ExtractionFailed(
            record="track/B", path="README.md", reason="not UTF-8", parser="rules/1", source_digest=None
        ),
    ]
    assert {type(one).TYPE for one in made} == set(events.TYPES)
    return made

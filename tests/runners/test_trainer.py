"""The built-in trainer as a runner: forks from one checkpoint, seeds in one batch, weights kept, what it refuses."""

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the trainer needs the extra experiment-ledger[torch]")
pytest.importorskip("sentencepiece", reason="the trainer needs the extra experiment-ledger[torch]")

from ledger.chain import Log  # noqa: E402
from ledger.errors import UsageError  # noqa: E402
from runners import corpus, gpt_checkpoint  # noqa: E402
from runners.conduct import conduct  # noqa: E402
from runners.gpt_config import GptConfig  # noqa: E402
from runners.gpt_init import init_arrays  # noqa: E402
from runners.gpt_train import Trainer  # noqa: E402
from runners.plan import parse  # noqa: E402
from runners.trainer import GptRunner  # noqa: E402

SMALL = (
    "width = 32\nseq_len = 32\nbatch_tokens = 256\nsteps = 10\nval_tokens = 640\ndevice = 'cpu'\nbackend = 'torch'\n"
)


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    from pydoc_data.topics import topics

    documents = {f"topic:{name}": topics[name].encode("ascii", "ignore").decode() for name in sorted(topics)}
    return corpus.build(documents, tmp_path_factory.mktemp("corpora") / "topics")


@pytest.fixture
def conducted(tmp_path, text, monkeypatch):
    """Run a plan; (log, what was reported)."""
    monkeypatch.setattr("runners.trainer.open_text", lambda *_: text)
    log = Log.create(str(tmp_path / "ledger"))

    def run(arms, head="", settings="", seeds="0-1", runner=None):
        plan = parse(
            f"name = 'p'\nmetric = 'val_bpb_subset'\ndelta = 0.01\nseeds = '{seeds}'\n{head}\n"
            f"[trainer]\n{SMALL}{settings}\n"
            + "\n".join(f"[[arm]]\nname = '{name}'\nset = {{ {set_} }}" for name, set_ in arms),
            "plan.toml",
        )
        updates = []
        conduct(log, plan, runner or GptRunner(plan, log), updates.append)
        return updates

    run.log = log
    return run


def events_of(log, kind):
    return [event.data for event in log.events(types=(kind,))]


ARMS = [
    ("plain", ""),
    ("int8", "quantize = 'int8'"),
    ("late", "qat_bits = 4, qat_from = 0.3"),
    ("slide", "eval = 'sliding'"),
]
ARMS[3] = ("slide", "eval = 'sliding', eval_stride = 8")


def test_late_arms_continue_one_checkpoint_of_each_seed_and_give_the_bits_of_whole_runs(conducted, text):
    conducted(ARMS, head="pair_tier = 'fork'")
    started = {(one.arm, one.seed): one for one in events_of(conducted.log, "run.started")}
    finished = {one.run: one for one in events_of(conducted.log, "run.finished")}
    trainer = Trainer(text)
    for (arm, seed), start in started.items():
        assert start.pair_tier == "fork"
        assert finished[start.run].status == "ok", finished[start.run].reason
        config = GptConfig.from_record({item.name: item.value for item in start.config})
        assert finished[start.run].value == trainer.train(config, seed).val_bpb, (arm, seed)
    for seed in (0, 1):
        runs = {started[arm, seed].run: started[arm, seed].fork_of for arm, _ in ARMS}
        first = [run for run, of in runs.items() if of is None]
        assert len(first) == 1  # the one that began at the start
        assert all(of in runs for of in runs.values() if of)


def test_the_trunk_is_trained_once_a_seed_and_its_checkpoint_is_kept(conducted):
    updates = conducted(ARMS, head="pair_tier = 'fork'")
    points = [update for update in updates if update.kind == "point" and update.name == "train_loss"]
    late = 1  # step that the late arm trains by itself: from where the rate has fallen to 0.3
    assert len(points) == 2 * (10 + late)
    kept = events_of(conducted.log, "artifact.stored")
    assert sorted({one.name for one in kept}) == [
        "seed-0-step-9.safetensors", "seed-0.safetensors", "seed-1-step-9.safetensors", "seed-1.safetensors",
    ]  # fmt: skip
    assert len(kept) == 4
    arrays, step = gpt_checkpoint.load(conducted.log.blobs.get(kept[0].sha256))
    assert (step, kept[0].name) == (9, "seed-0-step-9.safetensors")
    assert arrays["param.q"].shape == arrays["optimizer.m.q"].shape == (2, 32, 32)


def test_what_a_failed_run_kept_is_there_for_those_that_go_on_from_it(conducted, monkeypatch):
    """The first run of a seed fails after its fork; the others still continue its state, which is on record."""
    real = Trainer.train_seeds

    def failing(self, config, seeds, *, keep=None, **given):
        result = real(self, config, seeds, keep=keep, **given)
        if config.qat_bits:
            raise RuntimeError("the machine is on fire")
        return result

    monkeypatch.setattr(Trainer, "train_seeds", failing)
    conducted([("late", "qat_bits = 4, qat_from = 0.3"), ("plain", "")], head="pair_tier = 'fork'", seeds="0")
    (late, plain) = events_of(conducted.log, "run.started")
    assert (late.arm, plain.fork_of) == ("late", late.run)
    assert [one.status for one in events_of(conducted.log, "run.finished")] == ["crash", "ok"]
    kept = {one.name: one.run for one in events_of(conducted.log, "artifact.stored")}
    assert kept == {"seed-0-step-9.safetensors": late.run, "seed-0.safetensors": plain.run}


@pytest.mark.parametrize(
    ("arms", "settings", "message"),
    [
        ([("a", ""), ("b", "activation = 'gelu'")], "", "arm 'b' changes activation against 'a', which takes"),
        ([("a", ""), ("b", "qat_bits = 6")], "", "arm 'b' changes the training from its first step"),
        ([("a", ""), ("b", "quantize = 'int6'")], "stack_seeds = true", "stack_seeds does not go with pair_tier"),
    ],
    ids=["early field", "early start", "stacked"],
)  # fmt: skip
def test_a_plan_whose_arms_cannot_fork_is_refused(conducted, arms, settings, message):
    with pytest.raises(UsageError, match=message):
        conducted(arms, head="pair_tier = 'fork'", settings=settings)


def test_seeds_in_one_batch_are_runs_like_any_other_with_the_same_figures_to_rounding(conducted, tmp_path, text):
    conducted([("plain", ""), ("gelu", "activation = 'gelu'")], settings="stack_seeds = true", seeds="0-2")
    started = events_of(conducted.log, "run.started")
    finished = {one.run: one for one in events_of(conducted.log, "run.finished")}
    assert [(one.arm, one.seed) for one in started] == [
        *(("plain", seed) for seed in range(3)),
        *(("gelu", seed) for seed in range(3)),
    ]
    trainer = Trainer(text)
    config = GptConfig(width=32, seq_len=32, batch_tokens=256, steps=10, val_tokens=640, device="cpu")
    for start in started[:3]:
        end = finished[start.run]
        assert (end.status, end.steps, end.tokens) == ("ok", 10, 2560)
        assert end.value == pytest.approx(trainer.train(config, start.seed).val_bpb, rel=1e-5)


STACKED = [
    {"micro_tokens": 64, "softcap": 0.0, "value_residual": True, "xsa_last": 1},
    {"mlp": "dml_gated", "bt_lambda": 0.1, "ema": 0.9, "grad_clip": 0.1, "position_weight": 0.5},
    {"rho1_keep": 0.5, "corrupt": 0.2, "corrupt_by": "model", "bigram_buckets": 64, "smear_gate": True},
    {"mtp_weight": 0.5, "mtp_margin": 0.0, "corrupt": 0.2, "token_drop": 0.2, "probe": "adaptive"},
    {"value_embed_last": 1, "layer_scale": True, "adam_decay": 0.5, "bigram_buckets": 64, "projections": "adam"},
    {"probe": "adversarial", "qat_bits": 6, "qat_from": 0.5, "quantize": "int6"},
]


@pytest.mark.parametrize("mapped", [True, False], ids=["as on an accelerator", "as on a CPU"])
@pytest.mark.parametrize("change", STACKED, ids=str)
def test_a_batch_of_seeds_gives_what_each_gives_alone_within_rounding(text, change, mapped):
    config = GptConfig(width=32, seq_len=32, batch_tokens=256, steps=6, val_tokens=640, device="cpu", **change)
    trainer = Trainer(text)
    trainer.mapped = mapped
    together = trainer.train_seeds(config, [3, 4])
    for seed, result in zip([3, 4], together, strict=True):
        alone = trainer.train(config, seed)
        assert result.val_loss == pytest.approx(alone.val_loss, rel=1e-4)
        assert result.train_loss == pytest.approx(alone.train_loss, rel=1e-4)
        assert result.parameters == alone.parameters


@pytest.mark.parametrize("mapped", [True, False], ids=["as on an accelerator", "as on a CPU"])
def test_a_seed_that_diverges_in_a_batch_leaves_the_others_as_they_are(text, mapped):
    config = GptConfig(width=32, seq_len=32, batch_tokens=256, steps=6, val_tokens=640, device="cpu")
    trainer = Trainer(text)
    trainer.mapped = mapped
    told = []
    from runners import gpt_train

    fresh = gpt_train.init_params

    def broken(config, seed):
        params = fresh(config, seed)
        if seed == 4:
            params["embed"][:] = float("nan")
        return params

    gpt_train.init_params = broken
    try:
        good, bad = trainer.train_seeds(config, [3, 4], on_log=lambda *point: told.append(point))
    finally:
        gpt_train.init_params = fresh
    assert (good.status, bad.status) == ("ok", "diverged")
    assert bad.val_bpb is None
    assert "train loss nan at step 0" in bad.reason
    assert good.val_loss == pytest.approx(trainer.train(config, 3).val_loss, rel=1e-5)
    assert {index for index, *_ in told} == {0}


def test_the_weights_of_a_run_are_kept_where_that_is_asked_for(conducted, text):
    conducted([("plain", "")], settings="keep_weights = true", seeds="0")
    (kept,) = events_of(conducted.log, "artifact.stored")
    assert (kept.name, kept.kind, kept.media_type) == (
        "weights-seed-0.safetensors",
        "weights",
        gpt_checkpoint.MEDIA_TYPE,
    )
    found, step = gpt_checkpoint.load(conducted.log.blobs.get(kept.sha256))
    assert step == 10
    config = GptConfig(width=32, seq_len=32, batch_tokens=256, steps=10, val_tokens=640, device="cpu")
    params = {name: torch.from_numpy(x) for name, x in found.items()}
    (end,) = events_of(conducted.log, "run.finished")
    assert Trainer(text).evaluate(params, config)[1] == end.value


def test_a_checkpoint_is_the_same_bytes_for_the_same_arrays_and_nothing_else_is_read(text):
    arrays = {"param.q": np.arange(6, dtype=np.float32).reshape(2, 3), "step": np.array(7)}
    data = gpt_checkpoint.dump(arrays, 7)
    assert data == gpt_checkpoint.dump(dict(reversed(arrays.items())), 7)
    back, step = gpt_checkpoint.load(data)
    assert int(back["step"]) == step == 7
    assert np.array_equal(back["param.q"], arrays["param.q"])
    for other in (b"", b"no", data[:-1], b"\x80\x04" + data):
        with pytest.raises(ValueError, match="no checkpoint of ours"):
            gpt_checkpoint.load(other)


def test_a_run_that_does_not_fit_into_memory_is_an_outcome_and_the_others_go_on(conducted, text, monkeypatch):
    real = Trainer.train_seeds

    def scarce(self, config, seeds, **given):
        if len(seeds) > 1 or config.depth > 2:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")
        return real(self, config, seeds, **given)

    monkeypatch.setattr(Trainer, "train_seeds", scarce)
    conducted([("plain", ""), ("deep", "depth = 3")], settings="stack_seeds = true")
    found = {one.run: one for one in events_of(conducted.log, "run.finished")}
    ends = [(one.arm, one.seed, found[one.run].status) for one in events_of(conducted.log, "run.started")]
    assert ends == [("plain", 0, "ok"), ("plain", 1, "ok"), ("deep", 0, "oom"), ("deep", 1, "oom")]
    assert "out of memory" in next(one.reason for one in found.values() if one.status == "oom")


def test_a_run_tells_what_it_cost(conducted):
    conducted([("plain", "")], seeds="0")
    (end,) = events_of(conducted.log, "run.finished")
    finals = {final.name: final.value for final in end.finals}
    config = GptConfig(width=32, seq_len=32, batch_tokens=256)
    assert finals["step_ms"] > 0
    assert finals["tokens_per_s"] > 0
    assert finals["parameters"] == sum(p.size for p in init_arrays(config, 0).values())
    assert {"step_drift", "train_loss", "val_loss_subset", "val_bpb_subset"} <= finals.keys()
    assert end.steps == 10
    assert end.peak_memory_bytes > 0


# --- What is no comparison, and what is no result ------------------------------------------------------------


@pytest.mark.parametrize(
    ("metric", "arm", "message"),
    [
        ("train_loss", "corrupt = 0.1", "arm 'b' trains on other text than arm 'a' \\(corrupt\\)"),
        ("train_loss", "curriculum = 'easy_first'", "other text than arm 'a' \\(curriculum\\)"),
        ("val_bpb_subset", "val_tokens = 320", "arm 'b' scores 320 held-out tokens and arm 'a' 640: two metrics"),
    ],
)
def test_a_plan_that_compares_different_things_by_one_name_is_refused(tmp_path, metric, arm, message):
    log = Log.create(str(tmp_path / "ledger"))
    text = f"name = 'p'\nmetric = '{metric}'\ndelta = 0.01\nseeds = '0-1'\n[trainer]\n{SMALL}"
    text += f"[[arm]]\nname = 'a'\n[[arm]]\nname = 'b'\nset = {{ {arm} }}\n"
    with pytest.raises(UsageError, match=message):
        GptRunner(parse(text, "plan.toml"), log)


def test_the_train_loss_of_arms_that_see_the_same_text_may_be_compared(conducted):
    plan = "name = 'p'\nmetric = 'train_loss'\ndelta = 0.01\nseeds = '0'\n[trainer]\n" + SMALL
    plan += "[[arm]]\nname = 'a'\n[[arm]]\nname = 'b'\nset = { rho1_keep = 0.5 }\n"
    GptRunner(parse(plan, "plan.toml"), conducted.log)


def test_a_wall_clock_shorter_than_a_step_and_a_divergence_are_outcomes_and_the_others_go_on(conducted):
    arms = [("short", "wallclock = 1e-6"), ("wild", "matrix_lr = 1e18"), ("plain", "")]
    conducted(arms, seeds="0")
    found = {one.run: one for one in events_of(conducted.log, "run.finished")}
    ends = {one.arm: found[one.run] for one in events_of(conducted.log, "run.started")}
    assert {arm: end.status for arm, end in ends.items()} == {"short": "timeout", "wild": "diverged", "plain": "ok"}
    assert "wallclock 1e-06 s is shorter than one step" in ends["short"].reason
    assert ends["wild"].value is None
    assert ends["short"].value is None

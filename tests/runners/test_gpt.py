"""The built-in trainer: the same bits again, pairs that are pairs, bits per byte that are exact."""

import math
import re
import subprocess
import sys

import msgspec
import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the trainer needs the extra experiment-ledger[torch]")
sentencepiece = pytest.importorskip("sentencepiece", reason="the trainer needs the extra experiment-ledger[torch]")

from runners import corpus, gpt, gpt_loss, gpt_optim  # noqa: E402
from runners.gpt_config import GptConfig  # noqa: E402
from runners.gpt_schedule import lr_scale  # noqa: E402
from runners.gpt_train import Trainer  # noqa: E402

SMALL = GptConfig(width=32, seq_len=32, batch_tokens=256, steps=8, val_tokens=1000, device="cpu", threads=1)


def but(**changes):
    return msgspec.structs.replace(SMALL, **changes)


@pytest.fixture(scope="module")
def trainer(tmp_path_factory):
    """On plain ASCII, so that any run of tokens decodes by itself."""
    from pydoc_data.topics import topics

    documents = {f"topic:{name}": topics[name].encode("ascii", "ignore").decode() for name in sorted(topics)}
    return Trainer(corpus.build(documents, tmp_path_factory.mktemp("corpora") / "topics"))


def curve(trainer, config, seed):
    """Every figure of a run that is a matter of numbers, not of time."""
    points = []
    result = trainer.train(config, seed, on_log=lambda step, values: points.append((step, values)))
    return points, result.val_bpb, result.val_loss, result.train_loss


def some_params(config, seed=0):
    """Parameters where every one matters; at the start, blocks are the identity."""
    rng = np.random.default_rng(seed)
    params = gpt.init_params(config, seed)
    return {name: p + torch.from_numpy(rng.normal(0, 0.2, p.shape).astype("f4")) for name, p in params.items()}


# --- Seeds and pairs ---------------------------------------------------------------------------------------


def test_the_same_config_and_seed_give_the_same_bits_with_other_arms_in_between(trainer):
    first = curve(trainer, SMALL, 7)
    curve(trainer, but(depth=1, activation="gelu"), 7)
    torch.manual_seed(99)
    assert curve(trainer, SMALL, 7) == first
    assert curve(Trainer(trainer.corpus), SMALL, 7) == first


@pytest.mark.slow
def test_a_compiled_run_on_a_cpu_is_the_run(trainer):
    plain, compiled = curve(trainer, SMALL, 7), curve(trainer, but(compile="on"), 7)
    assert compiled[1:] == pytest.approx(plain[1:], rel=1e-4)


def test_another_seed_gives_another_start_another_order_and_another_result(trainer):
    assert not torch.equal(gpt.init_params(SMALL, 0)["embed"], gpt.init_params(SMALL, 1)["embed"])
    orders = [next(trainer.source.batches(SMALL, seed)).tolist() for seed in (0, 1)]
    assert orders[0] != orders[1]
    assert curve(trainer, SMALL, 0)[1] != curve(trainer, SMALL, 1)[1]


def test_two_arms_of_one_seed_share_the_data_order_and_every_start_whose_shape_agrees(trainer):
    deep = but(depth=3, mlp_mult=3, activation="silu")
    orders = (trainer.source.batches(config, 5) for config in (SMALL, deep))
    for a, b, _ in zip(*orders, range(100), strict=False):
        assert np.array_equal(a, b)
    ours, theirs = gpt.init_params(SMALL, 5), gpt.init_params(deep, 5)
    assert torch.equal(ours["embed"], theirs["embed"])
    for name in ("q", "k", "v"):
        assert torch.equal(ours[name], theirs[name][:2])
    assert not torch.equal(theirs["q"][0], theirs["q"][1])


def test_training_leaves_global_random_state_and_thread_count_alone(trainer):
    torch_state, numpy_state, threads = (
        torch.get_rng_state(),
        np.random.get_state()[1].tolist(),
        torch.get_num_threads(),
    )
    trainer.train(but(threads=threads + 1), 0)
    assert torch.equal(torch.get_rng_state(), torch_state)
    assert np.random.get_state()[1].tolist() == numpy_state
    assert torch.get_num_threads() == threads


# --- The model ---------------------------------------------------------------------------------------------


def test_the_loss_before_training_is_that_of_a_uniform_guess(trainer):
    loss, _ = trainer.evaluate(gpt.init_params(GptConfig(), 0), but(width=64))
    assert loss == pytest.approx(math.log(1024), abs=0.02)


def test_training_learns(trainer):
    points, val_bpb, *_ = curve(trainer, but(steps=60, val_every=20), 0)
    vals = [values["val_bpb_subset"] for _, values in points if "val_bpb_subset" in values]
    assert vals == sorted(vals, reverse=True)
    assert vals[-1] == val_bpb < 0.8 * trainer.evaluate(gpt.init_params(SMALL, 0), SMALL)[1]


@pytest.mark.parametrize(
    "change",
    [
        {"activation": "gelu"},
        {"activation": "silu"},
        {"activation": "sin"},
        {"activation": "sin2"},
        {"softcap": 5.0},
        {"softcap": 0.0},
        {"width": 48},
        {"depth": 1},
        {"depth": 3},
        {"mlp_mult": 3},
        {"heads": 2},
        {"kv_heads": 4},
        {"rope_base": 100.0},
        {"qk_gain": 1.0},
        {"matrix_lr": 0.02},
        {"embed_lr": 0.02},
        {"scalar_lr": 0.002},
        {"momentum": 0.5},
        {"warmup_steps": 3},
        {"warmdown": 0.0},
    ],
    ids=str,
)
def test_each_intervention_changes_the_result(trainer, change):
    control, arm = trainer.train(SMALL, 0), trainer.train(but(**change), 0)
    assert arm.status == "ok"
    assert arm.val_loss != control.val_loss


def test_the_default_is_the_control():
    config = GptConfig()
    assert (config.activation, config.softcap, config.depth, config.width, config.mlp_mult) == (
        "relu2",
        30.0,
        2,
        64,
        2,
    )
    assert GptConfig.from_dict({}) == config


@pytest.mark.parametrize(
    "config", [but(depth=1), SMALL, but(depth=3, kv_heads=1), but(softcap=0.0)], ids=lambda c: c.depth
)
def test_the_sliced_head_gives_the_gradient_of_the_whole(config):
    params = {name: p.double().requires_grad_() for name, p in some_params(config).items()}
    rope = tuple(t.double() for t in gpt.rotary(config, torch.device("cpu")))
    tokens = torch.from_numpy(np.random.default_rng(0).integers(0, 1024, (24, 33)))
    x, y = tokens[:, :-1], tokens[:, 1:]  # 768 tokens: one slice and a half
    step = gpt_loss.loss_and_grads(params, config, rope, x, y)
    loss, grads = step.loss.item(), step.grads

    z = gpt.trunk(params, config, rope, x).flatten(0, 1) @ params["embed"].T
    if config.softcap:
        z = config.softcap * torch.tanh(z / config.softcap)
    whole = torch.nn.functional.cross_entropy(z, y.flatten())
    expected = torch.autograd.grad(whole, list(params.values()), materialize_grads=True)
    assert loss == pytest.approx(whole.item(), rel=1e-12)
    for name, grad in zip(params, expected, strict=True):
        assert torch.allclose(grads[name], grad, rtol=1e-8, atol=1e-12), name
        assert grad.numel() == 0 or grad.abs().max() > 0, name


def test_no_token_sees_a_later_one():
    params, rope = some_params(SMALL), gpt.rotary(SMALL, torch.device("cpu"))
    tokens = torch.from_numpy(np.random.default_rng(0).integers(0, 1024, (1, 32)))
    changed = tokens.clone()
    changed[0, 20] = (changed[0, 20] + 1) % 1024
    before, after = (gpt.trunk(params, SMALL, rope, t)[0] for t in (tokens, changed))
    assert torch.equal(before[:20], after[:20])
    assert not torch.allclose(before[20:], after[20:], atol=1e-3)


def test_attention_depends_on_distance_and_not_on_position():
    """The rotary identity: q at i and k at j meet as a function of i - j."""
    cos, sin = gpt.rotary(SMALL, torch.device("cpu"))
    q, k = torch.randn(2, 1, 1, 1, 8, generator=torch.Generator().manual_seed(0)).expand(2, 1, 32, 1, 8)
    q, k = gpt.rotate(q, cos, sin)[0, :, 0], gpt.rotate(k, cos, sin)[0, :, 0]
    scores = q @ k.T
    for distance in (0, 3, 11):
        assert torch.allclose(scores.diagonal(-distance), scores[distance, 0], atol=1e-5)
    assert not torch.allclose(scores[3, 0], scores[11, 0], atol=1e-3)


@pytest.mark.parametrize("shape", [(2, 64, 64), (3, 128, 64), (2, 32, 64)])
def test_muons_step_has_singular_values_near_one(shape):
    g = torch.randn(shape, generator=torch.Generator().manual_seed(0)) * 1e-3
    values = torch.linalg.svdvals(gpt_optim.orthogonalize(g))
    assert values.quantile(0.1) > 0.5
    assert values.max() < 1.3


def test_learning_rates_rise_stay_and_fall_to_nearly_nothing():
    config = but(steps=100, warmup_steps=4, warmdown=0.5)
    scale = [lr_scale(config, step) for step in range(100)]
    assert scale[:5] == [0.2, 0.4, 0.6, 0.8, 1.0]
    assert set(scale[4:51]) == {1.0}
    assert scale[75] == 0.5
    assert scale[99] == 0.02


# --- Bits per byte -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("change", [{}, {"softcap": 0.0}, {"val_tokens": 1023}, {"batch_tokens": 32}], ids=str)
def test_bits_per_byte_are_those_of_a_direct_computation(trainer, change):
    config, built = but(**change), trainer.corpus
    params = some_params(config)
    tokenizer = sentencepiece.SentencePieceProcessor(model_file=str(built.tokenizer_path))
    val, rope = built.val.astype(np.int64), gpt.rotary(config, torch.device("cpu"))
    nats, scored = 0.0, []
    for start in range(0, config.val_tokens - config.seq_len + 1, config.seq_len):
        window = torch.from_numpy(val[start : start + config.seq_len + 1])
        z = (gpt.trunk(params, config, rope, window[None, :-1])[0] @ params["embed"].T).double()
        if config.softcap:
            z = config.softcap * torch.tanh(z / config.softcap)
        nats -= z.log_softmax(1)[torch.arange(config.seq_len), window[1:]].sum().item()
        scored += window[1:].tolist()
    text = tokenizer.decode(scored)
    loss, bpb = trainer.evaluate(params, config)
    assert loss == pytest.approx(nats / len(scored), rel=1e-5)
    assert bpb == pytest.approx(nats / math.log(2) / len(text.encode()), rel=1e-5)
    assert len(scored) == config.val_tokens // 32 * 32


def test_a_run_reports_the_validation_of_its_last_step_and_what_it_cost(trainer):
    points = []
    result = trainer.train(but(val_every=3), 0, on_log=lambda step, values: points.append((step, values)))
    assert [step for step, values in points if "train_loss" in values] == list(range(1, 9))
    assert [step for step, values in points if "val_bpb_subset" in values] == [3, 6, 8]
    assert points[-1][1] == {"val_loss_subset": result.val_loss, "val_bpb_subset": result.val_bpb}
    assert result.val_name == "val_bpb_subset"
    assert (result.status, result.reason, result.steps, result.tokens) == ("ok", None, 8, 2048)
    assert result.parameters == sum(p.numel() for p in gpt.init_params(SMALL, 0).values())
    assert result.device == "cpu"
    assert result.wall_s > 8 * result.step_ms / 1000 / 2 > 0
    assert result.peak_memory_bytes > 50_000_000


# --- Runs that do not finish ---------------------------------------------------------------------------------


def test_a_run_that_is_told_to_stop_stops_with_the_reason_and_no_result(trainer):
    asked = []

    def should_stop():
        asked.append(1)
        return "timeout" if len(asked) > 3 else None

    result = trainer.train(SMALL, 0, should_stop=should_stop)
    assert (result.status, result.reason, result.steps) == ("stopped", "timeout", 3)
    assert result.val_bpb is None
    assert result.val_loss is None
    assert result.train_loss is not None


def test_an_empty_reason_does_not_stop_a_run(trainer):
    assert trainer.train(SMALL, 0, should_stop=lambda: "").status == "ok"


@pytest.mark.parametrize("change", [{"matrix_lr": 1e18}, {"embed_lr": 1e30}, {"scalar_lr": 1e15}], ids=str)
def test_an_absurd_learning_rate_is_a_divergence_and_not_a_figure(trainer, change):
    result = trainer.train(but(steps=50, **change), 0)
    assert result.status == "diverged"
    assert "loss" in result.reason
    assert result.steps < 50
    assert result.val_bpb is None
    assert result.val_loss is None
    assert result.train_loss is None or math.isfinite(result.train_loss)


# --- Configs -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"activaton": "gelu"}, "unknown key 'activaton'; did you mean 'activation'?"),
        ({"zzz": 1}, "unknown key 'zzz'"),
        ({"activation": "tanh"}, "sin2, leaky_relu2, fan, found 'tanh'"),
        ({"width": "wide"}, "width must be a whole number, found text"),
        ({"width": 64.5}, "width must be a whole number, found a number"),
        ({"heads": 5}, "heads must divide width 64, found 5"),
        ({"kv_heads": 3}, "kv_heads must divide heads 4, found 3"),
        ({"width": 60}, "width / heads must be even for rotary positions, found 15"),
        ({"val_tokens": 100}, "val_tokens must be 0 or at least seq_len 128, found 100"),
        ({"batch_tokens": 1000}, "seq_len must divide batch_tokens 1000, found 128"),
        ({"steps": 0}, "steps must be at least 1, found 0"),
        ({"keep_weights": True, "stack_seeds": True}, "keep_weights is for seeds that train singly"),
        ({"warmdown": 1.5}, "warmdown must be a fraction from 0 to 1, found 1.5"),
        ({"softcap": -1}, "softcap must be finite, not negative, found -1"),
        ({"matrix_lr": math.nan}, "matrix_lr must be finite, not negative, found nan"),
    ],
    ids=lambda v: str(v) if isinstance(v, dict) else "",
)
def test_a_config_that_makes_no_model_is_refused_in_one_line(values, message):
    with pytest.raises(ValueError, match=re.escape(message)) as caught:
        GptConfig.from_dict(values)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"vocab_size": 2048}, "vocab_size is larger than the tokenizer's 1024, found 2048"),
        ({"vocab_size": 512}, "vocab_size is smaller than the tokenizer's 1024, found 512"),
        ({"val_tokens": 10**9}, "val_tokens must be below"),
        ({"batch_tokens": 2**30}, "batch_tokens must be at most"),
        ({"device": "tpu"}, "device must be auto or one that is here"),
    ],
    ids=str,
)
def test_a_config_that_does_not_fit_the_corpus_or_the_machine_is_refused(trainer, change, message):
    with pytest.raises(ValueError, match=message):
        trainer.train(but(**change), 0)


def test_torch_is_imported_by_the_trainer_and_by_nothing_beside_it():
    code = "import sys, runners, runners.corpus; sys.exit('torch' in sys.modules or 'sentencepiece' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_one_default_run_on_the_default_corpus_learns(tmp_path):
    result = Trainer(corpus.prepare(tmp_path)).train(GptConfig(steps=20, val_tokens=4096, device="cpu", threads=1), 0)
    assert result.status == "ok"
    assert 2.0 < result.val_bpb < 3.7

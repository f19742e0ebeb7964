"""The late stages with the real model: bits a byte by hand, no look ahead, weights through their bytes."""

import math

import msgspec
import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the trainer needs the extra experiment-ledger[torch]")
sentencepiece = pytest.importorskip("sentencepiece", reason="the trainer needs the extra experiment-ledger[torch]")

from runners import corpus, evaluate, gpt, gpt_after, gpt_stages, gptq, quantize  # noqa: E402
from runners.gpt_config import GptConfig  # noqa: E402
from runners.gpt_data import CorpusSource  # noqa: E402
from runners.gpt_init import MATRICES  # noqa: E402
from runners.gpt_train import Trainer  # noqa: E402

SMALL = GptConfig(
    width=32, seq_len=32, batch_tokens=256, steps=8, val_tokens=512, device="cpu", threads=1,
    eval_stride=16, ttt_chunk=128, ttt_lr=0.05, ttt_freeze=1, calib_tokens=1024,
)  # fmt: skip


def but(**changes):
    return msgspec.structs.replace(SMALL, **changes)


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    from pydoc_data.topics import topics

    documents = {f"topic:{name}": topics[name].encode("ascii", "ignore").decode() for name in sorted(topics)[:25]}
    return CorpusSource(corpus.build(documents, tmp_path_factory.mktemp("corpora") / "topics"))


def some_params(config=SMALL, seed=0):
    """Parameters where every one matters; at the start, blocks are the identity."""
    rng = np.random.default_rng(seed)
    params = gpt.init_params(config, seed)
    return {name: p + torch.from_numpy(rng.normal(0, 0.2, p.shape).astype("f4")) for name, p in params.items()}


# --- Evaluation --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("val_tokens", [0, 512])
def test_bits_per_byte_of_a_checkpoint_equal_a_direct_computation(source, val_tokens):
    """With nothing of evaluate.py: one window at a time, log-probabilities in float64, bytes by decoding."""
    config, params = but(val_tokens=val_tokens), some_params()
    found = gpt_after.score(params, config, source)

    tokenizer = sentencepiece.SentencePieceProcessor(model_file=str(source.corpus.tokenizer_path))
    tokens = source.corpus.val.tolist()
    windows = ((val_tokens or len(tokens) - 1) // 32) if not val_tokens else val_tokens // 32
    rope, nats = gpt.rotary(config, torch.device("cpu")), 0.0
    for i in range(windows):
        x, y = tokens[32 * i : 32 * i + 32], tokens[32 * i + 1 : 32 * i + 33]
        with torch.no_grad():
            logs = gpt.logits(params, config, rope, torch.tensor([x]))[0].double().log_softmax(-1).tolist()
        nats -= sum(logs[j][t] for j, t in enumerate(y))
    scored = tokens[1 : 32 * windows + 1]
    text = b"".join(tokenizer.decode([t]).encode() for t in scored if not tokenizer.is_control(t))
    assert found.loss == pytest.approx(nats / (32 * windows), rel=1e-6)
    assert found.bpb == pytest.approx(nats / math.log(2) / len(text), rel=1e-6)
    assert found.bpb_name == ("val_bpb_subset" if val_tokens else "val_bpb")


def test_sliding_scores_with_more_context_and_a_stride_of_the_window_is_chunked_to_the_bit(source):
    trained = {}
    Trainer(source).train(but(steps=40), 0, keep={40: trained.update})
    params = {n.removeprefix("param."): p for n, p in trained.items() if n.startswith("param.")}
    chunked, sliding, same = (
        gpt_after.score(params, config, source)
        for config in (SMALL, but(eval="sliding"), but(eval="sliding", eval_stride=32))
    )
    assert same == chunked
    assert sliding.bpb != chunked.bpb
    assert sliding.bpb_name == "val_bpb_subset"


def test_sliding_evaluation_is_the_direct_one(source):
    params, config = some_params(), but(eval="sliding", eval_stride=8, val_tokens=96)
    tokens = source.val[:97].astype(np.int64)
    rope, nats = gpt.rotary(config, torch.device("cpu")), 0.0
    for target in range(96):  # by the definition: the window that ends with its stride, the first one whole
        end = 32 if target < 32 else 32 + 8 * ((target - 32) // 8 + 1)
        x = torch.from_numpy(tokens[end - 32 : end])[None]
        with torch.no_grad():
            row = gpt.logits(params, config, rope, x)[0, target - (end - 32)].double().log_softmax(-1)
        nats -= row[tokens[target + 1]].item()
    assert gpt_after.score(params, config, source).loss == pytest.approx(nats / 96, rel=1e-6)


# --- Test-time training ------------------------------------------------------------------------------------


COUNT, AT = 256, [2, 33, 65, 130, 255]


def ttt_nats(params, config, tokens, model=gpt_after.Model):
    with torch.no_grad():
        made = model(params, config)
    return evaluate.score_first(made, tokens, COUNT, 32, stride=16, chunk=64, lr=config.ttt_lr, epochs=1)


def sees_ahead(tokens, at, **how):
    other = tokens.copy()
    other[at:] = (other[at:] + 17) % 1024
    config = but(eval="ttt")
    a, b = (ttt_nats(some_params(), config, t, **how)[: at - 1] for t in (tokens, other))
    return not np.array_equal(a, b)


@pytest.mark.parametrize("at", AT)
def test_no_score_changes_by_a_bit_with_the_tokens_after_it(source, at):
    assert not sees_ahead(source.val[: COUNT + 1], at)


@pytest.mark.parametrize("at", [130])
def test_a_model_that_trains_before_it_scores_is_caught(source, at):
    class Leaking(gpt_after.Model):
        def losses(self, tokens, targets, first):
            self.learn(tokens, targets, 0.05)
            return super().losses(tokens, targets, first)

    assert sees_ahead(source.val[: COUNT + 1], at, model=Leaking)


def test_training_changes_what_is_scored_later_and_leaves_the_first_blocks_and_the_callers_weights(source):
    config, params = but(eval="ttt"), some_params()
    before = {name: p.clone() for name, p in params.items()}
    still = evaluate.token_losses(gpt_after.Model(params, SMALL).losses, source.val, COUNT, 32, stride=16)
    nats = ttt_nats(params, config, source.val[: COUNT + 1])
    assert np.array_equal(nats[:64], still[:64])
    assert not np.array_equal(nats[64:], still[64:])
    assert all(torch.equal(p, before[name]) for name, p in params.items())
    model = gpt_after.Model(params, config)
    model.learn(source.val[None, :32].astype("i8"), source.val[None, 1:33].astype("i8"), 0.05)
    for name in ("q", "up", "q_gain"):
        assert torch.equal(model.params[name][0], before[name][0])
        assert not torch.equal(model.params[name][1], before[name][1])
    assert not torch.equal(model.params["embed"], before["embed"])


def test_test_time_training_helps_a_model_that_was_hardly_trained(source):
    trained = {}
    Trainer(source).train(but(steps=20), 0, keep={20: trained.update})
    params = {n.removeprefix("param."): p for n, p in trained.items() if n.startswith("param.")}
    sliding = gpt_after.score(params, but(eval="sliding"), source)
    assert gpt_after.score(params, but(eval="ttt"), source).bpb < sliding.bpb


# --- Quantization ------------------------------------------------------------------------------------------


def test_a_matrix_is_calibrated_on_what_it_is_really_given(source):
    """Block 0's queries read the normalised mix of the embedding with itself."""
    config, params = SMALL, some_params()
    inputs = gpt_after.matrix_inputs(params, config, source)
    x = torch.from_numpy(gpt_stages.calibration(config, source))
    e = gpt.norm(params["embed"][x])
    h = gpt.norm((params["mix"][0, 0] + params["mix"][0, 1]) * e).flatten(0, 1).double()
    found = inputs["q"][0]
    assert found.tokens == 1024
    assert found.hessian == pytest.approx((h.mT @ h).numpy(), rel=1e-4)
    assert found.magnitude == pytest.approx(h.abs().mean(0).numpy(), rel=1e-4)
    for name, p in params.items():
        if name in MATRICES:
            assert [each.tokens for each in inputs[name]] == [1024] * len(p), name
    # Columns of `down` that never fire have no inputs; those of an MLP's `up` are those of its norm.
    assert inputs["up"][1].hessian.shape == (32, 32)


def test_another_calibration_seed_is_another_sample_of_the_training_text(source):
    one, again, other = (gpt_stages.calibration(but(calib_seed=seed), source) for seed in (0, 0, 1))
    assert np.array_equal(one, again)
    assert not np.array_equal(one, other)
    assert one.shape == (32, 32)


@pytest.mark.parametrize("name", quantize.SCHEMES)
def test_what_is_scored_after_quantization_is_what_the_bytes_hold(source, name):
    config, params = but(quantize=name, quant_group=16), some_params()
    made = gpt_after.quantized(params, config, source)
    held = quantize.restore(made.model)
    assert {*held} == {*params}
    for key, p in made.params.items():
        assert np.array_equal(p.numpy(), held[key])
        assert p.shape == params[key].shape
        assert (p.dtype, p.device) == (params[key].dtype, params[key].device)
    assert torch.equal(made.params["q_gain"], params["q_gain"])
    assert not torch.equal(made.params["q"], params["q"])
    raw, after = (gpt_after.score(p, config, source).bpb for p in (params, made.params))
    assert after != raw
    assert after == pytest.approx(raw, rel=0.05)


def test_gptq_loses_less_than_rounding_on_the_real_models_calibration_inputs(source):
    params = some_params()
    inputs = gpt_after.matrix_inputs(params, SMALL, source)
    total = {}
    for name in ("int6_clip", "awq", "gptq"):
        made = gpt_after.quantized(params, but(quantize=name), source).params
        total[name] = sum(
            float(gptq.layer_loss((params[m] - made[m])[i].numpy(), inputs[m][i].hessian).sum())
            for m in ("q", "k", "v", "o", "up", "down")
            for i in range(len(params[m]))
        )
    assert total["awq"] <= total["int6_clip"]
    assert total["gptq"] < 0.8 * total["int6_clip"]


def test_a_run_tells_both_figures_the_gap_and_the_bytes(source):
    told = {}
    result = Trainer(source).train(but(quantize="int6_group"), 0, on_log=lambda step, values: told.update(values))
    names = {"val_bpb_subset", "val_loss_subset", "val_bpb_subset_pre_quant", "val_loss_subset_pre_quant"}
    assert {*told} == names | {"quant_gap_subset", "artifact_bytes", "artifact_bytes_over", "train_loss"}
    assert told["quant_gap_subset"] == told["val_bpb_subset"] - told["val_bpb_subset_pre_quant"] != 0
    assert (result.val_bpb, result.raw_bpb) == (told["val_bpb_subset"], told["val_bpb_subset_pre_quant"])
    assert told["artifact_bytes"] == result.artifact_bytes > 30_000
    assert told["artifact_bytes_over"] == 0
    plain = Trainer(source).train(SMALL, 0)
    assert plain.val_bpb == told["val_bpb_subset_pre_quant"]
    assert plain.artifact_bytes is None


def test_bytes_beyond_the_limit_are_told(source):
    score = gpt_stages.Scored(1.0, 1.3, "val_loss", "val_bpb")
    told = gpt_stages.quantization(score, score._replace(bpb=1.31), 20_600_000)
    assert told == {"quant_gap": pytest.approx(0.01), "artifact_bytes": 20_600_000, "artifact_bytes_over": 4_600_000}

"""What the published records have beside the pipeline's interventions, each against a reference: value embeddings,
layer scale, Adam's decay, orthogonal starts, calibration on own text, codes pruned until a model fits."""

import lzma
import math
import tomllib
from pathlib import Path

import msgspec
import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the trainer needs the extra experiment-ledger[torch]")
pytest.importorskip("sentencepiece", reason="the trainer needs the extra experiment-ledger[torch]")

from runners import corpus, gpt, gpt_after, gpt_optim, gpt_stages, quantize  # noqa: E402
from runners.gpt_config import LATE, GptConfig  # noqa: E402
from runners.gpt_data import CorpusSource  # noqa: E402
from runners.gpt_init import MATRICES, init_arrays  # noqa: E402
from runners.gpt_result import code_bytes  # noqa: E402
from runners.gpt_schedule import Rates  # noqa: E402
from runners.gpt_train import Trainer  # noqa: E402

SMALL = GptConfig(
    width=32, seq_len=32, batch_tokens=256, steps=8, val_tokens=640, device="cpu", calib_tokens=512,
)  # fmt: skip


def but(**changes):
    return msgspec.structs.replace(SMALL, **changes)


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    from pydoc_data.topics import topics

    documents = {f"topic:{name}": topics[name].encode("ascii", "ignore").decode() for name in sorted(topics)[:40]}
    return CorpusSource(corpus.build(documents, tmp_path_factory.mktemp("corpora") / "topics"))


def some_params(config, seed=0):
    """Parameters where every one matters; at the start, blocks are the identity."""
    rng = np.random.default_rng(seed)
    return {
        name: torch.from_numpy(array + rng.normal(0, 0.2, array.shape).astype("f4"))
        for name, array in init_arrays(config, seed).items()
    }


def trunk(params, config, tokens):
    return gpt.trunk(params, config, gpt.rotary(config, torch.device("cpu")), tokens)


def some_tokens(config, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).integers(0, 1024, (4, config.seq_len)))


# --- The whole stack ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arm", "parameters"),
    [("published stack", 27_067_484), ("published stack, test-time training", 26_928_220)],
)
def test_the_benchmarks_stacks_have_as_many_parameters_as_the_published_logs_tell(arm, parameters):
    path = Path(__file__).resolve().parents[2] / "examples" / "rounds" / "benchmark.toml"
    plan = tomllib.loads(path.read_text())
    (said,) = [each["set"] for each in plan["arm"] if each["name"] == arm]
    made = init_arrays(
        GptConfig.from_dict({**plan["trainer"], **said, "init": "uniform"}), 0
    )  # the same shapes, sooner
    assert sum(array.size for array in made.values()) == parameters


# --- Knobs of interventions --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("on", "knob"),
    [
        ({"bigram_buckets": 256}, {"bigram_zero": True}),
        ({"bigram_buckets": 256}, {"projections": "adam"}),
        ({"smear_gate": True}, {"smear_init": 0.0}),
        ({"value_embed_last": 1}, {"value_embed_width": 16}),
        ({"value_embed_last": 1}, {"value_embed_last": 2}),
        ({"quantize": "gptq"}, {"gptq_damping": 1.0}),
        ({"quantize": "gptq", "calib_text": "own"}, {"calib_temperature": 2.0}),
        ({"quantize": "gptq", "calib_text": "own"}, {"calib_seed": 1}),
    ],
    ids=str,
)
def test_each_knob_changes_the_loss_of_what_it_belongs_to(source, on, knob):
    trainer = Trainer(source)
    assert trainer.train(but(**on), 0).val_loss != trainer.train(but(**on | knob), 0).val_loss


# --- The model ---------------------------------------------------------------------------------------------


def test_value_embeddings_with_no_gain_are_none_and_act_in_the_last_blocks_alone():
    config, tokens = but(depth=3, value_embed_last=1), some_tokens(SMALL)
    params = some_params(config)
    plain = {name: p for name, p in params.items() if not name.startswith("value_embed")}
    off = params | {"value_embed_gain": torch.zeros(1)}
    assert torch.equal(trunk(off, config, tokens), trunk(plain, but(depth=3), tokens))
    params["o"][2] = 0  # the only block that has them says nothing
    assert torch.equal(trunk(params, config, tokens), trunk(off | {"o": params["o"]}, config, tokens))


def test_a_value_embedding_is_a_matrix_times_the_tokens_row():
    config, tokens = but(value_embed_last=1), some_tokens(SMALL)
    params = some_params(config)
    found = gpt.value_embedding(params, config, tokens, None)
    row = params["value_embed"][tokens[1, 7]].double() @ params["value_embed_proj"][0].double().T
    expected = row * params["value_embed_scale"].double()
    assert found[1, 7].flatten().numpy() == pytest.approx(expected.numpy(), rel=1e-4, abs=1e-6)


def test_with_layer_scale_the_ith_block_reads_vectors_of_length_sqrt_of_width_over_i():
    config, x = but(layer_scale=True), torch.randn(2, 5, 32, generator=torch.Generator().manual_seed(0))
    for i in range(4):
        read = gpt.read(x, config, i)
        assert read.square().mean(-1).sqrt().numpy() == pytest.approx(1 / math.sqrt(i + 1), rel=1e-3)
    assert torch.equal(gpt.read(x, SMALL, 3), gpt.norm(x))


def test_an_orthogonal_start_has_rows_or_columns_of_length_one_at_right_angles():
    config = but(init="orthogonal", bigram_buckets=64, value_embed_last=1, mlp_mult=3)
    made = init_arrays(config, 0)
    for name in ("q", "k", "v", "up", "bigram_proj", "value_embed_proj"):
        for matrix in made[name].astype("f8"):
            wide = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
            assert wide @ wide.T == pytest.approx(np.eye(len(wide)), abs=1e-5), name
    assert not made["o"].any()
    assert not made["down"].any()
    other = init_arrays(but(init="orthogonal", depth=3), 0)
    assert np.array_equal(other["q"][:2], made["q"])  # a new field or block moves nobody else's start


# --- The optimiser -----------------------------------------------------------------------------------------


def test_adams_decay_is_adamws_for_tables_gains_and_scales_and_nothing_else():
    config = but(adam_decay=0.3, embed_lr=0.02, scalar_lr=0.05)
    draw = torch.Generator().manual_seed(0)
    shapes = {"embed": (6, 4), "attn_scale": (2, 4), "q": (1, 4, 4)}
    params = {name: torch.randn(shape, generator=draw) for name, shape in shapes.items()}
    theirs = {name: p.clone().requires_grad_() for name, p in params.items() if name != "q"}
    reference = torch.optim.AdamW(
        [{"params": [theirs["embed"]], "lr": 0.02}, {"params": [theirs["attn_scale"]], "lr": 0.05}],
        betas=(config.beta1, config.beta2), eps=1e-8, weight_decay=0.3,
    )  # fmt: skip
    muon = params["q"].clone()
    ours, plain = gpt_optim.Optimizer(params, config), gpt_optim.Optimizer({"q": muon}, SMALL)
    for _ in range(3):
        grads = {name: torch.randn(shape, generator=draw) for name, shape in shapes.items()}
        for name, p in theirs.items():
            p.grad = grads[name].clone()
        reference.step()
        ours.step(params, grads, Rates(momentum=0.9))
        plain.step({"q": muon}, {"q": grads["q"]}, Rates(momentum=0.9))
    for name, p in theirs.items():
        assert torch.allclose(params[name], p.detach(), rtol=1e-5, atol=1e-6), name
    assert torch.equal(params["q"], muon)


def test_projections_by_adam_step_at_the_rate_of_scalars():
    config = but(projections="adam", bigram_buckets=64, value_embed_last=1)
    params = some_params(config)
    optimizer = gpt_optim.Optimizer(params, config)
    assert {"bigram_proj", "value_embed_proj"} <= {*optimizer.v}
    assert optimizer.lr["bigram_proj"] == optimizer.lr["value_embed_proj"] == config.scalar_lr
    assert "q" not in optimizer.v
    assert "bigram_proj" not in gpt_optim.Optimizer(params, but(bigram_buckets=64)).v


# --- Text of its own ---------------------------------------------------------------------------------------


def test_own_text_is_the_same_for_a_seed_and_leaves_global_random_state_alone():
    config = but(calib_text="own", bigram_buckets=64, smear_gate=True)
    params = some_params(config)
    before = torch.get_rng_state(), np.random.get_state()[1]
    one, again, other = (
        gpt_stages.own_text(but(calib_seed=seed), 3, gpt_after.following(params, config)) for seed in (0, 0, 1)
    )
    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.array_equal(np.random.get_state()[1], before[1])
    assert np.array_equal(one, again)
    assert not np.array_equal(one, other)
    assert one.shape == (3, 32)
    assert one.min() >= 0
    assert one.max() < 1024


def test_a_model_writes_from_its_distribution_at_the_temperature():
    """One that says the same whatever came before: its text has the shares of softmax(z / T)."""
    z = np.log(np.array([0.5, 0.3, 0.2]))
    for temperature in (0.5, 1.0, 2.0):
        config = but(vocab_size=3, calib_temperature=temperature)
        said = gpt_stages.own_text(config, 400, lambda tokens: np.tile(z, (len(tokens), 1)).astype("f4"))[:, 1:]
        expected = np.exp(z / temperature) / np.exp(z / temperature).sum()
        assert np.bincount(said.ravel(), minlength=3) / said.size == pytest.approx(expected, abs=0.02)


def test_the_written_token_follows_what_the_whole_model_says_of_the_text_so_far():
    """Cold, each is the most likely one after all tokens before it."""
    config = but(calib_temperature=1e-3, softcap=0.0, bigram_buckets=64, value_embed_last=1, layer_scale=True)
    params = some_params(config)
    said = gpt_stages.own_text(config, 2, gpt_after.following(params, config))
    z = gpt.logits(params, config, gpt.rotary(config, torch.device("cpu")), torch.from_numpy(said))
    assert z.argmax(-1)[:, :-1].tolist() == said[:, 1:].tolist()


def test_matrices_are_calibrated_on_the_own_text_and_the_training_text_is_not_asked(source):
    config = but(quantize="gptq", calib_text="own")
    params = some_params(config)

    class Closed:
        def batches(self, config, seed):
            raise AssertionError("training text was asked for")

    inputs = gpt_after.matrix_inputs(params, config, Closed())
    assert all(each.tokens == 512 for name in inputs for each in inputs[name])
    other = gpt_after.matrix_inputs(params, but(quantize="gptq"), source)
    assert not np.array_equal(inputs["q"][0].hessian, other["q"][0].hessian)


# --- Size --------------------------------------------------------------------------------------------------


def test_a_floor_keeps_steps_from_being_finer_than_it_allows():
    weight = np.random.default_rng(0).normal(0, 0.1, (8, 64)).astype("f4")
    weight[0] *= 100
    scheme = msgspec.structs.replace(quantize.SCHEMES["int6_clip"], floor=1.0)
    plain, floored = (quantize.quantize(weight, each) for each in (quantize.SCHEMES["int6_clip"], scheme))
    assert (floored.scales[1:] == np.float16(1 / 31)).all()
    assert np.array_equal(floored.codes[0], plain.codes[0])
    assert (plain.scales[1:] < np.float16(1 / 31)).all()


def artifact(params, **changes):
    return gpt_after.quantized(params, but(quantize="int6_clip", **changes), None)


def test_whole_bytes_hold_the_same_weights_and_compress_better():
    params = some_params(but(width=64, mlp_mult=4))
    packed, whole = artifact(params), artifact(params, quant_pack="bytes")
    assert all(torch.equal(p, whole.params[name]) for name, p in packed.params.items())
    assert len(whole.model) < len(packed.model)


def test_no_code_is_pruned_where_the_artifact_fits():
    params = some_params(SMALL)
    plain = artifact(params)
    assert artifact(params, prune_to=plain.total(code_bytes("torch"))).model == plain.model
    assert quantize.pruned(plain.model) == 0


@pytest.mark.parametrize("less", [30, 120])
def test_codes_of_one_become_zero_the_smallest_first_until_it_fits(less):
    params = some_params(SMALL)
    plain = artifact(params, quant_pack="bytes")
    limit = plain.total(code_bytes("torch")) - less
    made = artifact(params, quant_pack="bytes", prune_to=limit)
    assert made.total(code_bytes("torch")) <= limit
    gone, kept = [], []
    for name, p in plain.params.items():
        changed = p != made.params[name]
        assert name in MATRICES or not changed.any(), name
        if name in MATRICES:
            assert (made.params[name][changed] == 0).all()
            step = p.abs().where(p != 0, math.inf).amin(-1, keepdim=True).expand_as(p)  # the weight of a one, or more
            gone.append(p[changed].abs())
            kept.append(p[(p != 0) & ~changed & (p.abs() == step)].abs())
    gone, kept = torch.cat(gone), torch.cat(kept)
    assert 0 < len(gone) == quantize.pruned(made.model)
    assert gone.max() <= kept.min()
    # As few as it can be to a 512th: with a few less of them it would not have fitted.
    assert len(made.model) > len(plain.model) - less - 60


def test_where_all_ones_are_too_few_it_says_how_much_is_left_over(source):
    told = {}
    result = Trainer(source).train(
        but(quantize="int6", prune_to=1), 0, on_log=lambda step, values: told.update(values)
    )
    assert result.status == "ok"
    assert told["pruned_codes"] > 100
    assert result.artifact_bytes == told["artifact_bytes"] > code_bytes("torch")


def test_an_artifact_without_these_settings_has_the_bytes_of_before():
    """Field by field: no entry of the head, no byte of the rest."""
    model = {"q": np.random.default_rng(0).normal(size=(1, 8, 24)).astype("f4"), "gain": np.ones(3, "f4")}
    raw = lzma.decompress(quantize.compress(model, quantize.SCHEMES["int6_clip"], ["q"]))
    head = raw[8 : 8 + int.from_bytes(raw[:8], "little")].decode()
    assert head == (
        '{"format":"experiment-ledger model 1","tensors":[{"name":"gain","shape":[3],"bits":0},'
        '{"name":"q","shape":[1,8,24],"bits":6,"group":0,"channels":[false]}]}'
    )


def test_the_late_ones_are_late_and_the_others_are_not():
    late = {"calib_text", "calib_temperature", "gptq_damping", "quant_floor", "quant_pack", "prune_to"}
    assert late <= {*LATE}
    assert not {"adam_decay", "projections", "init", "value_embed_last", "layer_scale"} & {*LATE}

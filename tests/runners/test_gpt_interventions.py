"""Every intervention: off by default, on it changes the loss, and it does what its name says."""

import math

import msgspec
import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the trainer needs the extra experiment-ledger[torch]")
pytest.importorskip("sentencepiece", reason="the trainer needs the extra experiment-ledger[torch]")

from runners import corpus, gpt, gpt_data, gpt_loss, gpt_optim, gpt_schedule  # noqa: E402
from runners.gpt_config import LATE, WHERE, GptConfig  # noqa: E402
from runners.gpt_init import init_arrays  # noqa: E402
from runners.gpt_schedule import Rates  # noqa: E402
from runners.gpt_train import Trainer  # noqa: E402

SMALL = GptConfig(width=32, seq_len=32, batch_tokens=256, steps=8, val_tokens=640, device="cpu")


def but(**changes):
    return msgspec.structs.replace(SMALL, **changes)


@pytest.fixture(scope="module")
def trainer(tmp_path_factory):
    from pydoc_data.topics import topics

    documents = {f"topic:{name}": topics[name].encode("ascii", "ignore").decode() for name in sorted(topics)}
    return Trainer(corpus.build(documents, tmp_path_factory.mktemp("corpora") / "topics"))


@pytest.fixture(scope="module")
def control(trainer):
    return trainer.train(SMALL, 0)


def some_params(config, seed=0):
    """Parameters where every one matters; at the start, blocks are the identity."""
    rng = np.random.default_rng(seed)
    return {
        name: torch.from_numpy(array + rng.normal(0, 0.2, array.shape).astype("f4"))
        for name, array in init_arrays(config, seed).items()
    }


def batch(config, seed=0):
    tokens = torch.from_numpy(np.random.default_rng(seed).integers(0, 1024, (config.windows, config.seq_len + 1)))
    return tokens[:, :-1], tokens[:, 1:]


def loss_of(config, params=None, **given):
    x, y = batch(config)
    rope = gpt.rotary(config, torch.device("cpu"))
    params = {name: p.clone().requires_grad_() for name, p in (params or some_params(config)).items()}
    return gpt_loss.loss_and_grads(params, config, rope, x, y, **given)


INTERVENTIONS = [
    *({"activation": name} for name in ("gelu", "silu", "sin", "sin2", "leaky_relu2", "fan")),
    *({"mlp": name} for name in ("dml_gated", "dml_orth", "fan_dml", "causal_wide", "dml_causal_wide")),
    {"softcap": 5.0},
    {"softcap": 0.0},
    {"width": 48},
    {"depth": 1},
    {"depth": 3},
    {"heads": 2},
    {"kv_heads": 4},
    {"mlp_mult": 3},
    {"rope_base": 100.0},
    {"rope_fraction": 0.5},
    {"qk_gain": 1.0},
    {"skips": "none"},
    {"skips": "dense"},
    {"xsa_last": 1},
    {"value_residual": True},
    {"parallel_last": 1},
    {"loop_first": 0, "loop_count": 2, "loops": 2},
    {"bigram_buckets": 256},
    {"smear_gate": True},
    {"value_embed_last": 1},
    {"value_embed_last": 2, "token_drop": 0.2},
    {"layer_scale": True},
    {"bt_layers": 0.5},
    {"mlp": "dml_gated", "bt_lambda": 0.5},
    {"rho1_keep": 0.6},
    {"rho1_keep": 0.6, "rho1_reference": "none"},
    {"mtp_weight": 0.5, "mtp_margin": 0.0},
    {"position_weight": 0.5},
    {"token_drop": 0.2},
    {"token_drop": 0.2, "token_drop_schedule": "linear_decay"},
    {"corrupt": 0.2},
    {"corrupt": 0.2, "corrupt_by": "model"},
    {"corrupt": 0.2, "corrupt_schedule": "sine"},
    {"probe": "adaptive"},
    {"probe": "adversarial"},
    {"curriculum": "easy_first"},
    {"curriculum": "hard_first"},
    {"momentum": 0.5},
    {"momentum_warmup": 4, "momentum_start": 0.3},
    {"muon_decay": 0.5},
    {"adam_decay": 0.5},
    {"newton_schulz": 2},
    {"grad_clip": 0.01},
    {"warmup_steps": 3},
    {"warmdown": 0.0},
    {"warmdown_steps": 2},
    {"ema": 0.9},
    {"swa": 0.5},
    {"qat_bits": 4},
    {"qat_bits": 4, "qat_from": 0.5},
    {"quantize": "int6"},
    {"quantize": "gptq", "calib_tokens": 512, "calib_seed": 1},
    {"eval": "sliding", "eval_stride": 8},
    {"eval": "ttt", "eval_stride": 8, "ttt_chunk": 128, "ttt_lr": 0.02, "ttt_freeze": 0},
    {"quantize": "gptq", "calib_tokens": 512, "calib_text": "own"},
    {"quantize": "int6_clip", "quant_floor": 1.0},
    {"quantize": "int6", "prune_to": 1},
    {"embed_init": 0.01},
    {"init": "orthogonal"},
    {"dtype": "bfloat16"},
]


@pytest.mark.parametrize("change", INTERVENTIONS, ids=str)
def test_each_intervention_changes_the_loss(trainer, control, change):
    arm = trainer.train(but(**change), 0)
    assert arm.status == "ok", arm.reason
    assert arm.val_loss != control.val_loss
    assert arm.val_loss == pytest.approx(control.val_loss, abs=0.7)


def test_every_field_that_is_not_about_where_or_how_long_is_covered_above():
    covered = {name for change in INTERVENTIONS for name in change}
    other = {
        *WHERE,
        "vocab_size",
        "seq_len",
        "batch_tokens",
        "micro_tokens",
        "steps",
        "data",
        "shards",
        "val_tokens",
        "val_every",
    }
    other |= {"matrix_lr", "embed_lr", "scalar_lr", "beta1", "beta2", "wallclock"}  # in test_gpt.py and below
    knobs = {  # of an intervention that is covered
        "bigram_width", "mtp_warmup", "probe_base", "probe_max", "probe_threshold", "probe_ema", "curriculum_buffer",
        "swa_every", "quant_group", "ttt_epochs", "bigram_zero", "smear_init", "value_embed_width", "projections",
        "calib_temperature", "gptq_damping", "quant_pack",  # these in test_gpt_record.py
    }  # fmt: skip
    assert covered | other | knobs == set(GptConfig.__struct_fields__)


def test_off_means_absent_no_parameter_is_there_for_a_field_that_is_off():
    assert set(init_arrays(GptConfig(), 0)) == {
        "q", "k", "v", "o", "up", "down", "embed", "q_gain", "attn_scale", "mlp_scale", "mix", "skip",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("change", "names"),
    [
        ({"bigram_buckets": 256}, ("bigram", "bigram_proj", "bigram_scale")),
        ({"smear_gate": True}, ("smear",)),
        ({"value_residual": True}, ("value_mix",)),
        (
            {"value_embed_last": 2},
            ("value_embed", "value_embed_proj", "value_embed_scale", "value_embed_gain"),
        ),
        ({"mtp_weight": 0.5, "mtp_margin": 0.0}, ("mtp",)),
        ({"skips": "dense"}, ("dense",)),
    ],
    ids=str,
)
def test_what_an_intervention_adds_is_trained(change, names):
    config = but(**change)
    grads = loss_of(config, rates=Rates(mtp=0.5)).grads
    for name in names:
        assert grads[name].abs().max() > 0, name


def _smooth(change):
    """Not averaged, not after training, and without a choice or a rounding that jumps."""
    config = but(**change)
    jumps = config.rho1_keep < 1 or config.probe == "adversarial" or config.corrupt_by == "model" or config.qat_bits
    return not jumps and not {*change} & {*LATE, "ema", "swa", "dtype", "quantize", "curriculum"}


@pytest.mark.parametrize("change", [change for change in INTERVENTIONS if _smooth(change)], ids=str)
def test_the_gradient_is_that_of_the_objective(change):
    """Against a difference quotient, in double precision, along the gradient of the matrices."""
    config = but(**change)
    params = {name: p.double() for name, p in some_params(config).items()}
    rope = tuple(table.double() for table in gpt.rotary(config, torch.device("cpu")))
    x, y = batch(config)
    rates = Rates(token_drop=config.token_drop, corrupt=config.corrupt, mtp=config.mtp_weight)
    drawn = {name: torch.from_numpy(draw) for name, draw in gpt_data.noise(config, 0, 0).items()}
    given = (config, rope, x, y, rates, gpt_loss.Noise(**drawn), None, torch.ones(32))
    live = {name: p.clone().requires_grad_() for name, p in params.items()}
    step = gpt_loss.loss_and_grads(live, *given)
    size = math.sqrt(sum(g.square().sum().item() for g in step.grads.values()))
    at = []
    for sign in (1, -1):
        moved = {name: p + sign * 1e-5 / size * step.grads[name] for name, p in params.items()}
        at.append(gpt_loss.objective(moved, *given)[0].item())
    assert (at[0] - at[1]) / 2e-5 == pytest.approx(size, rel=2e-3)


# --- What each one is --------------------------------------------------------------------------------------


def test_the_mlp_variants_take_as_many_parameters_as_the_standard_one():
    for width in (64, 512):
        for mlp in ("dml_gated", "dml_orth", "fan_dml", "causal_wide", "dml_causal_wide"):
            rows, columns = GptConfig(width=width, mlp=mlp).hidden
            assert (rows + columns) / (4 * width) == pytest.approx(1, abs=0.13 if width == 64 else 0.02), mlp


@pytest.mark.parametrize("mlp", ["dml_orth", "causal_wide", "dml_causal_wide"])
def test_the_orthogonal_variants_put_orthogonal_paths_into_the_projection(mlp, monkeypatch):
    config = but(mlp=mlp)
    seen = []
    real = gpt.linear
    columns = config.hidden[1]
    monkeypatch.setattr(
        gpt, "linear", lambda x, w: (seen.append(x) if w.shape == (32, columns) else None, real(x, w))[1]
    )
    params = some_params(config)
    gpt.trunk(params, config, gpt.rotary(config, torch.device("cpu")), batch(config)[0])
    a, b, c = seen[0].chunk(3, dim=-1)
    cosine = torch.nn.functional.cosine_similarity
    if mlp == "dml_orth":
        assert cosine(a, b, dim=-1).abs().max() < 1e-3
        assert cosine(a, c, dim=-1).abs().max() < 1e-3
    else:
        assert cosine(a, c, dim=-1).abs().quantile(0.99) < 1e-2
        assert cosine(b, c, dim=-1).abs().quantile(0.99) < 1e-2


def test_exclusive_attention_leaves_out_a_tokens_own_value():
    x, v = torch.randn(2, 5, 16, generator=torch.Generator().manual_seed(0)), torch.randn(2, 5, 16)
    assert (gpt.without(x, v) * v).sum(-1).abs().max() < 1e-4


def test_partial_rotary_turns_the_first_dimensions_alone():
    config = but(rope_fraction=0.5)
    cos, sin = gpt.rotary(config, torch.device("cpu"))
    assert cos.shape == (32, 1, 4)
    x = torch.randn(1, 32, 2, 8, generator=torch.Generator().manual_seed(0))
    turned = gpt.rotate(x, cos, sin)
    assert torch.equal(turned[..., 4:], x[..., 4:])
    assert not torch.allclose(turned[:, 1:, :, :4], x[:, 1:, :, :4])
    assert torch.allclose(turned.norm(dim=-1), x.norm(dim=-1), rtol=1e-5)


def test_looped_blocks_run_again_with_the_same_weights():
    config = but(depth=3, loop_first=1, loop_count=2, loops=2)
    assert config.order == (0, 1, 2, 1, 2)
    assert init_arrays(config, 0)["q"].shape[0] == 3


def test_the_smear_gate_and_the_bigram_table_see_one_token_back_and_none_ahead():
    for change in ({"smear_gate": True}, {"bigram_buckets": 64}, {"mlp": "dml_gated", "bt_lambda": 1.0}):
        config = but(**change)
        params, rope = some_params(config), gpt.rotary(config, torch.device("cpu"))
        tokens = batch(config)[0][:1]
        changed = tokens.clone()
        changed[0, 20] = (changed[0, 20] + 1) % 1024
        before, after = (gpt.trunk(params, config, rope, t)[0] for t in (tokens, changed))
        assert torch.equal(before[:20], after[:20])
        assert not torch.allclose(before[21], after[21], atol=1e-3)


def test_the_barlow_twins_term_has_a_gradient_and_training_lowers_it(trainer):
    plain = loss_of(but(mlp="dml_gated"))
    grads = loss_of(but(mlp="dml_gated", bt_lambda=1.0)).grads
    assert (grads["up"] - plain.grads["up"]).abs().max() > 1e-4

    a, b = torch.randn(400, 6, generator=torch.Generator().manual_seed(0)).chunk(2, dim=-1)
    assert gpt.decorrelation(a, a) > 1
    assert gpt.decorrelation(a, b) < 0.1
    assert gpt.decorrelation(a, -3 * a + 5) == pytest.approx(gpt.decorrelation(a, a).item(), rel=1e-4)


def test_rho_1_trains_on_its_share_and_reports_the_loss_of_all():
    config = but(rho1_keep=0.25, rho1_reference="none")
    params = some_params(config)
    plain, chosen = loss_of(SMALL, params), loss_of(config, params)
    assert chosen.loss.item() == pytest.approx(plain.loss.item(), rel=1e-6)  # it cannot win by its own loss
    assert chosen.objective > plain.objective  # the hardest quarter
    excess = torch.tensor([0.3, 2.0, -1.0, 1.0])
    assert gpt_loss.selected(excess, 0.5).tolist() == [0, 1, 0, 1]


def test_rho_1_measures_against_a_bigram_model_of_the_text(trainer):
    table = gpt_data.bigram_nats(np.array([1, 2, 1, 2, 1, 3] * 50), 4)
    assert np.exp(-table).sum(1) == pytest.approx(np.ones(4), rel=1e-5)
    assert table[1, 2] < table[1, 3] < table[1, 0]


def test_the_token_after_the_next_trains_the_trunk_and_only_where_the_next_is_clear():
    config = but(mtp_weight=0.5, mtp_margin=0.0)
    params = some_params(config)
    without = loss_of(config, params, rates=Rates(mtp=0.0))
    with_it = loss_of(config, params, rates=Rates(mtp=0.5))
    assert with_it.loss == without.loss
    assert with_it.objective > without.objective
    assert (with_it.grads["q"] - without.grads["q"]).abs().max() > 1e-6
    never = loss_of(but(mtp_weight=0.5, mtp_margin=1000.0), params, rates=Rates(mtp=0.5))
    assert never.objective == without.objective


def test_it_is_the_token_two_ahead_that_is_predicted():
    config = but(mtp_weight=1.0, mtp_margin=0.0, softcap=0.0)
    params = some_params(config)
    x = torch.randn(2 * 6, 32, generator=torch.Generator().manual_seed(0))
    y = torch.arange(12).view(2, 6)
    seen = {}

    def spy(x, embed, targets, weights, softcap):
        seen.update(targets=targets.view(2, 6), weights=weights.view(2, 6))
        return x.sum(), None

    real, gpt_loss.weighted_nats = gpt_loss.weighted_nats, spy
    try:
        gpt_loss.after_next(params, config, x, y)
    finally:
        gpt_loss.weighted_nats = real
    assert seen["targets"][:, :-1].tolist() == y[:, 1:].tolist()  # y is one ahead already
    assert seen["weights"][:, -1].tolist() == [0, 0]


@pytest.mark.parametrize("change", [{}, {"value_embed_last": 2}], ids=str)
def test_dropped_tokens_are_shown_as_nothing_and_are_not_trained_on(change):
    config = but(token_drop=0.5, **change)
    params, (x, y) = some_params(config), batch(SMALL)
    keep = torch.zeros(8, 32)
    keep[:, ::2] = 1  # noise above the rate is kept
    given = (config, gpt.rotary(config, torch.device("cpu")))
    rates, draws = Rates(token_drop=0.5), gpt_loss.Noise(drop=keep)
    other = torch.where(keep == 1, x, (x + 1) % 1024)  # what is dropped may be anything
    first = gpt_loss.objective(params, *given, x, y, rates, draws)[0]
    assert first == gpt_loss.objective(params, *given, other, y, rates, draws)[0]
    targets = torch.where(keep == 1, y, (y + 1) % 1024)
    assert first == gpt_loss.objective(params, *given, x, targets, rates, draws)[0]
    assert first != gpt_loss.objective(params, *given, x, (y + 1) % 1024, rates, draws)[0]


@pytest.mark.parametrize("by", ["uniform", "model"])
def test_a_corrupted_context_has_its_share_replaced_and_never_the_first_token(by):
    config = but(corrupt=0.3, corrupt_by=by)
    params, (x, _) = some_params(config), batch(SMALL)
    draws = {name: torch.from_numpy(draw) for name, draw in gpt_data.noise(config, 0, 0).items()}
    rope = gpt.rotary(config, torch.device("cpu"))
    shown = gpt_loss.corrupted(params, config, rope, x, Rates(corrupt=0.3), gpt_loss.Noise(**draws))
    assert (shown[:, 0] == x[:, 0]).all()
    assert 0.2 < (shown != x).float().mean() < 0.4
    if by == "model":
        said = gpt.logits(params, config, rope, x).argmax(-1)[:, :-1]
        changed = shown[:, 1:] != x[:, 1:]
        assert (shown[:, 1:][changed] == said[changed]).all()


def test_the_adversarial_probe_masks_what_hurts_more_than_chance():
    config = but(probe="adversarial", probe_base=0.1)
    params, (x, y) = some_params(config), batch(SMALL)
    rope = gpt.rotary(config, torch.device("cpu"))
    mask = gpt_loss.probe_mask(params, config, rope, x, y, gpt_loss.Noise(), None)
    assert (mask == 0).sum(1).tolist() == [3] * 8
    assert (mask[:, 0] == 1).all()

    def loss(shown):
        z = gpt.trunk(params, config, rope, x, shown).flatten(0, 1)
        return gpt.nats(z, params["embed"], y.flatten(), config.softcap).mean().item()

    rng = np.random.default_rng(0)
    at_random = []
    for _ in range(20):
        chance = torch.ones(8, 32)
        for row in chance:
            row[1 + rng.choice(31, 3, replace=False)] = 0
        at_random.append(loss(chance))
    assert loss(mask) > np.quantile(at_random, 0.9)


def test_the_adaptive_probe_masks_easy_positions_more():
    config = but(probe="adaptive", probe_base=0.0, probe_max=0.5)
    position = torch.ones(32)
    position[16:] = 0.1
    draws = gpt_loss.Noise(probe=torch.rand(8, 32, generator=torch.Generator().manual_seed(0)))
    x, y = batch(SMALL)
    rope = gpt.rotary(config, torch.device("cpu"))
    mask = gpt_loss.probe_mask(some_params(config), config, rope, x, y, draws, position)
    assert (mask[:, :16] == 1).all()
    assert 0.35 < (mask[:, 16:] == 0).float().mean() < 0.65


def test_late_positions_can_weigh_more_and_the_weights_have_a_mean_of_one():
    weights = gpt_loss.by_position(but(position_weight=0.5), 32, torch.ones(1))
    assert weights.mean().item() == pytest.approx(1)
    assert weights[0] == pytest.approx(0.5)
    assert weights[-1] == pytest.approx(1.5)


def test_a_curriculum_reorders_windows_and_loses_none(trainer):
    source = trainer.source
    reference = gpt_data.bigram_nats(source.sample(100_000), 1024)

    def windows(curriculum):
        config = but(curriculum=curriculum, curriculum_buffer=3)
        batches = gpt_data.stream(source, config, 0, reference)
        return np.concatenate([next(batches) for _ in range(6)])

    plain, easy, hard = windows("off"), windows("easy_first"), windows("hard_first")
    assert sorted(map(tuple, plain[:24])) == sorted(map(tuple, easy[:24])) == sorted(map(tuple, hard[:24]))
    score = reference[easy[:, :-1], easy[:, 1:]].mean(1)
    assert (np.diff(score[:24]) >= 0).all()
    assert (np.diff(score[24:]) >= 0).all()


# --- Schedules -----------------------------------------------------------------------------------------------


def test_schedules_reach_their_end_in_the_run_that_takes_place():
    config = but(steps=50, token_drop=0.2, token_drop_schedule="linear_decay", corrupt=0.2, corrupt_schedule="sine")
    at = [gpt_schedule.rates(config, step) for step in range(50)]
    assert at[0].token_drop == 0.2
    assert at[-1].token_drop == pytest.approx(0)
    assert [at[0].corrupt, at[-1].corrupt] == pytest.approx([0, 0], abs=1e-12)
    assert max(rate.corrupt for rate in at) == pytest.approx(0.2, rel=1e-2)


def test_schedules_end_with_the_clock_where_it_ends_the_run():
    config = but(steps=10_000, wallclock=100.0, warmdown_steps=20, token_drop=0.2, token_drop_schedule="linear_decay")
    assert gpt_schedule.lr_scale(config, 50, 50.0) == 1.0  # 1 s a step: the warm-down begins at 80 s
    assert gpt_schedule.lr_scale(config, 90, 90.0) == pytest.approx(0.5)
    assert gpt_schedule.lr_scale(config, 100, 100.0) == 0.0
    assert gpt_schedule.rates(config, 100, 100.0).token_drop == 0.0


def test_momentum_warms_up():
    config = but(momentum=0.95, momentum_start=0.85, momentum_warmup=10)
    assert [gpt_schedule.rates(config, step).momentum for step in (0, 5, 10, 90)] == pytest.approx(
        [0.85, 0.9, 0.95, 0.95]
    )


def test_late_quantization_begins_where_the_learning_rate_has_fallen():
    config = but(steps=100, warmdown=0.5, warmup_steps=5, qat_bits=6, qat_from=0.15)
    begins = gpt_schedule.fork_step(config)
    assert gpt_schedule.lr_scale(config, begins) <= 0.15 < gpt_schedule.lr_scale(config, begins - 1)
    assert all(gpt_schedule.qat_active(config, step) == (step >= begins) for step in range(100))
    assert gpt_schedule.fork_step(but(qat_bits=6)) == 0
    assert gpt_schedule.fork_step(SMALL) == SMALL.steps


def test_a_run_stops_by_the_clock_and_counts_its_steps(trainer):
    result = trainer.train(but(steps=100_000, wallclock=0.3, warmdown_steps=5), 0)
    assert result.status == "ok"
    assert 2 < result.steps < 5000
    assert result.val_bpb is not None


def test_a_wall_clock_shorter_than_one_step_is_no_result_and_says_so(trainer):
    result = trainer.train(but(steps=10, wallclock=1e-6), 0)
    assert result.status == "stopped"
    assert "wallclock 1e-06 s is shorter than one step" in result.reason
    assert result.val_bpb is None


# --- Optimiser -----------------------------------------------------------------------------------------------


def test_weight_decay_shrinks_matrices_and_nothing_else():
    config = but(muon_decay=0.5, matrix_lr=0.1)
    params = {"q": torch.ones(1, 4, 4), "embed": torch.ones(4, 4)}
    optimizer = gpt_optim.Optimizer(params, config)
    optimizer.step(params, {name: torch.zeros_like(p) for name, p in params.items()}, Rates(momentum=0.9))
    assert torch.allclose(params["q"], torch.full((1, 4, 4), 0.95))
    assert torch.equal(params["embed"], torch.ones(4, 4))


def test_a_gradient_is_clipped_to_its_norm_over_all_parameters_and_each_seed_by_itself():
    grads = {"q": torch.full((1, 3), 3.0), "embed": torch.full((1, 3), 4.0)}
    clipped = gpt_optim.clipped(grads, 1.0)
    assert math.sqrt(sum(g.square().sum() for g in clipped.values())) == pytest.approx(1, rel=1e-4)
    assert torch.equal(gpt_optim.clipped(grads, 100.0)["q"], grads["q"])
    two = {"q": torch.stack([grads["q"], 1e-3 * grads["q"]])}
    parted = gpt_optim.clipped(two, 1.0, seeds=2)["q"]
    assert parted[0].norm() == pytest.approx(1, rel=1e-4)
    assert torch.allclose(parted[1], two["q"][1])


def test_a_mean_of_constant_weights_is_the_weights_and_swa_takes_the_last_part():
    average = gpt_optim.Average(but(ema=0.997))
    for _ in range(50):
        average.update({"q": torch.ones(3)}, False)
    assert torch.allclose(average.weights({})["q"], torch.ones(3))
    config = but(steps=10, swa=0.3)
    assert [step for step in range(10) if gpt_schedule.averaged(config, step)] == [7, 8, 9]
    average = gpt_optim.Average(config)
    for step in range(10):
        average.update({"q": torch.full((1,), float(step))}, gpt_schedule.averaged(config, step))
    assert average.weights({})["q"].item() == pytest.approx(8)


def test_straight_through_quantization_rounds_forward_and_passes_the_gradient():
    p = torch.randn(3, 8, generator=torch.Generator().manual_seed(0), requires_grad=True)
    q = gpt_loss.straight_through(p, 6)
    scale = p.detach().abs().amax(-1, keepdim=True) / 31
    steps = q.detach() / scale
    assert torch.allclose(steps, steps.round(), atol=1e-4)
    assert (q - p).abs().max() <= scale.max() / 2 + 1e-6
    (q * 2).sum().backward()
    assert torch.equal(p.grad, torch.full_like(p, 2.0))


@pytest.mark.parametrize(
    "change", [{}, {"token_drop": 0.2}, {"position_weight": 0.5}, {"probe": "adaptive"}], ids=str
)
def test_micro_batches_give_the_gradient_of_the_whole(trainer, change):
    whole, parts = trainer.train(but(**change), 0), trainer.train(but(micro_tokens=64, **change), 0)
    assert parts.val_loss == pytest.approx(whole.val_loss, rel=1e-3 if "token_drop" in change else 1e-5)

"""The two backends are one model: from the same weights and batch, the same loss, gradient and steps.

Every field of `GptConfig` is either varied here or excluded below with the reason; a new field that is in
neither fails a test. Loss to 1e-5 relative, each parameter's gradient to 1e-4 of its norm, all in float32.
"""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch", reason="parity needs the extra experiment-ledger[torch]")
mx = pytest.importorskip("mlx.core", reason="parity needs the extra experiment-ledger[mlx]")

from runners import corpus, gpt, gpt_loss, gpt_mlx, gpt_mlx_train, gpt_optim, gpt_train  # noqa: E402
from runners.gpt_config import GptConfig  # noqa: E402
from runners.gpt_data import bigram_nats, needs_reference, noise  # noqa: E402
from runners.gpt_init import init_arrays  # noqa: E402
from runners.gpt_schedule import Rates  # noqa: E402

TINY = {"width": 32, "heads": 4, "kv_heads": 2, "seq_len": 16, "batch_tokens": 48, "vocab_size": 96}
VARIANTS = ("dml_gated", "dml_orth", "fan_dml", "causal_wide", "dml_causal_wide")

# What changes the loss of a batch or its gradient.
MODELS = [
    {},
    {"depth": 1},
    {"depth": 3},
    {"width": 48},
    {"heads": 2},
    {"kv_heads": 4},
    {"mlp_mult": 3},
    {"vocab_size": 64},
    {"seq_len": 8},
    {"batch_tokens": 32},
    *({"activation": name} for name in ("gelu", "silu", "sin", "sin2", "leaky_relu2", "fan")),
    *({"mlp": name, "bt_lambda": 0.1, "mlp_mult": 3} for name in VARIANTS),
    {"mlp": "dml_orth", "activation": "silu"},
    {"bt_layers": 0.1},
    {"softcap": 0.0},
    {"softcap": 5.0},
    {"rope_base": 100.0},
    {"rope_fraction": 0.5},
    {"rope_fraction": 0.0},
    {"qk_gain": 1.0},
    {"skips": "dense"},
    {"skips": "none"},
    {"xsa_last": 1},
    {"xsa_last": 2, "value_residual": True},
    {"value_residual": True, "depth": 3},
    {"parallel_last": 1},
    {"parallel_last": 2},
    {"loop_count": 2, "loops": 2},
    {"depth": 3, "loop_first": 1, "loop_count": 1, "loops": 3},
    {"bigram_buckets": 50},
    {"bigram_buckets": 50, "bigram_width": 8},
    {"bigram_buckets": 50, "bigram_zero": True},
    {"smear_gate": True},
    {"smear_gate": True, "smear_init": 0.0},
    {"value_embed_last": 1},
    {"value_embed_last": 3, "depth": 3, "value_embed_width": 8, "xsa_last": 2, "value_residual": True},
    {"value_embed_last": 2, "token_drop": 0.3},
    {"value_embed_last": 2, "loop_count": 1, "loops": 3},
    {"layer_scale": True, "depth": 3},
    {"layer_scale": True, "parallel_last": 1},
    {"init": "orthogonal"},
    {"rho1_keep": 0.6},
    {"rho1_keep": 0.6, "rho1_reference": "none"},
    {"mtp_weight": 0.5, "mtp_margin": 0.2},
    {"position_weight": 0.7},
    {"position_weight": -1.0},
    {"token_drop": 0.3},
    {"corrupt": 0.3},
    {"corrupt": 0.3, "corrupt_by": "model"},
    {"probe": "adaptive", "probe_base": 0.1, "probe_max": 0.5, "probe_threshold": 0.9},
    {"probe": "adversarial", "probe_base": 0.2},
    {"qat_bits": 6, "qat_from": 1.0},
    {"embed_init": 0.05},
    {  # many at once
        "activation": "silu",
        "mlp": "dml_orth",
        "bt_lambda": 0.1,
        "bt_layers": 0.1,
        "bigram_buckets": 50,
        "smear_gate": True,
        "value_residual": True,
        "xsa_last": 1,
        "parallel_last": 1,
        "value_embed_last": 1,
        "layer_scale": True,
        "rho1_keep": 0.7,
        "position_weight": 0.3,
        "mtp_weight": 0.5,
        "mtp_margin": 0.2,
        "token_drop": 0.2,
        "corrupt": 0.2,
        "probe": "adaptive",
        "qat_bits": 6,
        "qat_from": 1.0,
    },
]

# What changes the steps that are taken, or what follows them. Three steps, then the score.
RUNS = [
    {},
    {"matrix_lr": 0.02},
    {"embed_lr": 0.01},
    {"scalar_lr": 0.05},
    {"momentum": 0.95, "momentum_start": 0.5, "momentum_warmup": 2},
    {"muon_decay": 0.1},
    {"adam_decay": 2.0, "bigram_buckets": 50},
    {"projections": "adam", "bigram_buckets": 50, "value_embed_last": 1, "adam_decay": 0.5},
    {"newton_schulz": 3},
    {"beta1": 0.7},
    {"beta2": 0.8},
    {"grad_clip": 0.05},
    {"warmup_steps": 1},
    {"warmdown": 1.0},
    {"warmdown_steps": 2},
    {"wallclock": 1e6},
    {"micro_tokens": 16, "token_drop": 0.3},
    {"ema": 0.9},
    {"swa": 1.0, "swa_every": 2},
    {"qat_bits": 6, "qat_from": 0.7, "warmdown": 1.0},
    {"mtp_weight": 0.5, "mtp_margin": 0.01, "mtp_warmup": 1.0},
    {"token_drop": 0.3, "token_drop_schedule": "linear_decay"},
    {"corrupt": 0.5, "corrupt_schedule": "sine"},
    {"probe": "adaptive", "probe_ema": 0.5, "probe_base": 0.1, "probe_max": 0.6},
    {"curriculum": "easy_first", "curriculum_buffer": 2},
    {"curriculum": "hard_first", "curriculum_buffer": 0},
    {"val_every": 2, "val_tokens": 96},
    {"eval": "sliding", "eval_stride": 5},
    {"eval": "ttt", "eval_stride": 8, "ttt_chunk": 32, "ttt_epochs": 2, "ttt_lr": 0.1, "ttt_freeze": 1},
    {"quantize": "int8"},
    {"quantize": "int6_group", "quant_group": 8},
    {"quantize": "gptq", "calib_tokens": 320, "calib_seed": 1, "bigram_buckets": 50, "mtp_weight": 0.1},
    {"quantize": "gptq", "calib_tokens": 320, "calib_text": "own", "calib_temperature": 0.9, "gptq_damping": 0.02,
     "bigram_buckets": 50, "value_embed_last": 2, "smear_gate": True},
    {"quantize": "int6_clip", "quant_floor": 1.0, "quant_pack": "bytes"},
    {"quantize": "int6_group", "prune_to": 1},
]  # fmt: skip
EXCLUDED = {
    "devices": "torch alone has several; test_gpt_ranks.py: several give the figures of one",
    "steps": "three everywhere",
    "data": "where the text is; both read it through the same Source",
    "shards": "how much of it; the same",
    "backend": "which of the two",
    "device": "where",
    "attention": "torch's kernel",
    "compile": "test_gpt_mlx.py: the compiled step is the step",
    "dtype": "parity is of float32; in bfloat16 only that it trains (test_gpt_mlx.py)",
    "threads": "torch's",
    "keep_weights": "what is kept of a run, not what it is",
    "stack_seeds": "test_trainer.py and test_gpt_mlx_seeds.py: a batch is its seeds",
}


def a_config(changes):
    return GptConfig.from_dict(TINY | changes)


def names(changes):
    return ",".join(f"{name}={value}" for name, value in changes.items()) or "control"


class Case:
    """One batch of a config, as numpy: weights where every one matters, tokens, noise, and what else it needs."""

    def __init__(self, changes, seed=0):
        self.config = config = a_config(changes)
        draw = np.random.default_rng(seed)
        start = init_arrays(config, seed)
        self.params = {name: (p + draw.normal(0, 0.2, p.shape)).astype(np.float32) for name, p in start.items()}
        batch = draw.integers(0, config.vocab_size, (config.windows, config.seq_len + 1))
        self.tokens, self.targets = batch[:, :-1], batch[:, 1:]
        self.noise = noise(config, seed, 0)
        text = draw.integers(0, config.vocab_size, 5_000)
        self.reference = bigram_nats(text, config.vocab_size) if needs_reference(config) else None
        self.position = draw.uniform(3, 5, config.seq_len).astype(np.float32)
        self.rates = Rates(
            lr=0.5, momentum=0.9, token_drop=config.token_drop, corrupt=config.corrupt, mtp=config.mtp_weight
        )

    def with_torch(self):
        some = None if self.reference is None else torch.from_numpy(self.reference)
        return gpt_loss.loss_and_grads(
            {name: torch.from_numpy(p.copy()).requires_grad_() for name, p in self.params.items()},
            self.config,
            gpt.rotary(self.config, torch.device("cpu")),
            torch.from_numpy(self.tokens),
            torch.from_numpy(self.targets),
            self.rates,
            gpt_loss.Noise(**{name: torch.from_numpy(x) for name, x in self.noise.items()}),
            some,
            torch.from_numpy(self.position),
            bool(self.config.qat_bits),
        )

    def with_mlx(self):
        return gpt_mlx.loss_and_grads(
            {name: mx.array(p) for name, p in self.params.items()},
            self.config,
            gpt_mlx.rotary(self.config),
            mx.array(self.tokens.astype(np.int32)),
            mx.array(self.targets.astype(np.int32)),
            gpt_mlx.rates(self.config, self.rates, 0),
            gpt_mlx.Noise.of(self.noise),
            None if self.reference is None else mx.array(self.reference),
            mx.array(self.position),
            bool(self.config.qat_bits),
        )


@pytest.mark.parametrize("changes", MODELS, ids=names)
def test_loss_objective_and_gradients_are_the_same_in_both_backends(changes):
    case = Case(changes)
    ours, theirs = case.with_mlx(), case.with_torch()
    assert ours.loss.item() == pytest.approx(theirs.loss.item(), rel=1e-5)
    assert ours.objective.item() == pytest.approx(theirs.objective.item(), rel=1e-5)
    assert ours.grads.keys() == theirs.grads.keys()
    for name, grad in theirs.grads.items():
        grad, mine = grad.numpy(), np.array(ours.grads[name])
        assert mine.shape == grad.shape, name
        assert np.linalg.norm(mine - grad) <= 1e-4 * np.linalg.norm(grad), name


def test_every_field_is_compared_or_excluded_for_a_reason():
    varied = {name for changes in MODELS + RUNS for name in changes}
    assert varied | set(EXCLUDED) == set(GptConfig.__struct_fields__)
    assert not varied & set(EXCLUDED)


# --- Steps -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    from pydoc_data.topics import topics

    documents = {f"topic:{name}": topics[name].encode("ascii", "ignore").decode() for name in sorted(topics)[:40]}
    return corpus.build(documents, tmp_path_factory.mktemp("corpora") / "topics")


def three_steps(trainer, changes):
    """(every figure that was told, in order; the result)"""
    told = []
    small = {"steps": 3, "vocab_size": 1024, "val_tokens": 128, "device": "cpu"}
    config = a_config(small | changes)
    result = trainer.train(
        config, 5, on_log=lambda step, values: told.extend((step, *item) for item in values.items())
    )
    return told, result


@pytest.mark.parametrize("changes", RUNS, ids=names)
def test_three_steps_and_the_score_are_the_same_in_both_backends(text, changes):
    """To 1e-4: Muon divides by what is small, and so makes rounding larger step by step."""
    ours, mine = three_steps(gpt_mlx_train.Trainer(text), changes)
    theirs, other = three_steps(gpt_train.Trainer(text), changes)
    assert [(step, name) for step, name, _ in ours] == [(step, name) for step, name, _ in theirs]
    for (_, name, a), (_, _, b) in zip(ours, theirs, strict=True):
        if name != "artifact_bytes":  # the code that it counts is another
            small = 5e-4 if name.startswith("quant_gap") else 0.0  # a difference: as exact as what it is of
            small = 3 if name == "pruned_codes" else small
            assert a == pytest.approx(b, rel=1e-4, abs=small), name
    same = ("status", "reason", "val_name", "steps", "tokens", "parameters", "device")
    assert [getattr(mine, name) for name in same] == [getattr(other, name) for name in same]
    for name in ("val_bpb", "val_loss", "raw_bpb", "train_loss"):
        a, b = getattr(mine, name), getattr(other, name)
        assert (a is None) == (b is None), name
        assert a is None or a == pytest.approx(b, rel=1e-4), name


def test_each_of_these_runs_differs_from_the_control(text):
    """Else the test above would compare the control with itself."""
    trainer = gpt_train.Trainer(text)
    control = three_steps(trainer, {})[1].val_loss
    alike = [changes for changes in RUNS if three_steps(trainer, changes)[1].val_loss == control]
    assert alike == [{}, {"wallclock": 1e6}]


# --- Laws that both keep -----------------------------------------------------------------------------------


def singular_values(orthogonalize, array, g):
    return np.linalg.svd(np.array(orthogonalize(array(g))), compute_uv=False)


@pytest.mark.parametrize("backend", ["torch", "mlx"])
@given(rows=st.integers(1, 24), columns=st.integers(1, 24), seed=st.integers(0, 2**32 - 1), scale=st.floats(-6, 6))
@settings(max_examples=25, deadline=None)
def test_muons_newton_schulz_brings_singular_values_into_its_band(backend, rows, columns, seed, scale):
    """Quintic steps with (3.4445, -4.7750, 2.0315) bring what is above a thousandth of the norm to 0.6 to 1.25, and
    turn no direction: the step has the singular vectors of the gradient."""
    g = np.random.default_rng(seed).normal(size=(1, rows, columns)) * 10.0**scale
    g = g.astype(np.float32)
    if backend == "torch":
        step = gpt_optim.orthogonalize(torch.from_numpy(g)).numpy()[0]
    else:
        step = np.array(gpt_mlx.orthogonalize(mx.array(g)))[0]
    u, s, vt = np.linalg.svd(g[0].astype(np.float64), full_matrices=False)
    inside = u.T @ step @ vt.T
    found = np.diag(inside)
    large = s / np.linalg.norm(s) > 0.01
    assert np.all(found[large] > 0.6)
    assert np.all(found < 1.25)
    assert np.abs(inside - np.diag(found)).max() < 2e-2


@pytest.mark.parametrize("backend", ["torch", "mlx"])
@given(seed=st.integers(0, 2**32 - 1), fraction=st.sampled_from([0.25, 0.5, 1.0]), base=st.floats(2, 1e5))
@settings(max_examples=15, deadline=None)
def test_rotary_products_depend_on_the_distance_alone(backend, seed, fraction, base):
    config = GptConfig(
        width=32, heads=2, kv_heads=2, seq_len=24, rope_fraction=fraction, rope_base=base, batch_tokens=24
    )
    q, k = np.random.default_rng(seed).normal(size=(2, 16)).astype(np.float32)
    at = [np.broadcast_to(x, (1, 24, 1, 16)) for x in (q, k)]
    if backend == "torch":
        rope = gpt.rotary(config, torch.device("cpu"))
        q, k = (gpt.rotate(torch.from_numpy(x.copy()), *rope).numpy()[0, :, 0] for x in at)
    else:
        q, k = (np.array(gpt_mlx.rotate(mx.array(x), *gpt_mlx.rotary(config)))[0, :, 0] for x in at)
    products = q @ k.T
    for distance in range(-23, 24):
        diagonal = np.diagonal(products, distance)
        assert np.abs(diagonal - diagonal[0]).max() < 1e-4 * np.linalg.norm(q[0]) * np.linalg.norm(k[0])
    assert np.ptp(products) > 1e-3

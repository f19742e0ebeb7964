"""The two backends are one model: from the same weights and batch, the same loss, gradient and steps.

Every field of `GptConfig` is either varied here or excluded below with the reason; a new field that is in
neither fails a test. Loss to 1e-5 relative, each parameter's gradient to 1e-4 of its norm, all in float32.
"""

import math

import msgspec
import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="parity needs the extra experiment-ledger[torch]")
mx = pytest.importorskip("mlx.core", reason="parity needs the extra experiment-ledger[mlx]")

from runners import gpt, gpt_loss, gpt_mlx, gpt_optim  # noqa: E402
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
    {"smear_gate": True},
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

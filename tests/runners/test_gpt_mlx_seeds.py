"""The seeds of an arm in one batch, in MLX: with every field what each gives alone, and no seed touches another."""

import os
import subprocess
import sys

import msgspec
import numpy as np
import pytest

mx = pytest.importorskip("mlx.core", reason="this backend needs the extra experiment-ledger[mlx]")
pytest.importorskip("sentencepiece", reason="the trainer's tokenizer needs sentencepiece")

from ledger.chain import Log  # noqa: E402
from runners import corpus, gpt_mlx, gpt_mlx_memory, gpt_mlx_train  # noqa: E402
from runners.conduct import conduct  # noqa: E402
from runners.gpt_config import GptConfig  # noqa: E402
from runners.gpt_mlx_memory import peak_bytes  # noqa: E402
from runners.gpt_mlx_train import Trainer  # noqa: E402
from runners.gpt_schedule import Rates  # noqa: E402
from runners.plan import parse  # noqa: E402
from runners.trainer import GptRunner  # noqa: E402

SMALL = GptConfig(
    width=32, heads=4, kv_heads=2, seq_len=16, batch_tokens=64, steps=3, val_tokens=96, device="cpu", backend="mlx"
)
SEEDS = (3, 4)
TOLERANCE = 1e-4  # relative, after a run, as docs/trainers.md says

FIELDS = [
    *({"activation": name} for name in ("gelu", "silu", "sin", "sin2", "leaky_relu2", "fan")),
    *({"mlp": name, "bt_lambda": 0.1} for name in ("dml_gated", "dml_orth", "fan_dml")),
    *({"mlp": name, "bt_lambda": 0.1} for name in ("causal_wide", "dml_causal_wide")),
    {"bt_layers": 0.1},
    {"softcap": 0.0},
    {"width": 48},
    {"depth": 1},
    {"depth": 3, "loop_first": 1, "loop_count": 1, "loops": 3},
    {"heads": 2},
    {"kv_heads": 4},
    {"mlp_mult": 3},
    {"seq_len": 8},
    {"batch_tokens": 32},
    {"rope_base": 100.0, "rope_fraction": 0.5},
    {"qk_gain": 1.0},
    {"skips": "dense"},
    {"skips": "none"},
    {"xsa_last": 1, "value_residual": True},
    {"parallel_last": 1},
    {"value_embed_last": 1, "value_embed_width": 8, "projections": "adam"},
    {"layer_scale": True},
    {"init": "orthogonal"},
    {"bigram_buckets": 50, "bigram_width": 8, "bigram_zero": True},
    {"smear_gate": True, "smear_init": 0.5},
    {"rho1_keep": 0.6},
    {"rho1_keep": 0.6, "rho1_reference": "none"},
    {"mtp_weight": 0.5, "mtp_margin": 0.01, "mtp_warmup": 1.0},
    {"position_weight": 0.7},
    {"token_drop": 0.3, "token_drop_schedule": "linear_decay"},
    {"corrupt": 0.5, "corrupt_schedule": "sine"},
    {"corrupt": 0.3, "corrupt_by": "model"},
    {"probe": "adaptive", "probe_base": 0.1, "probe_max": 0.6, "probe_threshold": 0.9, "probe_ema": 0.5},
    {"probe": "adversarial", "probe_base": 0.2},
    {"curriculum": "hard_first", "curriculum_buffer": 2},
    {"micro_tokens": 16, "token_drop": 0.3, "probe": "adaptive"},
    {"matrix_lr": 0.02, "embed_lr": 0.01, "scalar_lr": 0.05, "warmup_steps": 1, "warmdown": 1.0},
    {"momentum": 0.95, "momentum_start": 0.5, "momentum_warmup": 2, "warmdown_steps": 2},
    {"muon_decay": 0.1, "adam_decay": 0.1, "newton_schulz": 3, "beta1": 0.7, "beta2": 0.8},
    {"grad_clip": 0.05},
    {"wallclock": 1e6},
    {"embed_init": 0.05},
    {"ema": 0.9},
    {"swa": 1.0, "swa_every": 2},
    {"qat_bits": 6, "qat_from": 0.7, "warmdown": 1.0},
    {"quantize": "int6_group", "quant_group": 8, "quant_pack": "bytes", "quant_floor": 0.01},
    {"quantize": "gptq", "calib_tokens": 320, "calib_seed": 1, "gptq_damping": 0.1},
    {"eval": "sliding", "eval_stride": 5},
    {"eval": "ttt", "eval_stride": 8, "ttt_chunk": 32, "ttt_epochs": 1, "ttt_lr": 0.1, "ttt_freeze": 1},
    {"val_every": 2, "val_tokens": 128},
]
EXCLUDED = {
    "steps": "three everywhere",
    "vocab_size": "the corpus's",
    "data": "where the text is",
    "shards": "how much of it",
    "backend": "this one",
    "device": "a CPU here",
    "devices": "torch's",
    "dtype": "below: bfloat16 has three digits",
    "compile": "below: once, as a CPU's compiler takes long",
    "attention": "torch's",
    "calib_text": "what a model writes turns on one rounding; each seed is quantized by itself, as above",
    "calib_temperature": "as the model writes",
    "prune_to": "of the codes that quantization made",
    "threads": "torch's",
    "keep_weights": "is for seeds that train singly",
    "stack_seeds": "this",
}


def but(**changes):
    return msgspec.structs.replace(SMALL, **changes)


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    from pydoc_data.topics import topics

    documents = {f"topic:{name}": topics[name].encode("ascii", "ignore").decode() for name in sorted(topics)[:40]}
    return corpus.build(documents, tmp_path_factory.mktemp("corpora") / "topics")


@pytest.fixture(scope="module")
def trainer(text):
    return Trainer(text)


def alone(trainer, config, seed):
    """(every figure that was told, the result)"""
    told = []
    result = trainer.train(
        config, seed, on_log=lambda step, values: told.extend((step, *item) for item in values.items())
    )
    return told, result


def together(trainer, config, seeds=SEEDS):
    told = [[] for _ in seeds]

    def on_log(index, step, values):
        told[index].extend((step, *item) for item in values.items())

    return list(zip(told, trainer.train_seeds(config, seeds, on_log=on_log), strict=True))


def names(changes):
    return ",".join(f"{name}={value}" for name, value in changes.items())


@pytest.mark.parametrize("changes", FIELDS, ids=names)
def test_a_batch_of_seeds_gives_what_each_gives_alone(trainer, changes):
    config = but(**changes)
    for seed, (told, result) in zip(SEEDS, together(trainer, config), strict=True):
        expected, single = alone(trainer, config, seed)
        assert [(step, name) for step, name, _ in told] == [(step, name) for step, name, _ in expected]
        for (_, name, mine), (_, _, theirs) in zip(told, expected, strict=True):
            small = 5e-4 if name.startswith("quant_gap") else 0.0  # a difference: as exact as what it is of
            assert mine == pytest.approx(theirs, rel=1e-3 if name == "artifact_bytes" else TOLERANCE, abs=small), name
        same = ("status", "reason", "val_name", "steps", "tokens", "parameters", "device")
        assert [getattr(result, name) for name in same] == [getattr(single, name) for name in same]
        assert result.val_bpb == pytest.approx(single.val_bpb, rel=TOLERANCE)


@pytest.mark.parametrize("changes", FIELDS, ids=names)
def test_a_batch_of_seeds_with_one_window_each_gives_what_each_gives_alone(trainer, changes):
    """Axes of length one are where MLX's rule for `|` went wrong."""
    few = {"batch_tokens": changes.get("seq_len", 16), "micro_tokens": 0, "steps": 1, "quantize": "none"}
    config = but(**changes | few | {"eval": "chunked"})
    _, (told, _) = together(trainer, config)
    expected, _ = alone(trainer, config, SEEDS[1])
    assert [value for *_, value in told] == pytest.approx([value for *_, value in expected], rel=1e-5)


def test_every_field_is_stacked_above_or_left_out_for_a_reason():
    varied = {name for changes in FIELDS for name in changes}
    assert set(GptConfig.__struct_fields__) - varied - set(EXCLUDED) == set()
    assert not varied & set(EXCLUDED)


def test_seeds_of_a_batch_are_other_runs_than_one_another(trainer):
    (first, _), (second, _) = together(trainer, but(token_drop=0.2))
    assert all(a != b for a, b in zip(first, second, strict=True))


def test_in_bfloat16_a_batch_is_its_seeds_to_that_numbers_digits(trainer):
    config = but(dtype="bfloat16")
    for seed, (_, result) in zip(SEEDS, together(trainer, config), strict=True):
        assert result.val_loss == pytest.approx(alone(trainer, config, seed)[1].val_loss, rel=0.01)


@pytest.mark.slow
def test_a_compiled_batch_is_the_batch(text):
    config = but(grad_clip=0.5, probe="adaptive", rho1_keep=0.6, ema=0.9)
    plain, compiled = (together(Trainer(text, compiled=compiled), config) for compiled in (False, True))
    for (_, a), (_, b) in zip(plain, compiled, strict=True):
        assert a.val_loss == pytest.approx(b.val_loss, rel=TOLERANCE)


def test_a_batch_goes_on_from_a_checkpoint_with_the_bits_of_one_that_did_not(trainer):
    kept, config = [], but(ema=0.9, probe="adaptive")
    whole = trainer.train_seeds(config, SEEDS, keep={2: kept.append})
    rest = trainer.train_seeds(config, SEEDS, start=kept[0])
    assert [r.val_loss for r in rest] == [r.val_loss for r in whole]


# --- A seed that ends --------------------------------------------------------------------------------------


def test_a_seed_that_diverges_leaves_the_others_as_they_are(trainer, monkeypatch):
    fresh = gpt_mlx.init_params

    def broken(config, seed):
        params = fresh(config, seed)
        return params | {"embed": params["embed"] * float("nan")} if seed == 4 else params

    monkeypatch.setattr(gpt_mlx_train, "init_params", broken)
    told = []
    config = but(grad_clip=0.5, val_every=1)
    good, bad = trainer.train_seeds(config, SEEDS, on_log=lambda *point: told.append(point))
    assert (good.status, bad.status) == ("ok", "diverged")
    assert (bad.val_bpb, bad.train_loss, bad.steps, bad.tokens) == (None, None, 0, 0)
    assert bad.reason == "train loss nan at step 0"
    assert good.val_loss == pytest.approx(trainer.train(config, 3).val_loss, rel=TOLERANCE)
    assert {index for index, *_ in told} == {0}


def test_a_batch_whose_seeds_have_all_diverged_ends(trainer):
    results = trainer.train_seeds(but(steps=1000, embed_lr=1e30), SEEDS)
    assert [r.status for r in results] == ["diverged", "diverged"]
    assert all(r.steps < 100 for r in results)


def test_a_batch_that_is_told_to_stop_stops_all_its_seeds(trainer):
    asked = []
    results = trainer.train_seeds(SMALL, SEEDS, should_stop=lambda: asked.append(1) or "timeout" * (len(asked) > 2))
    assert [(r.status, r.reason, r.steps, r.val_bpb) for r in results] == [("stopped", "timeout", 2, None)] * 2


# --- Memory ------------------------------------------------------------------------------------------------

PLAN = """
name = "seeds"
metric = "val_bpb_subset"
delta = 0.01
seeds = "0-1"
[trainer]
backend = "mlx"
device = "cpu"
width = 32
seq_len = 16
batch_tokens = 64
steps = 3
val_tokens = 128
stack_seeds = true
[[arm]]
name = "plain"
[[arm]]
name = "other"
"""


def statuses(plan_text, text, tmp_path, monkeypatch):
    """((arm, seed, status) of every run, their reasons)"""
    monkeypatch.setattr("runners.trainer.open_text", lambda *_: text)
    log = Log.create(str(tmp_path / "ledger"))
    plan = parse(plan_text, "plan.toml")
    conduct(log, plan, GptRunner(plan, log), lambda _: None)
    ends = {event.data.run: event.data for event in log.events(types=("run.finished",))}
    runs = [event.data for event in log.events(types=("run.started",))]
    return [(run.arm, run.seed, ends[run.run].status) for run in runs], [ends[run.run].reason for run in runs]


def test_an_arm_that_cannot_fit_is_an_outcome_and_the_others_go_on(text, tmp_path, monkeypatch):
    found, reasons = statuses(PLAN + "set = { width = 262144 }\n", text, tmp_path, monkeypatch)
    assert found == [("plain", 0, "ok"), ("plain", 1, "ok"), ("other", 0, "oom"), ("other", 1, "oom")]
    assert reasons[2].startswith("MemoryError: weights and momenta would take about")


def test_a_batch_that_does_not_fit_where_its_seeds_do_is_trained_singly(text, tmp_path, monkeypatch):
    """Room for one and a half times what the step of one seed takes."""
    asked = []
    check = gpt_mlx_memory._check

    def noted(needed, what, seeds, device):
        asked.append((what, seeds, needed))
        check(needed, what, seeds, device)

    monkeypatch.setattr(gpt_mlx_memory, "_check", noted)
    config = but(steps=3, val_tokens=128)
    Trainer(text).train(config, 0)
    (need,) = (needed for what, _, needed in asked if what == "a step")
    asked.clear()
    monkeypatch.setattr(gpt_mlx_memory, "room", lambda _: 3 * need // 2)
    found, _ = statuses(PLAN + "set = { activation = 'gelu' }\n", text, tmp_path, monkeypatch)
    assert [status for *_, status in found] == ["ok"] * 4
    assert [seeds for what, seeds, _ in asked if what == "a step"] == [2, 1, 1] * 2


@pytest.mark.parametrize(
    "changes", [{}, {"depth": 4, "seq_len": 64, "batch_tokens": 512}, {"mlp": "dml_orth"}], ids=str
)
@pytest.mark.parametrize("seeds", [1, 3])
def test_the_walk_of_a_graph_comes_near_what_it_takes(changes, seeds):
    config = GptConfig.from_dict({"batch_tokens": 512, **changes})
    params = gpt_mlx.init_params(config, 0)
    rope, rates = gpt_mlx.rotary(config), gpt_mlx.rates(config, Rates(), 0)
    x = mx.zeros((config.windows, config.seq_len), dtype=mx.int32)

    def gradient(params, x, y):
        return tuple(gpt_mlx.loss_and_grads(params, config, rope, x, y, rates))

    if seeds > 1:
        gradient = mx.vmap(gradient)
        params, x = {name: mx.stack([p] * seeds) for name, p in params.items()}, mx.stack([x] * seeds)
    mx.eval(params, x, rope, rates)
    told = peak_bytes(gradient, params, x, x)
    before = mx.get_active_memory()
    mx.reset_peak_memory()
    mx.eval(gradient(params, x, x))
    assert told == pytest.approx(mx.get_peak_memory() - before, rel=0.5)


def test_a_graph_that_cannot_be_read_forbids_nothing():
    def unread(x):
        raise ValueError("no")

    assert peak_bytes(unread, mx.zeros(3)) == 0


@pytest.mark.skipif(sys.platform != "linux", reason="/proc and address space limits")
def test_a_limit_on_the_process_is_seen():
    code = (
        "import resource, mlx.core as mx\n"
        "from runners.gpt_mlx_memory import room\n"
        "free = room(mx.Device(mx.cpu))\n"
        "size = int(open('/proc/self/statm').read().split()[0]) * resource.getpagesize()\n"
        "resource.setrlimit(resource.RLIMIT_AS, (size + 10**8, resource.RLIM_INFINITY))\n"
        "assert room(mx.Device(mx.cpu)) <= 10**8 < free\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, check=False
    )
    assert done.returncode == 0, done.stderr[-500:]


def test_arrays_that_nobody_reads_any_more_are_not_counted():
    def chain(x):
        for _ in range(50):
            x = mx.cos(x)
        return x

    assert peak_bytes(chain, mx.zeros(1000)) == 2 * 4000  # one that is read and one that is made
    assert peak_bytes(lambda x: [mx.cos(x + i) for i in range(50)], mx.zeros(1000)) >= 50 * 4000
    assert np.isfinite(peak_bytes(lambda x: x.reshape(10, 100).T, mx.zeros(1000)))

"""The built-in trainer in MLX, beyond parity: the same bits again, nothing frozen by compiling, runs cut short."""

import inspect
import math
import re
import subprocess
import sys

import msgspec
import numpy as np
import pytest

mx = pytest.importorskip("mlx.core", reason="this backend needs the extra experiment-ledger[mlx]")
pytest.importorskip("sentencepiece", reason="the trainer's tokenizer needs sentencepiece")

from ledger.chain import Log  # noqa: E402
from runners import corpus, gpt_mlx, gpt_mlx_steps  # noqa: E402
from runners.conduct import conduct  # noqa: E402
from runners.gpt_config import GptConfig  # noqa: E402
from runners.gpt_mlx_train import Trainer  # noqa: E402
from runners.gpt_result import GptResult  # noqa: E402
from runners.plan import parse  # noqa: E402
from runners.trainer import GptRunner  # noqa: E402

SMALL = GptConfig(
    width=32, heads=4, kv_heads=2, seq_len=16, batch_tokens=64, steps=4, val_tokens=128, device="cpu", backend="mlx"
)


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


def curve(trainer, config, seed=7, **more):
    """Every figure of a run that is a matter of numbers, not of time."""
    points = []
    result = trainer.train(config, seed, on_log=lambda step, values: points.append((step, values)), **more)
    return points, result.val_bpb, result.val_loss, result.train_loss


# --- The same again ----------------------------------------------------------------------------------------


def test_the_same_config_and_seed_give_the_same_bits_with_other_arms_in_between(trainer, text):
    first = curve(trainer, SMALL)
    curve(trainer, but(depth=1, activation="gelu"))
    mx.random.seed(99)
    assert curve(trainer, SMALL) == first
    assert curve(Trainer(text), SMALL) == first
    assert curve(trainer, SMALL, 8) != first


def test_training_leaves_global_random_state_alone(trainer):
    ours, numpys = [np.array(x).tolist() for x in mx.random.state], np.random.get_state()[1].tolist()
    trainer.train(but(token_drop=0.2, corrupt=0.2, probe="adaptive"), 0)
    assert [np.array(x).tolist() for x in mx.random.state] == ours
    assert np.random.get_state()[1].tolist() == numpys


@pytest.mark.parametrize(
    "changes", [{}, {"ema": 0.9, "probe": "adaptive", "token_drop": 0.2}, {"curriculum": "easy_first"}], ids=str
)
def test_a_run_that_went_through_a_checkpoint_has_the_bits_of_one_that_did_not(trainer, changes):
    kept = []
    whole = curve(trainer, but(**changes), keep={2: kept.append})
    rest = curve(trainer, but(**changes), start=kept[0])
    assert rest[0] == [point for point in whole[0] if point[0] > 2]
    assert rest[1:] == whole[1:]
    assert all(isinstance(x, np.ndarray) for x in kept[0].values())


def test_several_seeds_are_as_one_at_a_time(trainer):
    told = []
    results = trainer.train_seeds(SMALL, [3, 4], on_log=lambda index, step, values: told.append((index, step)))
    assert [r.val_bpb for r in results] == [trainer.train(SMALL, seed).val_bpb for seed in (3, 4)]
    assert {index for index, _ in told} == {0, 1}


def test_late_arms_continue_one_checkpoint_and_give_the_bits_of_whole_runs(trainer, text, tmp_path, monkeypatch):
    monkeypatch.setattr("runners.trainer.open_text", lambda *_: text)
    log = Log.create(str(tmp_path / "ledger"))
    plan = parse(
        """
        name = "late"
        metric = "val_bpb_subset"
        delta = 0.01
        seeds = "0-1"
        pair_tier = "fork"
        [trainer]
        backend = "mlx"
        device = "cpu"
        width = 32
        seq_len = 16
        batch_tokens = 64
        steps = 6
        val_tokens = 128
        [[arm]]
        name = "plain"
        [[arm]]
        name = "int8"
        set = { quantize = "int8" }
        [[arm]]
        name = "late"
        set = { qat_bits = 4, qat_from = 0.5 }
        """,
        "plan.toml",
    )
    steps = []
    conduct(log, plan, GptRunner(plan, log), lambda update: steps.append(update.name == "train_loss"))
    started = {event.data.run: event.data for event in log.events(types=("run.started",))}
    finished = [event.data for event in log.events(types=("run.finished",))]
    assert [one.status for one in finished] == ["ok"] * 6
    for one in finished:
        start = started[one.run]
        config = GptConfig.from_record({item.name: item.value for item in start.config})
        assert one.value == trainer.train(config, start.seed).val_bpb, start.arm
    assert sum(start.fork_of is None for start in started.values()) == 2  # one a seed began at the start
    assert sum(steps) < 2 * (6 + 6)


# --- What is compiled --------------------------------------------------------------------------------------


MOVING = but(
    momentum=0.95,
    momentum_start=0.3,
    momentum_warmup=3,
    warmdown=1.0,
    token_drop=0.5,
    token_drop_schedule="linear_decay",
    corrupt=0.5,
    corrupt_schedule="sine",
    probe="adaptive",
    mtp_weight=1.0,
    mtp_margin=0.0,
    mtp_warmup=1.0,
    qat_bits=6,
    qat_from=0.5,
)


def traced(folder):
    """What mx.compile does to a function without what it does to its kernels, which takes a CPU's compiler long:
    Python runs once, and from then on the graph that it left is evaluated."""
    from mlx.utils import tree_flatten, tree_map, tree_unflatten

    made = []

    def trace(function):
        known = {}

        def call(*given):
            flat = dict(tree_flatten(given))
            if (names := tuple(flat)) not in known:
                found = []

                def on_arrays(*arrays):
                    each = iter(arrays)
                    out = tree_flatten(function(*tree_map(lambda _: next(each), given)))
                    found.extend(name for name, _ in out)
                    return [x for _, x in out]

                path = str(folder / f"{len(made)}.mlxfn")
                made.append(path)

                mx.export_function(path, on_arrays, *flat.values())
                known[names] = mx.import_function(path), found
            graph, paths = known[names]
            return tree_unflatten(list(zip(paths, graph(*flat.values()), strict=True)))

        return call

    return trace, made


def test_a_run_of_frozen_graphs_follows_every_schedule(text, tmp_path, monkeypatch):
    """The first pipeline counted steps inside a compiled function, and its counter stood at zero for ever."""
    trace, made = traced(tmp_path)
    monkeypatch.setattr(mx, "compile", trace)
    frozen = Trainer(text, compiled=True)
    ours, theirs = curve(frozen, MOVING), curve(Trainer(text, compiled=False), MOVING)
    for (_, a), (_, b) in zip(ours[0], theirs[0], strict=True):
        assert a == pytest.approx(b, rel=1e-6)
    assert ours[1] == pytest.approx(theirs[1], rel=1e-6)
    assert len(made) == 3  # the gradient before and after quantization begins, and the step
    curve(frozen, msgspec.structs.replace(MOVING, matrix_lr=0.01), 8)
    assert len(made) == 3  # another seed, another rate: the same graphs


@pytest.mark.slow
def test_a_compiled_run_is_the_run(text):
    ours, theirs = curve(Trainer(text, compiled=True), MOVING), curve(Trainer(text, compiled=False), MOVING)
    for (_, a), (_, b) in zip(ours[0], theirs[0], strict=True):
        assert a == pytest.approx(b, rel=1e-5)


def test_what_a_step_computes_is_in_the_key_and_what_is_passed_in_is_not(trainer):
    def function(config, **more):
        return trainer.function("gradient", config, mx.Device(mx.cpu), **more)

    plain = function(SMALL)
    for name in ("steps", "matrix_lr", "momentum", "warmdown", "val_tokens"):
        assert function(but(**{name: getattr(SMALL, name) * 0.5 if name != "steps" else 9})) is plain
    for changes in ({"activation": "gelu"}, {"softcap": 20.0}, {"rho1_keep": 0.5}, {"position_weight": 0.5}):
        assert function(but(**changes)) is not plain
    for changes in ({"quantize": "int6"}, {"eval_stride": 8}, {"curriculum": "easy_first"}, {"grad_clip": 1.0}):
        assert function(but(**changes)) is plain
    assert function(but(qat_bits=6), qat=True) is not function(but(qat_bits=6), qat=False)
    assert function(SMALL, many=True) is not plain

    def step(config):
        return trainer.function("step", config, mx.Device(mx.cpu))

    for changes in ({"quantize": "int6"}, {"activation": "gelu"}, {"width": 64}):
        assert step(but(**changes)) is step(SMALL)
    for changes in ({"grad_clip": 1.0}, {"beta2": 0.9}, {"muon_decay": 0.1}, {"newton_schulz": 2}):
        assert step(but(**changes)) is not step(SMALL)


def test_a_field_left_out_of_the_key_is_read_by_nothing_that_is_compiled():
    """gpt_mlx.py names no field that the gradient's key leaves out, but in `rates`, which makes arrays of them, and
    in `update`, which is the step; and that one reads what is in its own key, and hands its config to nobody."""
    source, step = (inspect.getsource(part) for part in (gpt_mlx, gpt_mlx.update))
    gradient = source.replace(inspect.getsource(gpt_mlx.rates), "").replace(step, "")
    left_out = gpt_mlx_steps.NOT_COMPILED | gpt_mlx_steps.STEP_ONLY
    assert {name for name in left_out if re.search(rf"config\.{name}\b", gradient)} == set()
    assert set(re.findall(r"config\.(\w+)", step)) == gpt_mlx_steps.STEP_ONLY
    assert not re.search(r"\bconfig[,)]", step.partition(":\n")[2])
    assert set(GptConfig.__struct_fields__) >= left_out
    assert ".item()" not in source


# --- Runs that end -----------------------------------------------------------------------------------------


def test_a_run_that_is_told_to_stop_stops_with_the_reason_and_no_result(trainer):
    asked = []

    def should_stop():
        asked.append(1)
        return "timeout" if len(asked) > 2 else ""

    result = trainer.train(SMALL, 0, should_stop=should_stop)
    assert (result.status, result.reason, result.steps) == ("stopped", "timeout", 2)
    assert (result.val_bpb, result.val_loss) == (None, None)
    assert result.train_loss is not None


@pytest.mark.parametrize("changes", [{"matrix_lr": 1e18}, {"embed_lr": 1e30}], ids=str)
def test_an_absurd_learning_rate_is_a_divergence_and_not_a_figure(trainer, changes):
    result = trainer.train(but(steps=40, **changes), 0)
    assert result.status == "diverged"
    assert "loss" in result.reason
    assert result.steps < 40
    assert (result.val_bpb, result.val_loss) == (None, None)
    assert result.train_loss is None or math.isfinite(result.train_loss)


def test_a_wall_clock_shorter_than_a_step_is_told(trainer):
    result = trainer.train(but(wallclock=1e-9), 0)
    assert result.status == "stopped"
    assert result.reason.startswith("wallclock 1e-09 s is shorter than one step")


def test_a_wall_clock_ends_a_run_with_a_result(trainer):
    took = trainer.train(SMALL, 0).step_ms / 1000
    result = trainer.train(but(wallclock=4 * took, steps=1000), 0)
    assert result.status == "ok"
    assert 1 < result.steps < 1000
    assert result.val_bpb is not None


@pytest.mark.parametrize(
    ("message", "kind"),
    [
        (
            "[METAL] Command buffer execution failed: Insufficient Memory "
            "(00000008:kIOGPUCommandBufferCallbackErrorOutOfMemory)",
            MemoryError,
        ),
        ("[malloc_or_wait] Unable to allocate 68719476736 bytes.", MemoryError),
        ("[matmul] Last dimension of first input does not match", RuntimeError),
    ],
)
def test_a_lack_of_memory_is_told_from_other_errors(text, monkeypatch, message, kind):
    def fails(*_):
        raise RuntimeError(message)

    trainer = Trainer(text)
    monkeypatch.setattr(trainer, "function", lambda *_: fails)
    with pytest.raises(kind, match=re.escape(message)):
        trainer.train(SMALL, 0)


def test_it_trains_in_bfloat16_too(trainer):
    half, whole = trainer.train(but(dtype="bfloat16"), 0), trainer.train(SMALL, 0)
    assert half.status == "ok"
    assert half.val_loss != whole.val_loss
    assert half.val_loss == pytest.approx(whole.val_loss, rel=0.01)


def test_training_learns(trainer):
    points, val_bpb, *_ = curve(trainer, but(steps=40, batch_tokens=128, val_every=20), 0)
    vals = [values[name] for _, values in points for name in values if name.startswith("val_bpb")]
    assert vals == sorted(vals, reverse=True)
    assert val_bpb == vals[-1] < 3.6


def test_a_result_says_what_the_run_cost(trainer):
    result = trainer.train(SMALL, 0)
    assert isinstance(result, GptResult)
    assert (result.steps, result.tokens, result.device) == (4, 256, "cpu")
    assert result.wall_s > 4 * result.step_ms / 1000 / 2 > 0
    assert result.tokens_per_s > 0
    assert result.peak_memory_bytes > 10_000_000


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"vocab_size": 2048}, "vocab_size is larger than the tokenizer's 1024, found 2048"),
        ({"batch_tokens": 2**30}, "batch_tokens must be at most"),
        ({"device": "tpu"}, "device must be auto or one that is here"),
    ],
    ids=str,
)
def test_a_config_that_does_not_fit_the_text_or_the_machine_is_refused(trainer, changes, message):
    with pytest.raises(ValueError, match=message):
        trainer.train(but(**changes), 0)


def test_it_needs_no_torch():
    code = "import sys, runners.gpt_mlx_train; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0

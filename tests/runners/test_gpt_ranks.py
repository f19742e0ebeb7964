"""One run on several devices: what it trains on, what comes out, and what becomes of it when a process fails."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch", reason="the trainer needs the extra experiment-ledger[torch]")
pytest.importorskip("sentencepiece", reason="the trainer needs the extra experiment-ledger[torch]")

from ledger.chain import Log  # noqa: E402
from ledger.errors import UsageError  # noqa: E402
from runners import corpus, gpt_group, gpt_ranks  # noqa: E402
from runners.alone import once  # noqa: E402
from runners.conduct import conduct  # noqa: E402
from runners.gpt_config import GptConfig, fast  # noqa: E402
from runners.gpt_data import CorpusSource, bigram_nats, stream  # noqa: E402
from runners.gpt_group import GroupTrainer  # noqa: E402
from runners.gpt_train import Trainer  # noqa: E402
from runners.plan import parse  # noqa: E402
from runners.shards import batches  # noqa: E402
from runners.trainer import GptRunner  # noqa: E402

ROOT = Path(__file__).resolve().parents[2]
ONE = GptConfig(
    width=32, seq_len=32, batch_tokens=256, micro_tokens=64, steps=6, val_tokens=640, device="cpu", threads=1,
    eval_stride=16, ttt_chunk=128, calib_tokens=512,
)  # fmt: skip


def but(**changes):
    return msgspec.structs.replace(ONE, **changes)


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    from pydoc_data.topics import topics

    documents = {f"topic:{name}": topics[name].encode("ascii", "ignore").decode() for name in sorted(topics)}
    return corpus.build(documents, tmp_path_factory.mktemp("corpora") / "topics")


@pytest.fixture(scope="module")
def pair(text):
    """Two devices, for all tests that leave them alive."""
    trainer = GroupTrainer(text, "cpu", 2)
    yield trainer
    trainer.close()


def pids(trainer):
    return [rank.process.pid for rank in trainer._group.ranks]


def alive(pid):
    """Whether the process runs; one that is only not reaped does not."""
    try:
        return "\nState:\tZ" not in open(f"/proc/{pid}/status").read()
    except FileNotFoundError:
        return False


def curve(trainer, config, seed=3, **more):
    """(losses by step, weights, result)"""
    losses, weights = {}, {}

    def on_log(step, values):
        if "train_loss" in values:
            losses[step] = values["train_loss"]

    result = trainer.train(
        config, seed, on_log=on_log, on_weights=lambda _, step, arrays: weights.update(arrays), **more
    )
    return losses, weights, result


# --- The same data, whatever the number of devices ---------------------------------------------------------------


@settings(max_examples=25, deadline=None)
@given(
    lengths=st.lists(st.integers(40, 400), min_size=1, max_size=3),
    share=st.integers(1, 3),
    devices=st.integers(1, 4),
    seed=st.integers(0, 2**32),
)
def test_the_parts_of_all_ranks_are_the_batch_of_one_device(lengths, share, devices, seed):
    size, seq = share * devices, 3
    shards = [np.arange(length, dtype=np.uint16) + 1000 * i for i, length in enumerate(lengths)]
    whole = batches(shards, seq, size, seed)
    ranks = []
    for rank in range(devices):
        one = gpt_ranks.Ranks()
        one.rank, one.size = rank, devices
        ranks.append(batches(shards, seq, size, seed, one.part(size)))
    for _ in range(len(lengths) * 40 // size + 3):  # beyond an epoch
        assert np.array_equal(np.concatenate([next(rank) for rank in ranks]), next(whole))


@pytest.mark.parametrize("curriculum", ["off", "easy_first"])
def test_a_curriculum_is_that_of_the_whole_batch(text, curriculum):
    source, config = CorpusSource(text), but(curriculum=curriculum, curriculum_buffer=2)
    reference = bigram_nats(source.sample(10_000), source.vocab_size)
    whole = stream(source, config, 5, reference)
    halves = [stream(source, config, 5, reference, part) for part in (slice(0, 4), slice(4, 8))]
    for _ in range(5):
        assert np.array_equal(np.concatenate([next(half) for half in halves]), next(whole))


# --- The same figures, to rounding -------------------------------------------------------------------------------

ARMS = [
    {},
    {"micro_tokens": 128, "ema": 0.9, "grad_clip": 0.1, "val_every": 3},
    {"rho1_keep": 0.5, "token_drop": 0.2, "corrupt": 0.2, "curriculum": "hard_first"},
    {"mtp_weight": 0.5, "mtp_margin": 0.0, "probe": "adaptive", "corrupt": 0.2, "corrupt_by": "model"},
    {"mlp": "dml_gated", "bt_lambda": 0.1, "bt_layers": 0.1, "probe": "adversarial", "position_weight": 0.5},
    {"quantize": "gptq", "qat_bits": 6, "qat_from": 0.5, "eval": "sliding"},
    {"eval": "ttt", "quantize": "int8", "swa": 0.5},
]


@pytest.mark.parametrize("change", ARMS, ids=str)
def test_two_devices_give_the_figures_of_one_with_passes_of_the_same_size(text, pair, change):
    losses, weights, result = curve(Trainer(text), but(**change))
    losses2, weights2, result2 = curve(pair, but(**change, devices=2))
    assert losses2.keys() == losses.keys()
    for step, loss in losses.items():
        assert losses2[step] == pytest.approx(loss, rel=1e-5)
    for name, array in weights.items():
        assert np.abs(weights2[name] - array).max() < 2e-4, name
    assert result2.val_bpb == pytest.approx(result.val_bpb, rel=1e-5)
    assert (result2.steps, result2.tokens, result2.status) == (result.steps, result.tokens, "ok")
    assert (result2.artifact_bytes or 0) == pytest.approx(result.artifact_bytes or 0, rel=1e-3)
    assert result2.cpu_s > 0


def test_held_out_text_is_scored_to_the_bit_as_on_one_device(text, pair):
    """The same weights: each window once, in the same company."""
    _, weights, _ = curve(Trainer(text), ONE)
    for how in ({}, {"eval": "sliding"}, {"eval": "sliding", "quantize": "gptq"}):
        one = Trainer(text).late(but(**how), 3, weights, 6)
        two = pair.late(but(**how, devices=2), 3, weights, 6)
        assert (two.val_loss, two.raw_bpb, two.artifact_bytes) == (one.val_loss, one.raw_bpb, one.artifact_bytes)
    one = Trainer(text).late(but(eval="ttt", quantize="int8"), 3, weights, 6)
    assert one.val_loss == Trainer(text).train(but(eval="ttt", quantize="int8"), 3).val_loss
    two = pair.late(but(eval="ttt", quantize="int8", devices=2), 3, weights, 6)
    assert two.val_loss == pytest.approx(one.val_loss, rel=1e-6)


def test_without_micro_batches_a_pass_is_a_devices_share(text, pair):
    halves = curve(Trainer(text), but(micro_tokens=128, rho1_keep=0.5))[0]
    assert curve(pair, but(micro_tokens=0, rho1_keep=0.5, devices=2))[0] == pytest.approx(halves, rel=1e-5)


def test_the_same_run_gives_the_same_bits_again_also_through_a_checkpoint(pair):
    states = {}
    keep = {step: lambda state, step=step: states.update({step: state}) for step in (4, 6)}
    config = but(devices=2, ema=0.9, probe="adaptive")
    losses, weights, result = curve(pair, config, keep=keep)
    assert sorted(states) == [4, 6]
    again = curve(pair, config, start=states[4])
    assert again[0] == {step: losses[step] for step in (5, 6)}
    assert again[2].val_bpb == result.val_bpb
    assert all(np.array_equal(again[1][name], array) for name, array in weights.items())


# --- The end of a run is everybody's -------------------------------------------------------------------------------


def test_the_clock_a_wish_to_stop_and_a_divergence_end_a_run_on_all_ranks_and_the_next_one_runs(pair):
    before = pids(pair) if pair._group else None
    first = curve(pair, but(devices=2))
    by_clock = curve(pair, but(devices=2, steps=100_000, wallclock=0.3, qat_bits=6, qat_from=0.5))[2]
    assert by_clock.status == "ok"
    assert 1 < by_clock.steps < 100_000
    short = curve(pair, but(devices=2, wallclock=1e-6))[2]
    assert (short.status, short.steps) == ("stopped", 1)
    assert "is shorter than one step" in short.reason
    seen = []
    told = pair.train(
        but(devices=2, steps=100_000),
        0,
        on_log=lambda step, _: seen.append(step),
        should_stop=lambda: "enough" if len(seen) > 5 else None,
    )
    assert (told.status, told.reason) == ("stopped", "enough")
    assert told.val_bpb is None
    wild = curve(pair, but(devices=2, matrix_lr=1e18, steps=10))[2]
    assert wild.status == "diverged"
    assert curve(pair, but(devices=2))[0] == first[0]
    assert before in (None, pids(pair))


# --- A process that fails --------------------------------------------------------------------------------------


@pytest.fixture
def conducted(tmp_path, text, monkeypatch):
    monkeypatch.setattr("runners.trainer.open_text", lambda *_: text)
    log = Log.create(str(tmp_path / "ledger"))
    plan = parse(
        "name = 'p'\nmetric = 'val_bpb_subset'\ndelta = 0.01\nseeds = '0-1'\n[trainer]\nwidth = 32\nseq_len = 32\n"
        "batch_tokens = 256\nsteps = 8\nval_tokens = 640\ndevice = 'cpu'\nbackend = 'torch'\ndevices = 2\n"
        "[[arm]]\nname = 'plain'\n",
        "plan.toml",
    )

    def run(tell=lambda runner, update: None):
        runner = GptRunner(plan, log)
        conduct(log, plan, runner, lambda update: tell(runner, update))
        return [event.data for event in log.events(types=("run.finished",))]

    run.log = log
    return run


def test_a_rank_that_is_killed_is_a_crash_of_its_run_and_the_next_one_gets_fresh_ones(conducted):
    seen = []

    def tell(runner, update):
        if update.kind == "point" and update.seed == 0 and not seen:
            seen.extend(pids(runner._trainers[0]))
            os.kill(seen[1], signal.SIGKILL)
        elif update.kind == "point" and update.seed == 1 and len(seen) == 2:
            seen.extend(pids(runner._trainers[0]))

    first, second = conducted(tell)
    assert (first.status, second.status) == ("crash", "ok")
    assert first.reason.startswith("RankFailed: rank 1 of 2 was killed by SIGKILL, which this session did not send")
    assert len(set(seen)) == 4
    assert not any(alive(pid) for pid in seen)
    (started, _) = [event.data for event in conducted.log.events(types=("run.started",))]
    assert started.hardware_class.endswith(" devices=2")
    assert {item.name: item.value for item in started.config}["devices"] == "2"


BROKEN = """
from datetime import timedelta
from runners import gpt_ranks
from runners.gpt_ranks import Joined
gpt_ranks.PATIENCE = timedelta(seconds={patience})
real, calls = Joined.summed, []
def summed(self, tensors):
    calls.append(1)
    if self.rank == 1 and len(calls) == 3:
        {what}
    return real(self, tensors)
Joined.summed = summed
"""


@pytest.fixture
def broken(text, monkeypatch):
    """broken(code) is a pair of which rank 1 does that in its third step."""
    made = []

    def make(what, patience=1.0):
        boot = gpt_group._BOOT.replace(
            "from runners", f"exec({BROKEN.format(what=what, patience=patience)!r}); from runners", 1
        )
        monkeypatch.setattr(gpt_group, "_BOOT", boot)
        made.append(GroupTrainer(text, "cpu", 2))
        return made[-1]

    yield make
    for trainer in made:
        trainer.close()


@pytest.mark.parametrize(
    ("what", "kind", "said"),
    [
        ("raise MemoryError('no room for it')", gpt_group.RankOutOfMemory,
         "rank 1 of 2 ran out of memory: MemoryError: no room for it"),
        ("raise ZeroDivisionError('by nothing')", gpt_group.RankFailed, "rank 1 of 2: ZeroDivisionError: by nothing"),
        ("import time; time.sleep(3600)", gpt_group.RankFailed,
         "rank 0 of 2: another rank did not answer in time (RuntimeError: "),
        ("import os; print('its last words', flush=True); os._exit(3)", gpt_group.RankFailed,
         "rank 1 of 2 ended with exit code 3: its last words"),
    ],
    ids=["memory", "error", "hang", "exit"],
)  # fmt: skip
def test_a_rank_that_fails_ends_the_run_with_its_reason_and_leaves_no_process(broken, what, kind, said):
    trainer, seen = broken(what), []
    with pytest.raises(kind) as caught:
        trainer.train(but(devices=2), 0, on_log=lambda step, _: seen.append((step, *pids(trainer))))
    assert str(caught.value).startswith(said)
    assert [step for step, *_ in seen] == [1, 2]
    assert not any(alive(pid) for pid in seen[0][1:])


def test_ranks_that_do_not_stop_when_they_are_told_to_are_ended(broken, monkeypatch):
    monkeypatch.setattr(gpt_group, "STOP", 0.3)
    trainer, seen = broken("import time; time.sleep(3600)", patience=60), []
    with pytest.raises(gpt_group.RankStuck, match=r"^timeout; no step ended in the 0\.3 s after it$"):
        trainer.train(
            but(devices=2),
            0,
            on_log=lambda step, _: seen.append((time.monotonic(), pids(trainer))),
            should_stop=lambda: "timeout" if len(seen) == 2 and time.monotonic() > seen[1][0] + 0.5 else None,
        )
    assert not any(alive(pid) for pid in seen[0][1])


def test_an_interruption_leaves_no_process(conducted):
    seen = []

    def tell(runner, update):
        if update.kind == "point":
            seen.extend(pids(runner._trainers[0]))
            os.kill(os.getpid(), signal.SIGINT)

    assert [end.status for end in conducted(tell)] == ["interrupted"]
    assert len(seen) == 2
    assert not any(alive(pid) for pid in seen)


def test_ranks_go_when_the_process_that_started_them_is_killed(text, tmp_path):
    code = f"""
import json, sys
from pathlib import Path
from runners.corpus import open_corpus
from runners.gpt_config import GptConfig
from runners.gpt_group import GroupTrainer
trainer = GroupTrainer(open_corpus(Path({str(text.folder)!r})), "cpu", 2)
config = GptConfig(**json.loads(sys.argv[1]))
tell = lambda step, _: step == 2 and print(*[r.process.pid for r in trainer._group.ranks], flush=True)
trainer.train(config, 0, on_log=tell)
"""
    config = msgspec.to_builtins(but(devices=2, steps=1_000_000))
    parent = subprocess.Popen([sys.executable, "-c", code, json.dumps(config)], stdout=subprocess.PIPE)
    started = [int(pid) for pid in parent.stdout.readline().split()]
    parent.kill()
    parent.wait()
    parent.stdout.close()
    until = time.monotonic() + 10
    while any(alive(pid) for pid in started) and time.monotonic() < until:
        time.sleep(0.05)
    assert len(started) == 2
    assert not any(alive(pid) for pid in started)


# --- What ranks say to each other --------------------------------------------------------------------------


def test_ranks_whose_parameters_drifted_apart_are_told_by_name(tmp_path):
    code = f"""
import os, sys
os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo" if sys.platform == "linux" else "lo0")
import numpy as np, torch
from runners.gpt_ranks import Joined
rank = int(sys.argv[1])
ranks = Joined(rank, 2, torch.device("cpu"), {str(tmp_path / "meet")!r})
a, b = torch.full((3,), 1.0 + rank), torch.tensor(float(rank))
print([x.tolist() for x in ranks.summed([a, b])], a.tolist())
print(ranks.agreed("stop" if rank == 0 else None, 2.5 + rank), ranks.agreed("no" if rank else None, 0.0))
print(ranks.merged(np.array([1, 0] if rank else [0, 2], dtype=np.float32)).tolist())
print({{k: v.tolist() for k, v in ranks.first(None if rank else {{"p": a}}, {{"p": a}}).items()}})
same, other = torch.arange(5.0), torch.arange(5.0)
ranks.check({{"p": same, "q": same}})
other[3] = float(np.nextafter(np.float32(3), np.float32(3 + rank)))
try:
    ranks.check({{"p": same, "q": other}})
except RuntimeError as error:
    print(error)
ranks.leave()
"""
    both = [
        subprocess.Popen([sys.executable, "-c", code, str(rank)], stdout=subprocess.PIPE, text=True)
        for rank in (0, 1)
    ]
    out = [process.communicate(timeout=60)[0].splitlines() for process in both]
    assert out[0][0] == "[[3.0, 3.0, 3.0], 1.0] [1.0, 1.0, 1.0]"
    assert [lines[1] for lines in out] == [
        "('stop', 2.5) (None, 0.0)",
        "('as rank 0 says', 2.5) (None, 0.0)",
    ]
    assert [lines[2] for lines in out] == ["[1.0, 2.0]"] * 2
    assert [lines[3] for lines in out] == ["{'p': [1.0, 1.0, 1.0]}"] * 2
    assert [lines[4] for lines in out] == ["replicas drifted apart: q of rank 1 has not the bits of rank 0's"] * 2


@given(at=st.integers(0, 39), change=st.floats(width=32, allow_nan=False).filter(lambda x: x != 1))
def test_the_digest_of_an_array_tells_any_change_of_one_number(at, change):
    p = torch.ones(8, 5)
    before = gpt_ranks.digest(p)
    p.view(-1)[at] = change
    assert gpt_ranks.digest(p) != before


# --- What is refused -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"devices": 3}, "devices must divide the 8 sequences of a batch (batch_tokens / seq_len), found 3"),
        ({"devices": -1}, "devices must be finite, not negative, found -1"),
        ({"batch_tokens": 384, "micro_tokens": 128, "devices": 2},
         "micro_tokens must divide the 192 tokens of a batch that each of 2 devices trains on (one pass: "
         "micro_tokens = 192), found 128"),
        ({"devices": 2, "stack_seeds": True}, "stack_seeds is for one device"),
    ],
)  # fmt: skip
def test_settings_that_do_not_go_with_several_devices_are_refused(change, message):
    with pytest.raises(ValueError, match=message.replace("(", r"\(").replace(")", r"\)")):
        but(**change)


def plan_of(settings, arm=""):
    return parse(
        f"name = 'p'\nmetric = 'val_bpb'\ndelta = 0.01\nseeds = '0-1'\n[trainer]\n{settings}\n[[arm]]\nname = 'a'\n"
        f"[[arm]]\nname = 'b'\nset = {{ {arm} }}\n",
        "plan.toml",
    )


def test_more_devices_than_are_here_are_refused_before_anything_is_written(tmp_path, monkeypatch):
    log = Log.create(str(tmp_path / "ledger"))
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 4)
    plan = plan_of("backend = 'torch'\ndevices = 8", "depth = 3")
    runner = GptRunner(plan, log)
    size = log.head().position
    with pytest.raises(UsageError, match="arm 'a': devices must be at most the 4 CUDA devices"):
        conduct(log, plan, runner, lambda _: None)
    assert log.head().position == size
    fewer = gpt_group.placed(GptConfig(devices=8, batch_tokens=2048, device="cuda"), "torch", fewer=True)
    assert (fewer.devices, fewer.pass_windows, fewer.share_windows) == (4, 2, 4)
    every = GptConfig(devices=0, device="cuda")
    assert gpt_group.placed(every, "torch").devices == 4
    assert gpt_group.placed(GptConfig(devices=0, device="cpu"), "torch").devices == 1
    with pytest.raises(ValueError, match="devices must divide the 6 sequences"):  # found out on the machine
        gpt_group.placed(GptConfig(devices=0, batch_tokens=768), "torch")


@pytest.mark.parametrize(
    ("settings_", "arm", "message"),
    [
        ("devices = 2", "devices = 4", "arm 'b' trains on devices = 4 and arm 'a' on 2: set `devices` in"),
        ("backend = 'mlx'\ndevices = 2", "depth = 3", "devices = 2 is for backend 'torch': mlx trains on one device"),
    ],
)
def test_a_plan_that_cannot_be_trained_on_its_devices_is_refused(tmp_path, monkeypatch, settings_, arm, message):
    monkeypatch.setattr("runners.trainer.find_spec", lambda _: True)
    with pytest.raises(UsageError, match=message):
        GptRunner(plan_of(settings_, arm), Log.create(str(tmp_path / "ledger")))


def test_one_process_does_not_pass_for_two(text):
    with pytest.raises(ValueError, match="devices = 2 takes as many processes"):
        Trainer(text).train(but(devices=2), 0)


def test_a_process_of_a_launcher_is_refused_with_what_to_do():
    once({"WORLD_SIZE": "1", "RANK": "0"})
    with pytest.raises(UsageError, match=r"this is process 3 of 8 of a launcher such as torchrun .*--devices 8"):
        once({"WORLD_SIZE": "8", "RANK": "3"})


@pytest.mark.parametrize("name", ["r1", "r2", "r3", "benchmark"])
@pytest.mark.parametrize("devices", [2, 4, 8])
def test_a_shipped_round_trains_on_several_devices_in_the_passes_that_it_has_on_one(name, devices):
    plan = parse((ROOT / "examples" / "rounds" / f"{name}.toml").read_text(), name)
    for arm in plan.arm:
        one, several = (GptConfig.from_dict({**plan.trainer, **arm.set, "devices": n}) for n in (1, devices))
        assert several.pass_windows == one.pass_windows


def test_a_fast_look_keeps_a_sequence_for_each_device():
    settings_ = {"preset": "baseline", "devices": 8}
    small = GptConfig.from_dict(fast(settings_))
    assert (small.devices, small.share_windows, small.pass_windows) == (8, 8, 8)

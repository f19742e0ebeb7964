"""Plans whose arms differ after the training: one training a seed, one checkpoint, and the log remembers whose."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("torch", reason="the built-in trainer needs torch")
pytest.importorskip("sentencepiece", reason="the built-in trainer needs sentencepiece")
pytest.importorskip("safetensors", reason="checkpoints need safetensors")

PLAN = """
name = "late"
metric = "val_bpb_subset"
delta = 0.01
seeds = "0-1"
pair_tier = "fork"
stage = "quant"

[trainer]
backend = "torch"
device = "cpu"
width = 32
seq_len = 32
batch_tokens = 256
steps = 6
val_tokens = 512
calib_tokens = 512

[[arm]]
name = "as trained"
[[arm]]
name = "int6"
set = { quantize = "int6" }
[[arm]]
name = "gptq"
set = { quantize = "gptq" }
"""


def runs(place):
    query = "SELECT run, arm, seed, status, value, pre_value, artifact_bytes, fork_of, steps, tokens FROM runs"
    return place.sql(f"{query} ORDER BY started_position")


def test_a_seed_is_trained_once_and_the_other_arms_go_on_from_its_checkpoint(home):
    home.write("plan.toml", PLAN)
    done = home.call("run", "plan.toml")
    assert done.code == 0, done.err
    found = runs(home)
    assert [(run["arm"], run["seed"], run["status"]) for run in found] == [
        ("as trained", 0, "ok"), ("int6", 0, "ok"), ("gptq", 0, "ok"),
        ("int6", 1, "ok"), ("gptq", 1, "ok"), ("as trained", 1, "ok"),
    ]  # fmt: skip
    for trained, *others in (found[:3], found[3:]):
        assert trained["fork_of"] is None
        assert {run["fork_of"] for run in others} == {trained["run"]}
        assert {run["steps"] for run in (trained, *others)} == {6}
    losses = home.sql("SELECT run, count(*) AS n FROM metrics WHERE name = 'train_loss' GROUP BY run ORDER BY run")
    assert sorted((row["run"], row["n"]) for row in losses) == sorted((found[i]["run"], 6) for i in (0, 3))
    for seed in (0, 1):
        by_arm = {run["arm"]: run for run in found if run["seed"] == seed}
        assert by_arm["int6"]["pre_value"] == by_arm["gptq"]["pre_value"] == by_arm["as trained"]["value"]
        assert by_arm["as trained"]["pre_value"] is None
        assert by_arm["int6"]["value"] != by_arm["int6"]["pre_value"]
        assert by_arm["int6"]["artifact_bytes"] > 30_000
    tiers = home.sql("SELECT DISTINCT pair_tier, stage FROM runs")
    assert tiers == [{"pair_tier": "fork", "stage": "quant"}]
    assert home.sql("SELECT DISTINCT tier FROM paired_differences") == [{"tier": "fork"}]


def test_a_plot_has_for_every_seed_the_curve_of_the_run_that_trained_it(home, monkeypatch):
    from commands import plot

    home.write(
        "plan.toml", PLAN + '[[arm]]\nname = "late"\nset = { qat_bits = 6, qat_from = 0.5, quantize = "int6" }'
    )
    assert home.call("run", "plan.toml").code == 0
    drawn = {}

    def note(paths, plan, metric, arm, treated, control, one):
        drawn[arm] = treated, control, one

    monkeypatch.setattr(plot, "_draw", note)
    assert home.call("plot", "--metric", "train_loss").code == 0
    assert set(drawn) == {"int6", "gptq", "late"}
    trained, control, one = drawn["gptq"]
    assert one
    assert trained == control
    assert {seed: len(steps) for seed, (steps, _) in control.items()} == {0: 6, 1: 6}
    assert control[0] != control[1]
    turned, control, one = drawn["late"]
    assert not one
    for seed in (0, 1):
        assert turned[seed][0] == control[seed][0]
        same = [a == b for a, b in zip(turned[seed][1], control[seed][1], strict=True)]
        assert same[:3] == [True] * 3
        assert not all(same)


def test_arms_that_share_a_training_are_drawn_as_one_curve(home):
    home.write("plan.toml", PLAN)
    assert home.call("run", "plan.toml").code == 0
    home.call("plot", "-o", "pictures", "--format", "svg")
    page = (home.folder / "pictures" / "gptq.svg").read_text()
    assert "the training that both share (mean of 2 seeds)" in page
    assert "difference" not in page


def test_what_forks_gives_the_figures_of_arms_that_are_trained_each(home):
    home.write("plan.toml", PLAN)
    home.write("each.toml", PLAN.replace('pair_tier = "fork"', "").replace('name = "late"', 'name = "each"'))
    home.call("run", "plan.toml", "--seeds", "1")
    home.call("run", "each.toml", "--seeds", "1")
    values = home.sql("SELECT arm, seed, list(DISTINCT value) AS v FROM runs GROUP BY arm, seed")
    assert [len(row["v"]) for row in values] == [1] * 3
    assert home.sql("SELECT count(fork_of) AS n FROM runs")[0]["n"] == 2


def test_the_checkpoint_is_a_safetensors_file_of_the_weights_that_is_found_by_its_digest(home):
    from safetensors.numpy import load

    home.write("plan.toml", PLAN)
    home.call("run", "plan.toml", "--seeds", "0")
    (kept,) = home.sql("SELECT run, name, kind, sha256 FROM artifacts WHERE kind = 'checkpoint'")
    assert kept["run"] == runs(home)[0]["run"]
    digest = kept["sha256"]
    data = (home.folder / "warehouse" / "blob" / "sha256" / digest[:2] / digest[2:]).read_bytes()
    weights = load(data)
    assert weights["q"].shape == (2, 32, 32)
    assert all(array.dtype == np.float32 for array in weights.values())


def test_a_later_session_and_a_later_plan_find_it_and_train_nothing(home):
    home.write("plan.toml", PLAN)
    home.call("run", "plan.toml", "--seeds", "0")
    trained = runs(home)[0]["run"]
    more = PLAN + '[[arm]]\nname = "int8"\nset = { quantize = "int8" }\n'
    home.write("plan.toml", more)
    assert home.call("run", "plan.toml", "--seeds", "0").code == 0
    assert runs(home)[-1]["arm"] == "int8"
    assert runs(home)[-1]["fork_of"] == trained
    other = PLAN.replace('name = "late"', 'name = "other"').replace('"int6"', '"int6_clip"')
    home.write("other.toml", other)
    assert home.call("run", "other.toml", "--seeds", "0").code == 0
    assert [run["fork_of"] for run in runs(home)[-3:]] == [trained] * 3
    assert home.sql("SELECT count(*) AS n FROM metrics WHERE name = 'train_loss'")[0]["n"] == 6


def test_another_training_another_seed_or_a_retracted_run_is_not_forked_from(home):
    home.write("plan.toml", PLAN)
    home.call("run", "plan.toml", "--seeds", "0")
    trained = runs(home)[0]["run"]
    longer = PLAN.replace("steps = 6", "steps = 5").replace('name = "late"', 'name = "longer"')
    home.write("longer.toml", longer)
    home.call("run", "longer.toml", "--seeds", "0")
    assert runs(home)[3]["fork_of"] is None
    started = next(event for event in home.events() if event["type"] == "run.started" and trained in str(event))
    retracted = home.call("retract", started["event_id"], "--reason", "a wrong machine")
    assert retracted.code == 0, retracted.err
    home.write("again.toml", PLAN.replace('name = "late"', 'name = "again"'))
    home.call("run", "again.toml", "--seeds", "0")
    assert trained not in {run["fork_of"] for run in runs(home)[-3:]}


@pytest.mark.parametrize("change", ["depth = 3", "ema = 0.9", 'data = "x"'])
def test_arms_that_take_another_training_cannot_fork(home, change):
    home.write("plan.toml", PLAN + f'[[arm]]\nname = "more"\nset = {{ {change} }}\n')
    done = home.call("run", "plan.toml")
    assert done.code == 2
    assert "arm 'more'" in done.complaint
    assert home.size() == 0


@pytest.mark.parametrize(
    ("settings", "metric", "said"),
    [
        ("val_tokens = 512", "val_bpb", "so the metric is 'val_bpb_subset', not 'val_bpb'"),
        ("val_tokens = 0", "val_bpb_subset", "so the metric is 'val_bpb', not 'val_bpb_subset'"),
        ("val_tokens = 512", "quant_gap", "so the metric is 'quant_gap_subset'"),
        ('data = "nowhere"', "val_bpb", "there is no folder nowhere; fetch the published shards"),
        ("shards = 2", "val_bpb", "shards = 2 goes with data = a folder of shards"),
    ],
)
def test_a_metric_or_data_that_cannot_be_is_refused_before_anything_is_recorded(home, settings, metric, said):
    text = PLAN.replace("val_tokens = 512", settings).replace('"val_bpb_subset"', f'"{metric}"')
    home.write("plan.toml", text)
    done = home.call("run", "plan.toml")
    assert done.code == 2
    assert said in done.complaint
    assert home.size() == 0


def test_a_plan_trains_on_a_folder_of_published_shards_and_its_digests_are_on_record(home):
    from pydoc_data.topics import topics

    import sentencepiece

    from runners.shards import write_shard

    (home.folder / "shards").mkdir()
    texts = [" ".join(topics[name].encode("ascii", "ignore").decode().split()) for name in sorted(topics)[:30]]
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(texts), model_prefix="shards/t", model_type="bpe", vocab_size=500,
        byte_fallback=True, num_threads=1, minloglevel=2,
    )  # fmt: skip
    tokenizer = sentencepiece.SentencePieceProcessor(model_file="shards/t.model")
    for i, name in enumerate(("train_000000", "train_000001", "val_000000")):
        tokens = np.concatenate([[tokenizer.bos_id(), *tokenizer.encode(t)] for t in texts[i::3]])
        write_shard(home.folder / "shards" / f"fineweb_{name}.bin", tokens)
    folder = 'data = "shards"\nvocab_size = 500'
    text = PLAN.replace("val_tokens = 512", folder).replace("val_bpb_subset", "val_bpb")
    home.write("plan.toml", text)
    done = home.call("run", "plan.toml", "--seeds", "0")
    assert done.code == 0, done.err
    (start, *_) = [event for event in home.events() if event["type"] == "run.started"]
    names = {"fineweb_train_000000.bin", "fineweb_train_000001.bin", "fineweb_val_000000.bin", "t.model"}
    assert {digest["name"] for digest in start["data"]["data"]} == names
    # A vocabulary smaller than the tokenizer's is told before a step is taken.
    home.write("small.toml", text.replace("vocab_size = 500", "vocab_size = 400").replace('"late"', '"small"'))
    done = home.call("run", "small.toml", "--seeds", "0")
    assert "vocab_size is smaller than the tokenizer's 500, found 400" in done.err


def test_an_artifact_beyond_the_limit_is_told_and_counted(home, monkeypatch):
    from runners import gpt_stages

    monkeypatch.setattr(gpt_stages, "SIZE_LIMIT", 100_000)
    home.write("plan.toml", PLAN)
    done = home.call("run", "plan.toml", "--seeds", "0")
    assert done.code == 0
    by_arm = {run["arm"]: run for run in home.sql("SELECT arm, status, reason, artifact_bytes FROM runs")}
    over = by_arm["int6"]["artifact_bytes"] - 100_000
    assert by_arm["int6"]["status"] == "ok"
    assert f"{over} more than the challenge allows" in by_arm["int6"]["reason"]
    assert by_arm["as trained"]["reason"] == ""
    told = home.sql("SELECT DISTINCT value FROM metrics WHERE name = 'artifact_bytes_over' ORDER BY value")
    assert over in [row["value"] for row in told]

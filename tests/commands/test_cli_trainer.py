"""`ledger run` of a plan with a trainer: --fast, --cooldown, and settings that make no model."""

import time

import pytest

pytest.importorskip("torch", reason="the built-in trainer needs torch")
pytest.importorskip("sentencepiece", reason="the built-in trainer needs sentencepiece")

PLAN = """
name = "small"
metric = "val_bpb_subset"
delta = 0.01
seeds = "0-2"
[trainer]
backend = "torch"
device = "cpu"
width = 32
seq_len = 32
batch_tokens = 256
steps = 100
val_tokens = 640
[[arm]]
name = "plain"
[[arm]]
name = "deep"
set = { depth = 3 }
"""


def test_fast_is_an_experiment_of_its_own_with_fewer_steps_and_two_seeds(home):
    home.write("plan.toml", PLAN)
    assert home.call("run", "plan.toml", "--fast").code == 0
    rows = home.sql("SELECT arm, seed, steps, status, scale FROM runs ORDER BY arm, seed")
    assert [(row["arm"], row["seed"], row["steps"], row["status"]) for row in rows] == [
        (arm, seed, 20, "ok") for arm in ("deep", "plain") for seed in (0, 1)
    ]
    assert {row["scale"] for row in rows} == {"fast"}
    fast = home.sql("SELECT experiment FROM experiments")[0]["experiment"]
    assert home.call("run", "plan.toml", "--seeds", "0").code == 0
    assert home.sql("SELECT count(DISTINCT experiment) AS n FROM experiments")[0]["n"] == 2
    assert home.sql(f"SELECT count(*) AS n FROM runs WHERE experiment = '{fast}'")[0]["n"] == 4


def test_fast_is_refused_for_a_script(home):
    home.write("t.py", "print('val_bpb: 1')")
    done = home.call("run", "--fast", "--", "python", "t.py")
    assert done.code == 2
    assert "--fast is for plans with a [trainer]" in done.complaint


def test_the_machine_may_cool_between_runs(home):
    home.write("plan.toml", PLAN.replace("steps = 100", "steps = 1"))
    began = time.monotonic()
    assert home.call("run", "plan.toml", "--seeds", "0", "--cooldown", "1.5").code == 0
    assert time.monotonic() - began > 1.5
    assert home.call("run", "plan.toml", "--cooldown", "-1").code == 2


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("activaton = 'gelu'", "unknown key 'activaton'; did you mean 'activation'?"),
        ("heads = 5", "heads must divide width 32, found 5"),
        ("vocab_size = 2048", "vocab_size is larger than the tokenizer's 1024, found 2048"),
        ("preset = 'basline'", "unknown preset 'basline'; did you mean 'baseline'?"),
        ("dtype = 'float16'", "dtype must be one of auto, float32, bfloat16, found 'float16'"),
        ("micro_tokens = 96", "micro_tokens must divide batch_tokens 256, found 96"),
    ],
)
def test_settings_that_make_no_model_are_told_in_one_line(home, line, said):
    home.write("plan.toml", PLAN.replace("steps = 100", f"steps = 1\n{line}"))
    done = home.call("run", "plan.toml", "--seeds", "0")
    assert done.code == 2
    assert said in done.complaint
    assert home.size() == 0

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


def test_a_plan_runs_on_two_devices_with_settings_of_the_command_line_and_is_reproduced(home):
    home.write("plan.toml", PLAN)
    given = ("run", "plan.toml", "--devices", "2", "--set", "steps=12", "--set", "activation=gelu", "--seeds", "0")
    assert home.call(*given).code == 0
    rows = home.sql("SELECT run, arm, steps, status, hardware_class FROM runs ORDER BY arm")
    assert [(row["arm"], row["steps"], row["status"]) for row in rows] == [("deep", 12, "ok"), ("plain", 12, "ok")]
    assert {row["hardware_class"].rpartition(" ")[2] for row in rows} == {"devices=2"}
    done = home.call("reproduce", rows[0]["run"], "--json")
    assert done.code == 0
    assert (done.json["expected"], done.json["why"]) == ("tolerance", ["2 devices summed their gradients"])
    assert done.json["worst"]["deviation"] <= 1e-6
    assert done.json["differs"] == []


def test_runs_at_once_have_the_bits_of_one_after_another(home):
    home.write("plan.toml", PLAN)
    points = "SELECT arm, seed, name, step, metrics.value FROM metrics INNER JOIN runs USING (run) ORDER BY ALL"
    found = []
    for jobs in ("1", "2"):
        home.call("init", f"jobs{jobs}")
        where = ("--ledger", f"jobs{jobs}")
        done = home.call("run", "plan.toml", "--set", "steps=8", "--seeds", "0-1", "--jobs", jobs, *where)
        assert done.code == 0, done.err
        found.append([row for row in home.sql(points, *where) if row["name"] == "train_loss"])
        found[-1] += home.sql("SELECT arm, seed, value, status FROM runs ORDER BY ALL", *where)
    assert len(found[0]) == 4 * 9
    assert found[0] == found[1]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("plan.toml", "--set", "steps"), "--set steps: expected NAME=VALUE, such as --set wallclock=600"),
        (("plan.toml", "--set", "devices=2", "--devices", "4"), "--set devices=4: it is given twice"),
        (("plan.toml", "--set", "stepz=3"), "unknown key 'stepz'; did you mean 'steps'?"),
        (("plan.toml", "--devices", "3"), "devices must divide the 8 sequences of a batch"),
        (("script.toml", "--devices", "2"), "--devices is for plans with a [trainer]"),
        (("--devices", "2", "--", "python", "train.py"), "--devices goes with a plan that has a [trainer]"),
    ],
)
def test_devices_and_settings_that_cannot_be_are_told_in_one_line(home, words, said):
    home.write("plan.toml", PLAN)
    home.write("script.toml", PLAN.partition("[trainer]")[0] + '[script]\ncommand = ["true"]\n[[arm]]\nname = "a"\n')
    done = home.call("run", *words)
    assert done.code == 2
    assert said in done.complaint
    assert home.size() == 0


def test_a_process_that_a_launcher_started_is_refused(home, monkeypatch):
    home.write("plan.toml", PLAN)
    monkeypatch.setenv("WORLD_SIZE", "8")
    monkeypatch.setenv("RANK", "5")
    done = home.call("run", "plan.toml")
    assert done.code == 2
    assert "this is process 5 of 8 of a launcher such as torchrun" in done.complaint
    assert home.size() == 0


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

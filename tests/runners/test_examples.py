"""Every plan that is shipped loads, at both of its sizes, and each of its arms makes a model."""

from pathlib import Path

import msgspec
import pytest

from ledger.errors import UsageError
from runners import cycle_plan
from runners.fork import check
from runners.gpt_config import GptConfig
from runners.plan import parse

ROOT = Path(__file__).resolve().parents[2]
SHIPPED = sorted((ROOT / "examples").rglob("*.toml"))
CYCLES = [path for path in SHIPPED if "\n[[candidate]]\n" in path.read_text()]
EXAMPLES = [path for path in SHIPPED if path not in CYCLES]
SMALL = [path for path in EXAMPLES if "\n[small]\n" in path.read_text()]


def named(path):
    return path.relative_to(ROOT).as_posix()


def sizes():
    return [pytest.param(p, s, id=f"{named(p)}{' --small' if s else ''}") for p in EXAMPLES for s in (False, True)
            if not s or p in SMALL]  # fmt: skip


def test_the_rounds_are_here():
    names = {path.stem for path in EXAMPLES if path.parent.name == "rounds"}
    assert {"r1", "r2", "r3", "benchmark"} <= names
    assert {"r1", "r2", "r3", "benchmark"} <= {path.stem for path in SMALL}


@pytest.mark.parametrize(("path", "small"), sizes())
def test_a_shipped_plan_loads_and_every_arm_is_valid(path, small):
    plan = parse(path.read_text(), named(path), small=small)
    if plan.trainer is None:
        return
    configs = {arm.name: GptConfig.from_dict({**plan.trainer, **arm.set}) for arm in plan.arm}
    assert len({repr(config) for config in configs.values()}) == len(configs)
    assert len({(config.data, config.shards) for config in configs.values()}) == 1
    scored = {config.val_tokens != 0 for config in configs.values()}
    assert scored == {"subset" in plan.metric}
    if plan.pair_tier == "fork":
        check(configs)
    if small:  # seconds on a CPU: the embedded corpus, some thousand tokens a step
        assert {config.data for config in configs.values()} == {""}
        assert max(config.steps * config.batch_tokens for config in configs.values()) <= 200_000
        assert max(config.width for config in configs.values()) <= 64
        assert max(config.wallclock for config in configs.values()) == 0


@pytest.mark.parametrize("path", CYCLES, ids=named)
def test_a_shipped_cycle_plan_loads_and_every_candidate_is_valid(path):
    plan = cycle_plan.parse(path.read_text(), named(path))
    configs = {arm.name: GptConfig.from_dict({**plan.whole.trainer, **arm.set}) for arm in plan.whole.arm}
    assert {candidate.name for candidate in plan.candidates} < configs.keys()
    assert len({repr(config) for config in configs.values()}) == len(configs)


@pytest.mark.parametrize("path", SMALL, ids=named)
def test_the_two_sizes_have_the_same_arms_and_names_that_tell_them_apart(path):
    text = path.read_text()
    full, small = parse(text, "p"), parse(text, "p", small=True)
    assert [arm.name for arm in full.arm] == [arm.name for arm in small.arm]
    assert small.name == f"{full.name}-small"
    assert full.scale != small.scale


@pytest.mark.parametrize("name", ["r1", "r2", "r3", "benchmark"])
def test_at_full_size_a_round_has_the_challenges_width_and_more_than_one_shard(name):
    plan = parse((ROOT / "examples" / "rounds" / f"{name}.toml").read_text(), name)
    configs = [GptConfig.from_dict({**plan.trainer, **arm.set}) for arm in plan.arm]
    assert {config.width for config in configs} == {512}
    assert {config.shards for config in configs} == {80}
    assert all(config.batch_tokens >= 524_288 for config in configs)


# --- The small table ---------------------------------------------------------------------------------------

PLAN = """
name = "p"
delta = 0.1
seeds = "0-2"
[trainer]
steps = 100
depth = 4
[[arm]]
name = "control"
[[arm]]
name = "wide"
set = { width = 128, depth = 3 }
[[arm]]
name = "deep"
set = { depth = 8 }
"""
TABLE = """
[small]
seeds = "7"
delta = 0.5
leave_out = ["deep"]
trainer = { steps = 5 }
[small.arms.wide]
depth = 1
"""


def test_the_small_table_is_laid_over_the_plan_its_trainer_and_its_arms():
    plan = parse(PLAN + TABLE, "p.toml", small=True)
    assert (plan.name, plan.seeds, plan.delta) == ("p-small", (7,), 0.5)
    assert plan.trainer == {"steps": 5, "depth": 4}
    assert [(arm.name, arm.set) for arm in plan.arm] == [("control", {}), ("wide", {"width": 128, "depth": 1})]
    whole = parse(PLAN + TABLE, "p.toml")
    assert whole == msgspec.structs.replace(parse(PLAN, "p.toml"), text=PLAN + TABLE)


def test_seeds_of_the_command_line_count_before_those_of_the_small_size():
    assert parse(PLAN + TABLE, "p.toml", seeds="3-4", small=True).seeds == (3, 4)


def test_a_script_has_a_small_size_too():
    text = 'name = "p"\ndelta = 0.1\nseeds = "0"\n[script]\ncommand = ["train"]\nenv = { A = "1", B = "2" }\n'
    text += '[[arm]]\nname = "c"\n[[arm]]\nname = "t"\nenv = { C = "9" }\n'
    text += "[small.arms.t]\nC = 3\n[small.script]\nenv = { A = 5 }\n"
    plan = parse(text, "p.toml", small=True)
    assert plan.script.env == {"A": "5"}
    assert plan.arm[1].env == {"C": "3"}


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ("", "--small needs a [small] table"),
        ("small = 3\n", "small must be a table"),
        ("[small]\nsteps = 3\n", "unknown key 'steps'"),
        ("[small]\nkind = 'x'\n", "[small] cannot change 'kind'"),
        ("[small.script]\nenv = {}\n", "laid over [script], which must be a table"),
        ("[small]\nleave_out = ['deeq']\n", "an arm 'deeq' that the plan has not; did you mean 'deep'?"),
        ("[small]\nleave_out = ['control']\n", "cannot leave out the control"),
        ("[small.arms.wider]\ndepth = 1\n", "an arm 'wider' that the plan has not; did you mean 'wide'?"),
        ("[small.arms]\nwide = 3\n", "[small.arms.wide] must be a table"),
        ("[small]\nleave_out = 3\n", "takes leave_out = [names of arms]"),
        ("[small]\nseeds = '3-1'\n", "p.toml, [small]: the range of seeds 3-1 runs backwards"),
    ],
)
def test_a_small_table_that_says_nothing_usable_is_told(table, said):
    text = table + PLAN if table.startswith("small") else PLAN + table
    with pytest.raises(UsageError) as caught:
        parse(text, "p.toml", small=True)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_broken_small_table_is_told_at_the_full_size_too():
    with pytest.raises(UsageError, match="deeq"):
        parse(PLAN + "[small]\nleave_out = ['deeq']\n", "p.toml")


# --- The page ----------------------------------------------------------------------------------------------


def test_the_page_names_every_scheme_every_late_setting_and_every_shipped_round():
    from runners.gpt_config import LATE
    from runners.quantize import SCHEMES

    page = (ROOT / "docs" / "quantization.md").read_text()
    for name in (*SCHEMES, *LATE):
        assert f"`{name}`" in page or f"`{name} =" in page, name
    for path in EXAMPLES:
        assert path.parent.name != "rounds" or f"`{path.name}`" in page


@pytest.mark.slow
@pytest.mark.parametrize("path", SMALL, ids=named)
def test_every_arm_of_a_small_plan_trains_and_is_scored(path):
    pytest.importorskip("torch")
    pytest.importorskip("sentencepiece")
    from runners.corpus import prepare
    from runners.gpt_train import Trainer

    plan, trainer = parse(path.read_text(), "p", small=True), Trainer(prepare())
    for arm in plan.arm:
        config = GptConfig.from_dict({**plan.trainer, **arm.set})
        short = msgspec.structs.replace(config, steps=3, warmdown_steps=0, val_tokens=1024, calib_tokens=1024)
        result = trainer.train(short, 0)
        assert result.status == "ok", (arm.name, result.reason)
        assert 1 < result.val_bpb < 10

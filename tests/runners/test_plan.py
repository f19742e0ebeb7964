"""A plan says what it must in one way, and what is wrong with it is told in one line."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger.errors import UsageError
from runners.plan import MAX_PLAN_BYTES, Plan, build, check_hypotheses, from_options, parse, parse_seeds
from runners.registration import ranges

GOOD = """\
name = "first"
delta = 0.01
seeds = "0-2"
[script]
command = ["python", "train.py"]
[[arm]]
name = "control"
[[arm]]
name = "fast"
env = { LR = "0.02" }
"""


SCRIPT = """\
[script]
command = ["python", "train.py"]
"""


def refused(text: str) -> str:
    """The message of a plan that is refused: one line that begins with the file's name."""
    with pytest.raises(UsageError) as caught:
        parse(text, "plan.toml")
    message = str(caught.value)
    assert message.startswith("plan.toml: ")
    assert "\n" not in message
    assert "msgspec" not in message
    return message


def with_line(line: str, old: str | None = None) -> str:
    """The good plan with one line more at its top, or in the place of `old`."""
    return GOOD.replace(old, line) if old else f"{line}\n{GOOD}"


def options(command: list[str], arms: list[str], **other: object):
    given = {"seeds": "0-2", "metric": "val_bpb", "direction": "lower", "delta": 0.01, "timeout": None, "name": None}
    return from_options(command, arms, other.pop("baseline", None), **{**given, "patterns": (), **other})  # type: ignore[arg-type]


# ── what it says ──


def test_a_good_plan_has_its_defaults():
    plan = parse(GOOD, "plan.toml")
    assert plan.control.name == "control"
    assert (plan.metric, plan.direction, plan.alpha, plan.timeout) == ("val_bpb", "lower", 0.05, None)
    assert [arm.predict for arm in plan.arm] == ["different", "different"]
    assert plan.text == GOOD


def test_a_plan_that_does_not_say_how_it_stops_has_one_look_at_all_its_seeds():
    plan = parse(GOOD, "plan.toml")
    assert (plan.stopping, plan.looks, plan.most_seeds) == ("fixed", (), 3)


def test_looks_are_a_stopping_rule_and_end_at_the_last():
    plan = parse(with_line("looks = [3, 5, 8]"), "plan.toml")
    assert (plan.stopping, plan.most_seeds) == ("looks", 8)


@pytest.mark.parametrize(
    ("metric", "direction", "fits"),
    [
        ("val_bpb", "lower", True),
        ("val_bpb", "higher", False),
        ("train_loss", "higher", False),
        ("val/perplexity", "higher", False),
        ("Accuracy", "lower", False),
        ("val_acc", "higher", True),
        ("power", "higher", True),  # it ends like word error rate, and is none
        ("throughput", "lower", True),
    ],
)
def test_a_direction_must_fit_what_is_known_of_the_metric(metric, direction, fits):
    plan = parse(with_line(f'metric = "{metric}"\ndirection = "{direction}"'), "plan.toml")
    if fits:
        check_hypotheses(plan, "plan.toml")
    else:
        with pytest.raises(UsageError, match="contradicts the hypotheses"):
            check_hypotheses(plan, "plan.toml")


def test_numbers_in_env_mean_their_text():
    plan = parse(GOOD.replace('LR = "0.02"', "LR = 0.02, STEPS = 100"), "plan.toml")
    assert plan.arm[1].env == {"LR": "0.02", "STEPS": "100"}


def test_cells_are_interleaved_by_seed_and_the_order_of_the_arms_turns():
    plan = parse(GOOD, "plan.toml")
    assert [(arm.name, seed) for arm, seed in plan.cells()] == [
        ("control", 0), ("fast", 0), ("fast", 1), ("control", 1), ("control", 2), ("fast", 2),
    ]  # fmt: skip


@given(arms=st.integers(1, 6), seeds=st.lists(st.integers(0, 99), min_size=1, max_size=12, unique=True))
def test_every_cell_comes_once_and_every_arm_comes_first_equally_often(arms, seeds):
    listed = "".join(f'[[arm]]\nname = "a{i}"\nargs = ["{i}"]\n' for i in range(arms))
    plan = parse(f'name = "x"\ndelta = 1.0\nseeds = {seeds}\n[script]\ncommand = ["x"]\n{listed}', "x")
    cells = [(arm.name, seed) for arm, seed in plan.cells()]
    assert len(set(cells)) == len(cells) == arms * len(seeds)
    assert [seed for _, seed in cells] == [seed for seed in seeds for _ in range(arms)]
    first = [name for name, _ in cells[::arms]]
    assert max(map(first.count, set(first))) - min(first.count(f"a{i}") for i in range(arms)) <= 1


def test_the_command_line_says_the_same_as_a_plan():
    line = options(["python", "train.py"], ["LR=0.02", "LR=0.04,WD=0"], baseline="LR=0.01", timeout=5.0)
    assert [arm.name for arm in line.arm] == ["LR=0.01", "LR=0.02", "LR=0.04,WD=0"]
    assert [arm.env for arm in line.arm] == [{"LR": "0.01"}, {"LR": "0.02"}, {"LR": "0.04", "WD": "0"}]
    assert line.timeout == 5.0
    assert line.script is not None
    assert line.script.command == ("python", "train.py")


def test_an_experiment_without_a_name_is_called_after_its_script_and_its_command():
    assert options(["python", "train.py"], []).name.startswith("train.py-")
    assert options(["./run/My Job!.sh"], []).name.startswith("My-Job-.sh-")
    assert options(["torchrun", "--nproc", "8", "sub/train_gpt.py"], []).name.startswith("train_gpt.py-")
    assert options(["python", "a.py", "1"], []).name != options(["python", "a.py", "2"], []).name
    assert options(["///"], []).name.startswith("run-")


@given(st.text(min_size=1, max_size=120).filter(lambda word: "\x00" not in word))
def test_any_command_gives_a_name_that_a_plan_may_have(word):
    assert options([word], []).name


# ── what is wrong ──


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("not toml at all", "not TOML"),
        (with_line("x = " + "[" * 3000 + "]" * 3000), "not TOML"),
        (with_line(f"delta = {'1' * 5000}", "delta = 0.01"), "not TOML"),
        (with_line("#" * MAX_PLAN_BYTES), f"at most {MAX_PLAN_BYTES} bytes"),
        (with_line('seed = "0-2"', 'seeds = "0-2"'), "did you mean 'seeds'?"),
        (with_line("text = 'x'"), "unknown key 'text'"),
        (with_line("zzz = 1"), "it may have: name, seeds"),
        (GOOD.replace('name = "fast"', 'nam = "fast"'), "[[arm]] number 2 has an unknown key 'nam'; did you mean"),
        (GOOD.replace("command =", "comand ="), "[script] has an unknown key 'comand'; did you mean 'command'?"),
        (with_line("", 'seeds = "0-2"'), "no seeds; give for example"),
        (with_line("", "delta = 0.01"), "missing `delta`"),
        (with_line("", 'name = "first"'), "missing `name`"),
        (with_line("seeds = 3", 'seeds = "0-2"'), "a list of integers from 0, not 3"),
        (with_line("seeds = [0, 1, 0]", 'seeds = "0-2"'), "seed 0 is given twice"),
        (with_line("seeds = [true]", 'seeds = "0-2"'), "a list of integers"),
        (with_line("seeds = [-1]", 'seeds = "0-2"'), "a list of integers from 0"),
        (with_line("seeds = []", 'seeds = "0-2"'), "no seeds"),
        (with_line('delta = "big"', "delta = 0.01"), "delta: Expected a number, got text"),
        (with_line("delta = 0", "delta = 0.01"), "delta must be a number above 0"),
        (with_line("delta = -0.1", "delta = 0.01"), "delta must be a number above 0"),
        (with_line("delta = nan", "delta = 0.01"), "delta must be a number above 0"),
        (with_line("delta = inf", "delta = 0.01"), "delta must be a number above 0"),
        (with_line("alpha = 0"), "alpha must lie between 0 and 1, not 0"),
        (with_line("alpha = 5"), "alpha must lie between 0 and 1, not 5"),
        (with_line("alpha = nan"), "alpha must lie between 0 and 1"),
        (with_line("timeout = 0"), "timeout must be a number of seconds above 0"),
        (with_line("timeout = nan"), "timeout must be a number of seconds above 0"),
        (with_line("timeout = inf"), "timeout must be a number of seconds above 0"),
        (with_line('timeout = "long"'), "timeout: Expected a number, got text"),
        (with_line('metric = " "'), "metric must be a name"),
        (with_line('direction = "up"'), "direction: 'up' is not one of lower, higher"),
        (with_line('name = ""', 'name = "first"'), "name ''"),
        (with_line('name = "../x"', 'name = "first"'), "name '../x'"),
        (with_line('name = "a\\nb"', 'name = "first"'), "name 'a\\nb'"),
        (with_line(f'name = "{"x" * 81}"', 'name = "first"'), "80 characters"),
        (GOOD.replace('name = "fast"', 'name = "control"'), "two arms are called 'control'"),
        (GOOD.replace('env = { LR = "0.02" }', ""), "arms 'control' and 'fast' change the same"),
        (GOOD.replace("env =", 'predict = "best"\nenv ='), "'best' is not one of better, worse, different"),
        (GOOD.replace('"0.02"', "true"), "[[arm]] number 2: env: Expected text, got true or false"),
        (GOOD.replace('LR = "0.02"', '"A B" = "1"'), "'A B' is not the name of an environment variable"),
        (GOOD.replace("LR =", "SEED ="), "SEED is set by ledger run itself"),
        (GOOD.replace("LR =", "LEDGER_RUN_ID ="), "LEDGER_RUN_ID is set by ledger run itself"),
        (GOOD.replace('env = { LR = "0.02" }', "set = { lr = 1 }"), "set is for the [trainer]"),
        (GOOD.replace('["python", "train.py"]', '"python train.py"'), "script.command: Expected a list, got text"),
        (GOOD.replace('["python", "train.py"]', "[]"), "[script] needs a command"),
        (GOOD.replace('["python", "train.py"]', '["python", ""]'), "[script] needs a command"),
        (GOOD.replace("[[arm]]\n", 'grace = -1\n[[arm]]\n', 1), "grace must be a number of seconds from 0"),
        ('script = "x"\n' + GOOD.replace(SCRIPT, ""), "script: Expected a table, got text"),
        (GOOD.split("[[arm]]")[0], "arm"),
        (with_line("arm = []") .split("[[arm]]")[0], "at least one [[arm]]"),
        (with_line("arm = 3").split("[[arm]]")[0], "arm: Expected a list, got an integer"),
        (GOOD.replace("[script]", "[trainer]\n[script]"), "either a [trainer]"),
        (GOOD.replace(SCRIPT, ""), "either a [trainer]"),
        (GOOD.replace('[script]\ncommand = ["python", "train.py"]', "[trainer]"), "env and args are for a [script]"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said_in_one_line_in_the_words_of_the_file(text, said):
    assert said in refused(text)


@pytest.mark.parametrize(
    ("text", "found"),
    [("0", (0,)), ("0-2", (0, 1, 2)), ("5,1,3-4", (5, 1, 3, 4)), (" 7 , 9 ", (7, 9)), ([3, 1], (3, 1))],
)
def test_seeds_keep_the_order_in_which_they_are_given(text, found):
    assert parse_seeds(text, "x") == found


@pytest.mark.parametrize(
    "text",
    ["", ",", "a", "1-", "-1", "0-2-4", "2-0", "1.5", "0x1", "0,0", "0-3,2", "9223372036854775808", "²", "0-99999"],
)
def test_seeds_that_are_nonsense_are_refused(text):
    with pytest.raises(UsageError):
        parse_seeds(text, "x")


@given(st.lists(st.integers(0, 2**63 - 1), min_size=1, max_size=20, unique=True))
def test_seeds_written_with_commas_are_read_back(seeds):
    assert parse_seeds(",".join(map(str, seeds)), "x") == tuple(seeds)


@given(st.lists(st.integers(0, 200), min_size=1, unique=True))
def test_ranges_of_seeds_read_back_as_the_same_seeds(seeds):
    assert parse_seeds(ranges(seeds), "x") == tuple(sorted(seeds))


@given(st.text(max_size=200))
def test_any_text_is_a_plan_or_is_refused_and_nothing_else_happens(text):
    with pytest.raises(UsageError):
        parse(text, "x")


KEYS = st.sampled_from(["name", "delta", "seeds", "arm", "script", "alpha", "timeout", "metric", "question"])
INNER_KEYS = st.sampled_from(["name", "env", "command", "args", "set", "x"])
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(INNER_KEYS, inner, max_size=3),
    max_leaves=8,
)


def plan_or_message(raw: Callable[[], Plan]) -> Plan | str:
    """What comes of it; any other error than a refusal is a failed test."""
    try:
        return raw()
    except UsageError as error:
        return str(error)


DESIGN_KEYS = ("looks", "stopping", "n_max", "tau", "tuning_seeds", "policy", "platform", "track", "estimand")


@given(st.dictionaries(st.sampled_from(DESIGN_KEYS), VALUES | st.lists(st.integers(0, 9), max_size=4)))
def test_any_design_is_refused_or_comes_to_an_end_that_its_seeds_fit_into(design):
    raw = {"name": "x", "delta": 1.0, "seeds": [0, 1], "script": {"command": ["a"]}, "arm": [{"name": "c"}]}
    found = plan_or_message(lambda: build({**raw, **design}, "x", ""))
    if isinstance(found, Plan):
        assert found.most_seeds is None or found.most_seeds >= len(found.seeds)
        assert not {*found.seeds} & {*found.tuning_seeds}
    else:
        assert "\n" not in found


@given(st.dictionaries(KEYS, VALUES))
def test_any_data_is_a_plan_or_is_refused_and_nothing_else_happens(raw):
    found = plan_or_message(lambda: build(raw, "x", ""))
    assert isinstance(found, Plan) or "\n" not in found


@pytest.mark.parametrize(
    "value", ["nan", "inf", "2026-01-01", "12:30:00", "{ a = [nan] }", "123456789012345678901234567890"]
)
def test_a_setting_of_any_type_of_toml_makes_a_plan_or_is_refused(value):
    text = GOOD.replace('[script]\ncommand = ["python", "train.py"]', "[trainer]")
    text = text.replace('env = { LR = "0.02" }', f"set = {{ x = {value} }}")
    found = plan_or_message(lambda: parse(text, "x"))
    assert isinstance(found, Plan) or "\n" not in found

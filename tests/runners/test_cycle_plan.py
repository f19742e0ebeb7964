"""Cycle plans: what one says, the plans of its cycles, and what it may not say."""

import pytest

from ledger.errors import UsageError
from runners import plan_text
from runners.cycle_plan import parse
from runners.plan import parse as parse_plan

PLAN = """\
name = "try"
delta = 0.01
seeds = 2
batch = 2
[trainer]
steps = 5
[control]
name = "relu2"
[[candidate]]
name = "gelu"
set = { activation = "gelu" }
cost = 2.5
effect = -0.001
sd = 0.004
feasible = 0.5
[[candidate]]
name = "wide"
set = { mlp_mult = 4 }
predict = "better"
[stop]
cycles = 3
price = 1e-6
"""


def test_a_cycle_plan_says_what_may_be_tried_and_when_it_ends():
    plan = parse(PLAN, "p")
    gelu, wide = plan.candidates
    assert (gelu.cost, gelu.mean, gelu.sd, gelu.feasible) == (2.5, -0.001, 0.004, 0.5)
    assert (wide.cost, wide.mean, wide.sd, wide.feasible) == (None, 0.0, 0.01, 1.0)
    assert [(rule.rule, rule.limit) for rule in plan.stop] == [("cycles", 3.0), ("price", 1e-6)]
    assert (plan.adopt, plan.alpha) == (0.005, 0.05)


def test_each_cycle_has_fresh_seeds():
    plan = parse(PLAN, "p")
    assert [plan.seeds_of(number) for number in (1, 2, 3)] == [(0, 1), (2, 3), (4, 5)]
    assert parse("first_seed = 100\n" + PLAN, "p").seeds_of(2) == (102, 103)


def test_the_plan_of_a_cycle_is_one_that_can_be_run_by_itself():
    made = parse(PLAN, "p").experiment("try-c2", ("wide",), (2, 3), "try/1234", 2)
    again = parse_plan(made.text, "again")
    assert again == made
    assert (again.alpha, again.family, again.cycle) == (0.05, "try/1234", 2)
    assert (again.seeds, again.trainer) == ((2, 3), {"steps": 5})
    assert [(arm.name, arm.set, arm.predict) for arm in again.arm] == [
        ("relu2", {}, "different"),
        ("wide", {"mlp_mult": 4}, "better"),
    ]


def test_a_script_and_everything_else_of_a_plan_is_passed_on():
    text = PLAN.replace("[trainer]\nsteps = 5\n", '[script]\ncommand = ["sh", "-c", "true"]\nenv = { A = "1" }\n')
    text = text.replace('set = { activation = "gelu" }', 'env = { X = 1 }\nargs = ["--x"]').replace(
        "set = { mlp_mult = 4 }", 'env = { X = "é\\"\\\\" }'
    )
    text = 'metric = "acc"\ndirection = "higher"\nscale = "small"\ntimeout = 5\n' + text
    made = parse(text, "p").experiment("try-c1", ("gelu", "wide"), (0, 1))
    assert (made.metric, made.direction, made.scale, made.timeout) == ("acc", "higher", "small", 5)
    assert made.script.command == ("sh", "-c", "true")
    assert [(arm.env, arm.args) for arm in made.arm[1:]] == [({"X": "1"}, ("--x",)), ({"X": 'é"\\'}, ())]


@pytest.mark.parametrize(
    ("old", "new", "why"),
    [
        ("batch", "bacht", "unknown key 'bacht'; did you mean 'batch'"),
        ("feasible", "feasable", r"\[\[candidate\]\] number 1 has .*'feasable'; did you mean 'feasible'"),
        ("cycles = 3", "cyles = 3", r"\[stop\] has an unknown key 'cyles'; did you mean 'cycles'"),
        ("cycles = 3\n", "", "needs an end that is sure to come"),
        ("cycles = 3", "cycles = 2.5", "cycles must be a whole number"),
        ("price = 1e-6", "price = -1", "price must be a number from 0"),
        ("seeds = 2", "seeds = 1", "seeds must be a whole number from 2"),
        ("seeds = 2", 'seeds = "0-2"', "seeds must be a whole number"),
        ("batch = 2", "batch = 0", "batch must be a whole number from 1"),
        ("delta = 0.01\n", "", "no delta"),
        ('[control]\nname = "relu2"\n', "", r"no \[control\]"),
        ("cost = 2.5", "cost = 0", "cost must be a number above 0"),
        ("sd = 0.004", "sd = nan", "sd must be a number above 0"),
        ("feasible = 0.5", "feasible = 2", "feasible is a probability"),
        ('name = "wide"', 'name = "gelu"', "two arms are called 'gelu'"),
        ("set = { mlp_mult = 4 }", 'set = { activation = "gelu" }', "change the same"),
        ("set = { mlp_mult = 4 }", "set = 4", r"\[\[candidate\]\] number 2: .*set"),
        ("set = { mlp_mult = 4 }", 'env = { A = "1" }', "env and args are for a"),
        ("[trainer]\nsteps = 5\n", "", "either a"),
        ('predict = "better"', 'predict = "good"', "'good' is not one of better, worse, different"),
        ("[[candidate]]", "[[arm]]", r"this is a plan with arms: `ledger run`"),
        ("name = \"try\"", "name =", "not TOML"),
        ("seeds = 2", 'seeds = 2\npolicy = "seed-plan"', "only policy ledger splits alpha"),
        ("seeds = 2", "seeds = 2\nrecords = 3", "records must be a folder"),
        ("seeds = 2", "seeds = 2\nadopt = inf", "adopt must be a number"),
    ],
)  # fmt: skip
def test_a_cycle_plan_that_does_not_hold_together_is_refused_in_one_line(old, new, why):
    assert old in PLAN
    with pytest.raises(UsageError, match=why) as refused:
        parse(PLAN.replace(old, new), "p.toml")
    assert "\n" not in str(refused.value)
    assert "p.toml" in str(refused.value)


def test_a_plan_that_compares_says_when_it_is_given_a_cycle_plan():
    with pytest.raises(UsageError, match="`ledger cycle`"):
        parse_plan(PLAN, "p.toml")


def test_toml_that_is_written_reads_back_as_it_was():
    import tomllib

    data = {
        "a": 'quotes " and \\ and é and \x7f and \n',
        "n": [1, 2.5, True],
        "none": None,
        "t": {"x y": 1, "deep": {"k": "v"}, "empty": {}},
        "rows": [{"name": "one", "set": {"a": False}}, {"name": "two"}],
    }
    read = tomllib.loads(plan_text.dumps(data, ["a comment", ""]))
    assert read == {
        "a": data["a"],
        "n": [1, 2.5, True],
        "t": {"x y": 1, "deep": {"k": "v"}},
        "rows": data["rows"],
    }

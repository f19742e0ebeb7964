"""Screens as plans: designs with their laws, and what a plan of one may not say."""

import pytest

from ledger.errors import UsageError
from runners import screens
from runners.plan import parse

TRAINED = """\
kind = "screen"
name = "many"
delta = 0.01
seeds = "0"
[trainer]
steps = 5
"""
FACTORS = """\
[[factor]]
name = "gelu"
set = { activation = "gelu" }
[[factor]]
name = "cap"
set = { softcap = 15.0 }
low = { softcap = 30.0 }
"""


@pytest.mark.parametrize("n", range(4, 52, 4))
def test_there_is_a_hadamard_matrix_of_every_order_that_is_needed(n):
    rows = screens.hadamard(n)
    assert len(rows) == n
    assert all(row[0] == 1 for row in rows)
    for i, a in enumerate(rows):
        for j, b in enumerate(rows):
            assert sum(x * y for x, y in zip(a, b, strict=True)) == (n if i == j else 0)


@pytest.mark.parametrize("factors", [2, 3, 4, 7, 11, 13, 24, 27, 31, 47])
def test_a_folded_screen_is_balanced_and_confuses_no_effect_with_an_interaction_of_two(factors):
    stacks = screens.folded(factors)
    assert stacks[0] == (-1,) * factors
    assert len({*stacks}) == len(stacks)
    columns = list(zip(*stacks, strict=True))
    for i, a in enumerate(columns):
        assert sum(a) == 0
        for j, b in enumerate(columns[:i]):
            assert sum(x * y for x, y in zip(a, b, strict=True)) == 0
            product = [x * y for x, y in zip(a, b, strict=True)]
            for column in columns[: 5 if factors > 13 else factors]:
                assert sum(x * y for x, y in zip(product, column, strict=True)) == 0, (i, j)


def test_the_number_of_runs_is_what_the_ranking_counts_with():
    from projections.statistics.screen import runs_of

    assert [len(screens.folded(n)) for n in range(2, 48)] == [runs_of(n) for n in range(2, 48)]
    assert runs_of(24) == 56


def test_a_screen_becomes_a_plan_that_explores_with_its_stacks_as_arms():
    plan = parse(TRAINED + FACTORS, "p")
    assert (plan.kind, plan.track) == ("screen", "explore")
    assert [(arm.name, arm.set) for arm in plan.arm] == [
        ("base", {"softcap": 30.0}),
        ("s01", {"activation": "gelu", "softcap": 15.0}),
        ("s02", {"softcap": 15.0}),
        ("s03", {"activation": "gelu", "softcap": 30.0}),
    ]


def test_a_script_gets_the_levels_in_its_environment():
    text = TRAINED.replace("[trainer]\nsteps = 5\n", '[script]\ncommand = ["true"]\n')
    plan = parse(text + '[[factor]]\nname = "a"\nenv = { A = 1 }\n[[factor]]\nname = "b"\nenv = { B = "x" }\n', "p")
    assert [arm.env for arm in plan.arm] == [{}, {"A": "1", "B": "x"}, {"B": "x"}, {"A": "1"}]


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (TRAINED, "2 to 47 .*factor"),
        (TRAINED + FACTORS.split("[[factor]]\nname = \"cap\"")[0], "2 to 47"),
        (
            TRAINED + FACTORS + '[[factor]]\nname = "sin"\nset = { activation = "sin" }\n',
            "'gelu' and 'sin' both set 'activation'.*levels of one factor",
        ),
        (TRAINED + FACTORS.replace('"cap"', '"gelu"'), "two factors are called 'gelu'"),
        (TRAINED + FACTORS.replace("set = { softcap = 15.0 }", "set = { softcap = 30.0 }"), "changes nothing"),
        (TRAINED + FACTORS.replace("set = { act", "env = { act"), "takes set"),
        (TRAINED + FACTORS.replace("low =", "lwo ="), "unknown key 'lwo'; did you mean 'low'"),
        (TRAINED + FACTORS + '[[arm]]\nname = "x"\n', "takes no 'arm'"),
        ('track = "confirm"\n' + TRAINED + FACTORS, "can suggest, not confirm"),
        ("looks = [2, 3]\n" + TRAINED + FACTORS, "takes no 'looks'"),
        (TRAINED.replace('kind = "screen"\n', "") + FACTORS, 'for kind = "screen"'),
        (TRAINED.replace('"screen"', '"scren"') + '[[arm]]\nname = "x"\n', "'scren' is not one of compare, screen"),
        ("factor = 3\n" + TRAINED, "must be a list of tables"),
        (TRAINED + FACTORS.replace("set = { activation = \"gelu\" }", "set = 3"), "number 1: .*set"),
    ],
)  # fmt: skip
def test_what_is_no_screen_is_refused_in_one_line(text, why):
    with pytest.raises(UsageError, match=why) as refused:
        parse(text, "p.toml")
    assert "\n" not in str(refused.value)
    assert str(refused.value).startswith("p.toml: ")

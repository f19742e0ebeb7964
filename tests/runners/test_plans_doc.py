"""docs/plans.md has every key of a plan with its default, no key that is not there, and plans that hold."""

import json
import re
import tomllib
from pathlib import Path

import msgspec
import pytest

from runners.plan import Plan, PlanArm, Script, parse
from runners.registration import PAIR_TIER, POLICY
from runners.screens import PlanFactor

TEXT = (Path(__file__).parents[2] / "docs" / "plans.md").read_text(encoding="utf-8")
PLANS = re.findall(r"^```toml\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)
ELSEWHERE = {  # defaults that are filled in where a plan is registered
    "pair_tier": json.dumps(PAIR_TIER),
    "policy": json.dumps(POLICY.partition("/")[0]),
    "platform": "this machine's kind",
    "tau": "delta",
}


def rows(heading):
    """Key -> default of the tables below a heading, to the next of its level."""
    part = re.search(rf"^## {re.escape(heading)}.*?(?=^## |\Z)", TEXT, re.MULTILINE | re.DOTALL)[0]
    return dict(re.findall(r"^\| `(\w+)` \| ([^|]*?) ?\| [^|]+ \|$", part, re.MULTILINE))


def keys(struct):
    """Key -> default of what the parser takes, as the page writes it."""
    found = {}
    for field in msgspec.structs.fields(struct):
        value = (
            field.default_factory() if field.default is msgspec.NODEFAULT and not field.required else field.default
        )
        if field.required:
            found[field.name] = ""
        elif not value:
            found[field.name] = "(none)"
        else:
            found[field.name] = json.dumps(value)
    return found


def test_the_top_level_has_every_key_with_its_default():
    expected = keys(Plan) | ELSEWHERE | {"small": "(none)"}
    del expected["text"]
    assert rows("At the top") == expected


@pytest.mark.parametrize(
    ("heading", "struct"), [("`[[arm]]`", PlanArm), ("`[script]`", Script), ("`[[factor]]`", PlanFactor)]
)
def test_a_table_has_every_key_with_its_default(heading, struct):
    assert rows(heading) == keys(struct)


def test_the_small_table_has_the_keys_that_only_it_has():
    part = TEXT.partition("## `[small]`")[2]
    assert all(f"`{key}`" in part for key in ("trainer", "script", "arms", "leave_out", "arm", "factor", "kind"))


@pytest.mark.parametrize("text", PLANS, ids=[tomllib.loads(text)["name"] for text in PLANS])
def test_an_example_is_a_plan(text):
    plan = parse(text, "docs/plans.md")
    if "[small]" in text:
        assert len(parse(text, "docs/plans.md", small=True).arm) < len(plan.arm)


def test_there_is_an_example_of_each_kind():
    plans = [parse(text, "docs/plans.md") for text in PLANS]
    assert {plan.kind for plan in plans} == {"compare", "screen"}
    assert any(plan.script for plan in plans)
    assert any(plan.pair_tier == "fork" for plan in plans)
    assert any(plan.stopping == "looks" for plan in plans)

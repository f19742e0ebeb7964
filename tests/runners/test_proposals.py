"""Ready plans: each loads, keeps what its experiment says, and says what it left out."""

import pytest

from ledger.errors import UsageError
from runners import proposals
from runners.plan import parse

RAW = {
    "name": "first",
    "metric": "val_bpb",
    "delta": 0.01,
    "scale": "small",
    "trainer": {"steps": 5},
    "arm": [
        {"name": "base", "set": {"softcap": 20.0, "qk_gain": 2.0}},
        {"name": "gelu", "set": {"activation": "gelu", "softcap": 20.0, "qk_gain": 2.0}},
        {"name": "cap", "set": {"softcap": 15.0, "qk_gain": 2.0}},
        {"name": "sin", "set": {"activation": "sin", "softcap": 20.0, "qk_gain": 2.0}},
        {"name": "wide", "set": {"mlp_mult": 4, "softcap": 20.0, "qk_gain": 2.0}, "predict": "better"},
        {"name": "bare", "set": {"mlp_mult": 3}},
    ],
}


def test_arms_again_keep_their_settings_beside_the_control():
    plan = parse(proposals.again(RAW, ["wide"], "wide-more", (7, 8), "A reason.", {}).text, "p")
    assert (plan.name, plan.seeds, plan.scale, plan.trainer) == ("wide-more", (7, 8), "small", {"steps": 5})
    assert [(arm.name, arm.predict) for arm in plan.arm] == [("base", "different"), ("wide", "better")]
    alone = parse(proposals.again(RAW, [], "controls", (7,), "A reason.", {}).text, "p")
    assert [arm.name for arm in alone.arm] == ["base"]


def test_a_screen_of_arms_moves_the_controls_settings_into_the_base_and_names_what_it_leaves_out():
    made, left = proposals.screen(RAW, ["cap", "wide", "sin", "gelu", "bare"], "all", (9,), "A reason.")
    plan = parse(made.text, "p")
    assert left == ["gelu", "bare"]  # one excludes another, one takes back what the control sets
    assert "Left out" in made.text
    assert [(factor.name, factor.set, factor.low) for factor in plan.factor] == [
        ("cap", {"softcap": 15.0}, {"softcap": 20.0}),
        ("wide", {"mlp_mult": 4}, {}),
        ("sin", {"activation": "sin"}, {}),
    ]
    assert plan.trainer == {"steps": 5, "qk_gain": 2.0}
    assert plan.arm[0].set == {"softcap": 20.0}


def test_a_screen_of_changes_that_exclude_each_other_is_none():
    with pytest.raises(UsageError, match="fewer than two"):
        proposals.screen(RAW, ["gelu", "sin"], "all", (9,), "A reason.")


def test_a_factor_by_itself_is_compared_with_the_screens_base():
    raw = {
        "delta": 0.01,
        "trainer": {"steps": 5},
        "factor": [
            {"name": "cap", "set": {"softcap": 15.0}, "low": {"softcap": 30.0}},
            {"name": "wide", "set": {"mlp_mult": 4}},
        ],
    }
    plan = parse(proposals.factor_by_itself(raw, "cap", "cap-next", (3, 4), "A reason.").text, "p")
    assert [(arm.name, arm.set) for arm in plan.arm] == [("base", {"softcap": 30.0}), ("cap", {"softcap": 15.0})]
    with pytest.raises(UsageError, match="no factor 'x'"):
        proposals.factor_by_itself(raw, "x", "x-next", (3, 4), "A reason.")


def test_what_is_not_there_any_more_is_said():
    with pytest.raises(UsageError, match="no arm 'tanh' any more"):
        proposals.again(RAW, ["tanh"], "x", (1, 2), "A reason.", {})
    with pytest.raises(UsageError, match="cannot be read"):
        proposals.raw_plan("= nonsense", "first")
    assert proposals.raw_plan('{"a": 1}', "first") == {"a": 1}

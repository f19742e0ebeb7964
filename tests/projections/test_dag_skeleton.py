"""The expert's file: what it may say, and one line for what it may not."""

import pytest

from ledger.errors import UsageError
from projections.dag.skeleton import default_text, parse

NODES = """
[[node]]
id = "val_bpb"
kind = "outcome"
delta = 0.002

[[node]]
id = "step_time"
delta = 0.01

[[node]]
id = "xsa"
kind = "intervention"
"""


def edge(src, dst, more=""):
    return f'[[edge]]\nsrc = "{src}"\ndst = "{dst}"\n{more}\n'


def test_the_built_in_skeleton_has_the_mediators_and_the_identity():
    found = parse(default_text())
    assert found.outcome.id == "val_bpb"
    assert {node.id for node in found.nodes.values() if node.kind == "mediator"} == {
        "step_time", "tokens_seen", "artifact_bytes", "pre_quant_bpb", "quant_gap", "ttt_gain",
    }  # fmt: skip
    accounting = {edge.src for edge in found.edges if edge.kind == "accounting"}
    assert accounting == {"pre_quant_bpb", "quant_gap", "ttt_gain"}
    assert found.into("quantization") == ("quant_gap", "artifact_bytes", "val_bpb")
    assert found.into("never heard of") == ("val_bpb",)


def test_an_intervention_may_be_named_with_the_sign_of_its_effect():
    found = parse(NODES + edge("xsa", "val_bpb", 'expect = "lower"'))
    assert [(one.src, one.dst, one.expect) for one in found.edges] == [("xsa", "val_bpb", "lower")]


def test_the_same_text_has_the_same_digest():
    assert parse(NODES).digest == parse(NODES).digest != parse(default_text()).digest


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("node = [", "is not TOML"),
        ("[[nodes]]\nid = 'a'", r"no table \[\[nodes\]\]; did you mean 'node'"),
        ("[node]\nid = 'a'", r"write \[\[node\]\]"),
        ("", "expected one node of kind outcome, found none"),
        (NODES + '[[node]]\nid = "b"\nkind = "outcome"\ndelta = 1', "found val_bpb, b"),
        (NODES + '[[node]]\nid = "step_time"\ndelta = 1', "declared twice"),
        (NODES + '[[node]]\nid = "b"', "needs delta"),
        (NODES + '[[node]]\nid = "b"\ndelta = -1', "expected a number above 0"),
        (NODES + '[[node]]\nid = "b"\ndelta = nan', "expected a number above 0"),
        (NODES + '[[node]]\nid = "b"\ndelta = 1\nkind = "thing"', "expected intervention, mediator or outcome"),
        (NODES + '[[node]]\nid = "b"\ndelta = 1\nscale = "cubic"', "expected linear or log"),
        (NODES + '[[node]]\nid = ""\ndelta = 1', "1 to 128 printable characters"),
        (NODES + '[[node]]\nid = "a\\u001b"\ndelta = 1', "1 to 128 printable characters"),
        (NODES + '[[node]]\nidd = "b"\ndelta = 1', "no key 'idd'; did you mean 'id'"),
        (NODES + edge("step_tim", "val_bpb"), "no node 'step_tim' is declared; did you mean 'step_time'"),
        (NODES + edge("step_time", "xsa"), "an edge into the intervention 'xsa'"),
        (NODES + edge("step_time", "val_bpb") * 2, "drawn twice"),
        (NODES + edge("step_time", "val_bpb") + edge("val_bpb", "step_time"), "run in a circle: .* -> "),
        (NODES + edge("step_time", "step_time"), "run in a circle"),
        (NODES + edge("step_time", "val_bpb", 'kind = "proposed"'), "expected imposed or accounting"),
        (NODES + edge("step_time", "val_bpb", 'kind = "accounting"'), "an accounting edge has an effect"),
        (NODES + edge("step_time", "val_bpb", "effect = 1.0"), "an accounting edge has an effect"),
        (NODES + edge("step_time", "val_bpb", 'expect = "better"'), "expected lower, higher or any"),
        (NODES + '[[rule]]\nkind = "data"\ninto = ["nowhere"]', "no node 'nowhere'"),
        (NODES + '[[rule]]\nkind = "data"\ninto = ["xsa"]', "an edge into the intervention 'xsa'"),
        (NODES + '[[rule]]\nkind = "data"\ninto = "step_time"', "expected into = "),
        (NODES + '[[rule]]\nkind = "data"\ninto = []\n[[rule]]\nkind = "data"\ninto = []', "two rules for 'data'"),
    ],
)
def test_what_is_wrong_is_one_line_with_its_place(text, said):
    with pytest.raises(UsageError, match=said) as refused:
        parse(text, "mine.toml")
    assert "\n" not in str(refused.value)
    assert str(refused.value).startswith("mine.toml")

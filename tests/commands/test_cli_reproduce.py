"""`ledger reproduce`: the same bits on a CPU, what differs elsewhere, and exit code 1 when it does not hold."""

import json

import pytest

pytest.importorskip("torch", reason="the built-in trainer needs torch")
pytest.importorskip("sentencepiece", reason="the built-in trainer needs sentencepiece")

from runners import gpt_train, reproduce

PLAN = """
name = "small"
metric = "val_bpb_subset"
delta = 0.01
seeds = "0"
{head}
[trainer]
backend = "torch"
device = "cpu"
width = 32
seq_len = 32
batch_tokens = 256
steps = 5
val_tokens = 640
{settings}
[[arm]]
name = "plain"
[[arm]]
name = "other"
set = {{ {set} }}
"""


@pytest.fixture
def trained(place):
    """A ledger with two small runs; their ids by arm."""

    def run(settings="", set="activation = 'gelu'", head=""):
        place.write("plan.toml", PLAN.format(settings=settings, set=set, head=head))
        done = place.call("run", "plan.toml")
        assert done.code == 0, done.err
        return {row["arm"]: row["run"] for row in place.sql("SELECT arm, run FROM runs")}

    return run


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"settings": "quantize = 'int6'\nema = 0.9\ncorrupt = 0.2"},
        {"set": "eval = 'sliding', eval_stride = 8", "head": "pair_tier = 'fork'"},
    ],
    ids=["plain", "quantized", "forked"],
)
def test_a_run_on_a_cpu_comes_out_with_the_same_bits(trained, place, change):
    for arm, run in trained(**change).items():
        done = place.call("reproduce", run[:8])
        assert done.code == 0, done.out + done.err
        assert done.out.startswith(f"{arm} seed 0 ({run[:8]}) comes out with the same bits\n")
        assert "val_bpb_subset" in done.out
    assert place.call("verify").code == 0


def test_json_holds_every_figure(trained, place):
    found = place.call("--json", "reproduce", trained()["plain"]).json
    assert (found["holds"], found["exact"], found["expected"]) == (True, True, "bits")
    assert (found["points"], found["points_equal"], found["steps"]) == (5, 5, 5)
    assert {figure["name"] for figure in found["figures"]} >= {"val_bpb_subset", "val_loss_subset", "train_loss"}
    assert all(figure["then"] == figure["now"] for figure in found["figures"])


def _begins_elsewhere(monkeypatch, factor):
    fresh = gpt_train.init_params

    def other(config, seed):
        params = fresh(config, seed)
        params["embed"] *= factor
        return params

    monkeypatch.setattr(gpt_train, "init_params", other)


def test_a_run_that_does_not_come_out_says_by_how_much_and_exits_with_1(trained, place, monkeypatch):
    run = trained()["plain"]
    _begins_elsewhere(monkeypatch, 1.0001)
    done = place.call("reproduce", run)
    assert done.code == 1
    assert "does not come out" in done.out
    assert "of 5 steps are equal bit by bit" in done.out
    assert "losses of 5 of 5" not in done.out
    assert "the furthest, step" in done.out


def test_other_code_is_said_and_then_a_tolerance_is_enough(trained, place, monkeypatch):
    run = trained()["plain"]
    _begins_elsewhere(monkeypatch, 1.0001)
    monkeypatch.setattr(reproduce, "code_digest", lambda backend: "f" * 64)
    done = place.call("reproduce", run)
    assert done.code == 0, done.out
    assert "comes out within 0.001" in done.out
    assert "code: it was " in done.out
    assert "it is ffffffffffff" in done.out
    assert "the same bits are not expected: code differs" in done.out
    assert place.call("reproduce", run, "--tolerance", "1e-9").code == 1


def test_another_torch_is_said_by_its_version(trained, place, monkeypatch):
    run = trained()["plain"]
    real = reproduce.capture.capture_environment

    def older(*given):
        import msgspec

        found = real(*given)
        packages = tuple(
            msgspec.structs.replace(package, version="9.9") if package.name == "torch" else package
            for package in found.packages
        )
        return msgspec.structs.replace(found, packages=packages)

    monkeypatch.setattr(reproduce.capture, "capture_environment", older)
    done = place.call("reproduce", run)
    assert done.code == 0, done.out
    assert "library: it was torch " in done.out
    assert "it is torch 9.9" in done.out
    assert "code: " not in done.out  # the digest holds torch's version; that is no other code


def test_other_data_are_refused_before_anything_is_trained(trained, place, monkeypatch, tmp_path):
    from runners import corpus

    run = trained()["plain"]
    documents = {f"{number}": "some words about nothing at all\n" * 40 + f"number {number}" for number in range(99)}
    other = corpus.build(documents, tmp_path / "other", vocab_size=300)
    monkeypatch.setattr(reproduce, "open_text", lambda *_: other)
    done = place.call("reproduce", run)
    assert done.code == 2
    assert "was trained on other data: tokenizer.model was" in done.complaint


def test_what_cannot_be_trained_again_is_refused_in_one_line(place):
    place.write("t.py", "print('val_bpb: 1.0')")
    assert place.run("--name", "script", script="t.py", seeds="0").code == 0
    run = place.sql("SELECT run FROM runs")[0]["run"]
    done = place.call("reproduce", run)
    assert done.code == 2
    assert "was carried out by script/1; only the built-in trainer's runs" in done.complaint
    assert "no run's id begins with 'zzz'" in place.call("reproduce", "zzz").complaint


def test_what_came_out_can_be_recorded(trained, place):
    done = place.call("reproduce", trained()["plain"], "--record")
    assert done.code == 0
    (event,) = [event for event in place.events() if event["type"] == "probe.measured"]
    values = {value["name"]: value["value"] for value in event["data"]["values"]}
    assert (values["holds"], values["exact"], values["worst_deviation"]) == (1, 1, 0)
    assert json.dumps(values)
    assert place.call("verify").code == 0

"""`ledger run` with the built-in trainer in MLX and in torch: the same outcomes, and never one comparison of both."""

from __future__ import annotations

import importlib.util

import pytest

pytest.importorskip("sentencepiece", reason="the trainer's tokenizer needs sentencepiece")
needs_mlx = pytest.mark.skipif(importlib.util.find_spec("mlx") is None, reason="needs experiment-ledger[mlx]")
needs_torch = pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="needs experiment-ledger[torch]")

PLAN = """\
name = "tiny"
metric = "val_bpb_subset"
delta = 0.01
seeds = "0-1"
[trainer]
backend = "{backend}"
device = "cpu"
steps = 3
width = 32
seq_len = 32
batch_tokens = 64
val_tokens = 128
[[arm]]
name = "relu2"
[[arm]]
name = "{arm}"
set = {{ {change} }}
"""


def run(place, backend, arm="gelu", change='activation = "gelu"'):
    place.write("plan.toml", PLAN.format(backend=backend, arm=arm, change=change))
    return place.call("--json", "run", "plan.toml")


@needs_mlx
def test_a_plan_trains_on_mlx_end_to_end(home):
    done = run(home, "mlx")
    assert done.code == 0, done.err
    assert done.json["statuses"] == {"ok": 4}
    assert [made["intervention"] for made in done.json["decisions"]] == ["gelu"]
    rows = home.sql("SELECT runner, hardware_class, steps, value FROM runs")
    assert {row["runner"] for row in rows} == {"gpt-mlx/1"}
    assert all(row["hardware_class"].endswith(" mlx") for row in rows)
    assert {row["steps"] for row in rows} == {3}
    assert len({row["value"] for row in rows}) == 4
    assert home.sql("SELECT count(*) AS n FROM metrics WHERE name = 'train_loss'")[0]["n"] == 12
    assert run(home, "mlx").json["ran"] == 0  # known already


@needs_mlx
@needs_torch
def test_the_backends_leave_the_same_facts_and_are_two_experiments_on_two_bases(home):
    for backend in ("mlx", "torch"):
        assert run(home, backend).code == 0
    rows = home.sql("SELECT experiment, base, runner, arm, seed, value FROM runs ORDER BY arm, seed, runner")
    assert len({row["base"] for row in rows}) == len({row["experiment"] for row in rows}) == 2
    for ours, theirs in zip(rows[::2], rows[1::2], strict=True):
        assert (ours["arm"], ours["seed"]) == (theirs["arm"], theirs["seed"])
        assert ours["value"] == pytest.approx(theirs["value"], rel=1e-4)
    facts = [event for event in home.events() if event["type"] in ("run.started", "run.finished")]
    shapes = {}
    for event in facts:
        data = event["data"]
        said = {name for name, value in data.items() if value is not None}
        lists = [sorted(item["name"] for item in data.get(name) or ()) for name in ("config", "metrics", "finals")]
        shapes.setdefault(event["type"], []).append((said, lists))
    for kind, found in shapes.items():
        assert all(shape == found[0] for shape in found), kind
    code = home.sql("SELECT DISTINCT code FROM runs")
    assert len(code) == 2


@needs_mlx
def test_a_run_on_mlx_is_reproduced_on_mlx_bit_by_bit(home):
    run(home, "mlx", change='activation = "gelu", token_drop = 0.2, quantize = "int6"')
    known = home.sql("SELECT run FROM runs WHERE arm = 'gelu' AND seed = 1")[0]["run"]
    done = home.call("--json", "reproduce", known)
    assert done.code == 0, done.err
    assert (done.json["exact"], done.json["expected"]) == (True, "bits")
    assert (done.json["points"], done.json["points_equal"]) == (3, 3)
    assert {figure["name"] for figure in done.json["figures"]} >= {"val_bpb_subset", "artifact_bytes", "train_loss"}


@needs_mlx
def test_arms_on_two_backends_are_refused_before_anything_is_written(home):
    before = home.size()
    done = run(home, "mlx", "torch", 'backend = "torch"')
    assert done.code == 2
    assert "arm 'torch' trains on torch and arm 'relu2' on mlx" in done.err
    assert home.size() == before


@pytest.mark.parametrize(("backend", "other"), [("mlx", "torch"), ("torch", "mlx")])
def test_a_backend_that_is_not_installed_is_told_in_one_line_with_what_to_do(home, monkeypatch, backend, other):
    from runners import trainer

    real = importlib.util.find_spec
    monkeypatch.setattr(trainer, "find_spec", lambda name: None if name == backend else real(name))
    home.write("plan.toml", PLAN.format(backend=backend, arm="gelu", change='activation = "gelu"'))
    done = home.call("run", "plan.toml")
    assert done.code == 2
    assert done.complaint == (
        f"ledger: the built-in trainer needs {backend}: pip install 'experiment-ledger[{backend}]' "
        f"(or set backend = '{other}' in [trainer])"
    )


def test_auto_is_mlx_on_apple_silicon_and_torch_elsewhere(monkeypatch):
    import platform
    import sys

    from runners.gpt_config import GptConfig, backend_of

    for system, machine, backend in (
        ("darwin", "arm64", "mlx"),
        ("darwin", "x86_64", "torch"),
        ("linux", "aarch64", "torch"),
    ):
        monkeypatch.setattr(sys, "platform", system)
        monkeypatch.setattr(platform, "machine", lambda machine=machine: machine)
        assert backend_of(GptConfig()) == backend

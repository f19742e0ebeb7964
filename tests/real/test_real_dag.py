"""The causal DAG of the leaderboard's own records, beside own experiments. Skipped where they are not there."""

from __future__ import annotations

import importlib.util
import random
import sys
from pathlib import Path

import pytest

from commands.main import run as run_command_line
from ledger.chain import Log
from projections.dag import parts
from projections.dag.difference import difference
from projections.engine import tables

GOLF = Path(__file__).resolve().parents[2].parent / "shared" / "data" / "parameter-golf"

pytestmark = pytest.mark.skipif(not GOLF.is_dir(), reason="the records of the leaderboard are not on this machine")
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "projections"))  # history.py, lineages.py


@pytest.fixture(scope="module")
def revised(tmp_path_factory):
    """A ledger with the records and two experiments on techniques of theirs, revised before and after new seeds."""
    import msgspec
    from history import fill
    from lineages import plan

    path = str(tmp_path_factory.mktemp("real") / "ledger")
    log = Log.create(path)
    assert run_command_line(["--ledger", path, "extract", str(GOLF)]) == 0
    rng = random.Random(4)

    def values(effect, arm, seeds):
        return {
            (name, s): 1.1 + at + rng.gauss(0, 0.0007) for name, at in (("control", 0), (arm, effect)) for s in seeds
        }

    xsa = plan("e1", ["xsa"], [0, 1, 2], base="one")
    fill(log, xsa, values(-0.004, "xsa", [0, 1, 2]))
    fill(log, plan("e2", ["warmdown"], [0, 1, 2], base="two"), values(0.0, "warmdown", [0, 1, 2]))
    assert run_command_line(["--ledger", path, "dag", "revise"]) == 0
    more = msgspec.structs.replace(xsa, seeds=(0, 1, 2, 3, 4), amends="x")
    ids = fill(log, more, values(-0.004, "xsa", [3, 4]))
    assert run_command_line(["--ledger", path, "dag", "revise"]) == 0
    return path, ids


def revisions(path):
    return [made for _, made in parts.revisions(tables(Log(path)))]


def test_the_records_make_a_dag_of_techniques(revised):
    made = revisions(revised[0])[-1]
    assert len([node for node in made.nodes if node.kind == "intervention"]) >= 25
    assert len(made.edges) > 100
    found = {edge.src: edge for edge in made.edges if edge.dst == "val_bpb"}
    sliding = found["sliding-window-eval"]
    assert (sliding.kind, sliding.status) == ("lineage", "supported")
    assert -0.035 < sliding.effect < -0.02
    assert sliding.stability > 0.9


def test_lineage_effects_stand_beside_those_of_experiments(revised):
    found = {edge.src: edge for edge in revisions(revised[0])[-1].edges if edge.dst == "val_bpb"}
    xsa = found["xsa"]
    assert (xsa.kind, xsa.status) == ("experiment", "supported")
    assert xsa.effect == xsa.experiment_effect != xsa.lineage_effect
    assert xsa.lineage_effect is not None


def test_parents_that_cannot_be_are_named(revised):
    notes = revisions(revised[0])[-1].notes
    assert any("2026-04-10_VarLenAttn" in note and "is that its parent?" in note for note in notes)


def test_new_seeds_move_their_own_edge_and_the_runs_are_named(revised):
    path, ids = revised
    before, after = revisions(path)
    moved = [one for one in difference(before, after) if one.cause == "evidence"]
    assert [(one.src, one.dst) for one in moved] == [("xsa", "val_bpb")]
    assert set(moved[0].event_ids) == set(ids)
    assert [one for one in difference(before, after) if one.src in ("sliding-window-eval", "warmdown")] == []


def test_both_revisions_come_out_exactly_again(revised, capsys):
    assert run_command_line(["--ledger", revised[0], "replay", "--all"]) == 0
    assert "2 of 2 judgements come out exactly" in capsys.readouterr().out


@pytest.mark.skipif(importlib.util.find_spec("pygraphviz") is None, reason="the extra `graph` is not installed")
def test_the_drawing_has_twenty_five_techniques_and_fits_a_page(revised, tmp_path):
    import re

    path = tmp_path / "dag.svg"
    assert run_command_line(["--ledger", revised[0], "dag", "show", "--format", "svg", "-o", str(path)]) == 0
    svg = path.read_text()
    found = re.search(r'<svg width="(\d+)pt" height="(\d+)pt"', svg)
    assert found
    assert int(found[1]) < 1100
    assert svg.count('class="node"') >= 25 + 7

"""`ledger dag` and the replay of its revisions, on real runs: what people and programs read, what is refused."""

from __future__ import annotations

import importlib.util
import re
import shutil
import sys

import pytest

HAS = {name: importlib.util.find_spec(name) is not None for name in ("graphviz", "pygraphviz")}
needs_graphs = pytest.mark.skipif(not all(HAS.values()), reason="the extra `graph` is not installed")


ARMS = ["--arm", "EFFECT=-0.2", "--arm", "EFFECT=0.1", "--arm", "EFFECT=0.00001"]


@pytest.fixture
def study(dag_folder, place):
    """A copy of the study without a revision, to do with as one likes."""
    shutil.copytree(dag_folder / "plain", place.folder, dirs_exist_ok=True)
    return place


@pytest.fixture
def revised(dag_folder, place):
    """A copy of the study with one revision."""
    shutil.copytree(dag_folder / "revised", place.folder, dirs_exist_ok=True)
    return place


def test_a_revision_is_made_and_not_made_twice(study):
    done = study.call("dag", "revise")
    assert done.code == 0
    assert done.out.startswith("3 techniques and settings, 7 other nodes, ")
    assert "3 comparisons: 3 change one thing, 0 change three or more (0%: proceed)" in done.out
    (row,) = study.sql("SELECT position, parts, latest FROM dag_revisions")
    assert f"event {row['position']}" in done.err
    size = study.size()
    again = study.call("dag", "revise")
    assert (again.code, study.size()) == (0, size)
    assert f"as before: event {row['position']}" in again.err


def test_a_dry_run_appends_nothing(study):
    size = study.size()
    done = study.call("--json", "dag", "revise", "--dry-run")
    assert done.code == 0
    assert done.json["procedure"].startswith("lineage-dag/")
    assert "position" not in done.json
    assert study.size() == size


def test_the_table_shows_what_experiments_found_in_eighty_columns(revised):
    done = revised.call("dag", "show")
    assert done.code == 0
    assert "into val_bpb: validation bits per byte, in mbpb, delta 2" in done.out
    (line,) = [line for line in done.out.splitlines() if line.startswith("effect=-0.2")]
    assert "supported" in line
    assert max(map(len, done.out.splitlines())) <= 80


def test_show_gives_the_whole_revision_to_programs(revised):
    found = revised.call("--json", "dag", "show").json
    statuses = {edge["src"]: edge["status"] for edge in found["edges"] if edge["dst"] == "val_bpb"}
    assert statuses["effect=-0.2"] == statuses["effect=0.1"] == "supported"
    assert found["head"]["position"] == found["position"]


def test_diff_names_the_edges_that_moved_and_the_runs_behind_them(revised):
    (first,) = revised.sql("SELECT position FROM dag_revisions")
    assert revised.run("--name", "study", *ARMS, seeds="0-4").code == 0
    assert revised.call("dag", "revise").code == 0
    done = revised.call("--json", "dag", "diff")
    moved = {row["src"]: row for row in done.rows if row["dst"] == "val_bpb"}
    assert set(moved) == {"effect=-0.2", "effect=0.1", "effect=0.00001"}
    new = revised.sql(
        f"SELECT finished_id, arm FROM runs WHERE seed IN (3, 4) AND finished_position > {first['position']}"
    )
    control = {row["finished_id"] for row in new if row["arm"] == "baseline"}
    assert len(control) == 2
    for row in moved.values():
        assert row["cause"] == "evidence"
        assert control < set(row["event_ids"])
    assert abs(moved["effect=-0.2"]["z"]) < 5
    words = revised.call("dag", "diff")
    assert re.search(r"effect=-0\.2 -> val_bpb: (effect|status), supported -\d+ -> .*, z [+-]\d", words.out)
    assert "baseline seed 3" in words.out
    assert revised.call("replay", "--all").code == 0


def test_replay_makes_a_revision_again(revised):
    (row,) = revised.sql("SELECT position FROM dag_revisions")
    done = revised.call("replay", str(row["position"]))
    assert done.code == 0
    assert "comes out exactly" in done.out
    every = revised.call("replay", "--all")
    assert every.code == 0
    assert re.search(r"(\d+) of \1 judgements come out exactly", every.out)


def test_as_of_shows_what_was_known_then(revised):
    (row,) = revised.sql("SELECT position FROM dag_revisions")
    assert revised.call("dag", "show", "--as-of", str(row["position"] + 1)).code == 0
    before = revised.call("dag", "show", "--as-of", str(row["position"]))
    assert before.code == 2
    assert "no revision yet" in before.complaint


def test_a_revision_that_was_taken_back_is_not_shown_and_the_next_says_so(revised):
    (row,) = revised.sql("SELECT position FROM dag_revisions")
    assert revised.run("--name", "other", "--arm", "EFFECT=-0.15").code == 0
    assert revised.call("dag", "revise").code == 0
    assert revised.call("retract", str(row["position"]), "--reason", "the wrong skeleton").code == 0
    gone = revised.call("dag", "show", str(row["position"]))
    assert gone.code == 2
    assert "was taken back at #" in gone.complaint
    assert "the wrong skeleton" in gone.complaint
    left = revised.call("dag", "show")
    assert left.code == 0
    assert f"followed #{row['position']}, which was taken back since" in left.err
    assert "two are needed to compare" in revised.call("dag", "diff").complaint


def test_an_edited_skeleton_is_used_and_its_text_is_in_the_event(revised):
    text = revised.call("dag", "revise", "--print-skeleton").out
    mine = '[[node]]\nid = "effect=-0.2"\nkind = "intervention"\n'
    mine += '[[edge]]\nsrc = "effect=-0.2"\ndst = "val_bpb"\nexpect = "higher"\n'
    revised.write("mine.toml", text + mine)
    assert revised.call("dag", "revise", "--skeleton", "mine.toml").code == 0
    rows = revised.sql("SELECT contains(skeleton, 'higher') AS mine FROM facts.dag_revised WHERE part = 1")
    assert [row["mine"] for row in rows] == [False, True]
    (changed,) = revised.call("--json", "dag", "diff").rows
    assert (changed["src"], changed["cause"]) == ("effect=-0.2", "skeleton")
    assert (changed["before"]["status"], changed["after"]["status"]) == ("supported", "contradicted")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (b"[[edge]]\nsrc='a'\ndst='b'", "expected one node of kind outcome"),
        (b"\xff\xfe", "is not UTF-8"),
        (b"x" * 50, "is not TOML"),
    ],
)
def test_a_skeleton_that_cannot_be_used_is_one_line_and_appends_nothing(study, text, said):
    study.write("mine.toml", text)
    size = study.size()
    done = study.call("dag", "revise", "--skeleton", "mine.toml")
    assert done.code == 2
    assert said in done.complaint
    assert "cannot be read" in study.call("dag", "revise", "--skeleton", "nowhere.toml").complaint
    assert study.size() == size


def test_a_skeleton_that_is_too_long_for_an_event_is_refused(study):
    text = study.call("dag", "revise", "--print-skeleton").out
    study.write("mine.toml", text + "#" * 40_000)
    assert "an event has room for 32768" in study.call("dag", "revise", "--skeleton", "mine.toml").complaint


def test_an_empty_ledger_has_nothing_to_revise_from_or_show(home):
    assert "no record and no experiment" in home.call("dag", "revise").complaint
    assert "no revision yet" in home.call("dag", "show").complaint
    assert "0 revisions; two are needed" in home.call("dag", "diff").complaint
    assert home.size() == 0


def test_what_is_no_revision_is_said(revised):
    assert "is experiment.registered, no revision of the DAG" in revised.call("dag", "show", "0").complaint
    assert "there is no event at position 99999" in revised.call("dag", "show", "99999").complaint
    assert "name two revisions" in revised.call("dag", "diff", "1").err


@needs_graphs
@pytest.mark.parametrize(("form", "begins"), [("dot", b"digraph"), ("svg", b"<?xml"), ("png", b"\x89PNG")])
def test_the_drawing_is_a_file_and_nothing_else_is_said(revised, form, begins):
    done = revised.spawn("dag", "show", "--format", form, "-o", f"out/dag.{form}")
    assert (done.code, done.out, done.err) == (0, "", f"wrote out/dag.{form}\n")
    assert (revised.folder / "out" / f"dag.{form}").read_bytes().startswith(begins)


@needs_graphs
def test_a_drawing_goes_to_a_pipe(revised):
    done = revised.spawn("dag", "show", "--format", "svg")
    assert done.out.startswith("<?xml")
    assert "effect=&#45;0.2" in done.out
    assert done.err == ""


@needs_graphs
def test_names_are_escaped_in_a_drawing(revised):
    import msgspec

    from commands import drawing
    from commands.dag import revisions
    from ledger.chain import Log
    from projections.engine import tables

    ((_, made),) = revisions(tables(Log("warehouse")))
    odd = '<b>"\\N & \x1b[31m' + "x" * 90
    nodes = tuple(
        msgspec.structs.replace(node, label=odd, group="<i>\\G") if node.kind == "intervention" else node
        for node in made.nodes
    )
    svg = drawing.draw(msgspec.structs.replace(made, nodes=nodes), "svg", None).decode()
    assert "<b>" not in svg
    assert "\x1b" not in svg
    assert "&lt;b&gt;&quot;\\N &amp;" in svg


def test_without_the_packages_a_drawing_says_how_to_get_them(revised, monkeypatch):
    monkeypatch.setitem(sys.modules, "graphviz", None)
    done = revised.call("dag", "show", "--format", "svg")
    assert done.code == 2
    assert 'pip install "experiment-ledger[graph]"' in done.complaint


def test_a_program_that_proposes_is_recorded_with_its_outcome(study):
    done = study.call("dag", "revise", "--discover", "fci", "--limit", "20")
    assert done.code == 0
    assert re.search(r"fci on 0 x \d: degenerate", done.out)
    (row,) = study.sql("SELECT algorithm, outcome, reason FROM dag_discovery")
    assert (row["algorithm"], row["outcome"]) == ("fci", "degenerate")
    assert study.call("replay", "--all").code == 0


def test_a_program_that_is_unknown_is_refused(study):
    assert "fci" in study.call("dag", "revise", "--discover", "lingam").err

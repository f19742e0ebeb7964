"""A revision of the DAG: from records and own experiments to nodes, edges, their status and what changed them."""

import random
from typing import Any, NamedTuple

import msgspec
import pytest
from history import fill
from lineages import add, plan, record

from ledger.chain import Log
from ledger.dag import Discovery, Proposed
from ledger.errors import UsageError
from ledger.events import EventRetracted
from ledger.writer import Draft
from projections import catalog
from projections.dag import contrasts, model, parts
from projections.dag.difference import difference, evidence
from projections.dag.revise import replay, revise, study
from projections.dag.skeleton import default_text, parse
from projections.engine import tables

SKELETON = parse(default_text())
NOISE = (-0.0006, 0.0001, 0.0005)


class Shared(NamedTuple):
    log: Any
    tables: Any
    made: Any
    ids: list[str]


def around(mean):
    return [mean + each for each in NOISE]


def lineage_of(log, steps=9, effect=-0.006):
    """Records in a row, each with one technique more; `wide` comes three times, on three branches."""
    made = [record("2026-01-01_Base", around(1.2), new=["gqa"])]
    for number in range(steps):
        name = f"2026-01-{number + 2:02d}_R{number}"
        change = "wide" if number % 3 == 0 else f"idle{number % 3}"
        score = 1.2 + effect if change == "wide" else 1.2003
        made.append(record(name, around(score), ["2026-01-01_Base"], new=[change], carried=["gqa"]))
    return add(log, *made)


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    """A log with a lineage, its tables, its revision and the ids of the readings; only to be looked at."""
    log = Log.create(tmp_path_factory.mktemp("dag") / "ledger")
    ids = lineage_of(log)
    built = tables(log)
    return Shared(log, built, revise(built, SKELETON), ids)


def values(effects, seeds, seed=1):
    rng = random.Random(seed)
    return {(arm, s): 1.2 + effect + rng.gauss(0, 0.0007) for arm, effect in effects.items() for s in seeds}


def edge_of(made, src, dst="val_bpb"):
    return next((edge for edge in made.edges if (edge.src, edge.dst) == (src, dst)), None)


def revised(log):
    """Revise and append, as the command does."""
    made = revise(tables(log), SKELETON)
    log.writer.append([Draft("dag/main", part) for part in parts.split(made)])
    return made


# ── what it is made from ──


def test_a_comparison_has_what_the_child_brings_and_takes_out(log):
    add(
        log,
        record("2026-01-01_A", around(1.2), new=["wide", "deep"]),
        record("2026-01-02_B", around(1.1), ["2026-01-01_A"], new=["ema"], carried=["wide"], removed=["deep"]),
    )
    (only,) = contrasts.read(tables(log), "val_bpb").contrasts
    assert only.row == (("deep", -1), ("ema", 1))
    assert only.value == pytest.approx(-0.1)
    assert (only.child, only.parent) == ("track_a/2026-01-02_B", "track_a/2026-01-01_A")


def test_of_several_parents_the_newest_is_compared_and_the_others_close_loops(log):
    add(
        log,
        record("2026-01-01_A", around(1.2)),
        record("2026-01-02_B", around(1.19), ["2026-01-01_A"], new=["wide"]),
        record("2026-01-03_C", around(1.18), ["2026-01-01_A", "2026-01-02_B"], new=["deep"]),
    )
    found = {(one.child[-1], one.parent[-1]): one.primary for one in contrasts.read(tables(log), "val_bpb").contrasts}
    assert found == {("B", "A"): True, ("C", "B"): True, ("C", "A"): False}


def test_records_of_two_tracks_are_not_compared(log):
    add(
        log,
        record("2026-01-01_A", around(1.2)),
        record("2026-01-02_B", around(1.1), ["2026-01-01_A"], new=["wide"], track="track_b"),
    )
    data = contrasts.read(tables(log), "val_bpb")
    assert data.contrasts == ()
    assert "1 parents are of another track, so of another noise class: not compared" in data.notes


def test_a_circle_of_parents_is_broken_and_told(log):
    add(
        log,
        record("2026-01-01_A", around(1.2), ["2026-01-02_B"], new=["deep"]),
        record("2026-01-02_B", around(1.1), ["2026-01-01_A"], new=["wide"]),
    )
    data = contrasts.read(tables(log), "val_bpb")
    assert len(data.contrasts) == 1
    assert any("descends from it; left out" in note for note in data.notes)


def test_arms_share_their_controls_noise(log):
    fill(log, plan("e1", ["wide", "deep"], [0, 1, 2]), values({"control": 0, "wide": -0.005, "deep": 0}, [0, 1, 2]))
    data = contrasts.read(tables(log), "val_bpb")
    one, other = (c for c in data.contrasts if c.target == "val_bpb")
    assert one.noise[1] == other.noise[1]
    assert one.noise[0] != other.noise[0]


# ── status ──


def test_the_lineage_supports_what_three_branches_show(shared):
    edge = edge_of(shared.made, "wide")
    assert (edge.kind, edge.status, edge.tag, edge.imposed) == ("lineage", "supported", "data_confirmed", True)
    assert edge.effect == pytest.approx(-0.006, abs=0.001)
    assert edge.hi90 < 0
    assert edge.stability > 0.9
    assert edge.loo_min <= edge.loo_max < 0
    assert edge.where == "track_a"


def test_an_experiment_comes_before_the_lineage_and_both_are_shown(log):
    lineage_of(log)
    seeds = [0, 1, 2, 3]
    fill(log, plan("e1", ["wide"], seeds), values({"control": 0, "wide": 0.006}, seeds))
    edge = edge_of(revise(tables(log), SKELETON), "wide")
    assert (edge.kind, edge.status) == ("experiment", "supported")
    assert edge.effect == edge.experiment_effect > 0 > edge.lineage_effect


def test_an_experiment_that_did_not_decide_leaves_the_edge_to_the_lineage(log):
    lineage_of(log)
    wild = {("control", 0): 1.2, ("control", 1): 1.3, ("wide", 0): 1.25, ("wide", 1): 1.15}
    fill(log, plan("e1", ["wide"], [0, 1]), wild)
    edge = edge_of(revise(tables(log), SKELETON), "wide")
    assert (edge.kind, edge.status) == ("lineage", "supported")
    assert edge.experiment_effect is not None


def test_an_effect_of_the_other_sign_contradicts_the_expert(shared):
    text = default_text() + (
        '[[node]]\nid = "wide"\nkind = "intervention"\n[[edge]]\nsrc = "wide"\ndst = "val_bpb"\nexpect = "higher"\n'
    )
    edge = edge_of(revise(shared.tables, parse(text)), "wide")
    assert (edge.status, edge.tag, edge.expect) == ("contradicted", "data_contradicted", "higher")


def test_an_experiment_can_show_that_nothing_that_matters_happens(log):
    seeds = list(range(6))
    fill(log, plan("e1", ["wide"], seeds), values({"control": 0, "wide": 0.0001}, seeds))
    edge = edge_of(revise(tables(log), SKELETON), "wide")
    assert (edge.kind, edge.status, edge.tag) == ("experiment", "no_effect_that_matters", "data_contradicted")


def test_what_explores_supports_nothing(log):
    seeds = [0, 1, 2, 3]
    fill(log, plan("e1", ["wide"], seeds, track="explore"), values({"control": 0, "wide": -0.01}, seeds))
    edge = edge_of(revise(tables(log), SKELETON), "wide")
    assert edge is None or edge.kind != "experiment" or edge.status == "undecided"


def test_techniques_that_always_come_together_stay_undecided_and_an_experiment_is_named(log):
    names = [f"2026-01-{n + 2:02d}_R{n}" for n in range(6)]
    add(
        log,
        record("2026-01-01_Base", around(1.2)),
        *(record(name, around(1.19), ["2026-01-01_Base"], new=["wide", "deep"]) for name in names),
    )
    made = revise(tables(log), SKELETON)
    assert edge_of(made, "wide").status == edge_of(made, "deep").status == "undecided"
    (apart,) = made.separations
    assert apart.techniques == ("deep", "wide")
    assert apart.ablate in apart.techniques
    assert (apart.cost_runs, apart.rank) == (6, 2)
    assert apart.experiment.startswith(f"take {apart.ablate} out of track_a/2026-01-07_R5")


def test_accounting_edges_hold_by_definition(shared):
    edge = edge_of(shared.made, "quant_gap")
    assert (edge.kind, edge.status, edge.tag, edge.effect, edge.sd) == (
        "accounting", "imposed", "expert_imposed", 1.0, 0.0,
    )  # fmt: skip


def test_an_edge_carries_the_events_behind_it(shared):
    ids = shared.ids
    made = shared.made
    wide = evidence(made, edge_of(made, "wide"))
    assert set(wide) == {ids[0], ids[1], ids[4], ids[7]}
    assert set(made.used) <= set(ids)


# ── discovery ──


def proposing(*edges, merged=()):
    return Discovery(
        algorithm="fci", version="1", test="fisherz", alpha=0.01, input_digest="", rows=9, columns=3, merged=merged,
        limit_s=1.0, outcome="ok", reason="", proposed=tuple(Proposed(*edge) for edge in edges),
    )  # fmt: skip


def test_discovery_only_proposes(shared):
    """Beside an edge it is a remark, alone an edge of its own kind; into an intervention it is nothing."""
    found = proposing(("wide", "val_bpb", "<->"), ("tokens_seen", "idle1", "o->"), ("wide", "idle1", "-->"))
    made = revise(shared.tables, SKELETON, (found,))
    before = {(edge.src, edge.dst): edge for edge in shared.made.edges}
    after = {(edge.src, edge.dst): edge for edge in made.edges}
    assert set(after) - set(before) == {("idle1", "tokens_seen")}
    alone = after["idle1", "tokens_seen"]
    assert (alone.kind, alone.status, alone.tag, alone.proposed_by) == (
        "proposed",
        "undecided",
        "uncertain",
        ("fci",),
    )
    for ends, edge in before.items():
        assert msgspec.structs.replace(after[ends], proposed_by=()) == edge
    assert made.discovery == (found,)


def test_what_is_proposed_of_a_merged_column_is_proposed_of_each_of_its_members(shared):
    found = proposing(("wide", "tokens_seen", "o-o"), merged=("wide = not idle1", "gqa = const"))
    made = revise(shared.tables, SKELETON, (found,))
    assert {(edge.src, edge.dst) for edge in made.edges if edge.kind == "proposed"} == {
        ("idle1", "tokens_seen"), ("wide", "tokens_seen"),
    }  # fmt: skip


def test_a_revision_with_a_program_comes_out_again_without_asking_it(shared):
    made = revise(shared.tables, SKELETON, (proposing(("wide", "val_bpb", "o->")),))
    assert replay(shared.tables, made) == []


# ── what may be wrong ──


def test_nothing_to_compare_is_one_line(log):
    with pytest.raises(UsageError, match="no record and no experiment"):
        revise(tables(log), SKELETON)
    add(log, record("2026-01-01_A", around(1.2), new=["wide"]))
    with pytest.raises(UsageError, match="none of 1 records declares a parent"):
        revise(tables(log), SKELETON)


def test_fewer_comparisons_than_techniques_is_told_and_judged_all_the_same(log):
    add(
        log,
        record("2026-01-01_A", around(1.2)),
        record("2026-01-02_B", around(1.1), ["2026-01-01_A"], new=["wide", "deep", "ema"]),
    )
    made = revise(tables(log), SKELETON)
    assert any("1 comparisons of 3 techniques" in note for note in made.notes)
    assert all(edge.status in ("undecided", "imposed") for edge in made.edges)
    assert made.recommendation == "skip"


def test_a_technique_that_every_record_has_is_told(shared):
    made = shared.made
    assert any("no comparison changes it: gqa" in note for note in made.notes)
    assert "gqa" not in {node.id for node in made.nodes}


def test_a_parent_that_does_not_fit_counts_little_and_is_named(log):
    lineage_of(log)
    add(log, record("2026-02-01_Odd", around(1.08), ["2026-01-01_Base"], new=["wide"]))
    made = revise(tables(log), SKELETON)
    assert any(note.startswith("track_a/2026-02-01_Odd: -0.12 against") for note in made.notes)
    assert edge_of(made, "wide").effect == pytest.approx(-0.006, abs=0.002)


def test_a_loop_that_does_not_close_is_flagged(log):
    """C says that it is A with `deep`; by B it is A with `wide` and `deep`, and `wide` is worth a lot."""
    lineage_of(log, 12, effect=-0.02)
    add(
        log,
        record("2026-02-01_B", around(1.18), ["2026-01-01_Base"], new=["wide"]),
        record("2026-02-02_C", around(1.1803), ["2026-02-01_B", "2026-01-01_Base"], new=["idle1"]),
    )
    made = revise(tables(log), SKELETON)
    (loop,) = made.loops
    assert loop.flagged
    assert abs(loop.z) > 3
    assert loop.residual == pytest.approx(-0.02, abs=0.003) or loop.residual == pytest.approx(0.02, abs=0.003)
    assert next(one for one in made.lineage if one.technique == "wide").loop_z == pytest.approx(abs(loop.z))


def test_an_interaction_is_reported_where_each_technique_enters_apart_from_the_other(log):
    base = "2026-01-01_Base"
    made = [record(base, around(1.2))]
    for n in range(3):
        made += [
            record(f"2026-01-{2 + n:02d}_W{n}", around(1.196), [base], new=["wide"]),
            record(f"2026-01-{10 + n:02d}_D{n}", around(1.197), [base], new=["deep"]),
            record(f"2026-01-{20 + n:02d}_B{n}", around(1.186), [base], new=["deep", "wide"]),
        ]
    add(log, *made)
    (pair,) = revise(tables(log), SKELETON).interactions
    assert (pair.a, pair.b, pair.contrasts) == ("deep", "wide", 3)
    assert pair.mean < 0
    assert pair.p_negative > 0.8


def test_combinations_that_nobody_tried_are_listed_with_what_they_would_give(shared):
    made = shared.made
    best = made.unexplored[0]
    effects = {one.technique: one.mean for one in made.lineage if one.target == "val_bpb"}
    assert "wide" in (best.a, best.b)
    assert best.expected == pytest.approx(effects[best.a] + effects[best.b])
    assert best.sd > best.prior_sd > 0


def test_the_first_plans_measures(log):
    add(
        log,
        record("2026-01-01_A", around(1.2)),
        record("2026-01-02_B", around(1.19), ["2026-01-01_A"], new=["wide"]),
        record("2026-01-03_C", around(1.18), ["2026-01-02_B"], new=["deep", "ema"]),
        record("2026-01-04_D", around(1.17), ["2026-01-03_C"], new=["a", "b", "c"]),
    )
    made = revise(tables(log), SKELETON)
    told = {one.name: one.value for one in made.measures}
    assert (told["comparisons"], told["single"], told["double"], told["many"]) == (3, 1, 1, 1)
    assert told["testable_share"] == pytest.approx(1 / 6)
    assert told["many_share"] == pytest.approx(1 / 3)
    assert made.recommendation == "proceed"


# ── revisions, replay, tables ──


def test_a_revision_comes_out_the_same_again(log):
    lineage_of(log)
    made = revised(log)
    ((position, whole),) = parts.revisions(tables(log))
    assert msgspec.structs.replace(whole, head=made.head) == made
    assert position == made.head.position
    assert replay(tables(log, position), whole) == []


def test_a_figure_that_was_changed_is_named_by_replay(shared):
    made = shared.made
    edges = tuple(
        msgspec.structs.replace(edge, effect=-1.0) if (edge.src, edge.dst) == ("wide", "val_bpb") else edge
        for edge in made.edges
    )
    (only,) = replay(shared.tables, msgspec.structs.replace(made, edges=edges))
    assert only.field == "edges[wide -> val_bpb].effect"
    assert only.recorded == -1.0


def test_a_long_revision_stands_in_parts_that_make_it_whole_again(shared):
    made = shared.made
    long = msgspec.structs.replace(made, notes=tuple(f"note {n} {'x' * 900}" for n in range(120)))
    split = parts.split(long)
    assert len(split) > 1
    assert all(len(msgspec.json.encode(part)) < 48 * 1024 for part in split)
    assert parts.join(split) == long


def test_to_take_back_one_part_is_to_take_back_the_revision(log):
    lineage_of(log)
    made = revise(tables(log), SKELETON)
    long = msgspec.structs.replace(made, notes=tuple("x" * 900 for _ in range(120)))
    ids = log.writer.append([Draft("dag/main", part) for part in parts.split(long)]).event_ids
    assert tables(log).rows("SELECT count(*) AS n FROM dag_revisions") == [{"n": 1}]
    log.writer.append([Draft("event/x", EventRetracted(target=ids[1], reason="wrong"))])
    assert tables(log).rows("SELECT count(*) AS n FROM dag_revisions") == [{"n": 0}]
    assert tables(log).rows("SELECT count(*) AS n FROM dag_edges") == [{"n": 0}]


def test_new_seeds_move_the_edges_of_their_own_experiment_and_no_other(log):
    """The difference names exactly what moved, and the outcomes behind it."""
    lineage_of(log)
    fill(log, plan("e1", ["tall", "flat"], [0, 1, 2]), values({"control": 0, "tall": -0.006, "flat": 0}, [0, 1, 2]))
    elsewhere = plan("e2", ["ema"], [0, 1], base="another")
    fill(log, elsewhere, values({"control": 0, "ema": -0.004}, [0, 1], 7))
    before = revised(log)
    ids = fill(
        log,
        msgspec.structs.replace(elsewhere, seeds=(0, 1, 2, 3, 4), amends="x"),
        values({"control": 0, "ema": -0.004}, [2, 3, 4], 8),
    )
    after = revised(log)
    (only,) = [one for one in difference(before, after) if one.cause == "evidence"]
    assert (only.src, only.dst) == ("ema", "val_bpb")
    assert set(only.event_ids) == set(ids)
    assert all(one.src == "ema" for one in difference(before, after))


def test_the_table_of_differences_says_what_the_function_says(log):
    lineage_of(log)
    seeds = [0, 1, 2]
    fill(log, plan("e1", ["tall", "flat"], seeds), values({"control": 0, "tall": -0.006, "flat": 0}, seeds))
    before = revised(log)
    add(log, record("2026-03-01_New", around(1.19), ["2026-01-01_Base"], new=["wide", "deep"]))
    after = revised(log)
    found = tables(log).rows("SELECT * FROM dag_diffs")
    wanted = difference(before, after)
    assert len(wanted) > 2
    assert [(row["src"], row["dst"], row["change"], row["cause"]) for row in found] == [
        (one.src, one.dst, one.change, one.cause) for one in wanted
    ]
    assert [row["event_ids"] for row in found] == [", ".join(one.event_ids) for one in wanted]
    for row, one in zip(found, wanted, strict=True):
        assert (row["z"] is None) == (one.z is None)
        assert row["z"] is None or row["z"] == pytest.approx(one.z, rel=1e-8)
        assert row["after"] == (one.after.status if one.after else None)


def test_an_edge_knows_when_it_was_first_seen_and_last_changed(log):
    lineage_of(log)
    revised(log)
    add(log, record("2026-03-01_New", around(1.19), ["2026-01-01_Base"], new=["deep"]))
    revised(log)
    rows = {row["src"]: row for row in tables(log).rows("SELECT * FROM dag_edges WHERE latest AND dst = 'val_bpb'")}
    first, second = (row["position"] for row in tables(log).rows("SELECT position FROM dag_revisions"))
    assert (rows["quant_gap"]["first_seen"], rows["quant_gap"]["last_changed"]) == (first, first)
    assert (rows["deep"]["first_seen"], rows["deep"]["last_changed"]) == (second, second)
    assert rows["wide"]["first_seen"] == first


def test_a_revision_whose_base_was_taken_back_says_so(log):
    lineage_of(log)
    revised(log)
    (row,) = tables(log).rows("SELECT event_id FROM dag_revisions")
    add(log, record("2026-03-01_New", around(1.19), ["2026-01-01_Base"], new=["deep"]))
    assert revised(log).base == row["event_id"]
    log.writer.append([Draft("event/x", EventRetracted(target=row["event_id"], reason="wrong"))])
    (left,) = tables(log).rows("SELECT base_retracted, latest FROM dag_revisions")
    assert left == {"base_retracted": True, "latest": True}


def test_the_tables_of_the_dag_are_the_same_with_one_thread_and_with_eight(log):
    lineage_of(log)
    revised(log)
    names = [
        table.name for table in catalog.tables() if "facts.dag_revised" in table.sql or "dag_revisions" in table.reads
    ]
    assert len(names) == 11
    found = []
    for threads in (1, 8):
        built = tables(log, threads=threads, fresh=True)
        found.append({name: built.query(f"SELECT * FROM {name}") for name in names})
    assert found[0] == found[1]
    assert found[0]["dag_edges"].num_rows > 3


def test_the_draws_are_keyed_by_the_root_of_the_log(shared):
    data, fits = study(shared.tables, SKELETON)
    again = model.fits(data, {"val_bpb": 0.002}, shared.tables.head.root)
    other = model.fits(data, {"val_bpb": 0.002}, "12")
    mine = [fit for fit in fits if fit.target == "val_bpb"]
    assert [fit.stability for fit in mine] == [fit.stability for fit in again]
    assert [fit.effects.mean for fit in mine] == [fit.effects.mean for fit in other]

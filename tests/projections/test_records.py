"""The tables of records: the newest reading, parts joined, parents resolved, contradictions told, the matrix."""

import random

import history
import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ledger import events
from ledger.chain import Log
from ledger.records import (
    ExtractionFailed,
    LeaderboardExtracted,
    LeaderboardRow,
    ReadAblation,
    ReadFlag,
    ReadIntervention,
    ReadLineage,
    ReadSeed,
    ReadSelection,
    ReadTest,
    RecordExtracted,
    SourceFile,
)
from ledger.writer import Draft
from projections.engine import tables


def reading(name, parser="rules/1", source="a", **more):
    given = {"record": f"track/{name}", "track": "track", "repository": "o/golf", "parser": parser}
    files = (SourceFile("README.md", source * 64, 9),)
    rest = {"vocabulary": "v", "source_digest": source, "sources": files, "part": 1, "parts": 1}
    return RecordExtracted(**{**given, **rest, **more})


def technique(name, known=True, status="new", **more):
    label = more.pop("label", name)
    return ReadIntervention(
        intervention=name, known=known, label=label, kind="architecture", status=status,
        evidence=("README.md:3",), **more,
    )  # fmt: skip


def line(number, score, summary="", record=None, **more):
    return LeaderboardRow(
        track="track", run=f"run {number}", score=score, author="a", summary=summary, date="2026-04-01",
        record=record, evidence=f"README.md:{number}", **more,
    )  # fmt: skip


def board(*rows, source="a"):
    return LeaderboardExtracted(
        repository="o/golf", parser="rules/1", source_digest=source,
        sources=(SourceFile("README.md", source * 64, 9),), rows=rows,
    )  # fmt: skip


def put(log, *data):
    """Append all as one commit; ids."""
    return log.writer.append([Draft(f"record/{n}", one) for n, one in enumerate(data)]).event_ids


def retract(log, target):
    log.writer.append([Draft("event/x", events.EventRetracted(target=target, reason="wrong"))])


# ── readings ──


def test_the_newest_reading_is_shown_and_an_older_one_as_of_then(log):
    put(log, reading("A", val_bpb=1.25))
    put(log, reading("A", source="b", val_bpb=1.20))
    assert tables(log).rows("SELECT val_bpb FROM records") == [{"val_bpb": 1.20}]
    assert tables(log, 1).rows("SELECT val_bpb FROM records") == [{"val_bpb": 1.25}]


def test_a_retracted_reading_gives_way_to_the_one_before(log):
    put(log, reading("A", val_bpb=1.25))
    (newer,) = put(log, reading("A", source="b", val_bpb=0.1))
    retract(log, newer)
    assert tables(log).rows("SELECT val_bpb FROM records") == [{"val_bpb": 1.25}]
    assert tables(log, 2).rows("SELECT val_bpb FROM records") == [{"val_bpb": 0.1}]


def test_the_parts_of_a_reading_are_joined_and_retracted_together(log):
    first, second = put(
        log,
        reading("A", parts=2, interventions=(technique("xsa"), technique("ema"))),
        reading("A", part=2, parts=2, interventions=(technique("swa"),)),
    )
    query = "SELECT intervention, row, event_id FROM interventions"
    assert [tuple(row.values()) for row in tables(log).rows(query)] == [
        ("xsa", 1, first),
        ("ema", 2, first),
        ("swa", 3, second),
    ]
    assert tables(log).rows("SELECT interventions, parts FROM record_readings") == [{"interventions": 3, "parts": 2}]
    retract(log, second)
    assert tables(log).rows("SELECT * FROM records") == []
    assert tables(log).rows(query) == []


def test_two_readings_of_the_same_bytes_can_be_compared(log):
    put(log, reading("A", val_bpb=1.25, interventions=(technique("xsa"),)))
    put(log, reading("A", parser="rules/2", val_bpb=1.25, interventions=(technique("xsa", level="4"),)))
    found = tables(log).rows(
        """SELECT old.field, old.item, old.value AS before, new.value AS after
        FROM reading_values AS old
        FULL JOIN reading_values AS new USING (record, source_digest, field, item, row)
        WHERE old.parser = 'rules/1' AND new.parser = 'rules/2' AND old.value IS DISTINCT FROM new.value"""
    )
    assert found == [{"field": "intervention", "item": "xsa", "before": "new", "after": "new level 4"}]


def test_a_seed_told_by_several_sources_is_one_row_with_the_score_of_the_readme(log):
    def seed(number, score, source, line, **more):
        return ReadSeed(seed=number, val_bpb=score, source=source, evidence=f"{source}:{line}", **more)

    put(
        log,
        reading(
            "A",
            seeds=(
                seed(7, 1.1003, "log", 9, steps=90, bytes_total=10),
                seed(7, 1.1, "readme", 3),
                seed(8, 1.2, "readme", 4, bytes_total=12),
                seed(7, 1.1002, "json", 1, bytes_total=11),
                seed(9, 1.3, "log", 8),
            ),
        ),
        reading("B", seeds=(seed(1, None, "readme", 2, steps=5), seed(1, 1.4, "log", 3), seed(1, 1.41, "log", 4))),
        reading("C", seeds=(seed(1, None, "log", 2, val_loss=3.28),)),
    )
    found = tables(log).rows("SELECT record, seed, val_bpb, bytes_total, steps, source, row FROM record_seeds")
    names = ("seed", "val_bpb", "bytes_total", "steps", "source", "row")
    assert [(row["record"][-1], *(row[name] for name in names)) for row in found] == [
        ("A", 7, 1.1, 11, 90, "readme", 1),
        ("A", 8, 1.2, 12, None, "readme", 2),
        ("B", 1, 1.4, None, 5, "log", 1),
        ("B", 1, 1.41, None, 5, "log", 2),
        ("C", 1, None, None, None, "log", 1),
    ]
    assert len(tables(log).rows("SELECT * FROM seed_sources")) == 9


def test_a_base_without_a_score_has_that_of_the_record_it_is(log):
    put(
        log,
        reading("2026-01-01_Parent", val_bpb=1.25),
        reading("2026-01-02_Child", base_ref="2026-01-01_Parent", val_bpb=1.2),
    )
    query = "SELECT base_val_bpb, delta_bpb, parent, parent_val_bpb FROM records WHERE record LIKE '%Child'"
    (found,) = tables(log).rows(query)
    assert found == {
        "base_val_bpb": None,
        "delta_bpb": None,
        "parent": "track/2026-01-01_Parent",
        "parent_val_bpb": 1.25,
    }


def test_what_is_stated_is_compared_and_what_is_not_stays_empty(log):
    put(log, reading("A", val_bpb=1.0634, base_val_bpb=1.0611, author="x", date="2026-04-01"), reading("B"))
    query = "SELECT delta_bpb, round(field_coverage, 4) AS coverage FROM records ORDER BY record"
    assert tables(log).rows(query) == [
        {"delta_bpb": 0.0023, "coverage": round(5 / 6, 4)},
        {"delta_bpb": None, "coverage": round(1 / 6, 4)},
    ]


def test_seeds_and_ablations_are_rows_with_their_evidence(log):
    put(
        log,
        reading(
            "A",
            seeds=(ReadSeed(seed=0, val_bpb=1.1, steps=9, source="log", evidence="train.log:9"),),
            ablations=(ReadAblation(change="no xsa", delta_bpb=0.002, negative=True, evidence="README.md:7"),),
        ),
    )
    assert tables(log).rows("SELECT seed, val_bpb, steps, source, evidence FROM record_seeds") == [
        {"seed": 0, "val_bpb": 1.1, "steps": 9, "source": "log", "evidence": "train.log:9"}
    ]
    assert tables(log).rows("SELECT change, delta_bpb, negative, evidence FROM ablations") == [
        {"change": "no xsa", "delta_bpb": 0.002, "negative": True, "evidence": "README.md:7"}
    ]


def test_a_failure_stands_until_the_record_is_read(log):
    failed = ExtractionFailed(record="track/A", path="A/README.md", reason="no", parser="rules/1", source_digest=None)
    put(log, failed)
    query = "SELECT record, standing FROM extraction_failures ORDER BY position"
    assert tables(log).rows(query) == [{"record": "track/A", "standing": True}]
    put(log, failed)
    assert [row["standing"] for row in tables(log).rows(query)] == [False, True]
    put(log, reading("A"))
    assert [row["standing"] for row in tables(log).rows(query)] == [False, False]


# ── lineage ──


def parents(log):
    query = "SELECT record, parent, how, resolved FROM lineage"
    return [tuple(str(value).removeprefix("track/") for value in row.values()) for row in tables(log).rows(query)]


@pytest.mark.parametrize(
    ("told", "score", "parent", "how"),
    [
        ("PR #1019", None, "Base", "declared"),
        ("#1019", None, "Base", "declared"),
        ("PR1019", None, "Base", "declared"),
        ("https://github.com/o/golf/pull/1019", None, "Base", "declared"),
        ("https://github.com/o/golf", 1.11, "Base", "inferred"),
        ("records/track/Base/README.md", None, "Base", "declared"),
        ("merged SOTA", 1.11, "Base", "inferred"),
        ("PR #4", 1.11, "Base", "inferred"),
        ("merged SOTA", 1.3, "merged SOTA", "declared"),
        ("https://github.com/o/speedrun/pull/1019", None, "https://github.com/o/speedrun/pull/1019", "declared"),
    ],
)
def test_a_declared_parent_is_resolved_by_number_by_folder_or_by_score(log, told, score, parent, how):
    put(
        log,
        reading("Base", val_bpb=1.11004),
        reading("A", val_bpb=1.1, lineage=(ReadLineage(parent=told, val_bpb=score, evidence="README.md:2"),)),
        board(line(9, 1.1100, "On PR #1019: better", record="records/track/Base")),
    )
    assert parents(log) == [("A", parent, how, str(parent == "Base"))]


def test_the_leaderboard_tells_a_parent_and_the_record_s_own_number_is_none(log):
    put(
        log,
        reading("Base", val_bpb=1.11),
        reading("A", val_bpb=1.1),
        board(
            line(9, 1.11, "On PR #7: the first", record="records/track/Base"),
            line(8, 1.10, "On PR #8: beats #3 (p=0.1), XSA from PR #5, on the PR #7 XSA stack", record="track/A"),
        ),
    )
    assert parents(log) == [("A", "Base", "leaderboard", "True")]


def test_a_score_that_two_records_have_resolves_to_neither(log):
    base = ReadLineage(parent="SOTA", val_bpb=1.11, evidence="README.md:2")
    put(log, reading("B", val_bpb=1.11), reading("C", val_bpb=1.11), reading("A", lineage=(base,)))
    assert parents(log) == [("A", "SOTA", "declared", "False")]


def test_the_base_is_the_parent_where_no_parent_is_declared(log):
    put(log, reading("B", val_bpb=1.2244), reading("A", val_bpb=1.2, base_ref="naive baseline", base_val_bpb=1.2244))
    assert parents(log) == [("A", "B", "inferred", "True")]


def test_a_line_without_a_folder_is_matched_by_its_score(log):
    put(log, reading("A", val_bpb=1.06108), board(line(3, 1.0611, "On PR #1855: x")))
    assert tables(log).rows("SELECT record, pull_request FROM leaderboard") == [
        {"record": "track/A", "pull_request": 1855}
    ]


def test_a_changed_leaderboard_replaces_the_one_before(log):
    put(log, board(line(1, 1.2), line(2, 1.3)))
    put(log, board(line(1, 1.1), source="b"))
    assert tables(log).rows("SELECT score FROM leaderboard") == [{"score": 1.1}]
    put(log, board(line(1, 1.2), line(2, 1.3)))
    assert tables(log).rows("SELECT row, score FROM leaderboard") == [
        {"row": 1, "score": 1.2},
        {"row": 2, "score": 1.3},
    ]


# ── contradictions ──


def test_sources_that_disagree_are_flagged_and_rounding_is_no_disagreement(log):
    def seed(number, value, source):
        return ReadSeed(seed=number, val_bpb=value, source=source, evidence=f"{source}:1")

    put(
        log,
        reading(
            "A",
            val_bpb=1.2,
            base_val_bpb=1.3,
            delta_bpb_stated=-0.2,
            seeds=(
                seed(0, 1.2001, "readme"),
                seed(0, 1.20013, "json"),
                seed(1, 1.2, "readme"),
                seed(1, 1.25, "log"),
            ),
            flags=(ReadFlag(field="bytes_total", said=("1", "2"), reason="differ"),),
        ),
        board(line(4, 1.1, record="track/A")),
    )
    found = tables(log).rows("SELECT kind, field, said FROM claim_flags")
    assert found == [
        {"kind": "delta", "field": "delta_bpb", "said": "-0.2 stated; -0.1 from 1.2 and 1.3"},
        {"kind": "leaderboard", "field": "val_bpb", "said": "1.2; 1.1 (leaderboard README.md:4)"},
        {"kind": "reading", "field": "bytes_total", "said": "1; 2"},
        {"kind": "seed", "field": "seed 1", "said": "1.2 (readme readme:1); 1.25 (log log:1)"},
    ]


# ── the matrix ──


def matrix(log, source):
    query = "SELECT stack, intervention, value, level FROM intervention_matrix WHERE source = $1"
    return {(r["stack"], r["intervention"]): (r["value"], r["level"]) for r in tables(log).rows(query, (source,))}


def test_the_matrix_says_has_it_takes_it_out_or_does_not_name_it(log):
    put(
        log,
        reading("A", interventions=(technique("xsa", level="last 4"), technique("unknown:odd", known=False))),
        reading("B", interventions=(technique("ema", removed=True), technique("xsa", status="carried"))),
        reading("I", parser="import/x/1", interventions=(technique("imported"),)),
    )
    assert matrix(log, "record") == {
        ("track/A", "xsa"): (1, "last 4"),
        ("track/A", "ema"): (0, None),
        ("track/A", "unknown:odd"): (1, None),
        ("track/B", "xsa"): (1, None),
        ("track/B", "ema"): (-1, None),
    }


def test_an_arm_enters_the_matrix_from_its_registration(log):
    def arm(name, role, **settings):
        return events.Arm(name, role, env=events.named(settings))

    arms = (
        arm("c", "control", XSA="1"),
        arm("wide", "treatment", XSA="1", MLP_MULT="4"),
        arm("bare", "treatment", XSA="0"),
        events.Arm("deep", "treatment", args=("--depth", "12"), config=events.named({"XSA": 1})),
    )
    plan = msgspec.structs.replace(history.registered("e", ["c"], [0]), arms=arms)
    log.writer.append([Draft("experiment/e", plan)])
    assert matrix(log, "experiment") == {
        ("e/c", "xsa"): (0, "1"),
        ("e/c", "mlp_mult"): (0, None),
        ("e/c", "arguments"): (0, None),
        ("e/wide", "xsa"): (0, "1"),
        ("e/wide", "mlp_mult"): (1, "4"),
        ("e/wide", "arguments"): (0, None),
        ("e/bare", "xsa"): (-1, "0"),
        ("e/bare", "mlp_mult"): (0, None),
        ("e/bare", "arguments"): (0, None),
        ("e/deep", "xsa"): (0, "1"),
        ("e/deep", "mlp_mult"): (0, None),
        ("e/deep", "arguments"): (1, "--depth 12"),
    }


def test_a_setting_that_records_name_as_a_technique_is_its_column(log):
    put(
        log,
        reading("A", interventions=(technique("xsa", label="XSA_LAST_N=4", level="4"), technique("muon-momentum"))),
        reading("B", interventions=(technique("xsa", label="Exclusive attention (xsa_depth=all)"),)),
        reading("C", interventions=(technique("swa", label="every=50"), technique("ema", label="every = 4"))),
        reading("D", interventions=(technique("swa", label="averaging, start=2, odd=3"),)),
    )
    names = {"XSA_LAST_N": "11", "XSA_DEPTH": "2", "MUON_MOMENTUM": ".9", "EVERY": "1", "ODD": "3", "NEW": "1"}
    arms = (events.Arm("c", "control"), events.Arm("t", "treatment", env=events.named(names)))
    plan = msgspec.structs.replace(history.registered("e", ["c"], [0]), arms=arms)
    log.writer.append([Draft("experiment/e", plan)])
    found = matrix(log, "experiment")
    assert {name: value for (stack, name), value in found.items() if stack == "e/t"} == {
        "xsa": (1, "2"),
        "muon-momentum": (1, ".9"),
        "every": (1, "1"),
        "odd": (1, "3"),
        "new": (1, "1"),
    }


def test_pairs_that_never_come_apart_are_told(log):
    both = (technique("xsa"), technique("ema"))
    put(log, reading("A", interventions=both), reading("B", interventions=both), reading("C"))
    put(log, reading("D", interventions=(technique("swa"), technique("xsa", removed=True))))
    assert tables(log).rows("SELECT * FROM cooccurrence") == [
        {"a": "ema", "b": "xsa", "both": 2, "only_a": 0, "only_b": 0, "neither": 2, "always_together": True}
    ]


def test_techniques_are_counted_over_records(log):
    put(
        log,
        reading("A", date="2026-04-02", interventions=(technique("xsa", label="XSA", delta_bpb=-0.1),)),
        reading("B", date="2026-04-01", interventions=(technique("xsa", label="xsa all", status="carried"),)),
        reading("C", interventions=(technique("xsa", label="XSA", removed=True),)),
    )
    (row,) = tables(log).rows("SELECT * EXCLUDE (kind, evidence) FROM techniques")
    assert row == {
        "intervention": "xsa", "known": True, "records": 3, "new": 2, "carried": 1, "removed": 1, "stated": 1,
        "first_date": "2026-04-01", "first_record": "track/B", "labels": "XSA | xsa all",
    }  # fmt: skip


# ── the same however they are built ──


def random_records(log, seed, length):
    """Readings, leaderboards, failures and retractions at random, among runs and plans."""
    rng = random.Random(seed)
    names, ids = ["xsa", "ema", "swa", "unknown:odd", "unknown:new"], []
    for step, _ in enumerate(history.random_history(log, seed, length)):
        name = f"R{rng.randrange(6)}"
        choice = rng.random()
        if choice < 0.6:
            parts = rng.choice([1, 1, 2])
            made = [
                reading(
                    name, part=part, parts=parts, source=rng.choice("ab"), parser=rng.choice(["rules/1", "rules/2"]),
                    val_bpb=rng.choice([None, round(rng.uniform(1.1, 1.2), 2)]),
                    base_val_bpb=rng.choice([None, 1.1]), delta_bpb_stated=rng.choice([None, -0.1]),
                    interventions=tuple(
                        technique(one, known=":" not in one, removed=rng.random() < 0.2)
                        for one in rng.sample(names, 3)
                    ),
                    seeds=(
                        ReadSeed(seed=0, val_bpb=rng.random(), source="readme", evidence="README.md:1"),
                        ReadSeed(seed=0, val_bpb=rng.random(), source="log", evidence="x.log:1"),
                        ReadSeed(seed=1, val_bpb=rng.random(), source="readme", evidence="README.md:2"),
                    ),
                    tests=(ReadTest(p="0.01", against=(f"#{rng.randrange(4)}",), evidence="README.md:4"),),
                    selections=(ReadSelection(kind="tuned_on", seed=rng.randrange(3), evidence="README.md:5"),),
                    lineage=(ReadLineage(parent=f"PR #{rng.randrange(4)}", evidence="README.md:1"),),
                )
                for part in range(1, parts + 1)
            ]  # fmt: skip
            ids += put(log, *made)
        elif choice < 0.7:
            rows = [line(n, 1.1, f"On PR #{n}: on the PR #1 stack", record=f"track/R{n}") for n in range(3)]
            ids += put(log, board(*rows, source=rng.choice("ab")))
        elif choice < 0.8:
            digest = rng.choice([None, "a"])
            put(
                log, ExtractionFailed(record=f"track/{name}", path="x", reason="no", parser="p", source_digest=digest)
            )
        elif ids:
            retract(log, ids.pop(rng.randrange(len(ids))))
        yield step


@settings(max_examples=4, deadline=None, suppress_health_check=list(HealthCheck))
@given(seed=st.integers(0, 10**6), cuts=st.sets(st.integers(1, 30), max_size=3))
def test_building_onwards_gives_the_digests_of_building_anew(tmp_path_factory, seed, cuts):
    log = Log.create(tmp_path_factory.mktemp("records") / "ledger")
    for step in random_records(log, seed, 30):
        if step in cuts:
            tables(log)
    assert tables(log).digests() == tables(log, fresh=True, threads=4).digests()


def test_each_record_has_one_row_and_each_key_is_one(log):
    for _ in random_records(log, 3, 60):
        pass
    built = tables(log)
    from projections import catalog

    for table in catalog.tables():
        key = ", ".join(table.key)
        assert built.rows(f"SELECT {key} FROM {table.name} GROUP BY {key} HAVING count(*) > 1") == [], table.name


COLUMNS = {
    "records": "record track name author github_id date val_bpb base_ref base_val_bpb delta_bpb bytes_total format "
    "field_coverage source_digest event_id",
    "interventions": "record intervention label kind status before after delta_bpb delta_source evidence event_id",
    "record_seeds": "record seed val_bpb bytes_total source event_id",
    "ablations": "record change val_bpb delta_bpb heading evidence event_id",
    "lineage": "record parent how evidence",
}


@pytest.mark.parametrize("table", COLUMNS)
def test_the_columns_that_others_rely_on_come_first_in_this_order(log, table):
    have = [row["column_name"] for row in tables(log).rows(f"DESCRIBE {table}")]
    assert have[: len(COLUMNS[table].split())] == COLUMNS[table].split()

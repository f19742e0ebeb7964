"""The leaderboard's own records, read by the rules, against labels made by hand. Skipped where they are not there."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from ledger.records import RecordExtracted
from runners.extraction.leaderboard import read_leaderboard
from runners.extraction.record import find_records, read_record

GIVEN = Path(__file__).resolve().parents[2].parent / "shared"
GOLF = GIVEN / "data" / "parameter-golf"
LABELS = GIVEN / "gold" / "extraction"
SCORER = GIVEN / "tools" / "score_extraction.py"
FLOORS = {
    "headline": 0.96, "base_score": 0.85, "base_ref": 0.85, "interventions_f1": 0.80, "interventions_precision": 0.80,
    "delta_recall": 0.80, "seeds_f1": 0.95, "ablations_f1": 0.80,
}  # fmt: skip

pytestmark = pytest.mark.skipif(not GOLF.is_dir(), reason="the records of the leaderboard are not on this machine")


@pytest.fixture(scope="module")
def readings() -> list[list[RecordExtracted]]:
    return [read_record(folder) for folder in find_records(GOLF)]


def test_all_records_are_read(readings):
    assert len(readings) == 59
    assert all(parts[0].val_bpb is not None for parts in readings)


@pytest.mark.skipif(not SCORER.is_file() or not LABELS.is_dir(), reason="the labels are not on this machine")
def test_the_rules_reach_their_floors(readings, tmp_path):
    out: dict[str, list[dict[str, object]]] = {
        "records": [],
        "interventions": [],
        "record_seeds": [],
        "ablations": [],
    }
    for parts in readings:
        name = parts[0].record
        seeds = [row for part in parts for row in part.seeds]
        source = next((each for each in ("readme", "json") if any(row.source == each for row in seeds)), None)
        out["records"].append(
            {
                "record": name,
                "val_bpb": parts[0].val_bpb,
                "base_ref": parts[0].base_ref,
                "base_val_bpb": parts[0].base_val_bpb,
            }
        )
        out["record_seeds"] += [
            {"record": name, "seed": row.seed, "val_bpb": row.val_bpb} for row in seeds if row.source == source
        ]
        for part in parts:
            out["interventions"] += [
                {key: getattr(row, key) for key in ("label", "status", "before", "after", "delta_bpb")}
                | {"record": name}
                for row in part.interventions
            ]
            out["ablations"] += [
                {key: getattr(row, key) for key in ("change", "val_bpb", "delta_bpb")} | {"record": name}
                for row in part.ablations
            ]
    path = tmp_path / "out.json"
    path.write_text(json.dumps(out))
    needs = [f"--need={name}={floor}" for name, floor in FLOORS.items()]
    done = subprocess.run([sys.executable, SCORER, LABELS, path, *needs], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_fields_are_filled_where_the_texts_hold_them(readings):
    """Name, date, score, base, changes, seeds and size of each record."""
    filled = [
        (part.name, part.date, part.val_bpb, part.base_ref, part.interventions, part.seeds, part.bytes_total)
        for part in (parts[0] for parts in readings)
    ]
    cells = [value not in (None, ()) for row in filled for value in row]
    assert sum(cells) / len(cells) > 0.93


def test_every_place_that_is_given_as_evidence_exists(readings):
    lines = {
        folder.name: (folder / "README.md").read_text(encoding="utf-8").count("\n") + 1
        for folder in find_records(GOLF)
    }
    for parts in readings:
        for part in parts:
            places = [place for row in part.interventions for place in row.evidence] + [
                row.evidence for row in part.ablations
            ]
            for place in places:
                file, _, line = place.rpartition(":")
                assert file == "README.md"
                assert 1 <= int(line) <= lines[part.record.rpartition("/")[2]]


def test_the_leaderboard_is_read(readings):
    page = read_leaderboard(GOLF / "README.md")
    linked = {row.record for row in page.rows if row.record is not None}
    assert len(page.rows) == 59
    assert linked <= {parts[0].record for parts in readings}
    assert all(row.score is not None and row.date is not None for row in page.rows)

"""`ledger export`: tables as files, and the ledger's own files as Delta tables that others read."""

from __future__ import annotations

import csv
import json
import os
import re
import shlex
import shutil
from pathlib import Path

import duckdb
import polars
import pyarrow.parquet as pq
import pytest

from ledger.chain import Log

deltalake = pytest.importorskip("deltalake")

FINISHED = "warehouse/typed/run.finished/v1"


def test_a_table_becomes_a_parquet_file_with_all_of_its_rows(study):
    done = study.call("export", "parquet", "runs")
    assert done.code == 0
    assert done.out == f"runs.parquet: 12 rows of runs at {study.size()} events\n"
    rows = pq.read_table("runs.parquet").to_pylist()
    assert [row["run"] for row in rows] == [row["run"] for row in study.sql("SELECT run FROM runs ORDER BY run")]
    assert [row["value"] for row in rows] == [
        row["value"] for row in study.sql("SELECT value FROM runs ORDER BY run")
    ]


def test_a_table_becomes_a_csv_file_that_a_program_reads(study):
    done = study.call("--json", "export", "csv", "effects", "-o", "out.csv")
    assert done.rows[0] | {"root": ""} == {
        "file": "out.csv", "table": "effects", "rows": 3, "position": study.size(), "root": "",
    }  # fmt: skip
    with open("out.csv", newline="") as file:
        found = [float(row["effect"]) for row in csv.DictReader(file)]
    assert found == [
        row["effect"] for row in study.sql("SELECT effect FROM effects ORDER BY experiment, intervention")
    ]


def test_a_table_may_be_written_as_it_was(study):
    assert study.call("export", "csv", "runs", "--as-of", "0", "-o", "none.csv").code == 0
    assert len(Path("none.csv").read_text().splitlines()) == 1


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["parquet"], "which table?"),
        (["parquet", "run"], "did you mean runs?"),
        (["csv", "runs; DROP TABLE runs"], "no table"),
        (["xml", "runs"], "xml"),
        (["csv", "runs", "-o", "nosuch/runs.csv"], "nosuch/runs.csv"),
        (["delta", "runs"], "takes no table"),
        (["delta", "--as-of", "3"], "takes no table"),
    ],
)
def test_what_cannot_be_exported_is_refused_in_one_line_and_leaves_no_file(study, words, said):
    before = sorted(os.listdir("."))
    done = study.call("export", *words)
    assert done.code == 2
    assert said in done.complaint
    assert sorted(os.listdir(".")) == before


def test_deltalake_and_polars_read_the_events_and_the_types(study):
    assert study.call("export", "delta").code == 0
    every = deltalake.DeltaTable("warehouse").to_pyarrow_table(columns=["event_id", "type", "body"])
    assert {row["event_id"].hex() for row in every.to_pylist()} == {
        row["event_id"].replace("-", "") for row in study.events()
    }
    bodies = polars.scan_delta("warehouse").select("body").collect()["body"].to_list()
    assert {json.loads(body)["type"] for body in bodies} == {row["type"] for row in study.events()}
    query = "SELECT run, value FROM runs ORDER BY finished_position"
    for rows in (
        deltalake.DeltaTable(FINISHED).to_pyarrow_table().sort_by("position").to_pylist(),
        polars.scan_delta(FINISHED).sort("position").collect().to_dicts(),
    ):
        assert [{"run": row["run"], "value": row["value"]} for row in rows] == study.sql(query)


def test_exporting_again_follows_the_log_and_says_nothing_when_nothing_is_new(study):
    first = study.call("--json", "export", "delta").rows[0]["tables"]
    assert study.call("--json", "export", "delta").rows[0]["tables"] == first
    assert study.run("--arm", "EFFECT=0.5", seeds="7").code == 0
    then = {table["table"]: table for table in study.call("--json", "export", "delta").rows[0]["tables"]}
    assert then["events"]["rows"] == study.size()
    assert then["events"]["version"] == 1
    assert polars.scan_delta(FINISHED).collect().height == 14
    assert deltalake.DeltaTable("warehouse").to_pyarrow_table().num_rows == study.size()
    assert deltalake.DeltaTable("warehouse", version=0).to_pyarrow_table().num_rows == first[0]["rows"]


def test_after_compaction_every_event_is_there_once(study):
    assert study.call("export", "delta").code == 0
    assert study.call("checkpoint").code == 0
    assert study.call("compact", "--grace", "0").code == 0
    assert not list(Path("warehouse/log").rglob("*.parquet"))
    told = study.call("--json", "export", "delta").rows[0]["tables"][0]
    found = deltalake.DeltaTable("warehouse").to_pyarrow_table(columns=["position"])["position"].to_pylist()
    assert sorted(found) == list(range(study.size()))
    assert told["files"] == 1


def test_programs_that_would_change_the_files_are_refused(study):
    """Above all `vacuum`: to Delta every file of the ledger that is no part of the table is rubbish."""
    assert study.call("export", "delta").code == 0
    assert study.call("compact").code == 0  # its sources stay for an hour, and the next version drops them
    assert study.call("export", "delta").code == 0
    before = {path: path.read_bytes() for path in Path("warehouse").rglob("*") if path.is_file()}
    table = deltalake.DeltaTable("warehouse")
    for full in (False, True):
        assert table.vacuum(0, enforce_retention_duration=False, full=full)  # it would like to
        with pytest.raises(Exception, match="experimentLedgerReadOnly"):
            table.vacuum(0, dry_run=False, enforce_retention_duration=False, full=full)
    for place in ("warehouse", FINISHED):
        some = deltalake.DeltaTable(place).to_pyarrow_table().slice(0, 1)
        for mode in ("append", "overwrite"):
            with pytest.raises(Exception, match="experimentLedgerReadOnly"):
                deltalake.write_deltalake(place, some, mode=mode)
    assert {path: path.read_bytes() for path in Path("warehouse").rglob("*") if path.is_file()} == before
    assert study.call("verify").code == 0


def test_rebuild_makes_all_that_is_derived_again(study):
    """Whatever of it was deleted: the tables, the typed files, the views."""
    first = study.call("--json", "rebuild").rows[0]
    typed = {path: path.read_bytes() for path in Path("warehouse/typed").rglob("*.parquet")}
    views = Path("warehouse/views.sql").read_bytes()
    assert first["typed"]["files"] == len(typed) > 3
    for name in ("proj", "typed", "state"):
        shutil.rmtree(f"warehouse/{name}")
    os.unlink("warehouse/views.sql")
    assert study.call("--json", "rebuild").rows[0] == first
    assert {path: path.read_bytes() for path in Path("warehouse/typed").rglob("*.parquet")} == typed
    assert Path("warehouse/views.sql").read_bytes() == views


def test_rebuild_as_of_and_incremental_leave_the_typed_files_right(study):
    assert study.call("rebuild").code == 0
    made = json.loads(Path("warehouse/typed/files.json").read_text())
    assert study.call("--json", "rebuild", "--as-of", "5").rows[0]["typed"] is None
    assert json.loads(Path("warehouse/typed/files.json").read_text()) == made
    assert study.run("--arm", "EFFECT=0.5", seeds="7").code == 0
    assert study.call("rebuild", "--incremental").code == 0
    stepwise = json.loads(Path("warehouse/typed/files.json").read_text())
    assert study.call("rebuild").code == 0
    assert json.loads(Path("warehouse/typed/files.json").read_text()) == stepwise
    assert stepwise["size"] == study.size()


def test_a_damaged_delta_log_is_said_so(study):
    assert study.call("export", "delta").code == 0
    Path("warehouse/_delta_log/00000000000000000000.json").write_text("garbage\n")
    done = study.call("export", "delta")
    assert done.code == 3
    assert "delete" in done.complaint


def test_what_the_page_on_sql_shows_works_as_it_stands(study):
    page = (Path(__file__).resolve().parent.parent.parent / "docs" / "sql.md").read_text()
    for line in re.findall(r"^\$ (ledger .*)$", page, re.M):
        done = study.spawn(*shlex.split(line)[1:])
        assert done.code == 0, done.err
    for block in re.findall(r"^```python\n(.*?)^```", page, re.M | re.S):
        exec(block, {})
    os.chdir("warehouse")
    with duckdb.connect() as connection:
        connection.execute(Path("views.sql").read_text())
        answers = [
            connection.sql(query).to_arrow_table().to_pylist()
            for block in re.findall(r"^```sql\n(.*?)^```", page, re.M | re.S)
            for query in block.split(";")
            if query.strip()
        ]
    assert len(answers) == 4
    assert sum(row["events"] for row in answers[0]) == study_size()
    assert sum(row["runs"] for row in answers[1]) == sum(row["runs"] for row in answers[3]) == 12


def study_size():
    """Of the ledger that is the present folder."""
    return Log(".").head().position

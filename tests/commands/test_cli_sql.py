"""`ledger sql` answers questions and can do nothing else; what it prints can be read by programs and by people."""

from __future__ import annotations

import csv
import io
import json
import os
import subprocess

import pytest

from commands.sql import csv_cell


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("SELEC 1", "syntax error"),
        ("SELECT nosuch FROM runs", "nosuch"),
        ("SELECT * FROM run", "runs"),
        ("DELETE FROM runs", "read-only"),
        ("UPDATE runs SET value = 0", "read-only"),
        ("INSERT INTO main.runs SELECT * FROM runs", "read-only"),
        ("DROP TABLE runs", "read-only"),
        ("CREATE TABLE mine AS SELECT 1", "read-only"),
        ("CREATE TABLE mine (x INT); SELECT 1", "several statements"),
        ("SELECT * FROM read_csv('train.py')", "out of reach"),
        ("SELECT * FROM read_text('train.py')", "out of reach"),
        ("SELECT * FROM glob('*')", "out of reach"),
        ("SELECT * FROM 'train.py'", "train.py"),
        ("COPY runs TO 'stolen.csv'", "out of reach"),
        ("COPY (SELECT 1) TO '/dev/stderr'", "out of reach"),
        ("EXPORT DATABASE 'stolen'", "out of reach"),
        ("ATTACH 'other.db'", "out of reach"),
        ("ATTACH ':memory:' AS m; CREATE TABLE m.t AS SELECT 1; SELECT 1", ""),
        ("INSTALL httpfs", "out of reach"),
        ("LOAD httpfs", "disabled"),
        ("SET enable_external_access = true", "locked"),
        ("SET threads = 1", "locked"),
        ("RESET lock_configuration", "locked"),
        ("PRAGMA enable_profiling", ""),
        (";", "only queries are answered"),
        ("/* nothing */", "only queries are answered"),
    ],
)
def test_what_is_not_a_question_is_refused_in_one_line_and_leaves_no_file(study, query, said):
    before = sorted(os.listdir("."))
    done = study.call("sql", query)
    if done.code == 0:  # a harmless statement that DuckDB answers: it must at least have changed nothing
        assert said == ""
    else:
        assert done.code == 2
        assert said in done.complaint
    assert sorted(os.listdir(".")) == before
    assert study.sql("SELECT count(*) AS n FROM runs") == [{"n": 12}]


def test_every_table_can_be_asked_and_is_listed(study):
    listed = study.call(
        "--json", "sql", "SELECT table_name AS name FROM information_schema.tables WHERE table_schema = 'main'"
    )
    names = {row["name"] for row in listed.rows}
    assert names >= {"runs", "metrics", "experiments", "decisions", "events"}
    for name in names:
        assert study.call("sql", f"SELECT * FROM {name}").code == 0


def test_a_query_may_come_on_standard_input(study):
    child = study.start("--json", "sql", stdin=subprocess.PIPE)
    out, _ = child.communicate(b"SELECT count(*) AS n\nFROM runs", timeout=60)
    assert json.loads(out) == {"n": 12}


def test_without_a_query_the_tables_are_listed(study):
    rows = [json.loads(line) for line in study.spawn("--json", "sql").out.splitlines()]
    assert {row["table"] for row in rows} >= {"runs", "decisions"}


def test_json_gives_one_line_a_row_with_values_that_programs_can_read(study):
    row = study.sql(
        """SELECT 'é' AS text, [1, 2] AS list, {'a': 1.5::DOUBLE} AS struct, 1.50::DECIMAL(4, 2) AS money,
        NULL AS nothing,
        'nan'::DOUBLE AS nan, '-inf'::DOUBLE AS low, TIMESTAMPTZ '2026-01-02 03:04:05+00' AS time, true AS yes,
        170141183460469231731687303715884105727::HUGEINT AS huge"""
    )[0]
    assert row == {
        "text": "é",
        "list": [1, 2],
        "struct": {"a": 1.5},
        "money": "1.50",
        "nothing": None,
        "nan": "NaN",
        "low": "-Infinity",
        "time": "2026-01-02T03:04:05Z",
        "yes": True,
        "huge": "170141183460469231731687303715884105727",
    }


def test_two_columns_of_one_name_keep_both_values(study):
    assert study.sql("SELECT 1 AS a, 2 AS a, 3 AS a_1") == [{"a": 1, "a_1": 2, "a_1_1": 3}]


def test_csv_is_read_back_as_it_was(study):
    query = (
        "SELECT 'a,\"b\"\nc' AS text, 0.1 + 0.2 AS number, NULL AS nothing, [1, 2] AS list, true AS yes FROM range(2)"
    )
    done = study.call("sql", "--csv", query)
    assert done.code == 0
    rows = list(csv.DictReader(io.StringIO(done.out)))
    assert len(rows) == 2
    assert rows[0]["text"] == 'a,"b"\nc'
    assert (rows[0]["nothing"], json.loads(rows[0]["list"]), rows[0]["yes"]) == ("", [1, 2], "true")


def test_a_float_in_csv_keeps_every_digit():
    assert str(csv_cell(0.1 + 0.2)) == "0.30000000000000004"
    assert csv_cell(float("nan")) == "NaN"


def test_no_rows_are_said_on_stderr_and_nothing_on_stdout(study):
    done = study.call("sql", "SELECT * FROM runs WHERE false")
    assert (done.code, done.err) == (0, "no rows\n")
    assert study.call("--json", "sql", "SELECT 1 WHERE false").out == ""


def test_a_reader_that_leaves_early_is_no_error(study):
    for options in (["--json", "sql"], ["sql"], ["sql", "--csv"]):
        child = study.start(*options, "SELECT range AS n FROM range(20000)")
        assert child.stdout is not None
        child.stdout.readline()
        child.stdout.close()
        assert child.stderr is not None
        err = child.stderr.read()
        assert (child.wait(timeout=60), err) == (0, b"")
        child.stderr.close()


def test_a_full_disk_behind_the_output_is_told_in_one_line(study):
    with open("/dev/full", "wb") as full:
        done = study.spawn("--json", "log", stdout=full)
    assert done.code == 1
    assert done.complaint == "ledger: the output cannot be written: No space left on device"


def test_a_closed_output_is_no_error(study):
    command = f"{' '.join(study.start.__globals__['LEDGER'])} status >&-"
    done = subprocess.run(["sh", "-c", command], capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (0, b"")

"""`ledger.open`: events, tables and SQL, read-only."""

import polars
import pyarrow as pa
import pytest

import ledger
from ledger.errors import Conflict, Corrupt, LedgerError, NotALedger, UsageError


@pytest.fixture(scope="module")
def opened(tmp_path_factory):
    """One finished run, read through the public API."""
    root = tmp_path_factory.mktemp("reading") / "ledger"
    ledger.Log.create(root)
    run = ledger.init(path=root, seed=3, config={"lr": 0.1})
    run.log({"loss": 2.0}, step=0)
    run.finish(val_bpb=1.25)
    return ledger.open(root)


def test_events_come_in_order_with_their_data(opened):
    assert [(e.position, e.type) for e in opened.events()] == [
        (0, "run.started"),
        (1, "metrics.logged"),
        (2, "run.finished"),
    ]
    assert next(opened.events(types={"run.started"})).data.seed == 3


def test_a_table_is_had_as_arrow_polars_and_rows(opened):
    runs = opened.table("runs")
    assert isinstance(runs.arrow(), pa.Table)
    assert isinstance(runs.polars(), polars.DataFrame)
    assert len(runs) == 1
    (row,) = runs
    assert (row["seed"], row["status"]) == (3, "ok")


def test_sql_reads_the_tables(opened):
    result = opened.sql("SELECT type, count(*) AS n FROM events GROUP BY type ORDER BY type")
    assert result.rows() == [
        {"type": "metrics.logged", "n": 1},
        {"type": "run.finished", "n": 1},
        {"type": "run.started", "n": 1},
    ]


def test_a_table_as_of_an_earlier_position_is_as_it_was(opened):
    assert opened.sql("SELECT count(*) AS n FROM events", as_of=2).rows() == [{"n": 2}]


@pytest.mark.parametrize(
    "query",
    [
        "DROP TABLE events",
        "INSERT INTO events VALUES (1)",
        "SELECT * FROM read_csv('/etc/passwd')",
        "COPY (SELECT 1) TO '/tmp/x.csv'",
        "SELECT * FROM nothing",
        "SELEC 1",
        "ATTACH '/tmp/x.db'",
        "SET threads = 1",
    ],
)
def test_sql_can_do_nothing_but_read_the_tables(opened, query):
    with pytest.raises(UsageError):
        opened.sql(query)


@pytest.mark.parametrize("name", ["", "no such", 'x"; DROP TABLE events; --', "a.b"])
def test_a_name_that_is_no_table_is_a_usage_error(opened, name):
    with pytest.raises(UsageError):
        opened.table(name)


def test_the_head_is_the_log_s(opened):
    assert opened.head() == opened.log.head()


def test_opening_what_is_no_ledger_says_so(tmp_path):
    with pytest.raises(NotALedger):
        ledger.open(tmp_path)


def test_every_error_a_user_sees_is_a_ledger_error_with_its_exit_code():
    assert [error.exit_code for error in (LedgerError, UsageError, NotALedger, Corrupt, Conflict)] == [1, 2, 2, 3, 4]


def test_a_name_that_the_package_has_not_is_an_attribute_error():
    with pytest.raises(AttributeError):
        ledger.nothing  # noqa: B018
    assert all(hasattr(ledger, name) for name in ledger.__all__)

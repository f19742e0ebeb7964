import pytest

from ledger import disk
from ledger.chain import Log
from projections.engine import tables
from runners.importers.bringing import KINDS, bring


@pytest.fixture
def log(tmp_path):
    """An empty ledger."""
    return Log.create(tmp_path / "ledger")


@pytest.fixture(autouse=True, scope="package")
def without_waiting_for_the_disk():
    """What survives a power cut is tested elsewhere; here hundreds of appends would only wait."""
    flush, disk._flush = disk._flush, lambda file: None
    yield
    disk._flush = flush


@pytest.fixture
def imported(log):
    """imported(kind, path) reads and appends; (counts, what failed)."""

    def call(kind, path):
        found = KINDS[kind](path)
        return dict(bring(log, found)), found.failed

    return call


@pytest.fixture
def rows(log):
    """rows(query) on the tables as they are now."""
    return lambda query: tables(log).rows(query)

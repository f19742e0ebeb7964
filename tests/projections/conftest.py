import sys
from pathlib import Path

import pytest

from ledger import disk
from ledger.chain import Log

sys.path.insert(0, str(Path(__file__).parent))  # history.py


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

import pytest

from ledger import disk


@pytest.fixture(autouse=True)
def _without_waiting_for_the_disk(monkeypatch):
    """What survives a power cut is tested in tests/faults; here thousands of appends would only wait."""
    monkeypatch.setattr(disk, "_flush", lambda file: None)

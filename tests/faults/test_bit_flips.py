"""A single flipped bit anywhere in what the ledger promises to keep is found by verify."""

import importlib
import sys
from pathlib import Path

import pytest

from ledger.verify import verify


@pytest.fixture
def flips(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2]))
    return importlib.import_module("benchmarks.flips")


def test_verify_finds_every_one_of_a_hundred_and_twenty_flipped_bits(tmp_path, flips, without_sync, capsys):
    root = str(tmp_path / "ledger")
    flips.realistic(root)
    assert verify(root, level="derived").problems == ()
    assert all(flips.kept(root).values()), "a kind of file that the ledger does not have is not tested"
    found = flips.experiment(root, 120, seed=20251120)
    with capsys.disabled():
        print("\n  " + "\n  ".join(flips.sentences(found)), file=sys.stderr)
    assert found["missed"] == []
    assert verify(root, level="derived").problems == ()


def test_verify_finds_a_flip_of_every_bit_of_the_mark(tmp_path, flips, without_sync):
    from ledger.chain import Log
    from ledger.errors import LedgerError

    root = Log.create(tmp_path / "ledger").root
    path = Path(root, "LEDGER.json")
    data = path.read_bytes()
    for bit in range(len(data) * 8):
        flipped = bytearray(data)
        flipped[bit // 8] ^= 1 << bit % 8
        path.write_bytes(flipped)
        try:
            found = bool(verify(root).problems)
        except LedgerError:
            found = True
        assert found, f"bit {bit}"

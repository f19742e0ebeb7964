"""A place to write records and to read them from. The texts beside it, one a format, were written for these tests."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from ledger.records import RecordExtracted
from runners.extraction.record import read_record


@pytest.fixture
def place(tmp_path: Path) -> Callable[..., Path]:
    """Write one record's files below a track; texts, bytes, or objects for JSON."""

    def write(name: str = "2026-01-02_Example", track: str = "track_a", **files: object) -> Path:
        folder = tmp_path / "records" / track / name
        folder.mkdir(parents=True, exist_ok=True)
        for file, content in files.items():
            path = folder / file.replace("__", ".")
            if isinstance(content, bytes):
                path.write_bytes(content)
            else:
                path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
        return folder

    return write


@pytest.fixture
def readme(place) -> Callable[..., RecordExtracted]:
    """The reading of a record that is only a README, or with a submission.json."""

    def read(text: str, **files: object) -> RecordExtracted:
        parts = read_record(place(README__md=text, **files))
        assert len(parts) == 1
        return parts[0]

    return read

"""Metric points: a file that its event vouches for."""

import itertools
import math
import struct
from hashlib import sha256
from pathlib import Path

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ledger import points
from ledger.errors import Corrupt, NotAppended, UsageError

NUMBERS = itertools.count()
INT64 = st.integers(-(2**63), 2**63 - 1)
POINTS = st.lists(
    st.tuples(
        INT64, st.text(st.characters(exclude_categories=["Cs"]), max_size=8), st.floats(), st.integers(0, 2**51)
    ),
    min_size=1,
    max_size=40,
)


def bits(value):
    return struct.pack("<d", value)


def by_definition(taken):
    """The digest as MetricsLogged describes it, written a second time."""
    steps, names, values, times = zip(*taken, strict=True)
    total = sha256(struct.pack(f"<{len(steps)}q", *steps))
    for name in names:
        total.update(struct.pack("<I", len(name.encode())) + name.encode())
    total.update(struct.pack(f"<{len(values)}d", *values) + struct.pack(f"<{len(times)}q", *times))
    return total.hexdigest()


@given(taken=POINTS)
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_points_come_back_in_order_and_to_the_bit(fresh, taken):
    event = points.write_chunk(fresh.root, "r", "api", "w", next(NUMBERS), taken)
    batch = points.read_chunk(fresh.root, event)
    back = zip(
        batch["step"].to_pylist(),
        batch["name"].to_pylist(),
        map(bits, batch["value"].to_pylist()),
        batch["time"].cast("int64").to_pylist(),
        strict=True,
    )
    assert list(back) == [(step, name, bits(value), time) for step, name, value, time in taken]
    assert event.sha256 == by_definition(taken)


def test_the_event_sums_up_its_points(fresh):
    taken = [(5, "b", 1.0, 1), (2, "a", math.nan, 2), (9, "b", -math.inf, 3)]
    event = points.write_chunk(fresh.root, "r", "api", "w", 0, taken)
    assert (event.rows, event.names, event.first_step, event.last_step) == (3, ("a", "b"), 2, 9)
    assert event.chunk == "chunk/w/00000000.parquet"


def test_no_points_make_no_chunk(fresh):
    with pytest.raises(UsageError):
        points.write_chunk(fresh.root, "r", "api", "w", 0, [])


def test_a_chunk_is_never_written_over(fresh):
    points.write_chunk(fresh.root, "r", "api", "w", 0, [(1, "a", 1.0, 1)])
    before = Path(fresh.root, "chunk/w/00000000.parquet").read_bytes()
    with pytest.raises(Corrupt, match="exists already"):
        points.write_chunk(fresh.root, "r", "api", "w", 0, [(1, "a", 2.0, 1)])
    assert Path(fresh.root, "chunk/w/00000000.parquet").read_bytes() == before


def test_a_folder_that_cannot_be_made_means_that_nothing_was_appended(fresh):
    Path(fresh.root, "chunk").rmdir()
    Path(fresh.root, "chunk").write_text("in the way")
    with pytest.raises(NotAppended):
        points.write_chunk(fresh.root, "r", "api", "w", 0, [(1, "a", 1.0, 1)])


@pytest.fixture
def chunk(fresh):
    return fresh, points.write_chunk(fresh.root, "r", "api", "w", 0, [(step, "a", 0.5, step) for step in range(9)])


@pytest.mark.parametrize("damage", [b"", b"PAR1", None])
def test_a_damaged_chunk_is_corrupt(chunk, damage):
    log, event = chunk
    path = Path(log.root, event.chunk)
    path.write_bytes(path.read_bytes()[:-9] if damage is None else damage)
    with pytest.raises(Corrupt):
        points.read_chunk(log.root, event)


def test_a_missing_chunk_is_corrupt(chunk):
    log, event = chunk
    Path(log.root, event.chunk).unlink()
    with pytest.raises(Corrupt, match="missing"):
        points.read_chunk(log.root, event)


@pytest.mark.parametrize("change", [{"sha256": "0" * 64}, {"rows": 8}])
def test_a_chunk_that_its_event_does_not_vouch_for_is_corrupt(chunk, change):
    log, event = chunk
    with pytest.raises(Corrupt, match="digest"):
        points.read_chunk(log.root, msgspec.structs.replace(event, **change))


def test_a_whole_chunk_of_other_points_is_corrupt(chunk):
    log, event = chunk
    other = points.write_chunk(log.root, "r", "api", "w", 1, [(step, "a", 0.25, step) for step in range(9)])
    Path(log.root, other.chunk).replace(Path(log.root, event.chunk))
    with pytest.raises(Corrupt, match="digest"):
        points.read_chunk(log.root, event)


@pytest.mark.parametrize(
    "path", ["../x", "/etc/passwd", "chunk/x", "log/00000000/0000000000000000.parquet", "chunk/../../x"]
)
def test_a_chunk_never_lies_outside_its_folder(chunk, path):
    log, event = chunk
    with pytest.raises(Corrupt, match="not a chunk's path"):
        points.read_chunk(log.root, msgspec.structs.replace(event, chunk=path))

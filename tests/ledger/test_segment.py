"""One commit as a Parquet file that vouches for itself."""

import io

import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ledger import segment
from ledger.errors import Corrupt, Unsupported
from ledger.merkle import leaf_hash
from ledger.segment import Row

ID, ROOT = "ab" * 16, "cd" * 32
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
ROWS = st.lists(
    st.builds(
        Row,
        event_id=st.binary(min_size=16, max_size=16),
        type=TEXT,
        type_version=st.integers(1, 2**15 - 1),
        stream=TEXT,
        writer=st.binary(min_size=16, max_size=16),
        writer_seq=st.integers(0, 2**63 - 1),
        recorded_at=st.integers(0, 2**51),
        correlation_id=st.none() | st.binary(min_size=16, max_size=16),
        causation_id=st.none() | st.binary(min_size=16, max_size=16),
        actor=st.none() | TEXT,
        body=st.binary(max_size=200),
    ),
    min_size=1,
    max_size=80,
)


def rows(count, body=b"{}"):
    return [
        Row(bytes([i % 256]) * 16, "t.t", 1, "a/b", b"w" * 16, i, 10**15 + i, None, None, "me", body + b" %d" % i)
        for i in range(count)
    ]


@given(ROWS)
@settings(max_examples=40, deadline=None)
def test_what_was_encoded_is_decoded(made):
    data, leaves = segment.encode(made, ID, 7, ROOT)
    said, batch = segment.decode(data, "x", ID)
    back = batch.set_column(6, "recorded_at", batch.column("recorded_at").cast("int64")).to_pylist()
    assert [Row(**row) for row in back] == made
    assert leaves == [leaf_hash(row.body) for row in made] == segment.leaves_of(batch)
    assert (said.n, said.base_hint, said.root_hint, said.ledger_id) == (len(made), 7, ROOT, ID)


@pytest.mark.parametrize("count", [1, 2, 49, 50, 64, 65, 1000])
def test_a_peek_at_the_end_of_a_file_says_what_decoding_it_says(count, tmp_path):
    data, leaves = segment.encode(rows(count), ID, 0, ROOT)
    (tmp_path / "one").write_bytes(data)
    peeked = segment.peek(str(tmp_path / "one"))
    assert peeked == segment.decode(data, "x")[0]
    assert peeked.n == count
    assert peeked.seal == segment.seal_of(data)
    assert peeked.leaves == (tuple(leaves) if count <= 64 else None)


def test_large_bodies_do_not_push_the_footer_out_of_the_peek(tmp_path):
    large = [row._replace(body=bytes([i]) * 4000, stream=f"s/{i:0128d}") for i, row in enumerate(rows(64))]
    (tmp_path / "one").write_bytes(segment.encode(large, ID, 0, ROOT)[0])
    assert segment.peek(str(tmp_path / "one")).n == 64


def test_values_that_look_like_a_footer_are_not_taken_for_it():
    mark = "ledger.n\x18\x019 ledger.format\x18\x019 ledger.seal\x18\x40" + "0" * 64
    made = [row._replace(actor=mark, stream=mark, body=mark.encode()) for row in rows(60)]
    said, batch = segment.decode(segment.encode(made, ID, 0, ROOT)[0], "x", ID)
    assert said.n == batch.num_rows == 60


def test_the_file_is_plain_parquet_for_any_reader():
    table = pq.read_table(io.BytesIO(segment.encode(rows(3), ID, 0, ROOT)[0]))
    assert table.column("body").to_pylist() == [row.body for row in rows(3)]


def test_the_same_rows_give_the_same_bytes():
    assert segment.encode(rows(5), ID, 1, ROOT)[0] == segment.encode(rows(5), ID, 1, ROOT)[0]


def test_a_file_of_another_ledger_is_refused():
    with pytest.raises(Corrupt, match="belongs to ledger"):
        segment.decode(segment.encode(rows(1), ID, 0, ROOT)[0], "x", "ef" * 16)


def test_a_newer_format_is_refused_and_not_called_damaged(monkeypatch):
    monkeypatch.setattr(segment, "FORMAT", 2)
    data, _ = segment.encode(rows(1), ID, 0, ROOT)
    monkeypatch.undo()
    with pytest.raises(Unsupported, match="format 2"):
        segment.decode(data, "x", ID)


def test_a_format_that_a_flipped_bit_made_is_damage_and_not_a_newer_one():
    data = segment.encode(rows(1), ID, 0, ROOT)[0]
    with pytest.raises(Corrupt, match="seal"):
        segment.decode(data.replace(b"ledger.format\x18\x011", b"ledger.format\x18\x013"), "x", ID)


def test_a_damaged_leaf_in_the_footer_is_seen_by_a_peek():
    data = bytearray(segment.encode(rows(1), ID, 0, ROOT)[0])
    at = data.rindex(b"ledger.leaves\x18\x2c") + 15
    data[at] = ord("A") if data[at] != ord("A") else ord("B")
    with pytest.raises(Corrupt):
        segment.footer(bytes(data[-8192:]), "x")


@pytest.mark.parametrize("data", [b"", b"PAR1", b"\0" * 4000, b"PAR1" + b"x" * 100 + b"PAR1"])
def test_what_is_no_segment_is_corrupt(data):
    with pytest.raises(Corrupt):
        segment.decode(data, "x", ID)


def test_every_single_bit_counts():
    data = segment.encode(rows(1), ID, 0, ROOT)[0]
    for at in range(0, len(data) * 8, 41):
        flipped = bytearray(data)
        flipped[at // 8] ^= 1 << at % 8
        with pytest.raises(Corrupt):
            segment.decode(bytes(flipped), "x", ID)


def test_a_file_that_is_not_there_is_none(tmp_path):
    assert segment.peek(str(tmp_path / "nothing")) is None

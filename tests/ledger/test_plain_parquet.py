"""pyarrow is the definition of a small segment's bytes: what is written by hand is compared with it."""

import io
import struct

import duckdb
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ledger import plain_parquet, segment
from ledger.segment import Row

KEYS = {"ledger.format": "1", "ledger.id": "ab" * 16, "é": "", "ledger.leaves": "x" * 300, "ledger.seal": "0" * 64}
ID = st.binary(min_size=16, max_size=16)
CHARACTERS = st.characters(exclude_categories=["Cs"])
INT64 = st.integers(-(2**63), 2**63 - 1) | st.sampled_from([-(2**63), -1, 0, 2**63 - 1])
LENGTHS = st.integers(0, 40) | st.sampled_from([127, 128, 8191, 8192, 16383, 16384, segment.MAX_BODY])


@st.composite
def texts(draw):
    """Short text of any kind, or a long one of one character."""
    return draw(st.text(CHARACTERS, max_size=12) | st.builds(lambda one, n: one * (n // 4), CHARACTERS, LENGTHS))


BODIES = st.binary(max_size=60) | st.builds(lambda one, n: bytes([one]) * n, st.integers(0, 255), LENGTHS)
# Every mix of nulls: long runs of one kind and of the other (parquet-cpp packs 8 and more), or a coin's.
THERE = st.lists(st.tuples(st.booleans(), st.integers(1, 20)), min_size=1, max_size=64).map(
    lambda runs: [bit for bit, length in runs for _ in range(length)][:64]
)


@st.composite
def commits(draw, moments=INT64):
    """1 to 64 rows, built of a few different ones."""
    n = draw(st.integers(1, 64))
    small = st.integers(-(2**15), 2**15 - 1)
    one = st.tuples(ID, texts(), small, texts(), ID, INT64, moments, ID, ID, texts(), BODIES)
    some = draw(st.lists(one, min_size=1, max_size=4))
    masks = [(draw(THERE) * 64)[:n] for _ in range(3)]
    rows = []
    for index in range(n):
        row = Row(*some[index % len(some)])
        optional = [v if mask[index] else None for v, mask in zip(row[7:10], masks, strict=True)]
        rows.append(Row(*row[:7], *optional, row.body))
    return rows


def written_by_pyarrow(rows, keys=KEYS):
    arrow = segment.schema()
    columns = [segment.column(v, field.type) for v, field in zip(zip(*rows, strict=True), arrow, strict=True)]
    out = io.BytesIO()
    with pq.ParquetWriter(
        out,
        arrow,
        compression="none",
        use_dictionary=False,
        write_statistics=False,
        write_page_checksum=True,
        store_schema=False,
    ) as writer:
        writer.write_batch(pa.RecordBatch.from_arrays(columns, schema=arrow))
        writer.add_key_value_metadata(keys)
    return out.getvalue()


def sample(n):
    ids = [bytes([i]) * 16 for i in range(n)]
    return [
        Row(one, "t.ü", 1, "a/b", b"w" * 16, i, 10**15 + i, None, b"c" * 16, None if i % 3 else "me", b"{}")
        for i, one in enumerate(ids)
    ]


def same(rows):
    """Whether the two files are the same: the pages byte for byte, the footer field by field, then all of it."""
    ours, theirs = plain_parquet.encode(rows, KEYS), written_by_pyarrow(rows)
    ends = [len(data) - 8 - int.from_bytes(data[-8:-4], "little") for data in (ours, theirs)]
    assert ours[: ends[0]] == theirs[: ends[1]]
    mine, other = (pq.read_metadata(io.BytesIO(data)) for data in (ours, theirs))
    assert mine.created_by == plain_parquet.CREATED_BY.decode()
    own = ("created_by", "serialized_size")
    assert {k: v for k, v in mine.to_dict().items() if k not in own} == {
        k: v for k, v in other.to_dict().items() if k not in own
    }
    assert mine.schema.equals(other.schema)
    assert mine.schema.to_arrow_schema().equals(segment.schema())
    assert mine.metadata == other.metadata == {k.encode(): v.encode() for k, v in KEYS.items()}
    if pa.__version__.split(".")[0] != "26":  # others may say more or less in the footer
        return
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plain_parquet, "CREATED_BY", other.created_by.encode())
        assert plain_parquet.encode(rows, KEYS) == theirs


@given(commits())
@settings(max_examples=150, deadline=None)
def test_the_bytes_are_those_that_pyarrow_writes(rows):
    same(rows)


@pytest.mark.parametrize("n", range(1, 65))
def test_every_count_and_every_place_of_a_single_null_gives_the_same_bytes(n):
    for at in range(n):
        rows = sample(n)
        rows[at] = rows[at]._replace(correlation_id=b"k" * 16, causation_id=None)
        same(rows)


def test_the_largest_commit_is_one_page_a_column_too():
    same([row._replace(body=b"\xff" * segment.MAX_BODY) for row in sample(64)])


@given(commits(moments=st.integers(0, 2**51)))
@settings(max_examples=25, deadline=None)
def test_arrow_duckdb_and_polars_read_the_rows_back(tmp_path_factory, rows):
    data = plain_parquet.encode(rows, KEYS)
    path = tmp_path_factory.mktemp("plain") / "one.parquet"
    path.write_bytes(data)
    with pq.ParquetFile(path, page_checksum_verification=True) as file:
        table = file.read()
    table.validate(full=True)
    assert table.schema.remove_metadata().equals(segment.schema())
    moments = table.column("recorded_at").cast("int64")
    assert [Row(**row) for row in table.set_column(6, "recorded_at", moments).to_pylist()] == rows
    frame = pl.read_parquet(io.BytesIO(data)).with_columns(pl.col("recorded_at").dt.timestamp("us"))
    assert [Row(*row) for row in frame.rows()] == rows
    with duckdb.connect() as base:
        base.execute("SET TimeZone = 'UTC'")
        found = base.execute(
            "SELECT * REPLACE (epoch_us(recorded_at) AS recorded_at) FROM read_parquet(?)", [str(path)]
        ).fetchall()
    assert [Row(*row) for row in found] == rows


def test_a_flipped_bit_in_a_page_fails_its_checksum():
    rows = sample(5)
    data = plain_parquet.encode(rows, KEYS)
    group = pq.read_metadata(io.BytesIO(data)).row_group(0)
    for index in range(group.num_columns):
        column = group.column(index)
        end = column.data_page_offset + column.total_compressed_size
        for bit in (0, 7):  # of the page's last byte
            flipped = bytearray(data)
            flipped[end - 1] ^= 1 << bit
            with pytest.raises(OSError, match=r"CRC|checksum"):
                pq.ParquetFile(io.BytesIO(flipped), page_checksum_verification=True).read()


REFUSED = (ValueError, TypeError, AttributeError, OverflowError, struct.error, pa.ArrowException)


@pytest.mark.parametrize(
    "wrong",
    [
        {"event_id": b"short"},
        {"causation_id": b"x" * 17},
        {"type_version": 2**15},
        {"writer_seq": 2**63},
        {"recorded_at": None},
        {"writer": None},
        {"type": None},
        {"body": None},
        {"stream": "\ud800"},
    ],
)
def test_what_no_segment_may_hold_is_refused(wrong):
    with pytest.raises(REFUSED):
        plain_parquet.encode([sample(1)[0]._replace(**wrong)], KEYS)
    with pytest.raises(REFUSED):
        written_by_pyarrow([sample(1)[0]._replace(**wrong)])


def test_a_commit_of_no_rows_is_refused():
    with pytest.raises(ValueError, match="shorter"):
        plain_parquet.encode([], KEYS)


def test_segments_up_to_sixty_four_rows_are_written_so_and_others_by_pyarrow():
    for n in (1, 64, 65):
        data, _ = segment.encode(sample(n), "ab" * 16, 7, "cd" * 32)
        assert (pq.read_metadata(io.BytesIO(data)).created_by == plain_parquet.CREATED_BY.decode()) == (n < 65)
        assert segment.decode(data, "x", "ab" * 16)[1].num_rows == n


def test_appends_of_few_events_do_not_load_pyarrow(script, tmp_path):
    done = script(
        "import sys\n"
        "from ledger import events\n"
        "from ledger.chain import Log\n"
        "from ledger.writer import Draft\n"
        "one = Draft('event/remarks', events.EventRetracted(target='0' * 36, reason='a reason'))\n"
        "for log in (Log.create('ledger'), Log('ledger')):\n"
        "    for count in (1, 64):\n"
        "        log.writer.append([one] * count)\n"
        "print(log.size, 'pyarrow' in sys.modules)\n",
        cwd=tmp_path,
    )
    assert done.stdout == "130 False\n", done.stderr

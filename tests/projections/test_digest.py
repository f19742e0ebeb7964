"""The digest of a table is that of its rows, not of how they are stored."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from projections.digest import parts_digest, table_digest

ROWS = st.lists(
    st.tuples(
        st.one_of(st.none(), st.text(max_size=5)),
        st.one_of(st.none(), st.integers(-(2**63), 2**63 - 1)),
        st.one_of(st.none(), st.floats()),
        st.one_of(st.none(), st.booleans()),
    ),
    max_size=30,
)
SCHEMA = pa.schema([("t", pa.string()), ("i", pa.int64()), ("f", pa.float64()), ("b", pa.bool_())])


def make(rows):
    return pa.Table.from_pylist([dict(zip("tifb", row, strict=True)) for row in rows], schema=SCHEMA)


@given(ROWS, st.integers(1, 5))
@settings(deadline=None)
def test_chunking_does_not_change_it(rows, size):
    table = make(rows)
    parts = [table.slice(i, size) for i in range(0, len(rows), size)] or [table]
    assert table_digest(pa.concat_tables(parts)) == table_digest(table)


@given(ROWS, ROWS)
def test_other_rows_have_another_digest(one, two):
    def key(rows):
        return [tuple("nan" if isinstance(v, float) and v != v else repr(v) for v in row) for row in rows]

    assert (table_digest(make(one)) == table_digest(make(two))) == (key(one) == key(two))


def test_null_is_not_zero_and_not_empty():
    assert table_digest(make([(None, None, None, None)])) != table_digest(make([("", 0, 0.0, False)]))


def test_every_nan_is_the_same_nan():
    other = np.frombuffer(np.uint64(0x7FF8000000000001).tobytes(), dtype="<f8")[0]
    one, two = (pa.table({"x": pa.array(np.array([value]))}) for value in (np.nan, other))
    assert table_digest(one) == table_digest(two)


def test_a_column_without_an_order_of_bytes_is_refused():
    with pytest.raises(TypeError, match="list"):
        table_digest(pa.table({"x": [[1]]}))


@given(st.lists(st.integers(0, 90_000), min_size=1, max_size=4))
@settings(max_examples=20, deadline=None)
def test_parts_of_any_size_give_the_digest_of_the_whole(sizes):
    whole = pa.table({"i": pa.array(range(sum(sizes)), pa.int64())})
    parts = []
    for size in sizes:
        parts.append(whole.slice(sum(part.num_rows for part in parts), size))
    assert parts_digest(whole.num_rows, iter(parts)) == table_digest(whole)

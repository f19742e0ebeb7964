"""The columns say what the body says: equal bytes are equal, other bytes are compared value by value."""

import json
import uuid

import msgspec
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ledger import canonical, envelope, layout, segment

texts = st.text(st.characters(codec="utf-8"), max_size=12)
ids = st.binary(min_size=16, max_size=16)
rows = st.lists(
    st.builds(
        segment.Row,
        event_id=ids,
        type=st.sampled_from(["run.started", "event.retracted", "é\n"]),
        type_version=st.integers(1, 3),
        stream=texts,
        writer=ids,
        writer_seq=st.integers(0, 2**62),
        recorded_at=st.integers(-(10**14), 200_000 * 10**12).filter(lambda us: us // 1_000_000 < 253_402_300_800),
        correlation_id=st.none() | ids,
        causation_id=st.none() | ids,
        actor=st.none() | texts,
        body=st.just(b""),
    ),
    min_size=1,
    max_size=8,
)
facts = st.dictionaries(texts, texts | st.integers(-5, 5) | st.none() | st.lists(texts, max_size=2), max_size=3)


def text(raw):
    return str(uuid.UUID(bytes=raw)) if raw is not None else None


def said(row, data):
    """The body of an event with these columns, as a value."""
    return {
        "actor": row.actor,
        "causation_id": text(row.causation_id),
        "correlation_id": text(row.correlation_id),
        "data": data,
        "event_id": text(row.event_id),
        "recorded_at": layout.time_text(row.recorded_at),
        "stream": row.stream,
        "type": row.type,
        "type_version": row.type_version,
        "writer": row.writer.hex(),
        "writer_seq": row.writer_seq,
    }


def batch(made):
    columns = zip(zip(*made, strict=True), segment.schema(), strict=True)
    return pa.RecordBatch.from_arrays(
        [segment.column(values, field.type) for values, field in columns], schema=segment.schema()
    )


def read(made):
    return [None if one is None else msgspec.json.decode(one) for one in envelope.data_of(made)]


@settings(deadline=None, max_examples=50)
@given(rows, st.data())
def test_the_data_of_events_whose_columns_fit_is_found(made, data):
    told = [data.draw(facts) for _ in made]
    made = [row._replace(body=canonical.encode(said(row, one))) for row, one in zip(made, told, strict=True)]
    assert read(batch(made)) == told
    middle = len(made) // 2
    assert read(batch(made).slice(middle)) == told[middle:]


@settings(deadline=None, max_examples=50)
@given(rows, st.data())
def test_another_writing_of_the_same_values_fits_as_well(made, data):
    told = [data.draw(facts) for _ in made]
    made = [
        row._replace(body=json.dumps(said(row, one), indent=1).encode()) for row, one in zip(made, told, strict=True)
    ]
    assert read(batch(made)) == told


CHANGES = {
    "actor": "somebody else",
    "causation_id": b"c" * 16,
    "correlation_id": b"d" * 16,
    "event_id": b"e" * 16,
    "recorded_at": 5,
    "stream": "another/one",
    "type": "another.type",
    "type_version": 77,
    "writer": b"w" * 16,
    "writer_seq": 2**63 - 1,
}


@pytest.mark.parametrize("column", CHANGES)
@settings(deadline=None, max_examples=50)
@given(made=rows)
def test_a_column_that_differs_is_seen_in_its_row_and_in_no_other(column, made):
    made = [row._replace(body=canonical.encode(said(row, {}))) for row in made]
    at = len(made) // 2
    if getattr(made[at], column) == CHANGES[column]:
        return
    made[at] = made[at]._replace(**{column: CHANGES[column]})
    assert [index for index, one in enumerate(read(batch(made))) if one is None] == [at]


@pytest.mark.parametrize("body", [b"", b"{}", b"[]", b"null", b"\xff", b'{"data":{}}', b"1" * 300])
@settings(deadline=None, max_examples=50)
@given(made=rows)
def test_a_body_that_is_no_event_is_seen(body, made):
    made = [row._replace(body=canonical.encode(said(row, {}))) for row in made]
    made[-1] = made[-1]._replace(body=body)
    assert read(batch(made))[-1] is None
    assert None not in read(batch(made))[:-1]

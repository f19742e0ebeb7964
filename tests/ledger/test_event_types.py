"""The vocabulary: every event comes back as it was, and what cannot come back cannot go in."""

import math

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger import canonical, event_text, events
from ledger.errors import Unsupported, UsageError
from ledger.writer import Draft


@pytest.mark.parametrize("kind", sorted(events.TYPES))
def test_an_event_of_every_type_comes_back_as_it_was(kind, examples):
    (data,) = (one for one in examples if kind == one.TYPE)
    event_text.check(data)
    assert events.parse(kind, data.VERSION, canonical.decode(canonical.encode(data))) == data


@pytest.mark.parametrize("kind", sorted(events.TYPES))
def test_the_text_of_an_event_is_canonical(kind, examples, fresh):
    (data,) = (one for one in examples if kind == one.TYPE)
    assert event_text.text(data) == canonical.text(event_text.check(data))
    fresh.writer.append([Draft("event/x", data, None, "01999999-0000-7000-8000-000000000000", None)])
    (event,) = fresh.events()
    assert event.body == canonical.text(canonical.decode(event.body))
    assert canonical.decode(event.body)["data"] == event_text.check(data)


@given(
    st.floats() | st.integers(-(2**70), 2**70) | st.sampled_from([2**63 - 1, -(2**63), 2**63, 10**18, 10**19]),
    st.text(),
)
def test_the_quick_text_is_the_canonical_text_or_refuses_as_it_does(number, name):
    values = (events.Probed(name, number, ""),)
    data = events.ProbeMeasured(
        run="r", probe="rank", subject="all", method="svd/1", params=(), values=values, artifact=None
    )

    def said(work):
        try:
            return work(data)
        except UsageError as error:
            return str(error)

    assert said(event_text.text) == said(lambda one: canonical.text(event_text.check(one)))


NUMBERS = st.floats() | st.integers(-(2**64), 2**64) | st.sampled_from([2**63 - 1, 2**63, "NaN", True, None])


@given(st.lists(st.tuples(NUMBERS, st.text(max_size=5)), min_size=1, max_size=6), st.integers(1, 60))
def test_the_texts_of_many_events_are_those_of_each_or_refused_as_it_is(examples, told, copies):
    many = [
        events.ProbeMeasured(
            run="r",
            probe=name,
            subject="a\nb",
            method="svd/1",
            params=(),
            values=(events.Probed("x", number, ""),),
            artifact=None,
        )
        if index % 5
        else examples[index % len(examples)]
        for index, (number, name) in enumerate(told * copies)
    ]

    def said(work):
        try:
            return work(many)
        except UsageError as error:
            return str(error)

    assert said(event_text.texts) == said(lambda all: [event_text.text(one) for one in all])


@pytest.mark.parametrize("kind", sorted(events.TYPES))
def test_every_key_of_a_body_is_lower_case_ascii(kind, examples):
    def keys(value):
        if isinstance(value, dict):
            yield from value
            for item in value.values():
                yield from keys(item)
        elif isinstance(value, list):
            for item in value:
                yield from keys(item)

    (data,) = (one for one in examples if kind == one.TYPE)
    assert all(key.isidentifier() and key.isascii() and key == key.lower() for key in keys(canonical.plain(data)))


def test_a_registration_from_before_there_were_tracks_is_read_as_one_that_confirms(examples):
    (data,) = (one for one in examples if one.TYPE == "experiment.registered")
    body = canonical.decode(canonical.encode(data))
    for key in ("track", "tuning_seeds"):
        del body[key]
    for claim in body["hypotheses"]:
        del claim["effect"]
    old = events.parse("experiment.registered", 1, body)
    assert (old.track, old.tuning_seeds, old.hypotheses[0].effect) == ("confirm", (), None)
    assert old.seeds == data.seeds


def test_an_unknown_type_is_unsupported_and_not_skipped():
    with pytest.raises(Unsupported, match=r"telepathy\.received"):
        events.parse("telepathy.received", 1, {})


def test_a_newer_version_is_unsupported():
    with pytest.raises(Unsupported, match="version 2"):
        events.parse("event.retracted", 2, {"target": "x", "reason": "y"})


@pytest.mark.parametrize("version", [0, -1])
def test_a_version_that_nobody_wrote_is_unsupported(version):
    with pytest.raises(Unsupported):
        events.parse("event.retracted", version, {"target": "x", "reason": "y"})


@pytest.mark.parametrize("data", [{}, {"target": 1, "reason": "x"}, [], None, "text", {"target": "x"}])
def test_malformed_data_is_a_usage_error(data):
    with pytest.raises(UsageError):
        events.parse("event.retracted", 1, data)


@pytest.mark.parametrize(
    ("field", "value"),
    [("status", "fine"), ("steps", "10"), ("steps", 1.5), ("value", "nan"), ("finals", None), ("reason", None)],
)
def test_a_field_that_does_not_hold_its_type_is_refused(field, value, examples):
    finished = next(one for one in examples if one.TYPE == "run.finished")
    with pytest.raises(UsageError, match=r"run\.finished"):
        event_text.check(msgspec.structs.replace(finished, **{field: value}))


def test_something_that_is_no_event_is_refused():
    with pytest.raises(UsageError, match="not an event"):
        event_text.check(events.Head(1, "x"))


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_number_that_json_lacks_may_stand_where_the_type_has_tags(value, examples):
    finished = next(one for one in examples if one.TYPE == "run.finished")
    plain = event_text.check(msgspec.structs.replace(finished, value=value))
    assert plain["value"] == canonical.tag(value)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_number_that_json_lacks_is_refused_where_it_could_not_be_read_again(value, examples):
    finished = next(one for one in examples if one.TYPE == "run.finished")
    with pytest.raises(UsageError, match="wall_s"):
        event_text.check(msgspec.structs.replace(finished, wall_s=value))


def test_a_struct_holding_an_object_is_a_usage_error(examples):
    probe = next(one for one in examples if one.TYPE == "probe.measured")
    with pytest.raises(UsageError):
        event_text.check(msgspec.structs.replace(probe, subject=object()))


@given(st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), st.integers(0, 9) | st.text("ab")))
def test_a_free_map_becomes_a_list_sorted_by_name(mapping):
    made = events.named(mapping)
    assert [entry.name for entry in made] == sorted(mapping)
    assert all(entry.value == (v if isinstance(v := mapping[entry.name], str) else str(v)) for entry in made)


@pytest.fixture
def retraction_of_version_2(monkeypatch):
    """event.retracted as a later program might have it: with a `who`, made for old events by an upcaster."""

    class EventRetracted(msgspec.Struct, frozen=True, kw_only=True):
        TYPE = "event.retracted"
        VERSION = 2
        target: str
        reason: str
        who: str

    EventRetracted.__annotations__.pop("TYPE", None)
    monkeypatch.setitem(events.TYPES, "event.retracted", EventRetracted)
    monkeypatch.setitem(events.UPCASTERS, ("event.retracted", 1), lambda data: {**data, "who": "unknown"})
    return EventRetracted


def test_reading_applies_the_upcasters(fresh, remark, retraction_of_version_2, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setitem(events.TYPES, "event.retracted", events.EventRetracted)
        fresh.writer.append([remark("old")])
    (event,) = fresh.events()
    assert event.version == 1
    assert event.data == retraction_of_version_2(target="0" * 36, reason="old", who="unknown")


def test_upcasters_are_chained(retraction_of_version_2, monkeypatch):
    class Third(msgspec.Struct, frozen=True):
        target: str
        why: str
        who: str

    Third.TYPE, Third.VERSION = "event.retracted", 3
    monkeypatch.setitem(events.TYPES, "event.retracted", Third)
    monkeypatch.setitem(
        events.UPCASTERS,
        ("event.retracted", 2),
        lambda data: {"target": data["target"], "why": data["reason"], "who": data["who"]},
    )
    made = events.parse("event.retracted", 1, {"target": "t", "reason": "r"})
    assert made == Third("t", "r", "unknown")


def test_staging_applies_the_upcasters(fresh, remark, retraction_of_version_2, monkeypatch):
    import duckdb

    from projections import staging

    with monkeypatch.context() as patch:
        patch.setitem(events.TYPES, "event.retracted", events.EventRetracted)
        fresh.writer.append([remark("old")])
    connection = duckdb.connect()
    staging.create(connection)
    staging.stage(connection, fresh, 0, 1)
    rows = connection.sql("SELECT target, reason, who FROM staged.event_retracted").fetchall()
    assert rows == [("0" * 36, "old", "unknown")]

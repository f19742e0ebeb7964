"""The text of an event: one value has one text, and the text gives the value back."""

import json
import math
import os
import subprocess
import sys

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger import canonical
from ledger.errors import UsageError

INT64 = st.integers(canonical.INT64_MIN, canonical.INT64_MAX)
TEXT = st.text(st.characters(exclude_categories=["Cs"]))
PLAIN = st.recursive(
    st.none() | st.booleans() | INT64 | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=12,
)


def same(left, right):
    """Equality that tells 1 from 1.0, 0.0 from -0.0 and True from 1."""
    return repr(left) == repr(right) if not isinstance(left, dict | list) else _same_inside(left, right)


def _same_inside(left, right):
    if isinstance(left, dict):
        return left.keys() == right.keys() and all(same(left[key], right[key]) for key in left)
    return len(left) == len(right) and all(map(same, left, right))


@given(PLAIN)
def test_decoding_gives_back_what_was_encoded(value):
    assert same(canonical.decode(canonical.encode(value)), value)


@given(PLAIN)
def test_encoding_what_was_decoded_gives_back_the_same_bytes(value):
    body = canonical.encode(value)
    assert canonical.encode(canonical.decode(body)) == body


@given(PLAIN)
def test_any_json_reader_reads_the_same_value(value):
    assert same(json.loads(canonical.encode(value)), value)


@given(st.dictionaries(TEXT, INT64, min_size=2))
def test_the_order_in_which_a_map_was_made_does_not_show(mapping):
    backwards = dict(reversed(list(mapping.items())))
    assert canonical.encode(mapping) == canonical.encode(backwards)


@given(st.dictionaries(TEXT, INT64, min_size=2))
def test_keys_stand_in_order_of_their_code_points(mapping):
    assert list(canonical.decode(canonical.encode(mapping))) == sorted(mapping)


def test_there_is_no_white_space_between_tokens():
    assert canonical.encode({"b": [1, 2.0, None], "a": {"c": True}}) == b'{"a":{"c":true},"b":[1,2.0,null]}'


@pytest.mark.parametrize(
    ("value", "text"),
    [(math.nan, b'"NaN"'), (-math.nan, b'"NaN"'), (math.inf, b'"Infinity"'), (-math.inf, b'"-Infinity"')],
)
def test_what_json_has_no_number_for_is_a_tag(value, text):
    assert canonical.encode([value]) == b"[" + text + b"]"


@pytest.mark.parametrize("value", [2**63 - 1, -(2**63), 0, 2**53 + 1])
def test_integers_are_exact_over_the_whole_of_int64(value):
    assert canonical.encode(value) == str(value).encode()


@pytest.mark.parametrize("value", [2**63, -(2**63) - 1, 10**400])
def test_integers_outside_int64_are_refused(value):
    with pytest.raises(UsageError):
        canonical.encode({"seed": value})


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_a_float_never_looks_like_an_integer(value):
    assert set(canonical.encode(value)) & set(b".e")


@pytest.mark.parametrize("value", ["\ud800", {"\udfff": 1}, ["a\udc00b"]])
def test_half_a_surrogate_pair_is_refused(value):
    with pytest.raises(UsageError, match="Unicode"):
        canonical.encode(value)


def test_text_is_not_normalised():
    assert canonical.decode(canonical.encode(["é", "e\u0301"])) == ["é", "e\u0301"]


@pytest.mark.parametrize("value", [object(), {"x": 1j}, {1: "a", "1": "b"}, {(1, 2): 3}])
def test_what_json_cannot_hold_is_refused(value):
    with pytest.raises(UsageError):
        canonical.encode(value)


def test_a_set_has_one_text_whatever_the_hash_seed_of_the_process():
    code = "from ledger import canonical; print(canonical.encode({'x': {'a','b','c','d','e','f'}}))"
    texts = {
        subprocess.run(
            [sys.executable, "-c", code], env={**os.environ, "PYTHONHASHSEED": seed}, capture_output=True, check=True
        ).stdout
        for seed in ("1", "2", "3")
    }
    assert len(texts) == 1


@pytest.mark.parametrize("body", [b"", b"{", b'{"a":1} x', b"\xff\xfe", b"nan"])
def test_what_is_not_json_is_refused_with_a_usage_error(body):
    with pytest.raises(UsageError):
        canonical.decode(body)


def test_a_struct_is_encoded_as_the_map_of_its_fields():
    class Pair(msgspec.Struct, frozen=True):
        z: int
        a: tuple[float, ...]

    assert canonical.encode(Pair(1, (math.nan, 0.5))) == b'{"a":["NaN",0.5],"z":1}'

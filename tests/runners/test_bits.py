"""Bit packing: exact at every width and shape, and nothing is cut to fit."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from runners import bits


@given(
    st.integers(1, 16).flatmap(
        lambda width: st.tuples(
            st.just(width),
            arrays.arrays(
                st.sampled_from([np.uint16, np.int32, np.int64]),
                arrays.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=9),
                elements=st.integers(0, (1 << width) - 1),
            ),
        )
    )
)
def test_what_was_packed_comes_back_at_any_width_and_shape(case):
    width, numbers = case
    packed = bits.pack(numbers, width)
    assert len(packed) == bits.packed_size(numbers.size, width) == -(-numbers.size * width // 8)
    assert bits.unpack(packed, width, numbers.size).reshape(numbers.shape).tolist() == numbers.tolist()


@given(st.integers(1, 16), st.integers(1, 40), st.integers(1, 5))
def test_a_stream_longer_than_a_slice_is_the_same_stream(width, count, eighths):
    numbers = np.random.default_rng(count).integers(0, 1 << width, count)
    whole = bits.pack(numbers, width)
    before, bits._SLICE = bits._SLICE, 8 * eighths
    try:
        assert bits.pack(numbers, width) == whole
        assert bits.unpack(whole, width, count).tolist() == numbers.tolist()
    finally:
        bits._SLICE = before


def test_bits_stand_least_significant_first():
    assert bits.pack(np.array([0b000001, 0b100000]), 6) == bytes([0b00000001, 0b00001000])


@pytest.mark.parametrize("numbers", [[64], [-1], [0, 63, 200]])
def test_a_number_that_does_not_fit_is_refused(numbers):
    with pytest.raises(ValueError, match="6 bits lies between 0 and 63"):
        bits.pack(np.array(numbers), 6)


def test_fractions_and_strange_widths_are_refused():
    with pytest.raises(ValueError, match="whole numbers"):
        bits.pack(np.array([0.5]), 6)
    for width in (0, 17):
        with pytest.raises(ValueError, match="1 to 16"):
            bits.pack(np.array([0]), width)


@pytest.mark.parametrize("size", [2, 4])
def test_a_stream_of_another_length_is_refused(size):
    with pytest.raises(ValueError, match="4 numbers of 6 bits take 3 bytes"):
        bits.unpack(b"\0" * size, 6, 4)

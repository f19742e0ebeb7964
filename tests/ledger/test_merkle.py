"""The tree against RFC 6962's own recursive definition, and against published vectors."""

from hashlib import sha256

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger.merkle import Frontier, leaf_hash, node_hash

# The inputs and roots of the reference vectors that Certificate Transparency implementations share.
INPUTS = [
    "",
    "00",
    "10",
    "2021",
    "3031",
    "40414243",
    "5051525354555657",
    "606162636465666768696a6b6c6d6e6f",
]
ROOTS = [
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
]


def root_by_definition(bodies):
    """RFC 6962, section 2.1, word for word."""
    if not bodies:
        return sha256(b"").digest()
    if len(bodies) == 1:
        return sha256(b"\x00" + bodies[0]).digest()
    split = 1
    while split * 2 < len(bodies):
        split *= 2
    left, right = root_by_definition(bodies[:split]), root_by_definition(bodies[split:])
    return sha256(b"\x01" + left + right).digest()


def grown(bodies):
    tree = Frontier()
    tree.extend(map(leaf_hash, bodies))
    return tree


def test_the_root_of_nothing_is_the_hash_of_nothing():
    assert Frontier().root().hex() == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"


@pytest.mark.parametrize("count", range(1, 9))
def test_the_roots_are_those_of_the_reference_vectors(count):
    bodies = [bytes.fromhex(text) for text in INPUTS[:count]]
    assert grown(bodies).root().hex() == ROOTS[count - 1]
    assert root_by_definition(bodies).hex() == ROOTS[count - 1]


@given(st.lists(st.binary(max_size=40), max_size=150))
def test_the_root_is_the_recursive_definition_s(bodies):
    assert grown(bodies).root() == root_by_definition(bodies)


@given(st.lists(st.binary(max_size=8), max_size=80), st.integers(0, 80))
def test_a_tree_taken_up_again_from_its_peaks_grows_to_the_same_root(bodies, cut):
    half = grown(bodies[:cut])
    again = Frontier(half.size, half.peaks)
    again.extend(map(leaf_hash, bodies[cut:]))
    assert again.root() == root_by_definition(bodies)


@given(st.lists(st.binary(max_size=8), max_size=80))
def test_a_tree_has_as_many_peaks_as_its_size_has_set_bits(bodies):
    tree = grown(bodies)
    assert (tree.size, len(tree.peaks)) == (len(bodies), len(bodies).bit_count())


def test_a_copy_grows_by_itself():
    tree = grown([b"a", b"b", b"c"])
    before = tree.root()
    tree.copy().append(leaf_hash(b"d"))
    assert tree.root() == before


@pytest.mark.parametrize(("size", "peaks"), [(1, []), (0, [b"x" * 32]), (3, [b"x" * 32]), (1, [b"short"])])
def test_peaks_that_cannot_be_of_that_size_are_refused(size, peaks):
    with pytest.raises(ValueError, match="peaks"):
        Frontier(size, peaks)


def test_a_leaf_cannot_be_taken_for_a_node():
    left, right = leaf_hash(b"a"), leaf_hash(b"b")
    assert leaf_hash(left + right) != node_hash(left, right)

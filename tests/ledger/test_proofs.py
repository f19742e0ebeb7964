"""Merkle proofs: the vectors of Certificate Transparency, every size and position up to 70, and no forgery."""

from hashlib import sha256

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger import proofs
from ledger.merkle import leaf_hash

# The reference tree of certificate-transparency (merkletree tests): eight inputs, its roots and proofs.
INPUTS = ["", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f"]
LEAVES = [leaf_hash(bytes.fromhex(one)) for one in INPUTS]
ROOTS = {
    1: "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    2: "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    3: "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    8: "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
}
A = "96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7"
B = "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e"
C = "6b47aaf29ee3c2af9af889bc1fb9254dabd31177f16232dd6aab035ca39bf6e4"
D = "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b"
E = "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0"
F = "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7"
G = "0ebc5d3437fbe2db158b9f126a1d118e308181031d0a949f8dededebc558ef6a"

MANY = [leaf_hash(bytes([n])) for n in range(70)]
HEADS = [proofs.root(MANY[:n]) for n in range(71)]


@pytest.mark.parametrize("size", ROOTS)
def test_roots_of_the_reference_tree(size):
    assert proofs.root(LEAVES[:size]).hex() == ROOTS[size]


@pytest.mark.parametrize(
    ("index", "size", "path"),
    [(0, 1, []), (0, 8, [A, B, C]), (5, 8, [D, E, F]), (2, 3, [ROOTS[2]]), (1, 5, [ROOTS[1], B, D])],
)
def test_inclusion_in_the_reference_tree(index, size, path):
    assert [one.hex() for one in proofs.inclusion(LEAVES[:size], index)] == path


@pytest.mark.parametrize(("old", "size", "path"), [(1, 1, []), (1, 8, [A, B, C]), (6, 8, [G, E, F]), (2, 5, [B, D])])
def test_consistency_in_the_reference_tree(old, size, path):
    assert [one.hex() for one in proofs.consistency(LEAVES[:size], old)] == path


@pytest.mark.parametrize("size", range(1, 71))
def test_every_position_is_proved_and_nothing_else_by_that_proof(size):
    head = HEADS[size]
    for index in range(size):
        path = proofs.inclusion(MANY[:size], index)
        assert proofs.inclusion_holds(MANY[index], index, size, path, head)
        assert not proofs.inclusion_holds(MANY[(index + 1) % 70], index, size, path, head)
        assert not proofs.inclusion_holds(MANY[index], size, size, path, head)
        assert not proofs.inclusion_holds(MANY[index], index, size, [*path, head], head)
        assert not path or not proofs.inclusion_holds(MANY[index], index, size, path[:-1], head)
        wrong = [other for other in range(size) if other != index]
        assert not any(proofs.inclusion_holds(MANY[index], other, size, path, head) for other in wrong)


@pytest.mark.parametrize("size", range(1, 71))
def test_every_earlier_size_is_proved_and_nothing_else_by_that_proof(size):
    for old in range(1, size + 1):
        path = proofs.consistency(MANY[:size], old)
        assert proofs.consistency_holds(old, size, path, HEADS[old], HEADS[size])
        assert not proofs.consistency_holds(old, size, path, HEADS[old - 1], HEADS[size])
        assert not proofs.consistency_holds(old, size, path, HEADS[old], HEADS[size - 1])
        assert not proofs.consistency_holds(old, size, [*path, HEADS[3]], HEADS[old], HEADS[size])
        for at in range(len(path)):
            changed = [*path[:at], sha256(path[at]).digest(), *path[at + 1 :]]
            assert not proofs.consistency_holds(old, size, changed, HEADS[old], HEADS[size])


@pytest.mark.parametrize(("old", "size"), [(0, 5), (6, 5), (-1, 5)])
def test_a_size_that_is_none_is_consistent_with_nothing(old, size):
    assert not proofs.consistency_holds(old, size, [], HEADS[0], HEADS[5])


@given(st.integers(1, 70), st.integers(1, 70), st.lists(st.sampled_from([*MANY, *HEADS]), max_size=8))
def test_a_log_that_was_changed_has_no_consistency_proof(old, size, path):
    other = proofs.root([leaf_hash(b"forged"), *MANY[1:old]])
    assert not proofs.consistency_holds(old, size, path, other, HEADS[size])

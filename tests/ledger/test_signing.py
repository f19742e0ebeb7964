"""Signed notes: the vectors of the specification and of Go's package note, and no second spelling of anything."""

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger import signing
from ledger.errors import Corrupt, UsageError

# golang.org/x/mod/sumdb/note, the example of its documentation
VKEY = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW"
SEED = base64.b64decode("AYEKFALVFGyNhPJEMzD1QIDr+Y7hfZx09iUvxdXHKDFz")[1:]
TEXT = "If you think cryptography is the answer to your problem,\nthen you don't know what your problem is.\n"
LINE = "— PeterNeumann x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM=\n"
NOTE = f"{TEXT}\n{LINE}".encode()


def key(seed=SEED):
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    return Ed25519PrivateKey.from_private_bytes(seed)


def test_the_vector_is_signed_byte_for_byte():
    assert signing.sign(TEXT, "PeterNeumann", key()).encode() == NOTE


def test_the_vector_is_verified_and_a_public_key_has_its_text():
    peter = signing.parse_vkey(VKEY)
    assert str(peter) == VKEY
    assert signing.verifier("PeterNeumann", signing.public_of(key())) == peter
    note = signing.parse(NOTE, "the vector")
    assert note.text == TEXT
    assert signing.check(note, [peter], "the vector") == [peter]


@pytest.mark.parametrize("at", range(0, len(NOTE), 3))
def test_a_note_with_one_byte_changed_is_no_longer_verified(at):
    for bit in (0, 4, 7):
        changed = bytearray(NOTE)
        changed[at] ^= 1 << bit
        with pytest.raises(Corrupt):
            signing.check(signing.parse(bytes(changed), "it"), [signing.parse_vkey(VKEY)], "it")


def test_the_unused_bits_of_base64_cannot_be_set():
    with pytest.raises(Corrupt, match="base64"):
        signing.parse(NOTE.replace(b"nAM=", b"nAN="), "it")


def test_a_signature_of_a_key_that_is_not_known_is_passed_over_and_alone_does_not_count():
    other = signing.sign(TEXT, "witness.example", key(bytes(32)))
    both = signing.Note(TEXT, (*other.signatures, *signing.parse(NOTE, "").signatures))
    peter = signing.parse_vkey(VKEY)
    assert signing.check(signing.parse(both.encode(), "it"), [peter], "it") == [peter]
    with pytest.raises(signing.UnknownKey, match=r"unknown key: it is signed by witness\.example\+"):
        signing.check(other, [peter], "it")


def test_a_known_key_whose_signature_is_wrong_spoils_the_note_in_spite_of_a_good_one():
    other = signing.sign(TEXT, "witness.example", key(bytes(32)))
    forged = other.signatures[0]._replace(value=bytes(64))
    note = signing.Note(TEXT, (*signing.parse(NOTE, "").signatures, forged))
    known = [signing.parse_vkey(VKEY), signing.verifier("witness.example", signing.public_of(key(bytes(32))))]
    with pytest.raises(Corrupt, match=r"^bad signature"):
        signing.check(note, known, "it")


@pytest.mark.parametrize(
    "data",
    [
        b"", b"text\n", b"text\n\n", NOTE[:-1], NOTE.replace(b"\n\n", b"\n"), NOTE + b"\n",
        NOTE.replace(b"If", b"\rf"),
        NOTE.replace("— ".encode(), b"- "), NOTE.replace(b"PeterNeumann", b"Peter Neumann"), b"\xff" + NOTE,
        f"{TEXT}\n— PeterNeumann AAAA\n".encode(), f"{TEXT}\n— PeterNeumann \n".encode(), bytes(2 << 20),
    ],
)  # fmt: skip
def test_what_is_no_note_is_refused(data):
    with pytest.raises(Corrupt, match="it is not a signed note"):
        signing.parse(data, "it")


def test_every_part_of_a_public_key_and_every_change_of_one_is_refused():
    for i in range(len(VKEY)):
        for j in range(i + 1, len(VKEY) + 1):
            if j - i < len(VKEY):
                with pytest.raises(UsageError):
                    signing.parse_vkey(VKEY[i:j])
    for i, sign in enumerate(VKEY):
        with pytest.raises(UsageError):
            signing.parse_vkey(VKEY[:i] + chr(ord(sign) + 1) + VKEY[i + 1 :])


@pytest.mark.parametrize(
    "text",
    [
        "PeterNeumann+cc469956+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TWBADKEY==",  # wrong length
        "PeterNeumann+173116ae+ZRpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW",  # unknown algorithm
    ],
)
def test_keys_of_another_length_or_kind_are_refused(text):
    with pytest.raises(UsageError):
        signing.parse_vkey(text)


texts = st.text(st.characters(exclude_categories=["Cs", "Cc"]) | st.just("\n")).map(lambda text: text + "\n")


@given(texts, st.binary(min_size=32, max_size=32))
def test_what_was_signed_comes_back_and_is_verified(text, seed):
    made = signing.sign(text, "example/log", key(seed))
    read = signing.parse(made.encode(), "it")
    assert read == made
    assert signing.check(read, [signing.verifier("example/log", signing.public_of(key(seed)))], "it")


def test_a_list_of_keys_is_read_with_its_remarks(tmp_path):
    path = tmp_path / "keys"
    path.write_text(f"# of Peter\n\n{VKEY}\n")
    assert list(map(str, signing.read_vkeys(str(path)))) == [VKEY]
    path.write_text("# nobody\n")
    with pytest.raises(UsageError, match="holds no key"):
        signing.read_vkeys(str(path))
    with pytest.raises(UsageError, match="cannot read"):
        signing.read_vkeys(str(tmp_path / "none"))


def test_a_private_key_comes_back_from_pem_and_other_files_do_not():
    assert signing.public_of(signing.from_pem(signing.to_pem(key()))) == signing.public_of(key())
    with pytest.raises(ValueError):  # noqa: PT011 - the library's message
        signing.from_pem(b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n")

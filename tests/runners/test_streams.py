"""Output in lines and in a bounded file: nothing is lost that the bound allows, and no token stays."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runners.streams import MAX_LINE, Kept, Lines

TOKEN = b"hf_" + b"a1B2" * 9


def lines_of(*chunks: bytes) -> list[str]:
    lines = Lines()
    return [line for chunk in chunks for line in lines.feed(chunk)] + lines.close()


def kept_file(path, keep: int, *chunks: bytes) -> bytes:
    kept = Kept(path, keep)
    for chunk in chunks:
        kept.write(chunk)
    kept.close()
    return path.read_bytes()


def test_text_is_cut_at_line_ends_and_the_unfinished_end_comes_at_close():
    assert lines_of(b"a\nb", b"c\r\n\nd") == ["a", "bc", "", "d"]


def test_progress_updates_come_as_lines():
    assert lines_of(b"1%\r2%\r3%\nend\n") == ["1%", "2%", "3%", "end"]


def test_many_updates_are_thinned_and_the_last_one_always_comes():
    data = b"".join(b"%d%%\r" % i for i in range(100_003)) + b"\n"
    found = lines_of(data)
    assert len(found) < 2000
    assert found[:3] == ["0%", "1%", "2%"]
    assert found[-1] == "100002%"


def test_bytes_that_are_no_text_come_escaped():
    assert lines_of(b"loss \xff\xfe 3\n") == [r"loss \xff\xfe 3"]


def test_a_line_beyond_the_bound_gives_its_beginning():
    assert [len(line) for line in lines_of(b"x" * 1_000_000, b"y" * 10 + b"\nnext\n")] == [MAX_LINE, 4]


CHUNKS = st.lists(st.binary(max_size=40) | st.sampled_from([b"\r", b"\n", b"\r\n", b"7%\r"]), max_size=30)


@given(CHUNKS, st.integers(1, 7))
def test_the_same_bytes_give_the_same_lines_however_they_arrive(chunks, size):
    whole = b"".join(chunks)
    pieces = [whole[i : i + size] for i in range(0, len(whole), size)]
    assert lines_of(whole) == lines_of(*chunks) == lines_of(*pieces)


@given(st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\r\n"))))
def test_plain_lines_come_back_as_they_were(texts):
    assert lines_of("".join(f"{t}\n" for t in texts).encode()) == texts


@given(chunks=st.lists(st.binary(max_size=50), max_size=20))
def test_a_small_output_is_kept_byte_for_byte(tmp_path_factory, chunks):
    path = tmp_path_factory.mktemp("kept") / "out"
    assert kept_file(path, 1000, *chunks) == b"".join(chunks)


# No line of these looks like the mark itself.
PLAIN = st.binary(max_size=90).map(lambda raw: raw.replace(b"[", b"("))


@given(st.lists(PLAIN, max_size=60), st.integers(2, 400))
def test_a_long_output_keeps_both_ends_and_says_how_much_is_missing(tmp_path_factory, chunks, keep):
    whole = b"".join(chunks)
    data = kept_file(tmp_path_factory.mktemp("kept") / "out", keep, *chunks)
    if len(whole) <= keep:
        assert data == whole
        return
    head, said, tail = re.fullmatch(rb"(?s)(.*)\[\.\.\. (\d+) bytes left out here \.\.\.\]\n(.*)", data).groups()
    if not whole.startswith(head) or len(head) + int(said) + len(tail) != len(whole):
        head = head.removesuffix(b"\n")  # the mark began a line of its own
    assert len(head) + int(said) + len(tail) == len(whole)
    assert whole.startswith(head)
    assert whole.endswith(tail)
    assert max(len(head), len(tail)) <= keep // 2


def test_both_ends_of_a_long_output_are_cut_between_lines(tmp_path):
    data = kept_file(tmp_path / "out", 1000, *(b"line %06d\n" % i for i in range(1000)))
    whole_line = re.compile(rb"line \d{6}|\[\.\.\. \d+ bytes left out here \.\.\.\]")
    assert all(whole_line.fullmatch(line) for line in data.split(b"\n")[:-1])


def test_a_token_is_taken_out_of_a_kept_file(tmp_path):
    kept = Kept(tmp_path / "out", 10_000)
    kept.write(b"before\nmy key is " + TOKEN[:20])
    kept.write(TOKEN[20:] + b"\nafter\n")
    assert kept.close() == 1
    data = (tmp_path / "out").read_bytes()
    assert TOKEN not in data
    assert data.startswith(b"before\nmy key is [redacted")
    assert data.endswith(b"]\nafter\n")


def test_no_half_of_a_token_stays_at_the_cut_of_a_long_output(tmp_path):
    for offset in range(0, 60, 7):
        data = kept_file(tmp_path / "out", 2000, b"x" * (980 - offset) + b"\n", TOKEN + b"\n", b"y\n" * 5000)
        assert b"hf_a1B2" not in data


def test_a_kept_file_is_private_while_tokens_may_be_in_it(tmp_path):
    kept = Kept(tmp_path / "out", 100)
    assert (tmp_path / "out").stat().st_mode & 0o077 == 0
    kept.close()


@pytest.mark.parametrize("size", [1, 300, 1500, 9999])
def test_the_last_bytes_are_known_whether_the_stream_was_short_or_long(tmp_path, size):
    kept = Kept(tmp_path / "out", 1000)
    whole = b"".join(b"%d," % i for i in range(size))
    for i in range(0, len(whole), 77):
        kept.write(whole[i : i + 77])
    assert kept.last(400) == whole[-400:]
    kept.close()

"""Shards: what they claim to be, an order for every seed, and folders of them as published."""

import re
from itertools import islice

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runners import shards
from runners.shards import CorpusError, batches, load_shard, write_shard

sentencepiece = pytest.importorskip("sentencepiece", reason="opening a folder needs experiment-ledger[torch]")

from runners import export  # noqa: E402


def numbered(*lengths):
    """Shards in which every token tells its place, over all of them."""
    ends = np.cumsum(lengths)
    return [np.arange(end - length, end, dtype=np.uint16) for end, length in zip(ends, lengths, strict=True)]


# --- Order -------------------------------------------------------------------------------------------------


@given(
    st.lists(st.integers(1, 400), min_size=1, max_size=5), st.integers(1, 20), st.integers(1, 6), st.integers(0, 9)
)
@settings(deadline=None)
def test_an_epoch_shows_every_window_at_most_once_and_none_across_two_shards(lengths, seq, size, seed):
    texts = numbered(*lengths)
    least = sum(max(0, length - seq) // seq for length in lengths)
    if least < size:
        with pytest.raises(ValueError, match="a batch; found"):
            next(batches(texts, seq, size, seed))
        return
    rng = np.random.default_rng(seed)
    total = sum(len(found) for found in shards.windows_of_an_epoch(lengths, seq, rng))
    assert total >= least
    seen = set()
    ends = np.cumsum(lengths)
    for batch in islice(batches(texts, seq, size, seed), least // size):
        assert batch.shape == (size, seq + 1)
        assert batch.dtype == np.int64
        for row in batch:
            assert (np.diff(row) == 1).all()
            assert np.searchsorted(ends, row[0], "right") == np.searchsorted(ends, row[-1], "right")
            assert not seen & set(row[:-1])
            seen |= set(row[:-1])


def test_a_seed_gives_its_own_order_of_shards_and_windows_and_the_same_one_again():
    texts = numbered(*[300] * 6)
    first, again, other = ([b.tolist() for b in islice(batches(texts, 10, 4, seed), 30)] for seed in (1, 1, 2))
    assert first == again
    assert first != other
    shard = [row[0] // 300 for batch in first for row in batch]
    assert [a for a, b in zip(shard, [None, *shard], strict=False) if a != b] != sorted({*shard})
    assert {*shard} != {0}


def test_every_epoch_has_another_order_and_another_offset():
    (text,) = numbered(400)
    epoch = 39 // 4  # batches
    starts = [batch[:, 0].tolist() for batch in islice(batches([text], 10, 4, 3), 3 * epoch)]
    one, two = ([start for batch in starts[at : at + epoch] for start in batch] for at in (0, epoch))
    assert one != two
    assert len({start % 10 for start in one}) == 1


def test_only_what_is_shown_is_read(tmp_path):
    """A shard is mapped, not loaded: opening a file of a gigabyte takes no gigabyte."""
    write_shard(tmp_path / "a.bin", np.arange(500))
    tokens = load_shard(tmp_path / "a.bin")
    assert isinstance(tokens, np.memmap)
    assert not tokens.flags.writeable
    assert next(batches([tokens], 7, 3, 0)).flags.writeable


# --- Files -------------------------------------------------------------------------------------------------


def a_tokenizer(path, vocab_size=400):
    from pydoc_data.topics import topics

    texts = [" ".join(topics[name].encode("ascii", "ignore").decode().split()) for name in sorted(topics)[:20]]
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(texts),
        model_prefix=str(path.with_suffix("")),
        model_type="bpe",
        vocab_size=vocab_size,
        byte_fallback=True,
        num_threads=1,
        minloglevel=2,
    )
    path.with_suffix(".vocab").unlink()
    return sentencepiece.SentencePieceProcessor(model_file=str(path)), texts


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """A small export in the challenge's layout: three shards of training text, two held out."""
    root = tmp_path_factory.mktemp("data")
    folder = root / "datasets" / "fineweb10B_sp400"
    folder.mkdir(parents=True)
    (root / "tokenizers").mkdir()
    tokenizer, texts = a_tokenizer(root / "tokenizers" / "fineweb_400_bpe.model")
    tokens = [np.concatenate([[tokenizer.bos_id(), *tokenizer.encode(t)] for t in texts[i::5]]) for i in range(5)]
    for number, part in enumerate(tokens):
        split, place = ("train", number) if number < 3 else ("val", number - 3)
        write_shard(folder / f"fineweb_{split}_{place:06d}.bin", part)
    return folder, tokens, texts


def copied(folder, tmp_path):
    import shutil

    root = tmp_path / "data"
    shutil.copytree(folder.parent.parent, root)
    return root / "datasets" / folder.name


def test_a_published_folder_is_a_corpus_with_its_shards_bytes_and_digests(published):
    folder, tokens, texts = published
    corpus = export.open_export(folder)
    assert [shard.tolist() for shard in corpus.shards] == [part.tolist() for part in tokens[:3]]
    assert corpus.val.tolist() == [*tokens[3], *tokens[4]]
    assert corpus.train_tokens == sum(map(len, tokens[:3]))
    assert corpus.vocab_size == 400
    held_out = sum(len(text.encode()) for i in (3, 4) for text in texts[i::5])
    assert corpus.counts.total(corpus.val) == held_out
    assert {*corpus.digests} == {*corpus.sizes}
    assert len(corpus.digests) == 6
    assert corpus.sizes["fineweb_val_000000.bin"] == 1024 + 2 * len(tokens[3])
    with pytest.raises(CorpusError, match="3 training shards do not make one array"):
        _ = corpus.train
    with pytest.raises(CorpusError, match="depend on the token before"):
        _ = corpus.token_bytes


def test_fewer_shards_are_other_data_and_more_than_there_are_an_error(published):
    folder, *_ = published
    two = export.open_export(folder, 2)
    assert len(two.shards) == 2
    assert two.digest != export.open_export(folder).digest
    with pytest.raises(CorpusError, match=r"fineweb_train_000003\.bin is missing and 1 more; python data/fetch\.py"):
        export.open_export(folder, 5)


def test_many_shards_make_one_entry_in_the_record_of_a_run(published, tmp_path):
    folder = copied(published[0], tmp_path)
    for number in range(3, 7):
        write_shard(folder / f"fineweb_train_{number:06d}.bin", np.arange(300))
    corpus = export.open_export(folder)
    assert len(corpus.digests) == 4
    name = "fineweb_train_000000.bin..fineweb_train_000006.bin"
    assert corpus.sizes[name] == sum(path.stat().st_size for path in folder.glob("fineweb_train_*"))
    write_shard(folder / "fineweb_train_000005.bin", np.arange(1, 301))
    assert export.open_export(folder).digests[name] != corpus.digests[name]


def no_folder(folder):
    import shutil

    shutil.rmtree(folder)


def a_hole(folder):
    (folder / "fineweb_train_000001.bin").unlink()


def no_held_out_text(folder):
    for path in folder.glob("fineweb_val_*"):
        path.unlink()


def cut_short(folder):
    with (folder / "fineweb_train_000001.bin").open("r+b") as file:
        file.truncate(1500)


def odd_size(folder):
    with (folder / "fineweb_val_000001.bin").open("ab") as file:
        file.write(b"x")


def another_format(folder):
    (folder / "fineweb_val_000000.bin").write_bytes(np.zeros(600, "<i4").tobytes())


def a_token_too_large(folder):
    write_shard(folder / "fineweb_train_000002.bin", np.array([1, 2, 400, 3]))


def no_tokenizer(folder):
    next(folder.parent.parent.glob("tokenizers/*")).unlink()


def two_tokenizers(folder):
    for name in "ab":
        (folder / f"{name}.model").write_bytes(b"x")


def a_tokenizer_that_is_none(folder):
    (folder / "a.model").write_bytes(b"no model at all")


def a_folder_for_a_shard(folder):
    a_hole(folder)
    (folder / "fineweb_train_000001.bin").mkdir()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (no_folder, r"data: there is no folder .*; fetch the published shards with python data/fetch.py"),
        (a_hole, r"fineweb_train_000001.bin is missing; python data/fetch.py gets it"),
        (no_held_out_text, r"fineweb_val_000000.bin is missing"),
        (cut_short, r"fineweb_train_000001.bin: truncated: expected \d+ tokens, found 238"),
        (odd_size, r"fineweb_val_000001.bin: longer than its header says: expected \d+ tokens, found \d+\.5"),
        (another_format, r"fineweb_val_000000.bin: no shard: expected magic number 20240520, found 0"),
        (a_token_too_large, r"fineweb_train_000002.bin: token 400 at 2 is outside the vocabulary of 400"),
        (no_tokenizer, r"no tokenizer: expected one \*.model there or in .*tokenizers"),
        (two_tokenizers, r"which tokenizer\? There are a.model, b.model; leave one of them"),
        (a_tokenizer_that_is_none, r"a.model: no sentencepiece model: "),
        (a_folder_for_a_shard, r"fineweb_train_000001.bin: the shard cannot be read: Is a directory"),
    ],
)
def test_a_folder_that_cannot_be_used_says_why_in_one_line(published, tmp_path, damage, message):
    folder = copied(published[0], tmp_path)
    damage(folder)
    with pytest.raises(CorpusError) as caught:
        export.open_export(folder)
    assert re.search(message, str(caught.value))
    assert "\n" not in str(caught.value)


def test_of_several_tokenizers_beside_the_folder_the_one_for_its_vocabulary_is_taken(published, tmp_path):
    folder = copied(published[0], tmp_path)
    (folder.parent.parent / "tokenizers" / "fineweb_1400_bpe.model").write_bytes(b"another")
    assert export.open_export(folder).tokenizer_path.name == "fineweb_400_bpe.model"

"""The default corpus: exact bytes, splits that do not overlap, shards that are what they claim."""

import re
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import numpy as np
import pytest

sentencepiece = pytest.importorskip("sentencepiece", reason="the corpus needs the extra experiment-ledger[torch]")

from runners import corpus  # noqa: E402
from runners.corpus import CorpusError  # noqa: E402


def few_documents():
    """Forty help topics, with text that a tokenizer may trip over in both splits."""
    from pydoc_data.topics import topics

    odd = "  two leading spaces\n\ttab\r\nnaïve café — “quotes” 日本語 🙂\u200d\x7f\n   \n trailing  "
    documents = {f"topic:{name}": topics[name] for name in sorted(topics)[:40]}
    for name in list(documents)[::3]:
        documents[name] += odd
    return documents


@pytest.fixture(scope="module")
def few(tmp_path_factory):
    return corpus.build(few_documents(), tmp_path_factory.mktemp("corpora") / "few", vocab_size=600)


@pytest.fixture(scope="module")
def documents():
    return corpus.english_documents()


@pytest.fixture(scope="module")
def default(tmp_path_factory):
    return corpus.prepare(tmp_path_factory.mktemp("cache"))


def tokenizer_of(built):
    return sentencepiece.SentencePieceProcessor(model_file=str(built.tokenizer_path))


def test_the_default_corpus_counts_every_byte_of_its_validation_split(default, documents):
    held_out = sorted(text for name, text in documents.items() if corpus.held_out(name))
    train = sorted(text for name, text in documents.items() if not corpus.held_out(name))

    for tokens, texts in ((default.val, held_out), (default.train, train)):
        starts = [*np.flatnonzero(tokens == default.bos), len(tokens)]
        pieces = [tokens[a:b].tolist() for a, b in pairwise(starts)]
        assert sorted(tokenizer_of(default).decode(pieces)) == texts
        assert default.token_bytes[tokens].sum() == sum(len(text.encode()) for text in texts)
    assert sum(map(len, train)) > 1_500_000
    assert 20_000 < len(default.val) < len(default.train) / 8
    assert default.vocab_size == 1024 == len(default.token_bytes)


def test_no_paragraph_of_the_validation_split_is_also_in_the_training_split(documents):
    paragraphs = {True: set(), False: set()}
    for name, text in documents.items():
        found = (" ".join(p.split()) for p in re.split(r"\n\s*\n", text))
        paragraphs[corpus.held_out(name)].update(p for p in found if len(p) >= 40)
    assert len(paragraphs[True]) > 100
    assert not paragraphs[True] & paragraphs[False]


def test_prepare_builds_once_and_then_opens_what_is_there(default, monkeypatch):
    monkeypatch.setattr(corpus, "build", lambda *_: pytest.fail("built a second time"))
    again = corpus.prepare(default.folder.parent)
    assert again.digest == default.digest
    assert np.array_equal(again.train, default.train)


def test_prepare_uses_the_cache_home_where_it_is_set(tmp_path, monkeypatch):
    monkeypatch.setattr(corpus, "english_documents", few_documents)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert corpus.prepare().folder.parent == tmp_path / "experiment-ledger"


def test_the_same_documents_give_the_same_bytes(few, tmp_path):
    shuffled = dict(reversed(few_documents().items()))
    again = corpus.build(shuffled, tmp_path / "again", vocab_size=600)
    assert again.digest == few.digest
    assert again.digests == few.digests


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "  two\n\n  lines ",
        "tab\tcr\r\nnul\0end",
        "日本語 🙂 ñ ½",
        "<s></s><0x41>",
        " x",
        "x ",
        "\n",
        "\u00a0\u3000",
    ],
)
def test_any_text_encodes_to_tokens_of_exactly_its_length_and_back(few, text):
    tokenizer = tokenizer_of(few)
    tokens = tokenizer.encode(text)
    assert tokenizer.decode(tokens) == text
    assert few.token_bytes[tokens].sum() == len(text.encode())


def test_control_tokens_stand_for_no_bytes_and_fallback_tokens_for_one(few):
    tokenizer = tokenizer_of(few)
    assert few.token_bytes[few.bos] == 0
    assert all(few.token_bytes[t] == 1 for t in range(few.vocab_size) if tokenizer.is_byte(t))


def test_a_text_with_the_tokenizers_own_space_mark_is_refused(tmp_path):
    with pytest.raises(CorpusError, match=r"U\+2581"):
        corpus.build(few_documents() | {"odd": "a\u2581b"}, tmp_path / "odd", vocab_size=600)
    assert list(tmp_path.iterdir()) == []


def test_a_corpus_with_an_empty_split_is_refused(tmp_path):
    one = next(name for name in few_documents() if not corpus.held_out(name))
    with pytest.raises(CorpusError, match="no document falls in the val split; got 1 documents"):
        corpus.build({one: "text"}, tmp_path / "one")


def _flip_a_byte(folder):
    data = bytearray((folder / "train_000000.bin").read_bytes())
    data[5000] ^= 1
    (folder / "train_000000.bin").write_bytes(data)


def _truncate(folder):
    with (folder / "val_000000.bin").open("r+b") as file:
        file.truncate(1500)


def _forget_the_tokenizer(folder):
    (folder / "tokenizer.model").unlink()


def _stop_before_the_last_file(folder):
    (folder / "corpus.json").unlink()


def _garble_the_facts(folder):
    (folder / "corpus.json").write_text("[1]")


@pytest.mark.parametrize(
    "damage", [_flip_a_byte, _truncate, _forget_the_tokenizer, _stop_before_the_last_file, _garble_the_facts]
)
def test_a_damaged_cache_is_noticed_and_built_again(damage, tmp_path, monkeypatch):
    monkeypatch.setattr(corpus, "english_documents", few_documents)
    before = corpus.build(few_documents(), tmp_path / "reference")
    cache = tmp_path / "cache"
    folder = corpus.prepare(cache).folder
    damage(folder)
    with pytest.raises(CorpusError):
        corpus.open_corpus(folder)
    with pytest.warns(UserWarning, match="is damaged"):
        again = corpus.prepare(cache)
    assert again.digest == before.digest
    assert list(cache.iterdir()) == [folder]  # nothing half-made stays behind


def test_builders_at_the_same_time_all_get_the_same_corpus(tmp_path):
    with ThreadPoolExecutor(4) as pool:
        built = list(pool.map(lambda _: corpus.build(few_documents(), tmp_path / "shared", 600), range(4)))
    assert len({c.digest for c in built}) == 1
    assert list(tmp_path.iterdir()) == [tmp_path / "shared"]


# --- Shards ---------------------------------------------------------------------------------------------


def test_a_shard_gives_back_the_tokens_written_and_has_the_public_layout(tmp_path):
    tokens = np.array([0, 1, 513, 65535, 7])
    corpus.write_shard(tmp_path / "s.bin", tokens)
    assert corpus.load_shard(tmp_path / "s.bin").tolist() == tokens.tolist()
    data = (tmp_path / "s.bin").read_bytes()
    assert np.frombuffer(data[:1024], "<i4").tolist() == [20240520, 1, 5] + [0] * 253
    assert data[1024:] == bytes.fromhex("0000 0100 0102 ffff 0700")


@pytest.mark.parametrize(
    ("header", "body", "message"),
    [
        ([1234, 1, 3], 3, "expected magic number 20240520, found 1234"),
        ([20240520, 2, 3], 3, "expected shard version 1, found 2"),
        ([20240520, 1, 9], 3, "truncated: expected 9 tokens, found 3"),
        ([20240520, 1, 2], 3, "longer than its header says: expected 2 tokens, found 3"),
        ([20240520, 1, 0], 0, "holds no tokens"),
        ([20240520, 1, 3], 3, "token 601 at 1 is outside the vocabulary of 600"),
    ],
)
def test_a_shard_that_is_not_what_it_claims_is_refused(tmp_path, header, body, message):
    whole = np.zeros(256, "<i4")
    whole[:3] = header
    tokens = np.array([5, 601, 6], "<u2")[:body]
    (tmp_path / "s.bin").write_bytes(whole.tobytes() + tokens.tobytes())
    with pytest.raises(CorpusError, match=message):
        corpus.load_shard(tmp_path / "s.bin", vocab_size=600)


def test_a_file_without_a_whole_header_is_no_shard(tmp_path):
    (tmp_path / "s.bin").write_bytes(b"abc")
    with pytest.raises(CorpusError, match="expected a header of 1024 bytes, found 3 bytes"):
        corpus.load_shard(tmp_path / "s.bin")

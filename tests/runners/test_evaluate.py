"""Evaluation: every token once, bytes as the challenge counts them, and test-time training that never looks ahead."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runners import bytecount, evaluate
from runners.evaluate import LeakError, Split, Window

VOCAB = 50


def some_tokens(count, seed=0):
    return np.random.default_rng(seed).integers(0, VOCAB, count).astype(np.uint16)


class Counter:
    """A model that counts which token follows which, in its window and in what it was trained on. Causal."""

    def __init__(self):
        self.learnt = np.ones((VOCAB, VOCAB))
        self.shown = []  # (tokens, targets) that were trained on

    def losses(self, tokens, targets, first):
        found = np.empty((len(tokens), tokens.shape[1] - first), dtype=np.float32)
        for row, (x, y) in enumerate(zip(tokens, targets, strict=True)):
            counts = self.learnt.copy()
            for i, (a, b) in enumerate(zip(x, y, strict=True)):
                if i >= first:
                    found[row, i - first] = -math.log(counts[a, b] / counts[a].sum())
                counts[a, b] += 1
        return found

    def learn(self, tokens, targets, lr):
        self.shown.append((tokens.copy(), targets.copy()))
        np.add.at(self.learnt, (tokens.ravel(), targets.ravel()), lr)


sizes = st.integers(1, 40).flatmap(
    lambda seq: st.tuples(st.integers(seq, seq + 200), st.just(seq), st.integers(1, seq))
)

# --- Windows -----------------------------------------------------------------------------------------------


@given(sizes)
def test_every_target_is_scored_exactly_once_and_after_the_first_window_with_enough_context(size):
    count, seq, stride = size
    scored = []
    for number, window in enumerate(evaluate.windows(count, seq, stride)):
        assert window.start >= 0
        assert window.length == seq
        assert window.start + window.length <= count
        if number:
            assert window.first >= seq - stride
            assert window.scored[1] - window.scored[0] <= stride
        scored += range(*window.scored)
    assert scored == list(range(count))


@given(st.integers(1, 20), st.integers(1, 9))
def test_a_stride_of_the_whole_window_is_chunked(seq, chunks):
    expected = [Window(start, seq, 0) for start in range(0, seq * chunks, seq)]
    assert list(evaluate.windows(seq * chunks, seq, seq)) == expected


@given(sizes, st.integers(1, 5))
@settings(max_examples=30, deadline=None)
def test_the_batch_size_is_no_part_of_the_result(size, batch):
    count, seq, stride = size
    tokens = some_tokens(count + 1)
    one, several = (
        evaluate.token_losses(Counter().losses, tokens, count, seq, stride=stride, batch=b) for b in (1, batch)
    )
    assert np.array_equal(one, several)
    assert np.isfinite(one).all()


def test_sliding_gives_other_and_for_a_model_that_uses_context_better_losses_than_chunked():
    tokens = np.tile(some_tokens(16), 20)  # a text that context foretells
    chunked, sliding, same = (
        evaluate.token_losses(Counter().losses, tokens, 256, 64, stride=stride) for stride in (0, 8, 64)
    )
    assert np.array_equal(chunked, same)
    assert np.array_equal(chunked[:64], sliding[:64])
    assert sliding[64:].sum() < 0.9 * chunked[64:].sum()


@pytest.mark.parametrize(("count", "seq", "stride"), [(9, 10, 1), (10, 5, 0), (10, 5, 6)])
def test_windows_that_cannot_be_are_refused(count, seq, stride):
    with pytest.raises(ValueError, match="expected 1 <= stride <= seq_len <= count"):
        list(evaluate.windows(count, seq, stride))


@pytest.mark.parametrize(
    ("tokens", "limit", "scored", "name"),
    [(101, 0, 100, "val_bpb"), (105, 0, 100, "val_bpb"), (105, 103, 100, "val_bpb"), (105, 50, 50, "val_bpb_subset")],
)
def test_a_part_of_the_split_is_another_metric_than_the_whole(tokens, limit, scored, name):
    assert evaluate.whole_windows(tokens, 10, limit) == scored
    assert evaluate.named("val_bpb", scored, tokens, 10) == name


def test_a_split_shorter_than_a_window_is_refused():
    with pytest.raises(ValueError, match="more than seq_len 10 tokens, found 10"):
        evaluate.whole_windows(10, 10)


# --- Bytes -------------------------------------------------------------------------------------------------


class Pieces:
    """A sentencepiece model of these pieces; "<s>" is a control token, "<0x41>" a byte."""

    def __init__(self, *pieces):
        self.pieces = pieces

    def get_piece_size(self):
        return len(self.pieces)

    def id_to_piece(self, token):
        return self.pieces[token]

    def is_control(self, token):
        return self.pieces[token] in ("<s>", "</s>")

    def is_unknown(self, token):
        return self.pieces[token] == "<unk>"

    def is_unused(self, token):
        return False

    def is_byte(self, token):
        return self.pieces[token].startswith("<0x")


def test_bytes_are_counted_as_the_challenge_counts_them():
    counts = bytecount.of_tokenizer(Pieces("<unk>", "<s>", "▁the", "re", "▁", "é", "<0x41>", "▁é"))
    text = np.array([1, 2, 3, 4, 5, 6, 7, 0, 2, 1, 4])
    #      <s> ▁the re  ▁  é  A  ▁é unk ▁the <s> ▁
    sizes = [3, 2, 1, 2, 1, 3, 0, 3, 0, 0]
    assert counts.of(text[:-1], text[1:]).tolist() == sizes
    assert counts.total(text) == sum(sizes)


def test_bytes_of_a_real_tokenizer_with_a_dummy_prefix_are_those_of_the_text(tmp_path):
    """Documents as the challenge's export writes them: each after a beginning-of-text token."""
    sentencepiece = pytest.importorskip("sentencepiece")
    from pydoc_data.topics import topics

    texts = [" ".join(topics[name].encode("ascii", "ignore").decode().split()) for name in sorted(topics)[:20]]
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(texts),
        model_prefix=str(tmp_path / "m"),
        model_type="bpe",
        vocab_size=500,
        byte_fallback=True,
        split_digits=True,
        normalization_rule_name="nmt_nfkc",
        num_threads=1,
        minloglevel=2,
    )
    tokenizer = sentencepiece.SentencePieceProcessor(model_file=str(tmp_path / "m.model"))
    counts = bytecount.of_tokenizer(tokenizer)
    tokens = np.concatenate([[tokenizer.bos_id(), *tokenizer.encode(text)] for text in texts])
    assert counts.total(tokens) == sum(len(text.encode()) for text in texts)


def test_a_score_is_the_direct_computation():
    tokens = some_tokens(201)
    counts = bytecount.exact(np.arange(VOCAB))
    nats = evaluate.token_losses(Counter().losses, tokens, 200, 20)
    score = evaluate.summed(nats, tokens, counts)
    total, size = 0.0, 0
    for start in range(0, 200, 20):
        table = np.ones((VOCAB, VOCAB))
        for i in range(start, start + 20):
            a, b = int(tokens[i]), int(tokens[i + 1])
            total -= math.log(table[a, b] / table[a].sum())
            table[a, b] += 1
            size += b
    assert score.loss == pytest.approx(total / 200, rel=1e-6)
    assert score.bpb == pytest.approx(total / math.log(2) / size, rel=1e-6)
    assert (score.tokens, score.bytes) == (200, size)


def test_a_split_that_stands_for_no_text_has_no_bits_per_byte():
    with pytest.raises(ValueError, match="stand for no text"):
        evaluate.summed(np.ones(3, "f4"), some_tokens(4), bytecount.exact(np.zeros(VOCAB)))


# --- Test-time training ------------------------------------------------------------------------------------

TTT = {"stride": 4, "chunk": 32, "lr": 1.0, "epochs": 2}


def ttt(tokens, learner=None, count=200, seq_len=16, **changes):
    return evaluate.score_first(learner or Counter(), tokens, count, seq_len, **{**TTT, **changes})


def sees_ahead(how, tokens, at):
    """Whether any loss of a target before `at` changes, by a single bit, with the tokens from `at` on."""
    other = tokens.copy()
    other[at:] = (other[at:] + 1 + some_tokens(len(tokens) - at, seed=at) % (VOCAB - 1)) % VOCAB
    # nats[i] is the loss of tokens[i + 1]
    return not np.array_equal(how(tokens)[: at - 1], how(other)[: at - 1])


class Leaking(Counter):
    """Trains on the chunk that it is about to score: what the first pipeline's figure of 1.2983 did."""

    def __init__(self, tokens):
        super().__init__()
        self.tokens = tokens.astype(np.int64)

    def losses(self, tokens, targets, first):
        super().learn(tokens, targets, 1.0)
        return super().losses(tokens, targets, first)


@given(st.integers(2, 200), st.integers(1, 16), st.integers(1, 60), st.integers(1, 4))
@settings(max_examples=40, deadline=None)
def test_scores_before_a_token_do_not_change_by_a_bit_with_that_token_and_what_follows(at, stride, chunk, batch):
    tokens = some_tokens(201)
    assert not sees_ahead(lambda t: ttt(t, stride=stride, chunk=chunk, batch=batch), tokens, at)


@pytest.mark.parametrize("at", [40, 100, 180])
def test_a_variant_that_leaks_is_caught_by_the_same_test(at):
    assert sees_ahead(lambda t: ttt(t, Leaking(t)), some_tokens(201), at)


def test_what_was_trained_on_was_scored_before_in_windows_of_the_text_and_as_often_as_told():
    tokens, learner = some_tokens(201), Counter()
    progress = []
    split_given = Split.given

    def given_(self, starts, length):
        progress.append((int(starts.max()) + length, self.scored))
        return split_given(self, starts, length)

    Split.given = given_
    try:
        nats = ttt(tokens, learner)
    finally:
        Split.given = split_given
    assert np.isfinite(nats).all()
    assert all(last <= scored for last, scored in progress)
    assert progress[0] == (32, 32)
    assert max(last for last, _ in progress) <= 192  # the last chunk teaches nothing
    x, y = learner.shown[0]
    assert x.tolist() == [tokens[:16].tolist(), tokens[16:32].tolist()]
    assert y.tolist() == [tokens[1:17].tolist(), tokens[17:33].tolist()]
    assert len(learner.shown) == 2 * (math.ceil(200 / 32) - 1)


def test_training_on_what_was_scored_helps_a_text_that_repeats_itself():
    tokens = np.tile(some_tokens(60), 5)
    before = evaluate.token_losses(Counter().losses, tokens, 256, 16, stride=4)
    after = ttt(tokens, count=256, lr=20.0)
    assert np.array_equal(before[:32], after[:32])
    assert after.sum() < 0.8 * before.sum()


def test_without_a_rate_it_is_sliding_evaluation_to_the_bit():
    tokens = some_tokens(201)
    assert np.array_equal(ttt(tokens, lr=0.0), evaluate.token_losses(Counter().losses, tokens, 200, 16, stride=4))


def test_asking_for_tokens_that_are_still_to_be_scored_is_an_error():
    split = Split(some_tokens(100), 99)
    with pytest.raises(LeakError, match="training asked for target 9, and only the first 0 are scored"):
        split.given(np.array([0]), 10)
    split.score(Counter().losses, [Window(0, 10, 0)])
    split.given(np.array([0]), 10)
    with pytest.raises(LeakError, match="target 10"):
        split.given(np.array([1]), 10)
    with pytest.raises(LeakError, match="target 10 is to be scored next, not 20"):
        split.score(Counter().losses, [Window(20, 10, 0)])

"""The smallest rules: numbers with their signs, names of techniques, Markdown, headings, and text of any kind."""

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ledger import canonical
from ledger.errors import UsageError
from runners.extraction import markdown, numbers, roles, techniques, vocabulary
from runners.extraction.leaderboard import read_leaderboard
from runners.extraction.record import Unreadable, read_record
from runners.extraction.techniques import Named

EFFECTS, COMPARED, PROSE = (
    Path(__file__).with_name(f"{name}.md").read_text(encoding="utf-8") for name in ("effects", "compared", "prose")
)

NAMES = vocabulary.load()


@pytest.mark.parametrize(
    ("cell", "bpb", "nats"),
    [
        ("-0.0013 BPP, +72 training steps", -0.0013, None),
        ("−0.0078 nats (−0.0046 BPB)", -0.0046, -0.0078),
        ("+0.0159 (much worse)", 0.0159, None),
        ("0.034 bpb better", -0.034, None),
        ("±0.0000", 0.0, None),
        ("**-0.0008**", -0.0008, None),
        ("−2.14 mBPB", -0.00214, None),
        ("-530 KB artifact", None, None),
        ("0.002-0.003 bpb better", None, None),
        ("0.002 bpb", None, None),
        ("28% overhead", None, None),
        ("—", None, None),
    ],
)
def test_cells_of_differences(cell, bpb, nats):
    delta = numbers.delta_cell(markdown.plain(cell)) or numbers.Delta(None, None)
    assert delta.bpb == (None if bpb is None else pytest.approx(bpb))
    assert delta.nats == (None if nats is None else pytest.approx(nats))


@pytest.mark.parametrize(
    ("text", "bpb"),
    [
        ("It improves things by roughly 0.0022 BPB.", -0.0022),
        ("EMA still hurts quality by 0.03 bpb.", 0.03),
        ("Combined, these give ~0.002 BPB improvement.", -0.002),
        ("The quantization gap fell to 0.0005 BPB, an improvement.", None),
        ("Reported as -0.0045 bpb elsewhere.", None),
        ("(+0.008 bpb over the short one)", None),  # a plus in a sentence may be either
        ("One gives -0.001 bpb, the other gives -0.002 bpb.", None),
        ("It reaches 1.1056 BPB.", None),
    ],
)
def test_differences_in_sentences(text, bpb):
    delta = numbers.delta_prose(text)
    assert (delta.bpb if delta else None) == bpb


@pytest.mark.parametrize(
    ("cell", "size"),
    [("15,967,483", 15_967_483), ("15.90MB", 15_900_000), ("~15.8M", 15_800_000), ("15,967K", 15_967_000),
     ("15418110", 15_418_110), ("15,996,697 B", 15_996_697), ("15.1 MiB", 15_833_498), ("600s", None), ("", None)],
)  # fmt: skip
def test_sizes(cell, size):
    assert numbers.byte_count(cell) == size


@pytest.mark.parametrize(
    ("text", "before", "after"),
    [
        ("Increase the vocabulary size from 4096 to 8192", "4096", "8192"),
        ("11 layers (vs 9 baseline)", "9", None),
        ("MATRIX_LR=0.02 (default: 0.04)", "0.04", "0.02"),
        ("BigramHash 2048→3072", "2048", "3072"),
        ("XSA in all layers instead of only the last 4", "only the last 4", None),
        ("schedule 1 -> 2 -> 4", None, None),
        ("from layer 7 to the end", None, None),
    ],
)
def test_before_and_after(text, before, after):
    assert numbers.change(text) == (before, after)


@pytest.mark.parametrize(
    ("label", "id"),
    [
        ("Exclusive Self Attention", "xsa"),
        ("xsa_last_n=4", "xsa"),
        ("XSA on all 11 layers", "xsa"),
        ("LeakyReLU(0.5)²", "leaky-relu-squared"),
        ("Muon Optimizer with Weight Decay", "weight-decay"),
        ("TTT_WEIGHT_DECAY", "ttt-weight-decay"),
        ("TTT_BETA2", "ttt-beta2"),
        ("10L", "num-layers"),
        ("SmearGate (BOS-fixed)", "smeargate-bos-fix"),
        ("European schema semantics", None),
        ("SPARSE_ATTN_GATE_WIDTH", None),  # a setting of its own
        ("Mystic Fold", None),
    ],
)
def test_names_of_techniques(label, id):
    found = techniques.naming(label, NAMES)
    assert (found.id if found else None) == id


def test_an_unknown_technique_has_one_id_however_it_is_set():
    assert NAMES.unknown_label("Mystic  Fold!") == NAMES.unknown_label("mystic-fold") == "unknown:mystic-fold"
    assert NAMES.unknown_label("²!") == "unknown:2"
    assert NAMES.unknown_label("!") == "unknown:unnamed"


def test_the_vocabulary_gives_every_alias_back():
    for technique in NAMES.techniques:
        for alias in technique.aliases:
            found = NAMES.find(alias.replace("#", "7"))
            assert found is not None, alias
            assert found.technique.id == technique.id, alias


def test_a_vocabulary_of_the_users(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text('[[technique]]\nid = "fold"\nkind = "architecture"\naliases = ["mystic fold"]\n')
    mine = vocabulary.load(path)
    assert mine.find("Mystic-Folds everywhere").technique.id == "fold"
    assert mine.digest != NAMES.digest
    for text in ("", "[[technique]]\nid = 1\n", "\x00", '[[technique]]\nid="a"\nkind="b"\naliases=["!"]\n'):
        broken = tmp_path / f"{len(text)}.toml"
        broken.write_text(text)
        with pytest.raises(UsageError, match=r"not a vocabulary|empty or of two"):
            vocabulary.load(broken)


def test_bundles_are_taken_apart_only_where_all_is_known():
    assert [part.technique.id for part in techniques.parts("Full GPTQ int6 + Brotli", NAMES)] == ["gptq", "brotli"]
    assert techniques.parts("EMA + more glue", NAMES) == [Named("EMA + more glue", NAMES.find("EMA").technique)]
    assert len(techniques.parts("Partial RoPE (16 + 48 dims)", NAMES)) == 1


@pytest.mark.parametrize(
    ("text", "role"),
    [
        ("What's new", "changes"),
        ("Changes from PR #1530 Baseline", "changes"),
        ("Key Innovation: Folding", "changes:named"),
        ("Negative Results (All 12)", "negative"),
        ("things I tried that didn't work", "negative"),
        ("What I'd Try Next", "future"),
        ("Rule Compliance", "ignore"),
        ("Carried from PR #198", "carried"),
        ("LR sweep results", "ablation"),
        ("Reproducibility", "ignore"),
        ("Gentle words", "other"),
    ],
)
def test_roles_of_headings(text, role):
    assert roles.role(text) == role


def test_code_is_no_heading_and_lines_are_kept():
    text = (
        "\n# A\n\n```bash\n# no heading\n| a | b |\n|-|-|\n```\n\nlist:\n- x\n  more\n- y\n\n| a | b |\n"
        "|:-|-:|\n| 1 | 2 |"
    )
    document = markdown.parse(text)
    assert [(section.title, section.line) for section in document.sections] == [("A", 2), ("list", 10)]
    (code,) = document.sections[0].blocks
    assert (code.kind, code.first, code.last) == ("code", 4, 8)
    one, two, table = document.sections[1].blocks
    assert (one.text, one.first, two.first, table.table.rows[0].line) == ("x more", 11, 13, 17)


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        ("**D**esignator *not* 2 * 3 * 4", "Designator not 2 * 3 * 4"),
        ("[`a_b`](https://example.org/x_y) &mdash; <b>c</b>", "a_b — c"),
        (r"val\_bpb \~ 1 \[x\]", "val_bpb ~ 1 [x]"),
        ("a < b and c > d", "a < b and c > d"),
    ],
)
def test_plain_words(raw, words):
    assert markdown.plain(raw) == words


def test_a_leaderboard(tmp_path):
    path = tmp_path / "README.md"
    path.write_text(
        "# Repo\n\n## Leaderboard\n| Run | Score | Author | Summary | Date | Info |\n|-|-:|-|-|-|-|\n"
        "| A + B | 1.0611 | ann | On PR #12: x | 2026-01-02 | [info](records/track_a/2026-01-02_A/README.md) |\n"
        "| C | n/a | bob | y | 2026-01-01 | [info](https://example.org/pull/3) |\n\n| x | y |\n|-|-|\n| 1 | 2 |\n"
    )
    page = read_leaderboard(path, repository="r")
    first, second = page.rows
    assert (first.track, first.record, first.score, first.evidence) == (
        "track_a",
        "track_a/2026-01-02_A",
        1.0611,
        "README.md:6",
    )
    assert (second.track, second.record, second.score, second.run) == ("Leaderboard", None, None, "C")


# ── any text at all ──

MARKS = (
    "|", "|-|-|", "```", "# ", "- ", "1. ", "**", "> ", "\\", "<div>", "&amp;", "PR #", "1.2", "−", "±0.1 bpb",
    "\x00", "\u2028", "²", "seed", "    ", "\t", "\ud7ff", "# 1.",
)  # fmt: skip
PIECES = st.sampled_from([*EFFECTS.splitlines(), *COMPARED.splitlines(), *PROSE.splitlines(), *MARKS])


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(lines=st.lists(st.lists(PIECES | st.text(max_size=12), max_size=4).map("".join), max_size=30))
def test_mangled_markdown_is_read_without_a_trace(place, lines):
    text = "\n".join(lines)
    folder = place(README__md=text.encode("utf-8", "replace"))
    if not text.strip():
        with pytest.raises(Unreadable, match="is empty"):
            read_record(folder)
        return
    parts = read_record(folder)
    count = len(text.replace("\r\n", "\n").replace("\r", "\n").split("\n"))
    for part in parts:
        canonical.encode(part)
        ids = [row.intervention for row in part.interventions]
        assert len(ids) == len(set(ids))
        places = [where for row in part.interventions for where in row.evidence]
        for place_ in [*places, *(row.evidence for row in part.seeds)]:
            assert 1 <= int(place_.rpartition(":")[2]) <= count


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=300))
def test_no_sentence_is_too_strange_for_the_rules_of_words(text):
    numbers.delta_prose(text)
    numbers.change(text)
    numbers.byte_count(text)
    techniques.settings(text)
    for part in techniques.parts(text, NAMES):
        techniques.level(part.label, None)
    for found in NAMES.mentions(text):
        assert text[found.start : found.end]

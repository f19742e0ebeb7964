"""A README in each of the formats that are met gives its score, base, changes, seeds and ablations."""

from pathlib import Path

import pytest

from ledger.records import ReadIntervention, RecordExtracted

EFFECTS, COMPARED, PROSE = (
    Path(__file__).with_name(f"{name}.md").read_text(encoding="utf-8") for name in ("effects", "compared", "prose")
)


def new(reading: RecordExtracted) -> dict[str, ReadIntervention]:
    return {row.intervention: row for row in reading.interventions if row.status == "new"}


# ── A: change | effect ──


def test_a_table_of_effects_gives_each_change_its_own_difference(readme):
    rows = new(readme(EFFECTS))
    assert rows["xsa"].delta_bpb == -0.003
    assert rows["ema"].delta_bpb == pytest.approx(-0.0021)  # mBPB are thousandths
    assert rows["matrix-lr"].delta_bpb == -0.0004  # "better" without a sign
    assert rows["brotli"].delta_bpb is None  # kilobytes are no score
    assert rows["unknown:mystic-fold"].delta_bpb == 0.001
    assert all(row.delta_source == "stated" for row in rows.values() if row.delta_bpb is not None)


def test_every_row_says_where_it_stands(readme):
    lines = EFFECTS.splitlines()
    for row in readme(EFFECTS).interventions:
        for place in row.evidence:
            file, _, line = place.partition(":")
            assert file == "README.md"
            words = row.label.split("=")[0].split(" (")[0].split()[0].lower()
            assert words in lines[int(line) - 1].lower()


def test_a_change_that_is_told_again_as_an_ablation_is_one_row(readme):
    ids = [row.intervention for row in readme(EFFECTS).interventions]
    assert sorted(ids) == sorted(set(ids))
    assert len(new(readme(EFFECTS))["xsa"].evidence) == 2


def test_what_was_tried_and_left_out_is_no_change_of_the_record(readme):
    assert not {"swiglu", "depth-recurrence", "slot", "ngram-cache", "label-smoothing"} & set(new(readme(EFFECTS)))


def test_the_head_of_format_a(readme):
    reading = readme(EFFECTS)
    assert (reading.format, reading.val_bpb, reading.base_ref, reading.base_val_bpb) == (
        "A",
        1.20311,
        "PR #7301",
        1.21011,
    )
    assert (reading.delta_bpb_stated, reading.delta_nats_stated) == (-0.007, -0.0118)
    assert reading.val_bpb_evidence == "README.md:3"


def test_seeds_take_the_column_of_the_claim_and_sizes_in_every_spelling(readme):
    seeds = readme(EFFECTS).seeds
    assert [(row.seed, row.val_bpb, row.pre_quant_bpb) for row in seeds] == [
        (11, 1.20271, 1.21),
        (22, 1.20311, 1.2104),
        (0, 1.20351, 1.2108),
    ]
    assert [row.bytes_total for row in seeds] == [15_700_001, 15_700_000, 15_700_000]
    assert [row.steps for row in seeds] == [5001, 5002, 5003]


def test_ablations_keep_their_meaning_and_negative_results_are_marked(readme):
    rows = {row.change: row for row in readme(EFFECTS).ablations}
    assert (rows["+ EMA"].delta_bpb, rows["+ EMA"].meaning) == (-0.0021, "incremental")
    assert rows["+ SwiGLU"].val_bpb == 1.209
    assert rows["Depth recurrence"].negative
    assert rows["Depth recurrence"].delta_bpb == 0.012
    assert rows["Label smoothing"].delta_bpb is None


def test_differences_against_the_first_row_are_called_cumulative_and_given_to_nobody_but_the_first(readme):
    text = (
        "# X\n**val_bpb: 1.1910**\n\n## Ablations\n| Condition | val_bpb | Delta bpb |\n|-|-|-|\n"
        "| Baseline | 1.2278 | — |\n| + Doc-isolated | 1.2168 | -0.0110 |\n"
        "| + EMA | 1.1941 | -0.0337 |\n| + LoRA TTT | 1.1910 | -0.0368 |\n"
    )
    reading = readme(text)
    assert {row.meaning for row in reading.ablations if row.delta_bpb is not None} == {"cumulative"}
    deltas = {key: row.delta_bpb for key, row in new(reading).items()}
    assert deltas == {"doc-isolated-eval": -0.011, "ema": None, "lora-ttt": None}


# ── B: base | this ──


def test_a_comparison_gives_before_and_after(readme):
    rows = new(readme(COMPARED))
    assert (rows["ema"].before, rows["ema"].after) == ("SWA (8 checkpoints)", "EMA (decay=0.996)")
    assert rows["ema"].label == "EMA replacing SWA"  # the telling that names it, not "Weight averaging"
    assert rows["muon-momentum"].after == "muon_momentum=0.96 (vs 0.99)"
    assert rows["value-embedding"].removed


def test_what_both_sides_share_is_carried_and_metrics_are_nothing(readme):
    reading = readme(COMPARED)
    carried = {row.intervention for row in reading.interventions if row.status == "carried"}
    assert {"vocab-size", "unet-skips", "smeargate", "bigram-hash"} <= carried
    assert set(new(reading)) == {"ema", "muon-momentum", "value-embedding"}


def test_the_head_of_format_b(readme):
    reading = readme(COMPARED)
    assert (reading.format, reading.val_bpb, reading.base_ref, reading.base_val_bpb) == (
        "B",
        1.1502,
        "PR #8002",
        1.1555,
    )
    assert [row.parent for row in reading.lineage] == ["PR #8002"]


def test_value_and_default_is_a_comparison_too(readme):
    text = (
        "# X\n**val_bpb: 1.1**\n\n## Hyperparameter stack\n| hparam | value | default | rationale |\n"
        "|-|-|-|-|\n| BETA2 | 0.99 | 0.95 | x |\n| TTT_BETA2 | 0.9 | 0.999 | y |\n"
    )
    rows = new(readme(text))
    assert {key: (row.before, row.after) for key, row in rows.items()} == {
        "beta2": ("0.95", "0.99"),
        "ttt-beta2": ("0.999", "0.9"),
    }


# ── C: prose ──


def test_numbered_items_after_a_line_that_announces_them(readme):
    rows = new(readme(PROSE))
    assert (rows["sequence-length"].before, rows["sequence-length"].level) == ("1024", "4096")
    assert "SCALAR_LR=0.02" in rows["learning-rate"].label
    assert set(rows) == {"sequence-length", "learning-rate"}


def test_the_head_of_format_c(readme):
    reading = readme(PROSE)
    assert (reading.format, reading.val_bpb, reading.name) == ("C", 1.20611111, "Longer Windows")
    assert (reading.base_ref, reading.base_val_bpb) == ("naive baseline", 1.2244)
    assert reading.bytes_total == 15_801_234


def test_seeds_in_lines(readme):
    assert [(row.seed, row.val_bpb) for row in readme(PROSE).seeds] == [(5, 1.20611111), (6, 1.207)]


def test_headings_that_name_a_change_and_what_they_say(readme):
    text = """# X\n**val_bpb: 1.10**\n\nBuilt on [PR #91](https://example.org/pull/91).\n
## Key Innovation: LeakyReLU(0.5)²\n\nOne line that delivers -0.003 BPB.\n
## Novel Contributions\n\n### 1. Partial RoPE (16 of 64 dims)\n- halves nothing
- reduces the gap from 0.014 BPB to 0.005 BPB\n
### 2. Shrinking\n\nOffset by reducing MLP hidden from 1024 to 992.\n
### Dropped: TTT\n\nThe base used TTT for -0.0025 BPB.\n"""
    rows = new(readme(text))
    assert rows["leaky-relu-squared"].delta_bpb == -0.003
    assert rows["partial-rope"].delta_bpb is None  # a gap is no effect
    assert (rows["mlp-width"].before, rows["mlp-width"].after) == ("1024", "992")
    assert rows["ttt"].removed
    assert rows["ttt"].delta_bpb is None


def test_a_bundle_is_taken_apart_and_its_figure_marked_as_joint(readme):
    text = (
        "# X\n**val_bpb: 1.1**\n\n## Changes\n1. **4096-Vocab + MLP 4x + WD 0.090** — from elsewhere\n\n"
        "## Ablation\n| Change | val_bpb | Delta |\n|-|-|-|\n| base | 1.2 | |\n"
        "| + int5 MLP + EMA | 1.197 | -0.003 |\n"
    )
    rows = new(readme(text))
    assert {"vocab-size", "mlp-width", "weight-decay", "ema"} <= set(rows)
    assert (rows["ema"].delta_bpb, rows["ema"].delta_joint) == (-0.003, True)


def test_one_change_gets_the_stated_total_and_two_do_not(readme):
    one = "# X\n**val_bpb: 1.1**\n\n**Improvement over PR #5 (1.2):** -0.1 BPB\n\n## Changes\n- **EMA**: averaged\n"
    assert new(readme(one))["ema"].delta_bpb == -0.1
    two = new(readme(one + "- **XSA**: on all layers\n"))
    assert (two["ema"].delta_bpb, two["xsa"].delta_bpb) == (None, None)


def test_steps_of_a_procedure_are_no_changes(readme):
    text = (
        "# Phased TTT\nBuilds on PR #5. Training is unchanged. Evaluation changes as follows:\n\n"
        "1. Run the stock evaluator.\n2. After 2000 documents, pause.\n3. Gather the XSA scores.\n"
        "4. Resume with EMA.\n"
    )
    assert set(new(readme(text))) == {"phased-ttt"}


def test_a_sweep_is_an_ablation_and_its_chosen_row_the_effect(readme):
    text = (
        "# X\n\n## Changes from baseline\n- `MATRIX_LR=0.02` (default: 0.04)\n\n## LR sweep\n"
        "| MATRIX_LR | val_bpb | Delta vs baseline |\n|-|-|-|\n"
        "| 0.06 | 1.2445 | +0.0159 (much worse) |\n| 0.04 (default) | 1.2286 | — |\n"
        "| **0.02** | **1.2230** | **-0.0056** |\n"
    )
    reading = readme(text)
    assert [(row.change, row.delta_bpb) for row in reading.ablations] == [
        ("MATRIX_LR=0.06", 0.0159),
        ("MATRIX_LR=0.04 (default)", None),
        ("MATRIX_LR=0.02", -0.0056),
    ]
    row = new(reading)["matrix-lr"]
    assert (row.before, row.after, row.delta_bpb) == ("0.04", "0.02", -0.0056)
    assert reading.base_val_bpb == 1.2286


def test_training_curves_and_other_peoples_scores_are_no_ablations(readme):
    text = (
        "# X\n\n## Training curve\n| Step | val_bpb |\n|-|-|\n| 1,000 | 1.48 |\n| 60,000 | 1.20 |\n\n"
        "## Field\n| PR | val_bpb |\n|-|-|\n| #573 | 1.05 |\n| #609 | 1.11 |\n"
    )
    assert readme(text).ablations == ()


def test_two_versions_side_by_side_under_their_own_names_are_compared(readme):
    rows = "| EMA | decay 0.99 | decay 0.997 |\n| XSA | Unchanged | Unchanged |\n"
    table = f"| Component | Anchor | Delta 1 |\n|-|-|-|\n{rows}"
    reading = readme(f"# X\n\n## Delta from the anchor\n\n{table}")
    (row,) = new(reading).values()
    assert (row.intervention, row.before, row.after, reading.format) == ("ema", "decay 0.99", "decay 0.997", "B")
    table = table.replace("Delta 1", "Delta").replace("decay 0.997", "-0.0021")
    assert new(readme(f"# X\n\n## Changes\n\n{table}"))["ema"].delta_bpb == pytest.approx(-0.0021)


def test_a_numbered_table_of_changes(readme):
    rows = "| # | Change | Lines |\n|-|-|-|\n| 1 | warmdown 3000 -> 3500 | 1 |\n| 2 | XSA 4 -> 11 | 1 |\n"
    found = new(readme(f"# X\n\n## Changes from the anchor\n\n{rows}"))
    assert {key: (row.before, row.after) for key, row in found.items()} == {
        "warmdown": ("3000", "3500"),
        "xsa": ("4", "11"),
    }


@pytest.mark.parametrize("heading", ["Intentionally excluded", "NOT included", "Not used", "Omitted features"])
def test_what_a_record_leaves_out_is_no_part_of_it(readme, heading):
    table = "| Feature | Reason |\n|-|-|\n| Late QAT | unclear |\n| SWA | conflicts |\n"
    assert readme(f"# X\n\nval_bpb: 1.2012\n\n## {heading}\n\n{table}").interventions == ()


def test_steps_of_a_protocol_are_no_parts_of_a_stack(readme):
    steps = "1. Split into batches of train_seq_len tokens\n2. Run sliding window eval\n3. Apply EMA to all\n"
    assert readme(f"# X\n\n## TTT protocol\n\n{steps}").interventions == ()


def test_a_figure_of_several_things_together_is_no_single_ones(readme):
    rows = "| base | 1.2452 | |\n| + Sliding window (stride 64) + mystic fold | 1.2052 | -0.0400 |\n"
    reading = readme(f"# X\n\n## Ablation\n\n| Config | val_bpb | Delta |\n|-|-|-|\n{rows}")
    (row,) = new(reading).values()
    assert (row.delta_bpb, row.delta_joint) == (-0.04, True)


def test_the_figure_in_a_headings_bracket_is_that_changes_own(readme):
    text = "# X\n\n## Key techniques\n\n### Mystic fold (-0.0240 bpb)\n\nFolds twice.\n\n### EMA\n\nAverages.\n"
    found = new(readme(text))
    assert found["unknown:mystic-fold"].delta_bpb == -0.024
    assert found["ema"].delta_bpb is None


@pytest.mark.parametrize("label", ["Base", "Single change", "Anchor"])
def test_words_for_the_whole_are_no_techniques(readme, label):
    assert new(readme(f"# X\n\n## Changes\n\n- {label}: something else\n")) == {}

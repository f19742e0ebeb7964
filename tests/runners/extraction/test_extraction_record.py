"""A record as a whole: several sources, contradictions, bad input, parts, and finding records in a tree."""

import math
import os
import time
from pathlib import Path

import pytest

from ledger import canonical
from runners.extraction import sources
from runners.extraction.record import PARSER, Unreadable, find_records, links_out, read_record, unusable

EFFECTS, COMPARED, PROSE = (
    Path(__file__).with_name(f"{name}.md").read_text(encoding="utf-8") for name in ("effects", "compared", "prose")
)

LOG = """\
seed: 5
step:100/200 val_loss:2.1 val_bpb:1.3000 train_time:500ms step_avg:5.00ms
step:200/200 val_loss:2.0 val_bpb:1.2500 train_time:1000ms step_avg:5.00ms
peak memory allocated: 100 MiB reserved: 120 MiB
Total submission size int8+zlib: 15801234 bytes
  sliding_eval [ 99%] running_bpb=1.1
final_exact val_loss:2.01 val_bpb:1.20611111
"""


def test_readme_json_and_log_each_tell_their_seeds_and_agree(place):
    folder = place(
        README__md=PROSE,
        submission__json={"val_bpb": 1.20611111, "seed_results": {"5": {"val_bpb": 1.20611111, "steps": 200}}},
        train_seed5__log=LOG,
    )
    (reading,) = read_record(folder)
    assert [(row.source, row.seed, row.val_bpb) for row in reading.seeds] == [
        ("readme", 5, 1.20611111),
        ("readme", 6, 1.207),
        ("json", 5, 1.20611111),
        ("log", 5, 1.20611111),
    ]
    log = reading.seeds[-1]
    assert (log.steps, log.wall_s, log.step_ms, log.pre_quant_bpb) == (200, 1.0, 5.0, 1.25)
    assert (log.bytes_total, log.peak_memory_bytes, log.evidence) == (15_801_234, 100 << 20, "train_seed5.log:7")
    assert reading.flags == ()
    assert (reading.parser, reading.record, reading.track) == (PARSER, "track_a/2026-01-02_Example", "track_a")


def test_sources_that_disagree_are_both_kept_and_flagged(place):
    folder = place(
        README__md=PROSE.replace("The net", "**val_bpb: 1.2061** is our claim\n\nThe net"),
        submission__json={"val_bpb": 1.19, "seed_results": {"5": {"val_bpb": 1.21}}},
        train_seed5__log=LOG.replace("seed: 5", "seed: 1337"),
    )
    (reading,) = read_record(folder)
    flags = {flag.field: flag for flag in reading.flags}
    assert "1.21 (submission.json:1)" in flags["seed 5"].said[1]
    assert "1337" in flags["seed"].said[1]


def test_a_headline_and_a_submission_that_differ(readme):
    reading = readme(
        EFFECTS, submission__json={"val_bpb": 1.1999, "name": "N", "github_id": "g", "date": "2026-01-02"}
    )
    assert reading.val_bpb == 1.20311
    (flag,) = [flag for flag in reading.flags if flag.field == "val_bpb"]
    assert flag.said == ("1.20311 (README.md:3)", "1.1999 (submission.json:1)")
    same = readme(EFFECTS, submission__json={"val_bpb": 1.203112})
    assert (same.val_bpb, same.flags) == (1.203112, ())  # the same claim with more digits


@pytest.mark.parametrize(
    ("told", "expected"),
    [
        ({"mean_val_bpb": 1.5, "artifact_bytes": 15_000_000}, (1.5, 15_000_000, ())),
        ({"val_loss": 1.4, "blurb": "Mean of 3 seeds: 1.4"}, (1.4, None, ())),
        ({"val_bpb": 1.5, "seeds": [3, 4], "seed_scores": [1.4, 1.6]}, (1.5, None, ((3, 1.4), (4, 1.6)))),
        ({"val_bpb": 1.5, "seeds": {"0": {"val_bpb": 1.5, "bytes_total": 9_000_000}}}, (1.5, 9_000_000, ((0, 1.5),))),
        ({"val_bpb": 1.5, "runs": [{"seed": 8, "val_bpb": 1.5}]}, (1.5, None, ((8, 1.5),))),
        ({"val_bpb": "1.5"}, (1.5, None, ())),
    ],
)
def test_shapes_of_submissions(readme, told, expected):
    reading = readme("# X\n\nwords\n", submission__json=told)
    assert (reading.val_bpb, reading.bytes_total, tuple((s.seed, s.val_bpb) for s in reading.seeds)) == expected


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("[1, 2]", "object expected, found list"),
        ("{", "not JSON"),
        ('{"val_bpb": NaN}', "not a finite number"),
        ('{"val_bpb": 1e400}', "not a finite number"),
        ("[" * 100_000, "not JSON"),
        (b"\xff\xfe\x00", "not UTF-8"),
    ],
)
def test_a_submission_that_cannot_be_used_is_a_flag(place, text, reason):
    (reading,) = read_record(place(README__md=PROSE, submission__json=text))
    assert any(reason in flag.reason for flag in reading.flags)
    assert reading.val_bpb == 1.20611111 or math.isfinite(reading.val_bpb)


def test_scores_that_are_not_numbers_never_become_one(readme):
    reading = readme("# X\n**val_bpb: nan**\n\n| Seed | val_bpb |\n|-|-|\n| 1 | NaN |\n| 2 | inf |\n| 3 | 1.25 |\n")
    assert [(row.seed, row.val_bpb) for row in reading.seeds] == [(3, 1.25)]


def test_no_readme_and_unreadable_ones_are_told_in_one_line(place):
    for files, reason in (
        ({"submission__json": {"val_bpb": 1.0}}, "there is none"),
        ({"README__md": b"abc\xff"}, "not UTF-8: byte 3 is 0xff"),
        ({"README__md": "  \n"}, "is empty"),
    ):
        folder = place(name=f"2026-01-0{len(reason)}", **files)
        with pytest.raises(Unreadable, match=reason) as refused:
            read_record(folder)
        assert "\n" not in str(refused.value)


def test_of_a_readme_that_is_too_long_the_beginning_is_read_and_that_is_told(place):
    (reading,) = read_record(place(README__md=EFFECTS + "padding " * 10 + "\n" + "x" * (2 * sources.README_LIMIT)))
    assert reading.val_bpb == 1.20311
    assert any("only the first" in flag.reason for flag in reading.flags)


def test_links_that_leave_the_tree_are_not_followed(place, tmp_path):
    secret = tmp_path / "outside.log"
    secret.write_text(LOG)
    folder = place(README__md=PROSE)
    (folder / "train.log").symlink_to(secret)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "README.md").write_text(PROSE)
    (folder.parent / "2026-09-09_Link").symlink_to(elsewhere)
    (reading,) = read_record(folder)
    assert [source.path for source in reading.sources] == ["README.md"]
    assert find_records(tmp_path) == [folder]


def test_what_could_not_be_used_is_named(place, tmp_path):
    secret = tmp_path / "outside.log"
    secret.write_text(LOG)
    folder = place(README__md=PROSE, train_seed2__log="step:1/2 val_bpb:1.5\nfinal val_bpb:nan\n")
    (folder / "train.log").symlink_to(secret)
    (folder / "run.log").symlink_to("run.log")
    os.mkfifo(folder / "pipe.log")
    (reading,) = parts = read_record(folder)
    assert {flag.said: flag.reason for flag in unusable(parts)} == {
        ("train.log",): "a link out of the tree is not followed",
        ("run.log",): "a link that leads nowhere",
        ("pipe.log",): "not a regular file",
        ("nan (train_seed2.log:2)",): "not a finite number",
    }
    assert not [row for row in reading.seeds if row.source == "log"]  # 1.5 is not what that run ended with


def test_a_log_that_was_cut_gives_no_score(place, monkeypatch):
    monkeypatch.setattr(sources, "LIMIT", 1000)
    (reading,) = read_record(place(README__md=PROSE, train_seed7__log="val_bpb:1.9\n" * 500))
    assert not reading.seeds or all(row.source != "log" for row in reading.seeds)
    assert any("only the first" in flag.reason for flag in reading.flags)


def test_folders_that_are_links_out_of_the_tree_are_named(place, tmp_path):
    folder = place(README__md=PROSE)
    (tmp_path / "elsewhere").mkdir()
    link = folder.parent / "2026-09-09_Link"
    link.symlink_to(tmp_path / "elsewhere")
    (folder / "checkpoints").symlink_to(tmp_path / "elsewhere")  # of a record's own folders nothing is said
    (folder.parent / "2026-09-08_Same").symlink_to(folder)
    assert links_out(tmp_path) == links_out(folder.parent) == [link]


def test_records_are_found_from_a_clone_its_records_a_track_or_one_itself(place, tmp_path):
    one, two = place(README__md=PROSE), place(name="2026-01-03_Log", train__log=LOG)
    nested = one / "logs"
    nested.mkdir()
    (nested / "train_seed7.log").write_text(LOG)
    (one / "submission.json").write_text("{}")
    (tmp_path / "README.md").write_text("# clone\n")
    for root in (tmp_path, tmp_path / "records", tmp_path / "records" / "track_a"):
        assert find_records(root) == [one, two]
    assert find_records(one) == [one]
    assert find_records(two) == [two]
    assert find_records(tmp_path / "absent") == []


def test_the_same_bytes_are_the_same_reading_and_other_bytes_are_not(place):
    folder = place(README__md=PROSE, submission__json={"val_bpb": 1.2})
    first = read_record(folder)
    assert read_record(folder) == first
    (folder / "notes.py").write_text("print()")
    assert read_record(folder)[0].source_digest == first[0].source_digest
    (folder / "submission.json").write_text('{"val_bpb": 1.21}')
    assert read_record(folder)[0].source_digest != first[0].source_digest


def test_a_long_reading_comes_in_parts_that_hold_every_row_once(place):
    rows = "".join(f"| + XSA on {i} layers {'x' * 80} | 1.2{i % 10}1 | -0.001 |\n" for i in range(900))
    text = f"# X\n**val_bpb: 1.1**\n\n## Ablation\n| Change | val_bpb | Delta |\n|-|-|-|\n{rows}"
    parts = read_record(place(README__md=text))
    assert len(parts) > 2
    assert [(part.part, part.parts) for part in parts] == [(i + 1, len(parts)) for i in range(len(parts))]
    assert all(len(canonical.encode(part)) <= 40 << 10 for part in parts)
    assert sum(len(part.ablations) for part in parts) == 900
    assert [part.val_bpb for part in parts[1:]] == [None] * (len(parts) - 1)


def test_html_ragged_rows_and_escapes(readme):
    text = (
        "<div align=center>\n\n# X &mdash; Y\n</div>\n\n**val\\_bpb: 1.23**<br>\n\n## Changes\n"
        "|Change|Effect|\n|-|-|\n|EMA|-0.002 bpb|extra|cells|\n|XSA|\n||\n| `a|b` | -0.001 bpb |\n"
    )
    reading = readme(text)
    assert reading.val_bpb == 1.23
    rows = {row.intervention: row.delta_bpb for row in reading.interventions}
    assert rows["ema"] == -0.002
    assert rows["xsa"] is None


def test_time_grows_with_the_number_of_records_and_no_faster(place):
    folders = [place(name=f"2026-02-{i:03}", README__md=(EFFECTS, COMPARED, PROSE)[i % 3]) for i in range(120)]
    read_record(folders[0])

    def cost(some):
        begin = time.process_time()
        for folder in some:
            read_record(folder)
        return time.process_time() - begin

    few, many = cost(folders[:30]), cost(folders)
    assert many < 12 * few + 0.05

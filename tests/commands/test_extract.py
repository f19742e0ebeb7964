"""`ledger extract`, `ledger matrix` and what `ledger status` says of records: once, changed, again, failed."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import pytest

README = """\
# XSA on the last 4 layers

**val_bpb: 1.1234** (3-seed mean)

Built on PR #198 (1.1301).

## Changes from PR #198

| Change | Impact |
|---|---|
| XSA on the last 4 layers | -0.0040 BPB |
| EMA decay 0.997 | -0.0027 BPB |
"""
ROOT = """\
# Golf

## Leaderboard

| Run | Score | Author | Summary | Date | Info |
|-----|------:|--------|---------|------|------|
| XSA4 | 1.1234 | ann | On PR #287: on the #198 stack | 2026-03-20 | [info](records/track_a/2026-03-20_XSA4) |
"""


@pytest.fixture
def golf(home):
    """A small clone of a leaderboard beside the ledger."""
    record(home, "2026-03-20_XSA4", README, {"val_bpb": 1.1234, "author": "ann", "date": "2026-03-20"})
    record(home, "2026-03-18_Base", "# Base\n\nval_bpb: 1.1301\n", {"val_bpb": 1.1301, "author": "bob"})
    (home.folder / "golf" / "README.md").write_text(ROOT)
    return home


def record(place, name, readme, submission=None, track="track_a"):
    folder = place.folder / "golf" / "records" / track / name
    folder.mkdir(parents=True, exist_ok=True)
    if readme is not None:
        (folder / "README.md").write_text(readme)
    if submission is not None:
        (folder / "submission.json").write_text(json.dumps(submission))
    return folder


def extract(place, *options):
    done = place.call("--json", "extract", "golf", *options)
    return done.code, done.json


def kinds(place):
    return [event["type"] for event in place.events()]


def test_every_record_becomes_one_event_and_again_nothing(golf):
    code, told = extract(golf)
    assert (code, told["new"], told["failed"]) == (0, 2, [])
    assert kinds(golf).count("record.extracted") == 2
    streams = {event["stream"] for event in golf.events() if event["type"] == "record.extracted"}
    assert streams == {"record/track_a:2026-03-18_Base", "record/track_a:2026-03-20_XSA4"}
    size = golf.size()
    code, told = extract(golf)
    assert (code, told["new"], told["same"]) == (0, 0, 2)
    assert golf.size() == size


def test_a_clone_a_records_folder_and_one_record_give_the_same_reading(golf):
    extract(golf)
    size = golf.size()
    for path in ("golf/records", "golf/records/track_a", "golf/records/track_a/2026-03-20_XSA4"):
        assert golf.call("extract", path).code == 0
    assert golf.size() == size


def test_a_changed_readme_is_a_new_reading_and_the_old_one_stays_in_the_past(golf):
    extract(golf)
    then = golf.size()
    record(golf, "2026-03-20_XSA4", README.replace("1.1234", "1.1200"), {"author": "ann"})
    _, told = extract(golf)
    assert (told["changed"], told["same"]) == (1, 1)
    query = "SELECT count(DISTINCT source_digest) AS n FROM record_readings WHERE record LIKE '%XSA4'"
    assert golf.sql(query) == [{"n": 2}]
    assert golf.sql(query, "--as-of", str(then)) == [{"n": 1}]
    record(golf, "2026-03-20_XSA4", README, {"val_bpb": 1.1234, "author": "ann", "date": "2026-03-20"})
    assert extract(golf)[1]["changed"] == 1  # back to what it was before is a change too


def test_a_better_parser_reads_again_only_when_asked(golf, monkeypatch):
    extract(golf)
    size = golf.size()
    assert extract(golf, "--reread")[1]["same"] == 2
    monkeypatch.setattr("runners.extraction.record.PARSER", "rules/next")
    assert extract(golf)[1]["older"] == 2
    assert golf.size() == size
    assert extract(golf, "--reread")[1]["reread"] == 2
    found = golf.sql("SELECT parser, newest FROM record_readings WHERE record LIKE '%Base' ORDER BY position")
    assert [row["newest"] for row in found] == [False, True]
    assert found[1]["parser"] == "rules/next"
    assert extract(golf)[1]["same"] == 2


def test_a_retracted_reading_comes_back_only_when_read_again(golf):
    extract(golf)
    event = next(e for e in golf.events() if e["type"] == "record.extracted")
    assert golf.call("retract", event["event_id"], "--reason", "wrong").code == 0
    assert extract(golf)[1]["same"] == 2
    assert golf.sql("SELECT count(*) AS n FROM records") == [{"n": 1}]
    assert extract(golf, "--reread")[1]["reread"] == 1
    assert golf.sql("SELECT count(*) AS n FROM records") == [{"n": 2}]


def test_a_bad_record_is_one_line_and_the_others_are_read(golf):
    (record(golf, "2026-03-21_Bare", None) / "README.md").write_bytes(b"\xff\xfe\x00 no text")
    done = golf.call("extract", "golf")
    assert done.code == 1
    (line,) = [line for line in done.err.splitlines() if "2026-03-21_Bare" in line]
    assert line.startswith("records/track_a/2026-03-21_Bare/README.md: not UTF-8")
    assert kinds(golf).count("record.extracted") == 2
    size = golf.size()
    assert golf.call("extract", "golf").code == 1
    assert golf.size() == size, "the same failure of the same bytes is told once"
    status = golf.call("--json", "status").json
    assert (status["records"], status["records_failed"]) == (2, 1)
    assert "2 records read, 1 could not be read" in golf.call("status").out
    record(golf, "2026-03-21_Bare", "# Now\n")
    assert extract(golf)[0] == 0
    assert golf.call("--json", "status").json["records_failed"] == 0


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("[1, 2]", "XSA4/submission.json: a JSON object expected, found list"),
        ('{"val_bpb": NaN}', "XSA4: val_bpb is nan (submission.json:1): not a finite number"),
    ],
)
def test_a_source_that_cannot_be_used_costs_only_itself_and_is_told(golf, text, line):
    submission = golf.folder / "golf/records/track_a/2026-03-20_XSA4/submission.json"
    submission.write_text(text)
    for _ in range(2):  # as long as it is so
        done = golf.call("extract", "golf")
        assert done.code == 1
        assert [each for each in done.err.splitlines() if each.endswith(line)]
        assert "1 read only in part" in done.out
    assert golf.sql("SELECT val_bpb FROM records WHERE record LIKE '%XSA4'") == [{"val_bpb": 1.1234}]
    assert "2 records read (1 only in part)" in golf.call("status").out
    submission.write_text('{"val_bpb": 1.1234}')
    assert extract(golf)[0] == 0
    assert golf.call("--json", "status").json["records_in_part"] == 0


def test_a_link_out_of_the_tree_is_named_and_not_read(golf):
    (golf.folder / "secret.md").write_text("# Secret\n\nval_bpb: 1.0\n")
    (record(golf, "2026-03-21_Link", None) / "README.md").symlink_to(golf.folder / "secret.md")
    done = golf.call("--json", "extract", "golf")
    assert done.code == 1
    assert "2026-03-21_Link" in done.json["failed"][0]["path"]
    (event,) = [e for e in golf.events() if e["type"] == "extraction.failed"]
    assert event["data"]["source_digest"] is None


def test_a_text_that_the_rules_did_not_foresee_costs_only_itself(golf, monkeypatch):
    from runners.extraction import record as module

    read = module.read_record

    def broken(folder, **options):
        if folder.name.endswith("Base"):
            raise IndexError("list index out of range")
        return read(folder, **options)

    monkeypatch.setattr(module, "read_record", broken)
    code, told = extract(golf)
    assert code == 1
    assert told["new"] == 1
    assert "IndexError" in told["failed"][0]["reason"]


@pytest.mark.parametrize("content", [{}, {"notes.md": "x"}, {"sub/deep/notes.txt": "x"}])
def test_a_scan_with_nothing_to_read_says_so(home, content):
    (home.folder / "empty").mkdir()
    for name, text in content.items():
        path = home.folder / "empty" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    done = home.call("extract", "empty")
    assert done.code == 2
    assert "there is nothing to read in empty" in done.complaint


def test_what_is_no_folder_is_refused(home):
    home.write("file.md", "x")
    assert "is not a folder" in home.call("extract", "file.md").complaint
    assert "is not a folder" in home.call("extract", "nowhere").complaint
    assert home.call("extract").code == 2


def test_names_that_no_stream_may_have_get_a_digest(golf):
    record(golf, "2026 März: ü", "# Odd\n")
    assert extract(golf)[0] == 0
    (stream,) = [e["stream"] for e in golf.events() if "2026-M" in e["stream"] or "M-rz" in e["stream"]]
    assert stream.isascii()
    assert extract(golf)[1]["same"] == 3


def test_the_repository_is_what_it_was_told_or_what_git_knows(golf):
    import subprocess

    extract(golf, "--repository", "me/golf")
    assert {row["repository"] for row in golf.sql("SELECT repository FROM records")} == {"me/golf"}
    git = ["git", "-C", str(golf.folder / "golf")]
    subprocess.run([*git, "init", "-q"], check=True)
    subprocess.run([*git, "remote", "add", "origin", "https://user:pw@github.com/o/golf.git"], check=True)
    assert extract(golf, "--reread")[1]["reread"] == 2
    assert {row["repository"] for row in golf.sql("SELECT repository FROM records")} == {"o/golf"}


def test_unknown_techniques_are_listed_with_their_places(golf):
    record(golf, "2026-03-22_Odd", README.replace("EMA decay 0.997", "Frobnication of the gates"))
    extract(golf)
    done = golf.call("extract", "--unknown")
    assert done.code == 0
    assert "techniques are not in the vocabulary" in done.out
    for row in golf.call("--json", "extract", "--unknown").rows:
        assert row["evidence"]


def test_the_matrix_shows_records_and_own_arms(golf):
    extract(golf)
    assert golf.run("--arm", "EFFECT=-0.02", "--name", "own", seeds="0").code == 0
    done = golf.call("matrix")
    assert done.code == 0
    assert "effect" in done.out
    rows = golf.call("--json", "matrix", "--source", "experiment").rows
    assert [(row["name"], row["effect"]) for row in rows] == [("own: EFFECT=-0.02", "-0.02"), ("own: baseline", 0)]


def test_the_matrix_of_nothing_says_how_to_begin(home):
    done = home.call("matrix")
    assert (done.code, done.out) == (0, "")
    assert "ledger extract" in done.err


# ── another program's rows ──


def assisted(place, rows, *options):
    place.write("helper.py", f"import sys; sys.stdin.read(); print({rows!r})")
    return place.call("extract", "golf", "--assist", f"{sys.executable} -I -S helper.py", *options)


def test_a_proposed_row_is_kept_if_the_text_has_it_and_is_marked(golf):
    extract(golf)
    place = "README.md:3"
    good = {"label": "mean of frobs", "evidence": place, "after": "1.1234"}
    rows = [
        good,
        {"label": "mean of others", "evidence": place, "delta_bpb": -0.5},  # no such figure there
        {"label": "mean", "evidence": "README.md:999"},
        {"label": "mean", "evidence": "train.py:1"},
        {"label": "mean", "evidence": place, "colour": "blue"},
    ]
    done = assisted(golf, "\n".join(map(json.dumps, rows)) + "\nnot json")
    assert done.code == 0, done.err
    found = golf.sql("SELECT record, label, after, assisted, evidence FROM interventions WHERE assisted IS NOT NULL")
    assert [(row["record"], row["label"], row["evidence"]) for row in found] == [
        ("track_a/2026-03-20_XSA4", "mean of frobs", place)
    ]
    assert found[0]["assisted"].startswith("helper.py ")
    assert len(found[0]["assisted"].split()[1]) == 64
    assert "5 rows that the text does not hold" in done.err
    size = golf.size()
    assert assisted(golf, "\n".join(map(json.dumps, rows)) + "\nnot json").code == 0
    assert golf.size() == size, "the same program on the same bytes is not asked again"
    assert golf.call("extract", "golf").code == 0
    assert golf.size() == size


def test_a_program_that_does_not_exist_is_refused(golf):
    assert "there is no program" in golf.call("extract", "golf", "--assist", "no-such-program").complaint


def test_a_program_that_fails_costs_nothing_and_is_asked_again(golf):
    rows = [{"label": "mean of frobs", "evidence": "README.md:3"}]
    assert extract(golf)[0] == 0
    size = golf.size()
    done = golf.call("extract", "golf", "--assist", f"{sys.executable} -c 'exit(3)'")
    assert "it ended with 3" in done.err
    assert golf.size() == size
    assisted(golf, "\n".join(map(json.dumps, rows)))
    held = golf.sql("SELECT count(*) AS n FROM interventions WHERE assisted IS NOT NULL")
    size = golf.size()
    golf.call("extract", "golf", "--assist", f"{sys.executable} -c 'exit(3)'")
    assert golf.size() == size
    assert golf.sql("SELECT count(*) AS n FROM interventions WHERE assisted IS NOT NULL") == held != [{"n": 0}]


# ── the real leaderboard ──

ROOT_FOLDER = Path(__file__).resolve().parents[2]
REAL = ROOT_FOLDER.parent / "shared" / "data" / "parameter-golf"


@pytest.mark.skipif(not REAL.is_dir(), reason="the leaderboard's records are not here")
def test_the_real_leaderboard_is_read_and_the_readme_shows_what_comes_out(home):
    (home.folder / "parameter-golf").symlink_to(REAL)
    readme = (ROOT_FOLDER / "README.md").read_text("utf-8")
    section = readme[readme.index("## Reading a leaderboard") :]
    (said, table) = re.findall(r"^```text\n(.*?)\n```", section, re.M | re.S)[:2]
    query = re.search(r'^\$ ledger sql "(.*?)"$', section, re.M | re.S)[1].replace("\\\n", " ")
    assert home.call("extract", "parameter-golf").out.rstrip() == said
    size = home.size()
    assert home.call("extract", "parameter-golf").code == 0
    assert home.size() == size
    shown = home.call("sql", query).out.splitlines()
    assert [line.rstrip() for line in shown] == table.splitlines()
    assert home.sql("SELECT record FROM records WHERE split_part(record, '/', 1) <> track") == []
    later = """SELECT child.record FROM lineage
        INNER JOIN records AS child ON child.record = lineage.record
        INNER JOIN records AS parent ON parent.record = lineage.parent
        WHERE lineage.how = 'inferred' AND left(parent.date, 10) > left(child.date, 10)"""
    assert home.sql(later) == []
    assert home.call("verify").code == 0

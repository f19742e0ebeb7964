"""Small words: one of a thing is told in the singular, and what was mistyped is told with what was meant."""

from __future__ import annotations

import sys

import pytest

from commands.common import count


@pytest.mark.parametrize(
    ("said", "told"),
    [((1, "arm"), "1 arm"), ((0, "arm"), "0 arms"), ((2, "hypothesis", "hypotheses"), "2 hypotheses")],
)
def test_a_number_of_things_is_told_as_one_says_it(said, told):
    assert count(*said) == told


def test_one_of_everything_is_told_in_the_singular(home):
    home.run("--name", "one", seeds="0")
    log = home.call("log").out
    assert "1 arm x 1 seed on val_bpb" in log
    assert ", 1 chunk, " in home.call("verify").out
    page = (home.folder / home.call("--json", "report", "one").json["report"]).read_text()
    assert "- 1 arm, 1 seed each" in page
    assert "(with 1 plot beside it)" in home.call("report", "one").out


def test_an_amendment_is_told_once(study):
    arms = [word for value in ("-0.02", "0.02", "0.00001") for word in ("--arm", f"EFFECT={value}")]
    study.run("--name", "study", *arms, seeds="0-3")
    page = (study.folder / study.call("--json", "report", "study").json["report"]).read_text()
    assert ", amended 1 time since" in page


def test_the_report_has_the_verdicts_in_the_words_of_the_terminal(study):
    shown = study.call("decide", "study").out
    page = (study.folder / study.call("--json", "report", "study").json["report"]).read_text()
    assert "worse by over 0.002" in shown
    assert "| worse by over 0.002 |" in page
    assert "| better by over 0.002 |" in page


@pytest.mark.parametrize(
    ("arguments", "meant"),
    [
        (["import", "autoreserch", "foo"], "did you mean autoresearch?"),
        (["export", "parkett", "runs"], "did you mean parquet?"),
        (["verify", "--level", "tre"], "did you mean tree?"),
    ],
)
def test_a_word_that_may_not_stand_there_is_answered_with_the_one_that_was_meant(home, arguments, meant):
    done = home.call(*arguments)
    assert done.code == 2
    assert meant in done.complaint


def test_a_word_that_is_like_none_gets_the_list(home):
    assert home.call("import", "X", "foo").complaint.endswith("'autoresearch', 'modded-nanogpt'")


def test_reproduce_without_a_run_says_where_their_ids_are(home):
    done = home.call("reproduce")
    assert done.code == 2
    assert "`ledger log` shows them" in done.complaint
    assert "SELECT run, arm, seed FROM runs" in done.complaint


def test_a_head_of_no_form_is_refused_before_anything_is_read(home, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    done = home.call("verify", "--expect-head", "40:abcd")
    assert done.code == 2
    assert "checking" not in done.complaint
    assert "40:abcd" in done.complaint

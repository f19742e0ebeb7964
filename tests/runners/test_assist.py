"""An outside program's rows: what is believed, and that it can neither hang nor flood."""

import json
import sys
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runners import assist
from runners.assist import Proposed, holds

TEXTS = {"README.md": "# Title\nXSA on the last 4 layers gave −0.0040 BPB, 1,024 buckets\n"}


@pytest.mark.parametrize(
    ("row", "kept"),
    [
        (Proposed("XSA", "README.md:2"), True),
        (Proposed("XSA", "README.md:2", level="last 4", delta_bpb=-0.004), True),
        (Proposed("buckets", "README.md:2", after="1024"), True),
        (Proposed("XSA", "README.md:2", delta_bpb=-0.005), False),
        (Proposed("XSA", "README.md:2", level="last 5"), False),
        (Proposed("EMA", "README.md:2"), False),
        (Proposed("XSA", "README.md:1"), False),
        (Proposed("XSA", "README.md:0"), False),
        (Proposed("XSA", "README.md:-1"), False),
        (Proposed("XSA", "README.md"), False),
        (Proposed("XSA", "other.md:2"), False),
        (Proposed("", "README.md:2"), False),
    ],
)
def test_a_row_is_kept_only_if_its_line_holds_its_figures_and_a_word_of_its_label(row, kept):
    assert holds(row, TEXTS) is kept


@given(st.text(), st.text(), st.floats(allow_nan=True))
def test_no_text_makes_the_check_fail(label, evidence, delta):
    holds(Proposed(label, evidence, delta_bpb=delta, level=label), TEXTS)
    holds(Proposed(label, "README.md:2", delta_bpb=delta, after=evidence), TEXTS)


def ask(tmp_path, code, timeout=20.0):
    path = tmp_path / "program.py"
    path.write_text(code)
    return assist.ask(assist.program([sys.executable, "-I", "-S", str(path)]), "track/A", TEXTS, timeout)


def test_it_gets_the_text_and_the_schema_and_its_rows_come_back(tmp_path):
    code = """
import json, sys
asked = json.load(sys.stdin)
assert asked["record"] == "track/A" and "label" in json.dumps(asked["schema"])
number = next(n for n, line in enumerate(asked["text"]["README.md"], 1) if "XSA" in line)
print(json.dumps({"label": "XSA", "evidence": f"README.md:{number}", "delta_bpb": -0.004}))
"""
    answer = ask(tmp_path, code)
    assert (answer.trouble, answer.dropped) == ("", 0)
    assert answer.rows == (Proposed("XSA", "README.md:2", delta_bpb=-0.004),)


def test_one_that_hangs_is_stopped_with_its_children(tmp_path):
    code = """
import subprocess, sys, time
subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
time.sleep(60)
"""
    began = time.monotonic()
    answer = ask(tmp_path, code, timeout=0.5)
    assert time.monotonic() - began < 10
    assert "longer than 0.5 s" in answer.trouble


def test_one_that_floods_is_stopped_and_its_first_rows_count(tmp_path):
    row = json.dumps({"label": "XSA", "evidence": "README.md:2"})
    answer = ask(tmp_path, f"while True: print('''{row}''')")
    assert "more than" in answer.trouble
    assert len(answer.rows) == assist.MAX_ROWS


@pytest.mark.parametrize(("code", "trouble"), [("raise SystemExit(3)", "it ended with 3"), ("", "")])
def test_one_that_does_not_read_or_fails_costs_only_its_rows(tmp_path, code, trouble):
    answer = ask(tmp_path, code)
    assert (answer.rows, answer.trouble) == ((), trouble)


def test_another_program_text_is_another_mark(tmp_path):
    (tmp_path / "a.py").write_text("1")
    before = assist.program([sys.executable, str(tmp_path / "a.py")]).mark
    assert before == assist.program([sys.executable, str(tmp_path / "a.py")]).mark
    (tmp_path / "a.py").write_text("2")
    assert before != assist.program([sys.executable, str(tmp_path / "a.py")]).mark

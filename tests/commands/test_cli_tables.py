"""A table is drawn where it fits, with cells that wrap where that will do, and as blocks where nothing would."""

from __future__ import annotations

import re
import sys

import pytest

from commands import common
from commands import next as next_


def row(rank, candidate, action, gain=0.004):
    """A row of next_interventions, as far as it is drawn."""
    figures = {"k": 1, "cost": 2.0, "m": -0.0018, "sd": 0.0067, "gain": gain, "score": gain / 2, "seed_rule_rank": 20}
    return {"rank": rank, "candidate": candidate, "action": action, **figures}


@pytest.fixture
def terminal(monkeypatch, capsys):
    """Draws a table on a terminal of so many columns; its lines."""

    def draw(lines, columns, numeric=frozenset()):
        monkeypatch.setenv("COLUMNS", str(columns))
        monkeypatch.setenv("TERM", "xterm")
        monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
        common.table(lines, numeric)
        return [line.rstrip() for line in re.sub(r"\x1b\[\d+m", "", capsys.readouterr().out).splitlines()]

    return draw


def test_the_ranking_of_next_is_a_table_on_80_columns(terminal, monkeypatch):
    drawn = []
    monkeypatch.setattr(next_, "table", lambda lines, numeric: drawn.extend(terminal(lines, 80, numeric)))
    next_._print([row(1, "grouped-small-params", "add_seeds"), row(12, "fused-mlp", "transfer_check", gain=0.0004)])
    head, rule, first, second = drawn
    assert head.split() == ["candidate", "action", "k", "cost", "effect", "±", "gain", "score", "seed"]
    assert set(rule) == {"─"}
    assert " ".join(first.split()) == "1 grouped-small-p… more seeds 1 2 -0.0018 0.0067 0.004 0.002 20"
    assert " ".join(second.split()) == "12 fused-mlp transfer 1 2 -0.0018 0.0067 0.0004 0.0002 20"


@pytest.mark.parametrize("cells", [(3,), (1, 2), (10, 10, 10), (7, 1, 12, 4, 9)])
def test_a_table_is_as_wide_as_it_is_counted(terminal, cells):
    lines = [["x" * n for n in cells]] * 3
    columns = common.wide(cells)
    assert max(map(len, terminal(lines, columns))) == columns
    assert terminal(lines, columns)[0] == "  ".join(lines[0])


def test_one_column_less_than_cells_of_twelve_need_is_blocks(terminal):
    lines = [["a" * 12] * 5, ["b" * 12] * 5]
    assert common.wide([12] * 5) == 68
    assert terminal(lines, 68)[0] == "  ".join(lines[0])
    assert terminal(lines, 67) == [f"{'a' * 12}  {'b' * 12}"] * 5


def test_into_a_pipe_no_cell_is_cut(capsys):
    lines = [["name", "text"], ["n" * 70, "t" * 70]]
    common.table(lines)
    assert f"{'n' * 70}  {'t' * 70}" in capsys.readouterr().out

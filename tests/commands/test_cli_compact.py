"""`ledger compact`: few files instead of many, and every answer stays the same."""

from __future__ import annotations

from pathlib import Path

import pytest

from commands import compact
from ledger import compaction, pack
from ledger.chain import Log


@pytest.fixture
def study(study):
    """The finished study, with this test's signing key announced: that is an event too."""
    assert study.call("checkpoint").code == 0
    return study


def loose(place) -> int:
    """How many segments lie in log/."""
    return len([base for base, _ in Log.listed_in(str(place.folder / "warehouse")) if base >= 0])


def packs(place) -> list[tuple[int, int]]:
    return [found[:2] for found in pack.listed(str(place.folder / "warehouse"))]


def test_it_says_what_it_packed_removed_and_kept(study):
    size, before = study.size(), loose(study)
    done = study.call("compact")
    assert (done.code, done.err) == (0, "")
    assert done.out.splitlines() == [
        f"packed events 0 to {size - 1}",
        f"kept {before} files: packed less than 1 h ago",
    ]
    done = study.call("compact", "--grace", "0")
    assert done.out.startswith(f"removed {before} segments: ")
    assert (packs(study), loose(study)) == ([(0, size)], 0)
    assert study.call("compact").out == "nothing to pack, nothing to remove\n"


def test_no_answer_changes(study):
    questions = [
        ("log",),
        ("--json", "rebuild"),
        ("--json", "rebuild", "--as-of", "20"),
        ("sql", "SELECT * FROM effects"),
        ("replay", "--all"),
        ("show", "7"),
    ]
    before = [study.call(*words) for words in questions]
    assert study.call("compact", "--grace", "0").code == 0
    assert [study.call(*words) for words in questions] == before
    assert study.call("verify").code == 0
    assert study.call("decide").code == 0


def test_it_speaks_json(study):
    size, before = study.size(), loose(study)
    done = study.call("--json", "compact", "--grace", "0").json
    assert done["packed"] == [{"start": 0, "stop": size}]
    assert (done["removed_segments"], done["removed_packs"], done["kept"]) == (before, 0, [])
    assert done["freed"] > 0


def test_without_a_key_it_packs_and_says_why_it_removes_nothing(study, monkeypatch):
    monkeypatch.setenv("LEDGER_CONFIG", "/dev/null/nowhere")
    done = study.call("compact", "--grace", "0")
    assert done.code == 0
    assert done.out.splitlines()[0].startswith("packed events 0 to ")
    assert "no signed head: cannot keep a signing key" in done.out


def test_an_empty_ledger_has_nothing_to_pack(home):
    assert home.call("compact").out == "nothing to pack, nothing to remove\n"


def test_a_negative_grace_is_a_usage_error(home):
    assert "--grace" in home.call("compact", "--grace", "-1").err


def test_it_runs_by_itself_when_a_command_that_wrote_ends(home, monkeypatch):
    monkeypatch.setattr(compact, "LOOSE_FILES", 4)
    done = home.run()
    assert done.code == 0
    assert "compact" not in done.err
    assert packs(home) == [(0, home.size())]


def test_it_leaves_few_files_alone_and_runs_for_many_bytes(home, monkeypatch):
    assert home.run().code == 0
    assert packs(home) == []
    monkeypatch.setattr(compact, "LOOSE_BYTES", 1000)
    assert home.call("retract", "1", "--reason", "a slip").code == 0
    assert len(packs(home)) == 1


def test_what_it_does_by_the_way_is_bounded(home, monkeypatch):
    monkeypatch.setattr(compact, "LOOSE_FILES", 2)
    monkeypatch.setattr(compact, "AT_ONCE", 3)
    assert home.run().code == 0
    ((start, stop),) = packs(home)
    assert (start, stop <= 6) == (0, True)
    assert loose(home) > 4


def test_a_failure_by_the_way_is_one_warning_and_no_failed_command(home, monkeypatch):
    monkeypatch.setattr(compact, "LOOSE_FILES", 0)

    def broken(*_: object, **__: object) -> None:
        raise MemoryError("no memory")

    monkeypatch.setattr(compaction, "compact", broken)
    done = home.run()
    assert done.code == 0
    assert done.err.count("the log was not compacted: no memory") == 1


def test_status_counts_the_bytes_of_packs(study):
    assert study.call("compact", "--grace", "0").code == 0
    held = sum(path.stat().st_size for name in ("log", "pack") for path in Path("warehouse", name).rglob("*.parquet"))
    assert study.call("--json", "status").json["log_bytes"] == held

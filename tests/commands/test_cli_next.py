"""`ledger next`, screens on the command line, `ledger cycle` with a program: what they print, write and refuse."""

from __future__ import annotations

import json
import sys

import pytest

from runners.plan import parse

PYTHON = (sys.executable, "-I", "-S")  # a child that imports nothing starts in 20 ms
ARMS = ("EFFECT=-0.001", "EFFECT=0.0005", "EFFECT=-0.02")
SCREEN = f"""\
kind = "screen"
name = "many"
delta = 0.01
seeds = "0-1"
[script]
command = {json.dumps([*PYTHON, "sum.py"])}
[[factor]]
name = "a"
env = {{ A = "-0.03" }}
[[factor]]
name = "b"
env = {{ B = "0.02" }}
[[factor]]
name = "c"
env = {{ C = "0.0001" }}
"""
SUM = """\
import os
total = 1.2 + sum(float(os.environ.get(name, "0")) for name in "ABC")
x = 12345
for key in (int(os.environ["SEED"]) + 1, round(total * 1e7)) * 3:
    x = (x * 1103515245 + key * 2654435761 + 12345) % 2**31
    x ^= x >> 13
print(f"val_bpb:{total + 0.0005 * (x / 2**30 - 1):.8f}")
"""
CYCLE = f"""\
name = "try"
delta = 0.01
seeds = 2
batch = 2
[script]
command = {json.dumps([*PYTHON, "sum.py"])}
[control]
name = "base"
[[candidate]]
name = "a"
env = {{ A = "-0.03" }}
cost = 1
[[candidate]]
name = "b"
env = {{ B = "0.02" }}
cost = 1
[[candidate]]
name = "c"
env = {{ C = "0.0001" }}
cost = 4
[stop]
cycles = 3
"""


def plan_in(place, name):
    return parse((place.folder / name).read_text(), name)


# ── next ──


def test_an_empty_ledger_says_what_there_should_be_first(place):
    place.call("init")
    done = place.call("next")
    assert (done.code, done.out) == (0, "nothing to run next\n")
    assert "`ledger run PLAN.toml` or `ledger extract DIR` first" in done.err
    assert place.call("next", "--write", "p.toml").code == 2
    assert not (place.folder / "p.toml").exists()


@pytest.fixture
def ran(place):
    """A ledger with three arms, one of them decided."""
    options = [part for arm in ARMS for part in ("--arm", arm)]
    assert place.run(*options, "--delta", "0.0006", "--name", "first", seeds="0-1").code == 0
    return place


def test_the_ranking_fits_on_80_columns_and_gives_its_first_reason(ran):
    done = ran.call("next", "--blocked")
    assert done.code == 0
    assert max(map(len, done.out.splitlines())) <= 80
    rows = ran.call("--json", "next").rows
    assert rows[0]["rank"] == 1
    assert " ".join(done.out.split()).find(" ".join(rows[0]["reason"].split())) > 0
    assert len(ran.call("--json", "next", "--top", "1").rows) == 1


def test_the_plan_that_is_written_runs_with_fresh_seeds_and_is_never_written_over(ran):
    first = ran.call("--json", "next", "--write", "more.toml")
    assert first.code == 0
    row = first.rows[0]
    plan = plan_in(ran, "more.toml")
    assert min(plan.seeds) == 2
    assert len(plan.seeds) == max(2, row["k"])
    if row["action"] == "add_seeds":
        assert [arm.name for arm in plan.arm] == ["baseline", row["candidate"]]
    text = (ran.folder / "more.toml").read_text()
    again = ran.call("next", "--write", "more.toml")
    assert again.code == 2
    assert "more.toml is there already" in again.err
    assert (ran.folder / "more.toml").read_text() == text
    done = ran.call("run", "more.toml")
    assert done.code == 0, done.err
    assert ran.sql("SELECT count(*) AS n FROM experiments")[0]["n"] == 2


def test_a_price_a_time_before_and_what_next_cannot_do(ran):
    done = ran.call("next", "--price", "1")
    assert done.out == "nothing to run next\n"
    assert "score below the price" in done.err
    assert ran.call("--json", "next", "--as-of", "0").out == ""
    for options, why in (
        (("--price", "nan"), "--price must be a number"),
        (("--write", "p.txt"), "ends in .toml"),
        (("--write", "nowhere/p.toml"), "cannot write nowhere/p.toml"),
        (("--top", "0"), "--top"),
        (("--as-of", "999"), "999"),
    ):
        done = ran.call("next", *options)
        assert done.code == 2
        assert why in done.complaint


def test_a_plan_for_a_technique_without_a_setting_says_what_to_fill_in():
    from runners.proposals import technique

    made = technique(
        ["xsa", "depth-recurrence"], lambda settings: "loops" not in settings, "x-next", (0, 1), 0.002, "A reason."
    )
    plan = parse(made.text, "p")
    assert "depth-recurrence" in made.fill_in
    assert [arm.env for arm in plan.arm] == [
        {"XSA": "0", "DEPTH_RECURRENCE": "0"},
        {"XSA": "1", "DEPTH_RECURRENCE": "0"},
        {"XSA": "0", "DEPTH_RECURRENCE": "1"},
    ]
    ready = technique(["gelu"], lambda settings: True, "gelu-next", (0, 1), 0.002, "A reason.")
    assert ready.fill_in == ""
    assert [arm.set for arm in parse(ready.text, "p").arm] == [{}, {"activation": "gelu"}]


def test_many_techniques_are_settings_of_the_built_in_trainer():
    from commands.next import _accepts
    from runners.proposals import TRAINER

    assert len([name for name, both in TRAINER.items() if all(map(_accepts, both))]) >= 10
    assert not _accepts({"softcpa": 15.0})


# ── screens ──


def test_a_screen_runs_and_tells_average_effects_as_suggestions(place):
    place.write("sum.py", SUM)
    place.write("many.toml", SCREEN)
    done = place.call("run", "many.toml")
    assert done.code == 0, done.err
    assert "average effects of 3 factors over 8 stacks" in done.out
    rows = place.sql("SELECT factor, effect, candidate FROM screen_effects ORDER BY factor")
    assert [row["candidate"] for row in rows] == [True, True, False]
    assert rows[0]["effect"] == pytest.approx(-0.03, abs=0.001)
    assert rows[1]["effect"] == pytest.approx(0.02, abs=0.001)
    assert place.sql("SELECT count(*) AS n FROM paired_differences")[0]["n"] == 0
    size = place.size()
    decided = place.call("decide", "many")
    assert "average effect" in decided.out
    assert "average effects suggest, one change at a time confirms" in " ".join(decided.out.split())
    assert place.size() == size  # the same was judged before
    assert "1 of 1 judgements come out exactly" in place.call("replay", "--all").out
    place.call("report", "many", "-o", "out")
    assert "not the effect of one change on the base" in (place.folder / "out" / "report.md").read_text()
    assert place.call("decide", "many", "--policy", "seed-plan").code == 2


def test_what_a_screen_suggests_is_written_as_a_plan_of_one_change_with_fresh_seeds(place):
    place.write("sum.py", SUM)
    place.write("many.toml", SCREEN.replace("-0.03", "-0.012"))
    place.call("run", "many.toml")
    rows = [row for row in place.call("--json", "next").rows if row["source"] == "screen"]
    assert {row["candidate"] for row in rows} >= {"a", "b"}
    assert "on the average of" in rows[0]["reason"]
    from commands.next import propose
    from ledger.chain import Log
    from projections.engine import tables

    built = tables(Log("warehouse"))
    plan = parse(propose(built, next(row for row in rows if row["candidate"] == "a")).text, "p")
    built.close()
    assert [(arm.name, arm.env) for arm in plan.arm] == [("base", {}), ("a", {"A": "-0.012"})]
    assert min(plan.seeds) == 2
    assert plan.track == "confirm"


def test_the_seeds_of_a_screen_confirm_nothing(place):
    place.write("sum.py", SUM)
    place.write("many.toml", SCREEN)
    place.call("run", "many.toml")
    again = SCREEN.split("[[factor]]")[0].replace('kind = "screen"\n', "").replace('"many"', '"one"')
    place.write("one.toml", again + '[[arm]]\nname = "base"\n[[arm]]\nname = "a"\nenv = { A = "-0.03" }\n')
    done = place.call("run", "one.toml")
    assert done.code == 2
    assert "cannot confirm" in done.err


def test_a_screen_that_is_registered_beforehand_says_what_it_can_see(place):
    place.write("sum.py", SUM)
    place.write("many.toml", SCREEN)
    done = place.call("plan", "many.toml", "--sd", "0.0005")
    assert done.code == 0, done.err
    assert "average effects of a, b, c" in done.out
    assert "16 now" in done.out


# ── cycles ──


def test_a_dry_run_says_what_it_would_do_and_writes_nothing(place):
    place.write("sum.py", SUM)
    place.write("try.toml", CYCLE)
    done = place.call("cycle", "try.toml", "--dry-run")
    assert done.code == 0, done.err
    assert "run try-c1: 6 runs on seeds 0-1" in done.out
    assert not (place.folder / "warehouse").exists()
    told = place.call("--json", "cycle", "try.toml", "--dry-run").json
    assert told["chosen"] == ["a", "b"]
    assert parse(told["plan"], "p").seeds == (0, 1)


def test_cycles_end_by_a_rule_with_every_step_on_record(place):
    place.write("sum.py", SUM)
    place.write("try.toml", CYCLE + "confirmed = 1\n")
    done = place.call("cycle", "try.toml")
    assert done.code == 0, done.err
    assert "1 confirmed effects, and 1 end the series" in " ".join(done.out.split())
    kinds = [
        row["type"] for row in place.events() if not row["type"].startswith(("run.", "key.", "artifact.", "metr"))
    ]
    assert kinds == [
        "cycle.planned",
        "cycle.ranked",
        "experiment.registered",
        "decision.made",
        "decision.made",
        "dag.revised",
        "cycle.ranked",
    ]
    assert place.sql("SELECT DISTINCT alpha_granted, cycle FROM alpha_ledger") == [
        {"alpha_granted": 0.025, "cycle": 1}
    ]
    (first, last) = place.sql("SELECT number, runs, stopped FROM budget ORDER BY position")
    assert (first["runs"], first["stopped"], last["stopped"]) == (6, "", "confirmed")
    assert "come out exactly" in place.call("replay", "--all").out
    size = place.size()
    again = place.call("--json", "cycle", "try.toml")
    assert again.json["stopped"] == "confirmed"
    assert place.size() == size


def test_a_series_that_has_ended_goes_on_when_it_is_planned_with_another_end(place):
    place.write("sum.py", SUM)
    place.write("try.toml", CYCLE.replace("cycles = 3", "cycles = 1"))
    assert place.call("--json", "cycle", "try.toml").json["cycles"] == 1
    place.write("try.toml", CYCLE.replace("cycles = 3", "cycles = 2"))
    told = place.call("--json", "cycle", "try.toml").json
    assert told["cycles"] == 2
    seeds = place.sql("SELECT DISTINCT seed FROM runs ORDER BY seed")
    assert [row["seed"] for row in seeds] == [0, 1, 2, 3]
    granted = place.sql("SELECT DISTINCT cycle, alpha_granted FROM alpha_ledger ORDER BY cycle")
    assert [row["alpha_granted"] for row in granted] == [0.025, pytest.approx(0.05 / 6)]


@pytest.mark.parametrize(
    ("old", "new", "why"),
    [
        ("delta = 0.01", "delta = 0.02", "registered with delta 0.01, not 0.02"),
        ("seeds = 2", "seeds = 3", "registered with seeds 2, not 3"),
        ('name = "c"', 'name = "d"', "candidate 'c', which stays in it"),
        ("cost = 4", "cost = 5", "other settings or another prior"),
    ],
)
def test_what_judges_a_series_cannot_be_changed_once_it_is_planned(place, old, new, why):
    place.write("sum.py", SUM)
    place.write("try.toml", CYCLE.replace("cycles = 3", "runs = 1"))  # it ends before its first cycle
    assert place.call("--json", "cycle", "try.toml").json["stopped"] == "runs"
    size = place.size()
    place.write("try.toml", CYCLE.replace(old, new))
    done = place.call("cycle", "try.toml")
    assert done.code == 2
    assert why in done.complaint
    assert place.size() == size


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (None, "cannot read the cycle plan try.toml"),
        (b"\xff\xfe", "not UTF-8"),
        (CYCLE.replace("batch", "bacth").encode(), "did you mean 'batch'"),
        (CYCLE.replace("seeds = 2", 'seeds = 2\nrecords = "nowhere"').encode(), "is not a folder"),
        (b'name = "x"\ndelta = 1\nseeds = "0"\n[[arm]]\nname = "a"\n', "`ledger run` runs it"),
    ],
)
def test_a_cycle_plan_that_cannot_be_used_is_one_line_and_leaves_nothing(place, text, why):
    if text is not None:
        place.write("try.toml", text)
    done = place.call("cycle", "try.toml")
    assert done.code == 2
    assert why in done.complaint
    assert not (place.folder / "warehouse").exists()


def test_a_cycle_plan_given_to_run_is_told_apart(place):
    place.write("try.toml", CYCLE)
    done = place.call("run", "try.toml")
    assert done.code == 2
    assert "`ledger cycle` carries it out" in done.complaint


def test_a_series_is_carried_on_by_one_process_at_a_time(place):
    place.write("sum.py", "import time; time.sleep(30)\n")
    place.write("try.toml", CYCLE)
    child = place.start("cycle", "try.toml")
    try:
        import time

        for _ in range(600):
            if (place.folder / "warehouse").exists() and any((place.folder / "warehouse" / "tmp").glob("exp*.lock")):
                break
            time.sleep(0.1)
        done = place.spawn("cycle", "try.toml")
        assert done.code == 4
        assert "wait for it or stop it" in done.err
    finally:
        child.kill()
        child.wait()

"""An arm whose setting the program never reads is no finding: through the command line, on scripts that run."""

from __future__ import annotations

import json
import sys

import msgspec
import pytest

from ledger import canonical, events
from ledger.chain import Log
from ledger.writer import Draft
from projections.decide import decide
from projections.engine import tables
from projections.statistics.policies import find

PYTHON = (sys.executable, "-I", "-S")
# It reads `lr`, where the plan sets `LR`; it reads GOOD, and the first argument.
TYPO = """\
import os, sys
x = 12345
seed, lr = int(os.environ["SEED"]), float(os.environ.get("lr", "0.1"))
for key in (seed + 1, round(lr * 1e6)) * 3:
    x = (x * 1103515245 + key * 2654435761 + 12345) % 2**31
    x ^= x >> 13
good = float(os.environ.get("GOOD", "0"))
print(f"val_bpb:{1.2 + good * (1 + seed / 100) + 0.001 * (x / 2**30 - 1):.8f}")
"""
SAID = "its runs are the control's, digit for digit: the program does not seem to read what the arm sets"


def run(home, *arms, seeds="0-2", more=()):
    home.write("typo.py", TYPO)
    told = [word for arm in arms for word in ("--arm", arm)]
    done = home.call("run", *told, "--seeds", seeds, *more, "--", *PYTHON, "typo.py")
    assert done.code == 0, done.err
    return done


def found(home):
    rows = home.sql("SELECT intervention, verdict, why FROM effects ORDER BY intervention")
    return {row["intervention"]: (row["verdict"], row["why"]) for row in rows}


def test_an_arm_that_sets_what_the_script_never_reads_is_invalid_with_its_name(home):
    done = run(home, "LR=9", "GOOD=-0.05")
    assert found(home)["LR=9"] == ("invalid", f"LR=9: {SAID} (LR).")
    assert found(home)["GOOD=-0.05"][0] == "better"
    assert f"{SAID} (LR)." in done.err


def test_the_same_arm_spelled_right_is_judged(home):
    run(home, "lr=9")
    assert found(home)["lr=9"][0] != "invalid"


def test_an_argument_that_is_never_read_is_named(home):
    plan = {"name": "args", "metric": "val_bpb", "delta": 0.01, "seeds": "0-1"}
    home.write("typo.py", TYPO)
    lines = [f"{key} = {json.dumps(value)}" for key, value in plan.items()]
    lines += ["[script]", f"command = {json.dumps([*PYTHON, 'typo.py'])}"]
    lines += ["[[arm]]", 'name = "base"', "[[arm]]", 'name = "more"', 'args = ["--lr", "9"]']
    home.write("args.toml", "\n".join(lines) + "\n")
    assert home.call("run", "args.toml").code == 0
    assert found(home)["more"] == ("invalid", f"more: {SAID} (--lr 9).")


def test_one_seed_alone_does_not_show_it(home):
    run(home, "LR=9", seeds="0")
    assert found(home)["LR=9"][0] == "undecided"


def test_one_digit_of_one_seed_is_enough_to_be_judged(home):
    run(home, "GOOD=0.00000001")
    assert found(home)["GOOD=0.00000001"][0] == "undecided"


@pytest.mark.parametrize(("policy", "verdict"), [("seed-plan", "invalid"), ("modded-nanogpt-track1", "undecided")])
def test_other_rules_that_compare_with_the_control_say_so_too(home, policy, verdict):
    home.write("typo.py", TYPO.replace("val_bpb", "val_loss").replace("1.2 +", "3.3 +"))
    done = home.call("run", "--arm", "LR=9", "--seeds", "0-2", "--metric", "val_loss", "--", *PYTHON, "typo.py")
    assert done.code == 0, done.err
    (row,) = home.call("--json", "decide", "--policy", policy, "--dry-run").rows
    assert row["verdict"] == verdict


def test_a_judgement_from_before_the_rule_comes_out_as_it_was_and_today_it_would_be_another(home):
    """A log of an older program: its decision names the engine judging/1."""
    run(home, "LR=9", more=("--name", "first"))
    log = Log("warehouse")
    built = tables(log)
    (plan,) = built.rows("SELECT experiment FROM experiments")
    (old,) = decide(built, plan["experiment"], find("ledger"), "judging/1")
    assert (old.engine, old.verdict) == ("judging/1", "no_effect_that_matters")
    old = msgspec.convert(msgspec.json.decode(canonical.encode(old)), events.DecisionMade)
    at = log.writer.append([Draft(f"experiment/{plan['experiment']}", old)]).position
    log.close()
    assert home.call("replay", str(at)).code == 0
    done = home.call("replay", "--all")
    assert (done.code, done.out) == (0, "2 of 2 judgements come out exactly\n")
    today = home.call("replay", str(at), "--against", "now")
    assert "this program differs on the events of then: verdict no_effect_that_matters -> invalid" in today.out

"""`ledger import`: what it says, once, and how it refuses."""

from __future__ import annotations

TSV = "commit\tval_bpb\tmemory_gb\tstatus\tdescription\na1b2c3d\t0.99\t44.0\tkeep\tbaseline\n"


def test_results_come_in_once_and_stand_outside_of_experiments(home):
    home.write("results.tsv", TSV)
    done = home.call("import", "autoresearch", "results.tsv")
    assert (done.code, done.out) == (0, "imported 1 run, 1 file\n")
    size = home.size()
    assert home.call("import", "autoresearch", ".").out == "imported nothing new; 2 were there already\n"
    assert home.size() == size
    assert "1 run outside of experiments" in home.call("status").out
    assert home.call("verify").code == 0


def test_what_could_not_be_read_is_a_line_and_the_exit_code_says_so(home):
    home.write("results.tsv", TSV + "x\tbad\t1\tkeep\ty\n")
    done = home.call("--json", "import", "autoresearch", "results.tsv")
    assert done.code == 1
    assert done.err == "results.tsv:3: val_bpb is 'bad', not a number\n"
    assert done.json["runs"] == 1
    assert done.json["failed"] == [{"path": "results.tsv:3", "reason": "val_bpb is 'bad', not a number"}]


def test_a_wrong_kind_or_place_is_refused_in_one_line(home):
    assert "autoresearch" in home.call("import", "wandb", ".").complaint
    assert "there is nothing at nowhere" in home.call("import", "autoresearch", "nowhere").complaint
    assert "holds none of" in home.call("import", "first-pipeline", ".").complaint


def test_the_default_ledger_is_made_as_for_a_run(place):
    place.write("results.tsv", TSV)
    assert place.call("import", "autoresearch", "results.tsv").code == 0
    assert (place.folder / "warehouse" / "LEDGER.json").exists()


def test_nothing_to_read_makes_no_ledger(place):
    (place.folder / "empty").mkdir()
    assert place.call("extract", "empty").code == 2
    assert place.call("import", "first-pipeline", "empty").code == 2
    assert not (place.folder / "warehouse").exists()

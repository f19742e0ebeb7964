"""What a training script pays for `import ledger`."""

import pytest

HEAVY = ("pyarrow", "duckdb", "numpy", "polars", "projections", "runners", "commands", "msgspec", "click", "rich")
LOADED = f"print(sorted(n for n in {HEAVY!r} if n in sys.modules))"


def test_importing_ledger_loads_nothing_heavy_and_none_of_the_other_packages(script):
    assert script(f"import sys, ledger\n{LOADED}").stdout == "[]\n"


@pytest.mark.parametrize("name", ["init", "open", "Log", "Run"])
def test_naming_the_api_loads_neither_arrow_nor_duckdb_nor_the_other_packages(script, name):
    loaded = script(f"import sys, ledger\nledger.{name}\n{LOADED}")
    assert loaded.stdout == "['msgspec']\n", loaded.stderr


def test_a_training_script_never_loads_the_other_packages(script, tmp_path):
    (tmp_path / "runners").mkdir()
    (tmp_path / "runners" / "__init__.py").write_text("raise SystemExit('the wrong runners')")
    text = "import sys, ledger\nwith ledger.init(metric=None) as run: run.log({'a': 1})\n"
    done = script(text + f"print([n for n in {HEAVY[4:7]!r} if n in sys.modules])", cwd=tmp_path)
    assert done.stdout == "[]\n", done.stderr

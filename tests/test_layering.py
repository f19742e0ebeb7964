"""The rules between the folders, read from the sources: who imports whom, what is pure, what SQL may say."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("ledger", "projections", "runners", "commands")
MAY_IMPORT = {
    "ledger": {"ledger"},
    "projections": {"projections", "ledger"},
    "runners": {"runners", "ledger"},
    "commands": {"commands", "ledger", "projections", "runners"},
}
ROOMS = {*PACKAGES, "data", "tests", "benchmarks", "examples", "warehouse"}
SOURCES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
QUERIES = sorted((ROOT / "projections" / "sql").glob("*.sql"))
SHIPPED = [*SOURCES, *QUERIES]


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def imported(tree: ast.AST) -> Iterator[str]:
    """Every module that is imported anywhere, also inside functions, by import_module and by __import__."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"a relative import in line {node.lineno}: write the whole name"
            yield node.module or ""
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Call) and called(node).rsplit(".", 1)[-1] in ("import_module", "__import__"):
            yield from (
                argument.value
                for argument in ast.walk(node)
                if isinstance(argument, ast.Constant) and isinstance(argument.value, str)
            )


def called(node: ast.Call) -> str:
    return ast.unparse(node.func)


def test_there_are_sources_to_look_at():
    assert len(SOURCES) > 30
    assert len(QUERIES) >= 9


@pytest.mark.parametrize("path", SOURCES, ids=name)
def test_a_package_imports_only_what_it_may(path):
    package = path.relative_to(ROOT).parts[0]
    used = {module.split(".", 1)[0] for module in imported(ast.parse(path.read_text()))}
    assert used & ROOMS <= MAY_IMPORT[package]


def test_the_log_names_no_other_package_as_a_module_to_load():
    """`ledger.open` starts the projections as a process of their own, in one place: `-m experiment_ledger`."""
    found = [
        (name(path), node.value)
        for path in SOURCES
        if name(path).startswith("ledger/")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Constant)
        and node.value in ("commands", "projections", "runners", "experiment_ledger")
    ]
    assert found == [("ledger/reading.py", "experiment_ledger")]


def test_what_a_training_script_imports_loads_nothing_heavy():
    import subprocess

    code = (
        "import sys, ledger\nledger.init, ledger.log\n"
        "print(sorted({'pyarrow', 'duckdb', 'numpy', 'polars', 'click', 'commands', 'projections', 'runners'}"
        " & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


# ── purity of the projections ──

IMPURE_MODULES = {
    "time",
    "random",
    "secrets",
    "uuid",
    "socket",
    "datetime",
    "subprocess",
    "urllib",
    "http",
    "threading",
}
IMPURE_ELSEWHERE = {"os", "fcntl", "tempfile", "shutil", "pathlib", "glob", "io"}
WRITES_DERIVED_FILES = ("engine.py", "typed.py")  # the cache of tables, and the typed files; they may
IMPURE_CALLS = re.compile(
    r"\b(datetime\.(now|utcnow|today)|date\.today|time\.\w+|perf_counter|monotonic|os\.(environ|getenv|urandom|times)"
    r"|np\.random|numpy\.random|default_rng|getpass|platform\.\w+|id|hash|input|set\(\)\.pop)\b"
)


def pure_sources() -> list[Path]:
    return [path for path in SOURCES if name(path).startswith("projections/")]


@pytest.mark.parametrize("path", pure_sources(), ids=name)
def test_a_projection_imports_no_clock_no_chance_and_no_network(path):
    used = {module.split(".", 1)[0] for module in imported(ast.parse(path.read_text()))}
    assert not used & IMPURE_MODULES
    if path.name not in WRITES_DERIVED_FILES:
        assert not used & IMPURE_ELSEWHERE


@pytest.mark.parametrize("path", pure_sources(), ids=name)
def test_a_projection_reads_no_clock_no_environment_and_nothing_that_differs_between_processes(path):
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            assert ast.unparse(node) not in ("os.environ", "os.environb"), f"line {node.lineno}"
        if isinstance(node, ast.Call):
            assert not IMPURE_CALLS.fullmatch(called(node)), f"line {node.lineno}: {called(node)}"
            if called(node) == "open" and path.name not in WRITES_DERIVED_FILES:
                pytest.fail(f"line {node.lineno} opens a file")
        if isinstance(node, (ast.For, ast.comprehension)):
            assert not isinstance(node.iter, (ast.Set, ast.SetComp)), "the order of a set differs between processes"
            if isinstance(node.iter, ast.Call):
                assert called(node.iter) not in ("set", "frozenset"), "the order of a set differs between processes"


@pytest.mark.parametrize("path", pure_sources(), ids=name)
def test_a_projection_adds_floats_with_fsum_only(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call) and called(node) in ("sum", "np.sum", "np.mean", "np.dot", "np.std", "np.var"):
            (argument,) = node.args[:1]
            counts = isinstance(argument, ast.GeneratorExp) and isinstance(argument.elt, (ast.Compare, ast.Constant))
            assert counts or _adds_integers(argument), f"line {node.lineno}: {ast.unparse(node)}"


def _adds_integers(argument: ast.expr) -> bool:
    """`sum(count > 1 for …)` and the like are exact; what else is allowed is named here."""
    return ast.unparse(argument) in (
        "(row['y_t'] is not None for row in rows)",
        "(row['pending'] for row in rows)",
        "(row['failures_t'] for row in rows)",
        "(row['failures_c'] for row in rows)",
    )


# ── SQL ──

NOT_REPEATABLE = re.compile(
    r"\b(now|current_\w+|random|setseed|uuid|gen_random_uuid|today|get_current_\w+|transaction_timestamp|version|getenv"
    r"|read_\w+|glob|any_value|arbitrary|first|last|approx_\w+|tablesample|using\s+sample|nextval)\s*\(",
    re.I,
)
OVER_FLOATS = re.compile(
    r"\b(sum|avg|mean|stddev\w*|var\w*_\w+|variance|corr|covar_\w+|regr_\w+|kurtosis\w*|skewness|entropy|product|fsum"
    r"|kahan_sum|geomean|sem)\s*\(",
    re.I,
)


def body(path: Path) -> str:
    """The query without its comments."""
    return re.sub(r"--[^\n]*", "", path.read_text())


@pytest.mark.parametrize("path", QUERIES, ids=name)
def test_a_query_says_nothing_that_differs_from_one_day_or_machine_to_the_next(path):
    found = NOT_REPEATABLE.search(body(path))
    assert found is None, found and found[0]
    assert not re.search(r"\b(current_date|current_time|current_timestamp|localtime\w*)\b", body(path), re.I)


@pytest.mark.parametrize("path", QUERIES, ids=name)
def test_a_query_adds_no_floats_because_threads_would_add_them_in_any_order(path):
    found = OVER_FLOATS.search(body(path))
    assert found is None, found and found[0]


@pytest.mark.parametrize("path", QUERIES, ids=name)
def test_a_query_collects_only_in_an_order_that_it_names(path):
    for call in re.finditer(r"\b(list|array_agg|string_agg|group_concat|arg_min|arg_max)\s*\(", body(path), re.I):
        inside = body(path)[call.end() : body(path).find(")", call.end())]
        assert "ORDER BY" in inside, f"{call[0]}{inside}) has no ORDER BY"


@pytest.mark.parametrize("path", QUERIES, ids=name)
def test_a_query_ends_in_a_total_order_by_its_key(path):
    text = body(path).rstrip().rstrip(";")
    last = text.rsplit("ORDER BY", 1)
    assert len(last) == 2, "it has no ORDER BY"
    assert ")" not in last[1], "its last ORDER BY is inside of something"
    key = re.search(r"^-- key: (.+)$", path.read_text(), re.M)
    assert key is not None
    columns = [column.split(".")[-1].strip() for column in last[1].split(",")]
    wanted = {"intervention": {"intervention", "arm"}, "position": {"position"}}
    for want, have in zip(key[1].split(","), columns, strict=True):
        assert have in wanted.get(want.strip(), {want.strip()})


# ── all sources ──


@pytest.mark.parametrize("path", SOURCES, ids=name)
def test_a_source_begins_with_what_it_is_for(path):
    tree = ast.parse(path.read_text())
    if path.name in ("__init__.py", "__main__.py") and len(tree.body) <= 2:
        return
    assert ast.get_docstring(tree)


MACHINE_PATH = re.compile(r"(?<![\w.])/(work|home|root|Users|tmp|mnt|opt|data|scratch|usr/local)/[\w.-]")


@pytest.mark.parametrize("path", SHIPPED, ids=name)
def test_a_source_names_no_machines_path(path):
    found = MACHINE_PATH.search(path.read_text())
    assert found is None, found and found[0]


@pytest.mark.parametrize("path", SHIPPED, ids=name)
def test_a_source_names_no_folder_that_is_not_in_the_repository(path):
    assert not re.search(r"[\"'/ ]shared/", path.read_text())


@pytest.mark.parametrize("path", SOURCES, ids=name)
def test_a_source_is_at_most_some_screens_long(path):
    assert len(path.read_text().splitlines()) <= 700

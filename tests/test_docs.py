"""The documentation says what the code does: generated pages are up to date, commands in the README exist."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from commands import docs, main
from ledger.chain import Log
from projections import catalog
from projections.engine import tables

ROOT = Path(__file__).resolve().parent.parent
README = ROOT / "README.md"
PAGES = [path for path in (README, *sorted((ROOT / "docs").glob("*.md"))) if path.exists()]
needs_readme = pytest.mark.skipif(not README.exists(), reason="there is no README.md")


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


# ── docs/tables.md ──


def test_the_reference_of_tables_is_what_the_sources_give():
    written = (ROOT / "docs" / "tables.md").read_text(encoding="utf-8")
    assert written == docs.text(), "run `make docs`"


@pytest.fixture(scope="module")
def described(tmp_path_factory):
    built = tables(Log.create(tmp_path_factory.mktemp("docs") / "ledger"))
    return {
        table.name: [row["column_name"] for row in built.rows(f"DESCRIBE {table.name}")] for table in catalog.tables()
    }


@pytest.mark.parametrize("table", catalog.tables(), ids=lambda table: table.name)
def test_every_column_of_a_table_is_documented_in_its_order(table, described):
    assert [column for column, _ in table.columns] == described[table.name]


@pytest.mark.parametrize("table", catalog.tables(), ids=lambda table: table.name)
def test_the_key_and_the_scope_of_a_table_are_columns_of_it(table, described):
    assert set(table.key) <= set(described[table.name])
    assert set((table.scope or table.key[0]).split(", ")) <= set(described[table.name])


# ── commands in the pages ──


def commands_in(text: str) -> Iterator[list[str]]:
    """The commands of all ```console blocks, as lists of words: lines that begin with `$ `."""
    for block in re.findall(r"^```console\n(.*?)^```", text, re.M | re.S):
        joined = block.replace("\\\n", " ")
        for line in joined.splitlines():
            if line.startswith("$ "):
                words = shlex.split(line[2:], comments=True)
                part: list[str] = []
                for word in [*words, ";"]:
                    if word in ("|", "&&", "||", ";", ">", "&"):
                        if part:
                            yield part
                        part = []
                    else:
                        part.append(word)


def without_variables(words: list[str]) -> list[str]:
    while words and re.fullmatch(r"[A-Z_][A-Z0-9_]*=.*", words[0]):
        words = words[1:]
    return words


def parse(words: list[str]) -> None:
    """Parse `ledger …` as the command does, without running it. Raises click.UsageError."""
    try:
        group = main.cli.make_context("ledger", list(words))
    except click.exceptions.Exit:
        return  # --version, --help
    rest = [*getattr(group, "_protected_args", []), *group.args]
    verb, command, arguments = main.cli.resolve_command(group, rest)
    assert command is not None
    try:
        made = command.make_context(verb, arguments, parent=group)
        if isinstance(command, click.Group):
            verb, part, arguments = command.resolve_command(made, [*getattr(made, "_protected_args", []), *made.args])
            assert part is not None
            part.make_context(verb, arguments, parent=made)
    except click.exceptions.Exit:
        return


def told() -> list[tuple[str, list[str]]]:
    return [
        (name(page), without_variables(words)) for page in PAGES for words in commands_in(page.read_text("utf-8"))
    ]


def test_a_command_that_does_not_exist_would_be_found():
    for wrong in (
        ["nosuch"],
        ["log", "--nosuch"],
        ["log", "-n", "x"],
        ["run", "--arms", "A=1", "--", "true"],
        ["dag", "draw"],
        ["dag", "show", "--nosuch"],
    ):
        with pytest.raises(click.UsageError):
            parse(wrong)
    parse(["--ledger", "x", "run", "--arm", "A=1", "--seeds", "0-2", "--", "python", "train.py", "--lr", "3"])


@pytest.mark.parametrize(("page", "words"), told() or [("none", [])], ids=lambda value: " ".join(value)[:60])
def test_a_command_that_a_page_tells_is_a_known_verb_with_known_options(page, words):
    if words and words[0] == "ledger":
        parse(words[1:])
    elif words and words[0] == "make":
        targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M))
        assert {word for word in words[1:] if "=" not in word and not word.startswith("-")} <= targets
    elif words[:2] in (["python", "-m"], ["python3", "-m"]) and words[2].split(".")[0] in ("benchmarks", "commands"):
        place = ROOT / words[2].replace(".", "/")
        assert place.with_suffix(".py").exists() or (place / "__main__.py").exists()


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_the_files_that_a_page_links_to_exist(page):
    text = re.sub(r"^```.*?^```", "", page.read_text("utf-8"), flags=re.M | re.S)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if not re.match(r"[a-z]+:|#", target):
            path = os.path.normpath(page.parent / target.split("#")[0])
            assert os.path.exists(path), f"{name(page)} links to {target}"


@needs_readme
def test_the_folders_and_pages_that_the_readme_names_exist():
    text = README.read_text("utf-8")
    for target in re.findall(
        r"`((?:docs|examples|benchmarks|data|tests|ledger|projections|runners|commands)/[\w./-]*)`", text
    ):
        assert (ROOT / target).exists(), f"README.md names {target}"


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_a_page_names_no_machines_path(page):
    assert not re.search(r"(?<![\w.])/(work|home|root|Users|mnt|scratch)/[\w.-]", page.read_text("utf-8"))


def test_every_example_plan_is_accepted():
    from runners.cycle_plan import parse as parse_cycle
    from runners.plan import parse as parse_plan

    for path in sorted((ROOT / "examples").glob("*.toml")):
        text = path.read_text("utf-8")
        (parse_cycle if "[[candidate]]" in text else parse_plan)(text, name(path))

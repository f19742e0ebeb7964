# Two commands do everything on a machine with Python 3.11 to 3.13 and make:
#   make demo   the main job on the embedded default
#   make test   lint, types and tests
# The environment is made in .venv from constraints.txt at the first call.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.made

.PHONY: demo test lint types tests coverage test-slow bench docs clean

demo: $(STAMP)
	@$(BIN)/ledger run examples/first.toml
	@echo
	@$(BIN)/ledger report first
	@echo "The command is $(BIN)/ledger; README.md goes on from here."

test: lint types tests

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(STAMP)
	$(BIN)/mypy

tests: $(STAMP)
	$(BIN)/python -m pytest -n auto --dist loadfile -m "not slow"

coverage: $(STAMP)
	$(BIN)/python -m pytest -n auto --dist loadfile -m "not slow" --cov --cov-report=term:skip-covered

test-slow: $(STAMP)
	$(BIN)/python -m pytest -n auto --dist loadfile -m slow

bench: $(STAMP)
	$(BIN)/python -m pip install -qq --disable-pip-version-check --constraint constraints.txt eventsourcing
	$(BIN)/python -m benchmarks.append
	$(BIN)/python -m benchmarks.growth
	$(BIN)/python -m benchmarks.metrics
	$(BIN)/python -m benchmarks.verify
	$(BIN)/python -m benchmarks.startup
	$(BIN)/python -m benchmarks.flips
	$(BIN)/python -m benchmarks.tables
	$(BIN)/python -m benchmarks.projections
	$(BIN)/python -m benchmarks.dag_worlds
	$(BIN)/python -m benchmarks.next_worlds
	$(BIN)/python -m benchmarks.transfer_worlds
	$(BIN)/python -m benchmarks.verdicts
	$(BIN)/python -m benchmarks.worlds
	$(BIN)/python -m benchmarks.extraction
	$(BIN)/python -m benchmarks.training
	$(BIN)/python -m benchmarks.backends

docs: $(STAMP)
	$(BIN)/python -m commands.docs

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit("ledger needs Python 3.11 to 3.13, this is " + sys.version.split()[0]) if not (3, 11) <= sys.version_info[:2] <= (3, 13) else 0'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -qq --disable-pip-version-check --constraint constraints.txt torch
	$(BIN)/python -m pip install -qq --disable-pip-version-check --constraint constraints.txt --editable '.[all,dev]'
	touch $(STAMP)

clean:
	rm -rf $(VENV) out .pytest_cache .mypy_cache .ruff_cache .coverage

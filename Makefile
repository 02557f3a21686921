# What a developer does here. Every target sets up what it needs by itself; the first run takes a minute.

BIN := .venv/bin
PYTEST_WORKERS ?= auto
PYTEST_ARGS ?=

.PHONY: help setup run test test-pythons check bench docs clean

help:  ## say what there is
	@sed -n 's/^\([a-z-]*\):.*  ## \(.*\)/make \1	\2/p' Makefile | expand -t 20

setup:  ## make the virtual environment .venv with all that development needs
	@deploy/setup.sh dev

run:  ## start the demo on 127.0.0.1:2525; it says what to try
	@deploy/setup.sh run
	@$(BIN)/lychgate demo

test:  ## run all tests; installs the Debian packages of their peers where it may
	@deploy/setup.sh dev
	@tests/peers.sh
	$(BIN)/python -m pytest -n $(PYTEST_WORKERS) --dist worksteal $(PYTEST_ARGS)

test-pythons:  ## run unit tests, scenarios and fuzzing on every supported Python at hand; PYTHONS= names others
	@tests/peers.sh
	@PYTEST_WORKERS=$(PYTEST_WORKERS) PYTEST_ARGS='$(PYTEST_ARGS)' tests/pythons.sh

check:  ## lint, format, types, layers
	@deploy/setup.sh dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -q tests/unit/test_layers.py tests/unit/test_project.py

bench:  ## measure against peers in the same run
	@deploy/setup.sh dev
	@tests/peers.sh
	$(BIN)/python -m tests.bench

docs:  ## write the pages that are made from the code anew
	@deploy/setup.sh dev
	$(BIN)/python -m gateway.config.reference

clean:  ## remove what was made here
	rm -rf .venv .venv-pythons build dist demo-data bench-results htmlcov .coverage .hypothesis .mypy_cache .ruff_cache .pytest_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

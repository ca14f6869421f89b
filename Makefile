# Every target makes .venv by itself where it is missing, with what the target needs, and again when
# what it holds is out of date.
#
#   PYTHON=python3.12                  the interpreter that .venv is made from
#   TORCH=torch==2.7.1                 what is installed for torch; may hold options of pip
#   ARGS="--jobs 4 --seeds 3"          more words for estbench run or pytest
#   VENV=.venv-other                   where the packages go
#   DIR=results/paper                  the result set of `make report`

PYTHON ?= python3
PINS ?= constraints.txt
TORCH ?= $(shell grep '^torch==' $(PINS))
VENV ?= .venv
ARGS ?=
DIR ?= results/bench

BIN := $(VENV)/bin
RUNS := $(VENV)/.runs
INSTALLED := $(VENV)/.installed

.DEFAULT_GOAL := help
.PHONY: help setup bench smoke paper test test-all oldest build speed lint docs index report clean force

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-9s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: $(INSTALLED) ## make .venv, with all that is needed to work on estbench

# A torch that was asked for by name replaces another one.
ifneq ($(origin TORCH),file)
ifneq ($(TORCH),$(shell cat $(VENV)/.torch 2>/dev/null))
$(RUNS): force
endif
endif

# What runs need. Torch comes first and by itself, so that TORCH= may name another version or source.
PIP = $(BIN)/python -m pip install --quiet --disable-pip-version-check -c $(VENV)/constraints.txt
$(RUNS): pyproject.toml $(PINS)
	@$(PYTHON) -c 'import sys; sys.exit("make: estbench needs Python 3.11 or later; name one: make PYTHON=python3.12" if sys.version_info < (3, 11) else 0)'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	grep -v '^torch==' $(PINS) > $(VENV)/constraints.txt
	$(PIP) $(TORCH)
	$(PIP) -e .
	@echo '$(TORCH)' > $(VENV)/.torch
	@touch $@

# What tests, checks of the code, the site and benchmarks need besides: twice as much again.
$(INSTALLED): $(RUNS)
	$(PIP) -e '.[dev]'
	@touch $@

bench: $(RUNS) ## compare the estimators: tables, figures and report in results/bench (minutes)
	$(BIN)/python -m estbench run --preset bench $(ARGS)

smoke: $(RUNS) ## everything once, quickly, in results/smoke (about a minute)
	$(BIN)/python -m estbench run --preset smoke $(ARGS)

paper: $(RUNS) ## the paper's own schedule, in results/paper (long)
	$(BIN)/python -m estbench run --preset paper $(ARGS)

test: $(INSTALLED) ## the quick tests, in five minutes
	OMP_NUM_THREADS=1 ESTBENCH_FUZZ=0 $(BIN)/python -m pytest -n 2 --dist worksteal -m quick $(ARGS)

test-all: $(INSTALLED) ## every test: the whole proof, kills, hostile input, the page in a browser
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal $(ARGS)

oldest: ## the quick tests with the oldest versions that pyproject.toml allows, in .venv-oldest
	mkdir -p .venv-oldest
	$(PYTHON) .ci/lower_bounds.py > .venv-oldest/new.txt
	cd .venv-oldest && { cmp -s new.txt pins.txt || mv new.txt pins.txt; }
	$(MAKE) test VENV=.venv-oldest PINS=.venv-oldest/pins.txt

build: $(INSTALLED) ## the wheel and the source archive, in dist
	$(BIN)/python -m hatchling build $(ARGS)

speed: $(INSTALLED) ## time the parts that matter, beside others' and this machine's limits: one table
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest benchmarks --benchmark-enable --benchmark-quiet $(ARGS)

lint: $(INSTALLED) ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: $(INSTALLED) ## the site, in build/docs; warnings are errors
	$(BIN)/python -m sphinx -W --keep-going -q -b html docs build/docs

index: $(INSTALLED) ## the catalogue of estimators, anew: docs/estimators and what estbench list reads
	$(BIN)/python -m estbench.cli.index

report: $(RUNS) ## tables, figures and report.html of DIR, anew
	$(BIN)/python -m estbench report $(DIR)

clean: ## remove caches and builds; .venv and results stay
	rm -rf build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .benchmarks
	find estbench tests benchmarks -name __pycache__ -type d -exec rm -rf {} +

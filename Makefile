# make help lists what there is. Needs Python 3.11 or 3.12 and make; writes only to .venv/ and runs/.
# Packages are installed when requirements.lock or pyproject.toml changed, and not otherwise.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

# An interpreter of your choice: make setup PYTHON=/path/to/python3.12
PYTHON ?=
# Further options: make quickstart ARGS="--seed 1", make test ARGS="tests/rl -x"
ARGS ?=

VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
BEGUN := $(VENV)/.begun
PIP := $(BIN)/python -m pip --disable-pip-version-check --no-input
TORCH := torch==2.13.0

.PHONY: help setup quickstart test gate check format bench lock clean

help: ## list the targets
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/  make \1\t\2/p' Makefile | expand -t 20

setup: $(READY) ## install everything into .venv
	@echo "make: $(VENV) is ready"

quickstart: $(READY) ## the whole loop on the embedded demo model, into runs/quickstart
	@$(BIN)/humanward quickstart --out runs/quickstart $(ARGS)

test: $(READY) ## all tests
	@OMP_NUM_THREADS=$${OMP_NUM_THREADS:-1} $(BIN)/python -m pytest -n $${TEST_PROCESSES:-2} $(ARGS)

gate: $(READY) ## the exact gate: the shipped trainer against the optimum in closed form, and planted bugs
	@OMP_NUM_THREADS=$${OMP_NUM_THREADS:-1} $(BIN)/python -m pytest -n $${TEST_PROCESSES:-2} -m gate tests/gate $(ARGS)

check: $(READY) ## lint, format and types
	@$(BIN)/python -m ruff check .
	@$(BIN)/python -m ruff format --check .
	@$(BIN)/python -m mypy

format: $(READY) ## format the code and fix what ruff can fix
	@$(BIN)/python -m ruff check --fix .
	@$(BIN)/python -m ruff format .

bench: $(READY) ## the benchmarks, into runs/bench (slow: three quickstarts)
	@mkdir -p runs/bench
	@$(BIN)/python benchmarks/quickstart.py --json --seeds 3 > runs/bench/quickstart.json
	@if [ -d ../shared/data ]; then $(BIN)/python benchmarks/hh_harmless.py --json > runs/bench/hh_harmless.json; \
	else echo "hh_harmless: not run, ../shared/data is absent (benchmarks/hh_harmless.py --data FOLDER)" >&2; fi
	@ls runs/bench/*.json

# Scripts in .venv name this folder, so a checkout that was moved is installed once more.
ifneq ($(shell cat $(READY) 2> /dev/null),$(CURDIR))
.PHONY: $(READY)
endif

# A set-up that was interrupted leaves .begun behind, and then starts from nothing.
$(READY): requirements.lock pyproject.toml
	@if [ -e $(BEGUN) ]; then echo "make: the last set-up did not finish; starting again"; rm -rf $(VENV); fi
	@mkdir -p $(VENV); touch $(BEGUN); rm -f $(READY)
	@if ! $(BIN)/python -m pip --version > /dev/null 2>&1; then \
	  chosen=; \
	  for python in $(if $(PYTHON),"$(PYTHON)",python3.11 python3.12 python3); do \
	    if "$$python" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 13))' 2> /dev/null; then \
	      chosen=$$python; break; \
	    fi; \
	  done; \
	  if [ -z "$$chosen" ]; then \
	    rm -f $(BEGUN); rmdir $(VENV) 2> /dev/null || true; \
	    echo "make: $(if $(PYTHON),PYTHON=$(PYTHON) does not run or is not Python 3.11 or 3.12,found no Python 3.11 or 3.12 (tried python3.11 python3.12 python3)); name one with: make setup PYTHON=/path/to/python3.12" >&2; \
	    exit 1; \
	  fi; \
	  echo "make: setting up $(VENV) with $$("$$chosen" --version); the first time this takes some minutes"; \
	  "$$chosen" -m venv $(VENV); \
	else \
	  echo "make: bringing $(VENV) up to date with requirements.lock and pyproject.toml"; \
	fi
	@$(PIP) install -qq -r requirements.lock
	@$(PIP) install -qq --no-deps --no-build-isolation --editable .
	@printf '%s\n' "$(CURDIR)" > $(READY)
	@rm $(BEGUN)

lock: ## write requirements.lock anew (in .venv-lock; then look at the difference)
	@test -x $(BIN)/python || { echo "make: run make setup first" >&2; exit 1; }
	@rm -rf .venv-lock; $(BIN)/python -m venv .venv-lock
	@.venv-lock/bin/python -m pip install -qq $(TORCH)
	@.venv-lock/bin/python -m pip install -qq $(TORCH) ".[dev]"
	@sed -n '/^#/p' requirements.lock > .venv-lock/new
	@{ .venv-lock/bin/python -m pip freeze --all --exclude pip --exclude humanward --exclude torch; echo $(TORCH); } | LC_ALL=C sort -f >> .venv-lock/new
	@mv .venv-lock/new requirements.lock; rm -rf .venv-lock

clean: ## remove .venv and the tools' caches (not runs/)
	@rm -rf $(VENV) .venv-lock .pytest_cache .mypy_cache .ruff_cache .hypothesis

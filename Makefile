# Every target works as the first command in a fresh clone: what it needs is installed into .venv once.
# The stamps say what .venv holds (.demo: what `ramet` needs to run, .dev: also tests and linters), so
# a second run asks no network. Versions are pinned in constraints.txt.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip install -qq --disable-pip-version-check --no-input --progress-bar off \
          -c constraints.txt
ARGS   ?=
TESTS  ?= tests

.DEFAULT_GOAL := help
.PHONY: help venv demo test lint format bench soak clean

help: ## show this list
	@awk -F ':.*## ' '/^[a-z]+:.*## /{printf "  make %-8s %s\n", $$1, $$2}' Makefile
	@echo
	@echo "  ARGS='...' is handed on to demo, test, bench and soak;  PYTHON=python3.12 picks the interpreter."

venv: $(VENV)/.dev ## install everything into .venv (a minute or two, once)
	@echo "$(VENV) is ready"

demo: $(VENV)/.demo ## run examples/demo.py on the embedded model
	@$(BIN)/ramet run examples/demo.py $(ARGS)

test: $(VENV)/.dev ## run the tests (TESTS=tests/lang picks some)
	@$(BIN)/python -m pytest -n 2 --dist loadfile $(TESTS) $(ARGS)

lint: $(VENV)/.dev ## ruff, formatting, mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/.dev ## let ruff mend what it can
	$(BIN)/ruff check --fix-only .
	$(BIN)/ruff format .

bench: $(VENV)/.demo ## run the benchmarks
	@$(BIN)/python -m benchmarks $(ARGS)

soak: $(VENV)/.dev ## long randomized tests (SOAK_SEED=n repeats a run)
	@SOAK=1 $(BIN)/python -m pytest -s --timeout=0 -o faulthandler_timeout=0 tests/soak $(ARGS)

clean: ## remove .venv, caches and build output
	rm -rf $(VENV) build dist src/*.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find src tests examples benchmarks -name __pycache__ -type d -prune -exec rm -rf {} + 2>/dev/null || true

# PyTorch comes first and by its exact version: on its own it lets pip take a build that is at hand.
$(VENV)/.torch: constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "Ramet needs Python 3.11 or newer, and '$(PYTHON)' is not (or is not there)."; \
	  echo "Name one that is, for example: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
	  echo "'$(PYTHON)' has no venv module. On Debian and Ubuntu: apt install python3-venv"; exit 1; }
	@echo "Installing into $(VENV) (once) ..."
	@$(PYTHON) -m venv $(VENV)
	@$(PIP) "$$(grep '^torch==' constraints.txt)" "$$(grep '^setuptools==' constraints.txt)"
	@touch $@

$(VENV)/.demo: $(VENV)/.torch pyproject.toml
	@$(PIP) --no-build-isolation -e .
	@touch $@

$(VENV)/.dev: $(VENV)/.demo
	@$(PIP) --no-build-isolation -e '.[dev]'
	@touch $@

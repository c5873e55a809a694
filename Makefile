# What people and CI do with this project. `make` alone lists it.

BIN := .venv/bin
INSTALLED := .venv/installed
UV ?= $(BIN)/uv
COMPILE := $(UV) pip compile --quiet --no-cache --universal --python-version 3.11 --generate-hashes --no-header --no-annotate

.DEFAULT_GOAL := help
.PHONY: help setup up demo bench chaos model mutants test test-all tests lint-in-one-piece browser lint format lock audit clean

# Tests wait a lot, so there are more processes than cores. Bytecode is kept, whatever the environment says: each of the many
# processes that tests start would compile our packages anew.
PYTEST := PYTHONDONTWRITEBYTECODE= $(BIN)/pytest --numprocesses 3 --dist loadfile --no-loadscope-reorder

help:  ## List what can be made
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-8s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: $(INSTALLED)  ## Create .venv with everything in requirements-dev.lock

# Caches off: nothing is written outside this folder.
$(INSTALLED): requirements-dev.lock
	@python=$$(command -v python3.11 || command -v python3 || echo python3); \
	"$$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "Python 3.11 or newer is needed, and $$python is not."; exit 1; }; \
	echo "Setting up .venv with $$python; this takes a minute or two."; \
	"$$python" -m venv .venv
	@$(BIN)/python -m pip install --quiet --no-cache-dir --disable-pip-version-check \
		--require-hashes --requirement requirements-dev.lock
	@touch $@

up: $(INSTALLED)  ## Run the whole system here: WEB_PORT=8000 FLOWER_PORT=5555 DATA_DIR=.data
	@exec $(BIN)/python manage.py up

demo: $(INSTALLED)  ## A flash sale, its verdict and a report with plots: ARGS=--help for its size
	@exec $(BIN)/python manage.py demo $(ARGS)

bench: $(INSTALLED)  ## Measure it beside its baselines: QUICK=1, ORDERS=FILE; or beside an earlier state: BEFORE=REVISION
	@exec $(BIN)/python -m $(if $(BEFORE),tests.benchmarks.compare "$(BEFORE)",tests.benchmarks $(if $(QUICK),--quick) $(if $(ORDERS),--orders "$(ORDERS)"))

chaos: $(INSTALLED)  ## Inject faults while clients order, then check every promise: MINUTES=10 SEED=n
	@exec $(BIN)/python -m tests.chaos --minutes $(or $(MINUTES),10) $(if $(SEED),--seed $(SEED))

model: $(INSTALLED)  ## Search all that may happen in a model of the protocol (needs spin): QUICK=1 for seconds
	@exec $(BIN)/python -m tests.model $(if $(QUICK),--quick)

mutants: $(INSTALLED)  ## Take out one guard after the other; the test of each must turn red: ONLY=WORD
	@exec $(BIN)/python -m tests.mutants $(if $(ONLY),--only $(ONLY))

test: $(INSTALLED)  ## Linters, type checker, import contracts and every test but those that only add depth
	@$(MAKE) --no-print-directory --jobs 2 --keep-going lint-in-one-piece tests

test-all: $(INSTALLED)  ## All of that with depth, all mutants, the whole model (needs spin) and a long chaos: before a release
	$(MAKE) --no-print-directory lint
	$(PYTEST)
	$(MAKE) --no-print-directory mutants
	$(MAKE) --no-print-directory model
	$(MAKE) --no-print-directory chaos

tests:
	$(PYTEST) -m "not depth"

# Beside the tests, whose output goes on meanwhile.
lint-in-one-piece:
	@said=$$($(MAKE) --no-print-directory lint 2>&1) && echo "$$said" \
		|| { echo "$$said"; echo "make lint FAILED: see above"; exit 1; }

browser: $(INSTALLED)  ## The browser tests alone (needs Chromium, as does their share of `make test`)
	$(BIN)/pytest tests/browser

lint: $(INSTALLED)  ## Linters, type checker and import contracts alone
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(INSTALLED)  ## Put the code into its one format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

lock:  ## Resolve pyproject.toml anew (needs uv: UV=/path/to/uv)
	$(COMPILE) --output-file requirements.lock pyproject.toml
	$(COMPILE) --extra embedded --extra test --extra plots --extra sentry --extra otel --constraint requirements.lock \
		--output-file requirements-dev.lock pyproject.toml

audit: $(INSTALLED)  ## Ask a public list of vulnerabilities about every locked package (needs the internet)
	$(BIN)/python -m venv .venv/audit
	.venv/audit/bin/python -m pip install --quiet --disable-pip-version-check pip-audit
	.venv/audit/bin/pip-audit --strict --disable-pip --requirement requirements-dev.lock

clean:  ## Remove .venv and all caches; the data in .data stays
	rm -rf .venv .*_cache .hypothesis .frontrun
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# Two commands matter: `make demo` and `make test`. Each sets up what it needs, once.
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
ANALYSIS := .venv-analysis
CONTRACTS := $(shell find contracts -name '*.sol' 2>/dev/null)
PYTEST_ARGS ?=

.PHONY: help
help: ## What can be made
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

# --- set-up -----------------------------------------------------------------------------------------------------------

.PHONY: setup
setup: $(VENV)/.ready node_modules/.ready build/artifacts/.ready ## Virtual environment, npm packages, compiled contracts

$(VENV)/.ready: requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed: $$($(PYTHON) --version) found" >&2; exit 2; }
	@echo "Installing the Python packages of requirements.lock (a minute or so)"
	@$(PYTHON) -m venv $(VENV) || { echo "the venv module is missing: apt-get install python3-venv" >&2; exit 2; }
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

# slither and halmos want other versions of what we use, and only the tests need them.
.PHONY: analysers
analysers: $(ANALYSIS)/.ready ## Environment of slither and halmos, which the tests use

$(ANALYSIS)/.ready: requirements-analysis.lock
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed: $$($(PYTHON) --version) found" >&2; exit 2; }
	@echo "Installing the analysers of requirements-analysis.lock (half a minute or so)"
	@$(PYTHON) -m venv $(ANALYSIS) || { echo "the venv module is missing: apt-get install python3-venv" >&2; exit 2; }
	@$(ANALYSIS)/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements-analysis.lock
	@touch $@

node_modules/.ready: package.json package-lock.json
	@command -v npm >/dev/null || { echo "npm is missing: apt-get install nodejs npm (Node.js 18 or newer)" >&2; exit 2; }
	@echo "Installing the compiler and the local chain (npm)"
	@# Not `npm ci`: it wants every platform's anvil in the lock file, and not every registry carries them all.
	@npm install --no-save --silent --no-progress
	@touch $@

build/artifacts/.ready: $(VENV)/.ready node_modules/.ready scripts/compile.py $(CONTRACTS)
	@$(BIN)/python scripts/compile.py
	@touch $@

.PHONY: contracts
contracts: build/artifacts/.ready ## Compile the contracts and export their ABI

# --- the two commands -------------------------------------------------------------------------------------------------

.PHONY: demo
demo: setup ## Run a whole pool, from the first share to the last claimed wei (KEEP=1 leaves it running, SCHEME=prop)
	@KEEP=$(KEEP) exec $(BIN)/pool-oracle demo $(if $(SCHEME),--scheme $(SCHEME))

.PHONY: test
test: setup analysers ## Run every test, slither and halmos among them
	@$(BIN)/python -m pytest -n auto --dist loadfile $(PYTEST_ARGS)

# --- style ------------------------------------------------------------------------------------------------------------

.PHONY: style
style: setup ## ruff, mypy, import-linter, solhint, ABI drift
	@$(BIN)/ruff format --check --quiet . || { echo "run 'make format'" >&2; exit 1; }
	@$(BIN)/ruff check --quiet .
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-logo
	@node_modules/.bin/solhint --max-warnings 0 'contracts/**/*.sol'
	@$(BIN)/python scripts/compile.py --check

# --- campaigns and benches ---------------------------------------------------------------------------------------------

.PHONY: gas
gas: setup ## Measure gas, ours and peers', and write docs/gas.md
	@$(BIN)/python bench/gas.py

.PHONY: bench-jobs
bench-jobs: setup ## Measure template to job, job to block
	@$(BIN)/python bench/jobs.py

.PHONY: bench-window
bench-window: setup ## Measure closing an epoch with 100 million shares in the window (7 GB of disk)
	@$(BIN)/python bench/window.py

.PHONY: bench-stratum
bench-stratum: setup ## Measure the stratum server: shares a second, latency, memory (needs gcc)
	@$(BIN)/python bench/stratum.py

.PHONY: bench-vardiff
bench-vardiff: setup ## Simulate vardiff: how fast it converges, how still it stands
	@$(BIN)/python bench/vardiff.py

.PHONY: simulate
simulate: setup ## Years of a pool under each payout scheme, with a hopper; writes docs/plots
	@$(BIN)/python bench/simulate.py

.PHONY: soak
soak: setup ## Ten minutes of good miners beside bad ones
	@$(BIN)/python bench/soak.py --seconds 600

.PHONY: alerts
alerts: ## Prometheus's own check of the alert rules, and their cases (needs promtool: Debian package prometheus)
	@command -v promtool >/dev/null || { echo "promtool is missing: apt-get install prometheus" >&2; exit 2; }
	@promtool check rules deploy/prometheus/pool-oracle.rules.yml
	@promtool check config --syntax-only deploy/prometheus/pool-oracle.yml
	@promtool test rules deploy/prometheus/pool-oracle.rules.test.yml

# atheris has wheels for Linux on x86-64 only, so it is not in the environment that everybody has.
build/fuzz/.ready: requirements-fuzz.lock $(VENV)/.ready
	@rm -rf build/fuzz
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes --target build/fuzz -r requirements-fuzz.lock
	@touch $@

.PHONY: fuzz-stratum
fuzz-stratum: setup build/fuzz/.ready ## Ten minutes of atheris on the stratum sessions (x86-64 Linux)
	@PYTHONPATH=build/fuzz $(BIN)/python bench/fuzz_stratum.py --seconds 600

.PHONY: campaigns-quick
campaigns-quick: setup build/fuzz/.ready ## The short form of every bench and campaign, as CI runs it
	@$(BIN)/python bench/jobs.py --quick
	@$(BIN)/python bench/window.py --quick
	@$(BIN)/python bench/vardiff.py --quick
	@$(BIN)/python bench/stratum.py --quick
	@$(BIN)/python bench/soak.py --quick
	@PYTHONPATH=build/fuzz $(BIN)/python bench/fuzz_stratum.py --seconds 15
	@$(BIN)/python bench/simulate.py --quick

.PHONY: invariants
invariants: setup ## The attack campaign on the contracts, 50 times deeper than in the tests (an hour or more)
	@FOUNDRY_PROFILE=deep node_modules/.bin/forge test

.PHONY: coverage
coverage: setup ## Line and branch coverage of the contracts
	@FOUNDRY_PROFILE=coverage node_modules/.bin/forge coverage

.PHONY: format
format: $(VENV)/.ready ## Format the Python sources
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

.PHONY: lock
lock: ## Renew the lock files (needs uv)
	@uv pip compile --quiet --universal --python-version 3.11 --no-emit-index-url --no-header --generate-hashes --all-extras pyproject.toml -o requirements.lock
	@uv pip compile --quiet --universal --python-version 3.11 --no-emit-index-url --no-header --generate-hashes requirements-analysis.in -o requirements-analysis.lock
	@uv pip compile --quiet --universal --python-version 3.11 --no-emit-index-url --no-header --generate-hashes requirements-fuzz.in -o requirements-fuzz.lock
	@npm install --package-lock-only --silent

.PHONY: clean
clean: ## Remove everything that set-up and tests made
	@rm -rf $(VENV) $(ANALYSIS) node_modules build .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache

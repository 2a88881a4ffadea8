# Set-up, demo, tests and checks. `make demo` and `make test` work from a fresh clone with Python 3.11+, make and git.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/installed
PYTEST_WORKERS ?= 2
# A machine without a GPU can take the small build of torch: make demo TORCH_INDEX=https://download.pytorch.org/whl/cpu
TORCH_INDEX ?=

.PHONY: demo demo-bootstrapping test test-all lint types contract docs docs-check site notebooks bench clean install help

help:
	@echo "make demo   set up, then run the whole job on a synthetic volume (5 to 7 minutes on two cores)"
	@echo "make demo-bootstrapping   set up, then segment synthetic neurites from two painted sections, in two rounds"
	@echo "make test   set up, then run the tests (make test-all: the slow ones too)"
	@echo "make site   build the documentation as web pages: open site/index.html"
	@echo "make lint | types | contract | docs | bench | clean"

install: $(STAMP)

$(STAMP): setup.py constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or later is needed, $$($(PYTHON) --version) was found: make PYTHON=python3.12"; exit 2; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(if $(TORCH_INDEX),$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt --index-url $(TORCH_INDEX) torch)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[test]'
	@touch $@

demo: $(STAMP)
	$(BIN)/python scripts/demo.py $(DEMO_FLAGS)

demo-bootstrapping: $(STAMP)
	$(BIN)/python scripts/05_bootstrapping/demo.py $(DEMO_FLAGS)

test: $(STAMP)
	$(BIN)/python -m pytest -n $(PYTEST_WORKERS) -m "not slow"

test-all: $(STAMP)
	$(BIN)/python -m pytest -n $(PYTEST_WORKERS)

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(STAMP)
	$(BIN)/mypy

contract: $(STAMP)
	$(BIN)/lint-imports
	$(BIN)/python -m pytest -q tests/test_import_loops.py

docs: $(STAMP)
	$(BIN)/python -m incasem_like.config.reference

docs-check: $(STAMP)
	$(BIN)/python -m incasem_like.config.reference --check

$(VENV)/installed-docs: $(STAMP)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[docs]'
	@touch $@

# A broken link or a missing page is an error.
site: $(VENV)/installed-docs
	rm -rf site
	$(BIN)/python -m sphinx -q -E -W --keep-going -j auto -d .cache/site docs site
	@echo "Wrote documentation: site/index.html"

notebooks: $(STAMP)
	$(BIN)/python notebooks/execute.py

bench: $(STAMP)
	for bench in benchmarks/bench_*.py; do $(BIN)/python $$bench || exit 1; done

clean:
	rm -rf $(VENV) build site .cache/site *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis training_runs/demo scripts/omniboard/node_modules tests/mongo_server/target notebooks/work

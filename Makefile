# make demo | make test are all a fresh machine needs; make help lists the rest.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
PARITY := .venv-parity
DIST   := .venv-dist
LOWEST := .venv-lowest
BOOKS  := .venv-notebooks
RUN    := runs/demo
JOBS   ?= 2
# What runs at the oldest versions: a whole training, the command line, weights, the hub's client, the loaders.
OLD_TESTS := tests/test_build.py tests/cli/test_main.py tests/weights/test_files.py tests/weights/test_hub.py \
  tests/data/test_pipeline.py tests/data/test_fast.py

.PHONY: help install demo demo-segment demo-detect demo-masks test slow dist docs notebooks lowest parity parity-table weights-table bench lint format clean

help:  ## this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/' | expand -t 16

install: $(VENV)/.installed  ## make .venv with the package, the `crosscale` command and what the tests need

$(VENV)/.installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "crosscale needs Python 3.11 or newer: make PYTHON=python3.11 ..."; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	@touch $@

demo: install  ## train, validate and predict on real handwritten digits (a few minutes, no download)
	rm -rf $(RUN) $(RUN)-images
	$(BIN)/crosscale demo --output-dir $(RUN)

demo-segment: install  ## compose scenes of digits over photographs, learn to label their pixels, draw the masks (no download)
	rm -rf $(RUN)-segment $(RUN)-segment-images $(RUN)-segment-masks
	$(BIN)/crosscale demo segment --output-dir $(RUN)-segment

demo-detect: install  ## compose the same scenes with boxes, learn to find the digits, draw their boxes (no download)
	rm -rf $(RUN)-detect $(RUN)-detect-images $(RUN)-detect-boxes
	$(BIN)/crosscale demo detect --output-dir $(RUN)-detect

demo-masks: install  ## the same with a mask for each digit
	rm -rf $(RUN)-masked $(RUN)-masked-images $(RUN)-masked-boxes
	$(BIN)/crosscale demo detect --masks --output-dir $(RUN)-masked

test: install  ## the default tests
	$(BIN)/python -m pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder

slow: install  ## the tests that take minutes
	$(BIN)/python -m pytest -n $(JOBS) --dist worksteal -m slow
	$(BIN)/python -m pytest -m timed

dist: install  ## wheel and sdist in dist/, then the wheel in an empty environment: a run, and the README's Python
	rm -rf dist $(DIST)
	$(BIN)/python -m build --outdir dist .
	$(PYTHON) -m venv $(DIST)
	$(DIST)/bin/python -m pip install --quiet --constraint constraints.txt dist/*.whl
	$(DIST)/bin/python -m pip check
	cd $$(mktemp -d) && $(CURDIR)/$(DIST)/bin/python $(CURDIR)/tests/pages/installed.py bare
	$(DIST)/bin/python -m pip install --quiet --constraint constraints.txt "$$(ls dist/*.whl)[digits]"
	cd $$(mktemp -d) && $(CURDIR)/$(DIST)/bin/python $(CURDIR)/tests/pages/installed.py digits

docs: install  ## the documentation site in site/; a warning or a link that leads nowhere fails
	JAX_PLATFORMS=cpu $(BIN)/python -m docs.build_site

notebooks:  ## examples/*.py as notebooks with their outputs, in build/notebooks (minutes; needs the network for weights)
	$(PYTHON) -m venv $(BOOKS)
	$(BOOKS)/bin/python -m pip install --quiet --editable '.[digits,detect,notebooks]'
	mkdir -p build/notebooks
	failed=; for book in examples/*.py; do \
	  $(BOOKS)/bin/jupytext --to ipynb --execute --run-path build/notebooks \
	    --output build/notebooks/$$(basename $$book .py).ipynb $$book || failed="$$failed $$book"; \
	done; \
	[ -z "$$failed" ] || { echo "these did not run to their end:$$failed"; exit 1; }

lowest: install  ## the oldest versions that pyproject.toml allows, with a part of the default tests
	rm -rf $(LOWEST)
	$(BIN)/uv venv --quiet --python $(BIN)/python $(LOWEST)
	$(BIN)/uv pip install --quiet --python $(LOWEST)/bin/python --resolution lowest-direct --editable \
	  '.[digits,fast-data,mindspore]' 'pytest>=8' 'pytest-timeout>=2.3'
	$(LOWEST)/bin/python -m pytest -q $(OLD_TESTS)

parity: $(PARITY)/.installed  ## live comparison with the PyTorch references
	$(PARITY)/bin/python -m pytest -n $(JOBS) -m parity

parity-table: $(PARITY)/.installed  ## preset, parameters, deviation from the reference
	$(PARITY)/bin/python -m benchmarks.parity

weights-table: $(PARITY)/.installed  ## weights of every source through the reference and back
	$(PARITY)/bin/python -m benchmarks.weights_table

$(PARITY)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(PARITY)
	$(PARITY)/bin/python -m pip install --quiet --constraint constraints.txt --editable '.[dev,parity]'
	@touch $@

bench: install  ## all results of docs/performance.md and the page (about 40 minutes; benchmarks/run_all.sh tells more)
	PYTHON=$(BIN)/python sh benchmarks/run_all.sh

lint: install  ## style, format, English, types, architecture
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/codespell *.md docs crosscale
	$(BIN)/python -m docs.check_prose
	$(BIN)/mypy
	$(BIN)/python -m pytest -q tests/test_architecture.py

format: install  ## rewrite the files in the project's format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:  ## remove environments and runs
	rm -rf $(VENV) $(PARITY) $(DIST) $(LOWEST) $(BOOKS) build dist site runs

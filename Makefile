# Set-up, tests and the main job; each target makes what it needs on a machine that has python3, pip and make.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin

# three test files at a time: the suite is made for two cores, and tests of launches mostly wait; a file's tests share
# what they compile; in the order of tests/conftest.py, the longest first
PARALLEL := -n 3 --dist loadfile --no-loadscope-reorder
SLOWEST  := --durations=25

# tests start hundreds of processes: each would compile the package anew where Python may not keep what it compiles
test test-fast: export PYTHONDONTWRITEBYTECODE :=

.PHONY: demo test test-fast lint types docs schema install clean

demo: $(VENV)/.installed            ## train a ladder, fit it, freeze a forecast, test it, write the report
	$(BIN)/scaling sweep configs/sweeps/demo.yaml

test: $(VENV)/.installed-dev lint types  ## everything that CI runs
	$(BIN)/pytest $(PARALLEL) $(SLOWEST)

test-fast: $(VENV)/.installed-dev   ## without the tests marked slow
	$(BIN)/pytest $(PARALLEL) -m "not slow"

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.installed-dev
	$(BIN)/mypy

docs: $(VENV)/.installed-dev        ## the site, into build/site; any warning is an error
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet

docs/workspace.png: $(VENV)/.installed-dev  ## what wandb will show of the main job, from the records of `make demo`
	WANDB_MODE=offline $(BIN)/scaling dashboard runs/demo
	cp runs/demo/dashboard.png $@

schema: $(VENV)/.installed          ## JSON schemas of the configuration files, for editors
	$(BIN)/scaling schema configs/schema

install: $(VENV)/.installed

# uv resolves and installs in seconds what takes pip minutes; where it cannot be had, pip does the same. For the tests
# it compiles what it installs, as pip does: they start hundreds of processes, and where Python may not keep what it
# compiles (PYTHONDONTWRITEBYTECODE) each would compile all that it imports, 2.6 of 4.2 s of starting to train
$(BIN)/python:
	$(PYTHON) -m venv $(VENV) || { $(PYTHON) -m pip install -q virtualenv && $(PYTHON) -m virtualenv -q $(VENV); }
	$(BIN)/python -m pip install -q uv || true

$(VENV)/.installed: pyproject.toml | $(BIN)/python
	$(BIN)/uv pip install -q --python $(BIN)/python -e . || $(BIN)/python -m pip install -q -e .
	@touch $@

$(VENV)/.installed-dev: pyproject.toml | $(BIN)/python
	$(BIN)/uv pip install -q --compile-bytecode --python $(BIN)/python -e '.[dev]' || $(BIN)/python -m pip install -q -e '.[dev]'
	@touch $(VENV)/.installed $@

clean:
	rm -rf $(VENV) build *.egg-info .mypy_cache .ruff_cache .pytest_cache

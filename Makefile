# Two commands do all the set-up on a machine with Python 3.11 and make: `make demo` and `make test`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
OUT ?= demo
WORKERS ?= auto

.PHONY: demo test test-large lint bench docs figures tutorials build test-lowest constraints clean

demo: $(VENV)/.demo
	$(BIN)/notice-lens demo --out $(OUT)

# One torch thread a worker: busy threads of several workers would only get into each other's way. Workers take neighbours
# in the list, which share models and studies, and what is left of a slower one at the end.
test: $(VENV)/.installed
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist worksteal -m "not large" $(ARGS)

# What `make test` leaves out: full architectures, every hook point of every kind, most notebooks, families that another
# one stands for.
test-large: $(VENV)/.installed
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist worksteal -m large $(ARGS)

lint: $(VENV)/.installed
	$(BIN)/ruff check --no-cache .
	$(BIN)/ruff format --no-cache --check .
	$(BIN)/pyright

bench: $(VENV)/.installed
	$(BIN)/python benchmarks/forward.py
	$(BIN)/python benchmarks/patching.py
	$(BIN)/python benchmarks/patching_gpu.py
	$(BIN)/python benchmarks/paths.py
	$(BIN)/python benchmarks/patching_vlm.py

docs: $(VENV)/.installed
	$(BIN)/python -m sphinx -W --keep-going -b html docs docs/_build

# The pictures of README and docs, anew; needs Chromium.
figures: $(VENV)/.installed
	$(BIN)/python docs/make_figures.py

# Executes the notebooks in place; the tests execute them too, and change nothing.
tutorials: $(VENV)/.installed
	$(BIN)/python tutorials/run.py $(ARGS)

# Wheel and sdist in dist/, as an index would want them.
build: $(VENV)/.installed
	rm -rf dist
	$(BIN)/python -m build
	$(BIN)/python -m twine check --strict dist/*

# The tested set lives in constraints.txt; touch it or pyproject.toml and the environment is brought up to date.
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

$(VENV)/.demo: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(INSTALL) -e .
	touch $@

$(VENV)/.installed: $(VENV)/.demo
	$(INSTALL) -e '.[dev]'
	touch $@

# The lower bounds of pyproject.toml, in an environment of their own. By hand: torch 2.7 brings gigabytes along.
test-lowest:
	test -x .venv-lowest/bin/python || $(PYTHON) -m venv .venv-lowest
	.venv-lowest/bin/python -m pip install --quiet --disable-pip-version-check -c constraints-lowest.txt -e '.[test]'
	OMP_NUM_THREADS=1 .venv-lowest/bin/python -m pytest -n $(WORKERS) --dist worksteal $(ARGS)

# Writes the tested set anew from what is installed now.
constraints: $(VENV)/.installed
	$(BIN)/python -m pip freeze --exclude-editable | sed 's/+cpu$$//' > constraints.txt

clean:
	rm -rf $(VENV) .venv-lowest build dist demo docs/_build docs/generated docs/notebooks docs/jupyter_execute .pytest_cache .ruff_cache

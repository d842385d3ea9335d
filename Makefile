# make train   install into .venv, then train separation=late on a Procgen game (ARGS="..." to run something else)
# make test    install into .venv, then run the tests on every core (PYTEST_ARGS="..." to choose; -n 0: in one process)
# make check   everything that CI checks

PYTHON ?= $(shell for p in python3.11 python3.12 python3.10 python3; do $$p -c '' 2>/dev/null && echo $$p && break; done)
VENV ?= .venv
ARGS ?= separation=late env=starpilot protocol=as_written total_frames=1000000 seed=0 run_dir=runs/demo
PYTEST_ARGS ?=

BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
PINS := pyproject.toml constraints.txt procgen-hashes.txt

# Where an image or a shell sets it, every process compiles PyTorch's and TorchRL's modules anew, for some four seconds.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: train test lint format types imports docs check clean

train: $(VENV)/installed-procgen
	$(BIN)/python experiments/procgen.py $(ARGS)

test: $(VENV)/installed-dev
	$(BIN)/python -m pytest -n logical --maxprocesses 8 --dist worksteal $(PYTEST_ARGS)

lint: $(VENV)/installed-dev
	$(BIN)/ruff check
	$(BIN)/ruff format --check

format: $(VENV)/installed-dev
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

types: $(VENV)/installed-dev
	$(BIN)/pyright --pythonpath $(BIN)/python

imports: $(VENV)/installed-dev
	$(BIN)/lint-imports --no-cache --no-logo

docs: $(VENV)/installed-dev
	$(BIN)/sphinx-build -W --keep-going -q -b html docs docs/_build/html

check: lint types imports docs test

clean:
	rm -rf build dist *.egg-info docs/_build .pytest_cache .ruff_cache .hypothesis .import_linter_cache
	find decouple experiments tests docs -name __pycache__ -prune -exec rm -rf {} +

# installed-procgen, installed-dev: the extra of that name with the tested versions, again only when one of the pins changed.
# Modules are byte-compiled as they are imported: most never are, and compiling all would take a minute.
$(VENV)/installed-%: $(PINS)
	test -x $(BIN)/pip || $(PYTHON) -m venv $(VENV)
	$(PIP) install --no-compile --require-hashes --no-deps -r procgen-hashes.txt
	$(PIP) install --no-compile -c constraints.txt -e ".[$*]"
	@touch $@

# Everything works on a clean clone: the first target that needs it makes .venv and fetches the embedded model.
# PYTHON picks the interpreter (3.11 or newer), PIP_FLAGS is handed to pip install (CONTRIBUTING.md: CPU build of torch).

PYTHON ?= python3
PIP_FLAGS ?=
BIN := .venv/bin
INSTALLED := .venv/.stamp-installed
# Two workers with one thread each: torch's own threads would fight over the cores.
TWO := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2
# Faults wait for each other's processes half of their time.
THREE := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 3
ALONE := $(BIN)/python -m pytest
# All but helpers, and what wants data of its own or a GPU
SCRIPTS := $(filter-out $(patsubst %,bench/%.py,records pages real_sets pretrain_t5 gpu methods families command beside),$(wildcard bench/*.py))

.PHONY: help install model quickstart format lint types check laws runs real test docs bench bench-peers clean faults torture
.DEFAULT_GOAL := help

help:
	@echo "make quickstart   the whole job on the embedded model and made-up data (5 minutes on 2 cores after the install)"
	@echo "make check        format, lint, types, unit and house tests (under 2 minutes)"
	@echo "make laws         property tests              make runs    whole runs on tiny models"
	@echo "make faults       kills, broken disks, no memory, poisoned data; make torture: 299 kills, 20 of the embedded model, a million rows"
	@echo "make real         runs on the embedded model"
	@echo "make test         all of these                make docs    code blocks and commands of the documentation"
	@echo "make bench        speed and memory, into bench/       make format   rewrite in the house format"
	@echo "make bench-peers  the same rows through TRL, in turn, in an environment of its own"
	@echo "make clean        what builds and tests left behind; .venv and runs/ stay"

$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "tunesmith needs Python 3.11 or newer: make PYTHON=python3.12")'
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet $(PIP_FLAGS) -c constraints.txt -e '.[dev]'
	touch $@

install: $(INSTALLED)

# Does nothing when the model is in the cache.
model: $(INSTALLED)
	$(BIN)/tunesmith models fetch smollm2-135m-instruct

quickstart: model
	$(BIN)/tunesmith quickstart

format: $(INSTALLED)
	$(BIN)/ruff format src tests bench
	$(BIN)/ruff check --fix src tests bench

lint: $(INSTALLED)
	$(BIN)/ruff format --check src tests bench
	$(BIN)/ruff check src tests bench

types: $(INSTALLED)
	$(BIN)/mypy

check: lint types
	$(TWO) tests/unit tests/house

runs: $(INSTALLED)
	$(TWO) tests/runs

faults: $(INSTALLED)
	$(THREE) --dist loadfile tests/faults

# Half an hour and more. The counts stand at the end.
torture: model
	TUNESMITH_KILLS=299 OMP_NUM_THREADS=1 $(ALONE) tests/faults/test_kills.py
	TUNESMITH_KILLS=20 TUNESMITH_KILLED_MODEL=smollm2-135m-instruct OMP_NUM_THREADS=1 $(ALONE) tests/faults/test_kills.py
	TUNESMITH_ROWS=1000000 OMP_NUM_THREADS=1 $(ALONE) -s tests/faults/test_r17_rows.py

laws: $(INSTALLED)
	$(TWO) tests/laws

real: model
	$(ALONE) tests/real

test: lint types model
	$(TWO) --dist loadfile tests/unit tests/house tests/laws tests/runs
	$(THREE) --dist loadfile tests/faults
	$(ALONE) tests/real

docs: $(INSTALLED)
	$(ALONE) tests/house/test_docs.py tests/runs/test_docs_shell.py

bench: model
	@test -n "$(SCRIPTS)" || { echo "bench/ holds no script yet"; exit 1; }
	@set -e; for script in $(SCRIPTS); do echo "== $$script"; $(BIN)/python "$$script"; done

# TRL in an environment of its own, with the torch and transformers that are pinned here; both sides in turn, idle machine.
bench-peers: model
	test -x .venv-peers/bin/python || { $(PYTHON) -m venv .venv-peers && .venv-peers/bin/pip install --quiet $(PIP_FLAGS) -c constraints.txt trl peft; }
	for adapt in lora full; do $(BIN)/python bench/speed.py --adapt $$adapt --against .venv-peers/bin/python; done
	for job in dpo grpo; do $(BIN)/python bench/methods.py --job $$job --against .venv-peers/bin/python; done
	for rows in 48 512; do $(BIN)/python bench/command.py --examples $$rows --against .venv-peers/bin/python; done
	$(BIN)/python bench/families.py

clean:
	rm -rf build dist .pytest_cache .ruff_cache .mypy_cache .hypothesis src/*.egg-info .venv/.stamp-*
	find src tests -name __pycache__ -type d -prune -exec rm -rf {} +

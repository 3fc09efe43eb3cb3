# make demo: the whole pipeline on embedded data. make test: all checks. Each sets itself up in .venv.
PYTHON ?= $(shell command -v python3.11 || command -v python3.12 || command -v python3)
BIN := .venv/bin
DEMO := snakemake --profile profiles/local --configfile configs/demo.yaml
export PATH := $(CURDIR)/.venv/bin:$(PATH)
export TOKENIZERS_PARALLELISM := false

.PHONY: help setup demo test test-slurm lint clean-demo
help:
	@echo "make setup | demo | test | test-slurm | lint | clean-demo"

setup: .venv/ready

.venv/ready: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev]"
	touch $@

demo: setup
	@echo "+ $(DEMO)"
	$(DEMO)
	@mvfl summary results/demo

lint: setup
	ruff check .
	ruff format --check .
	snakefmt --check Snakefile rules
	snakemake --lint
	mypy

# Two processes: most tests use one core (tests/conftest.py says which stay together).
test: lint
	pytest -n 2

# A tiny pipeline on a private one-machine SLURM, with faults; skipped where SLURM cannot be installed.
test-slurm: setup
	pytest -s tests/slurm

clean-demo:
	rm -rf results/demo

# Two commands on a bare machine with python3 (3.11 or later) and make: `make demo` and `make test`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
TORCH := $(shell grep -i '^torch==' constraints.txt)
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check

.PHONY: help demo test lint clean
.DEFAULT_GOAL := help

help:
	@echo "make demo   predict the structure of Cr6Os2 (installs into $(VENV) first)"
	@echo "make test   run the tests"
	@echo "make lint   ruff and mypy"

# torch comes first and pinned: unpinned, pip takes a build with gigabytes of CUDA
$(VENV)/torch.stamp: constraints.txt
	$(PYTHON) -c 'import sys; sys.exit("python 3.11 or later is needed: make PYTHON=python3.11 ..." if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv $(VENV)
	$(PIP) '$(TORCH)'
	touch $@

$(VENV)/run.stamp: $(VENV)/torch.stamp pyproject.toml
	$(PIP) --constraint constraints.txt --editable .
	touch $@

$(VENV)/dev.stamp: $(VENV)/torch.stamp pyproject.toml
	$(PIP) --constraint constraints.txt --editable '.[dev]'
	touch $@ $(VENV)/run.stamp

demo: $(VENV)/run.stamp
	$(BIN)/dao-flows predict Cr6Os2 -n 40 --top 10 --seed 0 --out demo

test: $(VENV)/dev.stamp
	$(BIN)/python -m pytest --numprocesses auto --durations 10

lint: $(VENV)/dev.stamp
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

clean:
	rm -rf $(VENV) build dist *.egg-info

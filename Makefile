# Two commands matter: `make tune` shows what Etude does, `make test` shows that it works.
# `make test-all` runs the slow tests too, `make test-avx2` a part as an older processor would.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALL := $(BIN)/python -m pip install --quiet --constraint constraints.txt

.PHONY: tune test test-all test-avx2 check format bench clean

tune: $(VENV)/.installed
	$(BIN)/etude tune digits-cnn

# A file stays in one process: what its tests share is trained once.
test: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -n 2 --dist loadfile

test-all: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -n 2 --dist loadfile -m 'slow or not slow'

# Convolutions, recurrent networks and bfloat16 as a processor without AVX-512 computes them.
AVX2_PART := tests/tasks/models tests/tasks/test_layout.py tests/tasks/test_hub.py \
	tests/tasks/test_table.py tests/training/test_processor.py tests/training/test_check.py \
	tests/training/test_loop.py tests/layerwise/test_exact.py

test-avx2: $(VENV)/.installed-dev
	ONEDNN_MAX_CPU_ISA=AVX2 $(BIN)/python -m pytest -n 2 --dist loadfile -m 'slow or not slow' $(AVX2_PART)

check: $(VENV)/.installed-dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: $(VENV)/.installed-dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(VENV)/.installed-bench
	$(BIN)/python -m benchmarks

clean:
	rm -rf $(VENV) build dist src/*.egg-info

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: $(VENV)/bin/python pyproject.toml constraints.txt
	$(INSTALL) --editable .
	touch $@

$(VENV)/.installed-dev: $(VENV)/bin/python pyproject.toml constraints.txt
	$(INSTALL) --editable '.[dev]'
	touch $@ $(VENV)/.installed

$(VENV)/.installed-bench: $(VENV)/.installed-dev
	$(INSTALL) --editable '.[dev,bench]'
	touch $@

# Every target sets up what it needs; a fresh machine wants Python 3.11 and make, for the tests on Linux a C compiler (cc) too.
PYTHON ?= python3
INPUTS ?= 1000000
SEED ?= 0
VENV := .venv
VLLM_VENV := .venv-vllm
TRAINERS := .venv-trainers/.installed
STAMP := $(VENV)/.installed

.PHONY: test test-slow test-matrix check demo test-vllm bench fuzz

$(STAMP): requirements/dev.txt pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check -r requirements/dev.txt
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	touch $@

$(VLLM_VENV)/.installed: requirements/vllm.txt examples/setup_vllm.sh
	bash examples/setup_vllm.sh $(PYTHON) $(VLLM_VENV)
	touch $@

# DeepSpeed, verl and llm-compressor, whose pins clash with the project's.
$(TRAINERS): requirements/trainers.txt
	$(PYTHON) -m venv .venv-trainers
	.venv-trainers/bin/python -m pip install --quiet --disable-pip-version-check -r requirements/trainers.txt
	touch $@

test: $(STAMP)
	$(VENV)/bin/python -m pytest -n 2 -q -m "not vllm and not slow"

test-slow: $(STAMP) $(TRAINERS)
	$(VENV)/bin/python -m pytest -n 2 -q -m "slow and not vllm"

test-matrix: $(STAMP)
	$(VENV)/bin/python -m tests.matrix

check: $(STAMP)
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/ruff check .
	$(VENV)/bin/mypy

demo: $(STAMP)
	$(VENV)/bin/python -m examples.demo

test-vllm: $(STAMP) $(VLLM_VENV)/.installed
	$(VENV)/bin/python -m pytest -q -m vllm

bench: $(STAMP)
	$(VENV)/bin/python -m benchmarks.conversion
	$(VENV)/bin/python -m benchmarks.verification
	$(VENV)/bin/python -m benchmarks.scoring
	$(VENV)/bin/python -m benchmarks.flax_sources
	$(VENV)/bin/python -m benchmarks.quantised

fuzz: $(STAMP)
	$(VENV)/bin/python -m tests.fuzz --seed $(SEED) $(if $(SECONDS),--seconds $(SECONDS),--inputs $(INPUTS))

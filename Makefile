# Every target sets up what it needs; a fresh machine wants Python 3.11 and make, for the tests on Linux a C compiler (cc) too.
PYTHON ?= python3
INPUTS ?= 1000000
SEED ?= 0
VENV := .venv
VLLM_VENV := .venv-vllm
TRAINERS := .venv-trainers/.installed
STAMP := $(VENV)/.installed

DEMO_VENV := .venv-demo
DOCS_VENV := .venv-docs
DIST_VENV := .venv-dist

.PHONY: test test-fast dist test-slow test-matrix check docs demo demo-vllm test-vllm bench fuzz

$(STAMP): requirements/dev.txt pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check -r requirements/dev.txt
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	# Beside a torch for CPUs, a torchvision for CUDA fails to import at what describes its compiled part; nothing here uses it.
	$(VENV)/bin/python -c "import torchvision" 2>/dev/null || \
	: > "$$($(VENV)/bin/python -c 'import sysconfig; print(sysconfig.get_paths()["purelib"])')/torchvision/_meta_registrations.py"
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
	@echo "Under ten minutes on two quiet cores. test-fast runs a part, test-slow and test-vllm the others."
	$(VENV)/bin/python -m pytest -n 2 -q -m "not vllm and not slow"

# What `make test-matrix` runs in every Python, here in one: for daily work, in less than 90 seconds.
test-fast: $(STAMP)
	$(VENV)/bin/python -m tests.matrix --here

test-slow: $(STAMP) $(TRAINERS)
	$(VENV)/bin/python -m pytest -n 2 -q -m "slow and not vllm"

test-matrix: $(STAMP)
	$(VENV)/bin/python -m tests.matrix

check: $(STAMP)
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/ruff check .
	$(VENV)/bin/mypy

$(DOCS_VENV)/.installed: requirements/docs.txt
	$(PYTHON) -m venv $(DOCS_VENV)
	$(DOCS_VENV)/bin/python -m pip install --quiet --disable-pip-version-check -r requirements/docs.txt
	touch $@

# The site in build/site. A link or an anchor that leads nowhere is an error.
docs: $(DOCS_VENV)/.installed
	NO_MKDOCS_2_WARNING=1 PYTHONPATH=. $(DOCS_VENV)/bin/mkdocs build --strict --quiet

$(DIST_VENV)/.installed: requirements/dist.txt
	$(PYTHON) -m venv $(DIST_VENV)
	$(DIST_VENV)/bin/python -m pip install --quiet --disable-pip-version-check -r requirements/dist.txt
	touch $@

# The sdist and the wheel in dist/, the wheel built from the sdist.
dist: $(DIST_VENV)/.installed
	rm -rf dist
	$(DIST_VENV)/bin/python -m build --no-isolation
	$(DIST_VENV)/bin/twine check --strict dist/*

# JAX and what makes the model out of its wheel; no PyTorch.
$(DEMO_VENV)/.installed: requirements/dev.txt pyproject.toml
	@echo "Installing JAX, Flax and tokenizers into $(DEMO_VENV): about 700 MB, a minute or two."
	$(PYTHON) -m venv $(DEMO_VENV)
	$(DEMO_VENV)/bin/python -m pip install --disable-pip-version-check -c requirements/dev.txt -e '.[jax]' gguf
	@touch $@

demo: $(DEMO_VENV)/.installed
	$(DEMO_VENV)/bin/python -m examples.demo

demo-vllm: demo $(VLLM_VENV)/.installed
	bash examples/serve_demo.sh $(VLLM_VENV)

test-vllm: $(STAMP) $(VLLM_VENV)/.installed
	$(VENV)/bin/python -m pytest -q -m vllm

bench: $(STAMP)
	$(VENV)/bin/python -m benchmarks.conversion
	$(VENV)/bin/python -m benchmarks.verification
	$(VENV)/bin/python -m benchmarks.scoring
	$(VENV)/bin/python -m benchmarks.flax_sources
	$(VENV)/bin/python -m benchmarks.quantised
	$(VENV)/bin/python -m benchmarks.pictures
	$(VENV)/bin/python -m benchmarks.object_stores

fuzz: $(STAMP)
	$(VENV)/bin/python -m tests.fuzz --seed $(SEED) $(if $(SECONDS),--seconds $(SECONDS),--inputs $(INPUTS))

# mmv_jax: `make demo` goes from files to an encoder and its worth; `make test` proves the parts.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
export JAX_PLATFORMS ?= cpu
# Compiled modules are kept even where the environment forbids it: without them every process that a
# test starts compiles all of JAX's and pandas' sources again.
export PYTHONDONTWRITEBYTECODE :=

.PHONY: setup demo docs test test-full test-pythons locks lint bench compile-check clean

setup: $(VENV)/.core

# One lock for every extra: what an install takes is held to the versions that were tested.
$(VENV)/.core: setup.cfg requirements.lock
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --no-compile -c requirements.lock -e .
	touch $@

$(VENV)/.dev: $(VENV)/.core
	$(BIN)/pip install --quiet --no-compile -c requirements.lock -e '.[dev]'
	touch $@

demo: setup
	$(BIN)/mmv demo --workdir runs/demo

test: $(VENV)/.dev
	$(BIN)/python -m pytest -n 2 --dist loadfile -m "not full"

test-full: $(VENV)/.dev
	$(BIN)/python -m pytest -n 2 --dist loadfile --hypothesis-profile=full \
	    --jaxtyping-packages=mmv_jax,beartype.beartype

# The wheel, made from the sdist, on every Python that is here: 3.11, 3.12 and 3.13, each with the
# newest versions and with the locked ones. WHAT=smoke leaves the tests out.
test-pythons: $(VENV)/.dev
	$(BIN)/python tests/pythons.py $(WHAT)

# A lock for each extra, in the versions of requirements.lock where that has them.
EXTRAS := tpu cuda13 preflight preflight-h100 cloud torch imagenet ray survival wandb onnx notebook docs
locks: $(VENV)/.dev
	mkdir -p requirements
	set -e; for extra in $(EXTRAS); do $(BIN)/uv pip compile setup.cfg --quiet --extra $$extra -c requirements.lock \
	    --universal --python-version 3.11 --no-annotate --no-header -o requirements/$$extra.lock; done

lint: $(VENV)/.dev
	$(BIN)/ruff check mmv_jax tests experiments launch
	$(BIN)/ruff format --check mmv_jax tests experiments launch
	$(BIN)/mypy
	$(BIN)/hadolint launch/Dockerfile.*

docs: $(VENV)/.docs
	$(BIN)/mkdocs build --strict

$(VENV)/.docs: $(VENV)/.core
	$(BIN)/pip install --quiet --no-compile -c requirements.lock -e '.[docs]'
	touch $@

# PyTorch's cases need the extra torch: make setup, then .venv/bin/pip install -c requirements/torch.lock -e '.[torch]'.
bench: $(VENV)/.dev
	set -e; for name in attention step packing input probe; do echo "== $$name"; $(BIN)/mmv bench $$name; done

# Every training config, compiled by the accelerator's own compiler for the topology that it names (without one: for virtual devices);
# and the large one on another chip, and with a larger encoder.
compile-check: $(VENV)/.preflight
	set -e; for config in $$(grep -l 'c.rows = .*per_step' experiments/*.py); do $(BIN)/mmv preflight --config $$config; done
	$(BIN)/mmv preflight --config experiments/vitl_pod.py --topology v6e:16x16
	$(BIN)/mmv preflight --config experiments/vitl_pod.py --topology v5p:8x8x8 --config.encoder.size=g

$(VENV)/.preflight: $(VENV)/.core
	$(BIN)/pip install --quiet --no-compile -c requirements/preflight.lock -e '.[preflight]'
	touch $@

clean:
	rm -rf runs/demo

# study: run the walkthrough and write the report      test: everything that must hold
# lab:   read the notebooks in JupyterLab              clean: remove the virtual environment and caches, not runs/
# matrix: the notebooks on every instruction set and thread count that this processor offers
# pretend: every notebook on a pretend accelerator, held against the CPU; no GPU is needed
# mutants: small changes planted one at a time; the tests of their room must notice (ROOM="inner meta" SAMPLE=30 SEED=0)
# bench: the kit against other libraries: the same meta-gradient, then time and memory (BENCH="--only sinusoid --rounds 5")
# Each makes the virtual environment first if it is missing, or older than what it is made from. `make test WORKERS=8`
# deals the tests out to eight cores.

VENV ?= .venv
WORKERS ?= 2
ROOM ?=
SAMPLE ?= 30
SEED ?= 0
BENCH ?=
RIVALS := higher torchopt jax optax
PYTHON ?= $(shell for p in python3 python3.14 python3.13 python3.12 python3.11 python; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
BIN := $(VENV)/bin
READY := $(VENV)/.ready
BENCH_VENV := $(VENV)-bench

.PHONY: study test matrix pretend mutants bench lab clean

study: $(READY)
	$(BIN)/python -m mamlkit run

test: $(READY)
	$(BIN)/python -m ruff check .
	$(BIN)/python -m ruff format --check .
	$(BIN)/python -m mypy
	$(BIN)/python -m pytest -n $(WORKERS)

matrix: $(READY)
	$(BIN)/python tests/matrix.py

pretend: $(READY)
	$(BIN)/python -m pytest -v -m "pretend or not pretend" tests/test_pretend.py

mutants: $(READY)
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[mutants]'
	OMP_NUM_THREADS=1 $(BIN)/python tests/mutants.py $(ROOM) --sample $(SAMPLE) --seed $(SEED)

bench: $(BENCH_VENV)/.ready
	$(BENCH_VENV)/bin/python tests/benchmarks/bench.py $(BENCH)

lab: $(READY)
	JUPYTER_PATH="$(VENV)/share/jupyter" $(BIN)/python -m jupyterlab --ServerApp.root_dir=notebooks $(LAB_ARGS) \
		notebooks/00_map.ipynb

clean:
	rm -rf $(VENV) $(BENCH_VENV) .mypy_cache .pytest_cache .ruff_cache build *.egg-info

$(READY): pyproject.toml constraints.txt
	$(call environment,$(VENV),test)
	@touch $@

# A rival that does not install is named and left out. learn2learn's package no longer does; its algorithm is loaded from
# its source distribution.
$(BENCH_VENV)/.ready: pyproject.toml constraints.txt
	$(call environment,$(BENCH_VENV),figures)
	@for rival in $(RIVALS); do $(BENCH_VENV)/bin/python -m pip install --quiet -c constraints.txt $$rival \
		|| echo "$$rival does not install and is left out"; done
	@$(BENCH_VENV)/bin/python -m pip download --quiet -c constraints.txt --no-deps --no-binary learn2learn \
		-d $(BENCH_VENV)/sdist learn2learn && tar -xzf $(BENCH_VENV)/sdist/learn2learn-*.tar.gz -C $(BENCH_VENV)/sdist \
		&& rm $(BENCH_VENV)/sdist/*.tar.gz || echo "learn2learn cannot be had and is left out"
	@touch $@

# A virtual environment in the folder $(1), with the kit and its extra $(2).
define environment
	@$(or $(PYTHON),false) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
		echo 'mamlkit needs Python 3.11 or newer and found none; install one, or name it: make PYTHON=python3.11' >&2; exit 1; }
	$(PYTHON) -m venv $(1)
	$(1)/bin/python -m pip install --quiet -c constraints.txt -e '.[$(2)]'
endef

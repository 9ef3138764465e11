# make quickstart   train the toy model that comes with the repository, on a CPU, and see what it learned
# make test         lint, types and all tests but the slow ones
# make test-slow    the slow tests: whole runs, several processes, TPU compilations (with libtpu), thousands of random inputs
# make test-all     both
# make test-gpu     compile attention and a step for GPUs, of which it needs none: it installs JAX's CUDA compiler, 600 MB
# make lint         lint and types only
# make faults       kill, corrupt and fill the disk under small trainings, and see that no work is lost: 50 runs, half an hour
# make clean        remove the environment and every output of a run
# Other Python: make test PYTHON=python3.12

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
RUNS ?= 50
PYTEST := JAX_PLATFORMS=cpu $(BIN)/python -m pytest -n 2

.PHONY: quickstart test test-slow test-all test-gpu lint faults clean
.DELETE_ON_ERROR:

quickstart: $(VENV)/.runtime
	rm -rf runs/quickstart
	JAX_PLATFORMS=cpu $(BIN)/python -m mpo_jax.train --config=configs/quickstart.py

test: lint
	$(PYTEST) -m "not slow"

test-slow: $(VENV)/.dev
	EXAMPLES=thorough $(PYTEST) -m "slow or property"

test-all: test test-slow

test-gpu: $(VENV)/.dev $(VENV)/gpu/.installed
	PYTHONPATH=$(VENV)/gpu $(PYTEST) -m slow -k gpu tests/models tests/training

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --pythonpath $(BIN)/python
	$(BIN)/shellcheck .ci/run launch/*.sh launch/slurm.sbatch launch/worker/*.sh tests/launch/trainer tests/launch/worker_tool tests/launch/srun tests/launch/scontrol

faults: $(VENV)/.runtime
	$(BIN)/python tests/faults.py --runs $(RUNS)

clean:
	rm -rf $(VENV) runs .pytest_cache .ruff_cache .hypothesis

# The stamps say which requirements are installed, so that a second call installs nothing.
$(VENV)/.runtime: requirements.txt | $(BIN)/python
	$(BIN)/python -m pip install --quiet -r requirements.txt
	touch $@

$(VENV)/.dev: requirements-dev.txt requirements-gcs.txt requirements-server.txt $(VENV)/.runtime
	$(BIN)/python -m pip install --quiet -r requirements-dev.txt
	touch $@

# In a folder of its own: where a Python finds it, JAX looks for a GPU and says at every start that there is none.
$(VENV)/gpu/.installed: requirements-gpu-compiler.txt | $(BIN)/python
	$(BIN)/python -m pip install --quiet --no-deps --upgrade --target $(VENV)/gpu -r requirements-gpu-compiler.txt
	touch $@

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "error: $(PYTHON) is older than Python 3.11, which is needed: run make again with PYTHON=python3.12, say."; exit 2; }
	$(PYTHON) -m venv $(VENV)

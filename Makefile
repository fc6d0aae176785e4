# make env | check | test | demo | peerbench-row | test-engines | lock
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
UV     := .venv-uv/bin/uv
READY  := $(VENV)/.ready
# Where Python may not keep what it compiles, every process would compile thousands of modules anew.
COMPILE  := $(if $(PYTHONDONTWRITEBYTECODE),--compile-bytecode)
# So would every process of a test or of the demo with the modules of this folder: here they are kept.
KEEPING  := env -u PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help env check test demo peerbench-row test-engines lock clean

help:
	@echo 'make demo          the main job, start to end, on simulated engines (KEEP=1 leaves it running)'
	@echo 'make test          every test that needs no extra engine'
	@echo 'make check         ruff, mypy --strict, import contracts'
	@echo 'make test-engines  the same journey on a real vLLM (CPU), installed into .venv-vllm'
	@echo 'make peerbench-row prepare a Turnout with everything on, and print how to start it under load'
	@echo 'make env           the environment alone, in .venv'
	@echo 'make lock          resolve requirements.lock anew'

env: $(READY)

$(UV):
	$(PYTHON) -m venv .venv-uv
	.venv-uv/bin/python -m pip install --quiet --disable-pip-version-check 'uv>=0.5'

# --require-hashes: what is installed is what was reviewed, byte for byte.
$(READY): requirements.lock pyproject.toml | $(UV)
	$(UV) venv --quiet --allow-existing --python $(PYTHON) $(VENV)
	VIRTUAL_ENV=$(CURDIR)/$(VENV) $(UV) pip sync --require-hashes $(COMPILE) requirements.lock
	VIRTUAL_ENV=$(CURDIR)/$(VENV) $(UV) pip install --quiet --no-deps --no-build-isolation --editable .
	@touch $(READY)

check: env
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

test: env
	$(KEEPING) $(BIN)/python -m pytest --numprocesses auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder

demo: env
	$(KEEPING) $(BIN)/turnout demo $(if $(KEEP),--keep)

# One line of JSON: how to start Turnout, everything on, under a load generator (bench/row.py).
peerbench-row: env
	@$(BIN)/python -m bench.row

test-engines: env
	./tests/engines/install.sh
	$(KEEPING) $(BIN)/python -m pytest -m engines tests/engines

lock: | $(UV)
	$(UV) pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
	  --no-header pyproject.toml --all-extras --group dev --output-file requirements.lock

clean:
	rm -rf $(VENV) .venv-uv .venv-vllm .mypy_cache .ruff_cache .hypothesis

# `make train` trains the default recipe, `make test` runs the quick tests, `make test-all` all of them, and
# `make test-xla` those of XLA. All set up what they need.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
XLA := .venv-xla
# Tests of one file stay together, as they share runs; each worker has a Ray cluster of its own. In their own order the
# last files are those whose tests tests/conftest.py shares out one by one, so that no worker waits long for the other.
WORKERS := -n 2 --dist loadfile --no-loadscope-reorder

.PHONY: train test test-all test-xla lint bench clean lock lock-image

train: $(READY)
	$(BIN)/python service/train.py $(ARGS)

test: $(READY)
	$(BIN)/python -m pytest $(WORKERS) -m "not long" $(ARGS)

# Those of `make test`, and those that take long.
test-all: $(READY)
	$(BIN)/python -m pytest $(WORKERS) $(ARGS)

# torch_xla wants a torch of its own, so it has an environment of its own: 8 GB, with the CUDA that comes with it.
test-xla: $(XLA)/.ready
	$(XLA)/bin/python -m pytest tests/xla $(ARGS)

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(READY)
	$(BIN)/python -m benchmarks $(ARGS)

clean:
	rm -rf $(VENV) $(XLA) runs .mypy_cache .pytest_cache .ruff_cache *.egg-info

# The environment follows the lock file; nothing is resolved again while that stays as it is.
$(READY): requirements.lock pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --requirement requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --editable .
	touch $@

$(XLA)/.ready: infra/requirements-tpu.txt requirements.lock pyproject.toml
	$(PYTHON) -m venv $(XLA)
	$(XLA)/bin/python -m pip install --quiet --disable-pip-version-check --requirement infra/requirements-tpu.txt
	grep -v '^torch==' requirements.lock > $(XLA)/constraints.txt
	$(XLA)/bin/python -m pip install --quiet --disable-pip-version-check --constraint $(XLA)/constraints.txt --editable '.[dev-xla]'
	touch $@

# Pins what pyproject.toml's ranges resolve to today. Local build tags go, so that the lock serves every build
# of torch; a CUDA build brings its libraries at the versions that it names itself.
lock:
	rm -rf $(VENV)-lock
	$(PYTHON) -m venv $(VENV)-lock
	$(VENV)-lock/bin/python -m pip install --quiet torch==2.13.0
	$(VENV)-lock/bin/python -m pip install --quiet --editable '.[dev]'
	$(VENV)-lock/bin/python -m pip freeze --exclude-editable | grep -v '^nvidia-[cn]\|^triton' | sed 's/+[a-z0-9.]*$$//' > requirements.lock
	rm -rf $(VENV)-lock

# The image's own locks, with hashes; after every change of pyproject.toml or requirements.lock.
lock-image:
	$(PYTHON) -m venv $(VENV)-uv
	$(VENV)-uv/bin/python -m pip install --quiet uv
	bash infra/lock.sh $(VENV)-uv/bin/uv
	rm -rf $(VENV)-uv

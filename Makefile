PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.ready

.PHONY: help setup demo broker test test-full lint bench schemas lock clean

help:
	@echo "make demo      an invented crash through the whole fund, live on a dashboard until Ctrl-C"
	@echo "make broker    a Kafka broker of your own at port 9092 or the next free, until Ctrl-C"
	@echo "make test      lint, types and all tests"
	@echo "make test-full the same with more of everything random"
	@echo "make bench     print the speeds of docs/performance.md"
	@echo "make lint      ruff, mypy and import-linter alone"
	@echo "make schemas   write events/schemas/ and docs/asyncapi.yaml anew after a change of messages"
	@echo "make lock      write both locks anew after a change of pyproject.toml"
	@echo "make clean     take away .venv and all that was generated"

setup: $(STAMP)

$(STAMP): requirements.lock pyproject.toml
	@command -v $(PYTHON) >/dev/null || { \
	  echo "There is no $(PYTHON) here: install Python 3.11 or newer (Debian, Ubuntu: apt-get install python3), or name one: make PYTHON=python3.11 $(MAKECMDGOALS)"; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "Python 3.11 or newer is needed, this is $$($(PYTHON) --version 2>&1): install it (Debian, Ubuntu: apt-get install python3) or name one: make PYTHON=python3.11 $(MAKECMDGOALS)"; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || { \
	  echo "This Python lacks venv or pip. Install them: apt-get install python3-venv python3-pip (Debian, Ubuntu), dnf install python3-pip (Fedora), brew install python (macOS)"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $(STAMP)

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

test: lint
	$(BIN)/pytest

test-full: lint
	INSURANCE_FUND_TEST_EXAMPLES=20 INSURANCE_FUND_TEST_ROUNDS=full $(BIN)/pytest

demo: setup
	@$(BIN)/insurance-fund demo

broker: setup
	@$(BIN)/python -m tests.kafka

bench: setup
	@$(BIN)/python -m benchmarks
	@$(BIN)/python -m benchmarks.kafka
	@$(BIN)/python -m benchmarks.faust
	@$(BIN)/python -m benchmarks.http

schemas: setup
	$(BIN)/python -m insurance_fund.events.schemas
	$(BIN)/python -m insurance_fund.asyncapi tests/unit/recorded_ledger.ndjson docs/asyncapi.yaml

# Writes both locks anew from pyproject.toml; needs uv (pip install uv). That of the image has the
# same versions, of what the service itself needs.
lock:
	uv pip compile pyproject.toml --extra dev --extra postgresql --python-version 3.11 --universal \
	  --generate-hashes --no-emit-index-url --no-annotate --no-header --upgrade --output-file requirements.lock
	uv pip compile pyproject.toml --extra postgresql --constraint requirements.lock --python-version 3.11 --universal \
	  --generate-hashes --no-emit-index-url --no-annotate --no-header --output-file requirements.runtime.lock

clean:
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache

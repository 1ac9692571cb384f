# Short verbs; each does its own set-up. Another Python: PYTHON=python3.13 VENV=.venv313 make test
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
READY = $(VENV)/.ready
# Processes of `make test`. The tests wait more than they work, so three suit two cores; 0 is none but pytest itself.
JOBS ?= 3

.PHONY: help demo web test check bench chaos soak clean
.SILENT:

help: ## what there is
	sed -n 's/^\([a-z]*\):.*## /make \1\t/p' Makefile

demo: $(READY) ## work done in one process, awaited in another: make demo FOLDER=/path, AMQP_URL=amqp://... for a broker of yours
	$(BIN)/python -m examples.demo $(if $(FOLDER),"$(FOLDER)") $(ARGS)

web: $(READY) ## the example service and its page, at http://127.0.0.1:8000/: make web PORT=8080, AMQP_URL=memory://web for no broker
	$(BIN)/python -m examples.fastapi_app

test: $(READY) ## the test suite, on a private RabbitMQ node or on AIORESULTS_TEST_URL: make test ARGS="-k name"
	.ci/setup rabbitmq
	.ci/setup browser
	$(BIN)/python -m pytest -n $(JOBS) --no-loadscope-reorder $(ARGS)

check: $(READY) ## lint, formatting, types, layers
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy $(wildcard aioresults examples tests)
	$(BIN)/python -m pytest -q tests/unit/test_layers.py

bench: $(READY) ## the benchmarks: make bench ARGS=...
	.ci/setup rabbitmq
	$(BIN)/python -m tests.benchmarks $(ARGS)

chaos: $(READY) ## random faults under load, minutes: make chaos ARGS="--seed 7 --faults 50 --cluster"
	.ci/setup rabbitmq
	$(BIN)/python -m tests.chaos $(ARGS)

soak: $(READY) ## a million results with reconnects, and what grows: make soak ARGS="--results 100000"
	.ci/setup rabbitmq
	$(BIN)/python -m tests.chaos.soak $(ARGS)

clean: ## remove what the other verbs made
	rm -rf $(VENV) build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -prune -exec rm -rf {} +

$(READY): pyproject.toml constraints.txt .ci/setup
	.ci/setup venv "$(PYTHON)" "$(VENV)"
	touch $@

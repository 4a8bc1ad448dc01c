# Everything a person or a CI job does here. Each target sets up what it needs.
PY := .venv/bin/python

.PHONY: help setup demo test lint proto bench soak clean
help: ## what there is
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 14

setup: .venv/.ready ## the virtual environment with everything in it

.venv/.ready: pyproject.toml scripts/setup
	scripts/setup

.venv/.ready-demo: pyproject.toml scripts/setup
	scripts/setup demo

.tools/.ready: tests/tools/packages.txt tests/tools/package-lock.json scripts/tools
	scripts/tools

demo: .venv/.ready-demo ## tune a real PyTorch model over gRPC, about two minutes
	$(PY) -m asktell.cli.entry demo

test: setup .tools/.ready ## lint, then all tests
	scripts/lint
	$(PY) -m pytest -n auto --dist loadfile

lint: setup .tools/.ready ## ruff, mypy, import layers, proto lint and breaking changes, generated code
	scripts/lint

proto: setup ## generate client/asktell/v1 from proto/
	scripts/proto

bench: setup ## throughput and latency as ratios against a bare echo server
	$(PY) benchmarks/service.py

soak: setup ## long fault and load runs
	$(PY) -m pytest -m soak --timeout=900

clean: ## remove what the other targets made
	rm -rf .venv .venv-floor .tools build dist demo-output .mypy_cache .ruff_cache .pytest_cache .hypothesis

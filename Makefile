# Everything a person or a CI job does here. Each target sets up what it needs.
PY := .venv/bin/python
# Of bench-optimizers: the seeds, and how many runs at once.
SEEDS ?= 0-4
JOBS ?= 2
# Of fuzz and fuzz-convert.
REQUESTS ?= 1000000
SECONDS ?= 60
# Of soak: how many processes are killed.
KILLS ?= 500

.PHONY: audit help setup demo test lint proto bench bench-optimizers bench-optimizers-quick fuzz fuzz-convert soak clean
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

bench-optimizers: setup ## our optimizer against others, many hours; go on with it by the same command
	scripts/peers
	$(PY) -m benchmarks.optimizers --latency gp
	nice $(PY) -m benchmarks.optimizers --seeds $(SEEDS) --q 1,4,16 --jobs $(JOBS) --report docs/benchmarks.md \
	  --keep benchmarks/runs.jsonl.xz

bench-optimizers-quick: setup ## a few problems and peers, about three minutes
	scripts/peers shared
	$(PY) -m benchmarks.optimizers --peers random,optuna-tpe,optuna-gp,asktell-gp --named-subset quick --seeds 0 \
	  --budget-scale 0.5 --jobs 2 --print --report .bench/quick.md

audit: setup ## known vulnerabilities of the dependencies
	scripts/audit

fuzz: setup ## REQUESTS fuzzed requests to a real server; go on with it by the same command, FUZZ=--restart begins anew
	nice $(PY) -m tests.fuzz --requests $(REQUESTS) $(FUZZ)

fuzz-convert: setup ## coverage-guided fuzzing of what reads requests, for SECONDS
	$(PY) -m pip install -q "atheris>=3,<4"
	mkdir -p .fuzz/corpus
	nice $(PY) -m tests.fuzz.convert -max_total_time=$(SECONDS) -max_len=4096 .fuzz/corpus

soak: setup ## long fault and load runs; KILLS=500 processes killed in all, SEED=n repeats a run
	ASKTELL_FAULTS_KILLS=$(KILLS) $(if $(SEED),ASKTELL_FAULTS_SEED=$(SEED)) $(PY) -m pytest -m soak --timeout=900 -rP

clean: ## remove what the other targets made
	rm -rf .venv .venv-floor .tools .peers build dist demo-output .mypy_cache .ruff_cache .pytest_cache .hypothesis .fuzz

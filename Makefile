# Commands to set up, run, inspect and check the workflow. `make help` lists them.

MAKEFLAGS += --no-print-directory
SHELL := /bin/bash
# Scripts read and write UTF-8 in every locale.
export PYTHONUTF8 := 1
.DEFAULT_GOAL := help
.NOTPARALLEL:
CONFIG ?=
# Number of parallel tests, which mostly wait for containers and a slow model.
TESTERS ?= 3
CONFIGFILE := $(if $(CONFIG),--configfile $(CONFIG))
# No listed target creates a file with its name.
.PHONY: $(shell sed -n 's/^\([a-z-]*\):.*\#\#.*/\1/p' $(MAKEFILE_LIST))

BIN := .venv/bin
SETUP := envs/setup.sh
LINT := $(BIN)/snakefmt --check Snakefile rules && $(BIN)/ruff check . && \
	$(BIN)/ruff format --check . && $(BIN)/mypy

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: ## Create .venv with the locked packages
	@$(SETUP) python

engine: ## Install and start Docker if needed, and build the demo's base image
	@$(SETUP) engine
	@$(SETUP) base-image

dataset: setup ## Fetch the benchmark's data set, or check an existing copy (CONFIG=file)
	@$(BIN)/snakemake dataset --forcerun dataset_checked --quiet rules $(CONFIGFILE)

pilot: setup ## Run 3 pairs in all settings, then estimate cost and time of the remaining runs (CONFIG=file)
	@$(BIN)/python scripts/commands/pilot.py $(CONFIGFILE)

openhands: setup engine ## Build the files for agent.name: openhands_docker
	@$(SETUP) openhands

demo: setup engine ## Run all steps on the demo tasks with a replayed model: no key, no cost
	@$(BIN)/python scripts/commands/demo.py

demo-openhands: openhands ## Run one pair in all settings with OpenHands and a replayed model: no cost
	@$(BIN)/python scripts/commands/demo.py config/demo-openhands.yaml

inspect: setup ## Install inspect_ai beside .venv, for the .eval logs of `snakemake export`
	@$(SETUP) inspect

drain: setup ## Let the running session finish its running jobs and start no others (CONFIG=file)
	@$(BIN)/python scripts/commands/drain.py $(CONFIGFILE)

retry-infra: setup ## List the runs that ended as infra_error and requeue them (CONFIG=file)
	@$(BIN)/python scripts/commands/retry_infra.py $(CONFIGFILE)

status: setup ## Show the progress: runs, outcomes, cost, problems (CONFIG=file, WATCH=1)
	@$(BIN)/python scripts/commands/status.py $(CONFIGFILE) $(if $(WATCH),--watch)

table: setup ## Print the tables of an unfinished experiment (CONFIG=file)
	@$(BIN)/python scripts/commands/table.py $(CONFIGFILE)

compare: setup ## Compare two results folders pair by pair (A=folder B=folder, ANYWAY=1)
	@$(BIN)/python scripts/commands/compare.py "$(or $(A),$(error A=folder names a results folder))" \
		"$(or $(B),$(error B=folder names the other results folder))" $(if $(ANYWAY),--anyway)

report: setup ## Write the report of an unfinished experiment (CONFIG=file)
	@$(BIN)/python scripts/commands/report.py $(CONFIGFILE)

bundle: setup ## Pack the files that a reviewer needs to check the tables (CONFIG=file)
	@$(BIN)/python scripts/commands/bundle.py $(CONFIGFILE)

check-bundle: setup ## Check a bundle: recompute its tables and compare them (BUNDLE=file)
	@$(BIN)/python scripts/commands/bundle.py --check "$(or $(BUNDLE),$(error BUNDLE=file names the archive))"

record: setup ## Convert a finished experiment to recordings that anyone can replay (CONFIG=file TO=folder)
	@$(BIN)/python scripts/commands/record.py $(CONFIGFILE) --to "$(or $(TO),$(error TO=folder names the folder to write))"

lint: setup ## Check formatting, style and types
	@$(LINT)

check: setup ## Lint, and run the pure tests (no Docker, root or network)
	@($(LINT)) & lint=$$!; $(BIN)/pytest -q -n 2 tests/unit $(ARGS); tests=$$?; \
		wait $$lint && exit $$tests

test: setup ## Set up, lint, and run all tests
	@($(LINT)) & lint=$$!; \
		for part in engine base-image chromium registry; do $(SETUP) $$part || exit; done; \
		wait $$lint
	@$(BIN)/pytest -n $(TESTERS) --dist loadgroup --no-loadscope-reorder -m 'not slurm' $(ARGS)

test-faults: setup engine ## Run the quick part of the fault campaign alone
	@$(BIN)/pytest tests/faults

faults: openhands ## Inject every known fault and check the guarantees (ONLY=pattern SEED=n; root)
	@cd tests && PYTHONPATH=../scripts:support ../$(BIN)/python -m faults --only '$(ONLY)' \
		$(if $(SEED),--seed $(SEED)) --out ../logs/faults.md

bench: setup engine ## Benchmark the workflow against upstream's batch runner (ONLY=part REPEATS=n; root)
	@cd tests && PYTHONPATH=../scripts:support ../$(BIN)/python -m bench --only '$(ONLY)' \
		--repeats $(or $(REPEATS),3) --out ../.bench.json

executor: setup ## Install Snakemake's executor for Slurm clusters in .venv (profiles/slurm)
	@$(SETUP) executor

slurm: executor engine ## Set up a local Slurm cluster, and run the demo and fault tests on it (root)
	@$(SETUP) slurm
	@cd tests && PYTHONPATH=../scripts:support ../$(BIN)/python -m slurm
	@$(BIN)/pytest -m slurm tests/slurm $(ARGS)

engines: setup engine ## Run demo and engine tests on Debian's newer Docker engines (ONLY=suite; root)
	@cd tests && PYTHONPATH=../scripts:support ../$(BIN)/python -m engines --only '$(ONLY)' \
		--out ../logs/engines.md

format: setup ## Format the code and apply automatic fixes
	@$(BIN)/snakefmt Snakefile rules
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

lock: ## Resolve the dependencies again (envs/requirements.txt)
	@$(SETUP) lock --upgrade

upgrade: setup engine ## Update the lock, run demo and contract tests, list the changes (COOPERBENCH=version)
	@"$$($(BIN)/python -c 'import sys; print(sys._base_executable)')" scripts/commands/upgrade.py \
		$(if $(COOPERBENCH),--cooperbench $(COOPERBENCH))

contract: setup ## Check the facts about cooperbench, litellm and Snakemake that the code relies on
	@$(BIN)/pytest -q tests/contract

schema: setup ## Regenerate config/schema.json and the table in config/README.md
	@$(BIN)/python scripts/commands/schema.py

doctor: ## List this machine's available and missing prerequisites
	@$(SETUP) doctor

clean-env: ## Remove .venv and the private tools
	rm -rf .venv .venv.new .venv.old .tools

# Sets up, checks and shows the workflow. `make help` lists what there is.

MAKEFLAGS += --no-print-directory
SHELL := /bin/bash
# Scripts read and write UTF-8, whatever the locale.
export PYTHONUTF8 := 1
.DEFAULT_GOAL := help
.NOTPARALLEL:
CONFIG ?=
# Test files at a time: most tests wait for containers and for a slow model.
TESTERS ?= 3
CONFIGFILE := $(if $(CONFIG),--configfile $(CONFIG))
# Every target that `make help` lists makes no file of its name.
.PHONY: $(shell sed -n 's/^\([a-z-]*\):.*\#\#.*/\1/p' $(MAKEFILE_LIST))

BIN := .venv/bin
SETUP := envs/setup.sh

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: ## Make .venv with the locked packages
	@$(SETUP) python

engine: ## See to a Docker engine that answers and to the demo's base image
	@$(SETUP) engine
	@$(SETUP) base-image

dataset: setup ## Fetch the benchmark's data set, or check the one that is there (CONFIG=file)
	@$(BIN)/snakemake dataset --forcerun dataset_checked --retries 0 --quiet rules $(CONFIGFILE)

pilot: setup ## Run 3 pairs in all settings, then estimate cost and time of the rest (CONFIG=file)
	@$(BIN)/python scripts/commands/pilot.py $(CONFIGFILE)

openhands: setup engine ## Make what OpenHands' agents run on in containers (agent.name: openhands_docker)
	@$(SETUP) openhands

demo: setup engine ## Run the whole workflow on the demo tasks with a replayed model: no key, no cost
	@$(BIN)/python scripts/commands/demo.py

demo-openhands: openhands ## Run one pair in all settings with OpenHands and a replayed model: no cost
	@$(BIN)/python scripts/commands/demo.py config/demo-openhands.yaml

drain: setup ## Let the running session finish what runs and start nothing more (CONFIG=file)
	@$(BIN)/python scripts/commands/drain.py $(CONFIGFILE)

retry-infra: setup ## List the runs that ended as infra_error and put them back (CONFIG=file)
	@$(BIN)/python scripts/commands/retry_infra.py $(CONFIGFILE)

status: setup ## Tell how far it is: runs, outcomes, cost, what is wrong (CONFIG=file, WATCH=1)
	@$(BIN)/python scripts/commands/status.py $(CONFIGFILE) $(if $(WATCH),--watch)

table: setup ## Tabulate what is there of a half-finished experiment (CONFIG=file)
	@$(BIN)/python scripts/commands/table.py $(CONFIGFILE)

report: setup ## Make the report of a half-finished experiment (CONFIG=file)
	@$(BIN)/python scripts/commands/report.py $(CONFIGFILE)

bundle: setup ## Pack what a reviewer needs to check the tables into one archive (CONFIG=file)
	@$(BIN)/python scripts/commands/bundle.py $(CONFIGFILE)

check-bundle: setup ## Compute every table of such an archive anew and compare (BUNDLE=file)
	@$(BIN)/python scripts/commands/bundle.py --check "$(or $(BUNDLE),$(error BUNDLE=file names the archive))"

record: setup ## Turn a finished experiment into recordings that anyone can replay (CONFIG=file TO=folder)
	@$(BIN)/python scripts/commands/record.py $(CONFIGFILE) --to "$(or $(TO),$(error TO=folder names where to))"

lint: setup ## Check format, style, types and the workflow
	@$(BIN)/snakefmt --check Snakefile rules
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

test: setup engine lint ## Set up, lint, and run all tests
	@$(SETUP) chromium
	@$(SETUP) registry
	@$(BIN)/pytest -n $(TESTERS) --dist loadfile --no-loadscope-reorder -m 'not slurm' $(ARGS)

test-faults: setup engine ## Run the quick part of the fault campaign alone
	@$(BIN)/pytest tests/test_faults.py

faults: setup engine ## Cause every known fault and check what must hold (ONLY=pattern SEED=n; root)
	@cd tests && PYTHONPATH=../scripts ../$(BIN)/python -m faults --only '$(ONLY)' \
		$(if $(SEED),--seed $(SEED)) --out ../logs/faults.md

bench: setup engine ## Measure the workflow beside upstream's own procedure (ONLY=part REPEATS=n; root)
	@cd tests && PYTHONPATH=../scripts:. ../$(BIN)/python -m bench --only '$(ONLY)' \
		--repeats $(or $(REPEATS),3) --out ../.bench.json

slurm: setup engine ## Run the demo and a cluster's faults on a real Slurm cluster set up here (root)
	@$(SETUP) slurm
	@cd tests && PYTHONPATH=../scripts:. ../$(BIN)/python -m slurm
	@$(BIN)/pytest -m slurm tests/slurm $(ARGS)

engines: setup engine ## Run demo and engine tests on Debian's newer Docker engines (ONLY=suite; root)
	@cd tests && PYTHONPATH=../scripts:. ../$(BIN)/python -m engines --only '$(ONLY)' \
		--out ../logs/engines.md

format: setup ## Format the code and mend what can be mended
	@$(BIN)/snakefmt Snakefile rules
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

lock: ## Resolve the dependencies anew (envs/requirements.txt)
	@$(SETUP) lock --upgrade

upgrade: setup engine ## Update the lock, run demo and contract tests with it, say what changed (COOPERBENCH=version)
	@"$$($(BIN)/python -c 'import sys; print(sys._base_executable)')" scripts/commands/upgrade.py \
		$(if $(COOPERBENCH),--cooperbench $(COOPERBENCH))

contract: setup ## Check each fact of cooperbench, litellm and Snakemake that is relied on
	@$(BIN)/pytest -q tests/contract

schema: setup ## Write config/schema.json anew
	@$(BIN)/python scripts/commands/schema.py

doctor: ## Tell what this machine has and what it lacks
	@$(SETUP) doctor

clean-env: ## Remove .venv and the private tools
	rm -rf .venv .venv.new .venv.old .tools

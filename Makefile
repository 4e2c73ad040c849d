PYTHON ?= python3
bin := .venv/bin

# One OpenMP thread a process that sleeps when idle: ranks and tests share the cores.
export OMP_NUM_THREADS ?= 1
export OMP_WAIT_POLICY ?= PASSIVE
export TOKENIZERS_PARALLELISM ?= false

pytest := $(bin)/python -P -m pytest -q $(PYTEST_ARGS)
suites := tests/unit tests/contract tests/recipes tests/integration tests/docs
# Suites that mostly wait for a cluster: three of their files at a time, of all others two.
waiting := $(addprefix tests/integration/, ccl hosts k8s mpi ray slurm)
# Unit tests that load torch; the others come first, since they fail sooner.
with_torch := tests/unit/trainer

# Of the target test-SET: unit tests of what calls the libraries, and one place of each strategy of the matrix.
versions = $(@:test-%=%)
library_tests := tests/unit/trainer tests/unit/hpo tests/unit/galley/strategy
matrix := tests/integration/train/test_training.py -k "every_strategy_gives and (1-4 or 2-2 or 2-1)"
test_versions = PYTHON=$(PYTHON) scripts/setup.sh $(versions) \
	&& .venv-$(versions)/bin/python -P -m pytest -q $(if $(PYTEST_ARGS), $(PYTEST_ARGS), -n 2 --dist loadfile $(library_tests)) \
	$(if $(PYTEST_ARGS),, && .venv-$(versions)/bin/python -P -m pytest -q $(matrix))

.DEFAULT_GOAL := help
.PHONY: help setup quickstart check unit test test-oldest test-middle acceptance lint format docs reference bench system clean

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):[^#]*## \(.*\)/  make \1\t\2/p' Makefile | expand -t 20

setup: ## make .venv with the pinned packages; nothing to do when it is there
	@PYTHON=$(PYTHON) scripts/setup.sh

quickstart: setup ## train the default recipe on this machine and show the result
	@$(bin)/python -P train.py

system: ## install the system packages that tests need, or name the suites that will not run
	@scripts/system_packages.sh

check: lint unit ## what a pull request needs: the linters, and the unit tests

unit: setup ## unit and contract tests without the slow ones, those without torch first
	@$(pytest) -m "not slow" -n 2 --dist loadfile $(filter-out $(with_torch), $(wildcard tests/unit/*)) tests/contract $(with_torch)

# With PYTEST_ARGS, one command runs what they select: of the suites that they name, or else of all.
test: setup system lint ## everything: lint, and all tests, those of the documentation included
ifdef PYTEST_ARGS
	@$(pytest) $(if $(filter tests%, $(PYTEST_ARGS)),, $(suites))
else
	@$(pytest) -n 2 --dist loadfile $(addprefix --ignore=, $(waiting)) $(suites)
	@$(pytest) -n 3 --dist loadfile $(waiting)
endif

test-oldest: ## what concerns the libraries, with the oldest versions that are supported, in .venv-oldest
	@$(test_versions)

test-middle: ## the same with versions between the oldest and the pinned ones, in .venv-middle
	@$(test_versions)

acceptance: setup ## MRPC under two strategies, language models, dialogue, questions; forty trials: an hour on two idle cores
	@$(pytest) tests/acceptance

lint: setup ## ruff, and mypy --strict
	@$(bin)/ruff check .
	@$(bin)/ruff format --check --quiet .
	@$(bin)/mypy

format: setup ## format the code, and correct what ruff can correct
	@$(bin)/ruff check --fix --quiet .
	@$(bin)/ruff format --quiet .

reference: setup ## write docs/reference/ from the source again
	@$(bin)/python -P scripts/write_reference.py

docs: setup ## build the documentation into site/, strictly, without network
	@$(bin)/mkdocs build --strict --quiet

bench: setup ## measure start-up next to a bare `import hydra`
	@$(bin)/python -P -m benchmarks.startup

clean: ## remove everything that was built, .venv included; run folders stay
	@rm -rf .venv .venv-oldest .venv-middle .setup site .mypy_cache .pytest_cache .ruff_cache .hypothesis *.egg-info
	@find . -name __pycache__ -type d -not -path './runs/*' -prune -exec rm -rf {} +

# `make demo` and `make test` need nothing but Python 3.11 or newer; the first of them sets up .venv.
# Another interpreter: `make demo PYTHON=/path/to/python3.12`. More pytest arguments: `make test ARGS="-k operators"`.

SHELL  := /bin/bash
PYTHON ?= python3 python3.13 python3.12 python3.11
ARGS   ?=
KILLS  ?= 20
VENV   := .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready
TWO    := -n 2 --dist loadfile --no-loadscope-reorder

.PHONY: help demo test e2e lint chaos fuzz
.DELETE_ON_ERROR:

help: ## List the targets; what `make` alone does
	@sed -nE 's/^([a-z0-9]+):.*## (.*)/make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 16

demo: $(READY) ## Degrade and restore twelve crops of photographs with the small shipped model
	@$(BIN)/p2l demo

# Two processes, each with the tests of whole files; tests/conftest.py puts the long ones first.
test: $(READY) ## Pass the tests; some of them with ARGS="-k operators"
	@$(BIN)/pytest $(TWO) $(ARGS)

e2e: $(READY) ## Pass the tests of whole runs: what the documents say, submitted, stopped, starved, on clusters that grow
	@$(BIN)/pytest $(TWO) -m 'e2e and not slow' $(ARGS)

chaos: $(READY) ## Kill a real job KILLS times (20) on a loopback cluster of two nodes; about 5 minutes on two cores
	@$(BIN)/python -m jobs.benchmark chaos --kills $(KILLS) --seed 3

fuzz: $(READY) ## Damage real files in 2,000 ways and restore what is left of them; about half a minute on two cores
	@$(BIN)/python -m jobs.benchmark fuzz --mutations 2000

lint: $(READY) ## Check format, style and types
	@$(BIN)/ruff format --check
	@$(BIN)/ruff check
	@$(BIN)/mypy

# A candidate must run (a version manager's shim may not) and be able to make environments.
# On a GPU machine the exact pin of torch is left out: that pin is what selects the CPU wheel.
$(READY): pyproject.toml constraints.txt
	@for candidate in $(PYTHON); do \
	    if $$candidate -c 'import ensurepip, sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; \
	    then python=$$candidate; break; fi; \
	done; \
	if [ -z "$$python" ]; then \
	    echo "No Python 3.11 or newer with the venv module among: $(PYTHON)." >&2; \
	    echo "Install one, or name it: make $(MAKECMDGOALS) PYTHON=/path/to/python3.12" >&2; \
	    exit 1; \
	fi; \
	echo "Setting up $(VENV) with $$($$python --version); the packages take a few minutes ..."; \
	$$python -m venv $(VENV)
	@if nvidia-smi -L >/dev/null 2>&1; then pin='^torch=='; else pin='^$$'; fi; \
	grep -v "$$pin" constraints.txt > $(VENV)/constraints.txt
	@$(BIN)/python -m pip install --quiet -c $(VENV)/constraints.txt -e '.[dev,figures,s3,scores]'
	@touch $@

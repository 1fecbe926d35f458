# The few commands of this project. `make demo` is the place to begin.
PYTHON ?= python3
PORT ?= 3000
API_PORT ?= 8000
DASHBOARD_PORT ?= 8501
WORKERS ?= 2
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: help install demo ui test check format clean

help: ## Show the commands
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/'

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(None if (3, 11) <= v <= (3, 13) else f"Python 3.11 to 3.13 is needed, not {v[0]}.{v[1]}: make PYTHON=python3.12")'
	@echo "Installing into $(VENV): some 10 GB, most of it PyTorch and TensorFlow; 4 to 10 minutes."
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

install: $(STAMP) ## Make .venv and install everything

demo: $(STAMP) ## Run the whole pipeline on rendered images
	$(BIN)/imgpipe demo

ui: $(STAMP) ## Start Dagster, the API and the dashboard over demo data, with new rows arriving
	$(BIN)/python -m imgpipe_dagster.demo.ui --port $(PORT) --api-port $(API_PORT) --dashboard-port $(DASHBOARD_PORT)

test: $(STAMP) ## Run the tests
	$(BIN)/pytest --numprocesses $(WORKERS) --dist loadfile --no-loadscope-reorder

check: $(STAMP) ## Lint, check types, check that the definitions load
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/pyright
	$(BIN)/dagster definitions validate -w workspace.yaml

format: $(STAMP) ## Format the code
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

clean: ## Remove what runs have left behind (not .venv)
	rm -rf .imgpipe

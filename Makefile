# Needs Python 3.11 to 3.13, git and make; everything else is installed into .venv.

PYTHON ?= python3
# Installed first and by its exact version: any other version may pull GPU packages of several GB on a machine without a
# GPU. To choose another build of it: make install TORCH=torch==2.13.0+cu130, with pip told where such builds are.
TORCH ?= torch==2.13.0

VENV := .venv
RUN := $(VENV)/bin/python
PIP := $(RUN) -m pip --disable-pip-version-check --no-input
STAMP := $(VENV)/.installed
BESIDE := tests/chaos tests/test_walkthrough.py tests/benchmarks tests/pipeline/test_object_store.py

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help install demo demo-train test lint clean

help:  ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/make \1|\2/p' Makefile | while IFS='|' read -r target text; do \
		printf '%-16s %s\n' "$$target" "$$text"; done

install: $(STAMP)  ## make .venv with the versions of constraints.txt; again only when they change

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info; (3, 11) <= v < (3, 14) or sys.exit("error: Python 3.11 to 3.13 is needed, \
	$(PYTHON) is %d.%d; choose one: make install PYTHON=python3.12" % v[:2])'
	@echo "install: $(VENV) with $$($(PYTHON) --version)"
	@$(PYTHON) -m venv $(VENV)
	@echo "install: $(TORCH)"
	@$(PIP) install --quiet -c constraints.txt $(TORCH)
	@echo "install: jodiffusion and its tools; this takes some minutes the first time"
	@$(PIP) install --quiet -c constraints.txt -e '.[dev]'
	@touch $@
	@echo "install: done"

demo: $(STAMP)  ## prompts to pairs to a report, on this machine
	$(RUN) -m jobs.demo jobs/configs/demo/demo.yaml

demo-train: $(STAMP)  ## train the demo's networks from nothing
	$(RUN) -m jobs.demo_train

test: $(STAMP)  ## run the tests
	@echo "test: $(BESIDE) run beside the others, since both mostly wait; they are shown last"
	@$(RUN) -m pytest $(BESIDE) > .beside.log 2>&1 & beside=$$!; \
	$(RUN) -m pytest $(BESIDE:%=--ignore=%); others=$$?; \
	wait $$beside; those=$$?; cat .beside.log; exit $$((others | those))

lint: $(STAMP)  ## check style, format and types
	$(RUN) -m ruff check
	$(RUN) -m ruff format --check
	$(RUN) -m mypy

clean:  ## remove caches and build products; .venv, runs/ and data/ stay
	@echo "clean: caches and build products"
	@rm -rf build dist ./*.egg-info .pytest_cache .mypy_cache .ruff_cache
	@find . -name __pycache__ -type d -not -path './$(VENV)/*' -prune -exec rm -rf {} +

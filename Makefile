# A fresh machine needs Python 3.11 or newer and these commands; nothing else is installed by hand.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet --constraint constraints.txt
# Test processes: one more than CI has cores, since tests wait for other processes.
JOBS ?= 3

SEED ?= 1

.PHONY: help install search services browser test image fuzz chaos check lint types imports docs clean

help:  ## Show these commands.
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*##/\t/' | expand -t 12

$(VENV)/.worker: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) --editable '.[worker]'
	touch $@

# Python compiles a module when it is first imported: most of these never are.
$(VENV)/.dev: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) --no-compile --editable '.[worker,test,lint]'
	touch $(VENV)/.worker $@

install: $(VENV)/.dev  ## Install everything into .venv (a few minutes: torch is large).

search: $(VENV)/.worker  ## Find the best schedule of the quick-start study.
	$(BIN)/kdecay launch studies/digits.toml

test: $(VENV)/.dev browser services  ## Run the tests.
	$(BIN)/python -m pytest -n $(JOBS) --dist worksteal

# Where it may, make test installs the browser that pages are looked at in; else those tests are skipped.
APT = DEBIAN_FRONTEND=noninteractive apt-get -qq
browser:
	@command -v chromium >/dev/null || { test "$$(id -u)" = 0 && command -v apt-get >/dev/null \
	  && $(APT) update >/dev/null && $(APT) install -y --no-install-recommends chromium >/dev/null; } \
	  || echo "no chromium: tests in a browser will be skipped"

# And the database servers of a cluster, for the tests of those.
SERVICES = postgresql pgbouncer iproute2 openssl
services: | browser
	@command -v pgbouncer >/dev/null || { test "$$(id -u)" = 0 && command -v apt-get >/dev/null \
	  && $(APT) update >/dev/null && $(APT) install -y --no-install-recommends $(SERVICES) >/dev/null; } \
	  || echo "no PgBouncer: tests with Debian's servers will be skipped"

fuzz: $(VENV)/.dev  ## Try 20,000 generated study files, valid and broken (minutes).
	KDECAY_FUZZ_FILES=20000 $(BIN)/python -m pytest tests/fuzz --hypothesis-show-statistics

image:  ## Build workers/Dockerfile with Debian's buildah, and run a study by it (root; minutes).
	workers/try-image.sh

CHAOS = $(BIN)/python -m tests.chaos --seed $(SEED)
chaos: $(VENV)/.dev  ## Kill, freeze and cut off everything while studies run (ten minutes; SEED=1).
	$(CHAOS)
	$(CHAOS) --pruning on
	$(CHAOS) --hosts 2
	$(CHAOS) --containers
	$(CHAOS) --task digits

check: lint types imports  ## Lint, check the types, and the one-way imports.

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.dev
	$(BIN)/mypy

imports: $(VENV)/.dev
	$(BIN)/lint-imports --no-logo

docs: $(VENV)/.dev  ## Write docs/cli.md anew from the commands' own help.
	$(BIN)/typer kdecay_search.cli.main utils docs --name kdecay --title Commands --output docs/cli.md

clean:  ## Remove what these commands made. Studies are kept in the user's data folder.
	rm -rf $(VENV) build *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache

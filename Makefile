# `make help` lists the targets. Targets set up the environment they need; nothing is installed twice.
STUDY ?= quick
EXECUTOR ?= local
ifeq ($(EXECUTOR),local)
# Small networks gain little from a second thread: two parallel runs, each on half of the cores, take half as long
JOBS ?= 2
endif
DATA ?=
LIMIT_EPOCHS ?=
TIME_LIMIT ?=
REPO ?=

# To use an existing environment (conda, Colab): make VENV= test
VENV ?= .venv
PYTHON ?= python3
ifeq ($(VENV),)
BIN :=
READY :=
else
BIN := $(VENV)/bin/
READY := $(VENV)/.ready
endif

OPTIONS := "$(STUDY)" $(if $(DATA),--data "$(DATA)") $(if $(LIMIT_EPOCHS),--limit-epochs "$(LIMIT_EPOCHS)")
# Empty for a variable that says no
yes = $(filter-out 0 no false,$($(1)))
given = $(if $(filter-out undefined,$(origin $(1))),$(2)="$($(1))")
OPTIONS += --executor "$(EXECUTOR)" $(call given,JOBS,--jobs) $(call given,THREADS,--threads) \
	$(call given,DEVICES,--devices) $(call given,GPUS_PER_RUN,--gpus-per-run) $(call given,STORAGE,--storage) \
	$(call given,SLURM_OPTIONS,--slurm-options) $(if $(call yes,NO_WAIT),--no-wait)
# exec: a shell between make and the launcher would die of a signal sent to the process group, and the runs with it
LAUNCH := exec $(BIN)python -m senet_lib.cli
NOTEBOOKS := $(wildcard notebooks/*.ipynb)
# Metadata that JupyterLab writes when a notebook is saved
RUN_KEYS := $(addprefix metadata.language_info.,codemirror_mode file_extension mimetype nbconvert_exporter \
	pygments_lexer version)

.DEFAULT_GOAL := help
.PHONY: help setup setup-cluster reproduce plan report publish archive restore verify bundle unpack notebooks site site-check test test-slow bench soak check \
	lab lock badges clean

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*  ## ' $(MAKEFILE_LIST) | sed -E 's/:.*  ## /\t/' | expand -t 14
	@echo
	@echo 'STUDY=name of studies/ (default quick)   JOBS=runs at a time (default 2)   LIMIT_EPOCHS=n for a dry run'
	@echo 'EXECUTOR=local, ray or slurm (docs/cluster.md)   THREADS=n, GPUS_PER_RUN=n, DEVICES=n (docs/gpu.md)'
	@echo 'TIME_LIMIT=stop in time, for example 90s, 10m or 1h30m; the same command continues'
	@echo 'DATA=another data set (digits, fashion_mnist, cifar10, cifar100, folder:PATH) or the place of the data'

setup: $(READY)  ## create the virtual environment with the locked versions (other targets run this when needed)

$(VENV)/.ready: requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo 'error: Python 3.11 or newer is needed; make PYTHON=/path/to/python3.11'; exit 2; }
	@# Without pip: an environment that was left half made
	$(VENV)/bin/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@# Notebooks opened and saved stay unchanged for git: .gitattributes names this filter
	@test ! -e .git || git config filter.nbstripout.clean '$(VENV)/bin/nbstripout --keep-id --extra-keys "$(RUN_KEYS)"'
	@touch $@

setup-cluster: $(READY)  ## add Ray to the environment, for EXECUTOR=ray
	@$(BIN)python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements-cluster.lock

reproduce: $(READY)  ## execute the unfinished runs of STUDY, then render its report
	@$(LAUNCH) reproduce $(OPTIONS) $(if $(TIME_LIMIT),--time-limit "$(TIME_LIMIT)")

plan: $(READY)  ## list STUDY's runs and estimate their time on this machine
	@$(LAUNCH) plan $(OPTIONS)

report: $(READY)  ## render STUDY's report again
	@$(LAUNCH) report $(OPTIONS)

publish: $(READY)  ## copy STUDY's numbers and figures to results/published/; update README and results pages
	@$(LAUNCH) publish $(OPTIONS)
	@$(BIN)python -m senet_lib.report.results_pages

archive: $(READY)  ## pack STUDY's finished runs into results/archive/; update the results pages
	@$(LAUNCH) archive $(OPTIONS)
	@$(BIN)python -m senet_lib.report.results_pages

restore: $(READY)  ## copy STUDY's published or archived runs to its results; reproduce trains only the rest
	@$(LAUNCH) restore $(OPTIONS)

verify: $(READY)  ## compare every file of STUDY's finished runs with its recorded digest
	@$(LAUNCH) verify $(OPTIONS)

# PYTHON here is the other machine's version, not the interpreter that creates the environment
bundle: THERE := $(if $(filter file,$(origin PYTHON)),,$(PYTHON))
bundle: override PYTHON := python3
bundle: $(READY)  ## write STUDY, its data and the packages of INSTALLED=list that a machine without internet access lacks
	@$(BIN)python -m senet_lib.bundle write "$(STUDY)" $(if $(DATA),--data "$(DATA)") \
		$(if $(LIMIT_EPOCHS),--limit-epochs "$(LIMIT_EPOCHS)") $(if $(THERE),--python "$(THERE)") \
		$(if $(INSTALLED),--installed "$(INSTALLED)") $(if $(PART),--part "$(PART)") $(if $(TO),--to "$(TO)") \
		$(if $(call yes,CHECKPOINTS),--checkpoints)

unpack: $(READY)  ## take the finished runs in FROM=folder, which come from a bundle's run.sh
	@$(BIN)python -m senet_lib.bundle unpack $(if $(FROM),"$(FROM)")

notebooks: $(READY)  ## execute the changed notebooks; keep them with their outputs in results/published/notebooks/
	@$(BIN)python -m senet_lib.report.executed_notebooks

site: $(READY)  ## build the site from the committed results and notebooks, without training: site/index.html
	@$(BIN)python -m senet_lib.report.site

site-check: $(READY)  ## open every page of the site in Chromium (needs `.venv/bin/pip install -e '.[browser]'` and chromium)
	@$(BIN)python tools/check_site.py site

test: $(READY)  ## run the tests
	@$(BIN)python -m pytest --numprocesses auto --dist worksteal

test-slow: $(READY)  ## run the tests that take longest, too (before a release)
	@$(BIN)python -m pytest --numprocesses auto --dist worksteal -m 'slow or not slow'

bench: $(READY)  ## measure speed and the cost of SE and SK (SECTIONS=... selects parts); needs an idle machine
	@$(BIN)python benchmarks/bench.py $(SECTIONS)

soak: $(READY)  ## stress test (kills, interrupts, full disk, parallel starts); needs an idle machine for minutes
	@$(BIN)python benchmarks/soak.py $(SECTIONS)

check: $(READY)  ## check style, and that notebook sources have no outputs
	@$(BIN)ruff check .
	@$(BIN)ruff format --check .
	@$(BIN)nbstripout --verify --keep-id $(NOTEBOOKS)

lab: $(READY)  ## open the notebooks in JupyterLab
	@$(BIN)jupyter lab notebooks $(LAB_OPTIONS)

lock:  ## write the two locks and environment.yml from pyproject.toml (needs uv)
	uv pip compile --quiet --universal --generate-hashes --python-version 3.11 --extra lab --extra docs --extra test \
		--no-header --no-annotate --output-file requirements.lock pyproject.toml
	$(PYTHON) tools/environment_yml.py
	grep -E '^[a-z]' requirements.lock | tr -d '\\' > .constraints
	sed -n 's/^cluster = \["\(.*\)"\]$$/\1/p' pyproject.toml | uv pip compile --quiet --universal --generate-hashes \
		--python-version 3.11 --no-header --no-annotate --constraint .constraints --output-file requirements-cluster.lock -
	rm .constraints

badges: $(READY)  ## write Colab badges and install address for REPO=owner/name into README and notebooks
	@$(BIN)python tools/badges.py "$(REPO)"

clean:  ## remove the environment and caches; keep results and data
	rm -rf $(VENV) .pytest_cache .ruff_cache *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

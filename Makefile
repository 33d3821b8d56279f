# make train   a virtual environment, the requirements, and YOLOv3-tiny with SCALoss on the embedded shapes
# make test    the whole test suite and the linter, in the same environment
# make test-all also the slow tests, and exports of labelling tools, which it installs into an environment of their own
# make torture kills runs and spoils checkpoints at random, for at most two hours; docs/long-runs.md says what came out
# make docs    the site, into runs/site/html; warnings are errors
# make docs-serve    the same, shown at http://localhost:8000
# make studies       the papers' figures and tables that need no training, into runs/studies; docs/studies.md says more
# make studies-quick the same with smaller samples, in minutes

PYTHON ?= python3
VENV ?= .venv
RUN := $(VENV)/bin/python
# Two processes with one thread each take less time than one with two. A file's tests share what they have trained.
# One that crashes ends the tests: put in its place, another waits for ever for the tests of its file.
PYTEST := OMP_NUM_THREADS=1 $(RUN) -m pytest --numprocesses=2 --dist=loadfile --max-worker-restart=0

.PHONY: train test test-all torture lint docs docs-serve studies studies-quick clean

train: $(VENV)/installed
	$(RUN) train.py --loss sca

test: $(VENV)/installed-dev lint
	$(PYTEST) -m "not slow"

test-all: $(VENV)/installed-dev $(VENV)/interop/installed lint
	$(PYTEST)
	$(VENV)/interop/bin/python -m pytest tests/data/formats/test_interop.py

lint: $(VENV)/installed-dev
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

torture: $(VENV)/installed-dev
	OMP_NUM_THREADS=1 $(RUN) -m tests.torture

studies: $(VENV)/installed
	$(RUN) -m studies

studies-quick: $(VENV)/installed
	$(RUN) -m studies --quick

docs: $(VENV)/installed-docs
	$(RUN) -m docs.generate
	$(VENV)/bin/zensical build --strict --config-file runs/site/zensical.toml

docs-serve: docs
	$(RUN) -m http.server --bind localhost --directory runs/site/html 8000

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/installed: requirements.txt | $(VENV)/bin/python
	$(RUN) -m pip install --quiet --disable-pip-version-check -r requirements.txt
	touch $@

$(VENV)/installed-dev: requirements-dev.txt $(VENV)/installed
	$(RUN) -m pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	touch $@

# Not all of requirements.txt, and nothing compiled beforehand: installing is most of the time that make docs takes.
# Of its own: labelling tools ask for other versions of what the project uses.
$(VENV)/interop/installed: requirements-interop.txt | $(VENV)/bin/python
	$(PYTHON) -m venv $(VENV)/interop
	$(VENV)/interop/bin/python -m pip install --quiet --disable-pip-version-check -r requirements-interop.txt
	touch $@

$(VENV)/installed-docs: requirements-docs.txt | $(VENV)/bin/python
	$(RUN) -m pip install --quiet --disable-pip-version-check --no-compile -r requirements-docs.txt
	touch $@

clean:
	rm -rf $(VENV)

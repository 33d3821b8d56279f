# make train   a virtual environment, the requirements, and YOLOv3-tiny with SCALoss on the embedded shapes
# make test    the whole test suite and the linter, in the same environment

PYTHON ?= python3
VENV ?= .venv
RUN := $(VENV)/bin/python

.PHONY: train test test-all lint clean

train: $(VENV)/installed
	$(RUN) train.py --loss sca

test: $(VENV)/installed-dev lint
	$(RUN) -m pytest -m "not slow"

test-all: $(VENV)/installed-dev lint
	$(RUN) -m pytest

lint: $(VENV)/installed-dev
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/installed: requirements.txt | $(VENV)/bin/python
	$(RUN) -m pip install --quiet --disable-pip-version-check -r requirements.txt
	touch $@

$(VENV)/installed-dev: requirements-dev.txt $(VENV)/installed
	$(RUN) -m pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	touch $@

clean:
	rm -rf $(VENV)

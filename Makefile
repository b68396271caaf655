# Everything is installed into .venv from pinned versions; `make demo` and `make test` need nothing but Python 3.11 or newer.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
RUN := .venv/bin/python
# Tests without Ray, a file at a time, in two processes of one thread each; Ray's need the machine to themselves.
TWO := OMP_NUM_THREADS=1 $(RUN) -m pytest -n 2 --dist loadfile

.PHONY: help demo test fast lint reference picture bench engines chaos fuzz precision clean

help:  ## list the targets
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/'

.venv/ready: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed: make PYTHON=/path/to/python3.11"; exit 1; }
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null || { echo "this Python lacks ensurepip: install the package python3-venv (Debian, Ubuntu) and try again"; exit 1; }
	$(PYTHON) -m venv .venv
	.venv/bin/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	@touch $@

demo: .venv/ready  ## draw a dataset, explain it, ask the tables a question, write a report
	$(RUN) -m jobs.demo

test: .venv/ready  ## all tests
	$(TWO) -m 'not ray'
	$(RUN) -m pytest -m ray

fast: .venv/ready  ## the tests without Ray and the slow ones
	$(TWO) -m 'not slow and not ray'

lint: .venv/ready  ## style and types
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy

reference: .venv/ready  ## write the tables of docs/reference anew, from the registries
	$(RUN) -m docs.reference.build

picture: demo  ## the picture of the demo's report in the README; it needs Chromium
	$(RUN) -m docs.picture

bench: .venv/ready  ## cost beside the libraries people loop by hand, of many tasks, of named queries and a report, how near plans come, and how tasks are dealt out
	$(RUN) -m tests.bench.cams
	$(RUN) -m tests.bench.tasks 10000 30000 100000
	$(RUN) -m tests.bench.queries 10000000 1000000
	$(RUN) -m tests.bench.report 10000
	$(RUN) -m tests.bench.plan
	$(RUN) -m tests.bench.placement

engines: .venv/ready  ## every table read by seven engines, Spark among them (it needs Java 17)
	.venv/bin/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev,engines]'
	$(RUN) -m pytest tests/tables/test_engines.py

chaos: .venv/ready  ## fifty jobs through killed actors, nodes and drivers and a store that fails
	$(RUN) -m tests.chaos 50

fuzz: .venv/ready  ## 24,000 damaged tars, images and annotations against the readers
	$(RUN) -m tests.fuzz 24000

precision: .venv/ready  ## what half precision does to the maps: make precision ARGS="--source 'val/*.tar' --weights FILE"
	$(RUN) -m tests.bench.precision $(ARGS)

clean:  ## remove what was made here
	rm -rf .venv out build *.egg-info

# make sweep: install and run the toy study.  make test: install and test.  Needs Python 3.11+, make, a C compiler.
PYTHON ?= python3
VENV := .venv
# Or requirements.gpu.lock, for machines with NVIDIA GPUs; what was chosen once stays chosen.
LOCK ?= $(or $(shell cat $(VENV)/.lock 2>/dev/null),requirements.lock)
INSTALLED = $(VENV)/.installed-$(LOCK)
RUN := HF_HUB_OFFLINE=1 $(VENV)/bin/python

.PHONY: gpu install sweep test chaos soak check docs lock bench clean

sweep: install
	$(RUN) -m emray.sweep

# Two files at a time; the tests of a file share what they start (a Ray, a server, a finished run).
test: install
	$(RUN) -m pytest -n 2 --dist loadfile --no-loadscope-reorder

# Random faults on a tiny study; CHAOS_SEED=N repeats a run, whose seed is printed.
chaos: install
	$(RUN) -m tests.chaos --faults 50

soak: install
	$(RUN) -m pytest -m soak

# On a machine with GPUs: the tests marked so, what training takes in time and memory, and what engines give.
gpu: install
	$(RUN) -m pytest -m gpu
	$(RUN) -m benchmarks.gpu_train
	$(RUN) -m benchmarks.gpu_memory
	$(RUN) -m benchmarks.gpu_generate

check: install
	$(VENV)/bin/ruff check emray tests benchmarks
	$(VENV)/bin/ruff format --check emray tests benchmarks
	$(VENV)/bin/mypy

# Write the reference pages and schemas of docs/ anew from the models they are made of.
docs: install
	$(RUN) -m emray.schema --page > docs/sweep-file.md
	$(RUN) -m emray.schema --questions --page > docs/questions.md
	$(RUN) -m emray.schema > docs/sweep.schema.json
	$(RUN) -m emray.schema --questions > docs/questions.schema.json
	$(RUN) -m emray.reduce.describe > docs/tables.md

# Every benchmark at its small size, in under ten minutes: that it runs to its end, and emray beside its peers in one table.
bench: install
	$(RUN) -m benchmarks --small

install: $(INSTALLED)

# torch first, by itself: pip then settles which build a machine gets, and nothing after it may pull another.
$(INSTALLED): $(LOCK) pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "emray needs Python 3.11 or newer")'
	test -x $(VENV)/bin/python || $(PYTHON) -m venv $(VENV)
	@echo "installing about 2 GB into $(VENV), some minutes without a word; an interrupted install goes on when run again"
	$(VENV)/bin/python -m pip install --quiet torch==2.13.0
	$(VENV)/bin/python -m pip install --quiet --no-deps -r $(LOCK)
	$(VENV)/bin/python -m pip install --quiet --no-deps --editable .
	rm -f $(VENV)/.installed-*
	echo $(LOCK) > $(VENV)/.lock
	touch $@

# Write both locks anew from pyproject.toml (needs uv).
COMPILE := uv pip compile pyproject.toml --extra cluster --python-version 3.11 --universal --no-annotate --no-header
lock:
	$(COMPILE) --extra cpu --extra embed --extra data --extra export --extra smollm --extra dev \
		--override requirements.never --output-file requirements.lock
	$(COMPILE) --extra gpu --output-file requirements.gpu.lock

clean:
	rm -rf $(VENV) build *.egg-info .mypy_cache .ruff_cache .pytest_cache

# make demo       one page in some three minutes on drawn images, then the book with it
# make test       every check: lint, then the tests
# make reproduce  every notebook into book/:  make reproduce PROFILE=cpu|paper [SEED=0] [N_SEEDS=2]
#                 [NAMES=05_grayaug] [WORKERS=2] [SCHEDULER=tcp://HOST:PORT, a Dask cluster]
#                 [KEEP=1, to take recorded numbers as they are and compute what is new]
#                 [MINUTES=15, to compute what fits, most wanted first, and execute no page]
# make arena      the arena of page 15, most wanted first: make arena [MINUTES=60] [N_SEEDS=3]
# make app        protect your own pictures in the browser; nothing leaves this machine
# make lab        JupyterLab on the notebooks
# make book       the committed pages as HTML, with nothing run
# make lint       ruff and mypy
# make lock       write requirements.lock from what .venv has
# make clean      remove what was built, not the store (.ulelib) and not .venv
#
# Each target but lock and clean first makes the Python environment, .venv, if it is missing or older
# than the lock.

PROFILE ?= cpu
SEED ?= 0
N_SEEDS ?=
PYTEST_ARGS ?=
APP_ARGS ?=

# Relative, so that the project may lie in any folder, one with a space in its name too.
STAMP := .venv/.ulelib-installed
RUN := .venv/bin/python

.PHONY: help setup demo test reproduce arena app lab book lint lock clean

help:
	@sed -n '/^# make/s/^# //p' Makefile

setup: $(STAMP)

$(STAMP): requirements.lock pyproject.toml tools/find_python.sh
	@echo "Making the Python environment (.venv); the first time, this downloads PyTorch."
	@python=$$(sh tools/find_python.sh) && "$$python" -m venv .venv
	@$(RUN) -m pip install --quiet --disable-pip-version-check -r requirements.lock
	@$(RUN) -m pip install --quiet --disable-pip-version-check --no-deps -e .
	@touch $(STAMP)

demo: $(STAMP)
	@$(RUN) tools/demo.py

test: lint
	$(RUN) -m pytest -n 2 --dist loadfile --no-loadscope-reorder $(PYTEST_ARGS)

reproduce: $(STAMP)
	$(RUN) tools/run_notebooks.py --profile $(PROFILE) --seed $(SEED) \
	    $(if $(N_SEEDS),--n-seeds $(N_SEEDS)) $(if $(WORKERS),--workers $(WORKERS)) \
	    $(if $(SCHEDULER),--scheduler $(SCHEDULER)) $(if $(filter 1,$(KEEP)),--keep) \
	    $(if $(MINUTES),--minutes $(MINUTES)) $(NAMES)

# Two steps: the page shows what is recorded, also of another day.
arena: $(STAMP)
	$(RUN) tools/run_notebooks.py --profile $(PROFILE) --arena --seed $(SEED) \
	    $(if $(N_SEEDS),--n-seeds $(N_SEEDS)) $(if $(WORKERS),--workers $(WORKERS)) \
	    $(if $(SCHEDULER),--scheduler $(SCHEDULER)) $(if $(MINUTES),--minutes $(MINUTES))
	$(RUN) tools/run_notebooks.py --profile $(PROFILE) --keep --seed $(SEED) \
	    --n-seeds $(or $(N_SEEDS),3) 15_arena

app: $(STAMP)
	$(RUN) tools/app.py $(APP_ARGS)

lab: $(STAMP)
	$(RUN) -m jupyterlab \
	  "--ServerApp.tornado_settings={'websocket_max_message_size': 2147483647}"  # uploads, of 14

book: $(STAMP)
	.venv/bin/jupyter-book build book/

lint: $(STAMP)
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m mypy

lock:
	$(RUN) tools/lock.py

clean:
	rm -rf _build book/_build .pytest_cache .mypy_cache .ruff_cache .hypothesis ulelib.egg-info

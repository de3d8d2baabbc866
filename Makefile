# `make demo` generates an image, `make test` runs the tests, `make full` every test with every library.
# Each sets up its environment.
PYTHON ?= python3
DEMO   := .venv
TEST   := .venv-test
FULL   := .venv-full
# In continuous integration, a test of `make test` that takes long or lacks a library fails.
STRICT := $(if $(CI),--strict-tier)
EXAMPLES := $(if $(CI),HYPOTHESIS_PROFILE=test)

.PHONY: demo test changed map full rest reference slow lint mutation mutation-sample docs browser pages lowest processors audit kills soak clean

demo: $(DEMO)/.ready
	$(DEMO)/bin/ldmref txt2img -p "red heart" --seed 1 -o demo.png --overwrite

# One process per core, with one thread each: threads that wait for each other cost more. `worksteal`
# keeps most modules in one process, which makes their fixtures only once.
# In continuous integration, hypothesis tries 25 examples here and 100 in `make full`.
test: $(TEST)/.ready
	OMP_NUM_THREADS=1 $(EXAMPLES) $(TEST)/bin/python -m pytest -q -n auto --dist worksteal \
		-m "not slow and not full" --durations-file=build/durations/test.json $(STRICT)

# The tests of what was changed since the branch began, or since SINCE: `make changed SINCE=HEAD~3`.
changed: $(TEST)/.ready
	OMP_NUM_THREADS=1 HYPOTHESIS_PROFILE=test $(TEST)/bin/python scripts/guards.py changed \
		$(if $(SINCE),--since $(SINCE)) -n auto --dist worksteal

# Which tests guard each file, in tests/guards.txt: seconds. With MEASURE=1, from a run of the tests.
map: $(TEST)/.ready
	$(if $(MEASURE),$(TEST)/bin/pip install --quiet "coverage>=7")
	OMP_NUM_THREADS=1 HYPOTHESIS_PROFILE=test $(TEST)/bin/python scripts/guards.py make \
		$(if $(MEASURE),--measure)

full: $(FULL)/.ready
	OMP_NUM_THREADS=1 $(FULL)/bin/python -m pytest -q -n auto --dist worksteal \
		--durations-file=build/durations/full.json

# The part of `make full` that `make test` leaves out: after `make test`, it completes `make full`.
rest: $(FULL)/.ready
	OMP_NUM_THREADS=1 $(FULL)/bin/python -m pytest -q -n auto --dist worksteal \
		-m "full and not slow" --durations-file=build/durations/rest.json

slow: $(FULL)/.ready
	$(FULL)/bin/python -m pytest -q -m "slow or not slow"

# The reference alone: its tests in a copy of the package that has no wings.
reference: $(TEST)/.ready
	$(EXAMPLES) $(TEST)/bin/python scripts/check_reference.py

# In the environment of `make full`: pyright needs every library that the package may import.
lint: $(FULL)/.lint
	$(FULL)/bin/ruff check .
	$(FULL)/bin/ruff format --check .
	$(FULL)/bin/pyright

# Mutate formulas and samplers one at a time, in a copy, and run their tests: about an hour.
mutation: $(FULL)/.ready
	$(FULL)/bin/pip install --quiet "mutmut==3.8.1"
	HYPOTHESIS_PROFILE=dev $(FULL)/bin/mutmut run
	$(FULL)/bin/python scripts/mutation_report.py

# The oldest versions of the dependencies that pyproject.toml allows, without torch.
lowest:
	$(PYTHON) -m venv .venv-lowest
	.venv-lowest/bin/pip install --quiet $$($(PYTHON) scripts/lowest_versions.py hub) \
		"pytest>=8" "hypothesis>=6.100" "array-api-strict>=2.3" "mpmath>=1.3"
	PYTHONPATH=. .venv-lowest/bin/python -m pytest -q tests/faults/test_fault_table.py tests/prompts \
		tests/samplers/test_samplers.py tests/modes/test_modes.py

# The numerical tests with the kernels of other processors; PROCESSORS=--all: every test.
processors: $(FULL)/.ready
	$(FULL)/bin/python scripts/other_processors.py $(PROCESSORS)

# Known vulnerabilities of the dependencies; needs the network.
audit: $(FULL)/.ready
	$(FULL)/bin/pip install --quiet pip-audit
	$(FULL)/bin/pip-audit --skip-editable

# The measurements of docs/evidence.md: each takes minutes to half an hour.
kills: $(FULL)/.ready
	$(FULL)/bin/python scripts/kill.py --kills 200

soak: $(FULL)/.ready
	$(FULL)/bin/python scripts/soak.py --images 1000

# The other packages, by sampling: some minutes for the tests of a package, then seconds for each mutant.
PACKAGES ?= samplers modes io models backends
SCRATCH  ?= /tmp/ldmref-mutants
mutation-sample: $(FULL)/.ready
	$(FULL)/bin/pip install --quiet "coverage>=7"
	for package in $(PACKAGES); do \
	  export OMP_NUM_THREADS=1 HYPOTHESIS_PROFILE=dev; \
	  nice -n 19 $(FULL)/bin/python scripts/mutation_sample.py map $(SCRATCH) $$package && \
	  nice -n 19 $(FULL)/bin/python scripts/mutation_sample.py run $(SCRATCH) $$package || exit 1; \
	done

# The site, in build/site; `python3 -m http.server -d build/site` serves it.
docs: $(FULL)/.ready
	$(FULL)/bin/python scripts/build_site.py

# The embedded model for the site's explorer and widgets; needs npm and the network. Before `docs`.
browser: $(FULL)/.ready
	$(FULL)/bin/python scripts/make_browser_model.py -o build/browser

# The tables and plots of docs/math.
pages: $(FULL)/.ready
	$(FULL)/bin/pip install --quiet -e ".[docs]"
	$(FULL)/bin/python scripts/make_math_pages.py --plots

$(DEMO)/.ready: pyproject.toml
	$(PYTHON) -m venv $(DEMO)
	$(DEMO)/bin/pip install --quiet -e .
	touch $@

# 2.13.0 is the version that the tests were last run with; ldmref itself accepts >= 2.6. Python compiles
# what it imports: not to compile all that is installed saves a minute and 200 MB.
$(TEST)/.ready: pyproject.toml
	$(PYTHON) -m venv $(TEST)
	$(TEST)/bin/pip install --quiet --no-compile "torch==2.13.0"
	$(TEST)/bin/pip install --quiet --no-compile -e ".[test]"
	touch $@

$(FULL)/.lint: $(FULL)/.ready
	$(FULL)/bin/pip install --quiet --no-compile -e ".[lint]"
	touch $@

$(FULL)/.ready: pyproject.toml
	$(PYTHON) -m venv $(FULL)
	$(FULL)/bin/pip install --quiet --no-compile "torch==2.13.0"
	$(FULL)/bin/pip install --quiet --no-compile -e ".[full]"
	touch $@

clean:
	rm -rf $(DEMO) $(TEST) $(FULL) .venv-lowest build dist mutants demo.png .pytest_cache .hypothesis .ruff_cache
